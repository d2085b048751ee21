# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate's decision: one case that passes, and one for each way not to."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any, Optional

import pytest

from sgx_enclaves.gate.decide import Decision, Rule, decide, mismatches, parse_rule, plain
from sgx_enclaves.gate.inspect import PackageFacts, RpmDigests
from sgx_enclaves.gate.record import Record, read_record
from tests.support.records import PATH, RPM, A, B, C, D, enclave, package, record

NOW = datetime.datetime(2026, 11, 25, 1, tzinfo=datetime.timezone.utc)
DOC = "x-doc-1-1.noarch.rpm"
GOOD = PackageFacts(RPM, RpmDigests(A, B), {PATH: D}, ("sgx-enclave(pce:signed)",))
PLAIN = PackageFacts(DOC, RpmDigests(C, D))
RPMS = [package(), package(name=DOC, file_sha256=C, content_sha256=D)]


def decision(*packages: PackageFacts, rule: Optional[Rule] = None, **changes: Any) -> Decision:
    kept = read_record(record(**{"rpms": RPMS, **changes}))
    found = decide(packages or (GOOD, PLAIN), [kept], [rule or Rule()], NOW)
    assert found.record in (kept, None)
    return replace(found, record=None)


def test_a_build_that_was_verified_passes() -> None:
    assert decision() == Decision(True, True, ())


@pytest.mark.parametrize("packages", [(), (PLAIN,)])
def test_a_build_without_enclaves_passes(packages: tuple[PackageFacts, ...]) -> None:
    assert decide(packages, [], [Rule()], NOW) == Decision(False, True, ())
    kept = read_record(record(verdict="differs"))
    assert decide(packages, [kept], [Rule()], NOW) == Decision(False, True, ())


def test_a_build_without_a_record_does_not() -> None:
    found = decide((GOOD, PLAIN), [], [Rule()], NOW)
    assert (found.present, found.allowed) == (True, False)
    (reason,) = found.reasons
    assert f"{RPM} holds signed enclaves that were never verified: {PATH}" in reason


@pytest.mark.parametrize("kept", [True, False])
def test_what_cannot_be_read_does_not(kept: bool) -> None:
    lost = PackageFacts(RPM, None, problem="cannot be read")
    known = [read_record(record(rpms=RPMS))] if kept else []
    found = decide((lost, PLAIN), known, [Rule()], NOW)
    assert found.present
    assert not found.allowed
    assert f"nobody can say what is in {RPM}: cannot be read" in found.reasons


OTHER = RpmDigests(A, A)


UNREAD = PackageFacts("k", None, problem="lost")


def copy(content: str) -> PackageFacts:
    """One that is signed with the key k."""
    return PackageFacts("k", RpmDigests(A, content))


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        ((replace(GOOD, digests=RpmDigests(B, B)), PLAIN), "another file than the one that was"),
        ((replace(GOOD, digests=OTHER), PLAIN), "another file than the one that was"),
        ((GOOD, replace(PLAIN, digests=OTHER)), f"{DOC} is another file"),
        ((GOOD,), f"verification is of {DOC}, which is not in the build"),
        ((GOOD, PLAIN, replace(PLAIN, name="new.rpm")), "new.rpm was not there when"),
        ((replace(GOOD, signed={PATH: C}), PLAIN), "has other bytes than verified"),
        ((replace(GOOD, signed={**GOOD.signed, "/x": D}), PLAIN), "/x of"),
        ((replace(GOOD, signed={**GOOD.signed, "/x": None}), PLAIN), "not verified"),
        ((replace(GOOD, signed={}), PLAIN), "where no signed enclave is"),
        ((replace(GOOD, provides=("sgx-enclave(ide:signed)",)), PLAIN), "no such enclave of it"),
        ((replace(GOOD, provides=("sgx-enclave(",)), PLAIN), "no such enclave of it"),
        ((GOOD, replace(PLAIN, signed=GOOD.signed)), f"of {DOC} was not verified"),
        ((GOOD, replace(PLAIN, provides=GOOD.provides)), f"{DOC} provides"),
        ((replace(GOOD, copies=(copy(C),)), PLAIN), "signed with k has another content"),
        ((GOOD, replace(PLAIN, copies=(copy(C),))), "signed with k has another content"),
        ((replace(GOOD, copies=(UNREAD,)), PLAIN), "signed with k cannot be read: lost"),
        ((replace(GOOD, problem="bad payload"), PLAIN), "nobody can say"),
    ],
)
def test_a_record_for_other_bytes_does_not_count(
    packages: tuple[PackageFacts, ...], reason: str
) -> None:
    found = decision(*packages)
    assert not found.allowed
    assert reason in "; ".join(found.reasons)


def test_a_signed_copy_of_the_same_content_passes() -> None:
    assert decision(replace(GOOD, copies=(copy(B),)), PLAIN).allowed


@pytest.mark.parametrize("verdict", ["differs", "unverifiable"])
def test_another_verdict_does_not(verdict: str) -> None:
    found = decision(verdict=verdict)
    assert found.reasons == (
        f"its verification by task 8, against release sgx-1, ended with the verdict {verdict}",
    )
    assert not found.allowed


def test_a_verdict_of_some_enclaves_is_called_so() -> None:
    (reason,) = decision(verdict="differs", partial=True).reasons
    assert reason.startswith("its verification of some of its enclaves by task 8")


def test_a_file_of_which_only_the_name_is_there() -> None:
    """As in a source package's list: the package's own digests say that it is the same."""
    assert decision(replace(GOOD, signed={PATH: None}), PLAIN).allowed


def test_a_package_that_cannot_be_read_is_not_said_to_lack_enclaves() -> None:
    found = decision(replace(GOOD, signed={}, problem="bad payload"), PLAIN)
    assert found.reasons == (f"nobody can say what is in {RPM}: bad payload",)


def test_a_rule_s_objections_count() -> None:
    found = decision(rule=parse_rule(["max_age=59m"]))
    assert not found.allowed
    assert "too old" in found.reasons[0]
    assert decision(rule=parse_rule(["max_age=60m"])).allowed


def test_a_record_with_another_verdict_may_leave_enclaves_out() -> None:
    kept = read_record(record(rpms=RPMS, verdict="unverifiable", enclaves=[]))
    assert mismatches((GOOD, PLAIN), kept) == ()
    kept = read_record(record(rpms=RPMS, verdict="differs", enclaves=[enclave(path="/y")]))
    assert mismatches((GOOD, PLAIN), kept) == ()
    assert mismatches((replace(GOOD, digests=OTHER), PLAIN), kept) != ()


def test_reasons_are_plain_lines() -> None:
    hostile = "/usr/\x1b[2J\n\u202e" + "x" * 5000
    found = decide((replace(GOOD, signed={hostile: D}, provides=("\udcff",)),), [], [Rule()], NOW)
    assert all(reason.isprintable() and len(reason) < 3000 for reason in found.reasons)
    assert plain(["a\nb\x00"]) == ("a\\x0ab\\x00",)


def kept(number: int, verdict: str = "identical", **changes: Any) -> Record:
    values = {"rpms": RPMS, "task_id": number, "verdict": verdict, **changes}
    if verdict == "unverifiable":
        values["enclaves"] = []
    return read_record(record(**values))


OTHER_BYTES = [package(file_sha256=B), RPMS[1]]


@pytest.mark.parametrize(
    ("records", "allowed", "decided_by"),
    [
        ([kept(1)], True, 1),
        # what proved nothing hides nothing
        ([kept(2, "unverifiable"), kept(1)], True, 1),
        ([kept(2, "unverifiable", partial=True), kept(1)], True, 1),
        ([kept(2, "unverifiable"), kept(1, "differs")], False, 1),
        ([kept(3, "unverifiable"), kept(2, "differs"), kept(1)], False, 2),
        # a difference shuts the gate, until a newer verification finds none
        ([kept(2, "differs"), kept(1)], False, 2),
        ([kept(2), kept(1, "differs")], True, 2),
        # one of other bytes says nothing of these
        ([kept(2, "differs", rpms=OTHER_BYTES), kept(1)], True, 1),
        ([kept(2, rpms=OTHER_BYTES), kept(1)], True, 1),
        ([kept(2, rpms=OTHER_BYTES), kept(1, "differs")], False, 1),
        # one that a rule refuses hides no older one, and no difference
        ([kept(2, reproducible=False), kept(1)], True, 1),
        ([kept(2, reproducible=False), kept(1, "differs")], False, 1),
        ([kept(2, origin="https://x"), kept(1, reproducible=False)], False, 2),
        ([kept(2, "unverifiable"), kept(1, "unverifiable")], False, 2),
    ],
)
def test_which_record_decides(records: list[Record], allowed: bool, decided_by: int) -> None:
    found = decide((GOOD, PLAIN), records, [Rule()], NOW)
    assert (found.allowed, found.record and found.record.task_id) == (allowed, decided_by)
    assert bool(found.reasons) is not allowed


def test_all_rules_must_hold() -> None:
    rules = [parse_rule(["max_age=90d"]), parse_rule(["release=other-*"])]
    found = decide((GOOD, PLAIN), [kept(1)], rules, NOW)
    assert found.reasons == ("it was verified against release sgx-1, not other-*",)
    assert decide((GOOD, PLAIN), [kept(1)], rules[:1], NOW).allowed
    assert not decide((GOOD, PLAIN), [kept(1)], rules[::-1], NOW).allowed


def test_the_enclaves_that_a_record_rests_on_must_be_attested() -> None:
    kept = read_record(record(rpms=RPMS))

    def found(*attested: str) -> Decision:
        return decide((GOOD, PLAIN), [kept], [Rule()], NOW, frozenset(attested))

    assert found(A, C).allowed
    for attested in ((), (A, B, D)):
        refused = found(*attested)
        assert not refused.allowed
        (reason,) = refused.reasons
        assert reason.startswith(f"{PATH} of {RPM}: no attestation names the unsigned enclave")
        assert C in reason
    # an older record of an enclave that is attested opens the gate
    other = read_record(record(rpms=RPMS, enclaves=[enclave(built_sha256=A)]))
    assert decide((GOOD, PLAIN), [other, kept], [Rule()], NOW, frozenset({C})).allowed


def test_a_build_without_enclaves_needs_no_attestation() -> None:
    assert decide((PLAIN,), [], [Rule()], NOW, frozenset()).allowed
