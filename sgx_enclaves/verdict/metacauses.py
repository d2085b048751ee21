# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of differences in the metadata, the hostile ones first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.format.attributes import SECINFO_TCS, SECINFO_X, spell_secinfo
from sgx_enclaves.format.config import Config
from sgx_enclaves.format.metadata import (
    ATTR_EADD,
    LAYOUT_NAMES,
    Block,
    Descriptor,
    LayoutEntry,
    PatchEntry,
)
from sgx_enclaves.signing.regenerate import Regenerated
from sgx_enclaves.verdict.model import Cause
from sgx_enclaves.verdict.options import FOLLOWS, LAST, options_of
from sgx_enclaves.verdict.places import Places
from sgx_enclaves.verdict.traces import Traces

_HOSTILE = "do not use this file: nothing that the SDK's tool writes looks like this"
_MOST = 8


def hostile_causes(
    regenerated: Regenerated, vendor: Descriptor, places: Places, theirs: Optional[Traces]
) -> Iterator[Cause]:
    """What no signing tool writes: metadata that changes or adds pages at load time.

    Args:
        regenerated: the metadata as they should be.
        vendor: the vendor's.
        places: of our build, to name what a patch overwrites.
        theirs: where the vendor's own g_global_data is, in a file that differs elsewhere too.
    """
    moved = theirs.global_data if theirs is not None else None
    for index, block in enumerate(vendor.blocks):
        ours = _counterpart(regenerated, index)
        yield from _patches(index, ours, block, places, moved)
        yield from _layout(index, ours, block)
    if any(vendor.tail):
        used = len(vendor.tail) - vendor.tail.count(0)
        yield Cause(
            "metadata-tail",
            f"{used} bytes behind the last metadata block are not zero; neither the measurement "
            "nor a signature covers them",
            "the SDK's tool leaves them zero: ask what put them there",
        )


def _counterpart(regenerated: Regenerated, index: int) -> Block:
    return regenerated.blocks[min(index, len(regenerated.blocks) - 1)]


def _patches(
    index: int, ours: Block, block: Block, places: Places, moved: Optional[tuple[int, int]]
) -> Iterator[Cause]:
    targets = {(p.dst, p.size) for p in ours.patches} | {moved}
    strange = [(n, p) for n, p in enumerate(block.patches) if (p.dst, p.size) not in targets]
    for number, patch in strange[:_MOST]:
        measured = places.measures(patch.dst, patch.dst + patch.size)
        effect = "patches measured bytes at load: hostile" if measured else "is not the SDK's"
        yield Cause(
            "metadata-patch",
            f"patch[{number}] of block {index} overwrites {patch.size} bytes of "
            f"{_target(patch, places)} when the enclave is loaded: the metadata {effect}",
            _HOSTILE,
        )
    yield from _more(len(strange), "metadata-patch", "patches")


def _more(count: int, code: str, what: str) -> Iterator[Cause]:
    if count > _MOST:
        yield Cause(code, f"... and {count - _MOST} more such {what}", _HOSTILE)


def _target(patch: PatchEntry, places: Places) -> str:
    name = places.section(patch.dst) or places.header_field(patch.dst) or "the file"
    symbol = places.symbol(patch.dst)
    return f"{name} at 0x{patch.dst:x}" + (f" (symbol {symbol})" if symbol else "")


def _layout(index: int, ours: Block, block: Block) -> Iterator[Cause]:
    usual = {_kind(e) for e in ours.layout if isinstance(e, LayoutEntry)}
    strange = [
        (number, item, reason)
        for number, item in enumerate(block.layout)
        if isinstance(item, LayoutEntry) and _kind(item) not in usual
        for reason in (_strangeness(item),)
        if reason
    ]
    for number, item, reason in strange[:_MOST]:
        name = block.layout_name(item)
        yield Cause(
            "metadata-layout",
            f"layout[{number}] of block {index} ({name}) adds {item.page_count} pages "
            f"({spell_secinfo(item.si_flags)}) {reason}: hostile",
            _HOSTILE,
        )
    yield from _more(len(strange), "metadata-layout", "layout entries")


def _kind(item: LayoutEntry) -> tuple[int, int, bool]:
    return item.id, item.si_flags, bool(item.content_offset)


def _strangeness(item: LayoutEntry) -> Optional[str]:
    if item.content_offset and item.si_flags != SECINFO_TCS:
        return "with content out of the metadata"
    if item.attributes & ATTR_EADD and item.si_flags & SECINFO_X:
        return "of code that our build and the config do not ask for"
    if item.id not in LAYOUT_NAMES:
        return "of a kind that no SDK knows"
    return None


def generation_causes(
    regenerated: Optional[Regenerated],
    vendor: Optional[Descriptor],
    ours: Traces,
    theirs: Optional[Traces],
) -> Iterator[Cause]:
    """Signs of another SDK: version word, size of the metadata area, metadata versions."""
    signs = []
    if theirs is not None and ours.sdk_word != theirs.sdk_word:
        signs.append(
            f"g_global_data names SDK {_release(theirs.sdk_word)}, "
            f"in our build {_release(ours.sdk_word)}"
        )
    if theirs is not None and ours.descriptor_size != theirs.descriptor_size:
        signs.append(
            f"its metadata area has {theirs.descriptor_size} bytes, ours {ours.descriptor_size}"
        )
    if regenerated is not None and vendor is not None:
        found, expected = _versions(vendor.blocks), _versions(regenerated.blocks)
        if found != expected:
            signs.append(
                f"its metadata blocks are of version {found}, "
                f"SDK {regenerated.generation.name} with this config writes {expected}"
            )
    if signs:
        yield Cause(
            "sdk-generation",
            f"the vendor's file was made with another SDK or kind of config: {'; '.join(signs)}",
            "build with that SDK's sources, and take the config.xml of the same tag",
        )


def _release(word: Optional[int]) -> str:
    if word is None or not 0 < word >> 32 < 100:
        return "none"
    return f"{word >> 32}.{word >> 16 & 0xFFFF}"


def _versions(blocks: tuple[Block, ...]) -> str:
    return ", ".join(str(b.version) for b in blocks) or "none"


def config_causes(regenerated: Regenerated, vendor: Descriptor, config: Config) -> Iterator[Cause]:
    """The options of config.xml whose effect on a block is another one."""
    seen: dict[tuple[str, int, int], list[int]] = {}
    for index, (ours, theirs) in enumerate(zip(regenerated.blocks, vendor.blocks)):
        expected, found = options_of(ours), options_of(theirs)
        different = [n for n in expected if n in found and expected[n] != found[n]]
        for name in different:
            follows = FOLLOWS.get(name)
            if follows in different and name not in config.given:
                continue
            if name == LAST and len(different) > 1:
                continue
            seen.setdefault((name, expected[name], found[name]), []).append(index)
    for (name, expected_value, found_value), indexes in list(seen.items())[: 2 * _MOST]:
        where = "block" if len(indexes) == 1 else "blocks"
        origin = "" if name in config.given else " (its default)"
        yield Cause(
            "config-value",
            f"{name}: {where} {', '.join(map(str, indexes))} of the vendor's file "
            f"{_says(found_value)}, {config.name} {_says(expected_value)}{origin}",
            "take the config.xml of the tag that the enclave was released from",
        )


def _says(value: int) -> str:
    return f"says {value}" if value < 4096 else f"says 0x{value:x}"
