# SPDX-License-Identifier: GPL-2.0-or-later
"""`releases list` and `releases show`: what is known of a release, and what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
PINNED, OPEN = "sgx-2.25-dcap-1.22", "sgx-2.26-dcap-1.23"


def test_every_release_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("RELEASE", "SGX", "DCAP", "STATUS", "REPRODUCED", "TOOLCHAIN", "ENCLAVES")
    ]
    assert sorted(line.split()[0] for line in lines) == sorted(
        path.stem for path in OWN_FOLDER.glob("*.toml")
    )
    (pinned,) = [line for line in lines if line.startswith(PINNED)]
    assert re.search(r"all pinned +pce +Nix 2\.9\.0 ", pinned)
    (other,) = [line for line in lines if line.startswith(OPEN)]
    assert re.search(r"NOT PINNED +- +", other)


def test_a_release_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases", "show", PINNED]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        f"{PINNED}: Intel SGX 2.25 with DCAP 1.22",
        "toolchain Nix 2.9.0",
        "prebuilt_dcap_1.22.tar.gz, sha256 453a4943a7a9a0037c6105d22548c943",
        "pce libsgx_pce.signed.so.1.25.100.1, required",
        "signer Intel (PCE), ISVPRODID 1, ISVSVN 16 or more",
        "may not be shipped: ",
        "run pce identical, not the reproducible verdict: 2026-11-29 by the makers of sgx-enclaves",
        "built 0ca2329d6d27177b2d1d3acaa6565b0ce8e80ee964437ccbba54d5976b508d51; see docs",
        "run pce differs: 2026-11-29",
    ):
        assert part in text
    assert "NOT PINNED" not in text
    assert main(["releases", "show", OPEN]) == 0
    assert "NOT PINNED" in capsys.readouterr().out


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases", "list", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert {"name": PINNED, "sgx": "2.25", "dcap": "1.22"}.items() <= next(
        release for release in plain["releases"] if release["name"] == PINNED
    ).items()
    assert main(["releases", "show", PINNED, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["unpinned"] == []
    assert plain["release"]["enclaves"][0]["name"] == "pce"


def test_free_text_of_a_release_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (OWN_FOLDER / f"{PINNED}.toml").read_text("utf-8").replace(PINNED, "own")
    text = text.replace("Intel SGX 2.25 with", "x\\u001b[2J\\nIDENTICAL: y", 1)
    (tmp_path / "own.toml").write_text(text, "utf-8")
    assert main(["releases", "show", "own", "--catalogue", str(tmp_path)]) in (0, 2)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\nIDENTICAL" not in said.out


def test_a_release_is_pinned_in_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text((OWN_FOLDER / f"{PINNED}.toml").read_text("utf-8").replace(PINNED, "own"))
    pin = ["releases", "pin", "own", "--offline", "--catalogue", str(path), "-o", str(path)]
    before = path.stat().st_ino
    # the vendor's archive cannot be had offline
    assert main(pin) == 2
    assert path.stat().st_ino == before
    assert main([*pin, "--force"]) == 2
    assert path.stat().st_ino != before
    assert main(["releases", "show", "own", "--catalogue", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"), [(["show"], "no release is named"), (["show", "sgx-0"], "no release")]
)
def test_no_such_release(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["releases", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_run_on_record_is_in_the_document() -> None:
    """A claim that something was reproduced is one of a run that docs/releases.md describes."""
    text = (ROOT / "docs/releases.md").read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    runs = [run for r in load_catalogue((OWN_FOLDER,)).releases.values() for run in r.runs]
    assert runs
    for run in runs:
        assert run.record == "docs/releases.md"
        rows = [line for line in table if f"*{run.verdict}*" in line]
        compiler = run.toolchain.partition(",")[0]
        assert any(compiler in row and (run.unsigned_sha256 or "") in row for row in rows), run
        assert run.reproducible is False or not any("not reproducible" in row for row in rows)
