# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory and time a package may cost, whatever it claims about itself."""

from __future__ import annotations

from dataclasses import field

from sgx_enclaves.decompress import ArchiveLimits
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB, Limits
from sgx_enclaves.records import record


@record
class PackageLimits:
    """Upper bounds; what goes beyond raises `LimitError`.

    Attributes:
        header_entries: tags of one header.
        header_size: bytes of one header's data; kernels and TeX come near 20 MiB.
        items: items of one tag that is read, and so files of a package.
        path_size: bytes of a path.
        paths_size: bytes of all paths of a package together.
        enclaves: enclaves of a package; each costs a comparison. Fedora ships one a package.
        payload: the compressed payload; see `ArchiveLimits`.
        enclave: enclave files and config.xml files.
    """

    header_entries: int = 1 << 16
    header_size: int = 64 * MIB
    items: int = 500_000
    path_size: int = 4096
    paths_size: int = 128 * MIB
    enclaves: int = 64
    payload: ArchiveLimits = field(
        default=ArchiveLimits(archive_size=4096 * MIB, ratio=200, ratio_grace=64 * MIB)
    )
    enclave: Limits = DEFAULT_LIMITS


DEFAULT_PACKAGE_LIMITS = PackageLimits()
