# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGSTRUCT, the 1808 bytes with which a vendor signs an enclave.

Source: Intel SDM vol. 3D, 38.13; SDK header common/inc/internal/arch.h
(enclave_css_t). All multi-byte numbers are little endian, the RSA numbers too.

ATTRIBUTES, XFRM, MISCSELECT and SECINFO bits, with their names.

Sources: Intel SDM vol. 3D, 35.7 (SECS), 38.7 (ATTRIBUTES), 38.11 (SECINFO);
SDK header common/inc/sgx_attributes.h.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure, raw, uint

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


HEADER1 = bytes.fromhex("06000000e100000000000100")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
TYPE_DEBUG = 0x8000_0000
VENDOR_INTEL = 0x8086
RSA_EXPONENT = 3
KEY_SIZE = 384


@record
class Sigstruct(Structure):
    """One SIGSTRUCT; the RSA signature covers bytes 0..127 and 900..1027."""

    SIZE: ClassVar[int] = 1808

    header1: bytes = raw(0, 12, "fixed bytes, HEADER1")
    type: int = uint(12, 4, "bit 31: signed as a debug enclave")
    vendor: int = uint(16, 4, "0x8086: Intel; proves nothing")
    date: int = uint(20, 4, "BCD yyyymmdd")
    header2: bytes = raw(24, 16, "fixed bytes, HEADER2")
    swdefined: int = uint(40, 4, "config value HW")
    reserved1: bytes = raw(44, 84, "zero")
    modulus: bytes = raw(128, KEY_SIZE, "RSA modulus")
    exponent: int = uint(512, 4, "RSA exponent, 3")
    signature: bytes = raw(516, KEY_SIZE, "RSA signature")
    miscselect: int = uint(900, 4, "MISCSELECT that must be set")
    miscmask: int = uint(904, 4, "MISCSELECT bits that are checked")
    cet_attributes: int = uint(908, 1, "CET attributes")
    cet_attributes_mask: int = uint(909, 1, "CET attributes that are checked")
    reserved2: bytes = raw(910, 2, "zero")
    isvfamilyid: bytes = raw(912, 16, "product family (KSS)")
    attributes_flags: int = uint(928, 8, "ATTRIBUTES that must be set")
    attributes_xfrm: int = uint(936, 8, "XFRM that must be set")
    attributemask_flags: int = uint(944, 8, "ATTRIBUTES bits that are checked")
    attributemask_xfrm: int = uint(952, 8, "XFRM bits that are checked")
    enclavehash: bytes = raw(960, 32, "MRENCLAVE")
    reserved3: bytes = raw(992, 16, "zero")
    isvextprodid: bytes = raw(1008, 16, "extended product id (KSS)")
    isvprodid: int = uint(1024, 2, "product id")
    isvsvn: int = uint(1026, 2, "security version")
    reserved4: bytes = raw(1028, 12, "zero")
    q1: bytes = raw(1040, KEY_SIZE, "floor(s^2 / n)")
    q2: bytes = raw(1424, KEY_SIZE, "floor((s^3 - q1*s*n) / n)")

    @property
    def signed_message(self) -> bytes:
        """The 256 bytes that the RSA signature covers."""
        data = self.serialise()
        return data[0:128] + data[900:1028]

    @property
    def mrsigner(self) -> bytes:
        """SHA-256 of the modulus bytes as stored, 32 bytes."""
        return hashlib.sha256(self.modulus).digest()

    @property
    def is_debug(self) -> bool:
        """Whether an enclave with this SIGSTRUCT may run in debug mode.

        Debug mode is open when the header says so, when ATTRIBUTES.DEBUG is
        set, or when the mask leaves that bit unchecked.
        """
        return bool(
            self.type & TYPE_DEBUG
            or self.attributes_flags & FLAG_DEBUG
            or not self.attributemask_flags & FLAG_DEBUG
        )

    @property
    def date_text(self) -> str:
        """The date as yyyy-mm-dd, whatever digits stand there."""
        digits = f"{self.date:08x}"
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"


# What of a SIGSTRUCT only the signer can make; everything else is regenerated.
SIGNATURE_FIELDS = ("date", "modulus", "signature", "q1", "q2")
