# SPDX-License-Identifier: GPL-2.0-or-later
"""A graft: our bytes with the vendor's signatures, or a refusal that says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest

from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import graft
from sgx_enclaves.enclave.verdict import Outcome
from sgx_enclaves.errors import FormatError, GraftError, SgxEnclavesError
from tests.enclaves.sdk import sdk_version
from tests.enclaves.synthetic import Symbol
from tests.support.keys import foreign_key, mrsigner, vendor_key
from tests.support.signed import Case, fips_enclave, signed_enclave
from tests.unit.enclave.test_detect import of_word


def grafted(case: Case, signatures: Optional[bytes] = None, **options: Any) -> bytes:
    signatures = case.signed if signatures is None else signatures
    policy = options.pop("policy", case.policy)
    data, verdict = graft(case.built, signatures, case.config, policy, **options)
    assert verdict.outcome is Outcome.IDENTICAL
    return data


@pytest.mark.parametrize("case", [signed_enclave(), signed_enclave("2.25"), fips_enclave()])
def test_the_vendors_signatures_make_the_vendors_file(case: Case) -> None:
    assert grafted(case) == case.signed


def test_the_sdk_is_asked_for_where_our_build_leaves_a_choice() -> None:
    case = signed_enclave("2.4")
    assert grafted(case, generation=generation_named("2.4")) == case.signed
    # The likeliest is another.
    with pytest.raises(GraftError):
        grafted(case)


def test_what_is_signed_already_is_no_build_of_ours() -> None:
    case = signed_enclave("2.25")
    with pytest.raises(FormatError, match="signed") as caught:
        graft(case.signed, case.signed, case.config, case.policy, names=("a", "b", "c"))
    assert caught.value.file == "a"


def test_a_signer_whom_nobody_expects() -> None:
    """The finding that decides is said, not a note before it."""
    case = signed_enclave("2.25", extra_symbols=(Symbol("gone", st_info=0x10, st_shndx=0),))
    assert case.compare().findings[0].code == "not-loadable"
    policy = policy_for(None, mrsigners=[mrsigner(foreign_key())])
    with pytest.raises(GraftError) as caught:
        grafted(case, policy=policy, names=("a", "b", "c"))
    error = caught.value
    assert error.message.startswith("the graft does not verify: the signature is valid, but by")
    assert (error.file, error.expected) == ("b", mrsigner(foreign_key()))
    assert error.found == mrsigner(vendor_key())
    assert error.hint == "name the expected signer with --signer if it is not Intel"


def test_a_signature_for_another_build() -> None:
    case, other = signed_enclave("2.25"), signed_enclave("2.25", code=b"\x90\xc3")
    with pytest.raises(GraftError, match="is for another enclave: enclavehash of its") as caught:
        grafted(case, other.signed)
    ours, theirs = (c.regenerated.mrenclave.hex() for c in (case, other))
    assert (caught.value.expected, caught.value.found) == (f"enclavehash {ours}", theirs)


def test_a_number_that_differs_is_spelled_as_one() -> None:
    case = signed_enclave("2.25")
    (block,) = case.blocks
    other = replace(block.sigstruct, isvsvn=block.sigstruct.isvsvn + 1)
    with pytest.raises(GraftError) as caught:
        grafted(case, other.serialise())
    assert (caught.value.expected, caught.value.found) == ("isvsvn 0x7", "0x8")


def test_a_broken_signature_is_refused() -> None:
    case = signed_enclave("2.25")
    (block,) = case.blocks
    bad = bytes([block.sigstruct.signature[0] ^ 1]) + block.sigstruct.signature[1:]
    with pytest.raises(SgxEnclavesError, match="the graft does not verify") as caught:
        grafted(case, replace(block.sigstruct, signature=bad).serialise())
    assert caught.value.hint == "the file is damaged or was not signed by the SDK's tool"


def test_an_sdk_newer_than_known_is_grafted_as_the_one_it_is_taken_for() -> None:
    case = of_word(sdk_version(2, 31))
    assert grafted(case) == case.signed
    assert grafted(case, generation=generation_named("2.29")) == case.signed
