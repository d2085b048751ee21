# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF64 x86-64 headers as they stand in a file, each offset checked once, at the edge.

Source: System V ABI; the checks are those of psw/urts/parser/elfparser.cpp, and more.
Errors do not name the file: `EnclaveImage.parse` knows its name.
"""

from __future__ import annotations

import struct
from typing import Optional

from sgx_enclaves.enclave.sigstruct import SECINFO_R, SECINFO_REG, SECINFO_W, SECINFO_X
from sgx_enclaves.errors import FormatError
from sgx_enclaves.files import kind_of
from sgx_enclaves.limits import Limits, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure, StructureT, raw, uint

PAGE_SIZE = 0x1000
PT_LOAD = 1
PT_DYNAMIC = 2
PT_TLS = 7
PT_GNU_STACK = 0x6474E551
PT_GNU_RELRO = 0x6474E552
SHT_NOTE = 7
SHT_NOBITS = 8
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
_LONGEST_SECTION_NAME = 255
ELF_MAGIC = b"\x7fELF"
RPM_MAGIC = bytes.fromhex("edabeedb")
METADATA_SECTION = ".note.sgxmeta"
METADATA_NOTE_NAME = b"sgx_metadata\0"
_NOTE_HEADER = struct.Struct("<III")
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1


def page_floor(value: int) -> int:
    """`value` rounded down to a page boundary."""
    return value & ~(PAGE_SIZE - 1)


def page_ceil(value: int) -> int:
    """`value` rounded up to a page boundary."""
    return (value + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


@record
class ElfHeader(Structure, size=64):
    """Elf64_Ehdr (System V ABI)."""

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
class Segment(Structure, size=56):
    """Elf64_Phdr (System V ABI); offsets, addresses and sizes in bytes."""

    p_type: int = uint(0, 4, "PT_LOAD (1), PT_DYNAMIC (2), PT_TLS (7), ...")
    p_flags: int = uint(4, 4, "PF_X (1), PF_W (2), PF_R (4)")
    p_offset: int = uint(8, 8, "file offset")
    p_vaddr: int = uint(16, 8, "virtual address")
    p_paddr: int = uint(24, 8, "physical address, unused")
    p_filesz: int = uint(32, 8, "bytes in the file")
    p_memsz: int = uint(40, 8, "bytes in memory")
    p_align: int = uint(48, 8, "alignment")

    @property
    def file_range(self) -> tuple[int, int]:
        """Start and end in the file."""
        return self.p_offset, self.p_offset + self.p_filesz

    @property
    def secinfo(self) -> int:
        """SECINFO flags of the segment's pages: permissions and page type REG."""
        rights = ((4, SECINFO_R), (2, SECINFO_W), (1, SECINFO_X))
        return SECINFO_REG | sum(secinfo for flag, secinfo in rights if self.p_flags & flag)


@record
class SectionHeader(Structure, size=64):
    """Elf64_Shdr (System V ABI)."""

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
class Symbol(Structure, size=24):
    """Elf64_Sym (System V ABI)."""

    st_name: int = uint(0, 4, "offset in the string table")
    st_info: int = uint(4, 1, "binding and type")
    st_other: int = uint(5, 1, "visibility")
    st_shndx: int = uint(6, 2, "section index; 0: undefined")
    st_value: int = uint(8, 8, "virtual address")
    st_size: int = uint(16, 8, "bytes")


def parse_header(data: bytes) -> ElfHeader:
    """The ELF header of a shared object for x86-64."""
    if data[:4] != ELF_MAGIC:
        raise FormatError(
            "not an ELF file",
            offset=0,
            expected="an ELF64 x86-64 shared object",
            found=kind_of(data),
            hint="give it to `sgx-enclaves check-rpm`" if data[:4] == RPM_MAGIC else None,
        )
    if len(data) < ElfHeader.SIZE:
        raise FormatError(
            "the file ends within its ELF header",
            offset=0,
            expected=f"{ElfHeader.SIZE} bytes",
            found=f"{len(data)} bytes",
        )
    header = ElfHeader.parse(data)
    for what, found, value, meaning in (
        ("ELF class", header.e_ident[4], 2, "64-bit"),
        ("byte order", header.e_ident[5], 1, "little endian"),
        ("ELF version", header.e_ident[6], 1, "1"),
        ("e_type", header.e_type, 3, "ET_DYN"),
        ("e_machine", header.e_machine, 62, "x86-64"),
        ("e_phentsize", header.e_phentsize, Segment.SIZE, "56"),
    ):
        if found != value:
            raise FormatError(
                f"wrong {what} for an enclave",
                offset=0,
                expected=f"{value} ({meaning})",
                found=str(found),
            )
    return header


def _table(
    kind: type[StructureT], what: str, data: bytes, offset: int, count: int, limit: int
) -> tuple[StructureT, ...]:
    at_most(limit, count, f"too many {what}")
    end = offset + count * kind.SIZE
    if end > len(data):
        raise FormatError(
            f"the {what} leave the file",
            offset=offset,
            expected=f"{end - offset} bytes",
            found=f"{max(0, len(data) - offset)} bytes",
            hint="the file is truncated or its ELF header lies",
        )
    return kind.parse_all(data[offset:end])


def parse_segments(data: bytes, header: ElfHeader, limits: Limits) -> tuple[Segment, ...]:
    """The program headers; each within the file, those that are loaded apart from each other."""
    start, count = header.e_phoff, header.e_phnum
    segments = _table(Segment, "program headers", data, start, count, limits.program_headers)
    loaded: list[tuple[int, int]] = []
    for index, segment in enumerate(segments):
        at = start + index * Segment.SIZE
        if segment.file_range[1] > len(data):
            raise FormatError(
                f"program header {index} leaves the file",
                offset=at,
                expected=f"an end at most 0x{len(data):x}",
                found=f"0x{segment.file_range[1]:x}",
                hint="the file is truncated or its program headers lie",
            )
        problem = _load_problem(segment, loaded) if segment.p_type == PT_LOAD else None
        if problem is not None:
            raise FormatError(f"PT_LOAD segment {index} {problem}", offset=at)
    if not any(s.p_type == PT_LOAD and s.p_memsz for s in segments):
        raise FormatError("no segment is loaded", offset=start)
    return segments


def _load_problem(segment: Segment, loaded: list[tuple[int, int]]) -> Optional[str]:
    """The checks of validate_segment in psw/urts/parser/elfparser.cpp, and overflow."""
    start, align = segment.p_vaddr, segment.p_align
    if segment.p_filesz > segment.p_memsz:
        return "has more bytes in the file than in memory"
    if start + segment.p_memsz + max(align, PAGE_SIZE) > U64_MAX:
        return "overflows the address space"
    if align == 0 or align % PAGE_SIZE or align & (align - 1):
        return "is not aligned to whole pages"
    if not segment.p_flags & 7:
        return "has no permission"
    end = (start + segment.p_memsz + align - 1) & ~(align - 1)
    if any(start < other_end and other_start < end for other_start, other_end in loaded):
        return "overlaps another segment"
    loaded.append((start, end))
    return None


def parse_sections(data: bytes, header: ElfHeader, limits: Limits) -> tuple[Section, ...]:
    """The section headers with their names."""
    start, count = header.e_shoff, header.e_shnum
    if count == 0 or start == 0:
        raise FormatError(
            "no section headers",
            expected=f"a section {METADATA_SECTION}",
            hint="the file is no SDK enclave, or was stripped of its section headers",
        )
    if header.e_shentsize != SectionHeader.SIZE:
        raise FormatError(
            "wrong size of a section header",
            expected=str(SectionHeader.SIZE),
            found=str(header.e_shentsize),
        )
    headers = _table(SectionHeader, "section headers", data, start, count, limits.section_headers)
    if header.e_shstrndx >= count:
        raise FormatError("the section of section names does not exist")
    names = headers[header.e_shstrndx]
    end = names.sh_offset + names.sh_size
    if end > len(data):
        raise FormatError("the section names leave the file", offset=names.sh_offset)
    sections = []
    for index, section in enumerate(headers):
        at = names.sh_offset + section.sh_name
        name = name_at(data, at, end, _LONGEST_SECTION_NAME)
        if name is None:
            raise FormatError(f"section {index} has no name", offset=at)
        sections.append(Section(name.decode("utf-8", "replace"), section))
    return tuple(sections)


def name_at(data: bytes, start: int, end: int, longest: int) -> Optional[bytes]:
    """The NUL-terminated string at `start`; None if it passes `end` or is too long."""
    stop = data.find(b"\0", start, min(end, start + longest + 1))
    return None if stop < 0 else data[start:stop]


def parse_note(data: bytes, sections: tuple[Section, ...], limits: Limits) -> tuple[int, int, int]:
    """Offset and size of the descriptor in `.note.sgxmeta`, and the note's type."""
    found = [s.header for s in sections if s.name == METADATA_SECTION]
    if len(found) != 1:
        raise FormatError(
            f"{'no' if not found else 'more than one'} section {METADATA_SECTION}",
            expected="exactly one",
            found=str(len(found)),
            hint="only enclaves of the Intel SGX SDK can be read",
        )
    section, start = found[0], found[0].sh_offset
    if section.sh_type == SHT_NOBITS or start + section.sh_size > len(data):
        raise FormatError(f"{METADATA_SECTION} leaves the file", offset=start)
    if section.sh_size < _NOTE_HEADER.size + len(METADATA_NOTE_NAME):
        raise FormatError(f"{METADATA_SECTION} is too small for its note", offset=start)
    name_size, size, note_type = _NOTE_HEADER.unpack_from(data, start)
    offset = start + _NOTE_HEADER.size + len(METADATA_NOTE_NAME)
    name = data[start + _NOTE_HEADER.size : offset]
    if name_size != len(METADATA_NOTE_NAME) or name != METADATA_NOTE_NAME:
        raise FormatError(
            f"the note in {METADATA_SECTION} has another name",
            offset=start,
            expected=f"{len(METADATA_NOTE_NAME)} bytes: sgx_metadata",
            found=f"{name_size} bytes: " + name.rstrip(b"\0").decode("ascii", "replace"),
        )
    message = "the metadata area is too large"
    at_most(limits.descriptor_size, size, message, "bytes", offset=start)
    align = max(1, section.sh_addralign)
    exact = offset + size - start
    rounded = -(-exact // align) * align
    if size == 0:
        raise FormatError(f"the note in {METADATA_SECTION} has no metadata area", offset=start)
    if section.sh_size != rounded:
        why = f" ({exact} rounded up to the section's alignment of {align})"
        raise FormatError(
            f"{METADATA_SECTION} and its note disagree on their size",
            offset=start,
            expected=f"{rounded} bytes{why if rounded != exact else ''}",
            found=f"{section.sh_size} bytes",
        )
    return offset, size, note_type
