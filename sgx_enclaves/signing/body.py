# SPDX-License-Identifier: GPL-2.0-or-later
"""What the config says of a SIGSTRUCT: all of it but measurement and signature.

Source: CMetadata::fill_enclave_css in sdk/sign_tool/SignTool/manage_metadata.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sgx_enclaves.format.attributes import (
    FLAG_AEXNOTIFY,
    FLAG_DEBUG,
    FLAG_EINITTOKENKEY,
    FLAG_KSS,
    FLAG_MODE64BIT,
    FLAG_PROVISIONKEY,
    XFRM_AMX,
    XFRM_LEGACY,
    XFRM_PKRU,
)
from sgx_enclaves.format.sigstruct import (
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    TYPE_DEBUG,
    VENDOR_INTEL,
    Sigstruct,
)
from sgx_enclaves.signing.generation import Generation

_U64 = (1 << 64) - 1


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
