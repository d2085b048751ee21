# SPDX-License-Identifier: GPL-2.0-or-later
"""verify-release against a real server: each verdict, each stage that may refuse, each fault."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import jsonschema
import pytest

from demo import vendor
from demo.release import (
    ENCLAVE_LIST,
    PREBUILT,
    SOURCE_FILE,
    Tool,
    archive,
    sha256,
    signed_archive,
    source_archive,
)
from sgx_enclaves.cli.main import main
from sgx_enclaves.evidence.report import read_report
from sgx_enclaves.release.archive import pack_members, read_files
from sgx_enclaves.release.sandbox import Isolation
from tests.enclaves.compiled import have_toolchain
from tests.integration.release.verifying import DEADLINE, Bench, World, make_world
from tests.support.keys import foreign_key, vendor_key
from tests.support.once import built_enclaves
from tests.support.schemas import schema

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")
PCE = ENCLAVE_LIST[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with make_world(folder, built_enclaves(tmp_path_factory)) as made:
        yield made


@pytest.fixture
def sandboxed(world: World) -> None:
    if not world.isolated:
        pytest.skip("builds cannot be isolated here, so none is the reproducible verdict")


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path).warm()


@pytest.fixture
def cold(world: World, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path)


def kept_build(bench: Bench) -> Path:
    (folder,) = (bench.work / "build").iterdir()
    return folder / "files"


# What holds


@pytest.mark.usefixtures("sandboxed")
def test_honest_release_is_identical_and_reproducible(
    cold: Bench, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    result = cold.run(world.honest, "--jobs=2")
    assert (result.status, result.outcome) == (0, "identical")
    assert result.report["reproducible"]
    assert {s["name"]: s["state"] for s in result.report["stages"]} == dict.fromkeys(
        ("sources", "toolchain", "build", "signed", "compare"), "done"
    )
    assert [e["outcome"] for e in result.report["enclaves"]] == ["identical"] * 4
    shown = capsys.readouterr().out
    assert shown == (result.folder / "release.txt").read_text("utf-8")
    assert len(shown.splitlines()) <= 24
    assert max(map(len, shown.splitlines())) <= 80
    assert "reproducible: our own build, pinned sources, designated toolchain" in shown


def test_reports_are_there_and_as_described(bench: Bench, world: World) -> None:
    result = bench.run(world.honest)
    jsonschema.validate(result.report, schema("release"))
    page = (result.folder / "release.html").read_text("utf-8")
    assert "<script" not in page
    report = json.loads((result.folder / "report.json").read_text("utf-8"))
    for source in report["sources"]:
        assert f'<a href="{source["url"]}">{source["name"]}</a>' in page
        assert source["sha256"] in page
    assert report["release"]["sha256"] in page
    for enclave in ENCLAVE_LIST:
        own = json.loads((result.folder / enclave.name / "verdict.json").read_text("utf-8"))
        assert own["outcome"] == "identical"
        assert result.enclave(enclave.name)["report"] == f"{enclave.name}/verdict.json"
        assert f'href="#{enclave.name}"' in page
        assert f'<section id="{enclave.name}"' in page
        for name in ("verdict.txt", "verdict.html"):
            assert (result.folder / enclave.name / name).stat().st_size > 500


@pytest.mark.usefixtures("sandboxed")
def test_a_rebuilder_s_report_and_attestation(
    bench: Bench, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bench.run(world.honest).folder
    data = (folder / "report.json").read_bytes()
    report = read_report(data, "report.json")
    assert (report["verdict"], report["reproducible"], report["build"]) == (
        "identical",
        True,
        "here",
    )
    assert report["release"]["origin"] == "file demo.toml"
    assert {source["pinned_by"] for source in report["sources"]} == {"sha256"}
    assert all(source["url"].startswith("https://") for source in report["sources"])
    assert {part["state"] for part in report["toolchain"]} == {"match"}
    assert {step["exit"] for step in report["steps"]} == {"ok"}
    assert all(e["byte_map"] and e["policy"] for e in report["enclaves"])
    assert sha256((folder / "manifest.json").read_bytes()) == report["manifest_sha256"]
    head = json.loads((folder / "head.json").read_text())
    assert head["report_sha256"] == sha256(data)
    assert len(head["steps"]) == len(report["steps"])
    # A second run, which keeps what the first has built, says the same in the same bytes.
    assert (bench.run(world.honest).folder / "report.json").read_bytes() == data
    attestation = str(bench.folder / "attestation")
    capsys.readouterr()
    assert main(["attest", str(folder / "report.json"), "-o", attestation]) == 0
    assert "3 statements, not signed" in capsys.readouterr().out
    statement = json.loads(Path(attestation).read_text().splitlines()[0])
    names = {f"sgx-enclave({e.name}:unsigned)" for e in ENCLAVE_LIST}
    assert {subject["name"] for subject in statement["subject"]} == names
    signed = [str(path) for path in world.signed_folder.iterdir()]
    configs = [str(path) for path in world.built_with_configs.glob("*.xml")]
    arguments = ["recheck", str(folder / "report.json"), "--json"]
    catalogue = [str(path.parent) for path in bench.folder.rglob("demo.toml")]
    given = (("--signed", signed), ("--config", configs), ("--catalogue", catalogue))
    for option, paths in given:
        arguments += [word for path in paths for word in (option, path)]
    assert main(arguments) == 0
    unseen = [
        s["about"]
        for s in json.loads(capsys.readouterr().out)["statements"]
        if s["state"] != "holds"
    ]
    assert unseen == ["build"]


def test_json_output_is_the_report(
    bench: Bench, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench.run(world.honest, "--json")
    assert json.loads(capsys.readouterr().out) == result.report


def test_second_run_keeps_stages_and_gives_the_same_verdict(bench: Bench, world: World) -> None:
    result = bench.run(world.honest)
    assert (result.state("build"), result.state("signed")) == ("kept", "done")
    assert (result.status, result.report["reproducible"]) == (0, world.isolated)


def test_offline_run_needs_only_the_cache(bench: Bench, world: World) -> None:
    result = bench.run(world.honest, "--offline")
    assert result.status == 0
    assert "not-cross-checked" in result.codes("signed")


# Each stage that may refuse


def test_other_sources_are_refused_with_both_digests(cold: Bench, world: World) -> None:
    other = source_archive({"src/pce.c": b"int evil;\n"})
    url = world.server.put(f"/other/{SOURCE_FILE}", other)
    result = cold.run(replace(world.honest, source_url=url))
    assert (result.status, result.refused) == (2, ["sources"])
    (finding,) = result.stage("sources")["findings"]
    assert finding["expected"] == f"sha256 {world.honest.source_sha256}"
    assert finding["found"] == f"sha256 {sha256(other)}"
    assert result.state("build") == "not done"
    # a stranger's run has the same bytes wherever it keeps what it refuses
    assert str(cold.cache) in finding["message"]
    report = (result.folder / "report.json").read_text()
    assert "quarantine/" in report
    assert str(cold.folder) not in report
    assert {e["refused_by"] for e in result.report["enclaves"]} == {"sources"}
    assert not list((cold.work / "build").glob("*")) if (cold.work / "build").exists() else True


def test_other_archive_is_refused_with_both_digests(bench: Bench, world: World) -> None:
    other = signed_archive({**world.signed, PCE.signed: b"\x7fELF"})
    description = replace(world.honest, signed_url=world.server.put("/other/signed", other))
    shutil.rmtree(bench.cache / "sha256" / str(world.honest.signed_sha256)[:2])
    result = bench.run(description)
    assert (result.status, result.refused) == (2, ["signed"])
    (finding,) = result.stage("signed")["findings"]
    assert finding["expected"] == f"sha256 {world.honest.signed_sha256}"
    assert finding["found"] == f"sha256 {sha256(other)}"
    assert result.state("compare") == "not done"


def test_archive_that_changes_after_its_digest_was_checked_is_refused(
    cold: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(path: Path, *arguments: Any, **pin: Any) -> Any:
        other = signed_archive({**world.signed, PCE.signed: b"\x7fELF"})
        path.chmod(0o644)
        path.write_bytes(other)
        return read_files(path, *arguments, **pin)

    monkeypatch.setattr("sgx_enclaves.release.vendor.read_files", exchange)
    result = cold.run(world.honest, "--built", str(world.built_with_configs))
    assert (result.status, result.refused) == (2, ["signed"])
    (finding,) = result.stage("signed")["findings"]
    assert "changed after it was checked" in finding["message"]
    assert finding["expected"] == f"sha256 {world.honest.signed_sha256}"


def test_vendor_who_is_down_makes_nothing_differ(bench: Bench, world: World) -> None:
    description = replace(world.honest, signed_url="https://127.0.0.1:9/signed.tar.gz")
    shutil.rmtree(bench.cache / "sha256")
    bench.run(replace(world.honest))
    shutil.rmtree(bench.cache / "sha256" / str(world.honest.signed_sha256)[:2])
    result = bench.run(description)
    assert (result.status, result.outcome, result.refused) == (2, "unverifiable", ["signed"])
    assert "stopped at signed" in result.report["claim"]


def test_vendors_own_list_must_agree(bench: Bench, world: World) -> None:
    wrong = f"{'0' * 64}  prebuilt_demo_1.0.tar.gz\n".encode()
    url = world.server.put("/wrong/sums", wrong)
    result = bench.run(replace(world.honest, checksums_url=url))
    assert (result.status, result.refused) == (2, ["signed"])
    (finding,) = result.stage("signed")["findings"]
    assert finding["found"] == f"sha256 {'0' * 64}"


def test_list_that_is_not_there_is_only_noted(bench: Bench, world: World) -> None:
    result = bench.run(replace(world.honest, checksums_url=world.server.url + "/no-such-list"))
    assert result.status == 0
    assert result.codes("signed") == ["not-cross-checked"]


def test_other_toolchain_is_refused_before_the_build(bench: Bench, world: World) -> None:
    tools = tuple(replace(t, version="9.5.0") if t.name == "gcc" else t for t in world.honest.tools)
    result = bench.run(replace(world.honest, tools=tools))
    assert (result.status, result.refused) == (2, ["toolchain"])
    (finding,) = result.stage("toolchain")["findings"]
    assert finding["expected"] == "gcc 9.5.0"
    assert finding["found"].startswith("gcc ")
    assert "--toolchain=host" in finding["hint"]
    assert result.report["builds"][0]["kind"] == "none"


def test_host_build_is_never_the_reproducible_verdict(bench: Bench, world: World) -> None:
    tools = (*world.honest.tools, Tool("nasm", "0.0.1"))
    result = bench.run(replace(world.honest, tools=tools), "--toolchain=host")
    assert (result.status, result.outcome) == (0, "identical")
    assert not result.report["reproducible"]
    assert "not the reproducible verdict" in result.report["claim"]
    assert result.report["builds"][0]["kind"] == "host"
    assert any("nasm 0.0.1" in words for words in result.report["builds"][0]["mismatches"])
    text = (result.folder / "release.txt").read_text("utf-8")
    assert "NOT the reproducible verdict" in text
    assert "ANOTHER toolchain" in text


def test_host_build_is_not_reproducible_even_where_the_toolchain_matches(
    bench: Bench, world: World
) -> None:
    result = bench.run(world.honest, "--toolchain=host")
    assert (result.status, result.report["reproducible"]) == (0, False)
    page = (result.folder / "release.html").read_text("utf-8")
    # amber: the whole, and each enclave in the table and above its part
    assert page.count('<span class="weaker">identical</span>') == len(result.report["enclaves"])
    assert 'pce: <span class="weaker">' in page
    assert not re.search('class="identical">[^<]*(identical|nothing else)', page)
    result = bench.run(world.honest, "--toolchain=host", "--require-reproducible")
    assert (result.status, result.outcome, result.report["exit_status"]) == (2, "identical", 2)
    whole = (result.folder / "report.xml").read_text("utf-8").splitlines()[2]
    assert '<skipped message="IDENTICAL, NOT REPRODUCIBLE: demo: ' in whole


@pytest.mark.usefixtures("sandboxed")
def test_build_that_is_not_separated_from_the_machine_is_not_reproducible(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "sgx_enclaves.release.sandbox.best_isolation", lambda: (Isolation.NONE, "a test")
    )
    # a path of this test's own: it is made on the machine itself
    description = replace(world.honest, root=str(tmp_path / "machine" / "tree"))
    assert main(bench.arguments(description)) == 2
    result = bench.run(description, "--allow-no-isolation")
    assert (result.status, result.outcome) == (0, "identical")
    assert not result.report["reproducible"]
    assert result.report["builds"][0]["kind"] == "open"
    jsonschema.validate(result.report, schema("release"))
    text = (result.folder / "release.txt").read_text("utf-8")
    assert "NOT the reproducible verdict" in text
    assert "NOT SEPARATED" in text


@pytest.mark.usefixtures("sandboxed")
def test_changed_payload_differs(bench: Bench, world: World) -> None:
    changed = vendor.with_other_code(world.signed[PCE.signed], world.built / PCE.unsigned)
    place = world.deliver("payload", {**world.signed, PCE.signed: changed})
    result = bench.run(replace(world.honest, **place))
    assert (result.status, result.outcome) == (1, "differs")
    assert result.report["claim"] == "not our build plus a signature: pce"
    assert result.enclave("pce")["refused_checks"] == ["payload"]
    assert result.enclave("ide")["outcome"] == "identical"
    assert not result.report["reproducible"]


def test_hostile_metadata_differ(bench: Bench, world: World) -> None:
    hostile = vendor.with_hostile_patch(world.built / PCE.unsigned, PCE.config, vendor_key())
    place = world.deliver("metadata", {**world.signed, PCE.signed: hostile})
    result = bench.run(replace(world.honest, **place))
    assert result.status == 1
    assert result.enclave("pce")["refused_checks"] == ["metadata", "measurement"]


def test_foreign_signer_differs(bench: Bench, world: World) -> None:
    foreign = vendor.sign_enclave(world.built / PCE.unsigned, PCE.config, foreign_key())
    place = world.deliver("signer", {**world.signed, PCE.signed: foreign})
    result = bench.run(replace(world.honest, **place))
    assert result.status == 1
    assert result.enclave("pce")["refused_checks"] == ["policy"]
    codes = [f["code"] for f in result.enclave("pce")["findings"]]
    # the second is a note: the demo's PCE has a second signature
    assert codes == ["signer-unexpected", "second-signature"]
    headline = (result.folder / "release.txt").read_text("utf-8").split("\n")[0]
    assert "not our build" not in headline
    assert "our build plus a signature that the policy refuses: pce" in headline


def test_least_isvsvn_of_the_catalogue_is_demanded(bench: Bench, world: World) -> None:
    result = bench.run(replace(world.honest, least_isvsvn={"qe3": 9}))
    assert result.status == 1
    assert {f["code"] for f in result.enclave("qe3")["findings"]} == {"isvsvn-too-low"}
    # two blocks, one reason
    assert (result.folder / "release.txt").read_text("utf-8").count("found ISVSVN 8") == 1
    assert bench.run(replace(world.honest, least_isvsvn={"qe3": 7})).status == 0


def test_isvprodid_of_the_catalogue_is_demanded(bench: Bench, world: World) -> None:
    result = bench.run(world.honest, edit={"isvprodid = 5": "isvprodid = 6"})
    assert result.status == 1
    assert {f["code"] for f in result.enclave("ide")["findings"]} == {"isvprodid-unexpected"}


def test_enclave_that_does_not_compile_hides_no_other(bench: Bench, world: World) -> None:
    broken = source_archive({"src/tdqe.c": b"this is no C\n"})
    url = world.server.put("/broken/sources", broken)
    description = replace(world.honest, source_url=url, source_sha256=sha256(broken))
    result = bench.run(description)
    assert (result.status, result.outcome, result.refused) == (2, "unverifiable", ["build"])
    assert result.enclave("tdqe")["refused_by"] == "build"
    assert [f["code"] for f in result.enclave("tdqe")["findings"]] == ["build-failed"]
    others = [result.enclave(name)["outcome"] for name in ("pce", "ide", "qe3")]
    assert others == ["identical"] * 3
    # what failed is tried again
    before = {path: path.stat().st_mtime_ns for path in bench.work.glob("build/*/pin")}
    assert bench.run(description).status == 2
    after = {path: path.stat().st_mtime_ns for path in bench.work.glob("build/*/pin")}
    assert before.keys() == after.keys()
    assert sum(before[path] != after[path] for path in before) == 1


def test_missing_member_concerns_its_enclave_alone(bench: Bench, world: World) -> None:
    fewer = {name: data for name, data in world.signed.items() if name != PCE.signed}
    result = bench.run(replace(world.honest, **world.deliver("fewer", fewer)))
    assert result.status == 2
    assert result.enclave("pce")["refused_by"] == "signed"
    assert result.enclave("qe3")["outcome"] == "identical"


# Releases that are not all required, not pinned, not built here


def with_enclave_lines(name: str, *lines: str) -> dict[str, str]:
    line = f'name = "{name}"'
    return {line: "\n".join((line, *lines))}


def test_enclave_that_may_not_be_shipped_is_said_so(bench: Bench, world: World) -> None:
    edit = with_enclave_lines("tdqe", "may_ship = false", 'reason = "legal said no"')
    result = bench.run(world.honest, edit=edit)
    assert result.status == 0
    assert not result.enclave("tdqe")["may_ship"]
    assert "legal said no" in (result.folder / "release.txt").read_text("utf-8")
    assert "legal said no" in (result.folder / "release.html").read_text("utf-8")


def test_only_required_enclaves_decide(bench: Bench, world: World) -> None:
    changed = vendor.with_other_code(world.signed[PCE.signed], world.built / PCE.unsigned)
    place = world.deliver("payload", {**world.signed, PCE.signed: changed})
    edit = with_enclave_lines("pce", "required = false", 'reason = "for the test"')
    description = replace(world.honest, **place)
    result = bench.run(description, "--all", edit=edit)
    assert (result.status, result.enclave("pce")["outcome"]) == (0, "differs")
    assert "3 required enclaves" in result.report["claim"]
    only = bench.run(description, edit=edit)
    assert (only.status, only.enclave("pce")["refused_by"]) == (0, "build")
    assert [f["code"] for f in only.enclave("pce")["findings"]] == ["not-asked-for"]


def test_failure_of_what_is_not_required_is_kept(bench: Bench, world: World) -> None:
    broken = source_archive({"src/tdqe.c": b"this is no C\n"})
    url = world.server.put("/optional/sources", broken)
    description = replace(world.honest, source_url=url, source_sha256=sha256(broken))
    edit = with_enclave_lines("tdqe", "required = false", 'reason = "for the test"')
    first = bench.run(description, "--all", edit=edit)
    assert (first.status, first.state("build")) == (0, "done")
    assert [f["code"] for f in first.enclave("tdqe")["findings"]] == ["build-failed"]
    assert bench.run(description, "--all", edit=edit).state("build") == "kept"


def test_release_that_requires_nothing_proves_nothing(bench: Bench, world: World) -> None:
    edit = {}
    for enclave in ENCLAVE_LIST:
        edit.update(with_enclave_lines(enclave.name, "required = false", 'reason = "none"'))
    result = bench.run(world.honest, edit=edit)
    assert (result.status, result.outcome) == (2, "unverifiable")
    assert "requires no enclave" in result.report["claim"]


def test_enclave_that_nobody_can_build_is_unverifiable_alone(bench: Bench, world: World) -> None:
    text = """[enclave.build]
config = "configs/tdqe.config.xml"
make_directory = "."
make_target = "out/libsgx_tdqe.so"
unsigned = "out/libsgx_tdqe.so"
"""
    lines = (
        "required = false",
        'reason = "closed source"',
        'not_reproducible = "its source is not open"',
    )
    edit = {text: "", **with_enclave_lines("tdqe", *lines)}
    result = bench.run(world.honest, "--all", edit=edit)
    assert result.status == 0
    assert result.enclave("tdqe")["refused_by"] == "catalogue"
    assert "not open" in result.enclave("tdqe")["findings"][0]["message"]


@pytest.mark.parametrize("what", ["source", "vendor"])
def test_unpinned_digest_needs_the_users_word(cold: Bench, world: World, what: str) -> None:
    description = replace(world.honest, source_sha256=None)
    if what == "vendor":
        description = replace(world.honest, signed_sha256=None)
    refused = cold.run(description)
    assert (refused.status, refused.outcome) == (2, "unverifiable")
    assert refused.refused == ["sources" if what == "source" else "signed"]
    accepted = cold.run(description, "--allow-unpinned")
    assert (accepted.status, accepted.outcome) == (0, "identical")
    assert not accepted.report["reproducible"]
    assert accepted.report["unpinned"] == [f"{what}.demo"]
    assert "without a pinned digest were accepted" in accepted.report["claim"]
    text = (accepted.folder / "release.txt").read_text("utf-8")
    assert "UNPINNED  accepted by --allow-unpinned" in text
    assert 'class="differs"' in (accepted.folder / "release.html").read_text("utf-8")


def test_ready_made_stages_do_not_excuse_unpinned_digests(bench: Bench, world: World) -> None:
    ready = ("--built", str(world.built_with_configs), "--signed", str(world.signed_folder))
    description = replace(world.honest, source_sha256=None)
    result = bench.run(description, *ready)
    assert (result.status, result.outcome) == (2, "unverifiable")
    assert "--allow-unpinned" in result.report["claim"]
    assert [e["outcome"] for e in result.report["enclaves"]] == ["identical"] * 4
    assert bench.run(description, *ready, "--allow-unpinned").status == 0


def test_policy_that_nobody_pinned_needs_the_users_word(bench: Bench, world: World) -> None:
    edit = {"isvprodid = 5\n": "", "unpinned = []": 'unpinned = ["enclave.ide.isvprodid"]'}
    result = bench.run(world.honest, edit=edit)
    assert result.status == 2
    assert result.report["unpinned"] == ["enclave.ide.isvprodid"]
    assert bench.run(world.honest, "--allow-unpinned", edit=edit).status == 0


# Ready-made stages


def test_given_build_and_files_need_no_server(cold: Bench, world: World) -> None:
    description = replace(
        world.honest, source_url="https://127.0.0.1:9/s", signed_url="https://127.0.0.1:9/v"
    )
    result = cold.run(
        description, "--built", str(world.built_with_configs), "--signed", str(world.signed_folder)
    )
    assert (result.status, result.outcome) == (0, "identical")
    assert (result.state("build"), result.state("signed")) == ("given", "given")
    assert not result.report["reproducible"]
    assert "how that was made is not proved here" in result.report["claim"]
    assert "no manifest" in result.report["builds"][0]["says"]


def test_given_build_with_a_manifest_says_how_it_was_made(bench: Bench, world: World) -> None:
    built = kept_build(bench)
    result = bench.run(world.honest, "--built", str(built))
    assert result.status == 0
    assert not result.report["reproducible"]
    assert "built with the designated toolchain" in result.report["builds"][0]["says"]


def test_given_build_that_is_not_as_its_manifest_says_is_refused(
    bench: Bench, world: World
) -> None:
    built = kept_build(bench)
    flip(built / PCE.unsigned)
    result = bench.run(world.honest, "--built", str(built))
    assert (result.status, result.refused) == (2, ["build"])


def test_given_build_of_another_release_is_refused(bench: Bench, world: World) -> None:
    built = kept_build(bench)
    manifest = built / "manifest.json"
    text = manifest.read_text("utf-8").replace('"demo"', '"other"', 1)
    assert '"release": "other"' in text
    manifest.write_text(text, "utf-8")
    result = bench.run(world.honest, "--built", str(built))
    assert (result.status, result.refused) == (2, ["build"])


def test_given_build_that_lacks_an_enclave(cold: Bench, world: World, tmp_path: Path) -> None:
    built = tmp_path / "given"
    shutil.copytree(world.built_with_configs, built)
    (built / "libsgx_qe3.config.xml").unlink()
    result = cold.run(world.honest, "--built", str(built))
    assert result.status == 2
    assert [f["code"] for f in result.enclave("qe3")["findings"]] == ["built-file-missing"]
    assert result.enclave("pce")["outcome"] == "identical"


def test_given_files_may_have_versions_and_links(cold: Bench, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "signed"
    folder.mkdir()
    for name, data in world.signed.items():
        (folder / f"{name}.1.2.3.4").write_bytes(data)
        (folder / f"{name}.1").symlink_to(f"{name}.1.2.3.4")
    ready = ("--built", str(world.built_with_configs), "--signed", str(folder))
    assert cold.run(world.honest, *ready).status == 0
    (folder / f"{PCE.signed}.2.0.0.0").write_bytes(b"another")
    result = cold.run(world.honest, *ready)
    assert result.status == 2
    assert "more than one version" in result.enclave("pce")["findings"][0]["message"]


@pytest.mark.parametrize("option", ["--built", "--signed"])
def test_folder_that_is_not_there_is_unverifiable(bench: Bench, world: World, option: str) -> None:
    result = bench.run(world.honest, option, "/no/such/folder")
    assert (result.status, result.outcome) == (2, "unverifiable")


# Repacked archives


def repack(tmp_path: Path, files: dict[str, bytes], top: str = PREBUILT) -> str:
    path = tmp_path / "repack.tar.gz"
    path.write_bytes(archive({f"{top}/{name}": data for name, data in files.items()}))
    return str(path)


def test_repack_that_only_leaves_out_is_as_good(bench: Bench, world: World, tmp_path: Path) -> None:
    result = bench.run(world.honest, "--repacked", repack(tmp_path, dict(world.signed)))
    assert (result.status, result.state("repack")) == (0, "done")
    assert "4 of 4 members are the vendor's" in result.stage("repack")["detail"]
    assert result.report["reproducible"] == world.isolated


def test_repack_below_another_folder(bench: Bench, world: World, tmp_path: Path) -> None:
    path = repack(tmp_path, dict(world.signed), "linux-sgx-enclaves-prebuilt-2.25")
    assert bench.run(world.honest, "--repacked", f"demo={path}").status == 0


def test_repack_without_its_original_is_proved_by_comparison(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    shutil.rmtree(bench.cache / "sha256" / str(world.honest.signed_sha256)[:2])
    down = replace(world.honest, signed_url="https://127.0.0.1:9/signed.tar.gz")
    result = bench.run(down, "--repacked", repack(tmp_path, dict(world.signed)))
    assert (result.status, result.refused) == (0, ["signed"])
    assert "no original" in result.stage("repack")["detail"]


def test_a_repack_that_the_catalogue_names_is_taken_where_the_vendors_archive_is_lost(
    bench: Bench, world: World
) -> None:
    shutil.rmtree(bench.cache / "sha256" / str(world.honest.signed_sha256)[:2])
    packed = pack_members({f"{PREBUILT}/{name}": data for name, data in world.signed.items()})
    url = world.server.put("/repack/signed.tar", packed)

    def named(digest: str) -> dict[str, str]:
        table = f'[vendor.repack]\nfilename = "signed.tar"\nurls = ["{url}"]\nsha256 = "{digest}"\n'
        return {"[vendor.checksums]": f"{table}\n[vendor.checksums]"}

    down = replace(world.honest, signed_url="https://127.0.0.1:9/signed.tar.gz")
    result = bench.run(down, edit=named(sha256(packed)))
    assert (result.status, result.report["reproducible"]) == (0, world.isolated)
    assert (result.state("signed"), result.state("repack")) == ("refused", "done")
    assert "signed.tar, sha256" in result.stage("repack")["detail"]
    # another file than the pinned one is none
    other = bench.run(down, edit=named("ab" * 32))
    assert (other.status, other.state("repack")) == (2, "refused")
    # a vendor's archive that is not the pinned one is no lost one
    changed = world.deliver("changed", {**world.signed, "more": b"x"})
    wrong = replace(world.honest, signed_url=changed["signed_url"])
    result = bench.run(wrong, edit=named(sha256(packed)))
    assert (result.status, result.refused) == (2, ["signed"])


def test_repack_with_another_signature_is_refused_where_the_original_is_here(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    again = vendor.sign_enclave(world.built / PCE.unsigned, PCE.config, vendor_key())
    assert again != world.signed[PCE.signed]
    files = {**world.signed, PCE.signed: again}
    result = bench.run(world.honest, "--repacked", repack(tmp_path, files))
    assert (result.status, result.outcome, result.refused) == (2, "unverifiable", ["repack"])
    (finding,) = result.stage("repack")["findings"]
    assert (finding["code"], finding["found"]) == ("repack-unlike-original", repr(PCE.signed))


def test_repack_with_a_changed_enclave_differs(bench: Bench, world: World, tmp_path: Path) -> None:
    changed = vendor.with_other_code(world.signed[PCE.signed], world.built / PCE.unsigned)
    files = {**world.signed, PCE.signed: changed}
    result = bench.run(world.honest, "--repacked", repack(tmp_path, files))
    assert (result.status, result.refused) == (1, ["repack"])
    assert result.codes("repack") == ["repack-unlike-original"]
    shutil.rmtree(bench.cache / "sha256" / str(world.honest.signed_sha256)[:2])
    down = replace(world.honest, signed_url="https://127.0.0.1:9/signed.tar.gz")
    result = bench.run(down, "--repacked", repack(tmp_path, files))
    assert (result.status, result.refused) == (1, ["signed", "repack"])
    assert result.codes("repack") == ["repack-unproved"]


def test_repack_with_a_foreign_member_is_refused(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    files = {**world.signed, "libcrypto.a": b"not the vendor's"}
    result = bench.run(world.honest, "--repacked", repack(tmp_path, files))
    assert (result.status, result.outcome, result.refused) == (2, "unverifiable", ["repack"])
    (finding,) = result.stage("repack")["findings"]
    assert "libcrypto.a" in finding["found"]


def test_repack_with_a_changed_file_that_is_not_required_is_refused(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    changed = vendor.with_other_code(world.signed[PCE.signed], world.built / PCE.unsigned)
    files = {**world.signed, PCE.signed: changed}
    edit = with_enclave_lines("pce", "required = false", 'reason = "for the test"')
    result = bench.run(world.honest, "--repacked", repack(tmp_path, files), edit=edit)
    assert (result.status, result.refused) == (2, ["repack"])


def test_repack_that_leaves_a_required_enclave_out(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    files = {name: data for name, data in world.signed.items() if name != PCE.signed}
    result = bench.run(world.honest, "--repacked", repack(tmp_path, files))
    assert result.status == 2
    assert result.enclave("pce")["refused_by"] == "repack"
    assert result.enclave("ide")["outcome"] == "identical"


def test_repack_of_an_unknown_archive_is_an_error(
    bench: Bench, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bench.arguments(world.honest, "--repacked", "a.tar.gz", "--signed", "x")
    assert main(arguments) == 2
    assert "exclude each other" in capsys.readouterr().err


# Faults


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files: flip(files / PCE.unsigned),
        lambda files: flip(files / "libsgx_qe3.config.xml"),
        lambda files: flip(files / "manifest.json"),
        lambda files: (files / "manifest.json").unlink(),
        lambda files: (files / "more").write_bytes(b""),
        lambda files: flip(files.parent / "pin"),
        lambda files: (files.parent / "pin").unlink(),
        lambda files: (files / "link").symlink_to("/etc/passwd"),
    ],
)
def test_kept_stage_is_not_used_after_a_change(
    bench: Bench, world: World, spoil: Callable[[Path], object]
) -> None:
    spoil(kept_build(bench))
    result = bench.run(world.honest)
    assert (result.status, result.state("build")) == (0, "done")
    assert "kept-result-dropped" in result.codes("build")
    assert bench.run(world.honest).state("build") == "kept"


def test_other_sources_are_another_build(bench: Bench, world: World) -> None:
    other = source_archive({"note.txt": b"harmless\n"})
    url = world.server.put("/harmless/sources", other)
    description = replace(world.honest, source_url=url, source_sha256=sha256(other))
    result = bench.run(description)
    assert (result.status, result.state("build")) == (0, "done")
    assert len(list((bench.work / "build").iterdir())) == 2


STEP = '[[build.step]]\nid = "x"\nplace = "."\ncommand = ["true"]\n'


@pytest.mark.parametrize(
    "edit",
    [
        {'TZ = "UTC"': 'TZ = "CET"'},
        {"[toolchain.environment]": "umask = 0o77\n[toolchain.environment]"},
        {"[[build.source]]": f"{STEP}[[build.source]]"},
        {'/tree"': '/other"'},
    ],
)
def test_other_way_to_build_is_another_build(
    bench: Bench, world: World, edit: dict[str, str]
) -> None:
    result = bench.run(world.honest, edit=edit)
    assert (result.status, result.state("build")) == (0, "done")


def moments(bench: Bench) -> dict[str, Callable[[], bool]]:
    """Signs of how far a run is."""
    return {
        "fetched": lambda: any((bench.cache / "sha256").glob("*/*")),
        "building": lambda: any((bench.work / "trees").glob("*/*/*")),
        "half-built": lambda: any((bench.work / "build").glob(".*/files/logs/make-*")),
        "built": lambda: any((bench.work / "build").glob("[!.]*")),
    }


@pytest.mark.parametrize("moment", ["fetched", "building", "half-built", "built"])
def test_killed_run_then_the_next_gives_the_same_verdict(
    cold: Bench, world: World, moment: str
) -> None:
    if moment == "building" and not world.isolated:
        pytest.skip("without isolation the trees are elsewhere")
    reached = moments(cold)[moment]
    process = cold.start(world.honest)
    try:
        deadline = time.monotonic() + DEADLINE
        while not reached() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert process.poll() is None, "it ended before the moment came"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
    assert not (cold.folder / "report" / "release.json").exists()
    if not world.isolated:
        # a tree that stands on the machine itself is left in the way of the next build
        shutil.rmtree(Path(world.honest.root).parent, ignore_errors=True)
    killed = cold.run(world.honest)
    assert killed.status == 0
    clean = Bench(world, cold.folder, world.warm / "cache", world.warm / "work").run(world.honest)
    assert killed.verdict == clean.verdict
    leftovers = [p for p in cold.work.rglob(".*") if p.name != ".work" or p.exists()]
    assert leftovers == []


def two_steps(first: str, second: str) -> dict[str, str]:
    """An edit of a release, which gives it two steps; each is a line of shell."""
    steps = "".join(
        f'[[build.step]]\nid = "{name}"\nplace = "."\ntimeout = 60\n'
        f"command = {json.dumps(['sh', '-c', words])}\n"
        for name, words in (("first", first), ("second", second))
    )
    return {"[[build.source]]": f"{steps}[[build.source]]"}


def test_build_resumes_at_the_step_that_failed(cold: Bench, world: World) -> None:
    """A failed step costs no earlier one; what a run was in the middle of is done again."""
    if not world.isolated:
        pytest.skip("without isolation nothing is kept")
    edit = two_steps(
        "date +%s%N >>first.txt; cat first.txt",
        "test -e ../again || { touch ../again; exit 3; }",
    )
    failed = cold.run(world.honest, edit=edit)
    assert (failed.status, failed.refused) == (2, ["build"])
    (finding,) = {f["code"]: f for f in failed.enclave("pce")["findings"]}.values()
    assert finding["hint"].endswith("/files/logs/second.log")
    assert Path(finding["hint"].partition("read ")[2]).is_file()
    assert any((cold.work / "trees").glob("*/*/first-demo"))
    again = cold.run(world.honest, edit=edit)
    assert (again.status, again.report["reproducible"]) == (0, True)
    # one line: the first step was run once
    log = (kept_build(cold) / "logs" / "first.log").read_text("utf-8")
    assert len([line for line in log.splitlines() if not line.startswith("# ")]) == 1
    assert not any((cold.work / "trees").glob("*"))


def test_trees_are_kept_if_asked(bench: Bench, world: World) -> None:
    if not world.isolated:
        assert main(bench.arguments(world.honest, "--keep", "--allow-no-isolation")) == 2
        return
    # the build is here already, but not its trees
    result = bench.run(world.honest, "--keep")
    assert (result.status, result.state("build")) == (0, "done")
    (tree,) = (bench.work / "trees").glob("*/*/first-demo")
    assert any(tree.rglob("libsgx_pce.so"))
    again = bench.run(world.honest, "--keep")
    assert (again.status, again.state("build")) == (0, "kept")
    assert tree.exists()


def test_a_run_that_is_interrupted_is_resumed(cold: Bench, world: World) -> None:
    if not world.isolated:
        pytest.skip("without isolation nothing is kept")
    edit = two_steps(
        "echo once >>first.txt; cat first.txt",
        "test -e ../again || { touch ../again; sleep 50; }",
    )
    process = cold.start(world.honest, edit=edit)
    deadline = time.monotonic() + DEADLINE
    while not any((cold.work / "trees").glob("*/*/first-demo/*/*/again")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    again = cold.run(world.honest, edit=edit)
    assert (again.status, again.report["reproducible"]) == (0, True)
    log = (kept_build(cold) / "logs" / "first.log").read_text("utf-8")
    assert log.count("\nonce") == 1


def test_two_processes_at_once_agree(cold: Bench, world: World, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Bench(world, other_folder, cold.cache, cold.work)
    runs = [(b, b.start(world.honest)) for b in (cold, other)]
    results = []
    for b, process in runs:
        _, messages = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, messages
        results.append(b.result(process.returncode))
    assert results[0].verdict == results[1].verdict
    # one built, the other waited for it
    assert sorted(result.state("build") for result in results) == ["done", "kept"]
    assert len(list((cold.work / "build").iterdir())) == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=120k", "none", str(folder)]
    mount = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if mount.returncode:
        pytest.skip(f"no tmpfs here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], timeout=20, check=True)


def test_disk_full_is_unverifiable_and_the_next_run_resumes(
    bench: Bench, world: World, tiny_disk: Path
) -> None:
    bench.work = tiny_disk / "work"
    result = bench.run(world.honest)
    assert (result.status, result.outcome) == (2, "unverifiable")
    assert result.refused == ["build"]
    grow = ["mount", "-o", "remount,size=50m", str(tiny_disk)]
    subprocess.run(grow, timeout=20, check=True)
    result = bench.run(world.honest)
    assert (result.status, result.state("build")) == (0, "done")


def test_work_folder_that_cannot_be_written_is_unverifiable(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = bench.run(world.honest, "--work", str(tmp_path / "file"))
    assert (result.status, result.outcome) == (2, "unverifiable")


def test_hostile_names_cannot_steer_the_terminal(
    bench: Bench, world: World, tmp_path: Path
) -> None:
    result = bench.run(world.honest, "--built", f"{tmp_path}/\x1b[2Jx")
    assert result.status == 2
    assert "\x1b" not in (result.folder / "release.txt").read_text("utf-8")
    assert "\x1b" not in (result.folder / "release.html").read_text("utf-8")
