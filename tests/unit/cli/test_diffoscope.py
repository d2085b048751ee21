# SPDX-License-Identifier: GPL-2.0-or-later
"""The hand-over to diffoscope: argument list, absence, failure, time-out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves.cli.compare import diffoscope_argv, run_diffoscope

BUILT, SIGNED = Path("built.so"), Path("-rf signed;.so")


def fake(folder: Path, script: str) -> str:
    program = folder / "diffoscope"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_file_names_are_never_options() -> None:
    argv = diffoscope_argv("/usr/bin/diffoscope", BUILT, SIGNED)
    assert argv[0] == "/usr/bin/diffoscope"
    assert argv[-3:] == ["--", "built.so", "-rf signed;.so"]


def test_it_says_how_to_get_diffoscope_when_it_is_not_installed() -> None:
    def runner(*_: object, **__: object) -> subprocess.CompletedProcess[Any]:
        raise AssertionError("nothing to run")

    said = run_diffoscope(BUILT, SIGNED, runner, find=lambda _: None)
    assert said is not None
    assert "not installed" in said


def test_it_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    fake(tmp_path, f'printf "%s\\n" "$@" > {log}; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run_diffoscope(BUILT, SIGNED) is None
    assert log.read_text().splitlines()[-2:] == ["built.so", "-rf signed;.so"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", None),
        ("exit 1", None),
        ("exit 2", "exit status 2"),
        ("kill -9 $$", "exit status -9"),
    ],
)
def test_its_exit_status_is_told_from_a_difference(
    tmp_path: Path, script: str, said: Optional[str]
) -> None:
    program = fake(tmp_path, script)
    result = run_diffoscope(BUILT, SIGNED, find=lambda _: program)
    assert (result is None) == (said is None)
    assert said is None or (result is not None and said in result)


def test_it_is_stopped_when_it_takes_too_long(tmp_path: Path) -> None:
    program = fake(tmp_path, "exec sleep 60")
    said = run_diffoscope(BUILT, SIGNED, timeout=0.2, find=lambda _: program)
    assert said is not None
    assert "stopped after 0.2 seconds" in said


def test_a_program_that_does_not_start_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "diffoscope").write_text("not executable")
    said = run_diffoscope(BUILT, SIGNED, find=lambda _: str(tmp_path / "diffoscope"))
    assert said is not None
    assert "could not be started" in said
