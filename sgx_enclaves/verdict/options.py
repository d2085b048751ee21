# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a metadata block backwards: which config.xml would have given it?

The same reading of our regenerated block and of the vendor's block names the
options that differ. It need not be exact where an SDK rounds or pads, because
both sides are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from sgx_enclaves.errors import FormatError
from sgx_enclaves.format.attributes import (
    FLAG_AEXNOTIFY,
    FLAG_DEBUG,
    FLAG_EINITTOKENKEY,
    FLAG_KSS,
    FLAG_PROVISIONKEY,
    SECINFO_X,
    XFRM_AMX,
    XFRM_PKRU,
)
from sgx_enclaves.format.elf import PAGE_SIZE
from sgx_enclaves.format.metadata import ATTR_EREMOVE, Block, Layout, LayoutEntry
from sgx_enclaves.format.sigstruct import TYPE_DEBUG, VENDOR_INTEL, Sigstruct
from sgx_enclaves.signing.layout import (
    DYNAMIC_ID_STEP,
    HEAP_INIT,
    HEAP_MAX,
    HEAP_MIN,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    STACK_MAX,
    STACK_MIN,
    TCS,
    USER_REGION,
)

# Options whose default is the value of another one.
FOLLOWS: Mapping[str, str] = {
    "HeapInitSize": "HeapMaxSize",
    "ReservedMemInitSize": "ReservedMemMaxSize",
    "TCSMaxNum": "TCSNum",
}
# The SDK sizes this one after everything else.
LAST = "UserRegionSize"


def options_of(block: Block) -> dict[str, int]:
    """Option name to the value that the block shows."""
    return {**_sigstruct_options(block), **_layout_options(block.layout), **_elrange(block)}


def _sigstruct_options(block: Block) -> dict[str, int]:
    sigstruct, header = block.sigstruct, block.header
    flags = sigstruct.attributes_flags

    def half(data: bytes, index: int) -> int:
        return int.from_bytes(data[8 * index : 8 * index + 8], "little")

    return {
        "ProdID": sigstruct.isvprodid,
        "ISVSVN": sigstruct.isvsvn,
        "ReleaseType": int(bool(sigstruct.type & TYPE_DEBUG)),
        "IntelSigned": int(sigstruct.vendor == VENDOR_INTEL),
        "ProvisionKey": int(bool(flags & FLAG_PROVISIONKEY)),
        "LaunchKey": int(bool(flags & FLAG_EINITTOKENKEY)),
        "EnableKSS": int(bool(flags & FLAG_KSS)),
        "EnableAEXNotify": int(bool(flags & FLAG_AEXNOTIFY)),
        "DisableDebug": int(bool(sigstruct.attributemask_flags & FLAG_DEBUG)),
        "HW": sigstruct.swdefined,
        "TCSPolicy": header.tcs_policy,
        "TCSMinPool": header.tcs_min_pool,
        "MiscSelect": sigstruct.miscselect | header.desired_misc_select,
        "MiscMask": sigstruct.miscmask,
        "PKRU": _xfrm_option(sigstruct, XFRM_PKRU),
        "AMX": _xfrm_option(sigstruct, XFRM_AMX),
        "ISVFAMILYID_L": half(sigstruct.isvfamilyid, 0),
        "ISVFAMILYID_H": half(sigstruct.isvfamilyid, 1),
        "ISVEXTPRODID_L": half(sigstruct.isvextprodid, 0),
        "ISVEXTPRODID_H": half(sigstruct.isvextprodid, 1),
    }


def _xfrm_option(sigstruct: Sigstruct, bits: int) -> int:
    """0: must be off, 1: must be on, 2: as the platform likes."""
    if not sigstruct.attributemask_xfrm & bits:
        return 2
    return int(bool(sigstruct.attributes_xfrm & bits))


def _layout_options(table: tuple[Layout, ...]) -> dict[str, int]:
    pages: dict[int, int] = {}
    for item in table:
        if isinstance(item, LayoutEntry):
            pages.setdefault(item.id, item.page_count)

    def size(*ids: int) -> int:
        return sum(pages.get(i, 0) for i in ids) * PAGE_SIZE

    kept, removed, dynamic = _threads(table)
    executable = any(
        isinstance(item, LayoutEntry) and item.id == RSRV_MIN and item.si_flags & SECINFO_X
        for item in table
    )
    return {
        "HeapMinSize": size(HEAP_MIN),
        "HeapInitSize": size(HEAP_MIN, HEAP_INIT),
        "HeapMaxSize": size(HEAP_MIN, HEAP_INIT, HEAP_MAX),
        "StackMinSize": size(STACK_MIN),
        "StackMaxSize": size(STACK_MIN, STACK_MAX),
        "ReservedMemMinSize": size(RSRV_MIN),
        "ReservedMemInitSize": size(RSRV_MIN, RSRV_INIT),
        "ReservedMemMaxSize": size(RSRV_MIN, RSRV_INIT, RSRV_MAX),
        "ReservedMemExecutable": int(executable),
        "TCSNum": kept + removed,
        # The SDK's table makes one thread more than the option says.
        "TCSMaxNum": kept + (dynamic - 1 if dynamic else removed),
        LAST: size(USER_REGION),
    }


def _threads(table: tuple[Layout, ...]) -> tuple[int, int, int]:
    """Threads that stay, threads that are removed after the start, threads made later."""
    counts = [0, 0, 0]

    def add(item: LayoutEntry, times: int) -> None:
        if item.id == TCS:
            counts[1 if item.attributes & ATTR_EREMOVE else 0] += times
        elif item.id == TCS + DYNAMIC_ID_STEP:
            counts[2] += times

    for index, item in enumerate(table):
        if isinstance(item, LayoutEntry):
            add(item, 1)
            continue
        for member in table[max(0, index - item.entry_count) : index]:
            if isinstance(member, LayoutEntry):
                add(member, item.load_times)
    return counts[0], counts[1], counts[2]


def _elrange(block: Block) -> dict[str, int]:
    values = {"EnclaveImageAddress": 0, "ELRangeStartAddress": 0, "ELRangeSize": 0}
    try:
        elrange = block.elrange
        values["EnableIPPFIPS"] = int(block.fips_offset is not None)
    except FormatError:
        return {}
    if elrange is not None:
        values["EnclaveImageAddress"] = elrange.enclave_image_address
        values["ELRangeStartAddress"] = elrange.elrange_start_address
        values["ELRangeSize"] = elrange.elrange_size
    return values
