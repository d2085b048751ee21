# SPDX-License-Identifier: GPL-2.0-or-later
"""An independent reader of ELF files, pyelftools, in the words of `subjects.elf_facts`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from elftools.elf import enums
from elftools.elf.elffile import ELFFile

NOTE = ".note.sgxmeta"
HEADER = (
    *("e_entry", "e_phoff", "e_shoff", "e_flags", "e_ehsize"),
    *("e_phentsize", "e_phnum", "e_shentsize", "e_shnum", "e_shstrndx"),
)
SEGMENT = ("p_type", "p_flags", "p_offset", "p_vaddr", "p_filesz", "p_memsz", "p_align")
SECTION = (
    *("sh_type", "sh_flags", "sh_addr", "sh_offset"),
    *("sh_size", "sh_link", "sh_info", "sh_addralign", "sh_entsize"),
)


def elf_facts(data: bytes, tags: Iterable[int]) -> dict[str, Any]:
    """What pyelftools reads in an enclave file: what the verdict rests on.

    Args:
        data: the file.
        tags: the tags of the dynamic table that matter.
    """
    elf = ELFFile(io.BytesIO(data))
    segments: list[Any] = list(elf.iter_segments())
    sections: list[Any] = list(elf.iter_sections())
    first: dict[str, Any] = {}
    for section in sections:
        first.setdefault(section.name, section)
    dynamic = {}
    for segment in [s for s in segments if s["p_type"] == "PT_DYNAMIC"][:1]:
        for entry in segment.iter_tags():
            dynamic[_number(entry.entry.d_tag, enums.ENUM_D_TAG)] = entry.entry.d_val
    note = first[NOTE].data()
    name_size, size, note_type = (int.from_bytes(note[at : at + 4], "little") for at in (0, 4, 8))
    exported = [s for s in first[".dynsym"].iter_symbols() if s.entry.st_shndx != "SHN_UNDEF"]
    return {
        "header": {name: elf.header[name] for name in HEADER},
        "segments": [_fields(s.header, SEGMENT, enums.ENUM_P_TYPE_BASE) for s in segments],
        "sections": [
            (s.name, _fields(s.header, SECTION, enums.ENUM_SH_TYPE_BASE)) for s in sections
        ],
        "dynamic": {tag: value for tag, value in dynamic.items() if tag in tags},
        "dynamic symbols": {s.name: _symbol(s) for s in exported if s.name},
        "note": (note_type, size, note[12 + name_size : 12 + name_size + size]),
    }


def _fields(header: Any, names: Iterable[str], types: Mapping[str, Any]) -> dict[str, int]:
    return {name: _number(header[name], types) for name in names}


def _symbol(symbol: Any) -> tuple[int, int, int, int]:
    info = symbol.entry.st_info
    kind = _number(info.type, enums.ENUM_ST_INFO_TYPE)
    return (
        symbol.entry.st_value,
        symbol.entry.st_size,
        _number(symbol.entry.st_shndx, enums.ENUM_ST_SHNDX),
        _number(info.bind, enums.ENUM_ST_INFO_BIND) << 4 | kind,
    )


def _number(value: Any, names: Mapping[str, Any]) -> int:
    return int(names[value] if isinstance(value, str) else value)
