# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces that a toolchain leaves in an enclave: what tells two builds apart.

The file may be hostile. Every look at it is bounded, whatever its headers say,
and its text is made printable before it goes anywhere.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.enclave.elf import (
    DT_TEXTREL,
    PT_DYNAMIC,
    PT_INTERP,
    SHF_ALLOC,
    EnclaveImage,
    Section,
    Symbol,
)
from sgx_enclaves.explain.file_map import SHF_EXECINSTR
from sgx_enclaves.plain import printable, record

_SHT_NOTE = 7
_NT_GNU_BUILD_ID = 3
_DYNAMIC_LIMIT = 4096
_TEXT_LIMIT = 1024
_CODE_LIMIT = 1 << 20
_PATTERN_LIMIT = 8 << 20
_STRINGS_LIMIT = 4 << 20
_SYMBOLS_LIMIT = 4096
_SHOWN = 120

_STRING = re.compile(rb"[\x20-\x7e]{6,256}(?=\0)")
# Their strings say nothing of the sources, or are looked at on their own.
_NO_STRINGS = (".interp", ".dynstr", ".dynsym", ".gnu.hash", ".hash", ".dynamic")

# lfence; the endless loop of a return trampoline; endbr64.
_LFENCE = bytes.fromhex("0faee8")
_THUNK = bytes.fromhex("f3900faee8ebf9")
_ENDBR64 = bytes.fromhex("f30f1efa")


@record
class Traces:
    """What was found in one file.

    Attributes:
        interpreter: the PT_INTERP path.
        build_id: the GNU build id, hexadecimal.
        comments: the strings of `.comment`; None without that section.
        symtab: entries of `.symtab`; None without it.
        debug: names of the sections of debugging information.
        loaded: names of the sections that are loaded, sorted.
        textrel: whether read-only pages are relocated (DT_TEXTREL).
        global_data: file offset and size of g_global_data.
        sdk_word: its first 8 bytes.
        descriptor_size: bytes of the metadata area.
        lfences: lfence instructions outside of trampolines.
        thunks: return trampolines (retpolines).
        endbranches: endbr64 instructions.
        strings: the constant strings that the enclave loads.
        code: the first bytes of its instructions.
    """

    interpreter: Optional[str]
    build_id: Optional[str]
    comments: Optional[tuple[str, ...]]
    symtab: Optional[int]
    debug: tuple[str, ...]
    loaded: tuple[str, ...]
    textrel: bool
    global_data: Optional[tuple[int, int]]
    sdk_word: Optional[int]
    descriptor_size: int
    lfences: int
    thunks: int
    endbranches: int
    strings: frozenset[str]
    code: bytes


def traces_of(image: EnclaveImage) -> Traces:
    """Collect them."""
    instructions = [s for s in image.sections if s.header.sh_flags & SHF_EXECINSTR]
    lfences, thunks, endbranches = _count(image, instructions, (_LFENCE, _THUNK, _ENDBR64))
    symtab = image.section(".symtab")
    global_data = _global_data(image)
    return Traces(
        interpreter=_interpreter(image),
        build_id=_build_id(image),
        comments=_comments(image),
        symtab=None if symtab is None else symtab.header.sh_size // Symbol.SIZE,
        debug=tuple(
            excerpt(s.name) for s in image.sections if s.name.startswith((".debug", ".zdebug"))
        ),
        loaded=tuple(
            sorted({excerpt(s.name) for s in image.sections if s.header.sh_flags & SHF_ALLOC})
        ),
        textrel=DT_TEXTREL in _dynamic_tags(image),
        global_data=global_data,
        sdk_word=_word_at(image, global_data[0]) if global_data else None,
        descriptor_size=image.descriptor_size,
        # Each trampoline holds one lfence.
        lfences=lfences - thunks,
        thunks=thunks,
        endbranches=endbranches,
        strings=frozenset(_strings(image)),
        code=_code(image, instructions),
    )


def excerpt(text: str) -> str:
    """Text of a file as one line that cannot steer a terminal, cut to a fair length."""
    return printable(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")


def _head(image: EnclaveImage, section: Section, limit: int) -> bytes:
    start, end = section.file_range
    return image.data[start : min(end, start + limit)]


def _interpreter(image: EnclaveImage) -> Optional[str]:
    for segment in image.segments:
        if segment.p_type == PT_INTERP:
            start = segment.p_offset
            path = image.data[start : start + min(segment.p_filesz, _TEXT_LIMIT)]
            return excerpt(path.split(b"\0", 1)[0].decode("utf-8", "replace"))
    return None


def _build_id(image: EnclaveImage) -> Optional[str]:
    for section in image.sections:
        note = _head(image, section, _TEXT_LIMIT)
        if section.header.sh_type != _SHT_NOTE or len(note) < 16:
            continue
        name_size, size, kind = struct.unpack_from("<III", note)
        if kind == _NT_GNU_BUILD_ID and name_size == 4 and note[12:16] == b"GNU\0":
            return note[16 : 16 + min(size, 64)].hex()
    return None


def _comments(image: EnclaveImage) -> Optional[tuple[str, ...]]:
    section = image.section(".comment")
    if section is None:
        return None
    texts = _head(image, section, _TEXT_LIMIT).split(b"\0")
    return tuple(excerpt(t.decode("utf-8", "replace")) for t in texts if t)


def _dynamic_tags(image: EnclaveImage) -> frozenset[int]:
    for segment in image.segments:
        if segment.p_type == PT_DYNAMIC:
            start = segment.p_offset
            table = image.data[start : start + min(segment.p_filesz, 16 * _DYNAMIC_LIMIT)]
            whole = table[: len(table) // 16 * 16]
            tags = (tag for tag, _ in struct.iter_unpack("<qQ", whole))
            return frozenset(itertools.takewhile(bool, tags))
    return frozenset()


def _global_data(image: EnclaveImage) -> Optional[tuple[int, int]]:
    """Offset and size of g_global_data, if it is among the first symbols of `.dynsym`."""
    table, strings = image.section(".dynsym"), image.section(".dynstr")
    if table is None or strings is None:
        return None
    names = strings.header.sh_offset
    wanted = b"g_global_data\0"
    data = _head(image, table, _SYMBOLS_LIMIT * Symbol.SIZE)
    for at in range(0, len(data) - Symbol.SIZE + 1, Symbol.SIZE):
        symbol = Symbol.parse(data, at)
        name_at = names + symbol.st_name
        if image.data[name_at : name_at + len(wanted)] == wanted:
            offset = image.file_offset(symbol.st_value)
            return None if offset is None else (offset, symbol.st_size)
    return None


def _word_at(image: EnclaveImage, offset: int) -> Optional[int]:
    word = image.data[offset : offset + 8]
    return int.from_bytes(word, "little") if len(word) == 8 else None


def _count(
    image: EnclaveImage, sections: list[Section], patterns: tuple[bytes, ...]
) -> tuple[int, ...]:
    counts = [0] * len(patterns)
    left = _PATTERN_LIMIT
    for section in sections:
        part = _head(image, section, left)
        left -= len(part)
        for index, pattern in enumerate(patterns):
            counts[index] += part.count(pattern)
    return tuple(counts)


def _strings(image: EnclaveImage) -> Iterator[str]:
    left = _STRINGS_LIMIT
    for section in image.sections:
        flags = section.header.sh_flags
        if flags & SHF_EXECINSTR or not flags & SHF_ALLOC or section.name in _NO_STRINGS:
            continue
        part = _head(image, section, left)
        left -= len(part)
        for match in _STRING.finditer(part):
            yield match.group().decode("ascii")


def _code(image: EnclaveImage, sections: list[Section]) -> bytes:
    code = b""
    for section in sections:
        code += _head(image, section, _CODE_LIMIT - len(code))
    return code
