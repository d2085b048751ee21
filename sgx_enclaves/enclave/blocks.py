# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of metadata blocks: what the tool hands to the loader besides pages, what the config
says of a SIGSTRUCT, the block for loaders of SGX1, and the one block of SDK 1.5 to 1.9.

The block for SGX1 is the newest one's, without what changes at run time. Before SGX2 the
heap did not grow, all threads were alike, and layout entries had other ids than since 2.0;
the layout table stood before the global data.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp of each release,
generate_compatible_metadata in sign_tool.cpp, and common/inc/internal/metadata.h.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, page_ceil
from sgx_enclaves.enclave.layout import (
    DYNAMIC_ID_STEP,
    GUARD,
    HEAP_INIT,
    HEAP_MAX,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    STACK_FILL,
    STACK_MAX,
    STACK_MIN,
    TD,
    THREAD_GROUP,
    enclave_size_for,
    pages_of,
    place,
)
from sgx_enclaves.enclave.metadata import (
    ATTR_EADD,
    ATTR_EEXTEND,
    ATTR_POST_ADD,
    DIR_LAYOUT,
    ELRANGE_MAJOR,
    LAYOUT_GROUP_FLAG,
    TCS_TEMPLATE_SIZE,
    Block,
    BlockHeader,
    Directory,
    Layout,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.enclave.sdk import Generation, Rules
from sgx_enclaves.enclave.sigstruct import (
    FLAG_AEXNOTIFY,
    FLAG_DEBUG,
    FLAG_EINITTOKENKEY,
    FLAG_KSS,
    FLAG_MODE64BIT,
    FLAG_PROVISIONKEY,
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    SECINFO_RW,
    SECINFO_TCS,
    TYPE_DEBUG,
    VENDOR_INTEL,
    XFRM_AMX,
    XFRM_LEGACY,
    XFRM_PKRU,
    Sigstruct,
)
from sgx_enclaves.errors import FormatError
from sgx_enclaves.plain import record

TCS_FLAG_AEXNOTIFY = 2
# Zeros in the block, as many as the widest field that they blank.
ZEROS = bytes(8)

_SSA_FRAMES = 2
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
# Offsets of the header fields that name the section headers (Elf64_Ehdr), with
# their sizes, in the order in which the tool blanks them.
_SECTION_HEADER_FIELDS = ((60, 2), (40, 8), (62, 2))


def tcs_template(entry: int, ssa: int, thread_data: int, delta: int, aex_notify: bool) -> bytes:
    """The first 72 bytes of a TCS; the loader adds the page's address to three of them.

    Args:
        entry: offset of enclave_entry in the image.
        ssa: bytes from the TCS to its first SSA frame.
        thread_data: bytes from the TCS to the thread's data.
        delta: bytes from SECS.BASEADDR to the image.
        aex_notify: whether the thread wants AEX-Notify.
    """
    base = thread_data + delta & _U64
    return struct.pack(
        "<QQQIIQQQQII",
        0,
        TCS_FLAG_AEXNOTIFY if aex_notify else 0,
        ssa + delta & _U64,
        0,
        _SSA_FRAMES,
        entry + delta & _U64,
        0,
        base,
        base,
        _U32,
        _U32,
    )


def patch_table(
    image: EnclaveImage, generation: Generation, source: int, size: int, zeros: int
) -> bytes:
    """The patch table: global data, then blanks over what names the section headers.

    Args:
        image: the unsigned enclave.
        generation: whose tool to follow.
        source: where in the block the global data stand.
        size: their bytes.
        zeros: where in the block zeros stand.

    Raises:
        FormatError: `g_global_data` is missing, or is another SDK's.
    """
    address = image.symbol_address("g_global_data")
    target = image.file_offset(address)
    if target is None or target + size > len(image.data):
        raise FormatError("g_global_data is not in the file", file=image.name)
    if generation.checks_sdk_version:
        found = int.from_bytes(image.data[target : target + 8], "little")
        if found >> 16 not in generation.version_prefixes:
            raise FormatError(
                "the enclave was built with another SDK",
                file=image.name,
                offset=target,
                expected=f"SDK {' or '.join(generation.releases)}",
                found=f"SDK {found >> 32}.{found >> 16 & 0xFFFF} (word 0x{found:x})",
                hint="name the SDK generation that built the enclave",
            )
    patches = [PatchEntry(target, source, size)]
    patches += [PatchEntry(at, zeros, width) for at, width in _SECTION_HEADER_FIELDS]
    return b"".join(p.serialise() for p in patches)


def sigstruct_body(values: Mapping[str, int], generation: Generation) -> Sigstruct:
    """SIGSTRUCT with measurement and signature still zero.

    Args:
        values: every option's value.
        generation: whose tool to follow.
    """
    flags, mask = FLAG_MODE64BIT, generation.flags_mask
    for option, bit in (
        ("ProvisionKey", FLAG_PROVISIONKEY),
        ("LaunchKey", FLAG_EINITTOKENKEY),
        ("EnableKSS", FLAG_KSS),
        ("EnableAEXNotify", FLAG_AEXNOTIFY),
    ):
        if values[option]:
            flags |= bit
            mask |= bit
    if values["DisableDebug"]:
        mask |= FLAG_DEBUG
    xfrm = XFRM_LEGACY
    # Legacy state and everything that the SDK does not know must be as signed.
    xfrm_mask = XFRM_LEGACY | (_U64 & ~generation.xfrm)
    for option, bits in (("PKRU", XFRM_PKRU), ("AMX", XFRM_AMX)):
        if values[option] == 1:
            xfrm |= bits
        if values[option] == 2:
            xfrm_mask &= ~bits
        else:
            xfrm_mask |= bits
    select = values["MiscSelect"]
    return Sigstruct(
        header1=HEADER1,
        type=TYPE_DEBUG if values["ReleaseType"] else 0,
        vendor=VENDOR_INTEL if values["IntelSigned"] else 0,
        header2=HEADER2,
        swdefined=values["HW"],
        exponent=RSA_EXPONENT,
        miscselect=select & values["MiscMask"] if generation.passes_misc_select else select,
        miscmask=values["MiscMask"],
        isvfamilyid=struct.pack("<QQ", values["ISVFAMILYID_L"], values["ISVFAMILYID_H"]),
        attributes_flags=flags,
        attributes_xfrm=xfrm,
        attributemask_flags=mask,
        attributemask_xfrm=xfrm_mask,
        isvextprodid=struct.pack("<QQ", values["ISVEXTPRODID_L"], values["ISVEXTPRODID_H"]),
        isvprodid=values["ProdID"],
        isvsvn=values["ISVSVN"],
    )


def loader_xfrm(sigstruct: Sigstruct) -> int:
    """XFRM for the loader: what must be set, and all that is not checked."""
    mask = sigstruct.attributemask_xfrm
    return ~mask & _U64 | (sigstruct.attributes_xfrm & mask)


OLD_HEAP, OLD_TCS, OLD_TD, OLD_SSA, OLD_STACK = range(1, 6)
OLD_THREAD_GROUP = LAYOUT_GROUP_FLAG | 6
OLD_GUARD = 7

LEGACY_GLOBAL_DATA_SIZE = 184
_THREAD_DATA_SIZE = 152
_SSA_GPR_SIZE = 184


@record
class _LegacyPlan:
    """A finished layout table, and where the parts of the first thread are."""

    table: tuple[Layout, ...]
    enclave_size: int
    heap: int
    stack: int
    tcs: int
    ssa: int
    thread_data: int


def legacy_block(image: EnclaveImage, values: Mapping[str, int], generation: Generation) -> Block:
    """The block that an SDK before 2.0 writes, not yet measured.

    Args:
        image: the unsigned enclave.
        values: every option's value.
        generation: whose tool to follow.

    Raises:
        ConfigError: the enclave would be larger than an address space.
        FormatError: the enclave lacks what the tool needs.
    """
    start = Block.DIRECTORIES_OFFSET + generation.newest.directory_count * Directory.SIZE
    plan = _legacy_plan(image, values, generation, tcs_offset=start)
    entry = image.symbol_address("enclave_entry")
    tcs = tcs_template(entry, plan.ssa - plan.tcs, plan.thread_data - plan.tcs, 0, False)
    layout = b"".join(item.serialise() for item in plan.table)
    global_data = _global_data(image, values, plan)
    layout_at = start + len(tcs)
    global_data_at = layout_at + len(layout)
    zeros_at = global_data_at + len(global_data)
    patches_at = zeros_at + len(ZEROS)
    patches = patch_table(image, generation, global_data_at, len(global_data), zeros_at)
    data = tcs + layout + global_data + ZEROS + patches
    sigstruct = sigstruct_body(values, generation)
    header = BlockHeader(
        version=generation.newest.word,
        size=start + len(data),
        tcs_policy=values["TCSPolicy"],
        ssa_frame_size=1,
        max_save_buffer_size=generation.fixed_save_buffer or 0,
        enclave_size=plan.enclave_size,
        attributes_flags=sigstruct.attributes_flags,
        attributes_xfrm=loader_xfrm(sigstruct),
    )
    directories = (Directory(patches_at, len(patches)), Directory(layout_at, len(layout)))
    return Block(0, header, sigstruct, directories, data)


def _legacy_plan(
    image: EnclaveImage, values: Mapping[str, int], generation: Generation, tcs_offset: int
) -> _LegacyPlan:
    added = ATTR_EADD | ATTR_EEXTEND
    guard = LayoutEntry(OLD_GUARD, 0, 1)
    stack_pages = pages_of(values["StackMaxSize"])
    td_pages = pages_of(page_ceil(image.tls_size) + PAGE_SIZE)
    thread: list[Layout] = [
        guard,
        LayoutEntry(OLD_STACK, added, stack_pages, 0, STACK_FILL, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(OLD_TCS, added, 1, 0, TCS_TEMPLATE_SIZE, tcs_offset, SECINFO_TCS),
        LayoutEntry(OLD_SSA, added, _SSA_FRAMES, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(OLD_TD, added, td_pages, si_flags=SECINFO_RW),
    ]
    heap = LayoutEntry(OLD_HEAP, ATTR_EADD, pages_of(values["HeapMaxSize"]), si_flags=SECINFO_RW)
    table = [heap, *thread]
    if values["TCSNum"] > 1:
        table.append(LayoutGroup(OLD_THREAD_GROUP, len(thread), values["TCSNum"] - 1))
    placed, end = place(table, _layout_start(image, generation))
    size = enclave_size_for(end)
    at = {item.id: item.rva for item in reversed(placed) if isinstance(item, LayoutEntry)}
    if size > end:
        placed.append(LayoutEntry(OLD_GUARD, 0, pages_of(size - end), end))
    last_page = at[OLD_TD] + (td_pages - 1) * PAGE_SIZE
    return _LegacyPlan(
        tuple(placed), size, at[OLD_HEAP], at[OLD_STACK], at[OLD_TCS], at[OLD_SSA], last_page
    )


def _layout_start(image: EnclaveImage, generation: Generation) -> int:
    if generation.newest > Version(1, 3):
        return image.image_size
    # The highest segment's size is rounded before its address is added, and again after.
    top = max(image.load_segments, key=lambda s: s.p_vaddr)
    return page_ceil(top.p_vaddr + page_ceil(top.p_memsz))


def _global_data(image: EnclaveImage, values: Mapping[str, int], plan: _LegacyPlan) -> bytes:
    thread_data = plan.thread_data - plan.tcs
    stack_limit = plan.stack - plan.tcs
    stack_base = stack_limit + values["StackMaxSize"]
    tls = image.tls_size if image.tls_segment is not None else 0
    words = [
        thread_data,  # self_addr
        stack_base,  # last_sp
        stack_base,  # stack_base_addr
        stack_limit,  # stack_limit_addr
        plan.ssa - plan.tcs + PAGE_SIZE - _SSA_GPR_SIZE,  # first_ssa_gpr
        0,  # stack_guard
        0,  # reserved
        1,  # ssa_frame_size, pages
        0,  # last_error
        0,  # reserved
        thread_data - tls,  # tls_addr
        thread_data + 80,  # tls_array
    ]
    packed = b"".join((word & _U64).to_bytes(8, "little") for word in words)
    head = struct.pack(
        "<QQQII", plan.enclave_size, plan.heap, values["HeapMaxSize"], values["TCSPolicy"], 0
    )
    return head + packed.ljust(_THREAD_DATA_SIZE, b"\0")


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
