# SPDX-License-Identifier: GPL-2.0-or-later
"""An SGX enclave file as an ELF64 x86-64 image.

`EnclaveImage.parse` checks every offset once, at the edge; what it returns can
be trusted inside. It reads headers itself because an enclave's note is not
padded as the ELF specification asks (general ELF libraries give its descriptor
three bytes late) and because symbols and relocations must be found the way
Intel's loader finds them: through the first section at the address that the
dynamic table names (SDK psw/urts/parser/elfparser.cpp).
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.enclave.elf_headers import (
    METADATA_SECTION,
    PAGE_SIZE,
    PT_DYNAMIC,
    PT_LOAD,
    PT_TLS,
    SHT_NOBITS,
    U64_MAX,
    ElfHeader,
    Section,
    SectionHeader,
    Segment,
    Symbol,
    name_at,
    page_ceil,
    parse_header,
    parse_sections,
    parse_segments,
)
from sgx_enclaves.errors import FormatError, LimitError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record

DT_PLTRELSZ = 2
DT_STRTAB = 5
DT_SYMTAB = 6
DT_RELA = 7
DT_RELASZ = 8
DT_REL = 17
DT_TEXTREL = 22
DT_JMPREL = 23

_WANTED_TAGS = frozenset(
    {DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_REL, DT_TEXTREL, DT_JMPREL}
)

R_X86_64_NONE = 0

# Compilers' own limits are lower; longer names only serve to exhaust memory.
_LONGEST_SYMBOL = 1 << 14

METADATA_NOTE_NAME = b"sgx_metadata\0"
_NOTE_HEADER_SIZE = 12


@record
class EnclaveImage:
    """An enclave file, parsed and checked.

    Attributes:
        name: what to call the file in messages.
        data: the whole file.
        header: its ELF header.
        segments: all program headers, in order.
        sections: all section headers, in order, with names.
        descriptor_offset: file offset of the metadata area.
        descriptor_size: its size in bytes (the SDK's METADATA_SIZE).
        note_type: the `type` of the note; nothing binds it.
    """

    name: str
    data: bytes
    header: ElfHeader
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    descriptor_offset: int
    descriptor_size: int
    note_type: int

    @classmethod
    def parse(
        cls, data: bytes, name: str = "enclave", limits: Limits = DEFAULT_LIMITS
    ) -> EnclaveImage:
        """Parse `data` as an SGX enclave.

        Raises:
            FormatError: not an ELF64 x86-64 shared object with `.note.sgxmeta`,
                or one whose offsets contradict each other or the file's size.
            LimitError: the file or a table in it is larger than `limits`.
        """
        if len(data) > limits.file_size:
            raise LimitError(
                "the file is too large for an enclave",
                file=name,
                expected=f"at most {limits.file_size} bytes",
                found=f"{len(data)} bytes",
            )
        header = parse_header(data, name)
        segments = parse_segments(data, name, header, limits)
        sections = parse_sections(data, name, header, limits)
        offset, size, note_type = _find_descriptor(data, name, header, segments, sections, limits)
        return cls(name, data, header, segments, sections, offset, size, note_type)

    @property
    def descriptor(self) -> bytes:
        """The bytes of the metadata area."""
        return self.data[self.descriptor_offset : self.descriptor_end]

    @property
    def descriptor_end(self) -> int:
        """File offset just behind the metadata area."""
        return self.descriptor_offset + self.descriptor_size

    @functools.cached_property
    def load_segments(self) -> tuple[Segment, ...]:
        """The PT_LOAD segments in program-header order."""
        return tuple(s for s in self.segments if s.p_type == PT_LOAD)

    @functools.cached_property
    def tls_segment(self) -> Optional[Segment]:
        """The last PT_TLS segment, as Intel's parser takes it."""
        found = None
        for segment in self.segments:
            if segment.p_type == PT_TLS:
                found = segment
        return found

    @property
    def tls_size(self) -> int:
        """Bytes of a thread's TLS block, rounded up to its alignment."""
        segment = self.tls_segment
        if segment is None:
            return 0
        align = segment.p_align
        if align <= 1:
            return segment.p_memsz
        return (segment.p_memsz + align - 1) & ~(align - 1) & U64_MAX

    @property
    def image_size(self) -> int:
        """Bytes from the enclave's base to the end of its highest segment, in whole pages."""
        top = max(self.load_segments, key=lambda s: s.p_vaddr)
        return page_ceil(top.p_vaddr + top.p_memsz)

    @functools.cached_property
    def dynamic(self) -> dict[int, int]:
        """Tags of the dynamic table that matter here, to their last values."""
        for segment in self.segments:
            if segment.p_type == PT_DYNAMIC:
                return _parse_dynamic(self.data, segment)
        return {}

    @functools.cached_property
    def named_symbols(self) -> tuple[tuple[str, Symbol], ...]:
        """The named symbols of `.dynsym`, in its order.

        Raises:
            FormatError: the tables are missing or do not fit the file.
        """
        table = self._section_at(self.dynamic.get(DT_SYMTAB, 0), "dynamic symbol table")
        strings = self._section_at(self.dynamic.get(DT_STRTAB, 0), "dynamic string table")
        return tuple(self._symbols(table, strings))

    @functools.cached_property
    def dynamic_symbols(self) -> dict[str, Symbol]:
        """Those that are defined, by name; the last of a name wins.

        Raises:
            FormatError: see `named_symbols`.
        """
        return {name: symbol for name, symbol in self.named_symbols if symbol.st_shndx != 0}

    def section(self, name: str) -> Optional[Section]:
        """The first section called `name`."""
        return next((s for s in self.sections if s.name == name), None)

    def symbol_address(self, name: str) -> int:
        """Virtual address of a dynamic symbol; `enclave_entry` falls back to e_entry.

        Raises:
            FormatError: there is no such symbol, or it is at address 0.
        """
        symbol = self.dynamic_symbols.get(name)
        address = symbol.st_value if symbol is not None else 0
        if symbol is None and name == "enclave_entry":
            address = self.header.e_entry
        if address == 0:
            raise FormatError(
                f"the symbol {name} is missing from the dynamic symbol table",
                file=self.name,
                hint="an SDK enclave exports it; was the file stripped too far?",
            )
        return address

    @property
    def global_data(self) -> tuple[Optional[int], int]:
        """File offset of g_global_data, None for zero fill, and its bytes.

        Raises:
            FormatError: there is no such symbol.
        """
        address = self.symbol_address("g_global_data")
        return self.file_offset(address), self.dynamic_symbols["g_global_data"].st_size

    def file_offset(self, address: int) -> Optional[int]:
        """Where the byte at a virtual address stands in the file; None for zero fill."""
        for segment in self.load_segments:
            if segment.p_vaddr <= address < segment.p_vaddr + segment.p_filesz:
                return segment.p_offset + (address - segment.p_vaddr)
        return None

    def address_of(self, offset: int) -> Optional[int]:
        """Virtual address of a file offset; None where no PT_LOAD segment maps it."""
        for segment in self.load_segments:
            if segment.p_offset <= offset < segment.p_offset + segment.p_filesz:
                return segment.p_vaddr + (offset - segment.p_offset)
        return None

    def relocations(self) -> Iterator[tuple[int, int]]:
        """Address and type of each relocation that the loader does.

        Raises:
            FormatError: a relocation table does not fit the file.
        """
        for table_tag, size_tag in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if table_tag not in self.dynamic:
                continue
            start = self._section_at(self.dynamic[table_tag], "relocation table").header.sh_offset
            size = self.dynamic.get(size_tag, 0)
            if start + size > len(self.data):
                raise FormatError(
                    "a relocation table leaves the file", file=self.name, offset=start
                )
            entries = struct.iter_unpack("<QQq", self.data[start : start + size // 24 * 24])
            yield from ((r_offset, r_info & 0xFFFF_FFFF) for r_offset, r_info, _ in entries)

    @functools.cached_property
    def relocated_pages(self) -> frozenset[int]:
        """Page numbers that text relocations make writable; empty without DT_TEXTREL.

        Source: psw/urts/parser/elfparser.cpp, get_reloc_bitmap.

        Raises:
            FormatError: a relocation table does not fit, or leaves the image.
        """
        if DT_TEXTREL not in self.dynamic:
            return frozenset()
        pages = set()
        end = self.image_size
        for address, kind in self.relocations():
            if kind == R_X86_64_NONE:
                continue
            if address >= end:
                raise FormatError(
                    "a relocation leaves the enclave",
                    file=self.name,
                    found=f"address 0x{address:x}",
                )
            pages.add(address // PAGE_SIZE)
            # An 8-byte relocation may reach into the next page.
            if address % PAGE_SIZE > PAGE_SIZE - 8:
                pages.add(address // PAGE_SIZE + 1)
        return frozenset(pages)

    def _section_at(self, address: int, what: str) -> Section:
        for section in self.sections:
            if section.header.sh_addr == address and address:
                offset = section.header.sh_offset
                if self.address_of(offset) != address:
                    raise FormatError(
                        f"section and segment disagree on where the {what} is",
                        file=self.name,
                        offset=offset,
                        expected=f"address 0x{address:x}",
                    )
                return section
        raise FormatError(f"no section holds the {what}", file=self.name)

    def _symbols(self, table: Section, strings: Section) -> Iterator[tuple[str, Symbol]]:
        start, end = table.file_range
        names_start, names_end = strings.file_range
        if end > len(self.data) or names_end > len(self.data):
            raise FormatError("a symbol table leaves the file", file=self.name, offset=start)
        if table.header.sh_entsize != Symbol.SIZE:
            raise FormatError(
                "a symbol table with an unknown entry size",
                file=self.name,
                offset=start,
                expected=str(Symbol.SIZE),
                found=str(table.header.sh_entsize),
            )
        # Names may share bytes, so that few bytes can spell very many.
        budget = 2 * len(self.data)
        whole = start + (end - start) // Symbol.SIZE * Symbol.SIZE
        # The first entry is reserved.
        for values in Symbol.codec().iter_unpack(self.data[start + Symbol.SIZE : whole]):
            if values[0] == 0:
                continue
            name = name_at(self.data, names_start + values[0], names_end, _LONGEST_SYMBOL)
            if name is None:
                raise FormatError(
                    "a symbol's name leaves the string table", file=self.name, offset=start
                )
            budget -= len(name)
            if budget < 0:
                raise LimitError("too many symbol names", file=self.name, offset=start)
            yield name.decode("utf-8", "replace"), Symbol(*values)


def _find_descriptor(
    data: bytes,
    name: str,
    header: ElfHeader,
    segments: tuple[Segment, ...],
    sections: tuple[Section, ...],
    limits: Limits,
) -> tuple[int, int, int]:
    """Offset and size of the descriptor in `.note.sgxmeta`, and the note's type."""
    found = [s for s in sections if s.name == METADATA_SECTION]
    if len(found) != 1:
        raise FormatError(
            f"{'no' if not found else 'more than one'} section {METADATA_SECTION}",
            file=name,
            expected="exactly one",
            found=str(len(found)),
            hint="only enclaves of the Intel SGX SDK can be read",
        )
    section = found[0].header
    start = section.sh_offset
    if section.sh_type == SHT_NOBITS or start + section.sh_size > len(data):
        raise FormatError(f"{METADATA_SECTION} leaves the file", file=name, offset=start)
    if section.sh_size < _NOTE_HEADER_SIZE + len(METADATA_NOTE_NAME):
        raise FormatError(f"{METADATA_SECTION} is too small for its note", file=name, offset=start)
    namesz, descsz, note_type = struct.unpack_from("<III", data, start)
    note_name = data[
        start + _NOTE_HEADER_SIZE : start + _NOTE_HEADER_SIZE + len(METADATA_NOTE_NAME)
    ]
    if namesz != len(METADATA_NOTE_NAME) or note_name != METADATA_NOTE_NAME:
        raise FormatError(
            f"the note in {METADATA_SECTION} has another name",
            file=name,
            offset=start,
            expected="sgx_metadata",
            found=note_name.rstrip(b"\0").decode("ascii", "replace"),
        )
    if descsz > limits.descriptor_size:
        raise LimitError(
            "the metadata area is too large",
            file=name,
            offset=start,
            expected=f"at most {limits.descriptor_size} bytes",
            found=f"{descsz} bytes",
        )
    offset = start + _NOTE_HEADER_SIZE + namesz
    align = max(1, section.sh_addralign)
    size = _NOTE_HEADER_SIZE + namesz + descsz
    rounded = -(-size // align) * align
    if section.sh_size != rounded or descsz == 0:
        why = f" ({size} rounded up to the section's alignment of {align})"
        raise FormatError(
            f"{METADATA_SECTION} and its note disagree on their size",
            file=name,
            offset=start,
            expected=f"{rounded} bytes{why if rounded != size else ''}",
            found=f"{section.sh_size} bytes",
        )
    _check_descriptor_is_apart(name, offset, offset + descsz, header, segments, sections)
    return offset, descsz, note_type


def _check_descriptor_is_apart(
    name: str,
    start: int,
    end: int,
    header: ElfHeader,
    segments: tuple[Segment, ...],
    sections: tuple[Section, ...],
) -> None:
    """Refuse a descriptor that is also something else.

    The signer may write the descriptor freely. Were it part of a loaded
    segment, a header or another section, it would not be a mere signature.
    """
    taken = [(0, ElfHeader.SIZE, "the ELF header")]
    taken.append(
        (header.e_phoff, header.e_phoff + len(segments) * Segment.SIZE, "the program headers")
    )
    taken.append(
        (header.e_shoff, header.e_shoff + len(sections) * SectionHeader.SIZE, "the section headers")
    )
    taken += [(s.p_offset, s.p_offset + s.p_filesz, "a segment") for s in segments]
    taken += [(*s.file_range, f"section {s.name}") for s in sections if s.name != METADATA_SECTION]
    for other_start, other_end, what in taken:
        if start < other_end and other_start < end and other_start < other_end:
            raise FormatError(f"the metadata area overlaps {what}", file=name, offset=start)


def _parse_dynamic(data: bytes, segment: Segment) -> dict[int, int]:
    tags: dict[int, int] = {}
    end = segment.p_offset + segment.p_filesz
    for tag, value in struct.iter_unpack(
        "<qQ", data[segment.p_offset : segment.p_offset + (end - segment.p_offset) // 16 * 16]
    ):
        if tag == 0:
            break
        if tag in _WANTED_TAGS:
            tags[tag] = value
    return tags
