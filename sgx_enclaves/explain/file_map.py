# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a byte of our enclave file belongs: segment, section, symbol, measured or not.

Where two files differ: only the first ranges are kept, the rest are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_NOTE,
    ElfHeader,
    Section,
    SectionHeader,
    Segment,
)
from sgx_enclaves.enclave.verdict import GAP, Range, changes, differing_ranges, outside
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.explain.description import Description
from sgx_enclaves.plain import record

# Bytes of code, of code that is searched for patterns, and of strings that are looked at.
_CODE_LIMIT = 1 << 20
_PATTERN_LIMIT = 8 << 20
_STRINGS_LIMIT = 4 << 20
_STRING = re.compile(rb"(?:\A|(?<=\0))[\x20-\x7e]{6,256}(?=\0)")
# Their strings say nothing of the sources, or are looked at on their own.
_NO_STRINGS = (".interp", ".dynstr", ".dynsym", ".gnu.hash", ".hash", ".dynamic")

# lfence; the endless loop of a return trampoline; endbr64.
_LFENCE = bytes.fromhex("0faee8")
_THUNK = bytes.fromhex("f3900faee8ebf9")
_ENDBR64 = bytes.fromhex("f30f1efa")


def place_of(section: Section) -> tuple[str, int, int]:
    """What is equal where two builds have the same section at the same place."""
    return section.name, section.header.sh_addr, section.header.sh_size


@record
class Side:
    """One of two files: what lies where in it, and the traces that follow from its description.

    `patched` are ranges of the file that the loader patches before it measures. Where they are not
    known, they are what every SDK's tool blanks: g_global_data and the header fields that name the
    section headers.
    """

    image: EnclaveImage
    description: Description
    patched: Optional[Sequence[Range]] = None

    @cached_property
    def _measured(self) -> list[Range]:
        holes = self.patched
        if holes is None:
            start, size = self.global_data or (0, 0)
            fields = map(ElfHeader.range_of, ("e_shoff", "e_shnum", "e_shstrndx"))
            holes = [*fields, (start, start + size)]
        loaded = [segment.file_range for segment in self.image.load_segments]
        return outside(sorted(loaded), sorted(holes))

    def segment(self, offset: int) -> Optional[int]:
        """Index among the PT_LOAD segments of the one that maps a file offset."""
        ranges = enumerate(s.file_range for s in self.image.load_segments)
        return next((index for index, (start, end) in ranges if start <= offset < end), None)

    def section_of(self, offset: int) -> Optional[Section]:
        """The smallest section that holds a file offset."""
        ranges = ((s, s.file_range) for s in self.image.sections)
        holders = [section for section, (start, end) in ranges if start <= offset < end]
        return min(holders, key=lambda s: s.header.sh_size, default=None)

    def section(self, offset: int) -> Optional[str]:
        """Its name."""
        section = self.section_of(offset)
        return None if section is None else section.name

    def symbol(self, offset: int) -> Optional[str]:
        """The innermost symbol there, or the nearest before it as `name+0xoff`; its source line."""
        name, address = self._symbol(offset), self.image.address_of(offset)
        line = self.description.lines.get(address) if address is not None else None
        return name if line is None else f"{name or '?'} ({line})"

    def _symbol(self, offset: int) -> Optional[str]:
        section = self.section_of(offset)
        if section is None or not section.header.sh_flags & SHF_ALLOC:
            return None
        start = section.header.sh_addr
        address = start + (offset - section.header.sh_offset)
        symbols = self.description.symbols
        inside = [(size, name) for name, start, size in symbols if start <= address < start + size]
        if inside:
            return min(inside)[1]
        before = [(at, name) for name, at, _ in symbols if start <= at <= address]
        if not before:
            return None
        at, name = max(before)
        return f"{name}+0x{address - at:x}" if address > at else name

    def header_field(self, offset: int) -> Optional[str]:
        """The field of an ELF header, program header or section header at a file offset."""
        header = self.image.header
        for name, kind, start, count in (
            ("ELF header", ElfHeader, 0, 1),
            ("program header", Segment, header.e_phoff, len(self.image.segments)),
            ("section header", SectionHeader, header.e_shoff, len(self.image.sections)),
        ):
            if start <= offset < start + count * kind.SIZE:
                index, rest = divmod(offset - start, kind.SIZE)
                number = f" {index}" if kind is not ElfHeader else ""
                return f"{name}{number}.{kind.field_at(rest).name}"
        return None

    def measures(self, start: int, end: int) -> bool:
        """Whether MRENCLAVE covers any byte from `start` to `end` of the file."""
        return any(s < end and start < e for s, e in self._measured)

    def measured_difference(self, other: bytes, start: int, end: int) -> bool:
        """Whether MRENCLAVE covers any byte there that is another one in `other`."""
        return any(
            any(changes(self.image.data, other, max(s, start), min(e, end)))
            for s, e in self._measured
        )

    @cached_property
    def global_data(self) -> Optional[tuple[int, int]]:
        """File offset and bytes of g_global_data."""
        try:
            offset, size = self.image.global_data
        except SgxEnclavesError:
            return None
        return None if offset is None else (offset, size)

    @property
    def sdk_word(self) -> Optional[int]:
        """Its first 8 bytes: the SDK's version word since 2.9.1."""
        return None if self.global_data is None else self.image.sdk_word

    @cached_property
    def loaded(self) -> tuple[Section, ...]:
        """The sections that are loaded, by address."""
        loaded = (s for s in self.image.sections if s.header.sh_flags & SHF_ALLOC)
        return tuple(sorted(loaded, key=lambda s: s.header.sh_addr))

    @property
    def instructions(self) -> tuple[Section, ...]:
        """Those of them that are code."""
        return tuple(s for s in self.loaded if s.header.sh_flags & SHF_EXECINSTR)

    @cached_property
    def code(self) -> bytes:
        """The first bytes of its instructions."""
        return b"".join(self._contents(self.instructions, _CODE_LIMIT))

    def bytes_at(self, address: int, size: int) -> bytes:
        """What the file has of these addresses."""
        start = self.image.file_offset(address) or 0
        return self.image.data[start : start + size]

    @cached_property
    def mitigations(self) -> Mapping[str, int]:
        """How many instructions there are of each kind that a mitigation makes."""
        code = tuple(self._contents(self.instructions, _PATTERN_LIMIT))
        patterns = (_LFENCE, _THUNK, _ENDBR64)
        fences, thunks, branches = (sum(part.count(p) for part in code) for p in patterns)
        return {
            # Each trampoline holds one lfence.
            "lfence instructions (load value injection)": fences - thunks,
            "return trampolines (retpolines)": thunks,
            "endbr64 instructions (CET)": branches,
        }

    @cached_property
    def strings(self) -> frozenset[str]:
        """The constant strings that the enclave loads, each from one NUL to the next."""
        return frozenset(
            match.group().decode("ascii")
            for part in self._constants
            for match in _STRING.finditer(part)
        )

    def holds(self, string: str) -> bool:
        """Whether the enclave loads the string, whatever stands before it."""
        return any(string.encode("ascii") + b"\0" in part for part in self._constants)

    @cached_property
    def _constants(self) -> tuple[bytes, ...]:
        sections = [
            s
            for s in self.loaded
            if not s.header.sh_flags & SHF_EXECINSTR
            and s.header.sh_type != SHT_NOTE
            and s.name not in _NO_STRINGS
        ]
        return tuple(self._contents(sections, _STRINGS_LIMIT))

    @cached_property
    def section_names(self) -> bytes:
        """The table of section names."""
        section = self.image.section(".shstrtab")
        return b"".join(self._contents([section] if section else [], _STRINGS_LIMIT))

    def _contents(self, sections: Iterable[Section], limit: int) -> Iterator[bytes]:
        """The bytes of sections, up to a limit for all together."""
        for start, end in (section.file_range for section in sections):
            part = self.image.data[start : min(end, start + limit)]
            limit -= len(part)
            yield part


_QUIET = bytes(GAP)
_MARKS = bytes([0] + [1] * 255)


@record
class Scan:
    """The first differing ranges, how many more there are, and how many bytes differ in all."""

    ranges: tuple[Range, ...]
    omitted: int
    differing_bytes: int


def scan(left: bytes, right: bytes, areas: Sequence[Range], most: int) -> Scan:
    """Find the differing ranges in areas of both; those less than `GAP` bytes apart are one."""
    ranges = tuple(islice(differing_ranges(left, right, areas, GAP), most))
    count = differing = 0
    for start, end in areas:
        position, before = start, _QUIET
        for base, mixed in changes(left, right, start, end):
            before = before if base == position else _QUIET
            # A range starts behind so many equal bytes: counted, for there may be millions.
            count += (before + mixed).translate(_MARKS).count(_QUIET + b"\1")
            differing += len(mixed) - mixed.count(0)
            position, before = base + len(mixed), mixed[-GAP:].rjust(GAP, b"\0")
    return Scan(ranges, count - len(ranges), differing)
