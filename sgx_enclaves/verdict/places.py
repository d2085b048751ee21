# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a byte of our enclave file belongs: segment, section, symbol, measured or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.format.elf import (
    SHF_ALLOC,
    EnclaveImage,
    Section,
    SectionHeader,
    Segment,
    Symbol,
)
from sgx_enclaves.format.elf import ElfHeader as Header
from sgx_enclaves.format.structure import Structure
from sgx_enclaves.verdict.bytemap import Range, outside
from sgx_enclaves.verdict.diffs import differ

SHF_EXECINSTR = 0x4


class Places:
    """Looks up file offsets of an enclave.

    Args:
        image: the enclave.
        patched: file ranges that the loader overwrites before it measures; None
            assumes what every SDK's tool blanks: g_global_data and the header
            fields that name the section headers.
    """

    def __init__(self, image: EnclaveImage, patched: Optional[Iterable[Range]] = None) -> None:
        self.image = image
        holes = list(patched) if patched is not None else _usual_patches(image)
        loaded = [(s.p_offset, s.p_offset + s.p_filesz) for s in image.load_segments]
        self._measured = outside(sorted(loaded), sorted(holes))
        self._symbols: Optional[list[tuple[int, int, str]]] = None

    def segment(self, offset: int) -> Optional[int]:
        """Index among the PT_LOAD segments of the one that maps a file offset."""
        for index, segment in enumerate(self.image.load_segments):
            if segment.p_offset <= offset < segment.p_offset + segment.p_filesz:
                return index
        return None

    def section_of(self, offset: int) -> Optional[Section]:
        """The smallest section that holds a file offset."""
        holders = [s for s in self.image.sections if _holds(s.file_range, offset)]
        return min(holders, key=lambda s: s.header.sh_size, default=None)

    def section(self, offset: int) -> Optional[str]:
        """Its name."""
        section = self.section_of(offset)
        return None if section is None else section.name

    def is_code(self, offset: int) -> bool:
        """Whether the byte is in a section of instructions."""
        section = self.section_of(offset)
        return section is not None and bool(section.header.sh_flags & SHF_EXECINSTR)

    def symbol(self, offset: int) -> Optional[str]:
        """The innermost symbol there, or the nearest one before it as `name+0xoff`."""
        section = self.section_of(offset)
        if section is None or not section.header.sh_flags & SHF_ALLOC:
            return None
        address = section.header.sh_addr + (offset - section.header.sh_offset)
        inside = [s for s in self._table() if s[0] <= address < s[0] + s[1]]
        if inside:
            return min(inside, key=lambda s: s[1])[2]
        before = [s for s in self._table() if section.header.sh_addr <= s[0] <= address]
        if not before:
            return None
        start, _, name = max(before)
        return f"{name}+0x{address - start:x}" if address > start else name

    def header_field(self, offset: int) -> Optional[str]:
        """The field of an ELF header, program header or section header at a file offset."""
        header = self.image.header
        tables: tuple[tuple[str, type[Structure], int, int], ...] = (
            ("ELF header", Header, 0, 1),
            ("program header", Segment, header.e_phoff, len(self.image.segments)),
            ("section header", SectionHeader, header.e_shoff, len(self.image.sections)),
        )
        for name, kind, start, count in tables:
            if start <= offset < start + count * kind.SIZE:
                index, rest = divmod(offset - start, kind.SIZE)
                number = f" {index}" if kind is not Header else ""
                return f"{name}{number}.{kind.field_at(rest).name}"
        return None

    def measures(self, start: int, end: int) -> bool:
        """Whether MRENCLAVE covers any byte from `start` to `end` of the file."""
        return any(s < end and start < e for s, e in self._measured)

    def measured_difference(self, other: bytes, start: int, end: int) -> bool:
        """Whether MRENCLAVE covers any byte there that is another one in `other`."""
        return any(
            differ(self.image.data, other, max(s, start), min(e, end))
            for s, e in self._measured
            if s < end and start < e
        )

    def _table(self) -> list[tuple[int, int, str]]:
        if self._symbols is None:
            self._symbols = [
                (s.st_value, s.st_size, name) for name, s in self.image.all_symbols if _is_place(s)
            ]
        return self._symbols


def _is_place(symbol: Symbol) -> bool:
    """Defined, and neither absolute nor a section's or file's name."""
    return 0 < symbol.st_shndx < 0xFF00 and symbol.st_info & 0xF in (0, 1, 2)


def _holds(bounds: Range, offset: int) -> bool:
    return bounds[0] <= offset < bounds[1]


def _usual_patches(image: EnclaveImage) -> list[Range]:
    holes = [Header.range_of(name) for name in ("e_shoff", "e_shnum", "e_shstrndx")]
    try:
        symbol = image.dynamic_symbols.get("g_global_data")
    except SgxEnclavesError:
        symbol = None
    start = image.file_offset(symbol.st_value) if symbol is not None else None
    if symbol is not None and start is not None:
        holes.append((start, start + symbol.st_size))
    return holes
