# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo from start to end, and that it would notice a wrong verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from demo import as_packages, whole_release
from demo.command import ROOT
from demo.packages import Built
from demo.release import VERSION, Description, Tool, release_toml
from demo.whole_release import Case, problems_of
from sgx_enclaves.catalogue.reader import read_release
from sgx_enclaves.release.sandbox import Isolation, best_isolation
from tests.enclaves.compiled import have_toolchain
from tests.integration.demonstration import OUTPUT, STATUS, demo_folder

DESCRIPTION = Description(
    title="t",
    root="/demo/tree",
    source_url="https://127.0.0.1/s",
    source_sha256="0" * 64,
    signed_url="https://127.0.0.1/v",
    signed_sha256="1" * 64,
    checksums_url="https://127.0.0.1/c",
    signer="2" * 64,
    tools=(Tool("gcc", "1.2.3"),),
    interpreter="/lib/ld.so",
    least_isvsvn={},
)


@pytest.mark.slow
@pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")
def test_demo_runs_and_every_verdict_is_as_it_must_be(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = demo_folder(tmp_path_factory)
    output = (folder / OUTPUT).read_text("utf-8")
    assert (folder / STATUS).read_text("utf-8") == "0", output
    assert output.startswith("sgx-enclaves proves")
    assert "== done: everything as it must be" in output
    assert "NOT AS EXPECTED" not in output
    assert "the graft is the vendor's file, byte for byte" in output
    report = folder / "tampered-patch-table" / "report" / "verdict.html"
    opened = re.search(r"^Open this report: (.+)$", output, re.MULTILINE)
    assert opened is not None
    assert (ROOT / opened[1]).resolve() == report.resolve()
    packages = "4 of 4 enclaves are the vendor's files, byte for byte, both ways"
    assert packages in output or "rpmbuild is not installed" in output
    isolated = best_isolation()[0] is not Isolation.NONE
    assert isolated != ("builds cannot be isolated here" in output)
    wanted = {
        "demo": (0, isolated, None),
        "again": (0, isolated, None),
        "source": (2, False, "sources"),
        "archive": (2, False, "signed"),
        "toolchain": (2, False, "toolchain"),
        "host": (0, False, None),
        "payload": (1, False, None),
        "metadata": (1, False, None),
        "signer": (1, False, None),
    }
    for name, (status, reproducible, stage) in wanted.items():
        path = folder / "release" / name / "report" / "release.json"
        report = json.loads(path.read_text("utf-8"))
        refused = [s["name"] for s in report["stages"] if s["state"] == "refused"]
        assert (report["exit_status"], report["reproducible"]) == (status, reproducible), name
        assert refused == ([stage] if stage else []), name
    for name in ("honest", "tampered-code", "tampered-patch-table", "foreign-signer"):
        verdict = json.loads((folder / name / "report" / "verdict.json").read_text("utf-8"))
        assert verdict["outcome"] == ("identical" if name == "honest" else "differs")


def report(refused: str = "", checks: tuple[str, ...] = (), good: bool = False) -> dict[str, Any]:
    return {
        "reproducible": good,
        "stages": [{"name": refused, "state": "refused"}] if refused else [],
        "enclaves": [{"refused_checks": list(checks)}],
    }


@pytest.mark.parametrize(
    ("status", "found", "wrong"),
    [
        (2, report("sources"), []),
        (1, report("sources"), ["exit status"]),
        (2, report("signed"), ["refused by"]),
        (2, report(), ["refused by"]),
        (2, report("sources", ("payload",)), ["refused by", "refused checks"]),
        (2, report("sources", good=True), ["reproducible"]),
    ],
)
def test_demo_says_no_to_another_result_than_the_right_one(
    status: int, found: Mapping[str, Any], wrong: list[str]
) -> None:
    case = Case("the sources are not the pinned ones", DESCRIPTION, 2, "sources")
    assert [text.partition(":")[0] for text in problems_of(case, status, found)] == wrong


def test_demo_reports_a_run_without_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_arguments: str, log: Path) -> int:
        log.write_text("it broke\n", "utf-8")
        return 1

    monkeypatch.setattr(whole_release, "sgx_enclaves", broken)
    case = Case("broken", DESCRIPTION, 1)
    (tmp_path / "x").mkdir()
    assert not whole_release.show(tmp_path, "x", case, tmp_path / "ca.pem").good
    assert "it broke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "stage", "good"),
    [(1, "%check", True), (1, "%build", False), (1, "", False), (0, "", False)],
)
def test_demo_says_no_to_a_build_that_ends_otherwise(status: int, stage: str, good: bool) -> None:
    case = as_packages.Tampering("one byte changed", b"", "%check")
    text = "enclaves  pce  differs  compare refuses: payload,\n        policy\n    - why"
    result = as_packages.judge(case, Built(status, text, (), stage))
    assert result.good == good
    assert ("refuses: payload, policy" in result.answer) == bool(status)


def test_description_is_a_release_of_the_catalogue() -> None:
    release = read_release(release_toml(DESCRIPTION).encode(), "demo.toml")
    assert release.name == "demo"
    assert [enclave.name for enclave in release.enclaves] == ["pce", "ide", "qe3", "tdqe"]
    assert release.unpinned == ()
    assert {e.so_version.value for e in release.enclaves if e.so_version} == {VERSION}


def test_without_isolation_no_verdict_must_be_the_reproducible_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {"demo": Case("as it should be", DESCRIPTION, 0, reproducible=True)}
    monkeypatch.setattr(whole_release, "best_isolation", lambda: (Isolation.ROOT, ""))
    assert whole_release.as_far_as_possible(cases) == cases
    monkeypatch.setattr(whole_release, "best_isolation", lambda: (Isolation.NONE, "no bwrap"))
    case = whole_release.as_far_as_possible(cases)["demo"]
    assert (case.reproducible, case.arguments) == (False, ("--allow-no-isolation",))
    assert "no bwrap" in capsys.readouterr().out
