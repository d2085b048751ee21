# SPDX-License-Identifier: GPL-2.0-or-later
"""A gate's rule: each word with a record that it refuses, and none that is guessed."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from sgx_enclaves.errors import RuleError
from sgx_enclaves.gate.decide import Rule, parse_mark, parse_rule
from sgx_enclaves.gate.record import read_record
from tests.support.intel import INTEL_PCE, INTEL_QE
from tests.support.records import A, B, enclave, record

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.timezone.utc)
SIGNERS = {"demo": [B], "both": [B, INTEL_PCE]}


def objections(words: str, **changes: Any) -> str:
    rule = parse_rule(words.split(), SIGNERS)
    return "; ".join(rule.objections(read_record(record(**changes)), NOW))


@pytest.mark.parametrize(
    ("words", "changes", "reason"),
    [
        ("", {}, ""),
        # The record is exactly one day old.
        ("max_age=1d", {}, ""),
        ("max_age=24h", {}, ""),
        ("max_age=23h", {}, "too old: of 2026-11-25T00:00:00Z"),
        ("max_age=1439m", {}, "too old"),
        ("max_age=1440m", {}, ""),
        ("max_age=999999d", {"verified_at": None}, "too old"),
        ("release=sgx-*", {}, ""),
        ("release=sgx-1", {}, ""),
        ("release=sgx", {}, "against release sgx-1, not sgx"),
        ("release=SGX-*", {}, "not SGX-*"),
        ("", {"origin": "https://x/y.toml"}, "is from https://x/y.toml, not catalogue"),
        ("origin=https://x/*", {"origin": "https://x/y.toml"}, ""),
        ("origin=https://x/*", {}, "is from catalogue"),
        ("origin=*", {}, ""),
        ("signer=demo", {}, ""),
        (f"signer={B}", {}, ""),
        ("signer=both", {}, ""),
        (f"signer={INTEL_PCE}", {}, f"signed by {B}, who is not asked for"),
        ("signer=intel", {}, "who is not asked for"),
        ("signer=intel,demo", {}, ""),
        ("signer=intel", {"enclaves": [enclave(mrsigner=INTEL_PCE)]}, ""),
        # Intel's, but not of this enclave.
        ("signer=intel", {"enclaves": [enclave(mrsigner=INTEL_QE)]}, "who is not asked for"),
        ("signer=intel", {"enclaves": [enclave(mrsigner=INTEL_QE, name="new")]}, ""),
        # An enclave that nobody knows by name is of Intel only with a signer of Intel's.
        ("signer=intel", {"enclaves": [enclave(name="new")]}, "who is not asked for"),
        (
            "signer=demo",
            {"enclaves": [enclave(), enclave(path="/b", mrsigner=INTEL_PCE)]},
            "/b of x-1-1.x86_64.rpm is signed by",
        ),
        ("reproducible=yes", {}, ""),
        ("reproducible=off", {"reproducible": False}, ""),
        ("locked=On", {}, "pinned by no lock"),
        ("build_tag=f42-*", {"build_tag": "f42-build"}, ""),
        ("build_tag=f42-*", {"build_tag": "mine"}, "it was built in tag mine, not f42-*"),
        ("build_tag=*", {}, ""),
        ("build_tag=f42-*", {}, "it was built in tag None"),
        ("locked=yes", {"lock_sha256": B}, ""),
        ("locked=yes", {}, "pinned by no lock"),
        ("locked=no", {}, ""),
        (f"lock={B}", {"lock_sha256": B}, ""),
        (f"lock={B}", {"lock_sha256": A}, f"pinned by lock {A}, not {B}"),
        (f"lock={B}", {}, "pinned by lock None"),
        ("reproducible=no", {"reproducible": False}, ""),
        ("reproducible=yes", {"reproducible": False}, "designated toolchain"),
        ("", {"reproducible": False}, "designated toolchain"),
    ],
)
def test_what_a_rule_refuses(words: str, changes: dict[str, Any], reason: str) -> None:
    found = objections(words, **changes)
    assert reason in found
    assert bool(found) == bool(reason)


def test_every_objection_is_reported() -> None:
    found = objections(
        "max_age=1m release=x signer=intel reproducible=yes",
        origin="https://x",
        reproducible=False,
    )
    assert found.count(";") == 4


def test_a_signer_that_nobody_knows_is_not_asked_for() -> None:
    unsigned = enclave(mrsigner=None, verdict="unverifiable")
    found = objections("signer=intel", enclaves=[unsigned], verdict="unverifiable")
    assert "signed by None" in found


@pytest.mark.parametrize(
    "words",
    [
        "max_age",
        "max_age=",
        "max_age=0d",
        "max_age=30",
        "max_age=-1d",
        "max_age=1d2h",
        "max_age=1D",
        "max_age=30d max_age=60d",
        "maxage=30d",
        "MAX_AGE=30d",
        "signer=",
        "signer=amd",
        "signer=intel,",
        f"signer={B.upper()}",
        f"signer={B[:-1]}",
        f"lock={B.upper()}",
        f"lock={B[:-1]}",
        "lock=none",
        "reproducible=perhaps",
        "reproducible",
        "release=",
        "origin=",
        "=x",
        "!",
        "true",
        "x" * 10_000,
    ],
)
def test_a_rule_that_cannot_be_read_is_an_error(words: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(words.split(), SIGNERS)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_site_without_names_for_signers() -> None:
    with pytest.raises(RuleError, match="signer 'demo' is not known"):
        parse_rule(["signer=demo"])


@pytest.mark.parametrize("value", [None, False, 0, "", " ", "false", "No", "off", "0"])
def test_a_mark_that_asks_for_nothing(value: object) -> None:
    assert parse_mark(value) is None


@pytest.mark.parametrize("value", [True, 1, "true", "Yes", "on", "1", " true "])
def test_a_mark_that_asks_for_the_plain_rule(value: object) -> None:
    assert parse_mark(value) == Rule()


def test_a_mark_with_a_rule() -> None:
    assert parse_mark("max_age=30d  signer=demo", SIGNERS) == Rule(
        max_age=datetime.timedelta(days=30), signer=frozenset({B})
    )


@pytest.mark.parametrize("value", [2, -1, "ture", "max_age", [], ["true"], {}, 1.0, b"true"])
def test_a_mark_that_cannot_be_read_is_an_error(value: object) -> None:
    with pytest.raises(RuleError):
        parse_mark(value)
