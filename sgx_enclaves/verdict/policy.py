# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold of a valid SIGSTRUCT: who signed it, as what, and not for debug.

Each policy is a small object that looks at one thing; `AllOf` composes them.
A policy never looks at the `vendor` field: anybody can write 0x8086 there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Protocol

from sgx_enclaves.format.sigstruct import Sigstruct
from sgx_enclaves.records import record
from sgx_enclaves.verdict.known import SIGNER_NAMES, Pin
from sgx_enclaves.verdict.model import Finding, Severity


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
    return SIGNER_NAMES.get(mrsigner, mrsigner)


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
