# SPDX-License-Identifier: GPL-2.0-or-later
"""Parent and subtask together, with real builds: what comes of good and of bad things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import koji
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from demo import vendor as demo_vendor
from demo.release import ENCLAVE_LIST, release_toml
from sgx_enclaves.evidence.envelope import load_signing_key
from sgx_enclaves.evidence.report import read_report
from sgx_enclaves.evidence.statements import signed_statements, statements_of_record
from sgx_enclaves.gate.origin import packages_digest
from sgx_enclaves.gate.record import read_record
from sgx_enclaves.release import place
from sgx_enclaves.release.place import LockedPackage
from tests.support.keys import foreign_key
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.koji.builder.buildroots import FakeBuildRoot, no_buildroot
from tests.unit.koji.builder.hub import HostCalls
from tests.unit.koji.builder.world import FOLDER, PCE, World, sha256

OPTIONS = {"enclaves": ["pce"]}


def tampered(world: World) -> bytes:
    return demo_vendor.with_other_code(
        world.vendor.signed[PCE.signed], world.vendor.built / PCE.unsigned
    )


def test_a_release_is_built_and_compared(world: World, buildroots: type[FakeBuildRoot]) -> None:
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "identical"
    assert result["reproducible"] is True
    assert result["record"] is None
    (row,) = result["enclaves"]
    assert row["signed_sha256"] == sha256(world.vendor.signed[PCE.signed])
    assert row["built_sha256"] == sha256((world.vendor.built / PCE.unsigned).read_bytes())
    (root,) = buildroots.made
    assert root.asked == ("demo-build", "x86_64", world.child(), 4)
    assert root.states == ["EXPIRED"]


def test_everything_is_uploaded_while_it_is_made(world: World) -> None:
    world.verify("demo", "demo-build", None, OPTIONS)
    output = world.hub.output(world.child())
    assert {
        "sgx-enclaves.log",
        "sgx-enclaves-report.json",
        "sgx-enclaves-report.txt",
        "sgx-enclaves-report.html",
        "libsgx_pce.so",
        "libsgx_pce.config.xml",
        "libsgx_pce.signed.so.sig",
        "buildroot_lock.json",
        "toolchain.json",
        "vendor/libsgx_pce.signed.so.html",
    } <= set(output)
    assert output["libsgx_pce.so"] == (world.vendor.built / PCE.unsigned).read_bytes()
    assert b"make out/libsgx_pce.so" in output["sgx-enclaves.log"]
    report = read_report(output["sgx-enclaves-report.json"], "report")
    assert (report["kind"], report["verdict"], report["build"]) == ("koji", "identical", "here")
    assert {step["exit"] for step in report["steps"]} == {"ok"}
    assert report["enclaves"][0]["byte_map"]
    assert report["sources"]
    assert "sgx-enclaves-attestation.jsonl" not in output


def test_a_key_signs_what_was_found(world: World) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (world.folder / "key.pem").write_bytes(pem)
    world.configure(attest={"key": world.folder / "key.pem", "builder": "https://koji.example"})
    build = world.signed_build()
    world.verify(None, "demo-build", build["nvr"])
    public, _ = load_signing_key(pem, "key", None)
    kinds = []
    for task in (world.child(), 100):
        output = world.hub.output(task)
        found = signed_statements(output["sgx-enclaves-attestation.jsonl"], "attestation", [public])
        kinds.append([item.kind for item in found])
        report = read_report(output["sgx-enclaves-report.json"], "report")
        for item in found:
            assert item.statement["subject"]
        provenance = found[0].statement["predicate"]
        assert provenance["runDetails"]["builder"]["id"] == "https://koji.example"
        parameters = provenance["buildDefinition"]["externalParameters"]
        assert parameters["build_tag"] == report["buildroot"]["build_tag"] == "demo-build"
        (package,) = report["packages"]
        # both are of one kind, and whoever has the output can check and sign again
        for part in ("sources", "toolchain", "steps", "proved", "not_proved"):
            assert report[part]
        assert all(enclave["byte_map"] and enclave["policy"] for enclave in report["enclaves"])
        head = json.loads(output["head.json"])
        assert head["report_sha256"] == sha256(output["sgx-enclaves-report.json"])
        if report["manifest_sha256"] is not None:
            assert sha256(output["manifest.json"]) == report["manifest_sha256"]
        assert package["nevra"] == "prebuilt-1.0-1.x86_64"
        assert None not in (package["header_sha256"], package["payload_sha256"])
        names = {subject["name"] for subject in found[1].statement["subject"]}
        assert "prebuilt-1.0-1.x86_64.rpm" in names
    assert kinds == [["provenance", "equivalence", "result"]] * 2
    exported = statements_of_record(world.hub.records[0], builder="https://koji.example")
    assert exported[0] == found[0].statement | {"predicate": exported[0]["predicate"]}


def test_a_step_s_log_grows_where_kojid_watches(
    world: World, buildroots: type[FakeBuildRoot]
) -> None:
    world.verify("demo", "demo-build", None, OPTIONS)
    log = Path(buildroots.made[0].resultdir()) / "step-make-pce.log"
    assert log.is_file()


@pytest.mark.parametrize("split", [False, True])
def test_enclaves_of_one_source_tree_share_a_subtask(
    world: World, buildroots: type[FakeBuildRoot], split: bool
) -> None:
    result = world.verify("demo", "demo-build", None, {"split": split})
    names = [enclave.name for enclave in ENCLAVE_LIST]
    assert [row["name"] for row in result["enclaves"]] == names
    assert result["verdict"] == "identical"
    children = [task for task in world.hub.tasks.values() if task.parent is not None]
    assert [task.label for task in children] == (names if split else [",".join(names)])
    assert {task.arch for task in children} == {"x86_64"}
    assert len(buildroots.made) == len(children)
    assert "each of pce, ide, qe3, tdqe is our own build" in result["claim"]


def test_a_build_gets_a_record_of_its_packages(world: World) -> None:
    build = world.signed_build()
    result = world.verify(None, "demo-build", build["nvr"])
    assert (result["verdict"], result["build"]) == ("identical", build["nvr"])
    (record,) = world.hub.records
    assert result["record"] == record.pop("id")
    read = read_record(record)
    assert (read.release, read.origin, read.nvr) == ("demo", "catalogue", build["nvr"])
    (enclave,) = read.enclaves
    assert (enclave.name, enclave.version, enclave.verdict) == ("pce", "1.0.0.0", "identical")
    assert enclave.signed_sha256 == sha256(world.vendor.signed[PCE.signed])
    (package,) = read.rpms
    assert package.name == "prebuilt-1.0-1.x86_64.rpm"
    path = world.hub.top / "packages/prebuilt/1.0/1/x86_64" / package.name
    assert package.file_sha256 == sha256(path.read_bytes())
    output = world.hub.output(100)
    assert read.report_sha256 == sha256(output["sgx-enclaves-report.json"])
    assert output["sgx-enclaves-report.txt"].startswith(b"IDENTICAL: ")
    assert b"<h1" in output["sgx-enclaves-report.html"]


def test_what_is_wrong_with_one_enclave_is_not_said_of_another(world: World) -> None:
    """Though they are built together."""
    signed = dict(world.vendor.signed)
    files = {
        f"/usr/x86_64-intel-sgx/lib64/{e.signed}.1.0.0.0": signed[e.signed]
        for e in ENCLAVE_LIST[:2]
    }
    files[f"/usr/x86_64-intel-sgx/lib64/{PCE.signed}.1.0.0.0"] = tampered(world)
    build = world.add_build("two", files)
    result = world.verify("demo", "demo-build", build["nvr"])
    verdicts = {row["name"]: row["verdict"] for row in result["enclaves"]}
    assert verdicts == {"pce": "differs", ENCLAVE_LIST[1].name: "identical"}
    recorded = {enclave["name"]: enclave["verdict"] for enclave in world.hub.records[0]["enclaves"]}
    assert recorded == verdicts
    assert result["verdict"] == "differs"


def test_a_tampered_package_differs_and_is_recorded_so(world: World) -> None:
    build = world.signed_build(pce=tampered(world))
    result = world.verify("demo", "demo-build", build["nvr"])
    assert result["verdict"] == "differs"
    record = dict(world.hub.records[0])
    del record["id"]
    assert read_record(record).verdict == "differs"
    assert "other bytes" in (read_record(record).enclaves[0].cause or "")


def test_a_file_that_is_signed_by_somebody_else_differs(world: World) -> None:
    forged = demo_vendor.sign_enclave(world.vendor.built / PCE.unsigned, PCE.config, foreign_key())
    build = world.signed_build(pce=forged)
    result = world.verify("demo", "demo-build", build["nvr"])
    assert result["verdict"] != "identical"


def test_an_enclave_that_the_release_does_not_know_is_not_passed_over(world: World) -> None:
    files = {
        "/usr/x86_64-intel-sgx/lib64/libsgx_pce.signed.so.1.0.0.0": world.vendor.signed[PCE.signed],
        "/opt/libsgx_other.signed.so": world.vendor.signed[PCE.signed],
    }
    build = world.add_build("more", files)
    result = world.verify("demo", "demo-build", build["nvr"])
    assert result["verdict"] == "unverifiable"
    assert (
        "libsgx_other.signed.so of more-1.0-1.x86_64.rpm was compared with nothing"
        in (result["claim"])
    )


def test_a_build_that_is_asked_for_in_part_is_not_identical(world: World) -> None:
    signed = world.vendor.signed
    files = {
        f"/usr/x86_64-intel-sgx/lib64/{e.signed}.1.0.0.0": signed[e.signed]
        for e in ENCLAVE_LIST[:2]
    }
    build = world.add_build("two", files)
    result = world.verify("demo", "demo-build", build["nvr"], OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "libsgx_id_enclave.signed.so" in result["claim"]
    assert world.hub.records[0]["partial"] is True


def test_a_damaged_package_is_unverifiable_and_has_no_record(world: World) -> None:
    build = world.signed_build()
    path = next(world.hub.top.rglob("*.rpm"))
    path.write_bytes(path.read_bytes()[:200])
    result = world.verify("demo", "demo-build", build["nvr"], OPTIONS)
    assert (result["verdict"], result["record"]) == ("unverifiable", None)
    assert "cannot be read" in result["claim"]


def test_a_package_that_changes_meanwhile_fails_its_subtask(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = world.signed_build()
    path = next(world.hub.top.rglob("*.rpm"))
    made = world.hub.make

    def make(method: str, arguments: Any, **more: Any) -> int:
        if method == "sgxEnclave":
            path.write_bytes(path.read_bytes() + b"\0")
        return made(method, arguments, **more)

    monkeypatch.setattr(world.hub, "make", make)
    result = world.verify("demo", "demo-build", build["nvr"])
    assert result["verdict"] == "unverifiable"
    assert "not the file that this verification began with" in result["claim"]


def test_the_vendor_is_down(world: World) -> None:
    gone = "https://127.0.0.1:1/demo/prebuilt_demo_1.0.tar.gz"
    world.describe(signed_url=gone)
    world.configure(fetch={"attempts": 2})
    world.monkeypatch.setattr("time.sleep", lambda _seconds: None)
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "connect to 127.0.0.1" in result["claim"]
    assert "2 attempts" in result["claim"]
    assert world.hub.tasks[world.child()].state == "CLOSED"


def test_a_source_with_a_wrong_digest_is_not_built(
    world: World, buildroots: type[FakeBuildRoot]
) -> None:
    world.describe(source_sha256="ab" * 32)
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "is not the pinned file" in result["claim"]
    output = world.hub.output(world.child())
    assert "libsgx_pce.so" not in output
    assert not any(name.startswith("step-") for name in output)


def test_a_host_that_is_not_allowed_is_not_asked(world: World) -> None:
    world.configure(fetch={"hosts": "elsewhere.example"})
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "not one of the servers that may be asked" in result["claim"]


def test_another_toolchain_is_refused(world: World) -> None:
    honest = world.vendor.honest
    text = release_toml(honest).replace(f'"{honest.tools[0].version}"', '"1.2.3"')
    world.write_release(text)
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "expected gcc 1.2.3" in result["claim"]


PACKAGE: dict[str, Any] = dict.fromkeys(
    ("name", "arch", "version", "release", "sigmd5", "license", "url"), "x"
)


def lock_of(*packages: dict[str, Any]) -> str:
    rpms = [{**package, "epoch": None, "signature": None} for package in packages]
    return json.dumps({"version": "1.1.0", "buildroot": {"rpms": rpms}, "config": {}})


@pytest.fixture
def one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buildroot, which is this machine, as one that has one package."""
    words = {**PACKAGE, "epoch": None, "signature": None}
    installed = LockedPackage(**words)
    monkeypatch.setattr(place, "installed_packages", lambda **_more: (installed,))


def keep_lock(world: World, lock: str) -> None:
    world.hub.answers["getSgxLock"] = {"lock": lock, "sha256": sha256(lock.encode())}


def test_a_buildroot_that_is_not_the_pinned_one_is_refused(world: World) -> None:
    keep_lock(world, lock_of({**PACKAGE, "name": "another"}))
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert "the buildroot is not the pinned one" in result["claim"]


def test_who_may_fill_the_build_tag_does_not_make_a_verdict_reproducible(world: World) -> None:
    """With a program of his own in it he could make any output."""
    world.tag_allowed = False
    build = world.signed_build()
    result = world.verify("demo", "demo-build", build["nvr"])
    assert (result["verdict"], result["reproducible"]) == ("identical", False)
    why = "not the reproducible verdict: no lock pins the buildroot's packages"
    assert f"{why}, and its tag demo-build is not among the hub's" in result["claim"]
    record = world.hub.records[0]
    assert (record["reproducible"], record["lock_sha256"]) == (False, None)
    assert (record["build_tag"], record["repo_id"]) == ("demo-build", 4)
    report = json.loads(world.hub.output(100)["sgx-enclaves-report.json"])
    assert (report["buildroot"]["build_tag"], report["buildroot"]["repo_id"]) == ("demo-build", 4)
    child = json.loads(world.hub.output(world.child())["sgx-enclaves-report.json"])
    assert child["reproducible"] is False
    assert why in child["claim"]


def test_a_lock_makes_it_so_in_any_tag(world: World, one_package: None) -> None:
    world.tag_allowed = False
    keep_lock(world, lock_of(PACKAGE))
    build = world.signed_build()
    result = world.verify("demo", "demo-build", build["nvr"])
    assert (result["verdict"], result["reproducible"]) == ("identical", True)
    record = world.hub.records[0]
    assert record["lock_sha256"] == sha256(lock_of(PACKAGE).encode())
    package = LockedPackage(**PACKAGE, epoch=None, signature=None)
    assert record["buildroot_sha256"] == packages_digest([package])


@pytest.mark.parametrize("ships", [True, False])
def test_a_vendor_s_file_is_uploaded_only_if_it_may_be(world: World, ships: bool) -> None:
    world.describe()
    path = world.folder / "catalogue" / "demo.toml"
    if not ships:
        text = path.read_text()
        at = text.index('name = "pce"')
        extra = 'may_ship = false\nreason = "not approved"\n'
        world.write_release(text[:at] + extra + text[at:])
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["enclaves"][0]["verdict"] == "identical"
    output = world.hub.output(world.child())
    assert ("libsgx_pce.signed.so" in output) is ships
    assert "libsgx_pce.signed.so.sig" in output


def test_a_subtask_that_dies_twice_leaves_a_clear_result(
    world: World, buildroots: type[FakeBuildRoot]
) -> None:
    buildroots.fails = no_buildroot()
    build = world.signed_build()
    result = world.verify("demo", "demo-build", build["nvr"])
    tries = [world.hub.tasks[world.child(label)] for label in ("pce", "pce again")]
    assert [task.state for task in tries] == ["FAILED", "FAILED"]
    assert tries[0].arguments == tries[1].arguments
    assert len(world.hub.tasks) == 3
    assert result["verdict"] == "unverifiable"
    cause = result["enclaves"][0]["cause"]
    assert cause == (
        f"task {tries[1].id} failed: could not init mock buildroot, mock exited with status 30"
    )
    assert buildroots.made[0].states == ["EXPIRED"]
    record = dict(world.hub.records[0])
    del record["id"]
    assert read_record(record).verdict == "unverifiable"


def test_a_subtask_that_dies_once_is_tried_again(
    world: World, buildroots: type[FakeBuildRoot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_at_first(buildroot: FakeBuildRoot) -> None:
        if buildroot is buildroots.made[0]:
            raise no_buildroot()

    monkeypatch.setattr(buildroots, "init", none_at_first)
    parent = world.hub.make("sgxEnclaves", ["demo", "demo-build", world.signed_build()["nvr"]])
    result = world.hub.run(parent)
    assert result["verdict"] == "identical"
    assert world.hub.tasks[world.child()].state == "FAILED"
    assert result["enclaves"][0]["task_id"] == world.child("pce again")
    log = world.hub.output(parent)["sgx-enclaves.log"].decode()
    assert "could not init mock buildroot, mock exited with status 30; once more" in log
    assert world.hub.run(parent) == result
    assert (len(world.hub.tasks), len(world.hub.records)) == (3, 1)


def test_a_subtask_whose_report_is_another_one_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = HostCalls.taskWaitResults

    def changed(*arguments: Any, **more: Any) -> Any:
        for path in world.hub.top.rglob("sgx-enclaves-report.json"):
            path.write_bytes(path.read_bytes() + b"\n")
        return results(*arguments, **more)

    monkeypatch.setattr(HostCalls, "taskWaitResults", changed)
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert (result["verdict"], result["reproducible"]) == ("unverifiable", False)
    assert f"task {world.child()} proves nothing: work/" in result["claim"]


def test_a_subtask_that_is_late_is_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.hub.stuck.add("pce")
    monkeypatch.setattr("signal.sigtimedwait", lambda _signals, _seconds: None)
    result = world.verify("demo", "demo-build", None, {**OPTIONS, "timeout": 1})
    assert world.hub.tasks[world.child()].state == "CANCELED"
    assert result["verdict"] == "unverifiable"
    assert "not done within 1 s, and cancelled" in result["claim"]
    assert len(world.hub.tasks) == 2


def test_a_subtask_that_somebody_cancelled_is_not_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hub.stuck.add("pce")

    def cancelled(_signals: Any, _seconds: float) -> None:
        world.hub.tasks[world.child()].state = "CANCELED"

    monkeypatch.setattr("signal.sigtimedwait", cancelled)
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    assert f"task {world.child()} failed: Task {world.child()} is canceled" in result["claim"]
    assert len(world.hub.tasks) == 2


def test_a_task_that_is_run_again_finds_its_subtasks_and_its_record(world: World) -> None:
    build = world.signed_build()
    parent = world.hub.make("sgxEnclaves", ["demo", "demo-build", build["nvr"]])
    first = world.hub.run(parent)
    # another task has verified the same build meanwhile
    world.hub.records.append({**world.hub.records[0], "task_id": 999, "id": 99})
    again = world.hub.run(parent)
    assert again == first
    assert len(world.hub.tasks) == 2
    assert [record["id"] for record in world.hub.records] == [70, 99]


def test_a_catalogue_that_changes_meanwhile_is_noticed(world: World) -> None:
    parent = world.hub.make("sgxEnclaves", ["demo", "demo-build", None, OPTIONS])
    assert world.hub.run(parent)["verdict"] == "identical"
    world.describe(title="the same, with another title")
    result = world.hub.run(parent)
    assert result["verdict"] == "unverifiable"
    assert "another description of the release" in result["claim"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "demo-build"), "there is no release 'nowhere'"),
        (("demo", "elsewhere"), "No such tagInfo"),
        (("demo", "demo-build", "absent-1-1"), "No such build"),
        (("demo", "demo-build", None, {"enclaves": ["zzz"]}), "has no enclave 'zzz'"),
        (("demo", "demo-build", None, {"enclave": ["pce"]}), "found enclave"),
        (("demo", "demo-build", None, {"timeout": -1}), "timeout does not fit"),
        (("git+https://other.example/x?demo.toml#1", "demo-build"), "list of allowed SCMs"),
        (("https://other.example/demo.toml", "demo-build"), "list of allowed SCMs"),
    ],
)
def test_what_makes_no_sense_fails_with_words(
    world: World, arguments: tuple[Any, ...], words: str
) -> None:
    result = world.verify(*arguments)
    assert words in result["faultString"]
    assert "Traceback" not in result["faultString"]


def test_a_build_without_signed_enclaves_is_not_verified(world: World) -> None:
    build = world.add_build("plain", {"/usr/bin/x": b"x"})
    result = world.verify("demo", "demo-build", build["nvr"])
    assert "no signed enclave of release demo (found none at all)" in result["faultString"]


def test_a_build_that_is_not_complete_is_not_verified(world: World) -> None:
    build = world.signed_build()
    build["state"] = koji.BUILD_STATES["BUILDING"]
    result = world.verify("demo", "demo-build", build["nvr"])
    assert "is not complete" in result["faultString"]


def test_a_verdict_is_not_lost_with_the_hub_s_plugin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_arguments: Any) -> Any:
        raise koji.GenericError("Invalid method: host.recordSgxVerification")

    monkeypatch.setattr("tests.unit.koji.builder.hub.HostCalls.recordSgxVerification", gone)
    build = world.signed_build()
    result = world.verify("demo", "demo-build", build["nvr"])
    assert (result["verdict"], result["record"]) == ("identical", None)
    assert b"no record is kept" in world.hub.output(100)["sgx-enclaves.log"]


def test_a_record_that_the_hub_refuses_fails_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> Any:
        raise koji.GenericError("the record is not of the packages")

    monkeypatch.setattr("tests.unit.koji.builder.hub.HostCalls.recordSgxVerification", refuse)
    build = world.signed_build()
    result = world.verify("demo", "demo-build", build["nvr"])
    assert "not of the packages" in result["faultString"]


def test_a_failed_step_names_a_log_that_the_task_has(world: World) -> None:
    world.describe()
    path = world.folder / "catalogue" / "demo.toml"
    text = path.read_text()
    assert "make" in text
    world.write_release(text.replace("out/libsgx_pce.so", "out/no-such-target"))
    result = world.verify("demo", "demo-build", None, OPTIONS)
    assert result["verdict"] == "unverifiable"
    output = world.hub.output(world.child())
    report = output["sgx-enclaves-report.json"].decode()
    assert "step-make-pce.log of this task" in report
    assert "/logs/" not in report


def test_a_scratch_build_s_packages_get_a_verdict_and_no_record(world: World) -> None:
    package = world.signed_build()
    (rpm,) = world.hub.top.rglob("*.rpm")
    folder = world.hub.top / "work" / koji.pathinfo.taskrelpath(51)
    folder.mkdir(parents=True)
    rpm.rename(folder / rpm.name)
    world.hub.rpms[package["id"]].clear()
    world.hub.answers["getTaskChildren"] = [
        {"id": 50, "method": "buildSRPMFromSCM"},
        {"id": 51, "method": "buildArch"},
    ]
    world.hub.answers["listTaskOutput"] = [rpm.name, "prebuilt-1.0-1.src.rpm", "build.log"]
    result = world.verify(None, "demo-build", None, {"task_id": 49})
    assert (result["verdict"], result["build"], result["record"]) == ("identical", "task 49", None)
    assert [row["name"] for row in result["enclaves"]] == ["pce"]
    assert world.hub.records == []
    assert "task 49 against release demo" in result["claim"]
    assert world.hub.called("getTaskChildren") == [(49,)]


def test_the_version_of_a_vendor_s_file_is_the_release_s(world: World) -> None:
    """The catalogue has another one for the file that Intel calls so in that release."""
    build = world.signed_build()
    (rpm,) = world.hub.rpms[build["id"]]
    path = world.hub.top / "packages" / build["name"] / "1.0" / "1" / koji.pathinfo.rpm(rpm)
    file = RpmFile(f"{FOLDER}/{PCE.signed}.1.0.0.0", world.vendor.signed[PCE.signed])
    versions: dict[int, Any] = {1047: ["sgx-enclave(pce:signed)"], 1112: [8], 1113: ["2.25"]}
    path.write_bytes(write_rpm([file], name=build["name"], tags=versions))
    assert world.verify("demo", "demo-build", build["nvr"])["verdict"] == "identical"
