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
from typing import Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, page_ceil
from sgx_enclaves.enclave.layout import (
    SSA_FRAMES,
    THREAD_GROUP,
    LayoutPlan,
    Sizes,
    enclave_size_for,
    pages_of,
    place,
    thread_entries,
)
from sgx_enclaves.enclave.metadata import (
    DIR_LAYOUT,
    ELRANGE_MAJOR,
    LAYOUT_GROUP_FLAG,
    Block,
    BlockHeader,
    Directory,
    Layout,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
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
from sgx_enclaves.enclave.sdk import Generation, Rules, release_of
from sgx_enclaves.enclave.sigstruct import (
    FLAG_OPTIONS,
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    SECINFO_RW,
    TYPE_DEBUG,
    VENDOR_INTEL,
    XFRM_LEGACY,
    XFRM_OPTIONS,
    Attribute,
    Sigstruct,
)
from sgx_enclaves.errors import FormatError

TCS_FLAG_AEXNOTIFY = 2
SSA_GPR_SIZE = 184
# Zeros in the block, as many as the widest field that they blank.
_ZEROS = bytes(8)

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
        SSA_FRAMES,
        entry + delta & _U64,
        0,
        base,
        base,
        _U32,
        _U32,
    )


def thread_data(
    size: int,
    thread: int,
    stack: tuple[int, int],
    ssa_gpr: int,
    ssa_size: int,
    xsave: Optional[int],
    tls_size: int,
) -> bytes:
    """The template of thread_data_t; addresses are relative to the thread's TCS.

    Args:
        stack: upper and lower end of the stack.
        ssa_gpr: where the registers of the first SSA frame stand.
        ssa_size: what the structure says of an SSA frame.
        xsave: the first frame's XSAVE area, where the structure has the fields of AEX-Notify.
        tls_size: bytes of TLS before the thread's data.
    """
    base, limit = stack
    # self_addr, last_sp, stack_base_addr, stack_limit_addr, first_ssa_gpr, stack_guard, flags,
    # the SSA frame, last_error.
    words = [thread, base, base, limit, ssa_gpr, 0, 0, ssa_size, 0]
    if xsave is not None:
        words += [0, 0, xsave]  # aex_mitigation_list, aex_notify_flag, first_ssa_xsave
    words += [0, thread - tls_size]  # m_next, tls_addr
    words.append(thread + 8 * (len(words) - 1))  # tls_array
    packed = b"".join((word & _U64).to_bytes(8, "little") for word in words)
    # The rest starts at zero: exception_flag, C++ state, stack_commit_addr, entropy.
    return packed.ljust(size, b"\0")


def patched(
    image: EnclaveImage, generation: Generation, start: int, global_data: bytes
) -> tuple[bytes, Directory]:
    """Global data, zeros, and the table that patches both into the image.

    Args:
        start: where in the block the global data stand.
        global_data: what replaces g_global_data.

    Returns:
        The bytes from `start` on, and where in the block the patch table is.
    """
    target, _ = image.global_data
    size = len(global_data)
    if target is None or target + size > len(image.data):
        raise FormatError("g_global_data is not in the file", file=image.name)
    word = image.sdk_word
    if generation.checks_sdk_version and word >> 16 not in generation.version_prefixes:
        raise FormatError(
            "the enclave was built with another SDK",
            file=image.name,
            offset=target,
            expected=f"SDK {' or '.join(generation.releases)}",
            found=f"SDK {release_of(word)} (word 0x{word:x})",
            hint="name the SDK generation that built the enclave",
        )
    zeros = start + size
    patches = [PatchEntry(target, start, size)]
    patches += [PatchEntry(at, zeros, width) for at, width in _SECTION_HEADER_FIELDS]
    table = b"".join(p.serialise() for p in patches)
    return global_data + _ZEROS + table, Directory(zeros + len(_ZEROS), len(table))


def sigstruct_body(values: Mapping[str, int], generation: Generation) -> Sigstruct:
    """SIGSTRUCT with measurement and signature still zero."""
    flags: int = Attribute.MODE64BIT
    mask = generation.flags_mask
    for option, bit in FLAG_OPTIONS.items():
        if values[option]:
            flags |= bit
            mask |= bit
    if values["DisableDebug"]:
        mask |= Attribute.DEBUG
    xfrm = XFRM_LEGACY
    # Legacy state and everything that the SDK does not know must be as signed.
    xfrm_mask = XFRM_LEGACY | (_U64 & ~generation.xfrm)
    for option, bits in XFRM_OPTIONS.items():
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


# The ids of SDK 1.5 to 1.9; a guard was one page.
_OLD_IDS: Mapping[int, int] = {
    **{Id[name]: OldId[name] for name in ("TCS", "TD", "SSA", "GUARD")},
    **{Id.HEAP_MIN: OldId.HEAP, Id.STACK_MIN: OldId.STACK},
}
_OLD_GROUP = LAYOUT_GROUP_FLAG | OldId.THREAD_GROUP
_OLD_THREAD_DATA_SIZE = 152


def legacy_block(image: EnclaveImage, values: Mapping[str, int], generation: Generation) -> Block:
    """The block that an SDK before 2.0 writes, not yet measured."""
    start = Block.DIRECTORIES_OFFSET + generation.newest.directory_count * Directory.SIZE
    plan = _legacy_plan(image, values, generation, tcs_offset=start)
    tcs = plan.first(OldId.TCS).rva
    ssa = plan.first(OldId.SSA).rva - tcs
    thread = plan.first(OldId.TD).last_page - tcs
    stack = plan.first(OldId.STACK).rva - tcs
    template = tcs_template(image.symbol_address("enclave_entry"), ssa, thread, 0, False)
    layout = b"".join(item.serialise() for item in plan.table)
    global_data = struct.pack(
        "<QQQII",
        plan.enclave_size,
        plan.first(OldId.HEAP).rva,
        values["HeapMaxSize"],
        values["TCSPolicy"],
        0,
    ) + thread_data(
        _OLD_THREAD_DATA_SIZE,
        thread,
        (stack + values["StackMaxSize"], stack),
        ssa + PAGE_SIZE - SSA_GPR_SIZE,
        1,
        None,
        image.tls_size,
    )
    layout_at = start + len(template)
    patched_data, patches = patched(image, generation, layout_at + len(layout), global_data)
    data = template + layout + patched_data
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
    return Block(0, header, sigstruct, (patches, Directory(layout_at, len(layout))), data)


def _legacy_plan(
    image: EnclaveImage, values: Mapping[str, int], generation: Generation, tcs_offset: int
) -> LayoutPlan:
    sizes = Sizes.of({**values, "StackMinSize": values["StackMaxSize"]}, {}, 1)
    heap = LayoutEntry(Id.HEAP_MIN, Attr.EADD, pages_of(sizes.heap[2]), si_flags=SECINFO_RW)
    thread = thread_entries(image, sizes, tcs_offset)
    table: list[Layout] = [
        replace(e, id=_OLD_IDS[e.id], page_count=1 if e.id == Id.GUARD else e.page_count)
        for e in (heap, *thread)
    ]
    if sizes.tcs_num > 1:
        table.append(LayoutGroup(_OLD_GROUP, len(thread), sizes.tcs_num - 1))
    start = image.image_size
    if generation.newest == Version(1, 3):
        # The highest segment's size is rounded before its address is added, and again after.
        top = max(image.load_segments, key=lambda s: s.p_vaddr)
        start = page_ceil(top.p_vaddr + page_ceil(top.p_memsz))
    placed, end = place(table, start)
    size = enclave_size_for(end)
    if size > end:
        placed.append(LayoutEntry(OldId.GUARD, 0, pages_of(size - end), end))
    return LayoutPlan(tuple(placed), size)


def compatible_block(block: Block, version: Version, rules: Rules, tcs_num: int) -> Block:
    """The compatible block; `version` is that without ELRANGE."""
    if block.version.has_elrange:
        version = Version(version.major + ELRANGE_MAJOR, version.minor)
    table = _compatible_layout(block.layout, tcs_num, rules)
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


def _compatible_layout(table: tuple[Layout, ...], tcs_num: int, rules: Rules) -> list[Layout]:
    # The first thread, from its guard to its thread data.
    first = next(i for i, item in enumerate(table) if item.id == Id.GUARD)
    last = next(i for i, item in enumerate(table) if item.id == Id.TD)
    if rules is not Rules.SDK_2_3:
        return _early_compatible_layout(table, first, last, tcs_num, rules)
    rest = table[last + 1 :]
    if not rest:
        return _without_growth(table)
    if rest[0].id == Id.RSRV_MIN:
        return _without_growth(table[: last + 1]) + _reserved_without_growth(rest)
    group = _group(table[first : last + 1], tcs_num - 1)
    reserved = [item for item in rest if item.id in (Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX)]
    return [*_without_growth(table[: last + 1]), group, *_reserved_without_growth(reserved)]


def _early_compatible_layout(
    table: tuple[Layout, ...], first: int, last: int, tcs_num: int, rules: Rules
) -> list[Layout]:
    """The same before SDK 2.3: without threads made at run time, a plain copy."""
    dynamic = {Id.STACK_DYN_MAX, Id.STACK_DYN_MIN}
    stack = next((i for i, item in enumerate(table) if item.id in dynamic), None)
    if stack is None:
        return list(table)
    # The dynamic thread starts with a guard, one entry before its stack.
    others = table[last + 1 : stack - 1]
    grown = {Id.HEAP_INIT, Id.HEAP_MAX}
    groups: list[Layout] = []
    if rules is Rules.SDK_2_1_3:
        grown.add(Id.STACK_MAX)
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


def _group(members: Sequence[Layout], times: int) -> LayoutGroup:
    pages = sum(e.page_count for e in members if isinstance(e, LayoutEntry))
    return LayoutGroup(THREAD_GROUP, len(members), times, pages * PAGE_SIZE)


def _without_growth(
    table: Sequence[Layout],
    grown: Collection[int] = (Id.HEAP_INIT, Id.HEAP_MAX, Id.STACK_MAX),
    unmapped: int = Id.HEAP_MAX,
) -> list[Layout]:
    """What does not grow: pages that are not there at the start are left out."""
    return [
        _fixed(item, unmapped) if isinstance(item, LayoutEntry) and item.id in grown else item
        for item in table
    ]


def _reserved_without_growth(table: Sequence[Layout]) -> list[Layout]:
    return _without_growth(table, (Id.RSRV_INIT, Id.RSRV_MAX), Id.RSRV_MAX)


def _fixed(entry: LayoutEntry, unmapped_id: int) -> LayoutEntry:
    flags = 0 if entry.id == unmapped_id else entry.si_flags
    return replace(entry, attributes=entry.attributes & ~Attr.POST_ADD, si_flags=flags)
