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
from typing import ClassVar, Optional

from sgx_enclaves.enclave.sigstruct import SECINFO_R, SECINFO_REG, SECINFO_W, SECINFO_X
from sgx_enclaves.errors import FormatError, LimitError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure, raw, uint

PAGE_SIZE = 0x1000

PT_LOAD = 1
PT_DYNAMIC = 2
PT_TLS = 7
SHT_NOBITS = 8
SHF_EXECINSTR = 0x4

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
_LONGEST_SECTION = 255

ELF_MAGIC = b"\x7fELF"
RPM_MAGIC = bytes.fromhex("edabeedb")
METADATA_SECTION = ".note.sgxmeta"
METADATA_NOTE_NAME = b"sgx_metadata\0"
_NOTE_HEADER_SIZE = 12

_U64_MAX = (1 << 64) - 1


def page_floor(value: int) -> int:
    """`value` rounded down to a page boundary."""
    return value & ~(PAGE_SIZE - 1)


def page_ceil(value: int) -> int:
    """`value` rounded up to a page boundary."""
    return (value + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


@record
class ElfHeader(Structure):
    """Elf64_Ehdr (System V ABI)."""

    SIZE: ClassVar[int] = 64

    e_ident: bytes = raw(0, 16, "magic, class, byte order, version, ABI")
    e_type: int = uint(16, 2, "ET_DYN (3)")
    e_machine: int = uint(18, 2, "EM_X86_64 (62)")
    e_version: int = uint(20, 4, "1")
    e_entry: int = uint(24, 8, "virtual address of enclave_entry")
    e_phoff: int = uint(32, 8, "file offset of the program headers")
    e_shoff: int = uint(40, 8, "file offset of the section headers")
    e_flags: int = uint(48, 4, "0")
    e_ehsize: int = uint(52, 2, "64")
    e_phentsize: int = uint(54, 2, "56")
    e_phnum: int = uint(56, 2, "number of program headers")
    e_shentsize: int = uint(58, 2, "64")
    e_shnum: int = uint(60, 2, "number of section headers")
    e_shstrndx: int = uint(62, 2, "section of the section names")


@record
class Segment(Structure):
    """Elf64_Phdr (System V ABI); offsets, addresses and sizes in bytes."""

    SIZE: ClassVar[int] = 56

    p_type: int = uint(0, 4, "PT_LOAD (1), PT_DYNAMIC (2), PT_TLS (7), ...")
    p_flags: int = uint(4, 4, "PF_X (1), PF_W (2), PF_R (4)")
    p_offset: int = uint(8, 8, "file offset")
    p_vaddr: int = uint(16, 8, "virtual address")
    p_paddr: int = uint(24, 8, "physical address, unused")
    p_filesz: int = uint(32, 8, "bytes in the file")
    p_memsz: int = uint(40, 8, "bytes in memory")
    p_align: int = uint(48, 8, "alignment")

    @property
    def secinfo(self) -> int:
        """SECINFO flags of the segment's pages: permissions and page type REG."""
        flags = SECINFO_REG
        if self.p_flags & 4:
            flags |= SECINFO_R
        if self.p_flags & 2:
            flags |= SECINFO_W
        if self.p_flags & 1:
            flags |= SECINFO_X
        return flags

    @property
    def rights(self) -> str:
        """Permissions as `r-x`."""
        return "".join(
            letter if self.p_flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1))
        )


@record
class SectionHeader(Structure):
    """Elf64_Shdr (System V ABI)."""

    SIZE: ClassVar[int] = 64

    sh_name: int = uint(0, 4, "offset in the section name table")
    sh_type: int = uint(4, 4, "SHT_*")
    sh_flags: int = uint(8, 8, "SHF_*")
    sh_addr: int = uint(16, 8, "virtual address")
    sh_offset: int = uint(24, 8, "file offset")
    sh_size: int = uint(32, 8, "bytes")
    sh_link: int = uint(40, 4, "linked section")
    sh_info: int = uint(44, 4, "extra information")
    sh_addralign: int = uint(48, 8, "alignment")
    sh_entsize: int = uint(56, 8, "bytes of an entry")


@record
class Section:
    """A section header with its name resolved."""

    name: str
    header: SectionHeader

    @property
    def file_range(self) -> tuple[int, int]:
        """Start and end in the file; empty for SHT_NOBITS."""
        start = self.header.sh_offset
        return start, start if self.header.sh_type == SHT_NOBITS else start + self.header.sh_size


@record
class Symbol(Structure):
    """Elf64_Sym (System V ABI)."""

    SIZE: ClassVar[int] = 24

    st_name: int = uint(0, 4, "offset in the string table")
    st_info: int = uint(4, 1, "binding and type")
    st_other: int = uint(5, 1, "visibility")
    st_shndx: int = uint(6, 2, "section index; 0: undefined")
    st_value: int = uint(8, 8, "virtual address")
    st_size: int = uint(16, 8, "bytes")


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
        header = _parse_header(data, name)
        segments = _parse_segments(data, name, header, limits)
        sections = _parse_sections(data, name, header, limits)
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
        return (segment.p_memsz + align - 1) & ~(align - 1) & _U64_MAX

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
            name = _name_at(self.data, names_start + values[0], names_end, _LONGEST_SYMBOL)
            if name is None:
                raise FormatError(
                    "a symbol's name leaves the string table", file=self.name, offset=start
                )
            budget -= len(name)
            if budget < 0:
                raise LimitError("too many symbol names", file=self.name, offset=start)
            yield name.decode("utf-8", "replace"), Symbol(*values)


def _parse_header(data: bytes, name: str) -> ElfHeader:
    if len(data) < ElfHeader.SIZE or data[:4] != ELF_MAGIC:
        is_rpm = data[:4] == RPM_MAGIC
        raise FormatError(
            "not an ELF file",
            file=name,
            offset=0,
            expected="an ELF64 x86-64 shared object",
            found="an RPM package" if is_rpm else data[:4].hex() or "an empty file",
            hint="give it to `sgx-enclaves check-rpm`" if is_rpm else None,
        )
    header = ElfHeader.parse(data)
    wanted = (
        ("ELF class", header.e_ident[4], 2, "64-bit"),
        ("byte order", header.e_ident[5], 1, "little endian"),
        ("ELF version", header.e_ident[6], 1, "1"),
        ("e_type", header.e_type, 3, "ET_DYN"),
        ("e_machine", header.e_machine, 62, "x86-64"),
        ("e_phentsize", header.e_phentsize, Segment.SIZE, "56"),
    )
    for what, found, value, meaning in wanted:
        if found != value:
            raise FormatError(
                f"wrong {what} for an enclave",
                file=name,
                offset=0,
                expected=f"{value} ({meaning})",
                found=str(found),
            )
    return header


def _table_range(
    name: str, what: str, offset: int, count: int, entry: int, size: int, limit: int
) -> None:
    if count > limit:
        raise LimitError(
            f"too many {what}", file=name, expected=f"at most {limit}", found=str(count)
        )
    if offset + count * entry > size:
        raise FormatError(
            f"the {what} leave the file",
            file=name,
            offset=offset,
            expected=f"{count * entry} bytes",
            found=f"{max(0, size - offset)} bytes",
            hint="the file is truncated or its ELF header lies",
        )


def _parse_segments(
    data: bytes, name: str, header: ElfHeader, limits: Limits
) -> tuple[Segment, ...]:
    _table_range(
        name,
        "program headers",
        header.e_phoff,
        header.e_phnum,
        Segment.SIZE,
        len(data),
        limits.program_headers,
    )
    segments = []
    loaded: list[tuple[int, int]] = []
    for index in range(header.e_phnum):
        at = header.e_phoff + index * Segment.SIZE
        segment = Segment.parse(data, at)
        if segment.p_offset + segment.p_filesz > len(data):
            raise FormatError(
                f"program header {index} leaves the file",
                file=name,
                offset=at,
                expected=f"an end at most 0x{len(data):x}",
                found=f"0x{segment.p_offset + segment.p_filesz:x}",
                hint="the file is truncated or its program headers lie",
            )
        if segment.p_type == PT_LOAD:
            _check_load_segment(name, at, index, segment, loaded)
        segments.append(segment)
    if not any(s.p_type == PT_LOAD and s.p_memsz for s in segments):
        raise FormatError("no segment is loaded", file=name, offset=header.e_phoff)
    return tuple(segments)


def _check_load_segment(
    name: str, at: int, index: int, segment: Segment, loaded: list[tuple[int, int]]
) -> None:
    """The checks of validate_segment in psw/urts/parser/elfparser.cpp, and overflow."""
    align = segment.p_align
    problem = None
    if segment.p_filesz > segment.p_memsz:
        problem = "has more bytes in the file than in memory"
    elif segment.p_vaddr + segment.p_memsz + max(align, PAGE_SIZE) > _U64_MAX:
        problem = "overflows the address space"
    elif align == 0 or align % PAGE_SIZE or align & (align - 1):
        problem = "is not aligned to whole pages"
    elif not segment.p_flags & 7:
        problem = "has no permission"
    if problem is None:
        end = (segment.p_vaddr + segment.p_memsz + align - 1) & ~(align - 1)
        if any(segment.p_vaddr < other_end and start < end for start, other_end in loaded):
            problem = "overlaps another segment"
        loaded.append((segment.p_vaddr, end))
    if problem is not None:
        raise FormatError(f"PT_LOAD segment {index} {problem}", file=name, offset=at)


def _parse_sections(
    data: bytes, name: str, header: ElfHeader, limits: Limits
) -> tuple[Section, ...]:
    if header.e_shnum == 0 or header.e_shoff == 0:
        raise FormatError(
            "no section headers",
            file=name,
            expected=f"a section {METADATA_SECTION}",
            hint="the file is no SDK enclave, or was stripped of its section headers",
        )
    if header.e_shentsize != SectionHeader.SIZE:
        raise FormatError(
            "wrong size of a section header",
            file=name,
            expected=str(SectionHeader.SIZE),
            found=str(header.e_shentsize),
        )
    _table_range(
        name,
        "section headers",
        header.e_shoff,
        header.e_shnum,
        SectionHeader.SIZE,
        len(data),
        limits.section_headers,
    )
    headers = [
        SectionHeader.parse(data, header.e_shoff + index * SectionHeader.SIZE)
        for index in range(header.e_shnum)
    ]
    if header.e_shstrndx >= len(headers):
        raise FormatError("the section of section names does not exist", file=name)
    names = headers[header.e_shstrndx]
    names_end = names.sh_offset + names.sh_size
    if names_end > len(data):
        raise FormatError("the section names leave the file", file=name, offset=names.sh_offset)
    sections = []
    for index, section in enumerate(headers):
        start = names.sh_offset + section.sh_name
        found = _name_at(data, start, names_end, _LONGEST_SECTION)
        if found is None:
            raise FormatError(f"section {index} has no name", file=name, offset=start)
        sections.append(Section(found.decode("utf-8", "replace"), section))
    return tuple(sections)


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


def _name_at(data: bytes, start: int, end: int, longest: int) -> Optional[bytes]:
    """The NUL-terminated string at `start`; None if it passes `end` or is too long."""
    stop = data.find(b"\0", start, min(end, start + longest + 1)) if start < end else -1
    return None if stop < 0 else data[start:stop]
