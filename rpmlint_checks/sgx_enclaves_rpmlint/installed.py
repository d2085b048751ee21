# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of installed packages, by what they provide; asks the RPM database."""

from __future__ import annotations

import importlib
import re

from sgx_enclaves.errors import InputError
from sgx_enclaves.records import record

_NEVER = re.compile(r"sgx-enclave\([^()]*:(?:signed|unsigned:latest)[:)]")


@record
class InstalledPackage:
    """An installed package: what to call it, and its header as the database has it."""

    name: str
    header: bytes


def installed_packages(provide: str) -> list[InstalledPackage]:
    """All installed packages that provide something and may be references.

    Raises:
        InputError: the database cannot be read.
    """
    # rpmlint needs this module too; it has no types.
    rpm = importlib.import_module("rpm")
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [
        InstalledPackage(f"installed {header[rpm.RPMTAG_NEVRA]}", header.unload())
        for header in headers
        if not any(map(never_a_reference, header[rpm.RPMTAG_PROVIDENAME]))
    ]


def never_a_reference(provide: str) -> bool:
    """Whether a package with this Provides proves nothing, whatever else it provides.

    It was built with the distribution's newest toolchain, or brings the signed
    enclave along: then it would be its own witness.
    """
    return bool(_NEVER.match(provide))
