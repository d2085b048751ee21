# SPDX-License-Identifier: GPL-2.0-or-later
"""A step of set-up that fails is shown and fails the job; skipped tests are counted by reason."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import reason_of

ROOT = Path(__file__).resolve().parents[2]


def step(log: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "packaging" / "quietly"), str(log), "try it", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_step_that_succeeds_says_one_line_and_keeps_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "step.log"
    done = step(log, "sh", "-c", "echo much; echo more >&2")
    assert done.returncode == 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"try it \.\.\. \d+ s \({re.escape(str(log))}\)", line)
    assert log.read_text() == "much\nmore\n"


def test_a_step_that_fails_shows_its_log_and_keeps_its_status(tmp_path: Path) -> None:
    done = step(tmp_path / "step.log", "sh", "-c", "echo no such package; exit 7")
    assert done.returncode == 7
    assert "no such package" in done.stderr


def test_a_note_of_a_step_is_shown(tmp_path: Path) -> None:
    done = step(tmp_path / "step.log", "echo", "note: nothing was installed")
    assert "note: nothing was installed" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_rpmlint_that_cannot_be_installed_fails_the_job(tmp_path: Path) -> None:
    (tmp_path / "setup.stamp").touch()
    done = subprocess.run(
        ["make", "--no-print-directory", f"BUILD={tmp_path}", "rpmlint"],
        cwd=ROOT,
        env={**os.environ, "RPMLINT_PYTHON": "/bin/false", "MAKEFLAGS": ""},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "rpmlint 2.4.0 is not installed" in done.stderr


def test_the_reason_of_a_skipped_test_is_one_line() -> None:
    where = ("tests/test_x.py", 3, "Skipped: needs\n  a Koji")
    report = pytest.TestReport("x", where, {}, "skipped", where, "setup")
    assert reason_of(report) == "needs a Koji"


# What enchant's English dictionary refuses of the words that come to mind; rpmlint says
# spelling-error of each where a dictionary is installed, and an error fails the demo.
_REFUSED = re.compile(
    r"\b(toolchains?|config|xml|rpmbuild|buildroots?|rpmlint's|sgxEnclaves?|mock)\b"
)


def descriptions() -> list[str]:
    specs = [ROOT / "packaging" / "sgx-enclaves.spec", *(ROOT / "spec-templates").glob("*.j2")]
    text = "\n".join(spec.read_text("utf-8") for spec in specs)
    return re.findall(r"^%description.*?(?=^%|^\{% endblock|\Z)", text, re.DOTALL | re.MULTILINE)


def test_no_description_has_a_word_that_a_dictionary_refuses() -> None:
    found = descriptions()
    assert len(found) > 8
    assert [_REFUSED.search(text) for text in found] == [None] * len(found)
    assert _REFUSED.search("with its config.xml")


def test_what_an_extra_brings_is_in_the_spec_file_too() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    spec = (ROOT / "packaging" / "sgx-enclaves.spec").read_text("utf-8")
    for extra in ("zstd", "rpm", "repodata"):
        for line in setup["options.extras_require"][extra].split():
            name = re.split("[>=]", line)[0].replace("-", "_")
            assert re.search(rf"^(Requires|Recommends): .*\bpython3-{name}\b", spec, re.MULTILINE)
    packages = (ROOT / "packaging" / "install-system-packages").read_text("utf-8")
    for program in ("bubblewrap", "python3-rpm"):
        assert re.search(rf"^(Requires|Recommends): +{program}$", spec, re.MULTILINE)
        assert program in packages
