# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb that prints the digest of archives' contents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.release.archive import read_contents
from tests.unit.release import tarmaker as tm


@pytest.fixture
def archives(tmp_path: Path) -> tuple[str, str]:
    """Two that hold the same, packed differently below different folders."""
    paths = []
    for name, packer in (("one", "gzip"), ("two", "xz")):
        (tmp_path / name).mkdir()
        parts = [tm.file(f"{name}/run", b"#!", mode=b"0000755\0"), tm.symlink(f"{name}/l", "run")]
        paths.append(str(tm.write(tmp_path / name, *parts, pack=tm.PACKERS[packer])))
    return paths[0], paths[1]


def test_digests_are_printed(archives: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contents", *archives]) == 0
    digest = read_contents(Path(archives[0])).sha256
    assert capsys.readouterr().out == f"{digest}  {archives[0]}\n{digest}  {archives[1]}\n"


def test_a_list_of_entries(archives: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contents", "--list", archives[0]]) == 0
    run = hashlib.sha256(b"#!").hexdigest()
    assert capsys.readouterr().out.splitlines()[1:] == ["  l run l", f"  x {run} run"]


def test_as_json(archives: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contents", "--json", "--list", archives[1]]) == 0
    (said,) = json.loads(capsys.readouterr().out)["archives"]
    contents = read_contents(Path(archives[1]))
    assert said == {
        "file": archives[1],
        "contents_sha256": contents.sha256,
        "sha256": contents.archive_sha256,
        "top": "two",
        "entries": [["l", "l", "run"], ["x", "run", hashlib.sha256(b"#!").hexdigest()]],
    }
    assert main(["contents", "--json", archives[1]]) == 0
    assert "entries" not in json.loads(capsys.readouterr().out)["archives"][0]


def test_an_expectation(archives: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    digest = read_contents(Path(archives[0])).sha256
    assert main(["contents", "--expect", digest, *archives]) == 0
    assert capsys.readouterr().out.count(": as expected\n") == 2
    other = Path(archives[1])
    tm.write(other.parent, tm.file("two/run", b"#!"), tm.symlink("two/l", "run"))
    assert main(["contents", "--expect", digest, *archives]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": as expected")
    assert lines[1].endswith(f"  {other}: DIFFERS")


@pytest.mark.parametrize("expected", ["", "ab", "AB" * 32, "g" * 64])
def test_an_expectation_that_is_no_digest(
    archives: tuple[str, str], capsys: pytest.CaptureFixture[str], expected: str
) -> None:
    assert main(["contents", f"--expect={expected}", archives[0]]) == 2
    assert "64 lower-case hexadecimal digits" in capsys.readouterr().err


def test_what_is_no_source_archive_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tm.write(tmp_path, tm.file("a/x"), tm.file("b/x"))
    assert main(["contents", str(path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "'b/x' is not below one top directory" in output.err
    assert main(["contents", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
