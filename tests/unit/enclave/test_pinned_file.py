# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue may pin the vendor's file, or the key of its second signature."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from sgx_enclaves.enclave.policy import AskedBy, Pin, Policy, policy_for
from sgx_enclaves.enclave.verdict import CheckState, Outcome, Verdict
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import SMALL_OPTIONS, Case, fips_enclave, signed_enclave
from tests.unit.enclave.verdicts import codes

PIN = Pin("pce", "pce", mrsigner(vendor_key()), SMALL_OPTIONS["ProdID"], SMALL_OPTIONS["ISVSVN"])
OTHER = "0" * 64


def second_key(case: Case) -> str:
    (second,) = (block.fips_signature for block in case.blocks)
    assert second is not None
    return hashlib.sha256(second.modulus).hexdigest()


def judged(case: Case, policy: Policy) -> Verdict:
    return case.compare(policy=policy)


def test_the_pinned_file_and_key_are_accepted() -> None:
    case = fips_enclave()
    right = hashlib.sha256(case.signed).hexdigest()
    pin = replace(PIN, signed_sha256=right, second_key_sha256=second_key(case))
    verdict = judged(case, policy_for(pin))
    assert verdict.outcome is Outcome.IDENTICAL
    claim = next(check.claim for check in verdict.checks if check.name == "policy")
    assert claim.endswith(
        "file by its SHA-256 (catalogue), key of the second signature (catalogue)"
    )


@pytest.mark.parametrize(
    ("pin", "code"),
    [
        (replace(PIN, signed_sha256=OTHER), "file-not-pinned"),
        (replace(PIN, second_key_sha256=OTHER), "second-key-not-pinned"),
    ],
)
def test_another_file_or_key_is_refused(pin: Pin, code: str) -> None:
    """Every byte is accounted for, and still it is not the file that was pinned."""
    verdict = judged(fips_enclave(), policy_for(pin))
    assert verdict.outcome is Outcome.DIFFERS
    assert code in codes(verdict)
    (found,) = [f.found for f in verdict.findings if f.code == code]
    named = verdict.signed.sha256 if code == "file-not-pinned" else second_key(fips_enclave())
    assert named in (found or "")
    states = {check.name: check.state for check in verdict.checks}
    assert states.pop("policy") is CheckState.REFUTED
    assert set(states.values()) == {CheckState.PROVED}
    assert "is our build plus a signature, but is refused" in verdict.headline


def test_a_pinned_key_wants_a_second_signature() -> None:
    verdict = judged(
        signed_enclave(), policy_for(replace(PIN, second_key_sha256=second_key(fips_enclave())))
    )
    found = {f.found for f in verdict.findings if f.code == "second-key-not-pinned"}
    assert found == {"no second signature"}


def test_only_its_own_option_lifts_a_pinned_file() -> None:
    pin = replace(PIN, signed_sha256=OTHER)
    signer = [pin.mrsigner]
    assert policy_for(pin, mrsigners=signer, any_product=True, min_isvsvn=0).signed_sha256 == OTHER
    lifted = policy_for(pin, any_file=True)
    assert (lifted.signed_sha256, lifted.file_from) == (None, AskedBy.OPTION)
    assert lifted.claim.endswith("file: any accepted on purpose")
    assert judged(signed_enclave(), lifted).outcome is Outcome.IDENTICAL
    # Nobody but the pinned signer has signed the pinned file.
    assert policy_for(pin, mrsigners=["1" * 64]).signed_sha256 is None
