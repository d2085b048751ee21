# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tool hands to the loader besides pages: the TCS template, the patch table.

Source: CMetadata::build_tcs_template and build_patch_table in
sdk/sign_tool/SignTool/manage_metadata.cpp.

What the config says of a SIGSTRUCT: all of it but measurement and signature.

Source: CMetadata::fill_enclave_css in sdk/sign_tool/SignTool/manage_metadata.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import PatchEntry
from sgx_enclaves.enclave.sdk import Generation
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
    TYPE_DEBUG,
    VENDOR_INTEL,
    XFRM_AMX,
    XFRM_LEGACY,
    XFRM_PKRU,
    Sigstruct,
)
from sgx_enclaves.errors import FormatError

TCS_FLAG_AEXNOTIFY = 2
TCS_TEMPLATE_SIZE = 72
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


_BODY_U64 = (1 << 64) - 1


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
    xfrm_mask = XFRM_LEGACY | (_BODY_U64 & ~generation.xfrm)
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
    return ~mask & _BODY_U64 | (sigstruct.attributes_xfrm & mask)
