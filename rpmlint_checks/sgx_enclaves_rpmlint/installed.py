# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of installed packages, by what they provide; asks the RPM database."""

from __future__ import annotations

import importlib

from sgx_enclaves.errors import InputError
from sgx_enclaves.records import record


@record
class InstalledPackage:
    """An installed package: what to call it, and its header as the database has it."""

    name: str
    header: bytes


def installed_packages(provide: str) -> list[InstalledPackage]:
    """All installed packages that provide something.

    Raises:
        InputError: the database cannot be read.
    """
    # rpmlint needs this module too; it has no types.
    rpm = importlib.import_module("rpm")
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [InstalledPackage(f"installed {h[rpm.RPMTAG_NEVRA]}", h.unload()) for h in headers]
