# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps 5 and 6: signatures that are valid but wrong, and ones that only look valid."""

from __future__ import annotations

import datetime
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.enclave.policy import AskedBy, Policy, pin_named, policy_for
from sgx_enclaves.enclave.sigstruct import (
    FIPS_EXPONENT,
    KEY_SIZE,
    TYPE_DEBUG,
    VENDOR_INTEL,
    Attribute,
    FipsSignature,
    Sigstruct,
    check_fips_signature,
    check_sigstruct,
    quotients,
)
from sgx_enclaves.enclave.verdict import CheckState, Outcome, Severity
from tests.support.intel import INTEL_PCE
from tests.support.keys import fips_key, foreign_key, mrsigner, sign_sigstruct, vendor_key
from tests.support.signed import DATE, Case, fips_enclave, signed_enclave
from tests.unit.enclave.vectors import sigstructs
from tests.unit.enclave.verdicts import assert_only, assert_unverifiable, codes

# ASN.1 of a SHA-256 digest (RFC 8017, 9.2).
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


@pytest.fixture(scope="module")
def good() -> Sigstruct:
    """A SIGSTRUCT in which nothing is wrong."""
    return signed_enclave().blocks[0].sigstruct


def little(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "little")


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def found(sigstruct: Sigstruct) -> list[str]:
    return [finding.code for finding in check_sigstruct(sigstruct)]


def with_signature(sigstruct: Sigstruct, signature: int) -> Sigstruct:
    """The SIGSTRUCT with another signature, and the quotients that EINIT wants for it."""
    q1, q2 = quotients(number(sigstruct.modulus), signature)
    return replace(sigstruct, signature=little(signature), q1=little(q1), q2=little(q2))


def encoded(message: bytes) -> int:
    """EMSA-PKCS1-v1_5 of a message."""
    info = DIGEST_INFO + hashlib.sha256(message).digest()
    padding = b"\xff" * (KEY_SIZE - 3 - len(info))
    return int.from_bytes(b"\0\1" + padding + b"\0" + info, "big")


def refusals(policy: Policy, sigstruct: Sigstruct) -> list[str]:
    return [finding.code for finding in policy.check(sigstruct)]


def signer_of(*keys: RSAPrivateKey) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(key) for key in keys])


def test_the_good_one_is_good(good: Sigstruct) -> None:
    """What makes every other test here mean something."""
    assert check_sigstruct(good) == ()
    assert refusals(signer_of(vendor_key()), good) == []


# Trap 5: valid, but by somebody else, for something else, or open to debuggers.


def test_a_valid_signature_by_somebody_else() -> None:
    """Guards the signer: everything else is as it should be."""
    case = signed_enclave()
    evil = case.with_blocks([case.signed_block(b, foreign_key()) for b in case.blocks])
    verdict = case.compare(evil)
    assert_only(verdict, "policy")
    assert codes(verdict) == ["signer-unexpected"] * 3
    assert verdict.findings[0].found == mrsigner(foreign_key())
    both = signer_of(foreign_key(), vendor_key())
    assert case.compare(evil, both).outcome is Outcome.IDENTICAL


def test_the_vendor_field_proves_nothing() -> None:
    """Guards that no policy looks at `vendor`: 0x8086, valid, by a foreign key."""
    case = signed_enclave("2.17", {"IntelSigned": 1})
    assert case.blocks[0].sigstruct.vendor == VENDOR_INTEL
    verdict = case.compare(policy=policy_for(pin_named("pce")))
    assert_only(verdict, "policy")
    assert "signer-unexpected" in codes(verdict)
    assert verdict.findings[0].expected == "Intel (PCE)"


def test_nobody_is_pinned() -> None:
    """Guards that a valid signature alone is not enough: without a pin nothing is decided."""
    case = signed_enclave()
    verdict = case.compare(policy=policy_for(None))
    assert_unverifiable(verdict, "signer-not-pinned")
    assert codes(verdict) == ["signer-not-pinned"] * 3
    assert [c.name for c in verdict.checks if c.state is not CheckState.PROVED] == ["policy"]


def test_a_modulus_with_a_known_tail() -> None:
    """Guards that MRSIGNER is the hash of all of the modulus as it is stored."""
    sigstruct = Sigstruct(modulus=bytes(range(256)) + bytes(128))
    assert sigstruct.mrsigner == hashlib.sha256(sigstruct.modulus).digest()
    assert sigstruct.mrsigner != replace(sigstruct, modulus=sigstruct.modulus[::-1]).mrsigner


def test_a_debug_signature() -> None:
    """Guards against debug through `type`: the config itself asks for it."""
    case = signed_enclave("2.17", {"ReleaseType": 1})
    assert case.blocks[0].sigstruct.type == TYPE_DEBUG
    assert_only(case.compare(), "policy")
    assert set(codes(case.compare())) == {"debug-allowed"}


def test_a_mask_that_leaves_debug_open() -> None:
    """Guards against debug through the mask: DEBUG is off, but nothing keeps it off."""
    case = signed_enclave("2.17", {"DisableDebug": 0})
    assert not case.blocks[0].sigstruct.attributemask_flags & Attribute.DEBUG
    assert_only(case.compare(), "policy")
    allowed = policy_for(None, mrsigners=[mrsigner(vendor_key())], allow_debug=True)
    assert case.compare(policy=allowed).outcome is Outcome.IDENTICAL


def test_a_debug_enclave() -> None:
    """Guards against debug through ATTRIBUTES, which only a hostile signer sets."""
    case = signed_enclave()

    def change(block: Block) -> Block:
        flags = block.sigstruct.attributes_flags | Attribute.DEBUG
        return replace(block, sigstruct=replace(block.sigstruct, attributes_flags=flags))

    assert_only(case.compare(case.hostile(change)), "metadata", "policy")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", TYPE_DEBUG),
        ("attributes_flags", Attribute.DEBUG | 4),
        ("attributemask_flags", 0xFFFF_FFFF_FFFF_FFFD),
        ("attributemask_flags", 0),
    ],
)
def test_each_way_to_debug(good: Sigstruct, field: str, value: int) -> None:
    """Guards each condition of `Sigstruct.is_debug`."""
    assert refusals(signer_of(vendor_key()), replace(good, **{field: value})) == ["debug-allowed"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("least", "refused"), [(0, False), (7, False), (8, True), (65535, True)])
def test_a_lower_isvsvn_than_already_shipped(least: int, refused: bool) -> None:
    """Guards the least ISVSVN: the enclave has ISVSVN 7."""
    case = signed_enclave()
    policy = policy_for(None, mrsigners=[mrsigner(vendor_key())], min_isvsvn=least)
    verdict = case.compare(policy=policy)
    if refused:
        assert_only(verdict, "policy")
        assert set(codes(verdict)) == {"isvsvn-too-low"}
        assert (verdict.findings[0].expected, verdict.findings[0].found) == (
            f"ISVSVN {least} or more",
            "ISVSVN 7",
        )
    else:
        assert verdict.outcome is Outcome.IDENTICAL


def test_a_least_isvsvn_of_its_own(good: Sigstruct) -> None:
    ours = signer_of(vendor_key())
    assert refusals(replace(ours, min_isvsvn=8), good) == ["isvsvn-too-low"]
    assert refusals(replace(ours, min_isvsvn=7), good) == []


@pytest.mark.parametrize("wanted", [0, 2, 4])
def test_another_product(good: Sigstruct, wanted: int) -> None:
    """Guards the product: a valid enclave of the same signer in the place of another."""
    ours = signer_of(vendor_key())
    assert refusals(replace(ours, isvprodid=wanted), good) == ["isvprodid-unexpected"]
    assert refusals(replace(ours, isvprodid=3), good) == []


def test_what_is_pinned_for_an_enclave(good: Sigstruct) -> None:
    """Guards `policy_for`: a pin brings signer, product and least ISVSVN."""
    pce = pin_named("pce")
    assert pce is not None and pce.isvsvn is not None
    assert refusals(policy_for(pce), good) == [
        "signer-unexpected",
        "isvprodid-unexpected",
        "isvsvn-too-low",
    ]
    right = replace(good, isvprodid=1, isvsvn=pce.isvsvn)
    assert refusals(policy_for(pce), right) == ["signer-unexpected"]
    assert refusals(policy_for(pce, min_isvsvn=99), right)[-1] == "isvsvn-too-low"
    assert refusals(policy_for(pce, isvprodid=7), right)[-1] == "isvprodid-unexpected"
    assert pce.mrsigner == INTEL_PCE


def test_an_option_that_is_not_given_loosens_nothing(good: Sigstruct) -> None:
    """A named signer lifts neither the product nor the security version."""
    pce = pin_named("pce")
    ours = [mrsigner(vendor_key())]
    assert refusals(policy_for(pce, mrsigners=ours), good) == [
        "isvprodid-unexpected",
        "isvsvn-too-low",
    ]
    assert refusals(policy_for(pce, mrsigners=ours, any_product=True), good) == ["isvsvn-too-low"]
    lifted = policy_for(pce, mrsigners=ours, any_product=True, min_isvsvn=0)
    assert refusals(lifted, good) == []
    assert lifted.claim == (
        f"enclave pce (file name), signer {ours[0]} (option), "
        "product: any accepted on purpose, ISVSVN: any accepted on purpose, not for debug"
    )
    assert lifted.brief == "pce by file name: signer by option, any product, any ISVSVN"


def test_a_signer_of_another_enclave_is_none_of_the_named_one() -> None:
    """Else Intel's PCE, which is product 1 too, would pass as its QE3."""
    (pce,) = (v for v in sigstructs() if v["name"].startswith("libsgx_pce") and v["isvsvn"] == 16)
    real = Sigstruct.parse(pce["sigstruct"])

    def of(named: Optional[str]) -> list[str]:
        pin = pin_named(named) if named else None
        return refusals(policy_for(pin, mrsigners=[INTEL_PCE]), real)

    assert of("qe3") == ["signer-unexpected"]
    assert of("pce") == []
    assert of(None) == []


def test_the_policy_in_force_says_what_was_asked_and_by_whom() -> None:
    policy = policy_for(pin_named("pce"), named_by=AskedBy.OPTION, allow_debug=True)
    assert policy.claim == (
        "enclave pce (option), signer Intel (PCE) (catalogue), product 1 (catalogue), "
        "ISVSVN 16 or more (catalogue), debug: accepted on purpose"
    )
    assert policy.brief == "pce by option: all by catalogue, debug accepted"
    assert (policy.enclave, policy.enclave_from) == ("pce", AskedBy.OPTION)
    assert policy.debug_from is AskedBy.OPTION
    bare = policy_for(None, mrsigners=["ab" * 32])
    assert bare.claim == (
        f"enclave: not named, signer {'ab' * 32} (option), product: not asked, "
        "ISVSVN: not asked, not for debug"
    )
    assert bare.brief == "no enclave: signer by option, product not asked, ISVSVN not asked"
    assert policy_for(None).claim.startswith("enclave: not named, signer: none pinned")
    assert policy_for(pin_named("pce"), min_isvsvn=20).min_isvsvn_from is AskedBy.OPTION


def test_a_verdict_claims_what_was_checked_and_no_more() -> None:
    case = signed_enclave("2.17", {"DisableDebug": 0})
    policy = policy_for(None, mrsigners=[mrsigner(vendor_key())], allow_debug=True)
    verdict = case.compare(policy=policy)
    assert verdict.outcome is Outcome.IDENTICAL
    assert verdict.policy == policy
    (claim,) = [c.claim for c in verdict.checks if c.name == "policy"]
    assert "debug: accepted on purpose" in claim
    assert "not for debug" not in claim
    assert verdict.blocks[0].signer == "named by option"
    assert any("zeroed" in clause for clause in verdict.not_proved)


def test_when_only_the_policy_refuses_the_first_line_says_so() -> None:
    case = signed_enclave()
    refused = case.compare(policy=replace(case.policy, min_isvsvn=8))
    assert refused.outcome is Outcome.DIFFERS
    assert refused.headline == (
        "signed is our build plus a signature, but is refused: the enclave's security version is "
        "lower than the one required"
    )
    assert case.compare(policy=policy_for(None)).headline.endswith(
        "but is refused: no signer is pinned for this enclave"
    )
    evil = case.signed[:-1] + bytes([case.signed[-1] ^ 1])
    assert case.compare(evil).headline == "signed is not our build plus a signature"


# Trap 6: what EINIT would refuse, or a lax verifier accept.


def test_s_not_below_n(good: Sigstruct) -> None:
    """Guards `0 < s < n`: s is n too large, and all else holds.

    Its cube mod n is the right message, and its quotients are right for it. They
    fit into their fields when s is small, so dates are tried until one is.
    """
    n = vendor_key().public_key().public_numbers().n
    for day in range(300):
        dated = sign_sigstruct(good, vendor_key(), DATE + datetime.timedelta(day))
        s = number(dated.signature) + n
        if quotients(n, s)[0] < 1 << 3072:
            break
    evil = with_signature(dated, s)
    assert pow(number(evil.signature), 3, n) == encoded(evil.signed_message)
    assert found(evil) == ["sigstruct-signature-range"]


@pytest.mark.parametrize("signature", ["0", "n", "n + 1", "max"])
def test_s_out_of_range(good: Sigstruct, signature: str) -> None:
    """Guards `0 < s < n` at its bounds."""
    n = number(good.modulus)
    value = {"0": 0, "n": n, "n + 1": n + 1, "max": (1 << 3072) - 1}[signature]
    evil = replace(good, signature=little(value))
    assert found(evil) == ["sigstruct-signature-range"]
    (finding,) = check_sigstruct(evil)
    assert finding.found == ("s = 0" if value == 0 else "s >= n")


def test_s_of_one_is_in_its_range(good: Sigstruct) -> None:
    assert "sigstruct-signature-range" not in found(replace(good, signature=little(1)))


def test_another_exponent_with_a_valid_signature(good: Sigstruct) -> None:
    """Guards `exponent == 3`: the signature is valid under 65537."""
    key = fips_key()
    changed = replace(good, modulus=little(key.public_key().public_numbers().n), exponent=65537)
    s = int.from_bytes(key.sign(changed.signed_message, PKCS1v15(), SHA256()), "big")
    assert found(with_signature(changed, s)) == ["sigstruct-exponent"]


def test_exponent_one_needs_no_key(good: Sigstruct) -> None:
    """Guards the same: with exponent 1 the encoded message is its own signature."""
    changed = replace(good, exponent=1)
    evil = with_signature(changed, encoded(changed.signed_message))
    assert found(evil) == ["sigstruct-exponent"]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3 << 8, 0xFFFF_FFFF])
def test_exponents(good: Sigstruct, exponent: int) -> None:
    assert found(replace(good, exponent=exponent)) == ["sigstruct-exponent"]


@pytest.mark.parametrize("field", ["q1", "q2"])
@pytest.mark.parametrize("change", [1, -1, 1 << 8 * (KEY_SIZE - 1)])
def test_wrong_quotients(good: Sigstruct, field: str, change: int) -> None:
    """Guards the check of q1 and q2: RSA itself does not need them, EINIT does."""
    value = number(getattr(good, field))
    value = value + change if value + change < 1 << 3072 else value - change
    evil = replace(good, **{field: little(value)})  # type: ignore[arg-type]
    assert found(evil) == ["sigstruct-quotient"]
    assert [f.offset for f in check_sigstruct(evil)] == [Sigstruct.range_of(field)[0]]


def test_quotients_are_those_of_the_manual(good: Sigstruct) -> None:
    n, s = number(good.modulus), number(good.signature)
    q1 = s * s // n
    assert quotients(n, s) == (q1, (s**3 - q1 * s * n) // n)


@pytest.mark.parametrize("field", ["reserved1", "reserved2", "reserved3", "reserved4"])
@pytest.mark.parametrize("at", [0, -1])
def test_reserved_bytes(good: Sigstruct, field: str, at: int) -> None:
    """Guards the loop over `_RESERVED`: the signature is made for the changed bytes."""
    value = bytearray(getattr(good, field))
    value[at] = 1
    changed = replace(good, **{field: bytes(value)})  # type: ignore[arg-type]
    assert found(sign_sigstruct(changed, vendor_key(), DATE)) == ["sigstruct-reserved"]


@pytest.mark.parametrize("field", ["header1", "header2"])
@pytest.mark.parametrize("at", [0, -1])
def test_header_bytes(good: Sigstruct, field: str, at: int) -> None:
    """Guards the check of HEADER1 and HEADER2, with a signature made for the changed bytes."""
    value = bytearray(getattr(good, field))
    value[at] ^= 1
    changed = replace(good, **{field: bytes(value)})  # type: ignore[arg-type]
    assert found(sign_sigstruct(changed, vendor_key(), DATE)) == ["sigstruct-header"]


@pytest.mark.parametrize("kind", [1, 0x4000_0000, 0x8000_0001, 0xFFFF_FFFF])
def test_unknown_types(good: Sigstruct, kind: int) -> None:
    """Guards that of `type` only the debug bit may be set."""
    signed = sign_sigstruct(replace(good, type=kind), vendor_key(), DATE)
    assert found(signed) == ["sigstruct-header"]


@pytest.mark.parametrize(
    "modulus",
    [0, 1, 2, 3, (1 << 3071) - 1, 1 << 3071, (1 << 3072) - 2],
    ids=["0", "1", "2", "3", "3071 bits", "even", "large and even"],
)
def test_a_modulus_that_is_none(good: Sigstruct, modulus: int) -> None:
    """Guards the check of the modulus: nothing is divided by it before."""
    assert found(replace(good, modulus=little(modulus))) == ["sigstruct-modulus"]


@pytest.mark.parametrize("at", [0, 16, 20, 40, 127, 900, 904, 908, 928, 944, 960, 1024, 1026])
def test_a_changed_message(good: Sigstruct, at: int) -> None:
    """Guards that the signature is verified over header and body, both of them whole."""
    data = bytearray(good.serialise())
    data[at] ^= 1
    assert "signature-invalid" in found(Sigstruct.parse(bytes(data)))


def forged(sigstruct: Sigstruct, start: bytes) -> Sigstruct:
    """A signature made without a key: a cube that starts with `start`, whatever follows.

    With exponent 3 and 3072 bits there is room for it behind a short padding, so
    a verifier that parses the padding and ignores the rest can be fooled.
    """
    low = int.from_bytes(start.ljust(KEY_SIZE, b"\0"), "big")
    root = cube_root(low) + 1
    assert (root**3).to_bytes(KEY_SIZE, "big").startswith(start)
    return with_signature(sigstruct, root)


def cube_root(value: int) -> int:
    """The integer below the cube root."""
    low, high = 0, 1 << 1025
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**3 <= value else (low, middle)
    return low


def test_forged_without_a_key_behind_a_short_padding(good: Sigstruct) -> None:
    """Guards that `_pkcs1_valid` rebuilds the padding instead of parsing it."""
    info = DIGEST_INFO + hashlib.sha256(good.signed_message).digest()
    evil = forged(good, b"\0\1" + b"\xff" * 8 + b"\0" + info)
    assert pow(number(evil.signature), 3) < number(evil.modulus)
    assert found(evil) == ["signature-invalid"]


MESSAGES: dict[str, Callable[[bytes], bytes]] = {
    "no digest info": lambda m: padded(b"", hashlib.sha256(m).digest()),
    "info without parameters": lambda m: padded(
        bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20", hashlib.sha256(m).digest()
    ),
    "block type 2": lambda m: b"\0\2" + padded(DIGEST_INFO, hashlib.sha256(m).digest())[2:],
    "SHA-512's name": lambda m: padded(
        bytes.fromhex("3031300d060960864801650304020305000420"), hashlib.sha256(m).digest()
    ),
    "digest backwards": lambda m: padded(DIGEST_INFO, hashlib.sha256(m).digest()[::-1]),
}


def padded(info: bytes, digest: bytes) -> bytes:
    return b"\0\1" + b"\xff" * (KEY_SIZE - 3 - len(info) - len(digest)) + b"\0" + info + digest


@pytest.mark.parametrize("message", MESSAGES)
def test_an_encoding_that_is_almost_right(good: Sigstruct, message: str) -> None:
    """Guards `_pkcs1_valid`: made with the vendor's own key."""
    numbers = vendor_key().private_numbers()
    value = int.from_bytes(MESSAGES[message](good.signed_message), "big")
    evil = with_signature(good, pow(value, numbers.d, numbers.public_numbers.n))
    assert found(evil) == ["signature-invalid"]
    right = int.from_bytes(padded(DIGEST_INFO, hashlib.sha256(good.signed_message).digest()), "big")
    signed = with_signature(good, pow(right, numbers.d, numbers.public_numbers.n))
    assert found(signed) == []


# The second signature, with EnableIPPFIPS.


def fips_parts() -> tuple[Sigstruct, FipsSignature]:
    case: Case = fips_enclave()
    (block,) = case.blocks
    fips = block.fips_signature
    assert fips is not None
    return block.sigstruct, fips


def test_the_second_signature_covers_all_of_sigstruct() -> None:
    """Guards the message of `check_fips_signature`: the quotients too."""
    sigstruct, fips = fips_parts()
    assert check_fips_signature(fips, sigstruct) == ()
    for field in ("header1", "date", "modulus", "signature", "enclavehash", "q1", "q2"):
        value = getattr(sigstruct, field)
        changed: Any = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
        evil = replace(sigstruct, **{field: changed})
        assert [f.code for f in check_fips_signature(fips, evil)] == ["fips-signature-invalid"]


def test_a_second_signature_with_exponent_one() -> None:
    """Guards FIPS_EXPONENT: with exponent 1 anybody can sign."""
    sigstruct, fips = fips_parts()
    signature = encoded(sigstruct.serialise()).to_bytes(KEY_SIZE, "big")
    evil = replace(fips, exponent=1, signature=signature)
    assert [f.severity for f in check_fips_signature(evil, sigstruct)] == [Severity.DIFFERS]


@pytest.mark.parametrize("modulus", [0, 1, 2, (1 << 3072) - 2, 1 << 2047 | 1])
def test_a_second_signature_with_a_modulus_that_is_none(modulus: int) -> None:
    """Guards the checks of its key: nothing is divided by zero, and nothing is too short."""
    sigstruct, fips = fips_parts()
    evil = replace(fips, modulus=little(modulus))
    assert len(check_fips_signature(evil, sigstruct)) == 1


def test_a_second_signature_with_a_key_a_little_too_short() -> None:
    """Guards the size of its modulus: 3064 bits hold the same encoding, and the power is right."""
    sigstruct, fips = fips_parts()
    numbers = generate_private_key(65537, 3064).private_numbers()
    n = numbers.public_numbers.n
    s = pow(encoded(sigstruct.serialise()), numbers.d, n)
    evil = replace(fips, modulus=little(n), signature=s.to_bytes(KEY_SIZE, "big"))
    assert pow(s, evil.exponent, n) == encoded(sigstruct.serialise())
    assert len(check_fips_signature(evil, sigstruct)) == 1


def test_a_second_signature_in_the_other_byte_order() -> None:
    """Guards that it is read big endian, where SIGSTRUCT's own is little endian."""
    sigstruct, fips = fips_parts()
    assert check_fips_signature(replace(fips, signature=fips.signature[::-1]), sigstruct)


def test_a_second_signature_that_is_n_too_large() -> None:
    """Guards `s < n` of the second signature, whose power is the same without it.

    The key has the vendor's primes, so that the same date always gives a small s.
    """
    sigstruct, fips = fips_parts()
    numbers = vendor_key().private_numbers()
    n = numbers.public_numbers.n
    private = pow(fips.exponent, -1, (numbers.p - 1) * (numbers.q - 1))
    for day in range(300):
        dated = replace(sigstruct, date=day)
        s = pow(encoded(dated.serialise()), private, n)
        if s + n < 1 << 3072:
            break
    right, evil = (
        replace(fips, modulus=little(n), signature=value.to_bytes(KEY_SIZE, "big"))
        for value in (s, s + n)
    )
    assert check_fips_signature(right, dated) == ()
    assert len(check_fips_signature(evil, dated)) == 1


def test_a_second_signature_by_an_even_modulus() -> None:
    """Guards `n % 2 == 1`: twice a key of 3071 bits gives signatures that pow() takes."""
    sigstruct, fips = fips_parts()
    numbers = rsa.generate_private_key(65537, KEY_SIZE * 8 - 1).private_numbers()
    half = numbers.public_numbers.n
    n, message = 2 * half, encoded(sigstruct.serialise())
    s = pow(message % half, numbers.d, half)
    s += half if s % 2 != message % 2 else 0
    assert pow(s, 65537, n) == message
    evil = replace(fips, modulus=little(n), signature=s.to_bytes(KEY_SIZE, "big"))
    (defect,) = check_fips_signature(evil, sigstruct)
    assert (defect.code, defect.offset) == ("fips-signature-invalid", 0)


@pytest.mark.parametrize(("base", "is_modulus"), [(2, False), (3, True)])
def test_a_second_key_is_an_odd_number(base: int, is_modulus: bool) -> None:
    """Guards that its modulus is odd, whoever knows its factors and so can sign with it."""
    prime = vendor_key().private_numbers().p
    power = next(k for k in range(900, 1600) if (prime * base**k).bit_length() == 3072)
    modulus, order = prime * base**power, (prime - 1) * (base - 1) * base ** (power - 1)
    sigstruct, fips = fips_parts()
    changed = (replace(sigstruct, date=date) for date in itertools.count(0x20200101))
    message = next(c for c in changed if encoded(c.serialise()) % base)
    wanted = encoded(message.serialise())
    s = pow(wanted, pow(FIPS_EXPONENT, -1, order), modulus)
    assert pow(s, FIPS_EXPONENT, modulus) == wanted
    made = replace(fips, modulus=little(modulus), signature=s.to_bytes(KEY_SIZE, "big"))
    assert (check_fips_signature(made, message) == ()) is is_modulus
