# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of a valid SIGSTRUCT: who signed it, as what, and not for debug.

Each policy is a small object that looks at one thing; `AllOf` composes them.
A policy never looks at the `vendor` field: anybody can write 0x8086 there.

Is a SIGSTRUCT well formed and its RSA signature valid?

Says nothing about who signed: that is policy. Source: Intel SDM vol. 3D,
EINIT and 38.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Optional, Protocol

from sgx_enclaves.enclave.known import Pin, signer_named
from sgx_enclaves.enclave.metadata import FipsSignature
from sgx_enclaves.enclave.sigstruct import (
    HEADER1,
    HEADER2,
    KEY_SIZE,
    RSA_EXPONENT,
    TYPE_DEBUG,
    Sigstruct,
)
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.plain import record


class Policy(Protocol):
    """Something that a SIGSTRUCT must satisfy."""

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """What is wrong with it; nothing when it satisfies the policy."""


def _refusal(
    code: str, field: str, message: str, expected: str, found: str, hint: Optional[str] = None
) -> Finding:
    """A finding whose offset counts from the SIGSTRUCT."""
    start, _ = Sigstruct.range_of(field)
    return Finding(code, Severity.DIFFERS, message, None, start, expected, found, hint)


def signer_name(mrsigner: str) -> str:
    """The signer's name, or its MRSIGNER when nobody known."""
    return signer_named(mrsigner) or mrsigner


@record
class SignedBy:
    """The signer is one of these (MRSIGNER, lower-case hexadecimal)."""

    mrsigners: frozenset[str]

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        found = sigstruct.mrsigner.hex()
        if found not in self.mrsigners:
            yield _refusal(
                "signer-unexpected",
                "modulus",
                "the signature is valid, but by another signer than the one pinned",
                " or ".join(signer_name(m) for m in sorted(self.mrsigners)),
                signer_name(found),
                "name the expected signer with --signer if it is not Intel",
            )


@record
class UnknownSigner:
    """Nobody is pinned for this enclave, so nobody's signature will do."""

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        yield _refusal(
            "signer-not-pinned",
            "modulus",
            "no signer is pinned for this enclave",
            "a pinned signer",
            signer_name(sigstruct.mrsigner.hex()),
            "name the enclave with --enclave, or its signer with --signer",
        )


@record
class ProductId:
    """ISVPRODID is this one."""

    isvprodid: int

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        if sigstruct.isvprodid != self.isvprodid:
            yield _refusal(
                "isvprodid-unexpected",
                "isvprodid",
                "the file was signed as another product",
                f"ISVPRODID {self.isvprodid}",
                f"ISVPRODID {sigstruct.isvprodid}",
                "is this the enclave that it claims to be?",
            )


@record
class LeastSvn:
    """ISVSVN is at least this."""

    isvsvn: int

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        if sigstruct.isvsvn < self.isvsvn:
            yield _refusal(
                "isvsvn-too-low",
                "isvsvn",
                "the enclave's security version is lower than the one required",
                f"ISVSVN {self.isvsvn} or more",
                f"ISVSVN {sigstruct.isvsvn}",
                "ship the newer enclave; --min-isvsvn accepts an older one on purpose",
            )


@record
class NotDebug:
    """Nobody can open the enclave in debug mode."""

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        if sigstruct.is_debug:
            yield _refusal(
                "debug-allowed",
                "attributemask_flags",
                "the signature lets the enclave run in debug mode, where its memory is open",
                "a production signature with DEBUG masked off",
                f"type 0x{sigstruct.type:x}, attributes 0x{sigstruct.attributes_flags:x}, "
                f"mask 0x{sigstruct.attributemask_flags:x}",
                "take the production enclave; --allow-debug accepts this on purpose",
            )


@record
class AllOf:
    """Every one of these policies."""

    policies: tuple[Policy, ...]

    def check(self, sigstruct: Sigstruct) -> Iterable[Finding]:
        """See `Policy`."""
        for policy in self.policies:
            yield from policy.check(sigstruct)


def policy_for(
    pin: Optional[Pin],
    *,
    mrsigners: Iterable[str] = (),
    isvprodid: Optional[int] = None,
    min_isvsvn: Optional[int] = None,
    allow_debug: bool = False,
) -> Policy:
    """The usual policy: a pinned enclave, with what the user says on top.

    Args:
        pin: what is pinned for the enclave, or None.
        mrsigners: signers to accept instead of the pinned one.
        isvprodid: product id to require instead of the pinned one.
        min_isvsvn: least ISVSVN instead of the pinned one.
        allow_debug: accept debug signatures.
    """
    chosen = frozenset(mrsigners)
    policies: list[Policy] = []
    if chosen:
        policies.append(SignedBy(chosen))
    elif pin is not None:
        policies.append(SignedBy(frozenset({pin.mrsigner})))
    else:
        policies.append(UnknownSigner())
    # A signer named by the user is not held to what is pinned for Intel's enclaves.
    pinned = pin if not chosen else None
    product = isvprodid if isvprodid is not None else (pinned.isvprodid if pinned else None)
    least = min_isvsvn if min_isvsvn is not None else (pinned.isvsvn if pinned else None)
    if product is not None:
        policies.append(ProductId(product))
    if least is not None:
        policies.append(LeastSvn(least))
    if not allow_debug:
        policies.append(NotDebug())
    return AllOf(tuple(policies))


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
