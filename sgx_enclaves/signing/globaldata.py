# SPDX-License-Identifier: GPL-2.0-or-later
"""The `g_global_data` that the loader patches into the enclave.

Its fields came one by one over the SDK's releases; a generation says which of
them it lacks. Sources: common/inc/internal/global_data.h and thread_data.h,
psw/urts/parser/update_global_data.hxx.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sgx_enclaves.errors import ConfigError
from sgx_enclaves.format.elf import PAGE_SIZE, EnclaveImage
from sgx_enclaves.format.metadata import ElrangeEntry, LayoutEntry
from sgx_enclaves.signing.generation import Generation, Rules
from sgx_enclaves.signing.layout import (
    HEAP_MIN,
    RSRV_MIN,
    SSA,
    STACK_MIN,
    TCS,
    TD,
    LayoutPlan,
    Sizes,
)
from sgx_enclaves.signing.legacy import GLOBAL_DATA_SIZE as LEGACY_SIZE

SSA_GPR_SIZE = 184
_LAYOUT_SIZE = LayoutEntry.SIZE
_TCS_TEMPLATE_SIZE = 72
_U64 = (1 << 64) - 1
# thread_data_t got the AEX-notify fields, and this size, with SDK 2.20.
_THREAD_DATA_WITH_AEX = 192


def global_data_size(generation: Generation) -> int:
    """Bytes of global_data_t."""
    if generation.rules is Rules.SDK_1_5:
        return LEGACY_SIZE
    return (
        sum(size for _, size in _fields_before(generation))
        + 8
        + generation.layout_entries * _LAYOUT_SIZE
        + sum(size for _, size in _fields_after(generation))
    )


def _fields_before(generation: Generation) -> list[tuple[str, int]]:
    fields = [
        ("sdk_version", 8),
        ("enclave_size", 8),
        ("heap_offset", 8),
        ("heap_size", 8),
        ("rsrv_offset", 8),
        ("rsrv_size", 8),
        ("rsrv_executable", 8),
        ("thread_policy", 8),
        ("tcs_max_num", 8),
        ("tcs_num", 8),
        ("td_template", generation.thread_data_size),
        ("tcs_template", _TCS_TEMPLATE_SIZE),
    ]
    lacks = set(generation.lacks)
    if "rsrv" in lacks:
        lacks |= {"rsrv_offset", "rsrv_size"}
    return [item for item in fields if item[0] not in lacks]


def _fields_after(generation: Generation) -> list[tuple[str, int]]:
    fields: list[tuple[str, int]] = []
    if "elrange" not in generation.lacks:
        fields += [("enclave_image_address", 8), ("elrange_start_address", 8), ("elrange_size", 8)]
    if "edmm_bk_overhead" not in generation.lacks:
        fields.append(("edmm_bk_overhead", 8))
    if "fips_on" not in generation.lacks:
        fields += [("fips_on", 4), ("reserved2", 4)]
    return fields


def build_global_data(
    image: EnclaveImage,
    generation: Generation,
    values: Mapping[str, int],
    sizes: Sizes,
    plan: LayoutPlan,
    tcs_template: bytes,
    xsave_size: int,
    elrange: ElrangeEntry | None,
    fips: bool,
) -> bytes:
    """The bytes that replace g_global_data in the measured image.

    Raises:
        ConfigError: more layout entries than the structure has room for.
    """
    if len(plan.table) > generation.layout_entries:
        raise ConfigError(
            "the configuration needs too many layout entries",
            expected=f"at most {generation.layout_entries}",
            found=str(len(plan.table)),
        )
    by_id = {item.id: item for item in reversed(plan.table)}
    rsrv = by_id.get(RSRV_MIN)
    has_rsrv = isinstance(rsrv, LayoutEntry)
    numbers = {
        # The word that the enclave carries in the file is not measured.
        "sdk_version": 0,
        "enclave_size": plan.enclave_size,
        "heap_offset": plan.first(HEAP_MIN).rva,
        "heap_size": sizes.heap_init,
        "rsrv_offset": rsrv.rva if isinstance(rsrv, LayoutEntry) else 0,
        "rsrv_size": plan.rsrv_size if has_rsrv else 0,
        "rsrv_executable": int(sizes.rsrv_executable) if has_rsrv else 0,
        "thread_policy": values["TCSPolicy"],
        "tcs_max_num": sizes.tcs_max,
        "tcs_num": sizes.tcs_num,
        "enclave_image_address": elrange.enclave_image_address if elrange else 0,
        "elrange_start_address": elrange.elrange_start_address if elrange else 0,
        "elrange_size": elrange.elrange_size
        if elrange
        else (plan.enclave_size if generation.elrange_fallback else 0),
        "edmm_bk_overhead": plan.overhead,
        "fips_on": int(fips),
        "reserved2": 0,
    }
    blobs = {
        "td_template": _thread_data(image, generation, sizes, plan, xsave_size),
        "tcs_template": tcs_template,
    }
    table = b"".join(item.serialise() for item in plan.table)

    def pack(fields: list[tuple[str, int]]) -> bytes:
        return b"".join(
            blobs[name] if name in blobs else numbers[name].to_bytes(size, "little")
            for name, size in fields
        )

    return (
        pack(_fields_before(generation))
        + struct.pack("<II", len(plan.table), 0)
        + table.ljust(generation.layout_entries * _LAYOUT_SIZE, b"\0")
        + pack(_fields_after(generation))
    )


def _thread_data(
    image: EnclaveImage, generation: Generation, sizes: Sizes, plan: LayoutPlan, xsave_size: int
) -> bytes:
    """The template of thread_data_t; addresses are relative to the thread's TCS."""
    tcs = plan.first(TCS).rva
    ssa = plan.first(SSA).rva - tcs
    td_entry = plan.first(TD)
    td = td_entry.rva - tcs + (td_entry.page_count - 1) * PAGE_SIZE
    stack_base = plan.first(STACK_MIN).rva + sizes.stack_min - tcs
    with_aex = generation.thread_data_size == _THREAD_DATA_WITH_AEX
    words = [
        td,  # self_addr
        stack_base,  # last_sp
        stack_base,  # stack_base_addr
        stack_base - sizes.stack_max,  # stack_limit_addr
        ssa + sizes.ssa_frame_size * PAGE_SIZE - SSA_GPR_SIZE,  # first_ssa_gpr
        0,  # stack_guard
        0,  # flags
        xsave_size,
        0,  # last_error
    ]
    if with_aex:
        words += [0, 0, ssa]  # aex_mitigation_list, aex_notify_flag, first_ssa_xsave
    tls_addr_at = 8 * (len(words) + 1)
    words += [
        0,  # m_next
        td - image.tls_size if image.tls_segment is not None else td_entry.rva - tcs,  # tls_addr
        td + tls_addr_at,  # tls_array
    ]
    packed = b"".join((word & _U64).to_bytes(8, "little") for word in words)
    # The rest starts at zero: exception_flag, C++ state, stack_commit_addr, entropy.
    return packed.ljust(generation.thread_data_size, b"\0")
