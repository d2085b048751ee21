# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of installed packages, by what they provide; asks the RPM database."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from sgx_enclaves.errors import InputError, UnsupportedError

# OpenPGP's numbers, as RPM uses them for file digests; older ones prove nothing.
_ALGORITHMS = {8: "sha256", 9: "sha384", 10: "sha512"}


@dataclass(frozen=True)
class InstalledFile:
    """A file of an installed package: its path, digest (hexadecimal) and hash."""

    path: str
    digest: str
    algorithm: str


def installed_files(provide: str) -> list[InstalledFile]:
    """The files with content of all installed packages that provide something.

    Raises:
        InputError: the database cannot be read.
        UnsupportedError: digests of a hash that proves nothing.
    """
    # rpmlint needs this module too; it has no types.
    rpm = importlib.import_module("rpm")
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    found = []
    for header in headers:
        number = header[rpm.RPMTAG_FILEDIGESTALGO]
        if number not in _ALGORITHMS:
            raise UnsupportedError(
                f"the file digests of {header[rpm.RPMTAG_NAME]}, which is installed, prove nothing",
                expected="SHA-256 or longer",
                found=f"algorithm {number}",
            )
        pairs = zip(header[rpm.RPMTAG_FILENAMES], header[rpm.RPMTAG_FILEDIGESTS])
        found += [InstalledFile(path, d, _ALGORITHMS[number]) for path, d in pairs if d]
    return found
