# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout table that the signing tool writes: heap, threads, reserved memory.

Before SGX2 (SDK 1.5 to 1.9) the heap did not grow, all threads were alike, a guard was one
page, and layout entries had other ids than since 2.0.

Source: CMetadata::build_layout_table and update_layout_entries in
sdk/sign_tool/SignTool/manage_metadata.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U32_MAX, U64_MAX, page_ceil
from sgx_enclaves.enclave.metadata import (
    LAYOUT_GROUP_FLAG,
    TCS_TEMPLATE_SIZE,
    Layout,
    LayoutEntry,
    LayoutGroup,
    Version,
)
from sgx_enclaves.enclave.metadata import (
    LayoutId as Id,
)
from sgx_enclaves.enclave.metadata import (
    OldLayoutId as OldId,
)
from sgx_enclaves.enclave.metadata import (
    PageAttr as Attr,
)
from sgx_enclaves.enclave.sdk import Generation, Overhead, Rules
from sgx_enclaves.enclave.sigstruct import SECINFO_RW, SECINFO_RWX, SECINFO_TCS
from sgx_enclaves.errors import ConfigError
from sgx_enclaves.plain import record

THREAD_GROUP = LAYOUT_GROUP_FLAG | Id.THREAD_GROUP
THREAD_GROUP_DYN = LAYOUT_GROUP_FLAG | Id.THREAD_GROUP_DYN
STACK_FILL = 0xCCCC_CCCC
GUARD_PAGES = 16
SSA_FRAMES = 2

# Rules by which the first thread is laid out as the other ones are.
_ALIKE = (Rules.SDK_1_5, Rules.SDK_2_0)
_EARLY_IDS: Mapping[int, int] = {
    **{Id[name]: OldId[name] for name in ("TCS", "TD", "SSA", "GUARD")},
    **{Id.HEAP_MIN: OldId.HEAP, Id.STACK_MIN: OldId.STACK},
    THREAD_GROUP: LAYOUT_GROUP_FLAG | OldId.THREAD_GROUP,
}


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
        table: entries and groups, the padding to the enclave's size included; their ids are
            those since SDK 2.0.
        data: the table as the SDK writes it.
        enclave_size: bytes, a power of two.
        overhead: bytes set apart for EDMM bookkeeping.
        rsrv_size: bytes of reserved memory that the global data name.
    """

    table: tuple[Layout, ...]
    data: bytes
    enclave_size: int
    overhead: int
    rsrv_size: int

    @property
    def thread_data(self) -> int:
        """Bytes from the first TCS to its thread's data, the last page of an entry."""
        pages = self.first(Id.TD).page_count
        return self.from_tcs(Id.TD) + (pages - 1) * PAGE_SIZE

    def from_tcs(self, entry_id: int) -> int:
        """Bytes from the first TCS to the first entry with an id."""
        return self.first(entry_id).rva - self.first(Id.TCS).rva

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
    is_early = generation.rules is Rules.SDK_1_5
    heap = _growing((Id.HEAP_MIN, Id.HEAP_INIT, Id.HEAP_MAX), sizes.heap, SECINFO_RW)
    thread = _thread(image, sizes, tcs_offset, 1 if is_early else GUARD_PAGES)
    flags = SECINFO_RWX if sizes.rsrv_executable else SECINFO_RW
    reserved = _growing((Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX), sizes.rsrv, flags)
    table: list[Layout] = [*heap, *_static_threads(thread, sizes, generation.rules)]
    table += _dynamic_threads(thread, sizes, generation.rules)
    table += reserved if any(sizes.rsrv) else []
    overhead = 0
    if wants_sgx2 and generation.overhead is not Overhead.NONE:
        segments = [page_ceil(s.p_memsz) // PAGE_SIZE for s in image.load_segments]
        pages = [*segments, *(e.page_count for e in (*heap, *reserved))]
        region, overhead = _user_region(pages, thread, sizes, generation.overhead)
        table.append(
            LayoutEntry(Id.USER_REGION, Attr.POST_ADD, pages_of(region), si_flags=SECINFO_RW)
        )
    start = image.image_size
    if generation.newest == Version(1, 3):
        # The highest segment's size is rounded before its address is added, and again after.
        top = max(image.load_segments, key=lambda s: s.p_vaddr)
        start = page_ceil(top.p_vaddr + page_ceil(top.p_memsz))
    placed, end = place(table, start)
    enclave_size = enclave_size_for(end)
    padded, rsrv_size = _pad(placed, end, enclave_size, sizes, generation)
    written = [replace(e, id=_EARLY_IDS[e.id]) for e in padded] if is_early else padded
    data = b"".join(item.serialise() for item in written)
    return LayoutPlan(tuple(padded), data, enclave_size, overhead, rsrv_size)


def pages_of(size: int) -> int:
    """Whole pages in `size` bytes; the tool keeps such counts in 32 bits."""
    return size // PAGE_SIZE & U32_MAX


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


def _thread(
    image: EnclaveImage, sizes: Sizes, tcs_offset: int, guard_pages: int
) -> list[LayoutEntry]:
    """One thread: guard, stack, guard, TCS, SSA frames, guard, thread data and TLS."""
    added = Attr.EADD | Attr.EEXTEND
    guard = LayoutEntry(Id.GUARD, 0, guard_pages)
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
    if rules in _ALIKE:
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
            placed.append(replace(item, rva=position & U64_MAX))
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
        generation.grows_reserved
        and isinstance(last, LayoutEntry)
        and last.id in (Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX)
    ):
        grown = replace(last, page_count=last.page_count + extra // PAGE_SIZE & U32_MAX)
        if last.id != Id.RSRV_MAX:
            rsrv_size += extra & U32_MAX
        return [*placed[:-1], grown], rsrv_size
    return [*placed, LayoutEntry(Id.GUARD, 0, pages_of(extra), end)], rsrv_size


# sizeof(struct ema_t_) and sizeof(struct bit_array_) in the SDK's sgx-emm.
_EMA = 72
_BIT_ARRAY = 24


def _user_region(
    pages: Sequence[int], thread: Sequence[LayoutEntry], sizes: Sizes, model: Overhead
) -> tuple[int, int]:
    """Bytes of the user region, and of them for EDMM bookkeeping.

    Source: CMetadata::calculate_rts_bk_overhead.

    Args:
        pages: of each segment, and of each part of heap and reserved memory.
        thread: the entries of one thread.
    """
    user, reserve = sizes.user_region, 0x10000
    bitmap = page_ceil(user >> 15)
    if model is Overhead.SDK_2_20:
        total = _bookkeeping(pages, thread, sizes, _node_2_20, _allocation(_EMA))
        total += _allocation(_EMA)
        if user:
            total += max(PAGE_SIZE, bitmap)
        overhead = _round_up(total + 32, reserve)
        return user + overhead + GUARD_PAGES * PAGE_SIZE, overhead
    if model is Overhead.SDK_2_19:
        total = _bookkeeping(pages, thread, sizes, _node_2_19, 80)
        count = (_round_up(total, reserve) >> 16).bit_length()
        return (((1 << count) - 1 + count) << 16) + user + bitmap, 0
    total = _bookkeeping(pages, thread, sizes, _node_2_18, _EMA)
    region = page_ceil(total + 0x20000) + user
    return region if model is Overhead.EDMM_V5 else region + bitmap, 0


def _bookkeeping(
    pages: Sequence[int],
    thread: Sequence[LayoutEntry],
    sizes: Sizes,
    node: Callable[[int], int],
    ema: int,
) -> int:
    """Bytes of a node for each range of pages that there are or can be."""
    kept = sum(ema if e.id == Id.GUARD else node(e.page_count) for e in thread)
    total = sum(map(node, pages))
    total += kept * (1 + sizes.pool) + ema * len(thread) * (1 + sizes.removed)
    if sizes.tcs_max > sizes.pool + 1:
        total += kept * (sizes.tcs_max - sizes.pool)
    return total


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
