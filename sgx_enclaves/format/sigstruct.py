# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGSTRUCT, the 1808 bytes with which a vendor signs an enclave.

Source: Intel SDM vol. 3D, 38.13; SDK header common/inc/internal/arch.h
(enclave_css_t). All multi-byte numbers are little endian, the RSA numbers too.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from sgx_enclaves.format.attributes import FLAG_DEBUG
from sgx_enclaves.format.structure import Structure, raw, uint
from sgx_enclaves.records import record

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
