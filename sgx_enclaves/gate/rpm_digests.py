# SPDX-License-Identifier: GPL-2.0-or-later
"""The two digests by which a record knows a package file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from sgx_enclaves.errors import InputError
from sgx_enclaves.packages.limits import DEFAULT_PACKAGE_LIMITS, PackageLimits
from sgx_enclaves.packages.package import Package, open_package

_CHUNK = 1 << 20


@dataclass(frozen=True)
class RpmDigests:
    """SHA-256 of a package, hexadecimal.

    Attributes:
        file: of the whole file.
        content: of all that follows lead and signature header: main header and
            payload. Signing a package changes `file` only.
    """

    file: str
    content: str


def rpm_digests(path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS) -> RpmDigests:
    """The digests of a package file.

    Raises:
        SgxEnclavesError: it cannot be read, or is no whole RPM package.
    """
    with open_package(path, limits) as (package, stream):
        return digests_of(package, stream)


def digests_of(package: Package, stream: BinaryIO) -> RpmDigests:
    """The digests of an open package; `stream` may be anywhere, and is left at the end.

    Raises:
        InputError: reading fails.
    """
    whole, content = hashlib.sha256(), hashlib.sha256()
    try:
        stream.seek(0)
        whole.update(stream.read(package.header.start))
        while chunk := stream.read(_CHUNK):
            whole.update(chunk)
            content.update(chunk)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=package.file) from None
    return RpmDigests(whole.hexdigest(), content.hexdigest())
