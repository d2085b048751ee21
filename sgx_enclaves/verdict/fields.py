# SPDX-License-Identifier: GPL-2.0-or-later
"""Which field a byte of the metadata area belongs to, and whether MRENCLAVE covers it."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from sgx_enclaves.errors import FormatError
from sgx_enclaves.format.attributes import SECINFO_TCS
from sgx_enclaves.format.metadata import (
    ATTR_EADD,
    DIR_ELRANGE,
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    DIRECTORY_NAMES,
    Block,
    BlockHeader,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    FipsSignature,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
)
from sgx_enclaves.format.sigstruct import Sigstruct
from sgx_enclaves.format.structure import Structure
from sgx_enclaves.records import record

# ECREATE measures these two; the other header fields are only told to the loader.
_MEASURED_HEADER_FIELDS = ("ssa_frame_size", "enclave_size")
# The loader's patches are tiny but for g_global_data.
_GLOBAL_DATA_LEAST = 64


@record
class Field:
    """Bytes `start` to `end` (exclusive) of the descriptor.

    `is_blob` says that the name wants an offset behind it to be precise.
    """

    name: str
    start: int
    end: int
    measured: bool = False
    is_blob: bool = False

    def label(self, offset: int) -> str:
        """The name, for a byte at `offset` of the descriptor."""
        return f"{self.name} +0x{offset - self.start:x}" if self.is_blob else self.name


def field_at(blocks: tuple[Block, ...], size: int, offset: int) -> Field:
    """The field that holds the byte at `offset` of a descriptor of `size` bytes."""
    for index, block in enumerate(blocks):
        if block.offset <= offset < block.offset + block.header.size:
            field = _in_block(block, offset - block.offset)
            return Field(
                f"block {index} {field.name}",
                block.offset + field.start,
                block.offset + field.end,
                field.measured,
                field.is_blob,
            )
    start = blocks[-1].offset + blocks[-1].header.size if blocks else 0
    return Field("tail", start, max(size, offset + 1))


def _in_block(block: Block, at: int) -> Field:
    if at < Block.SIGSTRUCT_OFFSET:
        spec = BlockHeader.field_at(at)
        return Field(
            f"header.{spec.name}",
            spec.offset,
            spec.offset + spec.size,
            spec.name in _MEASURED_HEADER_FIELDS,
        )
    if at < Block.DIRECTORIES_OFFSET:
        return _named(Sigstruct, "SIGSTRUCT", Block.SIGSTRUCT_OFFSET, at)
    if at < block.data_offset:
        index = (at - Block.DIRECTORIES_OFFSET) // Directory.SIZE
        start = Block.DIRECTORIES_OFFSET + index * Directory.SIZE
        return _named(Directory, f"directory {DIRECTORY_NAMES[index]}", start, at)
    return _in_table(block, at) or _in_content(block, at) or _elsewhere(block, at)


def _named(
    kind: type[Structure], prefix: str, start: int, at: int, measured: bool = False
) -> Field:
    spec = kind.field_at(at - start)
    begin = start + spec.offset
    return Field(f"{prefix}.{spec.name}", begin, begin + spec.size, measured)


def _in_table(block: Block, at: int) -> Optional[Field]:
    kinds: tuple[tuple[int, type[Structure], str], ...] = (
        (DIR_PATCH, PatchEntry, "patch"),
        (DIR_LAYOUT, LayoutEntry, "layout"),
        (DIR_ELRANGE, ElrangeEntry, "elrange"),
        (DIR_EXTEND, ExtendEntry, "extend"),
    )
    for directory, (which, kind, name) in zip(block.directories, kinds):
        if not directory.offset <= at < directory.offset + directory.size:
            continue
        index = (at - directory.offset) // kind.SIZE
        start = directory.offset + index * kind.SIZE
        if which == DIR_LAYOUT:
            item = block.layout[index]
            # Without EADD only the attributes matter: they could ask for it.
            added = isinstance(item, LayoutGroup) or bool(item.attributes & ATTR_EADD)
            field = _named(type(item), f"{name}[{index}]", start, at, added)
            return replace(field, measured=added or field.name.endswith(".attributes"))
        measured = which in (DIR_PATCH, DIR_ELRANGE)
        prefix = name if which == DIR_ELRANGE else f"{name}[{index}]"
        return _named(kind, prefix, start, at, measured)
    return None


def _in_content(block: Block, at: int) -> Optional[Field]:
    """What the tables refer to: templates, global data, the FIPS signature, other content."""
    for index, patch in enumerate(block.patches):
        if patch.src <= at < patch.src + patch.size:
            if index == 0 and patch.size >= _GLOBAL_DATA_LEAST:
                return Field("global data", patch.src, patch.src + patch.size, True, True)
            name = f"content of patch[{index}]"
            return Field(name, patch.src, patch.src + patch.size, True, True)
    for index, item in enumerate(block.layout):
        if isinstance(item, LayoutEntry) and item.content_offset:
            start, end = item.content_offset, item.content_offset + item.content_size
            if start <= at < end:
                is_tcs = item.si_flags == SECINFO_TCS
                name = "TCS template" if is_tcs else f"content of layout[{index}]"
                return Field(name, start, end, True, True)
    try:
        fips = block.fips_offset
    except FormatError:
        return None
    if fips is not None and fips <= at < fips + FipsSignature.SIZE:
        return _named(FipsSignature, "FIPS signature", fips, at)
    return None


def _elsewhere(block: Block, at: int) -> Field:
    """Bytes of the data area that no table refers to: up to the next table."""
    end = min((d.offset for d in block.directories if d.offset > at), default=block.header.size)
    start = max(
        (d.offset + d.size for d in block.directories if d.size and d.offset + d.size <= at),
        default=block.data_offset,
    )
    return Field("data", max(start, block.data_offset), max(end, at + 1), False, True)
