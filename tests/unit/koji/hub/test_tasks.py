# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a verification: permission, arguments, the task that is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import koji
import pytest
from sgx_enclaves_hub.tasks import sgxEnclaves

from tests.unit.koji.hub.fakehub import FakeHub


@pytest.fixture(name="ready")
def _ready(hub: FakeHub) -> FakeHub:
    """A hub with a build tag and a build, and a caller who may."""
    hub.permissions.add("sgx-enclaves")
    hub.add_tag(4, "f42-build")
    hub.repos = {1: {"tag_id": 4, "state": koji.REPO_READY}}
    hub.add_build()
    return hub


def test_a_task_is_made(ready: FakeHub) -> None:
    opts = {"enclaves": ["pce"], "repo_id": 1, "timeout": 60, "allow_unpinned": False}
    number = sgxEnclaves("sgx-1", "f42-build", 7, opts, channel="sgx")
    assert number == 101
    arguments = ["sgx-1", "f42-build", "x-1.0-1", opts]
    assert ready.made == [("sgxEnclaves", arguments, {"channel": "sgx"})]


def test_what_may_be_left_out(ready: FakeHub) -> None:
    sgxEnclaves(None, 4, "x-1.0-1", {"timeout": None})
    sgxEnclaves("sgx-1", 4)
    assert [arguments for _, arguments, _ in ready.made] == [
        [None, "f42-build", "x-1.0-1", {}],
        ["sgx-1", "f42-build", None, {}],
    ]
    assert [options for _, _, options in ready.made] == [{}, {}]


def test_the_channel_of_the_configuration(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[tasks]\nchannel = sgx\n")
    sgxEnclaves("sgx-1", 4)
    sgxEnclaves("sgx-1", 4, channel="other")
    assert [options["channel"] for _, _, options in ready.made] == ["sgx", "other"]


def test_a_draft_is_named_by_its_id(ready: FakeHub) -> None:
    """Its NVR changes when it is promoted."""
    ready.add_build(9, "y", release="1,draft_9", nvr="y-1.0-1,draft_9", draft=True)
    sgxEnclaves(None, 4, "y-1.0-1,draft_9", {"unsigned_build": 9})
    assert ready.made[0][1] == [None, "f42-build", 9, {"unsigned_build": 9}]


def test_koji_without_drafts(ready: FakeHub) -> None:
    del ready.builds[7]["draft"]
    sgxEnclaves(None, 4, 7)
    assert ready.made[0][1][2] == "x-1.0-1"


def test_the_permission_is_needed(ready: FakeHub) -> None:
    ready.permissions.clear()
    with pytest.raises(koji.ActionNotAllowed):
        sgxEnclaves("sgx-1", 4)
    ready.admin = True
    sgxEnclaves("sgx-1", 4)
    assert len(ready.made) == 1


@pytest.mark.parametrize(
    ("arguments", "keywords", "reason"),
    [
        ((None, 4), {}, "nothing to verify"),
        (("", 4), {}, "release does not fit"),
        (("x" * 1025, 4), {}, "release does not fit"),
        (("x\n", 4), {}, "release does not fit"),
        ((5, 4), {}, "release does not fit"),
        (("r", "none"), {}, "No such tagInfo"),
        (("r", None), {}, "[tasks] build_tags of the hub names 0, and no target of this build"),
        (("r", 0), {}, "build_tag does not fit"),
        (("r", 4.0), {}, "build_tag does not fit"),
        (("r", {"name": "f42-build"}), {}, "build_tag does not fit"),
        (("r", 4, "none"), {}, "No such build"),
        (("r", 4, {"id": 7}), {}, "build does not fit"),
        (("r", 4, 1 << 31), {}, "build does not fit"),
        (("r", 4, None, "opts"), {}, "opts does not fit"),
        (("r", 4, None, {"scratch": True}), {}, "found scratch"),
        (("r", 4, None, {"enclaves": "pce"}), {}, "enclaves does not fit"),
        (("r", 4, None, {"enclaves": ["x"] * 65}), {}, "enclaves does not fit"),
        (("r", 4, None, {"enclaves": [5]}), {}, "enclaves[0] does not fit"),
        (("r", 4, None, {"repo_id": "1"}), {}, "repo_id does not fit"),
        (("r", 4, None, {"timeout": 0}), {}, "timeout does not fit"),
        (("r", 4, None, {"timeout": 7 * 24 * 3600 + 1}), {}, "timeout does not fit"),
        (("r", 4, None, {"allow_unpinned": "yes"}), {}, "allow_unpinned does not fit"),
        (("r", 4, None, {"unsigned_build": "none"}), {}, "No such build"),
        (("r", 4), {"channel": 5}, "channel does not fit"),
    ],
)
def test_what_is_wrong_is_named(
    ready: FakeHub, arguments: tuple[Any, ...], keywords: dict[str, Any], reason: str
) -> None:
    with pytest.raises(koji.GenericError) as caught:
        sgxEnclaves(*arguments, **keywords)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert ready.made == []


@pytest.mark.parametrize("state", ["BUILDING", "FAILED", "DELETED", "CANCELED"])
def test_only_complete_builds(ready: FakeHub, state: str) -> None:
    ready.builds[7]["state"] = koji.BUILD_STATES[state]
    with pytest.raises(koji.GenericError, match=f"x-1.0-1 is not complete, it is {state}"):
        sgxEnclaves(None, 4, 7)


@pytest.mark.parametrize("arches", [None, "", " "])
def test_only_tags_with_a_repo(ready: FakeHub, arches: Any) -> None:
    ready.tags[4]["arches"] = arches
    with pytest.raises(koji.GenericError, match="has no architectures"):
        sgxEnclaves("r", 4)


@pytest.mark.parametrize(
    ("repo", "good"),
    [
        ({"tag_id": 4, "state": koji.REPO_READY}, True),
        ({"tag_id": 4, "state": koji.REPO_EXPIRED}, True),
        ({"tag_id": 4, "state": koji.REPO_DELETED}, False),
        ({"tag_id": 5, "state": koji.REPO_READY}, False),
    ],
)
def test_only_a_repo_of_the_tag(ready: FakeHub, repo: dict[str, int], good: bool) -> None:
    """Another tag's would bring another toolchain into an allowed tag's verdict."""
    ready.repos = {1: repo}
    if good:
        sgxEnclaves("r", 4, None, {"repo_id": 1})
    else:
        with pytest.raises(koji.GenericError, match="name a repo of tag f42-build"):
            sgxEnclaves("r", 4, None, {"repo_id": 1})
    with pytest.raises(koji.GenericError, match="repo 2 does not exist: name a repo"):
        sgxEnclaves("r", 4, None, {"repo_id": 2})


def test_the_hub_says_whether_the_tag_is_allowed(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[tasks]\nbuild_tags = other:9 f42-build:4\n")
    sgxEnclaves("r", 4)
    assert ready.made[0][1][3] == {"tag_allowed": True}
    for number, name in ((5, "mine"), (6, "f42-build"), (7, "other"), (8, "f42-build-2")):
        ready.add_tag(number, name)
        sgxEnclaves("r", number)
        assert ready.made[-1][1][3] == {}, name
    for number in (4, 5):
        with pytest.raises(koji.ParameterError, match="found tag_allowed"):
            sgxEnclaves("r", number, None, {"tag_allowed": True})


@pytest.mark.parametrize(
    ("trusted", "chosen"),
    [("", "demo-build"), ("other:9 f42-build:4", "demo-build"), ("f42-build:4", "f42-build")],
    ids=["none", "two", "one"],
)
def test_the_build_tag_by_default(ready: FakeHub, conf: Path, trusted: str, chosen: str) -> None:
    """The hub's only trusted one, else that of the target of the build or task."""
    conf.write_text(f"[tasks]\nbuild_tags = {trusted}\n")
    ready.add_tag(5, "demo-build")
    ready.targets = {90: "demo", 60: "demo"}
    ready.requests[60], ready.results = ("build", []), {60: {}}
    sgxEnclaves("r", None, 7)
    sgxEnclaves(None, None, None, {"task_id": 60})
    assert [arguments[1] for _, arguments, _ in ready.made] == [chosen] * 2
    allowed = "tag_allowed" in ready.made[0][1][3]
    assert allowed == (chosen == "f42-build")


def test_a_build_of_no_known_target_needs_a_build_tag(ready: FakeHub) -> None:
    ready.targets = {91: "gone"}
    for number, task in ((8, None), (9, 90), (10, 91)):
        ready.add_build(number, f"y{number}", task_id=task)
        with pytest.raises(koji.GenericError, match="name one with --build-tag"):
            sgxEnclaves("r", None, number)
    assert ready.made == []


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("sgx_former_tag_name", {"tag_id": 4, "name": "mine"}),
        ("tag_config", {"tag_id": 4, "create_event": 1, "revoke_event": 3}),
    ],
)
def test_a_tag_that_was_renamed_or_made_again_is_not_allowed(
    ready: FakeHub, conf: Path, table: str, row: dict[str, Any]
) -> None:
    conf.write_text("[tasks]\nbuild_tags = f42-build:4\n")
    ready.rows[table] = [row]
    sgxEnclaves("r", 4)
    assert ready.made[0][1][3] == {}


def test_a_tag_that_was_edited_is_allowed(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[tasks]\nbuild_tags = f42-build:4\n")
    events = ((1, 3), (3, 5), (5, None))
    ready.rows["tag_config"] = [
        {"tag_id": 4, "create_event": made, "revoke_event": revoked} for made, revoked in events
    ]
    sgxEnclaves("r", 4)
    assert ready.made[0][1][3] == {"tag_allowed": True}


def test_a_scratch_build_s_task(ready: FakeHub) -> None:
    ready.requests[60] = ("build", [])
    ready.requests[61] = ("buildArch", [])
    ready.results = {60: {}, 61: {}}
    sgxEnclaves(None, 4, None, {"task_id": 60})
    assert ready.made[0][1] == [None, "f42-build", None, {"task_id": 60}]
    for build, task, reason in ((None, 61, "of method buildArch"), (7, 60, "and not both")):
        with pytest.raises(koji.GenericError, match=reason):
            sgxEnclaves(None, 4, build, {"task_id": task})
    ready.results.clear()
    with pytest.raises(koji.GenericError, match="is not finished"):
        sgxEnclaves(None, 4, None, {"task_id": 60})
