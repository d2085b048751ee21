# SPDX-License-Identifier: GPL-2.0-or-later
"""An SGX enclave file as an ELF64 x86-64 image, and whether any loader takes it.

`EnclaveImage.parse` checks every offset once, at the edge; what it returns can be trusted inside.
It reads headers itself: an enclave's note is not padded as the ELF specification asks (general ELF
libraries give its descriptor three bytes late), and symbols and relocations must be found as
Intel's loader finds them, through the first section at the address that the dynamic table names
(SDK psw/urts/parser/elfparser.cpp).
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
    SHF_EXECINSTR,
    U64_MAX,
    ElfHeader,
    Section,
    SectionHeader,
    Segment,
    Symbol,
    name_at,
    page_ceil,
    parse_header,
    parse_note,
    parse_sections,
    parse_segments,
)
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError, SigningError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits, at_most
from sgx_enclaves.plain import record, some

DT_PLTRELSZ = 2
DT_STRTAB = 5
DT_SYMTAB = 6
DT_RELA = 7
DT_RELASZ = 8
DT_REL = 17
DT_TEXTREL = 22
DT_JMPREL = 23

R_X86_64_NONE = 0

# Compilers' own limits are lower; longer names only serve to exhaust memory.
_LONGEST_SYMBOL = 1 << 14


@record
class EnclaveImage:
    """An enclave file, parsed and checked.

    The descriptor is the metadata area: file offset, and size in bytes (the SDK's METADATA_SIZE).
    Nothing binds the note's type.
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
        try:
            at_most(limits.file_size, len(data), "the file is too large for an enclave", "bytes")
            header = parse_header(data)
            segments = parse_segments(data, header, limits)
            sections = parse_sections(data, header, limits)
            note = parse_note(data, sections, limits)
            image = cls(name, data, header, segments, sections, *note)
            image._check_descriptor_is_apart()
        except SgxEnclavesError as error:
            error.file = name
            raise
        return image

    @property
    def descriptor(self) -> bytes:
        """The bytes of the metadata area."""
        return self.data[self.descriptor_offset : self.descriptor_end]

    @property
    def descriptor_end(self) -> int:
        """File offset just behind the metadata area."""
        return self.descriptor_offset + self.descriptor_size

    def with_descriptor(self, descriptor: bytes) -> bytes:
        """The whole file with another metadata area of the same size."""
        return self.data[: self.descriptor_offset] + descriptor + self.data[self.descriptor_end :]

    @functools.cached_property
    def load_segments(self) -> tuple[Segment, ...]:
        """The PT_LOAD segments in program-header order."""
        return tuple(s for s in self.segments if s.p_type == PT_LOAD)

    @functools.cached_property
    def tls_segment(self) -> Optional[Segment]:
        """The last PT_TLS segment, as Intel's parser takes it."""
        return next((s for s in reversed(self.segments) if s.p_type == PT_TLS), None)

    @property
    def tls_size(self) -> int:
        """Bytes of a thread's TLS block, rounded up to its alignment."""
        segment = self.tls_segment
        if segment is None:
            return 0
        align = max(1, segment.p_align)
        return (segment.p_memsz + align - 1) & ~(align - 1) & U64_MAX

    @property
    def image_size(self) -> int:
        """Bytes from the enclave's base to the end of its highest segment, in whole pages."""
        top = max(self.load_segments, key=lambda s: s.p_vaddr)
        return page_ceil(top.p_vaddr + top.p_memsz)

    @functools.cached_property
    def dynamic(self) -> dict[int, int]:
        """Tags of the dynamic table up to DT_JMPREL, to their last values."""
        tags: dict[int, int] = {}
        start, end = next((s.file_range for s in self.segments if s.p_type == PT_DYNAMIC), (0, 0))
        for tag, value in struct.iter_unpack("<QQ", self.data[start : end - (end - start) % 16]):
            if tag == 0:
                break
            if tag <= DT_JMPREL:
                tags[tag] = value
        return tags

    @functools.cached_property
    def named_symbols(self) -> tuple[tuple[str, Symbol], ...]:
        """The named symbols of `.dynsym`, in its order."""
        table = self._section_at(self.dynamic.get(DT_SYMTAB, 0), "dynamic symbol table")
        strings = self._section_at(self.dynamic.get(DT_STRTAB, 0), "dynamic string table")
        return tuple(self._symbols(table, strings))

    @functools.cached_property
    def dynamic_symbols(self) -> dict[str, Symbol]:
        """Those that are defined, by name; the last of a name wins."""
        return {name: symbol for name, symbol in self.named_symbols if symbol.st_shndx != 0}

    def section(self, name: str) -> Optional[Section]:
        """The first section called `name`."""
        return next((s for s in self.sections if s.name == name), None)

    def symbol_address(self, name: str) -> int:
        """Virtual address of a dynamic symbol; `enclave_entry` falls back to e_entry."""
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
        """File offset of g_global_data, None for zero fill, and its bytes."""
        address = self.symbol_address("g_global_data")
        return self.file_offset(address), self.dynamic_symbols["g_global_data"].st_size

    @property
    def sdk_word(self) -> int:
        """The first 8 bytes of g_global_data in the file: the SDK's version word since 2.9.1."""
        offset, _ = self.global_data
        return 0 if offset is None else int.from_bytes(self.data[offset : offset + 8], "little")

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
        """Address and type of each relocation that the loader does."""
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
        """Numbers of pages that text relocations make writable (get_reloc_bitmap of the parser)."""
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

    def _check_descriptor_is_apart(self) -> None:
        """The signer may write it freely, so it must be no part of a segment, header or section."""
        header, start = self.header, self.descriptor_offset
        headers_end = header.e_phoff + len(self.segments) * Segment.SIZE
        sections_end = header.e_shoff + len(self.sections) * SectionHeader.SIZE
        for (other_start, other_end), what in (
            ((0, ElfHeader.SIZE), "the ELF header"),
            ((header.e_phoff, headers_end), "the program headers"),
            ((header.e_shoff, sections_end), "the section headers"),
            *((s.file_range, "a segment") for s in self.segments),
            *(
                (s.file_range, f"section {s.name}")
                for s in self.sections
                if s.name != METADATA_SECTION
            ),
        ):
            if start < other_end and other_start < self.descriptor_end and other_start < other_end:
                raise FormatError(f"the metadata area overlaps {what}", offset=start)

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


def require_unsigned(image: EnclaveImage) -> None:
    """Refuse an enclave that already carries metadata as the reference of a comparison."""
    if any(image.descriptor):
        raise FormatError(
            "the built enclave is already signed",
            file=image.name,
            offset=image.descriptor_offset,
            expected=f"{image.descriptor_size} zero bytes",
            hint="compare the unsigned result of the build with the vendor's file",
        )


_STB_WEAK = 2
# NONE, 64, GLOB_DAT, JUMP_SLOT, RELATIVE, DTPMOD64, DTPOFF64, TPOFF64: all that the SDK relocates.
_KNOWN_RELOCATIONS = frozenset({0, 1, 6, 7, 8, 16, 17, 18})
_RELOCATION_NAMES = {2: "PC32", 5: "COPY", 10: "32", 36: "TLSDESC", 37: "IRELATIVE"}
_MOST = 4


@record
class Obstacle:
    """Why an image is refused; `option` makes the SDK's tool sign it all the same, if any does."""

    message: str
    found: str
    hint: str
    option: str = ""


def obstacles(image: EnclaveImage) -> Iterator[Obstacle]:
    """All reasons why the SDK's tool would not sign the image.

    Source: ElfParser::run_parser, the loader's too, and sdk/sign_tool/SignTool/sign_tool.cpp.
    """
    if not image.dynamic:
        yield Obstacle("it has no dynamic table", "no PT_DYNAMIC", "link it as a shared object")
        return
    names = [
        name
        for name, symbol in image.named_symbols
        if symbol.st_shndx == 0 and symbol.st_info >> 4 != _STB_WEAK
    ]
    if names:
        yield Obstacle(
            "symbols are undefined, and nothing defines them when an enclave is loaded",
            some(names, _MOST),
            "link with the library that has them, and with -Wl,--no-undefined",
        )
    if image.dynamic.get(DT_REL):
        yield Obstacle("its relocations are of the kind REL", "DT_REL", "link for x86-64 only")
    kinds = {kind for _, kind in image.relocations()} - _KNOWN_RELOCATIONS
    if kinds:
        yield Obstacle(
            "it has relocations that the SDK does not know",
            some((_RELOCATION_NAMES.get(kind, f"type {kind}") for kind in sorted(kinds)), _MOST),
            "no ifunc (IRELATIVE), no -mtls-dialect=gnu2 (TLSDESC), and code built with -fPIC",
        )
    if image.section(".ctors") is not None:
        yield Obstacle("it has a section .ctors, which nobody runs", ".ctors", "use .init_array")
    if image.tls_segment is not None and not image.tls_segment.p_flags & 7:
        yield Obstacle("PT_TLS has no permission", "flags 0", "link with the SDK's linker script")
    if image.section(".init") is not None:
        yield Obstacle(
            "it has a section .init, which no SDK runs",
            ".init",
            "use .init_array, or sign with --ignore-init-section on purpose",
            "--ignore-init-section",
        )
    code = [s.header for s in image.sections if s.header.sh_flags & SHF_EXECINSTR]
    if DT_TEXTREL in image.dynamic or any(
        header.sh_addr <= address < header.sh_addr + header.sh_size
        for address, kind in image.relocations()
        if kind
        for header in code
    ):
        yield Obstacle(
            "code is relocated, so its pages must be writable (DT_TEXTREL)",
            "text relocations",
            "build all of it with -fPIC, or sign with --ignore-text-relocations on purpose",
            "--ignore-text-relocations",
        )


def require_loadable(image: EnclaveImage, ignored: frozenset[str] = frozenset()) -> None:
    """Refuse to sign what the SDK's tool refuses."""
    for obstacle in obstacles(image):
        if obstacle.option not in ignored:
            raise SigningError(
                f"no loader of the SDK takes this enclave: {obstacle.message}",
                file=image.name,
                found=obstacle.found,
                hint=obstacle.hint,
            )


def not_loadable(image: EnclaveImage) -> list[Obstacle]:
    """The obstacles that no option lifts; none of what cannot be read."""
    try:
        return [o for o in obstacles(image) if not o.option]
    except SgxEnclavesError:
        return []
