# SPDX-License-Identifier: GPL-2.0-or-later
"""Synthetic enclave files, written byte by byte without a compiler.

`small_enclave()` gives the smallest file that Intel's `sgx_sign` accepts; every
field can be overridden, to lies as well, so that a test can make exactly the
file it is about:

    small_enclave()                                     # a good one, SDK 2.25
    small_enclave(sdk="2.17", tls=None)                 # other sizes, no TLS
    small_enclave(segment_fields={0: {"p_filesz": 1 << 40}})
    small_enclave(section_fields={".note.sgxmeta": {"sh_size": 7}})
    small_enclave(header_fields={"e_shnum": 0}, trailing=b"tail")

`build(Enclave(...))` gives the same as an `Image`, which knows where each part
landed. The writer shares nothing with the reader under test, and checks
nothing: it must be able to write nonsense. Same arguments, same bytes.

Layout of the file, and of memory:

    text segment  r-x  offset 0, address 0: ELF header, program headers, .interp,
                       .dynsym, .dynstr, .rela.dyn, .rela.plt, .text
    data segment  rw-  the next bytes, one page further in memory: .tdata,
                       .dynamic, .got.plt, .data.rel.ro (g_global_data), .data, .bss
    extra loads        each at an offset congruent to its address
    not loaded         .note.sgxmeta, .symtab, .strtab, .shstrtab, section headers,
                       trailing bytes

Sources: System V ABI and its x86-64 supplement; what an enclave must have is in
the SDK's psw/urts/parser/elfparser.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from tests.enclaves.records import (
    DT_JMPREL,
    DT_PLTREL,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELAENT,
    DT_RELASZ,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMENT,
    DT_SYMTAB,
    DT_TEXTREL,
    PAGE,
    PF_R,
    PF_W,
    PF_X,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    PT_TLS,
    R_X86_64_64,
    R_X86_64_GLOB_DAT,
    R_X86_64_JUMP_SLOT,
    R_X86_64_NONE,
    R_X86_64_RELATIVE,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHT_DYNAMIC,
    SHT_DYNSYM,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_PROGBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    ElfHeader,
    ProgramHeader,
    Relocation,
    SectionHeader,
    StringTable,
    Symbol,
    symbol_table,
)
from tests.enclaves.sdk import sdk_releases, sdk_shape, sdk_version

__all__ = [
    "DT_JMPREL",
    "DT_PLTREL",
    "DT_PLTRELSZ",
    "DT_RELA",
    "DT_RELAENT",
    "DT_RELASZ",
    "DT_STRSZ",
    "DT_STRTAB",
    "DT_SYMENT",
    "DT_SYMTAB",
    "DT_TEXTREL",
    "NOTE_NAME",
    "NOTE_SECTION",
    "PAGE",
    "PF_R",
    "PF_W",
    "PF_X",
    "PT_DYNAMIC",
    "PT_INTERP",
    "PT_LOAD",
    "PT_NOTE",
    "PT_TLS",
    "R_X86_64_64",
    "R_X86_64_GLOB_DAT",
    "R_X86_64_JUMP_SLOT",
    "R_X86_64_NONE",
    "R_X86_64_RELATIVE",
    "SHF_ALLOC",
    "SHF_EXECINSTR",
    "SHF_TLS",
    "SHF_WRITE",
    "SHT_DYNAMIC",
    "SHT_DYNSYM",
    "SHT_NOBITS",
    "SHT_NOTE",
    "SHT_PROGBITS",
    "SHT_RELA",
    "SHT_STRTAB",
    "SHT_SYMTAB",
    "ElfHeader",
    "Enclave",
    "Image",
    "Load",
    "Note",
    "ProgramHeader",
    "Relocation",
    "SectionHeader",
    "Symbol",
    "Tls",
    "build",
    "sdk_releases",
    "sdk_shape",
    "sdk_version",
    "small_enclave",
]

NOTE_NAME = b"sgx_metadata\0"
NOTE_SECTION = ".note.sgxmeta"

# The data segment follows the text segment in the file, so one page is enough to
# keep the two from sharing a page of memory.
_DATA_BIAS = PAGE

# A function that returns its argument: mov %edi,%eax; ret; then int3.
_CODE = bytes.fromhex("89f8c3") + b"\xcc" * 13


@dataclass(frozen=True)
class Load:
    """A further PT_LOAD segment.

    Attributes:
        vaddr: its virtual address.
        data: its bytes in the file.
        memsz: its bytes in memory; None: as many as in the file.
        flags: PF_R, PF_W and PF_X.
        align: p_align.
    """

    vaddr: int
    data: bytes = b""
    memsz: Optional[int] = None
    flags: int = PF_R
    align: int = PAGE


@dataclass(frozen=True)
class Tls:
    """A PT_TLS segment: initialised bytes, size in memory, alignment."""

    data: bytes = b"\x88\x77\x66\x55\x44\x33\x22\x11"
    memsz: int = 0x90
    align: int = 0x10


@dataclass(frozen=True)
class Note:
    """The note in `.note.sgxmeta`: what it says, and what is there.

    Attributes:
        descsz: size that the note header states; None: the descriptor's.
        descriptor: the metadata area; None: zeros of the SDK's size, unsigned.
        name: the name's bytes, written without padding.
        namesz: size that the note header states; None: the name's.
        note_type: the note's type; nothing binds it.
        align: sh_addralign; the section is padded to it.
    """

    descsz: Optional[int] = None
    descriptor: Optional[bytes] = None
    name: bytes = NOTE_NAME
    namesz: Optional[int] = None
    note_type: int = 1
    align: int = 1


@dataclass(frozen=True)
class Enclave:
    """What to write. All defaults together: a small, good, unsigned enclave.

    Attributes:
        sdk: release whose version word and sizes are used; see `sdk_releases`.
        sdk_version: first u64 of g_global_data; None: that of `sdk`.
        descriptor_size: bytes of the metadata area; None: those of `sdk`.
        global_data_size: bytes of g_global_data; None: those of `sdk`.
        global_data: the object's bytes behind the version word, cut or filled with zeros.
        code: bytes of `.text`; `enclave_entry` is the first.
        data: bytes of `.data`.
        bss_size: bytes of `.bss`; they exist in memory only.
        interpreter: path of PT_INTERP; None: no such segment.
        tls: the PT_TLS segment; None: no such segment.
        dynamic: write PT_DYNAMIC.
        relocations: DT_RELA; None: one R_X86_64_RELATIVE in `.data`.
        jump_slots: DT_JMPREL; None: one R_X86_64_JUMP_SLOT in `.got.plt`.
        textrel: write DT_TEXTREL, and one more DT_RELA relocation in `.text`.
        entry_symbol: put `enclave_entry` into `.dynsym`.
        global_data_symbol: put `g_global_data` into `.dynsym`.
        extra_symbols: more of `.dynsym`.
        symtab: write `.symtab` and `.strtab`, as before stripping.
        loads: further PT_LOAD segments.
        extra_segments: further program headers, written as they are.
        extra_sections: further section headers with their bytes, stored behind `.note.sgxmeta`.
        omit_sections: names of sections that get no header; their bytes stay.
        note: the metadata note; None: no `.note.sgxmeta`.
        section_headers: write section headers.
        header_fields: ELF header fields to set at the end.
        segment_fields: by program header index: fields to set at the end.
        section_fields: by section name: fields to set at the end.
        dynamic_fields: by tag: values to set in the dynamic table.
        patches: by file offset: bytes to write over the finished file.
        trailing: bytes behind everything.
        truncate: cut the file to so many bytes, after all else.
    """

    sdk: str = "2.25"
    sdk_version: Optional[int] = None
    descriptor_size: Optional[int] = None
    global_data_size: Optional[int] = None
    global_data: bytes = b""
    code: bytes = _CODE
    data: bytes = bytes(range(16))
    bss_size: int = 0x20
    interpreter: Optional[str] = None
    tls: Optional[Tls] = field(default_factory=Tls)
    dynamic: bool = True
    relocations: Optional[Sequence[Relocation]] = None
    jump_slots: Optional[Sequence[Relocation]] = None
    textrel: bool = False
    entry_symbol: bool = True
    global_data_symbol: bool = True
    extra_symbols: Sequence[Symbol] = ()
    symtab: bool = False
    loads: Sequence[Load] = ()
    extra_segments: Sequence[ProgramHeader] = ()
    extra_sections: Sequence[tuple[SectionHeader, bytes]] = ()
    omit_sections: Sequence[str] = ()
    note: Optional[Note] = field(default_factory=Note)
    section_headers: bool = True
    header_fields: Mapping[str, Any] = field(default_factory=dict)
    segment_fields: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    section_fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dynamic_fields: Mapping[int, int] = field(default_factory=dict)
    patches: Mapping[int, bytes] = field(default_factory=dict)
    trailing: bytes = b""
    truncate: Optional[int] = None


@dataclass(frozen=True)
class Image:
    """A finished file and where its parts are.

    Attributes:
        data: the file.
        header: its ELF header as written.
        segments: its program headers as written.
        sections: its section headers as written; the first is the null section.
        descriptor_offset: file offset of the metadata area; 0 without a note.
        descriptor_size: its size in bytes; 0 without a note.
        entry: address of enclave_entry.
        global_data_address: address of g_global_data.
        global_data_offset: its file offset.
        global_data_size: its size in bytes.
    """

    data: bytes
    header: ElfHeader
    segments: tuple[ProgramHeader, ...]
    sections: tuple[SectionHeader, ...]
    descriptor_offset: int
    descriptor_size: int
    entry: int
    global_data_address: int
    global_data_offset: int
    global_data_size: int

    def section(self, name: str) -> SectionHeader:
        """The first section called `name`.

        Raises:
            KeyError: there is none.
        """
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def with_descriptor(self, descriptor: bytes) -> bytes:
        """The file with another metadata area, as a signer would leave it.

        Raises:
            ValueError: it has another size than the area.
        """
        if len(descriptor) != self.descriptor_size:
            raise ValueError(f"the descriptor must have {self.descriptor_size} bytes")
        end = self.descriptor_offset + self.descriptor_size
        return self.data[: self.descriptor_offset] + descriptor + self.data[end:]


def small_enclave(**overrides: Any) -> bytes:
    """A small enclave that `sgx_sign` accepts; about 28 KiB, most of it the descriptor.

    Args:
        **overrides: fields of `Enclave`.

    Raises:
        TypeError: `Enclave` has no such field.
        KeyError: `sdk`, or a name or index in the `*_fields`, does not exist.
    """
    return build(Enclave(**overrides)).data


def build(enclave: Enclave) -> Image:
    """Write an enclave file.

    Raises:
        KeyError: `sdk`, or a name or index in the `*_fields`, does not exist.
    """
    # The first run learns where everything lands: no size depends on an address.
    draft = _Writer(enclave, _Places())
    draft.write()
    return _Writer(enclave, draft.found).write()


@dataclass(frozen=True)
class _Places:
    """Where a run put each section: address, bytes, header index, by name."""

    address: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)


class _Writer:
    """One run over an `Enclave`, front to back.

    Attributes:
        found: what this run learnt.
    """

    def __init__(self, enclave: Enclave, known: _Places) -> None:
        self.enclave = enclave
        shape = sdk_shape(enclave.sdk)
        self.version = shape.version if enclave.sdk_version is None else enclave.sdk_version
        self.global_data_size = (
            shape.global_data_size if enclave.global_data_size is None else enclave.global_data_size
        )
        self.descriptor = bytes(
            shape.descriptor_size if enclave.descriptor_size is None else enclave.descriptor_size
        )
        if enclave.note and enclave.note.descriptor is not None:
            self.descriptor = enclave.note.descriptor
        self.found = _Places()
        self._known = known
        self._file = bytearray()
        self._segments: list[ProgramHeader] = []
        self._sections = [SectionHeader(sh_type=0, sh_addralign=0)]

    def write(self) -> Image:
        """Write everything once."""
        enclave = self.enclave
        self._file += bytes(64 + 56 * self._segment_count())
        self._write_text()
        self._write_data()
        for index, load in enumerate(enclave.loads):
            self._write_load(index, load)
        self._segments += enclave.extra_segments
        descriptor_offset = self._write_note() if enclave.note else 0
        for section, content in enclave.extra_sections:
            self._add(section, content, bias=None)
        if enclave.symtab:
            self._write_symtab()
        header = self._write_headers()
        for offset, content in enclave.patches.items():
            self._file[offset : offset + len(content)] = content
        data = bytes(self._file) + enclave.trailing
        return Image(
            data=data if enclave.truncate is None else data[: enclave.truncate],
            header=header,
            segments=tuple(self._segments),
            sections=tuple(self._sections),
            descriptor_offset=descriptor_offset,
            descriptor_size=len(self.descriptor) if enclave.note else 0,
            entry=self.found.address[".text"],
            global_data_address=self.found.address[".data.rel.ro"],
            global_data_offset=self.found.address[".data.rel.ro"] - _DATA_BIAS,
            global_data_size=self.global_data_size,
        )

    def _segment_count(self) -> int:
        enclave = self.enclave
        optional = (enclave.interpreter is not None, enclave.tls is not None, enclave.dynamic)
        return 2 + sum(optional) + len(enclave.loads) + len(enclave.extra_segments)

    def _at(self, section: str) -> int:
        return self._known.address.get(section, 0)

    def _index(self, section: str) -> int:
        return self._known.index.get(section, 0)

    def _add(self, header: SectionHeader, content: bytes, bias: Optional[int]) -> int:
        """Append a section and its header; gives its file offset.

        `bias` is what its address is ahead of its offset; None: it is not loaded.
        """
        self._file += bytes(-len(self._file) % max(1, header.sh_addralign))
        offset = len(self._file)
        self._file += content
        address = header.sh_addr if bias is None else offset + bias
        self.found.address[header.name] = address
        self.found.size[header.name] = len(content)
        self._add_header(replace(header, sh_offset=offset, sh_addr=address, sh_size=len(content)))
        return offset

    def _add_header(self, header: SectionHeader) -> None:
        if header.name not in self.enclave.omit_sections:
            self.found.index.setdefault(header.name, len(self._sections))
            self._sections.append(header)

    def _write_text(self) -> None:
        enclave = self.enclave
        interpreter = []
        if enclave.interpreter is not None:
            path = enclave.interpreter.encode() + b"\0"
            offset = self._add(SectionHeader(".interp", sh_flags=SHF_ALLOC), path, 0)
            interpreter.append(
                ProgramHeader(PT_INTERP, PF_R, offset, offset, offset, len(path), len(path), 1)
            )
        names = StringTable()
        symbols = symbol_table(self._dynamic_symbols(), names)
        table = SectionHeader(
            ".dynsym",
            SHT_DYNSYM,
            SHF_ALLOC,
            sh_link=self._index(".dynstr"),
            sh_info=1,
            sh_addralign=8,
            sh_entsize=24,
        )
        self._add(table, symbols, 0)
        self._add(SectionHeader(".dynstr", SHT_STRTAB, SHF_ALLOC), bytes(names.data), 0)
        for name, entries in ((".rela.dyn", self._relocations()), (".rela.plt", self._slots())):
            table = SectionHeader(
                name,
                SHT_RELA,
                SHF_ALLOC,
                sh_link=self._index(".dynsym"),
                sh_addralign=8,
                sh_entsize=24,
            )
            if entries:
                self._add(table, b"".join(entry.to_bytes() for entry in entries), 0)
        text = SectionHeader(".text", sh_flags=SHF_ALLOC | SHF_EXECINSTR, sh_addralign=16)
        self._add(text, enclave.code, 0)
        size = len(self._file)
        self._segments.append(ProgramHeader(PT_LOAD, PF_R | PF_X, p_filesz=size, p_memsz=size))
        self._segments += interpreter

    def _dynamic_symbols(self) -> list[Symbol]:
        enclave = self.enclave
        symbols = []
        if enclave.entry_symbol:
            entry = self._at(".text")
            symbols.append(
                Symbol(
                    "enclave_entry", entry, len(enclave.code), 0x12, st_shndx=self._index(".text")
                )
            )
        if enclave.global_data_symbol:
            index = self._index(".data.rel.ro")
            address = self._at(".data.rel.ro")
            symbols.append(Symbol("g_global_data", address, self.global_data_size, st_shndx=index))
        return [*symbols, *enclave.extra_symbols]

    def _relocations(self) -> list[Relocation]:
        enclave = self.enclave
        text, data = self._at(".text"), self._at(".data")
        if enclave.relocations is None:
            entries = [Relocation(data, r_addend=text)]
        else:
            entries = list(enclave.relocations)
        if enclave.textrel:
            entries.append(Relocation(text + 8, r_addend=data))
        return entries

    def _slots(self) -> list[Relocation]:
        if self.enclave.jump_slots is None:
            return [Relocation(self._at(".got.plt"), R_X86_64_JUMP_SLOT, r_symbol=1)]
        return list(self.enclave.jump_slots)

    def _write_data(self) -> None:
        enclave = self.enclave
        start = len(self._file)
        flags = SHF_ALLOC | SHF_WRITE
        special = []
        if enclave.tls:
            tls = enclave.tls
            header = SectionHeader(".tdata", sh_flags=flags | SHF_TLS, sh_addralign=tls.align)
            offset = self._add(header, tls.data, _DATA_BIAS)
            special.append(_data_header(PT_TLS, PF_R, offset, len(tls.data), tls.memsz, tls.align))
        if enclave.dynamic:
            header = SectionHeader(
                ".dynamic",
                SHT_DYNAMIC,
                flags,
                sh_link=self._index(".dynstr"),
                sh_addralign=16,
                sh_entsize=16,
            )
            table = self._dynamic_table()
            offset = self._add(header, table, _DATA_BIAS)
            size = len(table)
            special.append(_data_header(PT_DYNAMIC, PF_R | PF_W, offset, size, size, 8))
        body = struct.pack("<Q", self.version) + enclave.global_data
        for name, content in (
            (".got.plt", bytes(8 * len(self._slots()))),
            (".data.rel.ro", (body + bytes(self.global_data_size))[: self.global_data_size]),
            (".data", enclave.data),
        ):
            header = SectionHeader(name, sh_flags=flags, sh_addralign=16)
            self._add(header, content, _DATA_BIAS)
        end = len(self._file)
        self._add_header(
            SectionHeader(".bss", SHT_NOBITS, flags, end + _DATA_BIAS, end, enclave.bss_size)
        )
        size = end - start
        memory = size + enclave.bss_size
        self._segments.append(_data_header(PT_LOAD, PF_R | PF_W, start, size, memory, PAGE))
        self._segments += special

    def _dynamic_table(self) -> bytes:
        tags = {
            DT_STRTAB: self._at(".dynstr"),
            DT_SYMTAB: self._at(".dynsym"),
            DT_STRSZ: self._known.size.get(".dynstr", 0),
            DT_SYMENT: 24,
        }
        if self._relocations():
            tags[DT_RELA] = self._at(".rela.dyn")
            tags[DT_RELASZ] = 24 * len(self._relocations())
            tags[DT_RELAENT] = 24
        if self._slots():
            tags[DT_JMPREL] = self._at(".rela.plt")
            tags[DT_PLTRELSZ] = 24 * len(self._slots())
            tags[DT_PLTREL] = DT_RELA
        if self.enclave.textrel:
            tags[DT_TEXTREL] = 0
        tags.update(self.enclave.dynamic_fields)
        entries = [*tags.items(), (0, 0)]
        return b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)

    def _write_load(self, index: int, load: Load) -> None:
        self._file += bytes((load.vaddr - len(self._file)) % PAGE)
        offset = len(self._file)
        self._file += load.data
        size = len(load.data)
        memory = size if load.memsz is None else load.memsz
        self._segments.append(
            ProgramHeader(
                PT_LOAD, load.flags, offset, load.vaddr, load.vaddr, size, memory, load.align
            )
        )
        flags = SHF_ALLOC
        flags |= SHF_WRITE if load.flags & PF_W else 0
        flags |= SHF_EXECINSTR if load.flags & PF_X else 0
        name = f".load{index}"
        self._add_header(
            SectionHeader(name, SHT_PROGBITS, flags, load.vaddr, offset, size, sh_addralign=1)
        )

    def _write_note(self) -> int:
        note = self.enclave.note or Note()
        namesz = len(note.name) if note.namesz is None else note.namesz
        descsz = len(self.descriptor) if note.descsz is None else note.descsz
        content = struct.pack("<III", namesz, descsz, note.note_type) + note.name
        before = len(content)
        content += self.descriptor
        content += bytes(-len(content) % max(1, note.align))
        header = SectionHeader(NOTE_SECTION, SHT_NOTE, sh_addralign=note.align)
        return self._add(header, content, bias=None) + before

    def _write_symtab(self) -> None:
        names = StringTable()
        symbols = symbol_table(self._dynamic_symbols(), names)
        table = SectionHeader(
            ".symtab",
            SHT_SYMTAB,
            sh_link=self._index(".strtab"),
            sh_info=1,
            sh_addralign=8,
            sh_entsize=24,
        )
        self._add(table, symbols, bias=None)
        self._add(SectionHeader(".strtab", SHT_STRTAB), bytes(names.data), bias=None)

    def _write_headers(self) -> ElfHeader:
        enclave = self.enclave
        fields = {"e_entry": self.found.address[".text"], "e_phnum": len(self._segments)}
        if enclave.section_headers:
            names = StringTable()
            for section in self._sections:
                names.add(section.name)
            names.add(".shstrtab")
            fields["e_shstrndx"] = len(self._sections)
            self._add(SectionHeader(".shstrtab", SHT_STRTAB), bytes(names.data), bias=None)
            self._edit_sections()
            self._file += bytes(-len(self._file) % 8)
            fields["e_shoff"] = len(self._file)
            fields["e_shnum"] = len(self._sections)
            for section in self._sections:
                self._file += section.to_bytes(names.add(section.name))
        header = replace(ElfHeader(), **{**fields, **enclave.header_fields})
        self._file[:64] = header.to_bytes()
        for index, changes in enclave.segment_fields.items():
            if not 0 <= index < len(self._segments):
                raise KeyError(index)
            self._segments[index] = replace(self._segments[index], **changes)
        table = b"".join(segment.to_bytes() for segment in self._segments)
        self._file[64 : 64 + len(table)] = table
        return header

    def _edit_sections(self) -> None:
        for name, changes in self.enclave.section_fields.items():
            index = self.found.index[name]
            self._sections[index] = replace(self._sections[index], **changes)


def _data_header(
    kind: int, flags: int, offset: int, size: int, memory: int, align: int
) -> ProgramHeader:
    address = offset + _DATA_BIAS
    return ProgramHeader(kind, flags, offset, address, address, size, memory, align)
