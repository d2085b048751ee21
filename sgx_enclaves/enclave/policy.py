# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of a valid SIGSTRUCT: who signed it, as what, and not for debug.

Besides: is a SIGSTRUCT well formed and its RSA signature valid? That says nothing
about who signed. AskedBy: Intel SDM vol. 3D, EINIT and 38.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Optional

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


def _refusal(
    code: str,
    field: str,
    message: str,
    expected: str,
    found: str,
    hint: str,
    severity: Severity = Severity.DIFFERS,
) -> Finding:
    """A finding whose offset counts from the SIGSTRUCT."""
    start, _ = Sigstruct.range_of(field)
    return Finding(code, severity, message, None, start, expected, found, hint)


def signer_name(mrsigner: str) -> str:
    """The signer's name, or its MRSIGNER when nobody known."""
    return signer_named(mrsigner) or mrsigner


class AskedBy(str, Enum):
    """Who asked for a part of the policy."""

    CATALOGUE = "catalogue"
    OPTION = "option"
    FILE_NAME = "file name"
    DEFAULT = "default"
    NOTHING = "nothing"


@record
class Policy:
    """What must hold of every SIGSTRUCT of a file, and who asked for it.

    Attributes:
        signers: who may have signed (MRSIGNER, lower-case hexadecimal); none: nobody is
            pinned, so nobody's signature will do.
        signers_from: who asked for that.
        isvprodid: the product id; None when none is asked for.
        isvprodid_from: who asked for that, or lifted it.
        min_isvsvn: the least security version; None when none is asked for.
        min_isvsvn_from: who asked for that.
        debug: whether debug signatures are accepted.
        debug_from: who asked for that.
        enclave: the enclave whose pins these are, by its name in packages.
        enclave_from: who named it.
    """

    signers: tuple[str, ...] = ()
    signers_from: AskedBy = AskedBy.NOTHING
    isvprodid: Optional[int] = None
    isvprodid_from: AskedBy = AskedBy.NOTHING
    min_isvsvn: Optional[int] = None
    min_isvsvn_from: AskedBy = AskedBy.NOTHING
    debug: bool = False
    debug_from: AskedBy = AskedBy.DEFAULT
    enclave: Optional[str] = None
    enclave_from: AskedBy = AskedBy.NOTHING

    def check(self, sigstruct: Sigstruct) -> Iterator[Finding]:
        """What is wrong with it; nothing when it satisfies the policy.

        The `vendor` field is never looked at: anybody can write 0x8086 there.
        """
        signer = sigstruct.mrsigner.hex()
        if not self.signers:
            yield _refusal(
                "signer-not-pinned",
                "modulus",
                "no signer is pinned for this enclave",
                "a pinned signer",
                signer_name(signer),
                "name the enclave with --enclave, or its signer with --signer",
                Severity.UNVERIFIABLE,
            )
        elif signer not in self.signers:
            yield _refusal(
                "signer-unexpected",
                "modulus",
                "the signature is valid, but by another signer than the one pinned",
                " or ".join(map(signer_name, self.signers)),
                signer_name(signer),
                "name the expected signer with --signer if it is not Intel",
            )
        if self.isvprodid is not None and sigstruct.isvprodid != self.isvprodid:
            yield _refusal(
                "isvprodid-unexpected",
                "isvprodid",
                "the file was signed as another product",
                f"ISVPRODID {self.isvprodid}",
                f"ISVPRODID {sigstruct.isvprodid}",
                "is this the enclave that it claims to be? --any-product accepts it on purpose",
            )
        if self.min_isvsvn is not None and sigstruct.isvsvn < self.min_isvsvn:
            yield _refusal(
                "isvsvn-too-low",
                "isvsvn",
                "the enclave's security version is lower than the one required",
                f"ISVSVN {self.min_isvsvn} or more",
                f"ISVSVN {sigstruct.isvsvn}",
                "ship the newer enclave; --min-isvsvn accepts an older one on purpose",
            )
        if not self.debug and sigstruct.is_debug:
            yield _refusal(
                "debug-allowed",
                "attributemask_flags",
                "the signature lets the enclave run in debug mode, where its memory is open",
                "a production signature with DEBUG masked off",
                f"type 0x{sigstruct.type:x}, attributes 0x{sigstruct.attributes_flags:x}, "
                f"mask 0x{sigstruct.attributemask_flags:x}",
                "take the production enclave; --allow-debug accepts this on purpose",
            )

    @property
    def claim(self) -> str:
        """What holds of a file that satisfies the policy: no more than was asked for."""
        signers = " or ".join(map(signer_name, self.signers))
        parts = [
            f"signer {signers} ({self.signers_from.value})" if signers else "signer: none pinned"
        ]
        for name, least, value, source in (
            ("product", "", self.isvprodid, self.isvprodid_from),
            ("ISVSVN", " or more", self.min_isvsvn, self.min_isvsvn_from),
        ):
            if value or (value is not None and not least):
                parts.append(f"{name} {value}{least} ({source.value})")
            else:
                lifted = source is AskedBy.OPTION
                parts.append(f"{name}: any accepted on purpose" if lifted else f"{name}: not asked")
        parts.append("debug: accepted on purpose" if self.debug else "not for debug")
        return ", ".join(parts)


def policy_for(
    pin: Optional[Pin],
    *,
    named_by: AskedBy = AskedBy.FILE_NAME,
    mrsigners: Iterable[str] = (),
    isvprodid: Optional[int] = None,
    any_product: bool = False,
    min_isvsvn: Optional[int] = None,
    allow_debug: bool = False,
) -> Policy:
    """What is pinned for an enclave, with what the user says on top.

    An option changes its own part only: another signer is checked for the same product
    and security version, unless they are lifted too.

    Args:
        pin: what is pinned for the enclave, or None.
        named_by: who said that it is this enclave.
        mrsigners: signers to accept instead of the pinned one.
        isvprodid: product id to require instead of the pinned one.
        any_product: require none.
        min_isvsvn: least ISVSVN instead of the pinned one.
        allow_debug: accept debug signatures.
    """

    def chosen(given: bool) -> AskedBy:
        pinned = AskedBy.NOTHING if pin is None else AskedBy.CATALOGUE
        return AskedBy.OPTION if given else pinned

    signers = tuple(sorted(set(mrsigners)))
    product = isvprodid if isvprodid is not None else pin.isvprodid if pin else None
    least = min_isvsvn if min_isvsvn is not None else pin.isvsvn if pin else None
    return Policy(
        signers=signers or ((pin.mrsigner,) if pin else ()),
        signers_from=chosen(bool(signers)),
        isvprodid=None if any_product else product,
        isvprodid_from=chosen(any_product or isvprodid is not None),
        min_isvsvn=least,
        min_isvsvn_from=chosen(min_isvsvn is not None),
        debug=allow_debug,
        debug_from=AskedBy.OPTION if allow_debug else AskedBy.DEFAULT,
        enclave=pin.enclave if pin else None,
        enclave_from=named_by if pin else AskedBy.NOTHING,
    )


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
    for code, field, message, expected, actual_text in rsa_defects(sigstruct):
        found.append(finding(code, field, message, expected, actual_text))
    return tuple(found)


def rsa_defects(sigstruct: Sigstruct) -> Iterator[tuple[str, str, str, str, str]]:
    """Code, field, message, expected and found of each defect of key, signature, quotients."""
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
    """RSASSA-PKCS1-v1_5 verification by comparing encodings (RFC 8017, 8.2.2).

    The whole padded message is rebuilt and compared, so no lax parsing of
    padding can be exploited, which with exponent 3 would be fatal.
    """
    digest_info = _DIGEST_INFO_SHA256 + hashlib.sha256(message).digest()
    padding = b"\xff" * (KEY_SIZE - 3 - len(digest_info))
    encoded = b"\0\1" + padding + b"\0" + digest_info
    return pow(s, e, n) == int.from_bytes(encoded, "big")
