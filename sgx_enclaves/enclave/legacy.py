# SPDX-License-Identifier: GPL-2.0-or-later
"""The one metadata block of SDK 1.5 to 1.9, from before SGX2.

The heap does not grow, all threads are alike, and layout entries have other
ids than since 2.0. The layout table stands before the global data.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp of these
releases, and their common/inc/internal/metadata.h and global_data.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sgx_enclaves.enclave.elf import PAGE_SIZE, EnclaveImage, page_ceil
from sgx_enclaves.enclave.layout import STACK_FILL, enclave_size_for, pages_of, place
from sgx_enclaves.enclave.loading import (
    TCS_TEMPLATE_SIZE,
    ZEROS,
    loader_xfrm,
    patch_table,
    sigstruct_body,
    tcs_template,
)
from sgx_enclaves.enclave.metadata import (
    ATTR_EADD,
    ATTR_EEXTEND,
    LAYOUT_GROUP_FLAG,
    Block,
    BlockHeader,
    Directory,
    Layout,
    LayoutEntry,
    LayoutGroup,
    Version,
)
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.enclave.sigstruct import SECINFO_RW, SECINFO_TCS
from sgx_enclaves.plain import record

HEAP, TCS, TD, SSA, STACK = range(1, 6)
THREAD_GROUP = LAYOUT_GROUP_FLAG | 6
GUARD = 7

GLOBAL_DATA_SIZE = 184
_THREAD_DATA_SIZE = 152
_SSA_GPR_SIZE = 184
_SSA_FRAMES = 2
_U64 = (1 << 64) - 1


@record
class _Plan:
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
    plan = _plan(image, values, generation, tcs_offset=start)
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


def _plan(
    image: EnclaveImage, values: Mapping[str, int], generation: Generation, tcs_offset: int
) -> _Plan:
    added = ATTR_EADD | ATTR_EEXTEND
    guard = LayoutEntry(GUARD, 0, 1)
    stack_pages = pages_of(values["StackMaxSize"])
    td_pages = pages_of(page_ceil(image.tls_size) + PAGE_SIZE)
    thread: list[Layout] = [
        guard,
        LayoutEntry(STACK, added, stack_pages, 0, STACK_FILL, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(TCS, added, 1, 0, TCS_TEMPLATE_SIZE, tcs_offset, SECINFO_TCS),
        LayoutEntry(SSA, added, _SSA_FRAMES, si_flags=SECINFO_RW),
        guard,
        LayoutEntry(TD, added, td_pages, si_flags=SECINFO_RW),
    ]
    heap = LayoutEntry(HEAP, ATTR_EADD, pages_of(values["HeapMaxSize"]), si_flags=SECINFO_RW)
    table = [heap, *thread]
    if values["TCSNum"] > 1:
        table.append(LayoutGroup(THREAD_GROUP, len(thread), values["TCSNum"] - 1))
    placed, end = place(table, _layout_start(image, generation))
    size = enclave_size_for(end)
    at = {item.id: item.rva for item in reversed(placed) if isinstance(item, LayoutEntry)}
    if size > end:
        placed.append(LayoutEntry(GUARD, 0, pages_of(size - end), end))
    last_page = at[TD] + (td_pages - 1) * PAGE_SIZE
    return _Plan(tuple(placed), size, at[HEAP], at[STACK], at[TCS], at[SSA], last_page)


def _layout_start(image: EnclaveImage, generation: Generation) -> int:
    if generation.newest > Version(1, 3):
        return image.image_size
    # The highest segment's size is rounded before its address is added, and again after.
    top = max(image.load_segments, key=lambda s: s.p_vaddr)
    return page_ceil(top.p_vaddr + page_ceil(top.p_memsz))


def _global_data(image: EnclaveImage, values: Mapping[str, int], plan: _Plan) -> bytes:
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
