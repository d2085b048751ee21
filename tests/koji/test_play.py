# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole game: a release's packages are built, verified, let in; tampered ones are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import koji
import pytest

from demo.release import SIGNED_FILE, sha256, signed_archive
from tests.koji.harness import work, world
from tests.koji.harness.daemon import wait_until
from tests.koji.stage import ENCLAVES, HARD, RELEASE, Stage


@pytest.fixture(scope="module")
def stage(dark_stage: Stage) -> Iterator[Stage]:
    with dark_stage.lit() as stage:
        yield stage


def test_the_unsigned_enclaves_are_built_in_koji(
    stage: Stage, reproducible: dict[str, Any]
) -> None:
    names = {rpm["name"] for rpm in stage.admin.listRPMs(buildID=reproducible["id"])}
    assert {f"sgx-enclave-reproducible-{name}-unsigned" for name in ENCLAVES} <= names


def test_the_buildroot_of_the_signed_package_held_the_unsigned_ones(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    (rpm,) = (
        rpm
        for rpm in stage.admin.listRPMs(buildID=prebuilt["id"])
        if rpm["name"] == "sgx-enclave-prebuilt-pce-signed"
    )
    held = {item["name"] for item in stage.admin.listRPMs(componentBuildrootID=rpm["buildroot_id"])}
    assert {f"sgx-enclave-reproducible-{name}-unsigned" for name in ENCLAVES} <= held


# A program that hands its version through and could make of a file what it likes.
WRAPPER = """
Name: strip-wrapper
Version: 1
Release: 1
Summary: A strip of the requester's
License: GPL-2.0-or-later
BuildArch: noarch

%description
A strip of the requester's.

%install
install -d %{buildroot}/usr/local/bin
printf '#!/bin/sh\\nBODY "$@"\\n' > %{buildroot}/usr/local/bin/strip

%files
%attr(755, root, root) /usr/local/bin/strip
"""


# --- a good package: verified, then let in


def refused(admin: Any, tag: str, nvr: str, *, force: bool = False) -> str:
    """Why a build is not let into a tag, by tag-build; it must not be."""
    try:
        error = work.tag(admin, tag, nvr, force=force).error
    except koji.GenericError as refusal:
        error = str(refusal)
    assert error
    assert not work.tagged(admin, tag, nvr)
    return error


def let_in(admin: Any, tag: str, nvr: str) -> None:
    ended = work.tag(admin, tag, nvr)
    assert (ended.state, ended.error) == ("CLOSED", "")
    assert work.tagged(admin, tag, nvr)


@pytest.fixture(scope="module")
def before(stage: Stage, prebuilt: dict[str, Any]) -> dict[str, str]:
    """What was said of the good package before it was verified, by way into a tag."""
    nvr = prebuilt["nvr"]
    return {
        "policy": refused(stage.admin, world.RELEASE, nvr),
        "gate": refused(stage.admin, HARD, nvr),
        "gate, force": refused(stage.admin, HARD, nvr, force=True),
        "status": stage.site.cli(world.RELENG, "sgx-enclaves", "gate-status", nvr, HARD).text,
        "show": stage.site.cli(world.PLAIN, "sgx-enclaves", "show", nvr).text,
    }


@pytest.fixture(scope="module")
def verified(stage: Stage, prebuilt: dict[str, Any], before: dict[str, str]) -> Any:
    """The verification of the good package, by the command."""
    assert before
    return stage.verify(prebuilt["nvr"])


def test_an_unverified_package_is_kept_out(before: dict[str, str]) -> None:
    assert "its SGX enclaves are not verified" in before["policy"]
    assert "never verified" in before["gate"]
    assert "--force does not pass this gate" in before["gate, force"]
    assert before["status"].startswith("DENIED")
    assert "was never verified" in before["show"]


def test_verification_passes_and_says_of_what(verified: Any) -> None:
    assert verified.status == 0, verified.text
    assert "Watching tasks" in verified.out
    assert f"against release {RELEASE}" in verified.out
    rows = [line.split() for line in verified.out.splitlines()]
    assert {row[0] for row in rows if row[1:2] == ["identical"]} == set(ENCLAVES)


def test_a_verified_package_is_let_in(
    stage: Stage, prebuilt: dict[str, Any], verified: Any
) -> None:
    assert verified.status == 0
    for tag in (world.RELEASE, HARD):
        let_in(stage.admin, tag, prebuilt["nvr"])
    status = stage.site.cli(world.RELENG, "sgx-enclaves", "gate-status", prebuilt["nvr"], HARD)
    assert (status.status, status.out.split(":")[0]) == (0, "ALLOWED")


def test_the_record_can_be_found_by_measurement_and_tag(
    stage: Stage, prebuilt: dict[str, Any], verified: Any
) -> None:
    shown = stage.site.cli(world.PLAIN, "sgx-enclaves", "show", "--json", prebuilt["nvr"])
    record = json.loads(shown.out)
    assert (shown.status, record["verdict"], record["reproducible"]) == (0, "identical", True)
    assert record["nvr"] == prebuilt["nvr"]
    pce = next(enclave for enclave in record["enclaves"] if enclave["name"] == "pce")
    found = stage.admin.listSgxVerifications(mrenclave=pce["mrenclave"], tag=HARD)
    assert [row["id"] for row in found] == [record["id"]]
    listed = stage.site.cli(
        world.PLAIN, "sgx-enclaves", "list", "--enclave", "pce", "--verdict", "identical"
    )
    assert prebuilt["nvr"] in listed.out


def test_the_task_leaves_report_log_and_our_enclave(
    stage: Stage, prebuilt: dict[str, Any], verified: Any
) -> None:
    task = stage.admin.getSgxVerification(prebuilt["id"])["task_id"]
    assert "sgx-enclaves-report.json" in stage.admin.listTaskOutput(task)
    (child,) = stage.admin.getTaskChildren(task)
    assert child["label"] == ",".join(ENCLAVES)
    wanted = {"libsgx_pce.so", "libsgx_tdqe.so", "sgx-enclaves-report.json"}
    wanted |= {"sgx-enclaves-report.html", "buildroot_lock.json", "toolchain.json"}
    assert wanted <= set(stage.admin.listTaskOutput(child["id"]))


def test_each_enclave_can_have_a_subtask_of_its_own(
    stage: Stage, prebuilt: dict[str, Any], verified: Any
) -> None:
    done = stage.verify(prebuilt["nvr"], "--split", "--json")
    task = json.loads(done.out)["task_id"]
    assert done.status == 0, done.text
    labels = [child["label"] for child in stage.admin.getTaskChildren(task)]
    assert sorted(labels) == sorted(ENCLAVES)


def test_the_command_is_where_users_look_for_it(stage: Stage) -> None:
    assert "sgx-enclaves " in stage.site.cli(world.PLAIN, "help", "build").out


def test_the_set_up_is_checked(stage: Stage, verified: Any) -> None:
    assert verified
    done = stage.site.cli(world.RELENG, "sgx-enclaves", "doctor")
    assert done.status == 0, done.text
    assert f"trusted tags: {world.BUILD_TAG}" in done.out
    assert "good   tables: all" in done.out
    assert f"builders of the last records: {world.BUILDER} " in " ".join(done.out.split())
    channel = f"{stage.hub_conf}channel = nowhere\n"
    stage.site.hub.plugin_conf("sgx_enclaves.conf", channel)
    done = stage.site.cli(world.RELENG, "sgx-enclaves", "doctor")
    stage.site.hub.plugin_conf("sgx_enclaves.conf", stage.hub_conf)
    assert done.status == 1
    assert "WRONG  channel: nowhere: no enabled x86_64 host" in done.out
    assert stage.site.cli(world.PLAIN, "sgx-enclaves", "doctor").status == 2


def test_a_release_alone_can_be_verified(stage: Stage) -> None:
    done = stage.site.cli(
        world.RELENG, "sgx-enclaves", "build", RELEASE, "--build-tag", world.BUILD_TAG,
        "--enclave", "pce", "--json",
    )  # fmt: skip
    result = json.loads(done.out)
    assert (done.status, result["verdict"], result["record"]) == (0, "identical", None)


def test_unsigned_enclaves_from_a_build_prove_less_and_the_gate_knows(
    stage: Stage, reproducible: dict[str, Any], prebuilt: dict[str, Any]
) -> None:
    done = stage.verify(prebuilt["nvr"], "--unsigned-build", reproducible["nvr"])
    assert done.status == 0, done.text
    assert "not the reproducible verdict" in done.out
    weaker, stronger = stage.admin.listSgxVerifications(build=prebuilt["id"])[:2]
    assert (weaker["reproducible"], stronger["reproducible"]) == (False, True)
    # nor does it hide that the same bytes were verified with more proof before
    words = ("sgx-enclaves", "gate-status", "--json", prebuilt["nvr"], HARD)
    status = stage.site.cli(world.RELENG, *words)
    assert (status.status, json.loads(status.out)["record"]) == (0, stronger["id"])


# --- who may fill the build tag chooses the toolchain


MINE = "mine-build"


@pytest.fixture(scope="module")
def mine(stage: Stage) -> str:
    """A build tag like the allowed one, with a package of the requester's besides."""
    admin = stage.admin
    admin.createTag("mine")
    admin.createTag(MINE, parent="mine", arches="x86_64")
    parent = {"parent_id": admin.getTag(world.BUILD_TAG)["id"], "priority": 5, "maxdepth": None}
    parent.update(intransitive=False, noconfig=False, pkg_filter="")
    admin.setInheritanceData(MINE, [parent])
    # before Koji 1.35 nobody makes repositories for tags without one
    admin.createBuildTarget("mine", MINE, world.CANDIDATE)
    stage.site.make_repo(MINE)
    return MINE


@pytest.fixture(scope="module")
def again(stage: Stage, reproducible: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """The good package once more, not verified yet."""
    assert reproducible
    folder = tmp_path_factory.mktemp("again")
    return stage.build(work.with_release(stage.sources.prebuilt, folder, 7))


def test_a_verification_in_anybody_s_tag_opens_no_gate(
    stage: Stage, mine: str, again: dict[str, Any]
) -> None:
    done = stage.verify(again["nvr"], "--build-tag", mine)
    assert done.status == 0, done.text
    assert f"its tag {mine} is not among" in " ".join(done.out.split())
    assert "designated toolchain, in a locked buildroot" in refused(stage.admin, HARD, again["nvr"])
    shown = stage.site.cli(world.PLAIN, "sgx-enclaves", "show", again["nvr"])
    assert f"tag {mine}, repo" in shown.out


def test_a_repo_of_another_tag_is_refused(stage: Stage, mine: str, again: dict[str, Any]) -> None:
    repo = stage.admin.getRepo(mine)["id"]
    done = stage.verify(again["nvr"], "--build-tag", world.BUILD_TAG, "--repo-id", str(repo))
    assert done.status == 2
    assert f"name a repo of tag {world.BUILD_TAG}" in done.err


def test_a_lock_from_a_good_task_pins_the_buildroot(
    stage: Stage, mine: str, prebuilt: dict[str, Any], again: dict[str, Any], tmp_path: Path
) -> None:
    good = stage.admin.listSgxVerifications(build=prebuilt["id"])[-1]["task_id"]
    words = ("sgx-enclaves", "lock", str(good))
    assert stage.site.cli(world.RELENG, *words).status == 2
    locked = stage.site.cli(world.ADMIN, *words)
    assert locked.status == 0, locked.text
    lock = stage.admin.getSgxLock(RELEASE)
    assert (lock["task_id"], lock["sha256"] in locked.out) == (good, True)
    try:
        done = stage.verify(again["nvr"], "--build-tag", mine)
        assert done.status == 0, done.text
        record = stage.admin.getSgxVerification(again["nvr"])
        assert (record["reproducible"], record["lock_sha256"]) == (True, lock["sha256"])
        let_in(stage.admin, HARD, again["nvr"])
        # the requester puts a program of his own into his tag
        spec = WRAPPER.replace("BODY", "exec /usr/bin/strip.real")
        wrapper = work.make_packages(tmp_path, spec)
        stage.admin.packageListAdd("mine", "strip-wrapper", owner=world.ADMIN)
        stage.admin.tagBuildBypass("mine", work.import_build(stage.admin, wrapper))
        for group in world.GROUPS:
            stage.admin.groupPackageListAdd(mine, group, "strip-wrapper", force=True)
        stage.site.make_repo(mine)
        done = stage.verify(again["nvr"], "--build-tag", mine)
        assert done.status == 2, done.text
        assert "the buildroot is not the pinned one" in " ".join(done.out.split())
        # which proves nothing, and hides nothing
        shown = json.loads(
            stage.site.cli(world.PLAIN, "sgx-enclaves", "show", "--json", again["nvr"]).out
        )
        assert shown["id"] == record["id"]
    finally:
        # nobody else can
        stage.site.database.execute(
            "alter table sgx_lock disable trigger sgx_lock_final; delete from sgx_lock;"
            "alter table sgx_lock enable trigger sgx_lock_final"
        )


# --- a tampered package: named, kept out


@pytest.fixture(scope="module")
def forged(stage: Stage, reproducible: dict[str, Any]) -> dict[str, Any]:
    """Looks like the good package, ships a signed enclave with one byte of code changed."""
    assert reproducible
    return stage.build(stage.sources.forged)


@pytest.fixture(scope="module")
def judged(stage: Stage, forged: dict[str, Any]) -> Any:
    return stage.verify(forged["nvr"])


def test_a_tampered_package_differs(judged: Any) -> None:
    assert judged.status == 1, judged.text
    assert "DIFFERS" in judged.out
    assert "cause:" in judged.out


@pytest.mark.parametrize("force", [False, True], ids=["plain", "force"])
def test_a_tampered_package_is_kept_out_even_by_force(
    stage: Stage, forged: dict[str, Any], judged: Any, force: bool
) -> None:
    assert judged.status == 1
    error = refused(stage.admin, HARD, forged["nvr"], force=force)
    assert "differs" in error
    if not force:
        said = refused(stage.admin, world.RELEASE, forged["nvr"])
        assert "its SGX enclaves are not verified" in said


def test_a_scratch_build_is_verified_by_its_task(
    stage: Stage, reproducible: dict[str, Any], tmp_path: Path
) -> None:
    assert reproducible
    srpm = work.with_release(stage.sources.forged, tmp_path, 9)
    records = len(stage.admin.listSgxVerifications())
    task = work.start_build(stage.admin, srpm, world.TARGET, scratch=True)
    assert work.wait(stage.admin, task).state == "CLOSED"
    words = ("sgx-enclaves", "verify-task", str(task))
    done = stage.site.cli(world.RELENG, *words)
    assert done.status == 1, done.text
    assert f"DIFFERS: task {task} against release {RELEASE}" in done.out
    assert len(stage.admin.listSgxVerifications()) == records


# --- a new build, with the hook


@pytest.fixture
def hook(stage: Stage) -> Iterator[None]:
    """Let the hub verify new builds by itself."""
    conf = f"{stage.hub_conf}[hook]\nenabled = yes\nbuild_tag = {world.BUILD_TAG}\n"
    stage.site.hub.plugin_conf("sgx_enclaves.conf", conf)
    yield
    stage.site.hub.plugin_conf("sgx_enclaves.conf", stage.hub_conf)


@pytest.mark.usefixtures("hook")
def test_a_new_build_is_verified_by_itself_once(stage: Stage, tmp_path: Path) -> None:
    before = len(stage.verifications())
    again = work.with_release(stage.sources.forged, tmp_path, 3)
    built = stage.build(again)
    (task,) = stage.verifications()[before:]
    ended = work.wait(stage.admin, task)
    assert (ended.state, ended.result["verdict"]) == ("CLOSED", "differs")
    assert stage.admin.getSgxVerification(built["id"])["task_id"] == task
    # Verifying makes no builds, so nothing is verified again.
    assert len(stage.verifications()) == before + 1


# --- people and hosts who may not


def test_a_user_without_the_permission_starts_nothing(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    done = stage.site.cli(world.PLAIN, "sgx-enclaves", "verify", prebuilt["nvr"])
    assert done.status == 2
    assert "sgx-enclaves" in done.err
    assert "permission" in done.err


@pytest.mark.parametrize("who", [world.PLAIN, world.ADMIN, world.HOSTILE])
def test_nobody_but_the_tasks_host_writes_a_record(
    stage: Stage, forged: dict[str, Any], judged: Any, who: str
) -> None:
    truth = stage.admin.getSgxVerification(forged["id"])
    lie = {key: value for key, value in truth.items() if key not in ("id", "host_id")}
    lie.update(verdict="identical", verified_at=None)
    session = stage.site.session(who)
    if who == world.HOSTILE:
        session.exclusiveSession(force=True)
    with pytest.raises(koji.GenericError):
        session.host.recordSgxVerification(truth["task_id"], lie)
    assert stage.admin.getSgxVerification(forged["id"]) == truth


# --- faults


def started(stage: Stage, *arguments: str) -> int:
    """Start a verification and wait until an enclave is being built; the task."""
    calls = len(stage.mock_calls())
    done = stage.verify(*arguments, "--nowait", "--json")
    task: int = json.loads(done.out)["task_id"]

    def building() -> bool:
        return any("--chroot" in call["argv"] for call in stage.mock_calls()[calls:])

    wait_until(building, "an enclave is being built")
    return task


def ends_identical(stage: Stage, task: int) -> None:
    ended = work.wait(stage.admin, task)
    assert (ended.state, ended.error) == ("CLOSED", "")
    assert ended.result["verdict"] == "identical", ended.result["claim"]


def test_a_builder_killed_in_mid_task_leaves_a_task_that_runs_again(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    records = len(stage.admin.listSgxVerifications(build=prebuilt["id"]))
    task = started(stage, prebuilt["nvr"])
    stage.site.builder.kill()
    assert koji.TASK_STATES[stage.admin.getTaskInfo(task)["state"]] == "OPEN"
    stage.site.builder.start()
    stage.site.wait_builder(stage.site.builder)
    ends_identical(stage, task)
    labels = [child["label"] for child in stage.admin.getTaskChildren(task)]
    assert labels == [",".join(ENCLAVES)]
    assert len(stage.admin.listSgxVerifications(build=prebuilt["id"])) == records + 1


def test_a_kojid_killed_beside_its_running_task_leads_to_one_record(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    """What it left behind may, in dying, remove the folder of the task that runs again.

    Any task of Koji's can be hit by that. Ours then says that it could not verify.
    """
    records = len(stage.admin.listSgxVerifications(build=prebuilt["id"]))
    task = started(stage, prebuilt["nvr"])
    stage.site.builder.crash()
    ended = work.wait(stage.admin, task)
    assert (ended.state, ended.error) == ("CLOSED", "")
    # A subtask that fails is tried again; one that could not build has answered.
    lost = "cannot be run in the buildroot" in ended.result["claim"]
    assert ended.result["verdict"] == "identical" or lost
    assert ended.result["verdict"] in ("identical", "unverifiable")
    assert len(stage.admin.listSgxVerifications(build=prebuilt["id"])) == records + 1
    again = stage.verify(prebuilt["nvr"], "--nowait", "--json")
    ends_identical(stage, json.loads(again.out)["task_id"])


def test_a_hub_restarted_in_mid_task_changes_nothing(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    task = started(stage, prebuilt["nvr"])
    stage.site.hub.restart()
    ends_identical(stage, task)


def test_two_releases_at_once(stage: Stage, prebuilt: dict[str, Any]) -> None:
    other = stage.vendor.publish("demo-two", title="The same enclaves under another name")
    tag = ("--build-tag", world.BUILD_TAG, "--nowait", "--json")
    first = stage.verify(prebuilt["nvr"], "--nowait", "--json")
    second = stage.site.cli(world.RELENG, "sgx-enclaves", "build", other, *tag)
    tasks = [json.loads(done.out)["task_id"] for done in (first, second)]
    for task in tasks:
        ends_identical(stage, task)
    results = [stage.admin.getTaskResult(task) for task in tasks]
    assert [result["release"] for result in results] == ["demo", "demo-two"]


def test_a_vendor_that_is_down_is_unverifiable_not_different(stage: Stage) -> None:
    # Other bytes than those of the release, so that no builder has them already.
    stock = stage.vendor.stock
    archive = signed_archive({**stock.signed, "README": b"another delivery"})
    url = stage.vendor.publish(
        "demo-down",
        signed_url=f"https://127.0.0.1:{stage.closed_port}/{SIGNED_FILE}",
        signed_sha256=sha256(archive),
    )
    words = ("build", url, "--build-tag", world.BUILD_TAG, "--enclave", "pce")
    done = stage.site.cli(world.RELENG, "sgx-enclaves", *words)
    assert done.status == 2, done.text
    assert "UNVERIFIABLE" in done.out


def test_a_vendor_who_delivers_other_bytes_is_caught_by_the_digest(stage: Stage) -> None:
    archive = signed_archive({**stage.vendor.stock.signed, "README": b"yet another delivery"})
    url = stage.vendor.publish(
        "demo-swapped",
        signed_url=stage.vendor.server.put("/swapped/" + SIGNED_FILE, archive),
        signed_sha256="00" * 32,
    )
    words = ("build", url, "--build-tag", world.BUILD_TAG, "--enclave", "pce")
    done = stage.site.cli(world.RELENG, "sgx-enclaves", *words)
    assert done.status == 2, done.text
    assert "UNVERIFIABLE" in done.out
