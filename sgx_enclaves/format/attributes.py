# SPDX-License-Identifier: GPL-2.0-or-later
"""ATTRIBUTES, XFRM, MISCSELECT and SECINFO bits, with their names.

Sources: Intel SDM vol. 3D, 35.7 (SECS), 38.7 (ATTRIBUTES), 38.11 (SECINFO);
SDK header common/inc/sgx_attributes.h.
"""

from __future__ import annotations

FLAG_INITTED = 0x1
FLAG_DEBUG = 0x2
FLAG_MODE64BIT = 0x4
FLAG_PROVISIONKEY = 0x10
FLAG_EINITTOKENKEY = 0x20
FLAG_KSS = 0x80
FLAG_AEXNOTIFY = 0x400
# Bits that the SDK since 2.18 leaves out of the attribute mask.
FLAGS_NOT_CHECKED = 0x00FF_0000_0000_0000

FLAG_NAMES = {
    FLAG_INITTED: "INIT",
    FLAG_DEBUG: "DEBUG",
    FLAG_MODE64BIT: "MODE64BIT",
    FLAG_PROVISIONKEY: "PROVISIONKEY",
    FLAG_EINITTOKENKEY: "EINITTOKENKEY",
    0x40: "CET",
    FLAG_KSS: "KSS",
    FLAG_AEXNOTIFY: "AEXNOTIFY",
}

XFRM_LEGACY = 0x3
XFRM_AVX = 0x6
XFRM_MPX = 0x18
XFRM_AVX512 = 0xE6
XFRM_PKRU = 0x200
XFRM_AMX = 0x60000

XFRM_NAMES = {
    0x1: "X87",
    0x2: "SSE",
    0x4: "AVX",
    XFRM_MPX: "MPX",
    0xE0: "AVX512",
    XFRM_PKRU: "PKRU",
    0x1800: "CET",
    XFRM_AMX: "AMX",
}

MISC_NAMES = {0x1: "EXINFO", 0x2: "CPINFO"}

SECINFO_R = 0x1
SECINFO_W = 0x2
SECINFO_X = 0x4
SECINFO_TCS = 0x100
SECINFO_REG = 0x200
SECINFO_RW = SECINFO_REG | SECINFO_R | SECINFO_W
SECINFO_RWX = SECINFO_RW | SECINFO_X
# What EADD takes from software: page type and permissions.
SECINFO_EXTERNAL = 0xFF07


def spell(value: int, names: dict[int, str]) -> str:
    """`value` as names joined by `|`; bits without a name as one hexadecimal rest."""
    words = []
    rest = value
    for bits, name in names.items():
        if value & bits == bits:
            words.append(name)
            rest &= ~bits
    if rest or not words:
        words.append(f"0x{rest:x}")
    return "|".join(words)


def spell_secinfo(flags: int) -> str:
    """SECINFO flags as page type and permissions, for example `REG rw-`."""
    page_type = {0x0: "SECS", 0x1: "TCS", 0x2: "REG", 0x4: "TRIM"}.get(
        flags >> 8 & 0xFF, f"type{flags >> 8 & 0xFF}"
    )
    rights = "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", SECINFO_R), ("w", SECINFO_W), ("x", SECINFO_X))
    )
    return f"{page_type} {rights}"
