# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory and time a file may cost, whatever it claims about itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sgx_enclaves.errors import LimitError
from sgx_enclaves.plain import record

MIB = 1 << 20


@record
class Limits:
    """Upper bounds; what goes beyond raises `LimitError`.

    Attributes:
        file_size: bytes of an enclave file. Intel's largest is below 8 MiB.
        program_headers: entries of an ELF program header table.
        section_headers: entries of an ELF section header table.
        descriptor_size: bytes of a metadata area. The SDK's largest is 0x6000.
        metadata_blocks: blocks in one descriptor. The SDK writes at most 3.
        layout_entries: layout entries of a block that are added, thread groups unrolled.
        hashed_bytes: what a measurement may hash: 64 bytes for each page that is added, and
            5120 more for each that is measured. A heap of 512 GiB takes 8 GiB.
        config_size: bytes of a config.xml.
    """

    file_size: int = 256 * MIB
    program_headers: int = 256
    section_headers: int = 4096
    descriptor_size: int = 1 << 16
    metadata_blocks: int = 8
    layout_entries: int = 1 << 19
    hashed_bytes: int = 1 << 34
    config_size: int = MIB


def at_most(most: int, found: int, message: str, unit: str = "", **where: Any) -> None:
    """Refuse what is more than it may be, by a LimitError with both numbers and their unit."""
    if found > most:
        expected, there = (f"{number} {unit}".rstrip() for number in (most, found))
        raise LimitError(message, expected=f"at most {expected}", found=there, **where)


DEFAULT_LIMITS = Limits()
NO_LIMITS = replace(DEFAULT_LIMITS, layout_entries=1 << 62, hashed_bytes=1 << 62)


def measuring_limits(file_size: int, blocks: int = 1) -> Limits:
    """For measuring a file as its own metadata blocks say, which may ask for years.

    Intel's enclaves hash less than twice their size, those with large stacks some hundred MiB;
    1 GiB takes about a second.
    """
    share = max(1, blocks)
    budget = ((1 << 30) + 64 * file_size) // share
    entries = DEFAULT_LIMITS.layout_entries // share
    return replace(DEFAULT_LIMITS, layout_entries=entries, hashed_bytes=budget)


@record
class ArchiveLimits:
    """How much an archive may cost; what goes beyond raises `LimitError`.

    Attributes:
        archive_size: bytes of the packed file.
        members: entries, of any kind, with the directories that names imply.
        member_size: bytes of one unpacked member.
        total_size: bytes of the whole unpacked stream.
        ratio: unpacked bytes per packed byte.
        ratio_grace: unpacked bytes that are free of that: a small archive of zeros is harmless.
        name_bytes: bytes of a member's name or link target.
        depth: components of a member's name.
        kept_bytes: bytes of members that are held in memory at once.
    """

    archive_size: int = 1024 * MIB
    members: int = 100_000
    member_size: int = 512 * MIB
    total_size: int = 4096 * MIB
    ratio: int = 100
    ratio_grace: int = 16 * MIB
    name_bytes: int = 1024
    depth: int = 64
    kept_bytes: int = 512 * MIB


DEFAULT_ARCHIVE_LIMITS = ArchiveLimits()


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
        reference: bytes of all enclaves of a package that serves as a reference.
        payload: the compressed payload; see `ArchiveLimits`.
        enclave: enclave files and config.xml files.
    """

    header_entries: int = 1 << 16
    header_size: int = 64 * MIB
    items: int = 500_000
    path_size: int = 4096
    paths_size: int = 128 * MIB
    enclaves: int = 64
    reference: int = 256 * MIB
    payload: ArchiveLimits = ArchiveLimits(archive_size=4096 * MIB, ratio=200, ratio_grace=64 * MIB)
    enclave: Limits = DEFAULT_LIMITS


DEFAULT_PACKAGE_LIMITS = PackageLimits()
