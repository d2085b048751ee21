# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules that make a release's verdict, and how the reports word it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from sgx_enclaves.catalogue.records import Enclave
from sgx_enclaves.cli.output import coloured
from sgx_enclaves.enclave.compare import CLAIMS
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.verdict import (
    NOT_PROVED,
    Check,
    CheckState,
    FileFacts,
    Finding,
    Outcome,
    Severity,
    Verdict,
)
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveOutcome,
    ReleaseVerdict,
    Stage,
    StageState,
    decide,
)
from sgx_enclaves.report.forms import release_dict
from sgx_enclaves.report.templated import release_html, release_text
from tests.support.schemas import schema

REASON = Finding("x", Severity.UNVERIFIABLE, "something broke", expected="this", found="that")
DESIGNATED = BuildFacts("r", BuildKind.DESIGNATED, "gcc 9", ())
HOST = BuildFacts("r", BuildKind.HOST, "gcc 9", ("gcc 9: here 12",))
UNSEPARATED = BuildFacts("r", BuildKind.OPEN, "gcc 9", ())
GIVEN = BuildFacts("r", BuildKind.GIVEN, "gcc 9", (), "its manifest says: all is well")
RED = "\x1b[31m"


def verdict_of(outcome: Outcome) -> Verdict:
    state = CheckState.PROVED if outcome is Outcome.IDENTICAL else CheckState.REFUTED
    facts = FileFacts("f", 1, "0" * 64)
    checks = tuple(
        Check(name, claim, state if name == "payload" else CheckState.PROVED)
        for name, claim in CLAIMS.items()
    )
    return Verdict(
        outcome,
        facts,
        facts,
        facts,
        Policy(),
        "2.25",
        "our build",
        "1" * 64,
        checks,
        (),
        (),
        (),
        NOT_PROVED,
    )


def enclave(name: str, outcome: Outcome) -> EnclaveOutcome:
    compared = outcome is not Outcome.UNVERIFIABLE
    return EnclaveOutcome(
        Enclave(name, name, "v", "m", "ab" * 32, 1, 2),
        "" if compared else "build",
        () if compared else (REASON,),
        verdict_of(outcome) if compared else None,
    )


def of(item: EnclaveOutcome, **changes: Any) -> EnclaveOutcome:
    """The same of an enclave of which the catalogue says otherwise."""
    return replace(item, enclave=replace(item.enclave, **changes))


def judged(
    *enclaves: EnclaveOutcome,
    builds: Sequence[BuildFacts] = (DESIGNATED,),
    unpinned: Sequence[str] = (),
    allowed: bool = False,
    stages: Sequence[Stage] = (),
    notices: Sequence[str] = (),
) -> ReleaseVerdict:
    lists = (tuple(builds), tuple(stages), tuple(enclaves), tuple(notices))
    verdict = decide(ReleaseVerdict("r", "A release", tuple(unpinned), allowed, *lists))
    jsonschema.validate(release_dict(verdict), schema("release"))
    return verdict


SAME = enclave("pce", Outcome.IDENTICAL)
OTHER = enclave("ide", Outcome.DIFFERS)
OPEN = enclave("qe3", Outcome.UNVERIFIABLE)


@pytest.mark.parametrize(
    ("enclaves", "outcome", "status"),
    [
        ((SAME,), Outcome.IDENTICAL, 0),
        ((SAME, OTHER), Outcome.DIFFERS, 1),
        ((SAME, OPEN), Outcome.UNVERIFIABLE, 2),
        ((OTHER, OPEN), Outcome.DIFFERS, 1),
        ((), Outcome.UNVERIFIABLE, 2),
        ((of(SAME, required=False),), Outcome.UNVERIFIABLE, 2),
        ((SAME, of(OTHER, required=False)), Outcome.IDENTICAL, 0),
        ((SAME, of(OPEN, required=False)), Outcome.IDENTICAL, 0),
    ],
)
def test_required_enclaves_decide(
    enclaves: tuple[EnclaveOutcome, ...], outcome: Outcome, status: int
) -> None:
    facts = ReleaseVerdict("r", "A release", (), False, (DESIGNATED,), (), enclaves, ())
    verdict = decide(facts)
    assert (verdict.outcome, verdict.exit_status) == (outcome, status)
    assert verdict.reproducible is (status == 0)


@pytest.mark.parametrize(
    ("builds", "words"),
    [
        ((HOST,), "not the reproducible verdict"),
        (
            (UNSEPARATED,),
            "not separated from this machine, so this is not the reproducible verdict",
        ),
        ((DESIGNATED, UNSEPARATED), "not separated from this machine"),
        ((GIVEN,), "how that was made is not proved here"),
        ((DESIGNATED, HOST), "not the reproducible verdict"),
        ((DESIGNATED, GIVEN), "how that was made is not proved here"),
        ((), ""),
    ],
)
def test_only_designated_builds_are_reproducible(
    builds: tuple[BuildFacts, ...], words: str
) -> None:
    verdict = judged(SAME, builds=builds)
    assert verdict.outcome is Outcome.IDENTICAL
    assert not verdict.reproducible
    assert words in verdict.claim
    assert "NOT the reproducible verdict" in release_text(verdict)
    assert "NOT the reproducible verdict" in release_html(verdict, {}, {}, "")


def test_unpinned_facts_need_the_users_word() -> None:
    refused = judged(SAME, unpinned=["source.a"])
    assert (refused.outcome, refused.reproducible) == (Outcome.UNVERIFIABLE, False)
    assert "--allow-unpinned" in refused.claim
    accepted = judged(SAME, unpinned=["source.a"], allowed=True)
    assert (accepted.outcome, accepted.reproducible) == (Outcome.IDENTICAL, False)
    assert "origin is not proved" in accepted.claim


def test_unpinned_policy_counts_as_unpinned() -> None:
    verdict = judged(of(SAME, isvprodid=None))
    assert verdict.outcome is Outcome.UNVERIFIABLE
    assert verdict.unpinned == ("enclave.pce.isvprodid",)


def test_unpinned_facts_do_not_hide_a_difference() -> None:
    assert judged(SAME, OTHER, unpinned=["source.a"]).outcome is Outcome.DIFFERS


def test_refused_repack_is_not_identical() -> None:
    stage = Stage("repack", StageState.REFUSED, "", 0.1, (REASON,))
    verdict = judged(SAME, stages=[stage])
    assert verdict.outcome is Outcome.UNVERIFIABLE
    assert "repacked archive holds what is not shown" in verdict.claim
    assert judged(SAME, OTHER, stages=[stage]).outcome is Outcome.DIFFERS


def test_original_that_could_not_be_had_beside_a_repack_does_not_matter() -> None:
    stage = Stage("signed", StageState.REFUSED, "", 0.1, (REASON,))
    assert judged(SAME, stages=[stage]).outcome is Outcome.IDENTICAL


def test_difference_without_the_designated_toolchain_says_so() -> None:
    assert "designated toolchain" in judged(OTHER, builds=[HOST]).claim
    assert "designated toolchain" not in judged(OTHER).claim


def test_a_second_signature_is_in_the_text() -> None:
    second = Finding("second-signature", Severity.NOTE, "there is one", found="a key")
    compared = replace(verdict_of(Outcome.IDENTICAL), findings=(second,))
    said = " ".join(release_text(judged(replace(SAME, verdict=compared))).split())
    assert "1... - it has a second signature by a key that nothing binds to the vendor" in said
    assert "second signature" not in release_text(judged(SAME))


def test_unpinned_row_is_red_in_text_and_html() -> None:
    verdict = judged(SAME, unpinned=[f"source.{n}" for n in range(9)], allowed=True)
    row = next(x for x in release_text(verdict).splitlines() if "UNPINNED" in x)
    assert coloured(row).startswith(f"{RED}UNPINNED")
    assert "and 3 more" in release_text(verdict)
    assert '<p class="differs"><strong>Facts that are not pinned' in release_html(
        verdict, {}, {}, ""
    )
    assert RED not in "".join(map(coloured, release_text(judged(SAME)).splitlines()))
    assert "UNPINNED" not in release_text(judged(SAME))


@pytest.mark.parametrize(
    ("enclaves", "colour"), [((SAME,), "\x1b[32m"), ((OTHER,), RED), ((OPEN,), "\x1b[33m")]
)
def test_headline_has_the_verdicts_colour(
    enclaves: tuple[EnclaveOutcome, ...], colour: str
) -> None:
    assert coloured(release_text(judged(*enclaves)).splitlines()[0]).startswith(colour)
    assert "\x1b" not in release_text(judged(*enclaves))


def test_text_of_a_large_release_fits_a_screen() -> None:
    stages = [
        Stage(name, StageState.DONE, "x" * 40, 1.0)
        for name in ("sources", "toolchain", "build", "signed", "compare")
    ]
    enclaves = [of(SAME, name=name) for name in ("pce", "ide", "qe3", "tdqe", "qve")]
    verdict = judged(
        *enclaves, stages=stages, unpinned=[f"source.{n}" for n in range(12)], allowed=True
    )
    lines = release_text(verdict).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_toolchain_mismatches_are_counted() -> None:
    many = replace(HOST, mismatches=tuple(f"tool{n} 1: is not here" for n in range(7)))
    text = release_text(judged(SAME, builds=[many]))
    assert "TOOLCHAIN tool0 1: is not here" in text
    assert "and 4 more" in " ".join(text.split())


def test_enclave_that_may_not_be_shipped() -> None:
    verdict = judged(of(SAME, may_ship=False, reason="legal <b>no</b>"))
    assert "MAY NOT   be shipped: pce: legal <b>no</b>" in release_text(verdict)
    assert "no: legal &lt;b&gt;no&lt;/b&gt;" in release_html(verdict, {}, {}, "")


def test_reason_stands_once_with_its_stage_and_its_next_step() -> None:
    finding = replace(REASON, hint="do that")
    stage = Stage("build", StageState.REFUSED, "", 0.1, (finding,))
    text = release_text(judged(replace(OPEN, findings=(finding,)), stages=[stage]))
    assert text.count("something broke: expected this, found that") == 1
    assert "-> do that" in text
    assert "unverifiable stopped at build" in text


def test_text_out_of_files_cannot_steer_a_terminal_or_a_page() -> None:
    evil = "\x1b[2J<script>"
    stage = Stage("build", StageState.REFUSED, evil, 0.1, (replace(REASON, message=evil),))
    verdict = judged(OPEN, stages=[stage], notices=[evil])
    assert "\x1b" not in release_text(verdict)
    page = release_html(verdict, {}, {}, "")
    assert "\x1b" not in page
    assert "<script>" not in page


def test_schema_refuses_what_is_no_report() -> None:
    good = release_dict(judged(SAME))
    for key in good:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in good.items() if k != key}, schema("release"))
    for key, value in (("outcome", "good"), ("exit_status", 3), ("enclaves", []), ("more", 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, key: value}, schema("release"))


@pytest.mark.parametrize("build", [DESIGNATED, HOST, GIVEN])
def test_enclaves_take_on_trust_what_the_release_does(build: BuildFacts) -> None:
    """A build of this run came from the named sources; a build that was given need not."""
    verdict = judged(enclave("pce", Outcome.IDENTICAL), builds=[build])
    (only,) = verdict.enclaves
    assert only.verdict is not None
    assert only.verdict.not_proved == verdict.not_proved != NOT_PROVED
    assert any("came from" in c for c in verdict.not_proved) is (build is GIVEN)
