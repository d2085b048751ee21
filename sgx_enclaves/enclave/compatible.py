# SPDX-License-Identifier: GPL-2.0-or-later
"""The block for loaders of SGX1: the newest one's pages, without what changes at run time.

Source: generate_compatible_metadata in sdk/sign_tool/SignTool/sign_tool.cpp.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from sgx_enclaves.enclave.elf import PAGE_SIZE
from sgx_enclaves.enclave.layout import (
    DYNAMIC_ID_STEP,
    GUARD,
    HEAP_INIT,
    HEAP_MAX,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    STACK_MAX,
    STACK_MIN,
    TD,
    THREAD_GROUP,
)
from sgx_enclaves.enclave.metadata import (
    ATTR_POST_ADD,
    DIR_LAYOUT,
    ELRANGE_MAJOR,
    Block,
    Directory,
    Layout,
    LayoutEntry,
    LayoutGroup,
    Version,
)
from sgx_enclaves.enclave.sdk import Rules


def compatible_block(block: Block, version: Version, rules: Rules, tcs_num: int) -> Block:
    """Derive the compatible block.

    Args:
        block: the newest one.
        version: the compatible version without ELRANGE.
        rules: the SDK's rules.
        tcs_num: threads that exist when the enclave starts.
    """
    if block.version.has_elrange:
        version = Version(version.major + ELRANGE_MAJOR, version.minor)
    if rules is Rules.SDK_2_3:
        table = compatible_layout(block.layout, tcs_num)
    else:
        table = early_compatible_layout(block.layout, tcs_num, rules)
    layout = b"".join(item.serialise() for item in table)
    old = block.directories[DIR_LAYOUT]
    directories = list(block.directories)
    directories[DIR_LAYOUT] = Directory(old.offset, len(layout))
    # The layout table is the last thing in a block.
    data = block.data[: old.offset - block.data_offset] + layout
    size = old.offset + len(layout)
    return replace(
        block,
        header=replace(block.header, version=version.word, size=size),
        directories=tuple(directories),
        data=data,
    )


def compatible_layout(table: tuple[Layout, ...], tcs_num: int) -> list[Layout]:
    """The layout of the compatible block since SDK 2.3."""
    first, last = _first_thread(table)
    rest = table[last + 1 :]
    if not rest:
        return _without_growth(table)
    if rest[0].id == RSRV_MIN:
        return _without_growth(table[: last + 1]) + _reserved_without_growth(rest)
    group = _group(table[first : last + 1], tcs_num - 1)
    reserved = [item for item in rest if item.id in (RSRV_MIN, RSRV_INIT, RSRV_MAX)]
    return [*_without_growth(table[: last + 1]), group, *_reserved_without_growth(reserved)]


def early_compatible_layout(table: tuple[Layout, ...], tcs_num: int, rules: Rules) -> list[Layout]:
    """The same before SDK 2.3: without threads made at run time, a plain copy."""
    dynamic = {STACK_MAX + DYNAMIC_ID_STEP, STACK_MIN + DYNAMIC_ID_STEP}
    stack = next((i for i, item in enumerate(table) if item.id in dynamic), None)
    if stack is None:
        return list(table)
    first, last = _first_thread(table)
    # The dynamic thread starts with a guard, one entry before its stack.
    others = table[last + 1 : stack - 1]
    grown = {HEAP_INIT, HEAP_MAX}
    groups: list[Layout] = []
    if rules is Rules.SDK_2_1_3:
        grown.add(STACK_MAX)
        groups = [_group(table[first : last + 1], tcs_num - 1)] if others else []
    elif others:
        groups = [_merged(others)]
    return [*_without_growth(table[: last + 1], grown), *groups]


def _merged(others: Sequence[Layout]) -> LayoutGroup:
    """All threads but the first as one group, as the tool counts them up to SDK 2.1.2."""
    head, tail = others[0], others[-1]
    if isinstance(head, LayoutGroup):
        if not isinstance(tail, LayoutGroup):
            return replace(head, load_times=head.load_times + 1)
        more = tail.load_times + 1 if len(others) > 1 else 0
        return replace(head, load_times=head.load_times + more)
    if isinstance(tail, LayoutGroup):
        return _group(others[:-1], tail.load_times + 1)
    return _group(others, 1)


def _first_thread(table: Sequence[Layout]) -> tuple[int, int]:
    """Where the first thread's guard and its thread data stand."""
    first = next(i for i, item in enumerate(table) if item.id == GUARD)
    last = next(i for i, item in enumerate(table) if item.id == TD)
    return first, last


def _group(members: Sequence[Layout], times: int) -> LayoutGroup:
    pages = sum(e.page_count for e in members if isinstance(e, LayoutEntry))
    return LayoutGroup(THREAD_GROUP, len(members), times, pages * PAGE_SIZE)


def _without_growth(
    table: Sequence[Layout], grown: Collection[int] = (HEAP_INIT, HEAP_MAX, STACK_MAX)
) -> list[Layout]:
    """Heap and stack that do not grow: what is not there at the start is left out."""
    seen: set[int] = set()
    result: list[Layout] = []
    for item in table:
        kept = item
        if isinstance(item, LayoutEntry) and item.id not in seen:
            seen.add(item.id)
            if item.id in grown:
                kept = _fixed(item, HEAP_MAX)
        result.append(kept)
    return result


def _reserved_without_growth(table: Sequence[Layout]) -> list[Layout]:
    return [
        _fixed(item, RSRV_MAX)
        if isinstance(item, LayoutEntry) and item.id in (RSRV_INIT, RSRV_MAX)
        else item
        for item in table
    ]


def _fixed(entry: LayoutEntry, unmapped_id: int) -> LayoutEntry:
    flags = 0 if entry.id == unmapped_id else entry.si_flags
    return replace(entry, attributes=entry.attributes & ~ATTR_POST_ADD, si_flags=flags)
