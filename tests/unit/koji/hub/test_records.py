# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may write which record, and how records are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import koji
import pytest
from sgx_enclaves_hub.config import settings
from sgx_enclaves_hub.records import (
    getSgxLock,
    getSgxVerification,
    listSgxVerifications,
    recordSgxVerification,
    setSgxLock,
)

from tests.support.records import A, Place, changed
from tests.support_rpm import write_rpm
from tests.unit.koji.hub.fakehub import ENCLAVE_FILES, HOST, PLAIN_FILES, TASK, FakeHub

TABLE = "sgx_verification"


@pytest.fixture(name="ready")
def _ready(hub: FakeHub) -> FakeHub:
    """A hub with a build, and the host that runs its verification."""
    hub.add_package(hub.add_build())
    hub.open_task("x-1.0-1")
    return hub


def refused(hub: FakeHub, record: Any, task: Any = TASK) -> str:
    with pytest.raises(koji.GenericError) as caught:
        recordSgxVerification(task, record)
    assert TABLE not in hub.rows
    return str(caught.value)


def test_a_record_is_kept(ready: FakeHub) -> None:
    sent = ready.record(ready.builds[7])
    assert recordSgxVerification(TASK, sent) == 1
    (row,) = ready.rows[TABLE]
    kept = json.loads(row["record"])
    assert len(row.pop("packages")) == 64
    assert {k: v for k, v in row.items() if k != "record"} == {
        "id": 1,
        "build_id": 7,
        "task_id": TASK,
        "host_id": HOST,
        "release": "sgx-1",
        "origin": "catalogue",
        "verdict": "identical",
        "reproducible": True,
    }
    sent["enclaves"][0].update(cause=None, policy=None)
    assert kept == {**sent, "verified_at": "2026-11-25T00:00:00Z"}
    assert getSgxVerification(7) == {**kept, "id": 1, "host_id": HOST, "outdated": None}


def test_once_a_task(ready: FakeHub) -> None:
    record = ready.record(ready.builds[7])
    recordSgxVerification(TASK, record)
    with pytest.raises(koji.ActionNotAllowed, match="has written its record already"):
        recordSgxVerification(TASK, record)
    assert len(ready.rows[TABLE]) == 1


def test_only_the_host_of_the_task(ready: FakeHub) -> None:
    record = ready.record(ready.builds[7])
    ready.host = HOST + 1
    assert "does not own task" in refused(ready, record)
    ready.host = None
    assert "not a host" in refused(ready, record)


@pytest.mark.parametrize("method", ["sgxEnclave", "build", "tagBuild"])
def test_only_a_verification(ready: FakeHub, method: str) -> None:
    ready.open_task("x-1.0-1", method=method)
    assert "is not the verification of a build" in refused(ready, ready.record(ready.builds[7]))


def test_only_a_verification_of_a_build(ready: FakeHub) -> None:
    ready.open_task(None)
    assert "is not the verification of a build" in refused(ready, ready.record(ready.builds[7]))


@pytest.mark.parametrize("task", ["100", True, 0, -1, None, 1 << 40])
def test_what_is_no_task(ready: FakeHub, task: Any) -> None:
    assert "task_id does not fit" in refused(ready, {}, task)


def test_a_build_that_went_away(ready: FakeHub) -> None:
    record = ready.record(ready.builds[7])
    ready.builds[7]["state"] = koji.BUILD_STATES["DELETED"]
    assert "is not complete, it is DELETED" in refused(ready, record)


def test_a_promoted_draft(hub: FakeHub) -> None:
    """Verified by its id as a draft, it keeps its record under its new name."""
    build = hub.add_build()
    hub.add_package(build)
    hub.open_task(7)
    assert recordSgxVerification(TASK, hub.record(build)) == 1


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("task_id",), TASK + 1, "task_id is not that of task 100"),
        (("build_id",), 8, "build_id is not that of task 100"),
        (("nvr",), "y-1.0-1", "nvr is not that of task 100"),
        (("origin",), "https://x", "origin is not that of task 100"),
        (("verified_at",), "2020-01-01T00:00:00Z", "the hub sets verified_at"),
        (("rpms", 0, "file_sha256"), A, "is another file than the one that was verified"),
        (("rpms", 0, "content_sha256"), A, "is another file than the one that was verified"),
        (("enclaves", 0, "signed_sha256"), A, "has other bytes than verified"),
        (("enclaves", 0, "path"), "/x", "was not verified"),
        (("enclaves", 0, "name"), "ide", "no such enclave of it was verified"),
        (("schema",), 3, "schema does not fit"),
        (("schema",), 1, "schema is not that of task"),
        (("build_tag",), "mine", "build_tag is not that of task"),
        (("partial",), True, "partial is not that of task"),
        (("lock_sha256",), None, "its buildroot was anybody's"),
    ],
)
def test_a_false_record(ready: FakeHub, place: Place, value: Any, reason: str) -> None:
    record = changed(ready.record(ready.builds[7]), place, value)
    assert reason in refused(ready, record)


@pytest.mark.parametrize("record", [None, [], "{}", 5])
def test_what_is_no_record(ready: FakeHub, record: Any) -> None:
    assert "record" in refused(ready, record)


@pytest.mark.parametrize(
    ("asked", "changes", "reason"),
    [
        ("sgx-1", {}, None),
        ("sgx-2", {}, "release is not that of task"),
        ("sgx-1", {"origin": "https://x"}, "origin is not that of task"),
        ("https://x", {"origin": "https://x"}, None),
        ("https://x", {"origin": "https://x", "release": "any"}, None),
        ("https://x", {"origin": "https://y"}, "origin is not that of task"),
        ("https://x", {}, "origin is not that of task"),
        ("git+https://x?#HEAD", {"origin": "git+https://x?#HEAD"}, None),
        (None, {"release": "found"}, None),
    ],
)
def test_a_record_is_of_the_release_that_was_asked_for(
    ready: FakeHub, asked: Any, changes: dict[str, Any], reason: Any
) -> None:
    ready.open_task("x-1.0-1", release=asked)
    record = ready.record(ready.builds[7], **changes)
    if reason is None:
        assert recordSgxVerification(TASK, record) == 1
    else:
        assert reason in refused(ready, record)


def test_every_package_must_be_named(ready: FakeHub) -> None:
    build = ready.builds[7]
    record = ready.record(build)
    ready.add_package(build, PLAIN_FILES, (), "x-doc")
    assert "was not there when the build was verified" in refused(ready, record)


def test_packages_of_another_build(ready: FakeHub) -> None:
    other = ready.add_build(8, "y")
    ready.add_package(other)
    record = ready.record(ready.builds[7])
    record["rpms"] += ready.record(other)["rpms"]
    assert "which is not in the build" in refused(ready, record)


def test_a_package_that_cannot_be_read(ready: FakeHub) -> None:
    build = ready.builds[7]
    record = ready.record(build)
    path = Path(ready.build_folder(build)) / ready.package_path(ready.packages[7][0])
    path.write_bytes(path.read_bytes()[:-1])
    assert "cannot" in refused(ready, record) or "truncated" in refused(ready, record)
    assert "x-1.0-1.x86_64.rpm" in refused(ready, {**record, "verdict": "differs"})


def test_a_payload_that_cannot_be_unpacked(ready: FakeHub) -> None:
    """Nobody can say that it holds no further enclave; for a bad verdict it is enough."""
    build = ready.builds[7]
    path = Path(ready.build_folder(build)) / ready.package_path(ready.packages[7][0])
    path.write_bytes(write_rpm(ENCLAVE_FILES, name="x", tags={1125: "lzip"}))
    record = ready.record(build)
    assert "is compressed with lzip" in refused(ready, record)
    assert recordSgxVerification(TASK, {**record, "verdict": "unverifiable"}) == 1


def test_a_verdict_that_is_not_identical_is_kept_too(ready: FakeHub) -> None:
    record = ready.record(ready.builds[7], verdict="unverifiable", enclaves=[])
    record["toolchain_sha256"] = None
    assert recordSgxVerification(TASK, record) == 1
    found = getSgxVerification("x-1.0-1")
    assert found is not None
    assert found["verdict"] == "unverifiable"


def test_a_signed_copy_of_other_content(ready: FakeHub) -> None:
    build = ready.builds[7]
    record = ready.record(build)
    copy = (
        Path(ready.build_folder(build)) / "data/signed/k" / ready.package_path(ready.packages[7][0])
    )
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"")
    assert "signed with k cannot be read" in refused(ready, record)


def test_a_build_without_a_record(ready: FakeHub) -> None:
    assert getSgxVerification(7) is None


def test_a_kept_record_that_is_damaged_is_an_error(ready: FakeHub) -> None:
    ready.rows[TABLE] = [{"id": 1, "build_id": 7, "task_id": 1, "host_id": 1, "record": "{"}]
    with pytest.raises(koji.GenericError, match="no JSON text"):
        getSgxVerification(7)


def test_filters_become_a_query(ready: FakeHub) -> None:
    ready.add_tag(4, "f42")
    enclave = {"name": "pce", "rpm": "r", "path": "p", "mrenclave": A, "mrsigner": A, "isvsvn": 1}
    enclave["verdict"] = "identical"
    ready.answers = {
        TABLE: [
            {"id": 1, "build_id": 7, "packages": "0" * 64, "state": 1, "enclaves": []},
            {
                "id": 2,
                "build_id": 7,
                "packages": None,
                "state": 1,
                "enclaves": [{**enclave, "cause": None}],
            },
        ],
    }
    rows = listSgxVerifications("x-1.0-1", A.upper(), "pce", "f42", "identical", {"limit": 5})
    assert [(row["id"], row["enclaves"]) for row in rows] == [(1, []), (2, [enclave])]
    assert "not the ones that were verified" in rows[0]["outdated"]
    assert rows[1]["outdated"] is None
    assert not {"packages", "state"} & set(rows[0])
    (query,) = ready.queries
    assert query["values"] == {
        "build": 7,
        "tag": 4,
        "verdict": "identical",
        "enclaves": json.dumps([{"mrenclave": A, "name": "pce"}]),
    }
    assert len(query["clauses"]) == 4
    assert query["opts"] == {"order": "-id", "limit": 5, "offset": 0}


def test_without_filters_there_is_a_limit(ready: FakeHub) -> None:
    assert listSgxVerifications() == []
    (query,) = ready.queries
    assert query["clauses"] == []
    assert query["opts"]["limit"] == 100


def test_the_number_alone(ready: FakeHub) -> None:
    ready.answers[TABLE] = 5
    assert listSgxVerifications(queryOpts={"countOnly": True}) == 5
    assert len(ready.queries) == 1


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"build": "none"}, "No such build"),
        ({"tag": "none"}, "No such tagInfo"),
        ({"verdict": "bad"}, "verdict does not fit"),
        ({"verdict": ["identical"]}, "verdict does not fit"),
        ({"mrenclave": b"x"}, "mrenclave does not fit"),
        ({"enclave": "x" * 2000}, "enclave does not fit"),
        ({"queryOpts": "limit"}, "queryOpts does not fit"),
        ({"queryOpts": {"limit": 1001}}, "limit does not fit"),
        ({"queryOpts": {"limit": -1}}, "limit does not fit"),
        ({"queryOpts": {"limit": 0}}, "limit does not fit"),
        ({"queryOpts": {"order": ["id"]}}, "order does not fit"),
        ({"queryOpts": {"order": "--id"}}, "order does not fit"),
        ({"queryOpts": {"offset": 0.5}}, "offset does not fit"),
        ({"queryOpts": {"order": "record"}}, "order does not fit"),
        ({"queryOpts": {"order": "id,id"}}, "order does not fit"),
        ({"queryOpts": {"group": "id"}}, "found group"),
        ({"queryOpts": {"countOnly": True, "limit": 5}}, "found limit"),
    ],
)
def test_what_is_wrong_with_filters(ready: FakeHub, filters: dict[str, Any], reason: str) -> None:
    with pytest.raises(koji.GenericError) as caught:
        listSgxVerifications(**filters)
    assert reason in str(caught.value)
    assert ready.queries == []


def test_a_build_tag_that_the_hub_allows_needs_no_lock(ready: FakeHub, conf: Path) -> None:
    ready.open_task("x-1.0-1", opts={"tag_allowed": True})
    record = ready.record(ready.builds[7], lock_sha256=None)
    ready.add_tag(9, "b")
    # taken off the list since the task was made
    assert "its buildroot was anybody's" in refused(ready, record)
    conf.write_text("[tasks]\nbuild_tags = b:9\n")
    settings.cache_clear()
    ready.rows["sgx_former_tag_name"] = [{"tag_id": 9, "name": "mine"}]
    assert "its buildroot was anybody's" in refused(ready, record)
    ready.rows.clear()
    assert recordSgxVerification(TASK, record) == 1


def test_without_lock_and_allowed_tag_it_is_kept_as_what_it_is(ready: FakeHub) -> None:
    sent = ready.record(ready.builds[7], lock_sha256=None, reproducible=False)
    assert recordSgxVerification(TASK, sent) == 1


def test_a_verification_in_part_says_so(ready: FakeHub) -> None:
    ready.open_task("x-1.0-1", opts={"enclaves": ["pce"]})
    sent = ready.record(ready.builds[7], verdict="unverifiable", partial=True)
    assert recordSgxVerification(TASK, {**sent, "reproducible": False}) == 1


def test_what_counts_is_shown_and_whether_it_is_of_the_build_as_it_is(ready: FakeHub) -> None:
    recordSgxVerification(TASK, ready.record(ready.builds[7]))
    ready.open_task("x-1.0-1", number=TASK + 1)
    weaker = ready.record(
        ready.builds[7], task_id=TASK + 1, verdict="unverifiable", reproducible=False
    )
    recordSgxVerification(TASK + 1, weaker)
    found = getSgxVerification(7)
    assert found is not None
    assert (found["id"], found["outdated"]) == (1, None)
    # reset, and imported with other bytes
    ready.packages[7][0]["payloadhash"] = "f" * 32
    found = getSgxVerification(7)
    assert found is not None
    assert "not the ones that were verified" in found["outdated"]
    ready.builds[7]["state"] = koji.BUILD_STATES["DELETED"]
    found = getSgxVerification(7)
    assert found is not None
    assert "not complete any more: DELETED" in found["outdated"]


def lock_of(*names: str) -> dict[str, Any]:
    words = ("arch", "version", "release", "epoch", "sigmd5", "signature", "license", "url")
    rpms = [{"name": name, **dict.fromkeys(words, "x")} for name in names]
    return {"version": "1.1.0", "buildroot": {"rpms": rpms}, "config": {}}


LOCK = lock_of("gcc", "make")


def finished(hub: FakeHub, *locks: Any, verdict: str = "identical") -> None:
    """A verification that has ended, with the locks of its subtasks."""
    hub.permissions.add("sgx-enclaves-lock")
    hub.open_task("x-1.0-1")
    hub.results[TASK] = {"verdict": verdict, "release": "sgx-1"}
    hub.children[TASK] = [
        {"id": TASK + n, "method": "sgxEnclave"} for n in range(1, len(locks) + 1)
    ]
    for number, lock in enumerate(locks, 1):
        path = Path(koji.pathinfo.task(TASK + number)) / "buildroot_lock.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(lock))


def test_a_lock_is_made_from_a_verification(ready: FakeHub) -> None:
    assert getSgxLock("sgx-1") is None
    finished(ready, LOCK, lock_of("make", "gcc"))
    made = setSgxLock(TASK)
    assert made["release"] == "sgx-1"
    assert json.loads(made["lock"]) == LOCK
    assert made["sha256"] == hashlib.sha256(made["lock"].encode()).hexdigest()
    assert getSgxLock("sgx-1") == made
    assert getSgxLock("sgx-2") is None


@pytest.mark.parametrize(
    ("locks", "verdict", "reason"),
    [
        ([LOCK, lock_of("gcc")], "identical", "one and the same"),
        ([], "identical", "one and the same"),
        ([lock_of()], "identical", "names no packages"),
        ([lock_of("gcc", "gcc")], "identical", "has gcc-x:x-x.x twice"),
        ([{**LOCK, "version": "2.0.0"}], "identical", "another major version"),
        ([{**LOCK, "buildroot": {"rpms": [{"name": "gcc"}]}}], "identical", "does not fit"),
        ([[]], "identical", "its version is no version"),
        ([LOCK], "differs", "is no verification that proved anything"),
        ([LOCK], "unverifiable", "is no verification that proved anything"),
    ],
)
def test_what_makes_no_lock(ready: FakeHub, locks: list[Any], verdict: str, reason: str) -> None:
    finished(ready, *locks, verdict=verdict)
    with pytest.raises(koji.GenericError, match=reason):
        setSgxLock(TASK)
    assert getSgxLock("sgx-1") is None


def test_a_builder_pins_no_other_release_than_the_task_was_asked_for(ready: FakeHub) -> None:
    finished(ready, LOCK)
    ready.open_task("x-1.0-1", "sgx-2")
    with pytest.raises(koji.GenericError, match=r"another release .*expected sgx-2, found 'sgx-1'"):
        setSgxLock(TASK)
    assert getSgxLock("sgx-1") is None
    ready.open_task("x-1.0-1", "sgx-1")
    assert setSgxLock(TASK)["release"] == "sgx-1"


def test_not_everybody_pins(ready: FakeHub) -> None:
    finished(ready, LOCK)
    ready.permissions = {"sgx-enclaves"}
    with pytest.raises(koji.ActionNotAllowed):
        setSgxLock(TASK)
    ready.permissions.add("sgx-enclaves-lock")
    ready.results.clear()
    with pytest.raises(koji.GenericError, match="is not finished"):
        setSgxLock(TASK)
