# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of metadata blocks: what the tool hands to the loader besides pages, what the config
says of a SIGSTRUCT, and the block for loaders of SGX1.

The block for SGX1 is the newest one's, without what changes at run time.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp of each release,
generate_compatible_metadata in sign_tool.cpp, and common/inc/internal/metadata.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U32_MAX, U64_MAX
from sgx_enclaves.enclave.layout import (
    SSA_FRAMES,
    THREAD_GROUP,
    LayoutPlan,
)
from sgx_enclaves.enclave.metadata import (
    DIR_LAYOUT,
    Block,
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
    PageAttr as Attr,
)
from sgx_enclaves.enclave.sdk import Generation, Rules, release_of
from sgx_enclaves.enclave.sigstruct import (
    FLAG_OPTIONS,
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
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

# thread_data_t got the AEX-notify fields, and this size, with SDK 2.20.
_THREAD_DATA_WITH_AEX = 192
# Offsets of the header fields that name the section headers (Elf64_Ehdr), with
# their sizes, in the order in which the tool blanks them.
_SECTION_HEADER_FIELDS = ((60, 2), (40, 8), (62, 2))


_GROWN = (Id.HEAP_INIT, Id.HEAP_MAX, Id.STACK_MAX, Id.RSRV_INIT, Id.RSRV_MAX)


def tcs_template(image: EnclaveImage, plan: LayoutPlan, delta: int, aex_notify: bool) -> bytes:
    """The first 72 bytes of a TCS; the loader adds the page's address to three of them.

    Args:
        delta: bytes from SECS.BASEADDR to the image.
        aex_notify: whether the thread wants AEX-Notify.
    """
    thread_data = plan.thread_data + delta & U64_MAX
    return struct.pack(
        "<QQQIIQQQQII",
        0,
        TCS_FLAG_AEXNOTIFY if aex_notify else 0,
        plan.from_tcs(Id.SSA) + delta & U64_MAX,
        0,
        SSA_FRAMES,
        image.symbol_address("enclave_entry") + delta & U64_MAX,
        0,
        thread_data,
        thread_data,
        U32_MAX,
        U32_MAX,
    )


def thread_data(
    image: EnclaveImage,
    plan: LayoutPlan,
    values: Mapping[str, int],
    generation: Generation,
    frame: int,
    ssa_size: int,
) -> bytes:
    """The template of thread_data_t; addresses are relative to the thread's TCS.

    Args:
        frame: pages of an SSA frame.
        ssa_size: what the structure says of an SSA frame.
    """
    thread, ssa = plan.thread_data, plan.from_tcs(Id.SSA)
    base = plan.from_tcs(Id.STACK_MIN) + values["StackMinSize"]
    gpr = ssa + frame * PAGE_SIZE - SSA_GPR_SIZE
    # self_addr, last_sp, stack_base_addr, stack_limit_addr, first_ssa_gpr, stack_guard, flags,
    # the SSA frame, last_error.
    words = [thread, base, base, base - values["StackMaxSize"], gpr, 0, 0, ssa_size, 0]
    if generation.thread_data_size == _THREAD_DATA_WITH_AEX:
        words += [0, 0, ssa]  # aex_mitigation_list, aex_notify_flag, first_ssa_xsave
    words += [0, thread - image.tls_size]  # m_next, tls_addr
    words.append(thread + 8 * (len(words) - 1))  # tls_array
    packed = b"".join((word & U64_MAX).to_bytes(8, "little") for word in words)
    # The rest starts at zero: exception_flag, C++ state, stack_commit_addr, entropy.
    return packed.ljust(generation.thread_data_size, b"\0")


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
    xfrm_mask = XFRM_LEGACY | (U64_MAX & ~generation.xfrm)
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
    return ~mask & U64_MAX | (sigstruct.attributes_xfrm & mask)


def compatible_block(block: Block, version: Version, rules: Rules, tcs_num: int) -> Block:
    """The compatible block; `version` is that without ELRANGE."""
    if block.version.has_elrange:
        version = version.with_elrange
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
    """The first thread, and all others as one group."""
    first = next(i for i, item in enumerate(table) if item.id == Id.GUARD)
    last = next(i for i, item in enumerate(table) if item.id == Id.TD)
    thread = [item for item in table[first : last + 1] if isinstance(item, LayoutEntry)]
    step = sum(entry.page_count for entry in thread) * PAGE_SIZE
    group = LayoutGroup(THREAD_GROUP, len(thread), tcs_num - 1, step)
    head, rest = _without_growth(table[: last + 1]), table[last + 1 :]
    if rules is Rules.SDK_2_3:
        if not rest or rest[0].id == Id.RSRV_MIN:
            return _without_growth(table)
        reserved = [item for item in rest if item.id in (Id.RSRV_MIN, Id.RSRV_INIT, Id.RSRV_MAX)]
        return [*head, group, *_without_growth(reserved)]
    if not any(item.id == Id.TCS_DYN for item in rest):
        # Without threads made at run time, a plain copy.
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
