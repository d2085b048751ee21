# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout table that the signing tool writes: heap, threads, reserved memory.

Before SGX2 (SDK 1.5 to 1.9) the heap did not grow, all threads were alike, a guard was one
page, and layout entries had other ids than since 2.0.

Source: CMetadata::build_layout_table and update_layout_entries in
sdk/sign_tool/SignTool/manage_metadata.cpp, generate_compatible_metadata in sign_tool.cpp.
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
    LayoutId as Id,
    OldLayoutId as OldId,
    PageAttr as Attr,
    Version,
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

_GROWN = (Id.HEAP_INIT, Id.HEAP_MAX, Id.STACK_MAX, Id.RSRV_INIT, Id.RSRV_MAX)
_RESERVED = (Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX)
# Rules by which the first thread is laid out as the other ones are.
_ALIKE = (Rules.SDK_1_5, Rules.SDK_2_0)
_EARLY_IDS: Mapping[int, int] = {
    **{Id[name]: OldId[name] for name in ("TCS", "TD", "SSA", "GUARD")},
    **{Id.HEAP_MIN: OldId.HEAP, Id.STACK_MIN: OldId.STACK},
    THREAD_GROUP: LAYOUT_GROUP_FLAG | OldId.THREAD_GROUP,
}


def kept_threads(values: Mapping[str, int]) -> int:
    """How many threads there are for good: the first, and the pool."""
    return 1 + min(values["TCSMinPool"], values["TCSNum"] - 1)


def is_dynamic(values: Mapping[str, int]) -> bool:
    """Whether any part of the enclave may grow or shrink while it runs (EDMM)."""
    kinds = ("Stack", "Heap", "ReservedMem")
    grows = any(values[f"{kind}MinSize"] < values[f"{kind}MaxSize"] for kind in kinds)
    return grows or values["TCSMaxNum"] > kept_threads(values)


@record
class LayoutPlan:
    """A finished layout table.

    Attributes:
        table: the padding to the enclave's size included; the ids are those since SDK 2.0.
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
    values: Mapping[str, int],
    frame: int,
    generation: Generation,
    tcs_offset: int,
    wants_sgx2: bool,
) -> LayoutPlan:
    """Lay out everything behind the image.

    An SSA frame has `frame` pages; the template of a TCS is at `tcs_offset` of the block.
    """
    is_early = generation.rules is Rules.SDK_1_5
    heap = _growing("HEAP", "Heap", values, SECINFO_RW)
    thread = _thread(image, values, frame, tcs_offset, 1 if is_early else GUARD_PAGES)
    flags = SECINFO_RWX if values["ReservedMemExecutable"] else SECINFO_RW
    reserved = _growing("RSRV", "ReservedMem", values, flags)
    table: list[Layout] = [*heap, *_static_threads(thread, values, generation.rules)]
    table += _dynamic_threads(thread, values, generation.rules)
    table += reserved if values["ReservedMemMaxSize"] else []
    overhead = 0
    if wants_sgx2 and generation.overhead is not Overhead.NONE:
        segments = [page_ceil(s.p_memsz) // PAGE_SIZE for s in image.load_segments]
        pages = [*segments, *(e.page_count for e in (*heap, *reserved))]
        region, overhead = _user_region(pages, thread, values, generation.overhead)
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
    padded, rsrv_size = _pad(placed, end, enclave_size, values, generation)
    written = [replace(e, id=_EARLY_IDS[e.id]) for e in padded] if is_early else padded
    data = b"".join(item.serialise() for item in written)
    return LayoutPlan(tuple(padded), data, enclave_size, overhead, rsrv_size)


def pages_of(size: int) -> int:
    """Whole pages in `size` bytes; the tool keeps such counts in 32 bits."""
    return size // PAGE_SIZE & U32_MAX


def _growing(ids: str, kind: str, values: Mapping[str, int], flags: int) -> list[LayoutEntry]:
    """A heap or reserved memory: its minimum, and what it has beyond that."""
    minimum, initial, maximum = (values[f"{kind}{part}Size"] for part in ("Min", "Init", "Max"))
    entries = [LayoutEntry(Id[f"{ids}_MIN"], Attr.EADD, pages_of(minimum), si_flags=flags)]
    if initial > minimum:
        attributes = Attr.EADD | Attr.POST_ADD | Attr.POST_REMOVE
        pages = pages_of(initial - minimum)
        entries.append(LayoutEntry(Id[f"{ids}_INIT"], attributes, pages, si_flags=flags))
    if maximum > initial:
        pages = pages_of(maximum - initial)
        entries.append(LayoutEntry(Id[f"{ids}_MAX"], Attr.POST_ADD, pages, si_flags=SECINFO_RW))
    return entries


def _thread(
    image: EnclaveImage, values: Mapping[str, int], frame: int, tcs_offset: int, guard_pages: int
) -> list[LayoutEntry]:
    """One thread: guard, stack, guard, TCS, SSA frames, guard, thread data and TLS."""
    added = Attr.EADD | Attr.EEXTEND
    least, most = values["StackMinSize"], values["StackMaxSize"]
    guard = LayoutEntry(Id.GUARD, 0, guard_pages)
    stack = LayoutEntry(
        Id.STACK_MIN, added, pages_of(least), content_size=STACK_FILL, si_flags=SECINFO_RW
    )
    growth = replace(
        stack, id=Id.STACK_MAX, attributes=added | Attr.GROW_DOWN, page_count=pages_of(most - least)
    )
    tcs = LayoutEntry(
        Id.TCS,
        added,
        1,
        content_size=TCS_TEMPLATE_SIZE,
        content_offset=tcs_offset,
        si_flags=SECINFO_TCS,
    )
    td_pages = pages_of(page_ceil(image.tls_size) + PAGE_SIZE)
    return [
        guard,
        *([growth] if most > least else []),
        stack,
        guard,
        tcs,
        LayoutEntry(Id.SSA, added, frame * SSA_FRAMES, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(Id.TD, added, td_pages, si_flags=SECINFO_RW),
    ]


def _static_threads(
    thread: list[LayoutEntry], values: Mapping[str, int], rules: Rules
) -> list[Layout]:
    """Threads that are there when the enclave starts: kept ones, then removed ones."""
    kept = kept_threads(values)
    removed = [
        e if e.id == Id.GUARD else replace(e, attributes=e.attributes | Attr.EREMOVE)
        for e in thread
    ]
    gone = _threads(removed, values["TCSNum"] - kept)
    if rules in _ALIKE:
        return [*_threads(thread, kept), *gone]
    # The first thread also serves the runtime's own calls; its stack may shrink.
    first = [
        replace(e, attributes=e.attributes | Attr.POST_ADD | Attr.POST_REMOVE)
        if e.id == Id.STACK_MAX
        else e
        for e in thread
    ]
    return [*first, *_threads(thread, kept - 1), *gone]


def _threads(thread: list[LayoutEntry], count: int) -> list[Layout]:
    """So many equal threads: one, and a group that repeats it."""
    group = LayoutGroup(THREAD_GROUP, len(thread), count - 1)
    return [*(thread if count > 0 else []), *([group] if count > 1 else [])]


def _dynamic_threads(
    thread: list[LayoutEntry], values: Mapping[str, int], rules: Rules
) -> list[Layout]:
    """Threads that are made later; one more than asked for, as the tool does."""
    later = values["TCSMaxNum"] - kept_threads(values)
    if not later:
        return []
    table: list[Layout] = [_dynamic(e) for e in thread]
    if rules is not Rules.SDK_2_0 or values["TCSMaxNum"] > values["TCSMinPool"]:
        table.append(LayoutGroup(THREAD_GROUP_DYN, len(thread), later))
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
    placed: list[Layout],
    end: int,
    enclave_size: int,
    values: Mapping[str, int],
    generation: Generation,
) -> tuple[list[Layout], int]:
    """Fill the enclave up to its size; returns the table and the reserved size to report."""
    rsrv_size = values["ReservedMemInitSize"]
    extra = enclave_size - end
    if not extra:
        return placed, rsrv_size
    last = placed[-1]
    if generation.grows_reserved and isinstance(last, LayoutEntry) and last.id in _RESERVED:
        grown = replace(last, page_count=last.page_count + extra // PAGE_SIZE & U32_MAX)
        if last.id != Id.RSRV_MAX:
            rsrv_size += extra & U32_MAX
        return [*placed[:-1], grown], rsrv_size
    return [*placed, LayoutEntry(Id.GUARD, 0, pages_of(extra), end)], rsrv_size


def compatible_layout(table: tuple[Layout, ...], tcs_num: int, rules: Rules) -> list[Layout]:
    """The newest block's table for loaders of SGX1, without what changes at run time."""
    first = next(i for i, item in enumerate(table) if item.id == Id.GUARD)
    last = next(i for i, item in enumerate(table) if item.id == Id.TD)
    thread = [item for item in table[first : last + 1] if isinstance(item, LayoutEntry)]
    step = sum(entry.page_count for entry in thread) * PAGE_SIZE
    group = LayoutGroup(THREAD_GROUP, len(thread), tcs_num - 1, step)
    head, rest = _without_growth(table[: last + 1]), table[last + 1 :]
    if rules is Rules.SDK_2_3:
        if not rest or rest[0].id == Id.RSRV_MIN:
            return _without_growth(table)
        reserved = [item for item in rest if item.id in _RESERVED]
        return [*head, group, *_without_growth(reserved)]
    if not any(item.id == Id.TCS_DYN for item in rest):
        return list(table)
    return [*head, group] if tcs_num > 1 else head


def _without_growth(table: Sequence[Layout]) -> list[Layout]:
    """What does not grow: pages that are not there at the start are left out."""
    return [
        replace(
            item,
            attributes=item.attributes & ~Attr.POST_ADD,
            si_flags=0 if item.id in (Id.HEAP_MAX, Id.RSRV_MAX) else item.si_flags,
        )
        if isinstance(item, LayoutEntry) and item.id in _GROWN
        else item
        for item in table
    ]


# sizeof(struct ema_t_) and sizeof(struct bit_array_) in the SDK's sgx-emm.
_EMA = 72
_BIT_ARRAY = 24


def _user_region(
    pages: Sequence[int], thread: Sequence[LayoutEntry], values: Mapping[str, int], model: Overhead
) -> tuple[int, int]:
    """Bytes of the user region, and of them for EDMM (CMetadata::calculate_rts_bk_overhead)."""
    kept = kept_threads(values)
    removed, later = values["TCSNum"] - kept, values["TCSMaxNum"] - kept

    def bookkeeping(node: Callable[[int], int], ema: int) -> int:
        """Bytes of a node for each range of so many pages that there is or can be."""
        one = sum(ema if e.id == Id.GUARD else node(e.page_count) for e in thread)
        ever = kept + (later + 1 if later else 0)
        return sum(map(node, pages)) + one * ever + ema * len(thread) * (1 + removed)

    user, reserve = values["UserRegionSize"], 0x10000
    bitmap = page_ceil(user >> 15)
    if model is Overhead.SDK_2_20:
        ema = _allocation(_EMA)
        array = _allocation(_BIT_ARRAY)
        total = ema + bookkeeping(lambda n: ema + array + _allocation(_round_up(n, 8) // 8), ema)
        if user:
            total += max(PAGE_SIZE, bitmap)
        overhead = _round_up(total + 32, reserve)
        return user + overhead + GUARD_PAGES * PAGE_SIZE, overhead
    if model is Overhead.SDK_2_19:
        total = bookkeeping(lambda n: 80 + 32 + _round_up(n, 128) // 8, 80)
        count = (_round_up(total, reserve) >> 16).bit_length()
        return (((1 << count) - 1 + count) << 16) + user + bitmap, 0
    total = bookkeeping(lambda n: _EMA + _BIT_ARRAY + _round_up(n, 8) // 8, _EMA)
    region = page_ceil(total + 0x20000) + user
    return region if model is Overhead.EDMM_V5 else region + bitmap, 0


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _allocation(size: int) -> int:
    """Bytes that the runtime's allocator takes for `size` bytes."""
    return max(16, _round_up(size + 8, 8))
