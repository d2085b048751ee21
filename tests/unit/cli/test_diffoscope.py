# SPDX-License-Identifier: GPL-2.0-or-later
"""The hand-over to diffoscope: arguments, absence, failure, time-out."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from sgx_enclaves.cli.compare import run_diffoscope

BUILT, SIGNED = "built.so", "-rf signed;.so"
Fake = Callable[[str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes a script the only diffoscope there is."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(script: str) -> None:
        (tmp_path / "diffoscope").write_text(script)
        (tmp_path / "diffoscope").chmod(0o755)

    return make


def test_it_says_how_to_get_diffoscope_when_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the package diffoscope" in run_diffoscope(BUILT, SIGNED)


def test_file_names_are_never_options(tmp_path: Path, fake: Fake) -> None:
    log = tmp_path / "log"
    fake(f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}; exit 1')
    assert run_diffoscope(BUILT, SIGNED) == ""
    assert log.read_text().splitlines()[-3:] == ["--", "built.so", "-rf signed;.so"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ""),
        ("exit 1", ""),
        ("exit 2", "diffoscope failed with exit status 2"),
        ("kill -9 $$", "diffoscope failed with exit status -9"),
    ],
)
def test_a_difference_is_no_failure(fake: Fake, script: str, expected: str) -> None:
    fake(f"#!/bin/sh\n{script}")
    assert run_diffoscope(BUILT, SIGNED) == expected


def test_it_is_stopped_when_it_takes_too_long(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgx_enclaves.cli.compare.DIFFOSCOPE_SECONDS", 0.2)
    fake("#!/bin/sh\nexec sleep 60")
    assert "stopped after 0.2 seconds" in run_diffoscope(BUILT, SIGNED)


def test_a_program_that_does_not_start_is_a_message(fake: Fake) -> None:
    fake("#!/no/such/shell\n")
    assert "cannot be started" in run_diffoscope(BUILT, SIGNED)
