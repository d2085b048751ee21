# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF64 records, written as bytes. They check nothing: tests write nonsense with them.

Source: System V ABI and its x86-64 supplement.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

PAGE = 0x1000

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_TLS = 1, 2, 3, 4, 7
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA = 1, 2, 3, 4
SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 6, 7, 8, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS = 1, 2, 4, 0x400
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 2, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_PLTREL, DT_TEXTREL, DT_JMPREL = 10, 11, 20, 22, 23
R_X86_64_NONE, R_X86_64_64, R_X86_64_GLOB_DAT = 0, 1, 6
R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE = 7, 8


@dataclass(frozen=True)
class ElfHeader:
    """Elf64_Ehdr, 64 bytes."""

    e_ident: bytes = b"\x7fELF\x02\x01\x01" + bytes(9)
    e_type: int = 3
    e_machine: int = 62
    e_version: int = 1
    e_entry: int = 0
    e_phoff: int = 64
    e_shoff: int = 0
    e_flags: int = 0
    e_ehsize: int = 64
    e_phentsize: int = 56
    e_phnum: int = 0
    e_shentsize: int = 64
    e_shnum: int = 0
    e_shstrndx: int = 0

    def to_bytes(self) -> bytes:
        """The header as it stands in the file."""
        return struct.pack(
            "<16sHHIQQQIHHHHHH",
            self.e_ident,
            self.e_type,
            self.e_machine,
            self.e_version,
            self.e_entry,
            self.e_phoff,
            self.e_shoff,
            self.e_flags,
            self.e_ehsize,
            self.e_phentsize,
            self.e_phnum,
            self.e_shentsize,
            self.e_shnum,
            self.e_shstrndx,
        )


@dataclass(frozen=True)
class ProgramHeader:
    """Elf64_Phdr, 56 bytes; offsets, addresses and sizes in bytes."""

    p_type: int = PT_LOAD
    p_flags: int = PF_R
    p_offset: int = 0
    p_vaddr: int = 0
    p_paddr: int = 0
    p_filesz: int = 0
    p_memsz: int = 0
    p_align: int = PAGE

    def to_bytes(self) -> bytes:
        """The entry as it stands in the file."""
        return struct.pack(
            "<IIQQQQQQ",
            self.p_type,
            self.p_flags,
            self.p_offset,
            self.p_vaddr,
            self.p_paddr,
            self.p_filesz,
            self.p_memsz,
            self.p_align,
        )


@dataclass(frozen=True)
class SectionHeader:
    """Elf64_Shdr, 64 bytes, and the section's name.

    `sh_name` is found from `name` unless given.
    """

    name: str = ""
    sh_type: int = SHT_PROGBITS
    sh_flags: int = 0
    sh_addr: int = 0
    sh_offset: int = 0
    sh_size: int = 0
    sh_link: int = 0
    sh_info: int = 0
    sh_addralign: int = 1
    sh_entsize: int = 0
    sh_name: Optional[int] = None

    def to_bytes(self, name_offset: int) -> bytes:
        """The entry as it stands in the file."""
        return struct.pack(
            "<IIQQQQIIQQ",
            name_offset if self.sh_name is None else self.sh_name,
            self.sh_type,
            self.sh_flags,
            self.sh_addr,
            self.sh_offset,
            self.sh_size,
            self.sh_link,
            self.sh_info,
            self.sh_addralign,
            self.sh_entsize,
        )


@dataclass(frozen=True)
class Symbol:
    """Elf64_Sym, 24 bytes; `st_info` 0x11 is a global object, 0x12 a global function."""

    name: str
    st_value: int = 0
    st_size: int = 0
    st_info: int = 0x11
    st_other: int = 0
    st_shndx: int = 1


@dataclass(frozen=True)
class Relocation:
    """Elf64_Rela, 24 bytes."""

    r_offset: int
    r_type: int = R_X86_64_RELATIVE
    r_symbol: int = 0
    r_addend: int = 0

    def to_bytes(self) -> bytes:
        """The entry as it stands in the file."""
        info = self.r_symbol << 32 | self.r_type
        return struct.pack("<QQq", self.r_offset, info, self.r_addend)


class StringTable:
    """Strings by offset, in the order they were asked for."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        """Offset of `text`, added when new."""
        if text not in self._known:
            self._known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._known[text]


def symbol_table(symbols: Sequence[Symbol], names: StringTable) -> bytes:
    """A symbol table behind its reserved first entry; adds the names to `names`."""
    table = bytes(24)
    for symbol in symbols:
        table += struct.pack(
            "<IBBHQQ",
            names.add(symbol.name),
            symbol.st_info,
            symbol.st_other,
            symbol.st_shndx,
            symbol.st_value,
            symbol.st_size,
        )
    return table
