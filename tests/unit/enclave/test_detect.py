# SPDX-License-Identifier: GPL-2.0-or-later
"""Who chooses the SDK: our build, or its user; never the vendor's file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Block, LayoutEntry
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import (
    GENERATIONS,
    candidate_generations,
    detect_generation,
    generation_named,
    is_newer_than_known,
    release_of,
)
from sgx_enclaves.enclave.sign import sign
from sgx_enclaves.enclave.verdict import CheckState, Outcome, Severity
from sgx_enclaves.errors import UnsupportedError
from tests.enclaves.sdk import sdk_releases, sdk_version
from tests.enclaves.synthetic import Enclave, build, small_enclave
from tests.support.keys import fips_key, vendor_key
from tests.support.signed import DATE, Case, config_xml, signed_enclave
from tests.unit.enclave.verdicts import assert_unverifiable, codes

# They left no version word, and their metadata differ.
WITHOUT_WORD = ("2.1", "2.1.3", "2.3", "2.4", "2.5")


def with_word(word: int, sdk: str = "2.26") -> EnclaveImage:
    """An enclave of an SDK with another version word."""
    image = EnclaveImage.parse(build(Enclave(sdk=sdk)).data, "built")
    offset, _ = image.global_data
    assert offset is not None
    data = image.data[:offset] + word.to_bytes(8, "little") + image.data[offset + 8 :]
    return EnclaveImage.parse(data, "built")


def of_word(word: int) -> Case:
    """Signed as SDK 2.26 would have."""
    image = with_word(word)
    config = config_xml()
    followed = replace(generation_named("2.26"), releases=(release_of(word),))
    regenerated = regenerate(image, Config.parse(config), followed)
    signed = sign(image, regenerated, vendor_key(), DATE, fips_key())
    return Case(image, config, signed, regenerated)


@pytest.mark.parametrize("release", sdk_releases())
def test_every_enclave_is_among_its_candidates(release: str) -> None:
    image = EnclaveImage.parse(build(Enclave(sdk=release)).data, "built")
    candidates = candidate_generations(image)
    assert generation_named(release) in candidates
    if generation_named(release).checks_sdk_version:
        assert [g.is_branch for g in candidates].count(False) == 1


@pytest.mark.parametrize("sdk", WITHOUT_WORD)
def test_where_our_build_leaves_a_choice_its_user_is_asked(sdk: str) -> None:
    case = signed_enclave(sdk)
    verdict = case.compare()
    assert_unverifiable(verdict, "sdk-not-chosen")
    assert verdict.sdk_from == "the vendor's metadata"
    assert {c.name: c.state for c in verdict.checks}["metadata"] is CheckState.NOT_DONE
    chosen = case.compare(generation=generation_named(sdk))
    assert chosen.outcome is Outcome.IDENTICAL
    assert chosen.sdk_from == "option"


def test_a_forged_version_is_not_identical() -> None:
    """Metadata 2.4 called 2.3, which nothing measures or signs."""
    case = signed_enclave("2.5")

    def change(block: Block) -> Block:
        version = 2 << 32 | 3
        return replace(block, header=replace(block.header, version=version))

    evil = case.with_blocks([change(case.blocks[0]), *case.blocks[1:]])
    assert case.compare(evil).outcome is not Outcome.IDENTICAL
    assert case.compare(evil, generation=generation_named("2.5")).outcome is Outcome.DIFFERS


def test_what_no_candidate_writes_differs() -> None:
    case = signed_enclave("2.5")
    (guard, *_) = [i for i in case.blocks[0].layout if isinstance(i, LayoutEntry)]
    at = case.signed.index(guard.serialise(), case.area.start)
    evil = case.signed[:at] + bytes([case.signed[at] ^ 0x40]) + case.signed[at + 1 :]
    verdict = case.compare(evil)
    assert verdict.outcome is Outcome.DIFFERS
    assert "sdk-not-chosen" not in codes(verdict)


def test_an_option_that_only_later_sdks_have_leaves_no_choice() -> None:
    case = signed_enclave("2.8", {"ReservedMemExecutable": 0})
    verdict = case.compare()
    assert verdict.outcome is Outcome.IDENTICAL
    assert (verdict.sdk, verdict.sdk_from) == ("2.8", "our build")


def test_the_size_of_global_data_decides_between_two_of_one_name() -> None:
    for sdk in ("2.16", "2.16.100"):
        case = signed_enclave(sdk)
        assert case.image.sdk_word == sdk_version(2, 16)
        verdict = case.compare()
        assert verdict.outcome is Outcome.IDENTICAL
        assert verdict.sdk == sdk


def test_a_branch_is_asked_for_and_its_release_is_not() -> None:
    """The branch edmm_v5 has the word and the sizes of the trees before 2.17."""
    case = signed_enclave("2.16.100-edmm")
    assert_unverifiable(case.compare(), "sdk-not-chosen")
    assert case.compare(generation=generation_named("2.16.100-edmm")).outcome is Outcome.IDENTICAL
    assert case.compare(generation=generation_named("2.16.100")).outcome is Outcome.DIFFERS
    verdict = signed_enclave("2.16.100").compare()
    assert (verdict.outcome, verdict.sdk_from) == (Outcome.IDENTICAL, "our build")
    assert detect_generation(case.image).name == "2.16.100"


def test_a_size_that_no_candidate_has_is_unverifiable() -> None:
    """Falling back to another size would call an honest file different."""
    case = signed_enclave("2.25")
    image = with_word(sdk_version(2, 24), "2.25")
    with pytest.raises(UnsupportedError, match="no known SDK") as caught:
        candidate_generations(image)
    assert "1768 bytes" in str(caught.value)
    verdict = case.compare(built=image.data)
    assert "metadata-not-regenerated" in codes(verdict)


@pytest.mark.parametrize("word", [sdk_version(2, 30), sdk_version(2, 31, 101), sdk_version(3, 0)])
def test_an_sdk_newer_than_known_is_followed_as_the_newest(word: int) -> None:
    case = of_word(word)
    verdict = case.compare()
    assert verdict.outcome is Outcome.IDENTICAL
    assert verdict.sdk == f"{release_of(word)} as 2.29"
    (note,) = [f for f in verdict.findings if f.code == "sdk-newer-than-known"]
    assert f"SDK {release_of(word)} is newer" in note.message
    assert note.message.endswith("; its metadata follow SDK 2.29")
    assert (note.severity, note.hint) == (Severity.NOTE, None)


def test_an_sdk_newer_than_known_that_writes_otherwise_is_unverifiable() -> None:
    case = of_word(sdk_version(2, 30))

    def change(block: Block) -> Block:
        return replace(block, header=replace(block.header, tcs_min_pool=7))

    verdict = case.compare(case.with_blocks([change(b) for b in case.blocks]))
    assert verdict.outcome is Outcome.UNVERIFIABLE
    (found,) = [f for f in verdict.findings if f.code == "sdk-newer-than-known"]
    assert found.severity is Severity.UNVERIFIABLE
    changed = bytearray(case.signed)
    changed[build(Enclave(sdk="2.26")).section(".text").sh_offset] ^= 1
    assert case.compare(bytes(changed)).outcome is Outcome.DIFFERS


def test_what_to_follow_can_be_typed_as_the_hint_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = of_word(sdk_version(2, 30))
    other = [replace(block, header=replace(block.header, tcs_min_pool=7)) for block in case.blocks]
    for name, data in (
        ("built.so", case.image.data),
        ("signed.so", case.with_blocks(other)),
        ("config.xml", case.config),
    ):
        (tmp_path / name).write_bytes(data)
    files = [str(tmp_path / name) for name in ("built.so", "signed.so", "--config", "config.xml")]
    command = ["compare", *files[:2], "--config", files[3], "--json"]
    tried = ["2.29"]
    typed: list[str] = []
    while True:
        assert main([*command, *typed]) == 2
        findings = json.loads(capsys.readouterr().out)["findings"]
        (newer,) = [f for f in findings if f["code"] == "sdk-newer-than-known"]
        assert newer["message"].endswith(f"do not follow SDK {tried[-1]}")
        if "--follow-sdk" not in newer["hint"]:
            break
        typed = newer["hint"].partition("is known: ")[2].split()
        # no circle: each is older than the one before
        assert typed[1] not in tried
        tried.append(typed[1])
        if len(tried) > 3:
            break
    assert len(tried) > 1


def test_what_is_no_version_word_is_no_newer_sdk() -> None:
    with pytest.raises(UnsupportedError, match="no known SDK"):
        candidate_generations(with_word(0x1234_5678_9ABC_DEF0))
    with pytest.raises(UnsupportedError, match="no known SDK"):
        candidate_generations(with_word(0))
    # No SDK has come to a major version of two digits; the word is some other datum then.
    assert is_newer_than_known(sdk_version(9, 1))
    assert not is_newer_than_known(sdk_version(10, 1))


def test_the_room_for_the_metadata_is_the_sdk_s() -> None:
    image = EnclaveImage.parse(small_enclave(sdk="2.25", descriptor_size=0x5000))
    with pytest.raises(UnsupportedError, match="no known SDK"):
        candidate_generations(image)


def test_a_symbol_without_a_size_says_nothing_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    image = with_word(sdk_version(2, 25))
    expected = candidate_generations(image)
    monkeypatch.setattr(EnclaveImage, "global_data", (image.global_data[0], 0))
    assert candidate_generations(image) == expected


def test_names_of_generations() -> None:
    for generation in GENERATIONS:
        assert generation_named(generation.name) == generation
    assert generation_named("2.31 as 2.26").version_prefixes == {2 << 16 | 31}
    assert generation_named("2.31 as 2.26").name == "2.31 as 2.29"
    assert release_of(sdk_version(2, 26)) == "2.26"
    for revision, name in ((0, "2.26"), (1, "2.26.1"), (99, "2.26.99"), (101, "2.26.1")):
        assert release_of(2 << 32 | 26 << 16 | revision) == name
    assert detect_generation(with_word(sdk_version(2, 29))).name == "2.26"
