# SPDX-License-Identifier: GPL-2.0-or-later
"""What is pinned of Intel's enclaves is what the newest release of the catalogue says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.enclave import policy
from sgx_enclaves.enclave.policy import (
    Pin,
    all_pins,
    digest_of_version,
    known_signer,
    not_shipped,
    pin_for_file,
    pin_named,
    released_as,
    version_of_digest,
)
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
