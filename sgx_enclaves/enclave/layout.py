# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout table that the signing tool writes: heap, threads, reserved memory.

Source: CMetadata::build_layout_table and update_layout_entries in
sdk/sign_tool/SignTool/manage_metadata.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, page_ceil
from sgx_enclaves.enclave.metadata import (
    LAYOUT_GROUP_FLAG,
    TCS_TEMPLATE_SIZE,
    Layout,
    LayoutEntry,
    LayoutGroup,
)
from sgx_enclaves.enclave.metadata import (
    LayoutId as Id,
)
from sgx_enclaves.enclave.metadata import (
    PageAttr as Attr,
)
from sgx_enclaves.enclave.sdk import Generation, Overhead, Padding, Rules
from sgx_enclaves.enclave.sigstruct import SECINFO_RW, SECINFO_RWX, SECINFO_TCS
from sgx_enclaves.errors import ConfigError
from sgx_enclaves.plain import record

THREAD_GROUP = LAYOUT_GROUP_FLAG | Id.THREAD_GROUP
THREAD_GROUP_DYN = LAYOUT_GROUP_FLAG | Id.THREAD_GROUP_DYN
STACK_FILL = 0xCCCC_CCCC
GUARD_PAGES = 16
SSA_FRAMES = 2

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


@record
class Sizes:
    """The config's sizes and counts once defaults that depend on others are settled.

    All sizes in bytes; of heap and reserved memory the minimum, the initial size and the
    maximum. `pool` and `removed` are the threads besides the first that are kept, and those
    that are removed after the enclave's start; `min_pool` is what the config says, even if
    there are not as many threads.
    """

    heap: tuple[int, int, int]
    rsrv: tuple[int, int, int]
    rsrv_executable: bool
    stack_min: int
    stack_max: int
    user_region: int
    tcs_num: int
    tcs_max: int
    min_pool: int
    pool: int
    removed: int
    ssa_frame_size: int

    @classmethod
    def of(cls, values: Mapping[str, int], given: Mapping[str, int], ssa_frame_size: int) -> Sizes:
        """From all option values and those that the file really gives."""

        def steps(kind: str) -> tuple[int, int, int]:
            maximum = values[f"{kind}MaxSize"]
            return values[f"{kind}MinSize"], given.get(f"{kind}InitSize", maximum), maximum

        others = values["TCSNum"] - 1
        pool = min(values["TCSMinPool"], others)
        return cls(
            heap=steps("Heap"),
            rsrv=steps("ReservedMem"),
            rsrv_executable=bool(values["ReservedMemExecutable"]),
            stack_min=values["StackMinSize"],
            stack_max=values["StackMaxSize"],
            user_region=values["UserRegionSize"],
            tcs_num=values["TCSNum"],
            tcs_max=given.get("TCSMaxNum", values["TCSNum"]),
            min_pool=values["TCSMinPool"],
            pool=pool,
            removed=others - pool,
            ssa_frame_size=ssa_frame_size,
        )

    @property
    def is_dynamic(self) -> bool:
        """Whether any part of the enclave may grow or shrink while it runs (EDMM)."""
        fixed = self.stack_min == self.stack_max and self.tcs_max == self.pool + 1
        return not fixed or len(set(self.heap)) > 1 or len(set(self.rsrv)) > 1


@record
class LayoutPlan:
    """A finished layout table.

    Attributes:
        table: entries and groups, the padding to the enclave's size included.
        enclave_size: bytes, a power of two.
        overhead: bytes set apart for EDMM bookkeeping.
        rsrv_size: bytes of reserved memory that the global data name.
    """

    table: tuple[Layout, ...]
    enclave_size: int
    overhead: int = 0
    rsrv_size: int = 0

    def first(self, entry_id: int) -> LayoutEntry:
        """The first entry with an id; `KeyError` if there is none."""
        for item in self.table:
            if isinstance(item, LayoutEntry) and item.id == entry_id:
                return item
        raise KeyError(entry_id)


def plan_layout(
    image: EnclaveImage,
    sizes: Sizes,
    generation: Generation,
    tcs_offset: int,
    wants_sgx2: bool,
) -> LayoutPlan:
    """Lay out everything behind the image."""
    heap = (Id.HEAP_MIN, Id.HEAP_INIT, Id.HEAP_MAX)
    table: list[Layout] = [*_growing(heap, sizes.heap, SECINFO_RW)]
    thread = thread_entries(image, sizes, tcs_offset)
    table += _static_threads(thread, sizes, generation.rules)
    table += _dynamic_threads(thread, sizes, generation.rules)
    if any(sizes.rsrv):
        flags = SECINFO_RWX if sizes.rsrv_executable else SECINFO_RW
        table += _growing((Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX), sizes.rsrv, flags)
    overhead = 0
    if wants_sgx2 and generation.overhead is not Overhead.NONE:
        region, overhead = _user_region(image, sizes, generation)
        table.append(
            LayoutEntry(Id.USER_REGION, Attr.POST_ADD, pages_of(region), si_flags=SECINFO_RW)
        )
    placed, end = place(table, image.image_size)
    enclave_size = enclave_size_for(end)
    padded, rsrv_size = _pad(placed, end, enclave_size, sizes, generation)
    return LayoutPlan(tuple(padded), enclave_size, overhead, rsrv_size)


def pages_of(size: int) -> int:
    """Whole pages in `size` bytes; the tool keeps such counts in 32 bits."""
    return size // PAGE_SIZE & _U32


def _growing(ids: Sequence[int], steps: Sequence[int], flags: int) -> list[LayoutEntry]:
    """A heap or reserved memory: its minimum, and what it has beyond that."""
    minimum, initial, maximum = steps
    entries = [LayoutEntry(ids[0], Attr.EADD, pages_of(minimum), si_flags=flags)]
    if initial > minimum:
        attributes = Attr.EADD | Attr.POST_ADD | Attr.POST_REMOVE
        entries.append(LayoutEntry(ids[1], attributes, pages_of(initial - minimum), si_flags=flags))
    if maximum > initial:
        pages = pages_of(maximum - initial)
        entries.append(LayoutEntry(ids[2], Attr.POST_ADD, pages, si_flags=SECINFO_RW))
    return entries


def thread_entries(image: EnclaveImage, sizes: Sizes, tcs_offset: int) -> list[LayoutEntry]:
    """One thread: guard, stack, guard, TCS, SSA frames, guard, thread data and TLS."""
    added = Attr.EADD | Attr.EEXTEND
    guard = LayoutEntry(Id.GUARD, 0, GUARD_PAGES)
    stack = LayoutEntry(
        Id.STACK_MIN,
        added,
        pages_of(sizes.stack_min),
        content_size=STACK_FILL,
        si_flags=SECINFO_RW,
    )
    tcs = LayoutEntry(
        Id.TCS,
        added,
        1,
        content_size=TCS_TEMPLATE_SIZE,
        content_offset=tcs_offset,
        si_flags=SECINFO_TCS,
    )
    entries = [guard]
    if sizes.stack_max > sizes.stack_min:
        entries.append(
            replace(
                stack,
                id=Id.STACK_MAX,
                attributes=added | Attr.GROW_DOWN,
                page_count=pages_of(sizes.stack_max - sizes.stack_min),
            )
        )
    td_pages = pages_of(page_ceil(image.tls_size) + PAGE_SIZE)
    return [
        *entries,
        stack,
        guard,
        tcs,
        LayoutEntry(Id.SSA, added, sizes.ssa_frame_size * SSA_FRAMES, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(Id.TD, added, td_pages, si_flags=SECINFO_RW),
    ]


def _static_threads(thread: list[LayoutEntry], sizes: Sizes, rules: Rules) -> list[Layout]:
    """Threads that are there when the enclave starts: kept ones, then removed ones."""
    table: list[Layout]
    if rules is Rules.SDK_2_0:
        table = [*thread]
        if sizes.pool > 0:
            table.append(LayoutGroup(THREAD_GROUP, len(thread), sizes.pool))
    else:
        # The first thread also serves the runtime's own calls; its stack may shrink.
        table = [
            replace(e, attributes=e.attributes | Attr.POST_ADD | Attr.POST_REMOVE)
            if e.id == Id.STACK_MAX
            else e
            for e in thread
        ]
        if sizes.pool > 0:
            table += thread
        if sizes.pool > 1:
            table.append(LayoutGroup(THREAD_GROUP, len(thread), sizes.pool - 1))
    if sizes.removed > 0:
        table += [
            e if e.id == Id.GUARD else replace(e, attributes=e.attributes | Attr.EREMOVE)
            for e in thread
        ]
    if sizes.removed > 1:
        table.append(LayoutGroup(THREAD_GROUP, len(thread), sizes.removed - 1))
    return table


def _dynamic_threads(thread: list[LayoutEntry], sizes: Sizes, rules: Rules) -> list[Layout]:
    """Threads that are made later; one more than asked for, as the tool does."""
    if sizes.tcs_max <= sizes.pool + 1:
        return []
    table: list[Layout] = [_dynamic(e) for e in thread]
    if rules is not Rules.SDK_2_0 or sizes.tcs_max > sizes.min_pool:
        table.append(LayoutGroup(THREAD_GROUP_DYN, len(thread), sizes.tcs_max - sizes.pool - 1))
    return table


def _dynamic(entry: LayoutEntry) -> LayoutEntry:
    if entry.id == Id.GUARD:
        return entry
    attributes = Attr.POST_ADD | (Attr.GROW_DOWN if entry.id == Id.STACK_MAX else Attr.DYN_THREAD)
    return replace(entry, id=entry.id + Id.TCS_DYN - Id.TCS, attributes=attributes)


def enclave_size_for(end: int) -> int:
    """The power of two that holds `end` bytes."""
    size = 1 << max(0, (end - 1).bit_length())
    if size >> 64:
        raise ConfigError("the enclave does not fit an address space", found=f"0x{end:x} bytes")
    return size


def place(table: list[Layout], start: int) -> tuple[list[Layout], int]:
    """Give each entry its address, and each group the step between repetitions."""
    placed: list[Layout] = []
    position = start
    for item in table:
        if isinstance(item, LayoutEntry):
            placed.append(replace(item, rva=position & _U64))
            position += item.page_count * PAGE_SIZE
        else:
            members = placed[len(placed) - item.entry_count :]
            step = sum(m.page_count for m in members if isinstance(m, LayoutEntry)) * PAGE_SIZE
            placed.append(replace(item, load_step=step))
            position += item.load_times * step
    return placed, position


def _pad(
    placed: list[Layout], end: int, enclave_size: int, sizes: Sizes, generation: Generation
) -> tuple[list[Layout], int]:
    """Fill the enclave up to its size; returns the table and the reserved size to report."""
    rsrv_size = sizes.rsrv[1]
    extra = enclave_size - end
    if not extra:
        return placed, rsrv_size
    last = placed[-1]
    if (
        generation.padding is Padding.GROW_RESERVED
        and isinstance(last, LayoutEntry)
        and last.id in (Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX)
    ):
        grown = replace(last, page_count=last.page_count + extra // PAGE_SIZE & _U32)
        if last.id != Id.RSRV_MAX:
            rsrv_size += extra & _U32
        return [*placed[:-1], grown], rsrv_size
    return [*placed, LayoutEntry(Id.GUARD, 0, pages_of(extra), end)], rsrv_size


def _user_region(image: EnclaveImage, sizes: Sizes, generation: Generation) -> tuple[int, int]:
    """Bytes of the user region, and of them for EDMM bookkeeping.

    Source: CMetadata::calculate_rts_bk_overhead.
    """
    model = generation.overhead
    reserve, guards = 0x10000, GUARD_PAGES * PAGE_SIZE
    if model is Overhead.SDK_2_20:
        node, extra_node = _node_2_20, _allocation(_EMA)
    else:
        node, extra_node = (_node_2_19 if model is Overhead.SDK_2_19 else _node_2_18), 0
    models = {Overhead.EDMM_V5: _EMA, Overhead.SDK_2_18: _EMA, Overhead.SDK_2_19: 80}
    ema = models.get(model, _allocation(_EMA))
    total = _bookkeeping(image, sizes, node, ema) + extra_node
    user = sizes.user_region
    if model is Overhead.SDK_2_20:
        if user:
            total += max(PAGE_SIZE, page_ceil(user >> 15))
        overhead = _round_up(total + 32, reserve)
        return user + overhead + guards, overhead
    if model is Overhead.EDMM_V5:
        return page_ceil(total + 0x20000) + user, 0
    extra_user = user + page_ceil(user >> 15)
    if model is Overhead.SDK_2_19:
        count = (_round_up(total, reserve) >> 16).bit_length()
        return (((1 << count) - 1 + count) << 16) + extra_user, 0
    return page_ceil(total + 0x20000) + extra_user, 0


# sizeof(struct ema_t_) and sizeof(struct bit_array_) in the SDK's sgx-emm.
_EMA = 72
_BIT_ARRAY = 24


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _allocation(size: int) -> int:
    """Bytes that the runtime's allocator takes for `size` bytes."""
    return max(16, _round_up(size + 8, 8))


def _node_2_20(pages: int) -> int:
    bits = _round_up(pages, 8) // 8
    return _allocation(_EMA) + _allocation(_BIT_ARRAY) + _allocation(bits)


def _node_2_19(pages: int) -> int:
    return 80 + 32 + _round_up(pages, 128) // 8


def _node_2_18(pages: int) -> int:
    return _EMA + _BIT_ARRAY + _round_up(pages, 8) // 8


def _bookkeeping(image: EnclaveImage, sizes: Sizes, node: Callable[[int], int], ema: int) -> int:
    def steps(minimum: int, initial: int, maximum: int) -> int:
        total = node(pages_of(minimum))
        if initial > minimum:
            total += node(pages_of(initial - minimum))
        if maximum > initial:
            total += node(pages_of(maximum - initial))
        return total

    kept = 3 * ema + node(pages_of(sizes.stack_min)) + node(1)
    removed = 7 * ema
    if sizes.stack_max > sizes.stack_min:
        kept += node(pages_of(sizes.stack_max - sizes.stack_min))
        removed += ema
    kept += node(sizes.ssa_frame_size * SSA_FRAMES)
    kept += node(1 + page_ceil(image.tls_size) // PAGE_SIZE)
    threads = kept * (1 + sizes.pool) + removed * (1 + sizes.removed)
    if sizes.tcs_max > sizes.pool + 1:
        threads += kept * (sizes.tcs_max - sizes.pool)
    segments = sum(node(page_ceil(s.p_memsz) // PAGE_SIZE) for s in image.load_segments)
    return steps(*sizes.heap) + steps(*sizes.rsrv) + threads + segments
