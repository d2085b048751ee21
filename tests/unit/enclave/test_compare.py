# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison does beside its checks: which SDK it follows, what it says and measures."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import sign
from sgx_enclaves.enclave.sigstruct import SIGNATURE_FIELDS, FipsSignature, Sigstruct
from sgx_enclaves.enclave.verdict import (
    CheckState,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
    finding_of,
)
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError
from tests.enclaves.synthetic import Enclave, build
from tests.support.keys import fips_key, mrsigner, vendor_key
from tests.support.signed import (
    DATE,
    Case,
    config_xml,
    fips_enclave,
    signed_enclave,
    with_bytes,
)
from tests.unit.enclave.verdicts import assert_unverifiable, codes

compare_module: Any = importlib.import_module("sgx_enclaves.enclave.compare")


def states(verdict: Verdict) -> dict[str, CheckState]:
    return {check.name: check.state for check in verdict.checks}


def only(verdict: Verdict, code: str) -> Finding:
    (found,) = [f for f in verdict.findings if f.code == code]
    return found


def test_what_nobody_validly_signed_has_no_judged_signer() -> None:
    """The policy is not proved by a signature that is not valid."""
    case = signed_enclave()
    start, _ = Sigstruct.range_of("signature")
    at = case.area.start + Block.SIGSTRUCT_OFFSET + start
    for offset in (at, at + case.blocks[1].offset):
        evil = bytearray(case.signed)
        evil[offset] ^= 1
        verdict = case.compare(bytes(evil))
        assert states(verdict)["signature"] is CheckState.REFUTED
        assert states(verdict)["policy"] is CheckState.NOT_DONE


def test_a_second_signature_is_said_with_its_key() -> None:
    case = fips_enclave()
    (block,) = case.blocks
    assert block.fips_offset is not None
    verdict = case.compare()
    note = only(verdict, "second-signature")
    assert (verdict.outcome, note.severity) == (Outcome.IDENTICAL, Severity.NOTE)
    assert note.offset == case.area.start + block.fips_offset
    assert verdict.bytes_of(Origin.SECOND_SIGNATURE) == FipsSignature.SIZE
    bad = with_bytes(block, block.fips_offset + FipsSignature.SIZE - 1, b"\x01")
    assert "second-signature" not in codes(case.compare(case.with_blocks([bad])))


def test_a_second_signature_that_an_argument_asked_for() -> None:
    """SDK 2.24's tool has no option for it: whether it was asked for is in the vendor's file."""
    image = EnclaveImage.parse(build(Enclave(sdk="2.24")).data, "built")
    config = config_xml()
    for fips in (False, True):
        made = regenerate(image, Config.parse(config), generation_named("2.24"), fips)
        case = Case(image, config, sign(image, made, vendor_key(), DATE, fips_key()), made)
        assert [b.fips_offset is not None for b in case.blocks] == [fips]
        assert case.compare().outcome is Outcome.IDENTICAL


def test_two_sdks_of_which_the_newer_fits_are_still_a_choice() -> None:
    """Only 2.4 and 2.5 know the option and have the sizes of this build."""
    case = signed_enclave("2.5", {"EnableKSS": 1})
    verdict = case.compare()
    assert_unverifiable(verdict, "sdk-not-chosen")
    assert only(verdict, "sdk-not-chosen").expected == "--sdk, one of 2.5, 2.4"


def test_without_vendors_metadata_the_likeliest_sdk_is_followed() -> None:
    case = signed_enclave("2.5")
    verdict = case.compare(case.built)
    assert_unverifiable(verdict, "not-signed")
    assert verdict.sdk is not None


def test_the_first_byte_of_metadata_that_differs_is_named() -> None:
    case = signed_enclave("2.25")
    at = case.area.start + Sigstruct.range_of(SIGNATURE_FIELDS[0])[0] + Block.SIGSTRUCT_OFFSET
    evil = bytearray(case.signed)
    evil[at - 3] ^= 1
    evil[at - 2] ^= 1
    found = only(case.compare(bytes(evil)), "metadata-differs")
    assert found.offset == at - 3
    assert found.message.startswith("2 metadata bytes")
    assert found.found == evil[at - 3 : at + 13].hex()


def test_the_first_reason_why_no_sdk_writes_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest SDK comes first: what the others lack is beside the point."""
    case = signed_enclave("2.5")
    tried: list[str] = []

    def refuse(_image: object, _config: object, generation: Any, *_: object) -> Regenerated:
        tried.append(generation.name)
        raise FormatError(f"{generation.name} refuses")

    monkeypatch.setattr(compare_module, "regenerate", refuse)
    verdict = case.compare(explaining=False)
    assert len(tried) > 1
    assert only(verdict, "metadata-not-regenerated").message == f"{tried[0]} refuses"


def with_compatible(case: Case, monkeypatch: pytest.MonkeyPatch, change: Any) -> Verdict:
    """The verdict where our own compatible block is another than the newest."""
    *others, last = case.regenerated.blocks
    changed = replace(case.regenerated, blocks=(*others, change(last)))
    monkeypatch.setattr(compare_module, "regenerate", lambda *_: changed)
    return case.compare(explaining=False)


def test_each_block_of_ours_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measurement, that of the newest block, is not the enclave's if another block loads."""
    case = signed_enclave()
    assert case.regenerated.unmeasured
    good = with_compatible(case, monkeypatch, lambda block: block)
    assert states(good)["measurement"] is CheckState.PROVED

    def larger(block: Block) -> Block:
        return replace(block, header=replace(block.header, enclave_size=1 << 30))

    verdict = with_compatible(case, monkeypatch, larger)
    assert states(verdict)["measurement"] is CheckState.REFUTED
    assert "measurement-differs" in codes(verdict)


def test_a_block_of_ours_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise LimitError("too much to measure")

    monkeypatch.setattr(compare_module, "mrenclave", fail)
    verdict = with_compatible(signed_enclave(), monkeypatch, lambda block: block)
    assert_unverifiable(verdict, "measurement-failed")
    assert states(verdict)["measurement"] is CheckState.NOT_DONE


def test_an_error_as_a_finding() -> None:
    assert finding_of(SgxEnclavesError("what"), "code").message == "what"
    error = SgxEnclavesError("what", file="where", offset=3, expected="a", found="b", hint="do")
    found = finding_of(error, "code")
    assert (found.code, found.severity) == ("code", Severity.UNVERIFIABLE)
    assert (found.message, found.offset) == ("where: what", 3)
    assert (found.expected, found.found, found.hint) == ("a", "b", "do")


def unexplained(verdict: Verdict) -> set[int]:
    """The offsets of the vendor's file that nothing accounts for."""
    found = [r for r in verdict.byte_map if r.origin is Origin.UNEXPLAINED]
    return {at for r in found for at in range(r.start, r.end)}


def test_the_map_names_the_first_byte_too() -> None:
    case = signed_enclave("2.25")
    assert unexplained(case.compare()) == set()
    assert unexplained(case.compare(b"\0" + case.signed[1:])) & set(range(case.area.start)) == {0}


def test_the_map_leaves_out_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many ranges it becomes coarse, and stays complete."""
    monkeypatch.setattr(compare_module, "_MOST_RANGES", 3)
    code = b"\x90" * 64 + b"\xc3"
    case = signed_enclave("2.25", code=code)
    at = [case.built.index(code) + 8 * n for n in range(5)]
    for count in range(1, 6):
        evil = bytearray(case.signed)
        for offset in at[:count]:
            evil[offset] ^= 1
        found = unexplained(case.compare(bytes(evil), explaining=False))
        assert found >= set(at[:count])
        assert (found == set(at[:count])) is (count <= 3)


@pytest.mark.parametrize("smaller", [True, False])
def test_the_map_of_a_file_with_its_area_elsewhere(smaller: bool) -> None:
    """What follows the vendor's area is compared with what follows ours."""
    small, large = signed_enclave("2.25"), signed_enclave("2.25", code=b"\x90" * 0x3000 + b"\xc3")
    assert small.area.start < large.area.start
    ours, theirs = (large, small) if smaller else (small, large)
    verdict = ours.compare(theirs.signed, explaining=False)
    area = range(theirs.area.start, theirs.area.stop)
    behind = min(len(ours.built) - ours.area.stop, len(theirs.signed) - theirs.area.stop)
    mine = ours.built[ours.area.stop :][:behind]
    its = theirs.signed[theirs.area.stop :][:behind]
    differing = {theirs.area.stop + n for n in range(behind) if mine[n] != its[n]}
    assert behind and len(differing) < behind
    found = unexplained(verdict)
    assert found & set(range(area.stop, area.stop + behind)) == differing


def test_a_known_signer_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    case = signed_enclave("2.25")
    (facts,) = case.compare().blocks
    assert (facts.mrsigner, facts.signer) == (mrsigner(vendor_key()), "named by option")
    monkeypatch.setattr(compare_module, "known_signer", {facts.mrsigner: "its name"}.get)
    (facts,) = case.compare().blocks
    assert facts.signer == "its name"


def test_a_digest_that_is_known_is_not_computed_again() -> None:
    verdict = signed_enclave("2.25").compare(digests=("12" * 32, "34" * 32))
    assert (verdict.built.sha256, verdict.signed.sha256) == ("12" * 32, "34" * 32)


def test_an_area_that_ends_too_early_has_nothing_there() -> None:
    """Equal as far as it goes, but shorter than the SDK's."""
    case = signed_enclave("2.25")
    area = case.descriptor[:-0x100]
    shorter = build(Enclave(sdk="2.25", descriptor_size=len(area))).with_descriptor(area)
    found = only(case.compare(shorter), "metadata-differs")
    assert found.found == "nothing"
    assert found.expected == "00" * 16
