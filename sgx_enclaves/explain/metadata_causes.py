# SPDX-License-Identifier: GPL-2.0-or-later
"""The metadata area: its fields, and likely causes of differences, the hostile ones first.

A metadata block is read backwards: which config.xml would have given it? The same reading
of our regenerated block and of the vendor's block names the options that differ. It need
not be exact where an SDK rounds or pads, because both sides are read alike.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave import sigstruct
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE
from sgx_enclaves.enclave.metadata import (
    TABLES,
    Block,
    BlockHeader,
    Descriptor,
    Directory,
    ElrangeEntry,
    Layout,
    LayoutEntry,
    LayoutGroup,
    LayoutId,
    PageAttr,
    PatchEntry,
)
from sgx_enclaves.enclave.regenerate import Regenerated
from sgx_enclaves.enclave.sdk import release_of
from sgx_enclaves.enclave.verdict import Cause
from sgx_enclaves.errors import FormatError
from sgx_enclaves.explain.causes import cause
from sgx_enclaves.explain.file_map import Side
from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure

# Options whose default is the value of another one.
FOLLOWS: Mapping[str, str] = {
    "HeapInitSize": "HeapMaxSize",
    "ReservedMemInitSize": "ReservedMemMaxSize",
    "TCSMaxNum": "TCSNum",
}
# The SDK sizes this one after everything else.
LAST = "UserRegionSize"
_IDS = ("ISVFAMILYID_L", "ISVFAMILYID_H", "ISVEXTPRODID_L", "ISVEXTPRODID_H")
# The loader's patches are tiny but for g_global_data.
_GLOBAL_DATA_LEAST = 64
# Causes that are named of one kind.
_MOST = 8


@record
class Field:
    """Bytes `start` to `end` (exclusive) of the descriptor; a blob's name wants an offset."""

    name: str
    start: int
    end: int
    measured: bool = False
    is_blob: bool = False

    def label(self, offset: int) -> str:
        """The name, for a byte at `offset` of the descriptor."""
        return f"{self.name} +0x{offset - self.start:x}" if self.is_blob else self.name


def fields_by_byte(blocks: tuple[Block, ...], size: int) -> list[Field]:
    """For each byte of a descriptor of `size` bytes the field that it belongs to."""
    used = blocks[-1].offset + blocks[-1].header.size if blocks else 0
    owners = [Field("tail", used, size)] * size
    for index, block in enumerate(blocks):
        for field in reversed(list(_fields(block))):
            start, end = block.offset + field.start, min(block.offset + field.end, size)
            own = replace(field, name=f"block {index} {field.name}", start=start)
            owners[start:end] = [own] * (end - start)
    return owners


def _fields(block: Block) -> Iterator[Field]:
    """Where tables overlap, which is hostile, the first one counts."""
    # ECREATE measures these two; the other header fields are for the loader only.
    yield from _named(BlockHeader, "header", 0, False, "ssa_frame_size", "enclave_size")
    yield from _named(sigstruct.Sigstruct, "SIGSTRUCT", Block.SIGSTRUCT_OFFSET)
    for index, name in zip(range(len(block.directories)), TABLES):
        start = Block.DIRECTORIES_OFFSET + index * Directory.SIZE
        yield from _named(Directory, f"directory {name}", start)
    for directory, (name, kind) in zip(block.directories, TABLES.items()):
        for index, start in enumerate(range(0, directory.size, kind.SIZE)):
            prefix = name if kind is ElrangeEntry else f"{name}[{index}]"
            own = kind
            measured, always = kind in (PatchEntry, ElrangeEntry), ""
            if kind is LayoutEntry:
                item = block.layout[index]
                # Without EADD only the attributes matter: they could ask for it.
                measured = isinstance(item, LayoutGroup) or bool(item.attributes & PageAttr.EADD)
                own, always = type(item), "attributes"
            yield from _named(own, prefix, directory.offset + start, measured, always)
    for index, patch in enumerate(block.patches):
        is_global = index == 0 and patch.size >= _GLOBAL_DATA_LEAST
        name = "global data" if is_global else f"content of patch[{index}]"
        yield Field(name, patch.src, patch.src + patch.size, True, True)
    for index, item in enumerate(block.layout):
        if isinstance(item, LayoutEntry) and item.content_offset:
            start = item.content_offset
            is_tcs = item.si_flags == sigstruct.SECINFO_TCS
            name = "TCS template" if is_tcs else f"content of layout[{index}]"
            yield Field(name, start, start + item.content_size, True, True)
    if block.fips_offset is not None:
        yield from _named(sigstruct.FipsSignature, "FIPS signature", block.fips_offset)
    # What no table refers to.
    tables = [at for d in block.directories if d.size for at in (d.offset, d.offset + d.size)]
    edges = sorted({block.data_offset, block.header.size, *tables})
    for start, end in zip(edges, edges[1:]):
        yield Field("data", start, end, False, True)


def _named(
    kind: type[Structure], prefix: str, start: int, measured: bool = False, *always: str
) -> Iterator[Field]:
    for spec in kind.table():
        begin, own = start + spec.offset, measured or spec.name in always
        yield Field(f"{prefix}.{spec.name}", begin, begin + spec.size, own)


def options_of(block: Block) -> dict[str, int]:
    """Option name to the value that the block shows."""
    signed, header = block.sigstruct, block.header
    flags, mask = signed.attributes_flags, signed.attributemask_xfrm
    ids = struct.unpack("<4Q", signed.isvfamilyid + signed.isvextprodid)
    options = {
        "ProdID": signed.isvprodid,
        "ISVSVN": signed.isvsvn,
        "ReleaseType": int(bool(signed.type & sigstruct.TYPE_DEBUG)),
        "IntelSigned": int(signed.vendor == sigstruct.VENDOR_INTEL),
        **{name: int(bool(flags & bit)) for name, bit in sigstruct.FLAG_OPTIONS.items()},
        "DisableDebug": int(bool(signed.attributemask_flags & sigstruct.Attribute.DEBUG)),
        "HW": signed.swdefined,
        "TCSPolicy": header.tcs_policy,
        "TCSMinPool": header.tcs_min_pool,
        "MiscSelect": signed.miscselect | header.desired_misc_select,
        "MiscMask": signed.miscmask,
        # 0: must be off, 1: must be on, 2: as the platform likes.
        **{
            name: int(bool(signed.attributes_xfrm & bits)) if mask & bits else 2
            for name, bits in sigstruct.XFRM_OPTIONS.items()
        },
        **dict(zip(_IDS, ids)),
        **_layout_options(block.layout),
    }
    with contextlib.suppress(FormatError):
        elrange = block.elrange or ElrangeEntry()
        options["EnclaveImageAddress"] = elrange.enclave_image_address
        options["ELRangeStartAddress"] = elrange.elrange_start_address
        options["ELRangeSize"] = elrange.elrange_size
        options["EnableIPPFIPS"] = int(block.fips_offset is not None)
    return options


def _layout_options(table: tuple[Layout, ...]) -> dict[str, int]:
    entries = [item for item in table if isinstance(item, LayoutEntry)]
    # Of several of one kind the first counts.
    pages = {entry.id: entry.page_count for entry in reversed(entries)}

    def size(*ids: int) -> int:
        return sum(pages.get(i, 0) for i in ids) * PAGE_SIZE

    loads = _loads(table)
    kept, removed = loads[LayoutId.TCS, False], loads[LayoutId.TCS, True]
    dynamic = loads[LayoutId.TCS_DYN, False] + loads[LayoutId.TCS_DYN, True]
    reserved = (entry for entry in entries if entry.id == LayoutId.RSRV_MIN)
    return {
        "HeapMinSize": size(LayoutId.HEAP_MIN),
        "HeapInitSize": size(LayoutId.HEAP_MIN, LayoutId.HEAP_INIT),
        "HeapMaxSize": size(LayoutId.HEAP_MIN, LayoutId.HEAP_INIT, LayoutId.HEAP_MAX),
        "StackMinSize": size(LayoutId.STACK_MIN),
        "StackMaxSize": size(LayoutId.STACK_MIN, LayoutId.STACK_MAX),
        "ReservedMemMinSize": size(LayoutId.RSRV_MIN),
        "ReservedMemInitSize": size(LayoutId.RSRV_MIN, LayoutId.RSRV_INIT),
        "ReservedMemMaxSize": size(LayoutId.RSRV_MIN, LayoutId.RSRV_INIT, LayoutId.RSRV_MAX),
        "ReservedMemExecutable": int(any(e.si_flags & sigstruct.SECINFO_X for e in reserved)),
        "TCSNum": kept + removed,
        # The SDK's table makes one thread more than the option says.
        "TCSMaxNum": kept + (dynamic - 1 if dynamic else removed),
        LAST: size(LayoutId.USER_REGION),
    }


def _loads(table: tuple[Layout, ...]) -> Counter[tuple[int, bool]]:
    """How often entries are loaded, by what they are and whether they go after the start."""
    counts = Counter[tuple[int, bool]]()
    for index, item in enumerate(table):
        members, times = table[index : index + 1], 1
        if isinstance(item, LayoutGroup):
            members, times = table[max(0, index - item.entry_count) : index], item.load_times
        for member in members:
            if isinstance(member, LayoutEntry):
                counts[member.id, bool(member.attributes & PageAttr.EREMOVE)] += times
    return counts


def hostile_causes(
    regenerated: Regenerated, vendor: Descriptor, places: Side, theirs: Optional[Side]
) -> Iterator[Cause]:
    """What no signing tool writes: metadata that changes or adds pages at load time.

    `places` is of our build; `theirs` knows where the vendor's own g_global_data is.
    """
    moved = theirs.global_data if theirs is not None else None
    for index, block in enumerate(vendor.blocks):
        ours = regenerated.blocks[min(index, len(regenerated.blocks) - 1)]
        patches = _patches(index, ours, block, places, moved)
        for what, found in (("patches", patches), ("layout entries", _layout(index, ours, block))):
            causes = list(found)
            yield from causes[:_MOST]
            if len(causes) > _MOST:
                more = f"... and {len(causes) - _MOST} more such {what}"
                yield replace(causes[0], message=more)
    if any(vendor.tail):
        yield cause("metadata-tail", size=len(vendor.tail) - vendor.tail.count(0))


def _patches(
    index: int, ours: Block, block: Block, places: Side, moved: Optional[tuple[int, int]]
) -> Iterator[Cause]:
    targets = {(p.dst, p.size) for p in ours.patches} | {moved}
    for number, patch in enumerate(block.patches):
        at, size = patch.dst, patch.size
        if (at, size) in targets:
            continue
        target = places.section(at) or places.header_field(at) or "the file"
        symbol = places.symbol(at)
        target += f" at 0x{at:x}" + (f" (symbol {symbol})" if symbol else "")
        measured = places.measures(at, at + size)
        effect = "patches measured bytes at load: hostile" if measured else "is not the SDK's"
        where = f"patch[{number}] of block {index}"
        yield cause("metadata-patch", patch=where, size=size, target=target, effect=effect)


def _layout(index: int, ours: Block, block: Block) -> Iterator[Cause]:
    usual = {_kind(e) for e in ours.layout if isinstance(e, LayoutEntry)}
    for number, item in enumerate(block.layout):
        if not isinstance(item, LayoutEntry) or _kind(item) in usual:
            continue
        if item.content_offset and item.si_flags != sigstruct.SECINFO_TCS:
            reason = "with content out of the metadata"
        elif item.attributes & PageAttr.EADD and item.si_flags & sigstruct.SECINFO_X:
            reason = "of code that our build and the config do not ask for"
        elif item.id not in list(LayoutId):
            reason = "of a kind that no SDK knows"
        else:
            continue
        entry = f"layout[{number}] of block {index} ({block.layout_name(item)})"
        pages = f"{item.page_count} pages ({sigstruct.spell_secinfo(item.si_flags)})"
        yield cause("metadata-layout", entry=entry, pages=pages, reason=reason)


def _kind(item: LayoutEntry) -> tuple[int, int, bool]:
    return item.id, item.si_flags, bool(item.content_offset)


def generation_causes(
    regenerated: Optional[Regenerated],
    vendor: Optional[Descriptor],
    ours: Side,
    theirs: Optional[Side],
) -> Iterator[Cause]:
    """Signs of another SDK: version word, size of the metadata area, metadata versions."""
    signs = []
    if theirs is not None and ours.sdk_word != theirs.sdk_word:
        found, expected = _release(theirs.sdk_word), _release(ours.sdk_word)
        signs.append(f"g_global_data names SDK {found}, in our build {expected}")
    sizes = [s.image.descriptor_size for s in (theirs, ours) if s is not None]
    if len(set(sizes)) > 1:
        signs.append(f"its metadata area has {sizes[0]} bytes, ours {sizes[1]}")
    if regenerated is not None and vendor is not None:
        found, expected = _versions(vendor.blocks), _versions(regenerated.blocks)
        if found != expected:
            signs.append(
                f"its metadata blocks are of version {found}, "
                f"SDK {regenerated.generation.name} with this config writes {expected}"
            )
    if signs:
        yield cause("sdk-generation", signs="; ".join(signs))


def _release(word: Optional[int]) -> str:
    return release_of(word) if word is not None and 0 < word >> 32 < 100 else "none"


def _versions(blocks: tuple[Block, ...]) -> str:
    return ", ".join(str(b.version) for b in blocks) or "none"


def config_causes(regenerated: Regenerated, vendor: Descriptor, config: Config) -> Iterator[Cause]:
    """The options of config.xml whose effect on a block is another one."""
    seen: dict[tuple[str, int, int], list[int]] = {}
    for index, (ours, theirs) in enumerate(zip(regenerated.blocks, vendor.blocks)):
        yield from _xfrm_causes(ours, theirs, index)
        expected, found = options_of(ours), options_of(theirs)
        different = [n for n in expected if n in found and expected[n] != found[n]]
        for name in different:
            follows = FOLLOWS.get(name) in different and name not in config.given
            if not follows and (name != LAST or len(different) == 1):
                seen.setdefault((name, expected[name], found[name]), []).append(index)
    for (name, ours_is, theirs_is), indexes in list(seen.items())[: 2 * _MOST]:
        blocks = f"{'block' if len(indexes) == 1 else 'blocks'} {', '.join(map(str, indexes))}"
        default = "" if name in config.given else " (its default)"
        values = {"theirs": _spelled(theirs_is), "ours": _spelled(ours_is) + default}
        yield cause("config-value", option=name, blocks=blocks, config=config.name, **values)


def _spelled(value: int) -> str:
    return str(value) if value < 4096 else f"0x{value:x}"


def _xfrm_causes(ours: Block, theirs: Block, index: int) -> Iterator[Cause]:
    """CPU features that a signer asks for beyond what config.xml can say, as Occlum's does."""
    signed = [(b.sigstruct.attributes_xfrm, b.sigstruct.attributemask_xfrm) for b in (ours, theirs)]
    wrong = signed[0][0] ^ signed[1][0] | signed[0][1] ^ signed[1][1]
    if wrong & ~sum(sigstruct.XFRM_OPTIONS.values()):
        expected, found = (
            f"{sigstruct.spell(xfrm, sigstruct.XFRM_NAMES)} (0x{xfrm:x}, mask 0x{mask:x})"
            for xfrm, mask in signed
        )
        yield cause("xfrm", block=index, theirs=found, ours=expected)
