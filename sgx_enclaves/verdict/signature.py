# SPDX-License-Identifier: GPL-2.0-or-later
"""Is a SIGSTRUCT well formed and its RSA signature valid?

Says nothing about who signed: that is policy. Source: Intel SDM vol. 3D,
EINIT and 38.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.format.metadata import FipsSignature
from sgx_enclaves.format.sigstruct import (
    HEADER1,
    HEADER2,
    KEY_SIZE,
    RSA_EXPONENT,
    TYPE_DEBUG,
    Sigstruct,
)
from sgx_enclaves.verdict.model import Finding, Severity

FIPS_EXPONENT = 65537
_RESERVED = ("reserved1", "reserved2", "reserved3", "reserved4")
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def check_sigstruct(
    sigstruct: Sigstruct, block: Optional[int] = None, offset: int = 0
) -> tuple[Finding, ...]:
    """All defects of a SIGSTRUCT; none means that the CPU would accept it.

    Args:
        sigstruct: the SIGSTRUCT.
        block: index of its metadata block, for messages.
        offset: where it stands in the file, for messages.
    """

    def finding(code: str, field: str, message: str, expected: str, found: str) -> Finding:
        start, _ = Sigstruct.range_of(field)
        return Finding(
            code,
            Severity.DIFFERS,
            message,
            block,
            offset + start,
            expected,
            found,
            "the file is damaged or was not signed by the SDK's tool",
        )

    found: list[Finding] = []
    for field, value in (("header1", HEADER1), ("header2", HEADER2)):
        actual = getattr(sigstruct, field)
        if actual != value:
            found.append(
                finding(
                    "sigstruct-header",
                    field,
                    "SIGSTRUCT has a wrong header",
                    value.hex(),
                    actual.hex(),
                )
            )
    if sigstruct.type & ~TYPE_DEBUG:
        found.append(
            finding(
                "sigstruct-header",
                "type",
                "SIGSTRUCT has an unknown type",
                "0x0 or 0x80000000",
                f"0x{sigstruct.type:x}",
            )
        )
    for field in _RESERVED:
        actual = getattr(sigstruct, field)
        if any(actual):
            found.append(
                finding(
                    "sigstruct-reserved",
                    field,
                    f"{field} of SIGSTRUCT is not zero",
                    "zeros",
                    actual.hex()[:32],
                )
            )
    for code, field, message, expected, actual_text in _rsa_defects(sigstruct):
        found.append(finding(code, field, message, expected, actual_text))
    return tuple(found)


def _rsa_defects(sigstruct: Sigstruct) -> Iterator[tuple[str, str, str, str, str]]:
    n = int.from_bytes(sigstruct.modulus, "little")
    s = int.from_bytes(sigstruct.signature, "little")
    if sigstruct.exponent != RSA_EXPONENT:
        yield (
            "sigstruct-exponent",
            "exponent",
            "SIGSTRUCT has a wrong RSA exponent",
            str(RSA_EXPONENT),
            str(sigstruct.exponent),
        )
        return
    if n.bit_length() != 8 * KEY_SIZE or n % 2 == 0:
        yield (
            "sigstruct-modulus",
            "modulus",
            "the modulus is not a 3072-bit RSA modulus",
            "an odd number of 3072 bits",
            f"{n.bit_length()} bits",
        )
        return
    if not 0 < s < n:
        yield (
            "sigstruct-signature-range",
            "signature",
            "the signature is not below the modulus",
            "0 < s < n",
            "s = 0" if s == 0 else "s >= n",
        )
        return
    for field, right in zip(("q1", "q2"), quotients(n, s)):
        value = int.from_bytes(getattr(sigstruct, field), "little")
        if value != right:
            yield (
                "sigstruct-quotient",
                field,
                f"{field} of SIGSTRUCT is wrong: EINIT would refuse it",
                f"{right:x}"[:32],
                f"{value:x}"[:32],
            )
    if not _pkcs1_valid(n, RSA_EXPONENT, s, sigstruct.signed_message):
        yield (
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
    valid = (
        fips.exponent == FIPS_EXPONENT
        and n.bit_length() == 8 * KEY_SIZE
        and n % 2 == 1
        and 0 < s < n
        and _pkcs1_valid(n, FIPS_EXPONENT, s, sigstruct.serialise())
    )
    if valid:
        return ()
    return (
        Finding(
            "fips-signature-invalid",
            Severity.DIFFERS,
            "the FIPS signature of the metadata block is not valid",
            block,
            offset,
            f"RSA-3072, exponent {FIPS_EXPONENT}, PKCS#1 v1.5 with SHA-256 over SIGSTRUCT",
            f"exponent {fips.exponent}, {n.bit_length()} bits",
            "the file is damaged or its metadata was changed after it was signed",
        ),
    )


def quotients(modulus: int, signature: int) -> tuple[int, int]:
    """q1 and q2 of a SIGSTRUCT (SDM 38.13)."""
    square, rest = divmod(signature * signature, modulus)
    return square, signature * rest // modulus


def _pkcs1_valid(n: int, e: int, s: int, message: bytes) -> bool:
    """RSASSA-PKCS1-v1_5 verification by comparing encodings (RFC 8017, 8.2.2).

    The whole padded message is rebuilt and compared, so no lax parsing of
    padding can be exploited, which with exponent 3 would be fatal.
    """
    digest_info = _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()
    padding = b"\xff" * (KEY_SIZE - 3 - len(digest_info))
    encoded = b"\0\1" + padding + b"\0" + digest_info
    return pow(s, e, n) == int.from_bytes(encoded, "big")
