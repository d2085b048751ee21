# SPDX-License-Identifier: GPL-2.0-or-later
"""What is pinned of Intel's enclaves is what the newest release of the catalogue says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.enclave import policy
from sgx_enclaves.enclave.policy import (
    AskedBy,
    Pin,
    Policy,
    all_pins,
    digest_of_version,
    known_signer,
    not_shipped,
    pin_for_file,
    pin_named,
    policy_for,
    released_as,
    version_of_digest,
)
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.plain import parse_toml
from tests.support.intel import INTEL_EPID, INTEL_LE, INTEL_PCE, INTEL_QE, INTEL_TDQE

WHO = {"pce": INTEL_PCE, "ide": INTEL_QE, "qe3": INTEL_QE, "tdqe": INTEL_TDQE, "qve": INTEL_QE}
RETIRED = {"qe": (INTEL_EPID, 1, 16), "pve": (INTEL_EPID, 1, 16), "le": (INTEL_LE, 32, 7)}


def test_versions_and_digests_are_those_of_the_catalogue() -> None:
    releases = load_catalogue((OWN_FOLDER,)).releases.values()
    pinned = 0
    for release in releases:
        for item in release.enclaves:
            if item.so_version is None:
                continue
            label = getattr(release, item.component)
            assert released_as(item.name, label) == item.so_version.value
            if item.signed_sha256 is not None:
                pinned += 1
                assert version_of_digest(item.name, item.signed_sha256) == item.so_version.value
                assert digest_of_version(item.name, item.so_version.value) == item.signed_sha256
    assert pinned
    for name, text in (("pce", "2.99"), ("pce", "1.22"), ("own", "2.25"), ("pce", "")):
        assert released_as(name, text) is None
    assert version_of_digest("pce", "0" * 64) is None
    assert digest_of_version("pce", "1.99.100.1") is None


def from_the_catalogue() -> dict[str, Pin]:
    """The same, read by the catalogue's own, strict reader."""
    releases = load_catalogue((OWN_FOLDER,)).releases.values()

    def age(numbers: str) -> list[int]:
        return [int(part) for part in numbers.split(".")]

    pins = {}
    for release in sorted(releases, key=lambda r: (age(r.sgx), age(r.dcap))):
        for item in release.enclaves:
            if item.isvprodid is not None and item.least_isvsvn is not None:
                pins[item.name] = Pin(
                    item.name,
                    item.file,
                    item.signer,
                    item.isvprodid,
                    item.least_isvsvn,
                    item.may_ship,
                )
    return pins


def test_the_newest_release_that_holds_an_enclave_pins_it() -> None:
    expected = from_the_catalogue()
    assert {pin.enclave: pin for pin in all_pins() if pin.enclave not in RETIRED} == expected
    for name, pin in expected.items():
        assert pin_named(name) == pin
        assert pin_for_file(f"/x/libsgx_{pin.file}.signed.so.1.2.3.4") == pin
    assert WHO.items() <= {name: pin.mrsigner for name, pin in expected.items()}.items()


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_what_no_release_holds_any_more_is_still_known(name: str) -> None:
    pin = pin_named(name)
    assert pin is not None
    assert (pin.mrsigner, pin.isvprodid, pin.isvsvn) == RETIRED[name]
    assert pin_for_file(f"libsgx_{pin.file}.so") == pin


def test_the_newest_entry_pins_the_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--enclave` alone: what the catalogue's newest entry of an enclave pins."""
    entry = """
[[enclave]]
name = "own"
file = "own"
signer = "{signer}"
isvprodid = 1
least_isvsvn = 1
second_key_sha256 = "{key}"
"""
    release = tmp_path / "sgx-9.9.toml"
    release.write_text(entry.format(signer="1" * 64, key="2" * 64), "utf-8")
    monkeypatch.setattr(policy, "_files", lambda: (release,))
    pin = pin_named("own")
    assert pin is not None
    assert (pin.signed_sha256, pin.second_key_sha256) == (None, "2" * 64)


def test_releases_are_asked_newest_first() -> None:
    policy._files.cache_clear()
    *releases, signers = policy._files()
    numbers = [[int(n) for n in re.findall(r"\d+", path.stem)] for path in releases]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) > 1
    assert signers.name == "signers.toml"


def test_what_a_release_does_not_say_of_an_enclave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: dict[str, object] = {
        "isvprodid": 1,
        "least_isvsvn": 2,
        "signed_sha256": "3" * 64,
        "so_version": {"value": "1.2", "tag": "SGX_9.9"},
    }

    def release(**changes: object) -> None:
        table = {"name": "own", "file": "own", "signer": "1" * 64, **full, **changes}
        said = {key: value for key, value in table.items() if value is not None}
        monkeypatch.setattr(policy, "_parsed", lambda _path: {"enclave": [said]})
        policy._pins_in.cache_clear()

    file = tmp_path / "sgx-9.9-dcap-8.8.toml"
    file.write_text(f'[[enclave]]\nname = "own"\n{"3" * 64} 1.2', "utf-8")
    monkeypatch.setattr(policy, "_files", lambda: (file, policy._SIGNERS))

    def known() -> list[object]:
        return [
            pin_named("own") and "pin",
            released_as("own", "9.9"),
            version_of_digest("own", "3" * 64),
            digest_of_version("own", "1.2"),
        ]

    release()
    assert known() == ["pin", "1.2", "1.2", "3" * 64]
    assert released_as("own", "8.8") is None
    release(so_version={"value": "1.2", "tag": "DCAP_8.8"})
    assert [released_as("own", label) for label in ("9.9", "8.8")] == [None, "1.2"]
    release(isvprodid=None)
    assert known()[0] is None
    release(least_isvsvn=None)
    assert known()[0] is None
    release(so_version=None)
    assert known() == ["pin", None, None, None]
    assert released_as("own", "8.8") is None
    release(signed_sha256=None)
    assert known() == ["pin", "1.2", None, None]
    policy._pins_in.cache_clear()


SOME = Pin("own", "own", "1" * 64, 2, 3)


@pytest.mark.parametrize(
    ("made", "brief"),
    [
        (policy_for(None), "no enclave: signer not asked, product not asked, ISVSVN not asked"),
        (policy_for(SOME), "own by file name: all by catalogue"),
        (policy_for(SOME, named_by=AskedBy.OPTION), "own by option: all by catalogue"),
        (
            policy_for(SOME, mrsigners=["2" * 64]),
            "own by file name: signer by option, product, ISVSVN by catalogue",
        ),
        (
            policy_for(replace(SOME, signed_sha256="4" * 64)),
            "own by file name: all by catalogue",
        ),
        (
            policy_for(replace(SOME, second_key_sha256="4" * 64), isvprodid=9),
            "own by file name: signer, ISVSVN, file by catalogue, product by option",
        ),
        (
            policy_for(replace(SOME, signed_sha256="4" * 64), isvprodid=9),
            "own by file name: signer, ISVSVN, file by catalogue, product by option",
        ),
        (
            policy_for(SOME, any_product=True, any_file=True, min_isvsvn=0, allow_debug=True),
            "own by file name: signer by catalogue, any product, any ISVSVN, any file, "
            "debug accepted",
        ),
    ],
)
def test_who_asked_for_what_in_few_words(made: Policy, brief: str) -> None:
    assert made.brief == brief


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        (policy_for(None), "product: not asked, ISVSVN: not asked"),
        (policy_for(SOME), "product 2 (catalogue), ISVSVN 3 or more (catalogue)"),
        (policy_for(SOME, isvprodid=0), "product 0 (option), ISVSVN 3 or more (catalogue)"),
        (
            policy_for(SOME, any_product=True, min_isvsvn=0),
            "product: any accepted on purpose, ISVSVN: any accepted on purpose",
        ),
    ],
)
def test_what_is_claimed_of_product_and_version(made: Policy, parts: str) -> None:
    assert f", {parts}, not for debug" in made.claim


def test_nobody_asked_for_what_nothing_pins() -> None:
    asked = policy_for(None)
    sources = (asked.signers_from, asked.isvprodid_from, asked.min_isvsvn_from, asked.file_from)
    assert {*sources, asked.enclave_from} == {AskedBy.NOTHING}
    assert asked.debug_from is AskedBy.DEFAULT
    assert policy_for(None, allow_debug=True).debug_from is AskedBy.OPTION
    assert policy_for(SOME, isvprodid=0).isvprodid_from is AskedBy.OPTION
    assert policy_for(SOME, any_product=True).isvprodid_from is AskedBy.OPTION


def test_any_file_lifts_what_is_pinned_of_it() -> None:
    pin = replace(SOME, signed_sha256="4" * 64, second_key_sha256="5" * 64)
    pinned, lifted = policy_for(pin), policy_for(pin, any_file=True)
    assert (pinned.signed_sha256, pinned.second_key_sha256) == ("4" * 64, "5" * 64)
    assert (lifted.signed_sha256, lifted.second_key_sha256) == (None, None)


@pytest.mark.parametrize(
    ("options", "signer", "message"),
    [
        ([INTEL_QE], INTEL_QE, "by a signer of other enclaves than pce"),
        ([INTEL_PCE], INTEL_PCE, None),
        (["0" * 64], "0" * 64, None),
        (["0" * 64], INTEL_QE, "by another signer than the one pinned"),
        ([], INTEL_QE, "by another signer than the one pinned"),
    ],
)
def test_a_signer_that_an_option_names(
    options: list[str], signer: str, message: Optional[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who is known to sign other enclaves only is not one of this enclave's."""
    wanted = replace(policy_for(pin_named("pce"), mrsigners=options), debug=True)
    wanted = replace(wanted, isvprodid=None, min_isvsvn=None)
    monkeypatch.setattr(Sigstruct, "mrsigner", bytes.fromhex(signer))
    found = list(wanted.check(Sigstruct()))
    assert [f.code for f in found] == ["signer-unexpected"] * bool(message)
    assert all(message is not None and message in f.message for f in found)


def test_what_may_not_be_shipped() -> None:
    assert "qve" in not_shipped()
    assert "qae" in not_shipped()
    assert not_shipped().isdisjoint({"pce", "ide", "qe3", "tdqe", "qe", "pve", "le"})


def test_signers_have_names() -> None:
    assert known_signer(INTEL_PCE) == "Intel (PCE)"
    assert all(known_signer(pin.mrsigner) for pin in all_pins())
    assert known_signer("00" * 32) is None


def test_one_enclave_costs_the_reading_of_one_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison asks for one pin; parsing the whole catalogue would slow it down."""
    parsed: list[str] = []

    def counting(data: bytes, *, file: str, error: type[Exception]) -> dict[str, object]:
        parsed.append(file)
        return parse_toml(data, file=file, error=error)  # type: ignore[arg-type]

    monkeypatch.setattr("sgx_enclaves.enclave.policy.parse_toml", counting)
    for cached in (policy._parsed, policy._pins_in):
        cached.cache_clear()
    assert pin_named("pce") is not None
    assert pin_for_file("libsgx_pce.so") is not None
    assert len(parsed) == 1
    assert pin_for_file("libsgx_urts.so") is None
    assert len(parsed) == 1
