# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptor of `.note.sgxmeta` and the metadata blocks in it.

A signed enclave's holds one to three blocks back to back, then zeros; an unsigned one's is zero.
A block is a header, a SIGSTRUCT, directories (offset and size of a table in the block) and data.

Source: SDK header common/inc/internal/metadata.h of each release.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, NamedTuple, Optional, Union

from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U64_MAX
from sgx_enclaves.enclave.sigstruct import SECINFO_TCS, FipsSignature, Sigstruct
from sgx_enclaves.errors import FormatError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure, StructureT, raw, uint

MAGIC = 0x86A8_0294_635D_0E4C

# A major version above this one says "with ELRANGE"; modulo 10 it is the plain one.
ELRANGE_MAJOR = 10

DIR_PATCH, DIR_LAYOUT, DIR_ELRANGE, DIR_EXTEND = range(4)

# What layout entries are; those of SDK 1.5 to 1.9 had other numbers.
LAYOUT_GROUP_FLAG = 0x1000
LayoutId = IntEnum(
    "LayoutId",
    "HEAP_MIN HEAP_INIT HEAP_MAX TCS TD SSA STACK_MAX STACK_MIN THREAD_GROUP GUARD "
    "HEAP_DYN_MIN HEAP_DYN_INIT HEAP_DYN_MAX TCS_DYN TD_DYN SSA_DYN STACK_DYN_MAX "
    "STACK_DYN_MIN THREAD_GROUP_DYN RSRV_MIN RSRV_INIT RSRV_MAX USER_REGION",
)
OldLayoutId = IntEnum("OldLayoutId", "HEAP TCS TD SSA STACK THREAD_GROUP GUARD")
PageAttr = IntEnum(
    "PageAttr",
    {
        "EADD": 1,
        "EEXTEND": 2,
        "EREMOVE": 4,
        "POST_ADD": 8,
        "POST_REMOVE": 16,
        "DYN_THREAD": 32,
        "GROW_DOWN": 64,
    },
)
PAGE_ATTR_NAMES = {attr: attr.name for attr in PageAttr}

TCS_TEMPLATE_SIZE = 72  # bytes of a TCS that are not zero at first

EXTEND_FIPS_SIGNATURE = 0x1001
EXTEND_SHARED_OBJECT = 0x1002


class Version(NamedTuple):
    """A metadata version, written `major.minor`."""

    major: int
    minor: int

    @classmethod
    def from_word(cls, word: int) -> Version:
        """From the 64-bit version word of a block."""
        return cls(word >> 32, word & 0xFFFF_FFFF)

    @property
    def word(self) -> int:
        """The 64-bit version word of a block."""
        return self.major << 32 | self.minor

    @property
    def has_elrange(self) -> bool:
        """Whether a block of this version carries an ELRANGE entry."""
        return self.major > ELRANGE_MAJOR

    @property
    def with_elrange(self) -> Version:
        """That of the same block with an ELRANGE entry."""
        return Version(self.major + ELRANGE_MAJOR, self.minor)

    @property
    def directory_count(self) -> int:
        """4 since SDK 2.24; before, 2 in the header, and with ELRANGE a third where data start."""
        plain = Version(self.major % ELRANGE_MAJOR, self.minor)
        if plain in (Version(1, 5), Version(3, 2), Version(3, 3)):
            return 4
        return 3 if self.has_elrange else 2

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


_PLAIN = ((1, 3), (1, 4), (1, 5), (2, 1), (2, 2), (2, 3), (2, 4), (3, 0), (3, 1), (3, 2), (3, 3))
# The SDK got ELRANGE in 2.14, whose versions were 2.4 and 1.4.
_ELRANGE = ((11, 4), (11, 5), (12, 4), (13, 0), (13, 1), (13, 2), (13, 3))
KNOWN_VERSIONS = frozenset(Version(*v) for v in _PLAIN + _ELRANGE)


@record
class BlockHeader(Structure, size=64):
    """What stands before the SIGSTRUCT (metadata_t)."""

    magic: int = uint(0, 8, "MAGIC", default=MAGIC)
    version: int = uint(8, 8, "major << 32 | minor")
    size: int = uint(16, 4, "bytes of the block")
    tcs_policy: int = uint(20, 4, "0: bound to threads, 1: unbound")
    ssa_frame_size: int = uint(24, 4, "pages of an SSA frame")
    max_save_buffer_size: int = uint(28, 4, "bytes of the XSAVE area")
    desired_misc_select: int = uint(32, 4, "MISCSELECT that the loader tries to set")
    tcs_min_pool: int = uint(36, 4, "threads that are kept")
    enclave_size: int = uint(40, 8, "bytes of virtual address space, a power of two")
    attributes_flags: int = uint(48, 8, "ATTRIBUTES for SECS")
    attributes_xfrm: int = uint(56, 8, "XFRM for SECS")


@record
class Directory(Structure, size=8):
    """Where a table lies within the block (data_directory_t)."""

    offset: int = uint(0, 4, "bytes from the start of the block")
    size: int = uint(4, 4, "bytes")


@record
class PatchEntry(Structure, size=32):
    """Bytes of the block that the loader writes into the file image (patch_entry_t)."""

    dst: int = uint(0, 8, "file offset")
    src: int = uint(8, 4, "offset in the block")
    size: int = uint(12, 4, "bytes")
    reserved: bytes = raw(16, 16, "zero")


@record
class LayoutEntry(Structure, size=32):
    """Pages that the loader adds behind the image (layout_entry_t)."""

    id: int = uint(0, 2, "what the pages are, see `Block.layout_name`")
    attributes: int = uint(2, 2, "PageAttr bits")
    page_count: int = uint(4, 4, "pages")
    rva: int = uint(8, 8, "offset in the enclave")
    content_size: int = uint(16, 4, "bytes of content, or a 32-bit fill pattern")
    content_offset: int = uint(20, 4, "content in the block, or 0")
    si_flags: int = uint(24, 8, "SECINFO flags")


@record
class LayoutGroup(Structure, size=32):
    """Repeat the preceding entries (layout_group_t)."""

    id: int = uint(0, 2, "what is repeated, with LAYOUT_GROUP_FLAG")
    entry_count: int = uint(2, 2, "how many preceding entries")
    load_times: int = uint(4, 4, "how often")
    load_step: int = uint(8, 8, "bytes from one repetition to the next")
    reserved: bytes = raw(16, 16, "zero")


Layout = Union[LayoutEntry, LayoutGroup]


@record
class ElrangeEntry(Structure, size=24):
    """Address range of the enclave (elrange_config_entry_t)."""

    enclave_image_address: int = uint(0, 8, "address of the image")
    elrange_start_address: int = uint(8, 8, "SECS.BASEADDR")
    elrange_size: int = uint(16, 8, "SECS.SIZE")

    @property
    def base(self) -> int:
        """Bytes from SECS.BASEADDR to the image."""
        return self.enclave_image_address - self.elrange_start_address

    def problem(self, enclave_size: int) -> Optional[str]:
        """Why the tool and set_elrange_config (psw/urts/loader.cpp) refuse so many bytes in it."""
        image, start, size = dataclasses.astuple(self)
        if image % PAGE_SIZE or start % PAGE_SIZE or size % PAGE_SIZE:
            return "the ELRANGE addresses and size are not whole pages"
        if size == 0 or size & (size - 1):
            return "ELRangeSize is not a power of two"
        if start % size:
            return "ELRangeStartAddress is not a multiple of ELRangeSize"
        if not start <= image <= image + enclave_size <= start + size <= U64_MAX:
            return "the enclave does not fit its ELRANGE"
        return None

    def ranges(self, enclave_size: int) -> str:
        """What is to fit into what, for messages."""
        return (
            f"image 0x{self.enclave_image_address:x} of 0x{enclave_size:x} bytes, "
            f"range 0x{self.elrange_start_address:x} of 0x{self.elrange_size:x} bytes"
        )


@record
class ExtendEntry(Structure, size=16):
    """One extension of the block (extend_entry_t)."""

    entry_id: int = uint(0, 4, "EXTEND_*")
    size: int = uint(4, 4, "bytes")
    offset: int = uint(8, 4, "bytes from the start of the block")
    reserved: int = uint(12, 4, "zero")


# What the directories of a block are for, in their order, and the entries of each table.
TABLES: Mapping[str, type[Structure]] = {
    "patch": PatchEntry,
    "layout": LayoutEntry,
    "elrange": ElrangeEntry,
    "extend": ExtendEntry,
}


@record
class Block:
    """A metadata block at `offset` of a descriptor; `data` is the rest, up to `header.size`."""

    SIGSTRUCT_OFFSET: ClassVar[int] = BlockHeader.SIZE
    DIRECTORIES_OFFSET: ClassVar[int] = BlockHeader.SIZE + Sigstruct.SIZE

    offset: int
    header: BlockHeader
    sigstruct: Sigstruct
    directories: tuple[Directory, ...]
    data: bytes

    @classmethod
    def parse(cls, descriptor: bytes, offset: int = 0) -> Block:
        """Read the block at `offset` of a descriptor.

        Raises:
            UnsupportedError: a metadata version that no known SDK writes.
            FormatError: sizes or tables that do not fit the descriptor.
        """
        header = BlockHeader.parse(descriptor, offset)
        if header.magic != MAGIC:
            raise FormatError(
                "no metadata block",
                offset=offset,
                expected=f"magic 0x{MAGIC:x}",
                found=f"0x{header.magic:x}",
            )
        version = Version.from_word(header.version)
        if version not in KNOWN_VERSIONS:
            raise UnsupportedError(
                f"metadata version {version} is unknown",
                offset=offset,
                expected="one of " + ", ".join(str(v) for v in sorted(KNOWN_VERSIONS)),
                found=str(version),
                hint="a newer SDK needs a newer version of this program",
            )
        data_offset = cls.DIRECTORIES_OFFSET + version.directory_count * Directory.SIZE
        if header.size < data_offset or offset + header.size > len(descriptor):
            raise FormatError(
                "the metadata block's size does not fit the descriptor",
                offset=offset,
                expected=f"{data_offset} to {len(descriptor) - offset} bytes",
                found=f"{header.size} bytes",
            )
        data = descriptor[offset : offset + header.size]
        block = cls(
            offset,
            header,
            Sigstruct.parse(data, cls.SIGSTRUCT_OFFSET),
            Directory.parse_all(data[cls.DIRECTORIES_OFFSET : data_offset]),
            data[data_offset:],
        )
        block._check_tables()
        return block

    def serialise(self) -> bytes:
        """The `header.size` bytes of the block."""
        return (
            self.header.serialise()
            + self.sigstruct.serialise()
            + b"".join(d.serialise() for d in self.directories)
            + self.data
        )

    @property
    def version(self) -> Version:
        """The metadata version."""
        return Version.from_word(self.header.version)

    @property
    def data_offset(self) -> int:
        """Where `data` starts within the block."""
        return self.DIRECTORIES_OFFSET + len(self.directories) * Directory.SIZE

    def content(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of the block."""
        self._check_range("content", offset, size)
        return self._bytes[offset : offset + size]

    @functools.cached_property
    def _bytes(self) -> bytes:
        return self.serialise()

    @functools.cached_property
    def patches(self) -> tuple[PatchEntry, ...]:
        """The patch table."""
        return self._table(DIR_PATCH, PatchEntry)

    @functools.cached_property
    def layout(self) -> tuple[Layout, ...]:
        """The layout table: entries and groups in order."""
        entries = self._table(DIR_LAYOUT, LayoutEntry)
        return tuple(
            LayoutGroup.parse(entry.serialise()) if entry.id & LAYOUT_GROUP_FLAG else entry
            for entry in entries
        )

    def layout_name(self, item: Layout) -> str:
        """What a layout entry is; an unknown id is given as a number."""
        # SDK 1.x has other ids than later ones, and both write metadata 1.4: the entry of the TCS,
        # whose page type must be right, distinguishes them.
        early = any(
            isinstance(e, LayoutEntry) and (e.id, e.si_flags) == (OldLayoutId.TCS, SECINFO_TCS)
            for e in self.layout
        )
        number = item.id & ~LAYOUT_GROUP_FLAG
        names = (known.name for known in (OldLayoutId if early else LayoutId) if known == number)
        return next(names, f"id {item.id}")

    @functools.cached_property
    def elrange(self) -> Optional[ElrangeEntry]:
        """The ELRANGE entry; None unless the version says that there is one."""
        if not self.version.has_elrange:
            return None
        directory = self.directories[DIR_ELRANGE]
        if directory.offset == 0 or directory.size != ElrangeEntry.SIZE:
            raise FormatError("an ELRANGE block without its entry", offset=self.offset)
        return ElrangeEntry.parse(self._bytes, directory.offset)

    @functools.cached_property
    def extensions(self) -> tuple[ExtendEntry, ...]:
        """The extension table; empty before metadata 1.5 and 3.2."""
        if len(self.directories) <= DIR_EXTEND:
            return ()
        return self._table(DIR_EXTEND, ExtendEntry)

    @functools.cached_property
    def fips_offset(self) -> Optional[int]:
        """Where the FIPS signature stands in the block; None when there is none."""
        found = (e.offset for e in self.extensions if e.entry_id == EXTEND_FIPS_SIGNATURE)
        return next(found, None)

    @property
    def fips_signature(self) -> Optional[FipsSignature]:
        """The second signature of a block with EnableIPPFIPS."""
        offset = self.fips_offset
        return None if offset is None else FipsSignature.parse(self._bytes, offset)

    def _table(self, index: int, kind: type[StructureT]) -> tuple[StructureT, ...]:
        directory = self.directories[index]
        return kind.parse_all(self._bytes[directory.offset : directory.offset + directory.size])

    def _check_range(self, what: str, offset: int, size: int) -> None:
        if offset + size > self.header.size:
            raise FormatError(
                f"{what} leaves its metadata block",
                offset=self.offset + offset,
                expected=f"an end at most 0x{self.header.size:x}",
                found=f"0x{offset + size:x}",
            )

    def _check_tables(self) -> None:
        """Every directory, entry and content range within the block, whole entries only."""
        for directory, (name, kind) in zip(self.directories, TABLES.items()):
            self._check_range(f"the {name} table", directory.offset, directory.size)
            if directory.size % kind.SIZE:
                raise FormatError(
                    f"the {name} table ends within an entry",
                    offset=self.offset,
                    expected=f"a multiple of {kind.SIZE} bytes",
                    found=f"{directory.size} bytes",
                )
        for patch in self.patches:
            self._check_range("a patch", patch.src, patch.size)
        for extension in self.extensions:
            self._check_range("an extension", extension.offset, extension.size)
            if extension.entry_id == EXTEND_FIPS_SIGNATURE and extension.size != FipsSignature.SIZE:
                raise FormatError("a FIPS signature of another size", offset=self.offset)


@record
class Descriptor:
    """The metadata area: blocks, none if unsigned, and the tail, which the SDK leaves zero."""

    blocks: tuple[Block, ...]
    tail: bytes

    @classmethod
    def parse(cls, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Descriptor:
        """Read all blocks; offsets in errors count from the descriptor's start.

        Raises:
            FormatError, UnsupportedError: as `Block.parse`; also for what is no block and not zero.
            LimitError: more blocks than `limits` allows.
        """
        blocks: list[Block] = []
        position = 0
        magic = MAGIC.to_bytes(8, "little")
        while data[position : position + 8] == magic:
            message, count = "too many metadata blocks", len(blocks) + 1
            at_most(limits.metadata_blocks, count, message, offset=position)
            block = Block.parse(data, position)
            blocks.append(block)
            position += block.header.size
        if not blocks and any(data):
            raise FormatError(
                "the metadata area is neither empty nor a metadata block",
                offset=0,
                expected=f"magic 0x{MAGIC:x}",
                found=data[:8].hex(),
            )
        return cls(tuple(blocks), data[position:])

    def serialise(self) -> bytes:
        """The bytes that `parse` would read this descriptor from."""
        return b"".join(block.serialise() for block in self.blocks) + self.tail

    @property
    def is_signed(self) -> bool:
        """Whether there is any block."""
        return bool(self.blocks)
