# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate before tags, its status, the policy tests: on Koji's own policy classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import koji
import koji.plugin
import koji.policy
import pytest
from sgx_enclaves_hub import doctor
from sgx_enclaves_hub.doctor import checkSgxSetup
from sgx_enclaves_hub.gate import (
    SgxEnclavesPresentTest,
    SgxEnclavesVerifiedTest,
    auditSgxTag,
    gate_tagging,
    getSgxGateStatus,
    guard_import,
    refusal,
)
from sgx_enclaves_hub.records import recordSgxVerification

from sgx_enclaves import __version__
from sgx_enclaves.gate.decide import Decision
from tests.support.records import A, B
from tests.unit.koji.hub.fakehub import NOW, PLAIN_FILES, PROVIDES, TASK, FakeHub

MARK = "sgx_enclaves.enforce"


@pytest.fixture(name="ready")
def _ready(hub: FakeHub) -> FakeHub:
    """A hub with a gated tag, and a build with an enclave that was not verified."""
    hub.add_tag(extra={MARK: "true"})
    hub.add_package(hub.add_build())
    return hub


def verify(hub: FakeHub, **changes: Any) -> None:
    hub.open_task("x-1.0-1")
    recordSgxVerification(TASK, hub.record(hub.builds[7], **changes))


def verify_again(hub: FakeHub, **changes: Any) -> None:
    """Another verification of the same build, by another task."""
    number = TASK + len(hub.rows["sgx_verification"])
    hub.open_task("x-1.0-1", number=number)
    record = hub.record(hub.builds[7], task_id=number, **changes)
    if changes.get("verdict", "identical") != "identical":
        record["reproducible"] = False
    recordSgxVerification(number, record)


def tag(hub: FakeHub, build: int = 7, number: int = 4) -> str:
    """What the gate says, as the hub asks it."""
    try:
        gate_tagging(
            "preTag", tag=hub.tags[number], build=hub.builds[build], user={"id": 1}, force=True
        )
    except koji.TagError as error:
        return str(error)
    return ""


def test_an_unverified_build_does_not_pass(ready: FakeHub) -> None:
    words = tag(ready)
    assert words.startswith("sgx_enclaves: x-1.0-1 holds SGX enclaves and may not be tagged into")
    for part in ("gated", "never verified", "koji sgx-enclaves verify x-1.0-1", "gate-status"):
        assert part in words


def test_a_verified_build_passes(ready: FakeHub) -> None:
    verify(ready)
    assert tag(ready) == ""


def test_a_build_that_differs_does_not(ready: FakeHub) -> None:
    verify(ready, verdict="differs")
    words = tag(ready)
    assert "ended with the verdict differs" in words
    assert "Do not ship it: koji sgx-enclaves show x-1.0-1" in words
    assert "Verify it" not in words


@pytest.mark.parametrize("extra", [None, {}, {MARK: None}, {MARK: "false"}, {"other": "true"}])
def test_a_tag_without_a_mark_is_open(ready: FakeHub, extra: Any) -> None:
    ready.tags[4]["extra"] = extra
    assert tag(ready) == ""


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (True, ""),
        ("release=sgx-*", ""),
        ("release=other", "not other"),
        (f"signer={A}", "who is not asked for"),
        ("signer=demo", ""),
        ("ture", "a word that cannot be read: 'ture'"),
        (["true"], "the tag's mark cannot be read"),
    ],
)
def test_a_tag_s_mark_may_be_a_rule(ready: FakeHub, conf: Path, mark: Any, reason: str) -> None:
    conf.write_text(f"[signers]\ndemo = {B}\n")
    verify(ready)
    ready.tags[4]["extra"] = {MARK: mark}
    words = tag(ready)
    assert reason in words
    assert bool(words) == bool(reason)
    assert not words or "x-1.0-1" in words


@pytest.mark.parametrize("mark", [None, "false", "release=sgx-*"])
def test_the_configuration_overrules_the_tag(ready: FakeHub, conf: Path, mark: Any) -> None:
    conf.write_text("[enforce]\ngat* = release=other\n*ed =\n")
    verify(ready)
    ready.tags[4]["extra"] = {MARK: mark}
    assert "not other" in tag(ready)
    ready.add_tag(5, "signed", extra={})
    assert tag(ready, number=5) == ""
    ready.add_tag(6, "open", extra={})
    assert tag(ready, number=6) == ""


def test_a_tag_s_own_mark_holds_besides_the_configuration(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[enforce]\ngated = release=sgx-*\n")
    verify(ready)
    for mark, reason in ((None, ""), ("release=other", "not other"), ("ture", "cannot be read")):
        ready.tags[4]["extra"] = {MARK: mark}
        words = tag(ready)
        assert reason in words
        assert bool(words) == bool(reason)


def rename(hub: FakeHub, number: int, name: str) -> None:
    """As Koji does; that the database notes the former name is `tests/koji`'s matter."""
    former = {"tag_id": number, "name": hub.tags[number]["name"]}
    hub.rows.setdefault("sgx_former_tag_name", []).append(former)
    hub.tags[number]["name"] = name


def test_a_gated_tag_stays_gated_under_another_name(ready: FakeHub, conf: Path) -> None:
    """Renamed, or with its name swapped with another tag's, before it was ever asked for."""
    conf.write_text("[enforce]\nf42* =\n")
    ready.tags.clear()
    ready.add_tag(4, "f42-updates")
    ready.add_tag(5, "open")
    assert tag(ready, number=5) == ""
    for number, name in ((4, "aside"), (5, "f42-updates"), (4, "open")):
        rename(ready, number, name)
    assert "never verified" in tag(ready, number=4)
    assert "never verified" in tag(ready, number=5)
    rename(ready, 4, "anything")
    assert "never verified" in tag(ready, number=4)
    assert getSgxGateStatus(7, 4)["enforced"]
    verify(ready)
    assert tag(ready, number=4) == ""


def test_all_rules_of_all_its_names_hold(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[enforce]\nstrict = release=other\nweak = release=sgx-*\n")
    ready.tags.clear()
    ready.add_tag(4, "strict")
    verify(ready)
    assert "not other" in tag(ready)
    rename(ready, 4, "weak")
    assert "not other" in tag(ready)


def test_the_build_is_locked_while_it_is_looked_at(ready: FakeHub) -> None:
    """So that nothing is imported into it between the look and the tagging."""
    tag(ready)
    assert ready.locked == [("build", 7)]
    ready.locked.clear()
    ready.tags[4]["extra"] = {}
    tag(ready)
    assert ready.locked == []


def test_a_verification_that_proved_nothing_shuts_no_gate(ready: FakeHub) -> None:
    verify(ready)
    verify_again(ready, verdict="unverifiable")
    assert tag(ready) == ""
    assert getSgxGateStatus(7, 4)["record"] == 1
    verify_again(ready, verdict="differs")
    assert "ended with the verdict differs" in tag(ready)
    assert getSgxGateStatus(7, 4)["record"] == 3
    verify_again(ready)
    assert tag(ready) == ""


def test_an_audit_finds_what_a_tag_shows_without_a_record(ready: FakeHub) -> None:
    """Inherited builds too, of which no gate was ever asked."""
    for number, name in ((8, "plain"), (9, "other")):
        ready.add_build(number, name)
    ready.add_package(ready.builds[8], PLAIN_FILES, ())
    ready.add_package(ready.builds[9])
    ready.add_tag(5, "parent")
    ready.tagged = {4: [7, 8], 5: [9]}
    ready.permissions.add("sgx-enclaves")
    found = auditSgxTag("gated")
    assert (found["looked_at"], found["next"]) == (3, None)
    assert [(item["nvr"], item["tag"]) for item in found["refused"]] == [
        ("x-1.0-1", "gated"),
        ("other-1.0-1", "parent"),
    ]
    assert "never verified" in found["refused"][0]["reasons"][0]
    verify(ready)
    assert [item["nvr"] for item in auditSgxTag(4)["refused"]] == ["other-1.0-1"]
    first = auditSgxTag(4, 0, 2)
    assert (first["looked_at"], first["next"], first["refused"]) == (2, 8, [])
    assert auditSgxTag(4, first["next"], 2)["refused"][0]["nvr"] == "other-1.0-1"
    with pytest.raises(koji.GenericError, match="limit does not fit"):
        auditSgxTag(4, 0, 0)
    ready.permissions.clear()
    with pytest.raises(koji.ActionNotAllowed):
        auditSgxTag(4)


def test_a_build_without_enclaves_passes_without_any_record(ready: FakeHub) -> None:
    ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ())
    ready.add_build(9, "image")
    assert tag(ready, 8) == ""
    assert tag(ready, 9) == ""


def test_the_record_of_a_promoted_draft_still_counts(ready: FakeHub) -> None:
    """Promotion changes name and folder, and no byte."""
    verify(ready)
    old = Path(ready.build_folder(ready.builds[7]))
    ready.builds[7]["nvr"] = "x-1.0-2"
    old.rename(ready.build_folder(ready.builds[7]))
    assert tag(ready) == ""


def test_signed_copies_that_cannot_be_listed(ready: FakeHub) -> None:
    verify(ready)
    folder = Path(ready.build_folder(ready.builds[7])) / "data"
    folder.mkdir()
    (folder / "signed").write_bytes(b"")
    assert "signed copies cannot be listed" in tag(ready)


def test_nobody_hears_of_enclaves_where_nothing_could_be_read(ready: FakeHub) -> None:
    ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ()).unlink()
    assert tag(ready, 8).startswith("sgx_enclaves: y-1.0-1 could hold SGX enclaves and may not be")
    ready.add_package(ready.builds[8], name="y-libs")
    assert tag(ready, 8).startswith("sgx_enclaves: y-1.0-1 holds SGX enclaves and may not be")


def test_a_kept_record_that_is_damaged_closes_the_gate(ready: FakeHub) -> None:
    ready.rows["sgx_verification"] = [
        {"id": 1, "build_id": 7, "task_id": 1, "host_id": 1, "record": "[]"}
    ]
    assert "cannot be tagged into gated" in tag(ready)


def test_the_hub_s_own_callback_runs_it(ready: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(koji.plugin.callbacks, "preTag", [gate_tagging])
    build, gated = ready.builds[7], ready.tags[4]
    with pytest.raises(koji.CallbackError, match="may not be tagged into gated"):
        koji.plugin.run_callbacks("preTag", tag=gated, build=build, user={}, force=True)
    verify(ready)
    koji.plugin.run_callbacks("preTag", tag=gated, build=build, user={}, force=False)


def test_a_refusal_has_an_end() -> None:
    words = refusal("x-1-1", "t", Decision(True, False, tuple(f"reason {i}" for i in range(99))))
    assert "reason 11" in words
    assert "reason 12" not in words
    assert "and 87 more reasons" in words


def test_the_status(ready: FakeHub) -> None:
    closed = getSgxGateStatus(7, "gated")
    assert (closed["present"], closed["enforced"], closed["verified"]) == (True, True, False)
    assert (closed["allowed"], closed["record"]) == (False, None)
    assert "never verified" in closed["reasons"][0]
    ready.add_tag(5, "open")
    assert getSgxGateStatus(7, "open")["allowed"]
    assert not getSgxGateStatus(7, "open")["verified"]
    verify(ready)
    assert getSgxGateStatus("x-1.0-1", 4) == {
        "present": True,
        "enforced": True,
        "verified": True,
        "allowed": True,
        "reasons": [],
        "record": 1,
    }


def test_the_status_of_a_build_without_enclaves(ready: FakeHub) -> None:
    ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ())
    answer = getSgxGateStatus(8, "gated")
    assert (answer["present"], answer["verified"], answer["allowed"]) == (False, False, True)


@pytest.mark.parametrize(
    ("build", "where", "reason"),
    [("none", 4, "No such build"), (7, "none", "No such tagInfo"), (7.0, 4, "does not fit")],
)
def test_the_status_of_what_is_not_there(
    ready: FakeHub, build: Any, where: Any, reason: str
) -> None:
    with pytest.raises(koji.GenericError, match=reason):
        getSgxGateStatus(build, where)
    ready.logged_in = False
    with pytest.raises(koji.AuthError):
        getSgxGateStatus(7, 4)


def test_the_status_of_a_tag_with_a_wrong_mark(ready: FakeHub) -> None:
    ready.tags[4]["extra"] = {MARK: "ture"}
    with pytest.raises(koji.GenericError, match="a word that cannot be read"):
        getSgxGateStatus(7, 4)


# --- packages that come later


def add(hub: FakeHub, path: Path, **changes: Any) -> str:
    info = {"type": "rpm", "build": hub.builds[7], "filepath": str(path), "rpm": {}, **changes}
    try:
        guard_import("preImport", **info)
    except koji.ImportError as error:
        return str(error)
    return ""


def test_no_enclave_is_added_to_a_build_behind_the_gate(ready: FakeHub, tmp_path: Path) -> None:
    path = ready.add_package(ready.builds[7], name="x-late")
    assert add(ready, path) == ""
    ready.answers["tag_listing"] = [{"tag_id": 4}]
    assert "x-1.0-1, which is tagged into gated" in add(ready, path)
    plain = ready.add_package(ready.builds[7], PLAIN_FILES, (), "x-doc")
    assert add(ready, plain) == ""
    assert add(ready, tmp_path / "missing.rpm") != ""
    ready.tags[4]["extra"] = {MARK: "ture"}
    assert add(ready, path) != ""
    ready.tags[4]["extra"] = {}
    assert add(ready, path) == ""


@pytest.mark.parametrize(
    "changes", [{"type": "build"}, {"type": "archive"}, {"build": None}, {"build": {}}]
)
def test_other_imports_are_let_through(ready: FakeHub, changes: dict[str, Any]) -> None:
    ready.answers["tag_listing"] = [{"tag_id": 4}]
    path = ready.add_package(ready.builds[7], name="x-late")
    assert add(ready, path, **changes) == ""


# --- policies

TESTS = {
    "sgx_enclaves_present": SgxEnclavesPresentTest,
    "sgx_enclaves_verified": SgxEnclavesVerifiedTest,
}


def rules(text: str) -> koji.policy.SimpleRuleSet:
    return koji.policy.SimpleRuleSet(text.splitlines(), {**TESTS, "all": koji.policy.AllTest})


POLICY = """
sgx_enclaves_present :: {
    sgx_enclaves_verified !! deny not verified
}
all :: allow
"""


@pytest.mark.parametrize("form", ["id", "nvr", "mapping"])
def test_a_policy_in_every_form_of_its_data(ready: FakeHub, form: str) -> None:
    build = {"id": 7, "nvr": "x-1.0-1", "mapping": ready.builds[7]}[form]
    ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ())
    policy = rules(POLICY)
    assert policy.apply({"build": build}) == "deny not verified"
    verify(ready)
    assert policy.apply({"build": build}) == "allow"
    assert policy.apply({"build": 8}) == "allow"


@pytest.mark.parametrize(
    ("words", "verified"),
    [
        ("", True),
        ("max_age=1d", True),
        ("release=sgx-1", True),
        ("release=sgx-2", False),
        ("origin=https://*", False),
        ("signer=demo", True),
        ("signer=intel", False),
        ("reproducible=yes", True),
        ("max_age=1d release=sgx-1 signer=intel", False),
    ],
)
def test_arguments_of_the_policy_test(
    ready: FakeHub, conf: Path, words: str, verified: bool
) -> None:
    conf.write_text(f"[signers]\ndemo = {B}\n")
    verify(ready)
    test = SgxEnclavesVerifiedTest(f"sgx_enclaves_verified {words}")
    assert test.run({"build": 7}) is verified


def test_an_old_verification(ready: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(ready)
    test = SgxEnclavesVerifiedTest("sgx_enclaves_verified max_age=30d")
    assert test.run({"build": 7})
    later = NOW.replace(year=2027)
    monkeypatch.setattr("sgx_enclaves_hub.hub_api.now", lambda: later)
    assert not test.run({"build": 7})


def test_there_is_nothing_verified_in_a_build_without_enclaves(ready: FakeHub) -> None:
    ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ())
    assert not SgxEnclavesVerifiedTest("sgx_enclaves_verified").run({"build": 8})
    assert not SgxEnclavesPresentTest("sgx_enclaves_present").run({"build": 8})


def test_what_cannot_be_read_is_present(ready: FakeHub) -> None:
    path = ready.add_package(ready.add_build(8, "y"), PLAIN_FILES, ())
    path.write_bytes(b"text")
    assert SgxEnclavesPresentTest("sgx_enclaves_present").run({"build": 8})


@pytest.mark.parametrize("provides", [PROVIDES, ()])
def test_presence_does_not_need_provides(ready: FakeHub, provides: tuple[str, ...]) -> None:
    ready.add_package(ready.add_build(8, "y"), provides=provides)
    assert SgxEnclavesPresentTest("sgx_enclaves_present").run({"build": 8})


@pytest.mark.parametrize("data", [{}, {"build": None}, {"build": 0}])
@pytest.mark.usefixtures("ready")
def test_a_policy_without_a_build(data: dict[str, Any]) -> None:
    for test in (SgxEnclavesPresentTest("p"), SgxEnclavesVerifiedTest("v")):
        with pytest.raises(koji.GenericError, match="the policy needs a build"):
            test.run(data)


@pytest.mark.parametrize(
    "line",
    [
        "sgx_enclaves_present x :: deny",
        "sgx_enclaves_verified maxage=1d :: allow",
        "sgx_enclaves_verified max_age=1 :: allow",
        "sgx_enclaves_verified signer=nobody :: allow",
        "sgx_enclaves_verified pass :: allow",
    ],
)
def test_a_policy_that_cannot_be_read_does_not_start(line: str) -> None:
    with pytest.raises(koji.GenericError):
        rules(line)


# --- the set-up


LOAD = "load 0001-sgx-verification.sql"
ALL_TABLES = [{"it": name} for name in doctor.TABLES]


def checked(hub: FakeHub) -> dict[str, tuple[bool, str]]:
    hub.permissions.add("sgx-enclaves")
    return {item["what"]: (item["good"], item["says"]) for item in checkSgxSetup()}


def test_a_good_set_up(ready: FakeHub, conf: Path) -> None:
    conf.write_text(
        "[tasks]\nchannel = sgx\nbuild_tags = f42-build:5\n[hook]\nenabled = yes\n"
        "build_tag = f42-build\n[enforce]\ngated =\n"
    )
    ready.hosts = {"sgx": ["b1"]}
    ready.add_tag(5, "f42-build")
    tag(ready)
    ready.answers = {
        "pg_class": ALL_TABLES,
        "user_perms": [{"it": "releng"}],
        "task": [{"it": "b1"}],
        "sgx_verification": [{"it": f"b1 {__version__}"}],
    }
    found = checked(ready)
    assert found["versions"][1].endswith(f"builders of the last records: b1 {__version__}")
    assert {what for what, (good, _says) in found.items() if not good} == set()
    assert found["channel"][1] == "sgx: b1"
    assert "trusted tags: f42-build; locked releases: none" in found["build tags and locks"][1]
    assert found["gated tags"] == (True, "1")
    assert "1 users" in found["who can open a gate"][1]


def test_a_build_tag_that_is_not_the_one_that_was_pinned_is_named(
    ready: FakeHub, conf: Path
) -> None:
    conf.write_text("[tasks]\nbuild_tags = gone:3 swapped:4 renamed:5 good:6\n")
    for number, name in ((14, "swapped"), (5, "renamed"), (6, "good")):
        ready.add_tag(number, name)
    ready.rows["sgx_former_tag_name"] = [{"tag_id": 5, "name": "mine"}]
    ready.answers = {"pg_class": ALL_TABLES}
    found = checked(ready)
    prefix = "[tasks] build tag "
    assert {what[len(prefix) :]: says for what, (_, says) in found.items() if prefix in what} == {
        "gone": "not trusted: it does not exist; name another",
        "swapped": "not trusted: it has id 14, and [tasks] build_tags pins 4; name another",
        "renamed": "not trusted: it had another name before; name another",
    }
    assert "trusted tags: good;" in found["build tags and locks"][1]


def test_what_is_wrong_with_a_set_up_is_named(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[tasks]\nchannel = sgx\n[hook]\nenabled = yes\nbuild_tag = none\n")
    ready.add_tag(5, "broken", extra={MARK: "ture"})
    ready.hosts = {"sgx": ["b1"]}
    ready.answers = {
        "pg_class": ALL_TABLES,
        "tag_extra": [{"it": 5}],
        "sgx_verification": [{"it": "b1 0.0.1"}, {"it": f"b2 {__version__}"}],
    }
    found = checked(ready)
    wrong = {what: says for what, (good, says) in found.items() if not good}
    assert wrong["versions"].endswith("last records: b1 0.0.1; update them, and verify there")
    assert "no verification within a week: b1" in wrong["hosts that verify"]
    assert "the plain rule lets nothing in" in wrong["build tags and locks"]
    assert wrong["[hook] tag none"] == "it does not exist"
    assert "a word that cannot be read" in wrong["gated tag broken"]
    assert "nothing is kept out" in wrong["gated tags"]
    ready.answers = {"pg_class": ALL_TABLES}
    for ready.hosts in ({"sgx": []}, {}):
        assert "no enabled x86_64 host" in checked(ready)["channel"][1]
    ready.answers = {"pg_class": ALL_TABLES[1:]}
    assert checked(ready) == {"tables": (False, f"missing: {doctor.TABLES[0]}; {LOAD}")}
    ready.permissions.clear()
    with pytest.raises(koji.ActionNotAllowed):
        checkSgxSetup()


# --- how much anybody may have the hub read


def test_who_has_no_permission_is_answered_one_at_a_time(ready: FakeHub) -> None:
    assert getSgxGateStatus(7)["present"]
    assert ready.asked_locks == ["sgx-enclaves-inspection"]
    ready.busy = True
    with pytest.raises(koji.GenericError, match="ask again in a moment"):
        getSgxGateStatus(7)
    ready.permissions.add("sgx-enclaves")
    assert getSgxGateStatus(7)["present"]
    ready.permissions.clear()
    ready.admin = True
    assert getSgxGateStatus(7)["present"]
    assert len(ready.asked_locks) == 2
