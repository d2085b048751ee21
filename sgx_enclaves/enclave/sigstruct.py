# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGSTRUCT, the 1808 bytes with which a vendor signs an enclave, and whether it is valid.

Valid is what is well formed and has a good RSA signature, whoever signed. All numbers are little
endian, the RSA numbers too. Besides, bits of ATTRIBUTES, XFRM, MISCSELECT and SECINFO, with their
names, and what a vendor publishes of an enclave's identity.

Sources: Intel SDM vol. 3D, EINIT, 35.7 (SECS), 38.7 (ATTRIBUTES), 38.11 (SECINFO), 38.13;
SDK headers common/inc/internal/arch.h (enclave_css_t) and common/inc/sgx_attributes.h.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from typing import Optional

from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.plain import record
from sgx_enclaves.structure import Structure, raw, uint

Attribute = IntEnum(
    "Attribute",
    {
        "INIT": 0x1,
        "DEBUG": 0x2,
        "MODE64BIT": 0x4,
        "PROVISIONKEY": 0x10,
        "EINITTOKENKEY": 0x20,
        "CET": 0x40,
        "KSS": 0x80,
        "AEXNOTIFY": 0x400,
    },
)
ATTRIBUTE_NAMES = {bit: bit.name for bit in Attribute}
# Bits that the SDK since 2.18 leaves out of the attribute mask.
ATTRIBUTES_NOT_CHECKED = 0x00FF_0000_0000_0000

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

# Options of config.xml that set a bit of ATTRIBUTES, and those that set bits of XFRM.
FLAG_OPTIONS = {
    "ProvisionKey": Attribute.PROVISIONKEY,
    "LaunchKey": Attribute.EINITTOKENKEY,
    "EnableKSS": Attribute.KSS,
    "EnableAEXNotify": Attribute.AEXNOTIFY,
}
XFRM_OPTIONS = {"PKRU": XFRM_PKRU, "AMX": XFRM_AMX}

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
    number = flags >> 8 & 0xFF
    name = {0x0: "SECS", 0x1: "TCS", 0x2: "REG", 0x4: "TRIM"}.get(number, f"type{number}")
    return f"{name} {spell_rights(flags)}"


def spell_rights(flags: int) -> str:
    """The permissions in SECINFO flags, as `r-x`."""
    bits = (("r", SECINFO_R), ("w", SECINFO_W), ("x", SECINFO_X))
    return "".join(letter if flags & bit else "-" for letter, bit in bits)


HEADER1 = bytes.fromhex("06000000e100000000000100")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
TYPE_DEBUG = 0x8000_0000
VENDOR_INTEL = 0x8086
RSA_EXPONENT = 3
KEY_SIZE = 384


@record
class Sigstruct(Structure, size=1808):
    """One SIGSTRUCT; the RSA signature covers bytes 0..127 and 900..1027."""

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
        """Whether debug mode is open: by type, by ATTRIBUTES, or as the mask does not check it."""
        return bool(
            self.type & TYPE_DEBUG
            or self.attributes_flags & Attribute.DEBUG
            or not self.attributemask_flags & Attribute.DEBUG
        )

    @property
    def date_text(self) -> str:
        """The date as yyyy-mm-dd, whatever digits stand there."""
        digits = f"{self.date:08x}"
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"


# What of a SIGSTRUCT only the signer can make; everything else is regenerated.
SIGNATURE_FIELDS = ("date", "modulus", "signature", "q1", "q2")


@record
class FipsSignature(Structure, size=772):
    """Second signature of a block, over its SIGSTRUCT (EnableIPPFIPS)."""

    modulus: bytes = raw(0, KEY_SIZE, "RSA modulus, little endian")
    exponent: int = uint(384, 4, "RSA exponent, 65537")
    signature: bytes = raw(388, KEY_SIZE, "RSA signature, big endian")


FIPS_EXPONENT = 65537
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def finding_at(
    code: str,
    field: str,
    message: str,
    expected: str,
    found: str,
    hint: str = "the file is damaged or was not signed by the SDK's tool",
    severity: Severity = Severity.DIFFERS,
) -> Finding:
    """A finding about a field; its offset counts from the SIGSTRUCT."""
    start, _ = Sigstruct.range_of(field)
    return Finding(code, severity, message, None, start, expected, found, hint)


def check_sigstruct(
    sigstruct: Sigstruct, block: Optional[int] = None, offset: int = 0
) -> tuple[Finding, ...]:
    """All defects of a block's SIGSTRUCT, at an offset in the file; if none, the CPU takes it."""
    defects = (*_form_defects(sigstruct), *rsa_defects(sigstruct))
    return tuple(placed(defect, block, offset) for defect in defects)


def placed(finding: Finding, block: Optional[int], offset: int) -> Finding:
    """What was found in a SIGSTRUCT that stands at that offset, in that metadata block."""
    return replace(finding, block=block, offset=offset + (finding.offset or 0))


def _form_defects(sigstruct: Sigstruct) -> Iterator[Finding]:
    for field, right in (("header1", HEADER1), ("header2", HEADER2)):
        value = getattr(sigstruct, field)
        if value != right:
            message = "SIGSTRUCT has a wrong header"
            yield finding_at("sigstruct-header", field, message, right.hex(), value.hex())
    if sigstruct.type & ~TYPE_DEBUG:
        message, found = "SIGSTRUCT has an unknown type", f"0x{sigstruct.type:x}"
        yield finding_at("sigstruct-header", "type", message, "0x0 or 0x80000000", found)
    for field in ("reserved1", "reserved2", "reserved3", "reserved4"):
        value = getattr(sigstruct, field)
        if any(value):
            message = f"{field} of SIGSTRUCT is not zero"
            yield finding_at("sigstruct-reserved", field, message, "zeros", value.hex()[:32])


def rsa_defects(sigstruct: Sigstruct) -> Iterator[Finding]:
    """The defects of key, signature and quotients; what follows from another is left out."""
    n = int.from_bytes(sigstruct.modulus, "little")
    s = int.from_bytes(sigstruct.signature, "little")
    if sigstruct.exponent != RSA_EXPONENT:
        message, found = "SIGSTRUCT has a wrong RSA exponent", str(sigstruct.exponent)
        yield finding_at("sigstruct-exponent", "exponent", message, str(RSA_EXPONENT), found)
        return
    if n.bit_length() != 8 * KEY_SIZE or n % 2 == 0:
        message, wanted = "the modulus is not a 3072-bit RSA modulus", "an odd number of 3072 bits"
        found = f"{n.bit_length()} bits"
        yield finding_at("sigstruct-modulus", "modulus", message, wanted, found)
        return
    if not 0 < s < n:
        message, found = "the signature is not below the modulus", "s = 0" if s == 0 else "s >= n"
        yield finding_at("sigstruct-signature-range", "signature", message, "0 < s < n", found)
        return
    for field, right in zip(("q1", "q2"), quotients(n, s)):
        value = int.from_bytes(getattr(sigstruct, field), "little")
        if value != right:
            message = f"{field} of SIGSTRUCT is wrong: EINIT would refuse it"
            expected, found = f"{right:x}"[:32], f"{value:x}"[:32]
            yield finding_at("sigstruct-quotient", field, message, expected, found)
    if not _pkcs1_valid(n, RSA_EXPONENT, s, sigstruct.signed_message):
        yield finding_at(
            "signature-invalid",
            "signature",
            "the RSA signature is not valid",
            "PKCS#1 v1.5 with SHA-256 over the header and the body",
            "another message or key",
        )


def check_fips_signature(
    fips: FipsSignature, sigstruct: Sigstruct, block: Optional[int] = None, offset: int = 0
) -> tuple[Finding, ...]:
    """Check the second signature of a block, which covers all of its SIGSTRUCT."""
    n = int.from_bytes(fips.modulus, "little")
    s = int.from_bytes(fips.signature, "big")
    if (
        fips.exponent == FIPS_EXPONENT
        and n.bit_length() == 8 * KEY_SIZE
        and n % 2 == 1
        and 0 < s < n
        and _pkcs1_valid(n, FIPS_EXPONENT, s, sigstruct.serialise())
    ):
        return ()
    defect = Finding(
        "fips-signature-invalid",
        Severity.DIFFERS,
        "the FIPS signature of the metadata block is not valid",
        block,
        offset,
        f"RSA-3072, exponent {FIPS_EXPONENT}, PKCS#1 v1.5 with SHA-256 over SIGSTRUCT",
        f"exponent {fips.exponent}, {n.bit_length()} bits",
        "the file is damaged or its metadata was changed after it was signed",
    )
    return (defect,)


def second_signature_note(fips: FipsSignature, block: int, offset: int) -> Finding:
    """Whoever signs may put any key there, so its bytes can carry anything: say whose it is."""
    return Finding(
        "second-signature",
        Severity.NOTE,
        f"block {block} has a second signature, by a throw-away key that nothing binds to the "
        f"vendor: these {FipsSignature.SIZE} bytes are neither measured nor signed by the vendor",
        block,
        offset,
        found=f"a key whose modulus has the SHA-256 {hashlib.sha256(fips.modulus).hexdigest()}",
        hint="EnableIPPFIPS makes a new key whenever the enclave is signed; compare the hash with "
        "that of a copy from elsewhere if it matters",
    )


def quotients(modulus: int, signature: int) -> tuple[int, int]:
    """q1 and q2 of a SIGSTRUCT (SDM 38.13)."""
    square, rest = divmod(signature * signature, modulus)
    return square, signature * rest // modulus


def _pkcs1_valid(n: int, e: int, s: int, message: bytes) -> bool:
    """RSASSA-PKCS1-v1_5 verification by comparing encodings (RFC 8017, 8.2.2)."""
    # The whole padded message is compared: with exponent 3, lax parsing of padding would be fatal.
    digest_info = _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()
    padding = b"\xff" * (KEY_SIZE - 3 - len(digest_info))
    encoded = b"\0\1" + padding + b"\0" + digest_info
    return pow(s, e, n) == int.from_bytes(encoded, "big")


@record
class TcbLevel:
    """A level of an identity: the status of an ISVSVN since a day (yyyy-mm-dd)."""

    isvsvn: int
    status: str
    date: str
    advisories: tuple[str, ...]

    def __str__(self) -> str:
        because = f" ({', '.join(self.advisories)})" if self.advisories else ""
        return f"{self.status} since {self.date}{because}"


@record
class Identity:
    """What the vendor publishes of an enclave, see `sgx_enclaves.catalogue.identity`.

    Attributes:
        enclave: its name in packages.
        mrsigner: hexadecimal, as are ATTRIBUTES and MISCSELECT, of which the masks' bits count.
        issued: yyyy-mm-dd; `next_update` is the last day on which it is valid.
        levels: the highest ISVSVN first.
    """

    enclave: str
    mrsigner: str
    isvprodid: int
    attributes: str
    attributes_mask: str
    miscselect: str
    miscselect_mask: str
    issued: str
    next_update: str
    levels: tuple[TcbLevel, ...]

    def level_of(self, isvsvn: int) -> Optional[TcbLevel]:
        """The level of a security version; None below the lowest."""
        return next((level for level in self.levels if level.isvsvn <= isvsvn), None)

    def check(self, sigstruct: Sigstruct) -> Iterator[Finding]:
        """What of a SIGSTRUCT besides signer and product contradicts it."""
        level = self.level_of(sigstruct.isvsvn)
        if level is None or level.status == "Revoked":
            yield finding_at(
                "tcb-level-refused",
                "isvsvn",
                "the published identity does not accept the enclave's security version",
                f"ISVSVN {self.levels[-1].isvsvn} or more, not revoked",
                f"ISVSVN {sigstruct.isvsvn}: {level or 'no level'}",
                "ship the newer enclave",
            )
        bits = struct.unpack("<QQI", bytes.fromhex(self.attributes + self.miscselect))
        masks = struct.unpack("<QQI", bytes.fromhex(self.attributes_mask + self.miscselect_mask))
        fields = ("attributes_flags", "attributes_xfrm", "miscselect")
        checking = ("attributemask_flags", "attributemask_xfrm", "miscmask")
        for field, checked_by, wanted, fixed in zip(fields, checking, bits, masks):
            found, checked = getattr(sigstruct, field), getattr(sigstruct, checked_by)
            # The processor sets INIT itself, and what the signature leaves open is not signed.
            found |= wanted & Attribute.INIT if field == "attributes_flags" else 0
            if (found ^ wanted) & fixed & (checked | wanted):
                yield finding_at(
                    "identity-attributes",
                    field,
                    f"{field} of SIGSTRUCT is not as the published identity says",
                    f"0x{wanted:x} in the bits 0x{fixed:x}",
                    f"0x{found:x}",
                    "is this the enclave that the identity is for?",
                )

    def notes(self, sigstruct: Sigstruct) -> Iterator[Finding]:
        """Which TCB level the enclave has."""
        level = self.level_of(sigstruct.isvsvn)
        if level is None:
            return
        yield finding_at(
            "tcb-level",
            "isvsvn",
            f"the TCB level of ISVSVN {sigstruct.isvsvn} is {level}, by the vendor's identity "
            f"of {self.issued}, valid to {self.next_update}",
            f"ISVSVN {self.levels[0].isvsvn} or more: {self.levels[0].status}",
            f"ISVSVN {sigstruct.isvsvn}",
            "nothing to do" if level is self.levels[0] else "a newer enclave has a higher level",
            Severity.NOTE,
        )
