# SPDX-License-Identifier: GPL-2.0-or-later
"""A step of set-up that fails is shown and fails the job; skipped tests are counted by reason."""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sgx_enclaves.errors import InputError
from sgx_enclaves.plain import parse_toml
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
def test_lint_rpm_without_packages_is_a_mistake(tmp_path: Path) -> None:
    for name in ("setup", "rpmlint-2.4.0", "rpmlint-2.10.0"):
        (tmp_path / f"{name}.stamp").touch()
    done = subprocess.run(
        ["make", "--no-print-directory", f"BUILD={tmp_path}", "lint-rpm"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert 'name packages: make lint-rpm RPM="FILE..."' in done.stderr


def test_the_project_s_page_is_the_same_everywhere() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    url = setup["metadata"]["url"]
    assert f"URL:            {url}\n" in (ROOT / "packaging/sgx-enclaves.spec").read_text()
    page = (ROOT / "sgx_enclaves/report/templates/base.html.j2").read_text()
    assert re.findall(r'href="(https:[^"]*)"', page) == [url]


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


def run_among(
    folder: Path, programs: dict[str, str], *command: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of packaging/ where the only programs are these, each a script of Bash."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        [str(ROOT / "packaging" / command[0]), *command[1:]],
        cwd=folder,
        env={"PATH": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("error", "calls", "status"),
    [
        ("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1", 3, 0),
        ("E: Unable to locate package nonesuch", 1, 100),
    ],
)
def test_apt_get_waits_for_a_busy_lock_and_for_nothing_else(
    tmp_path: Path, error: str, calls: int, status: int
) -> None:
    programs = {
        "apt-get": f'echo "$@" >>asked\n[ -e free ] || {{ echo "{error}"; exit 100; }}',
        "sleep": "[ ! -e slept ] || : >free; : >slept",
    }
    done = run_among(tmp_path, programs, "apt-get", "update")
    assert done.returncode == status
    assert error in done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--option DPkg::Lock::Timeout=600 --quiet=2 update"] * calls


@pytest.mark.parametrize(
    ("programs", "status", "words"),
    [
        ({}, 0, "note: Chromium is not installed (not a Debian system)"),
        ({"apt-get": "", "id": "echo 1000"}, 0, "(not run as root)"),
        ({"apt-get": "", "id": "echo 0", "apt-cache": "exit 1"}, 0, "(it is no package here)"),
        ({"apt-get": "exit 7", "id": "echo 0"}, 7, ""),
        ({"apt-get": "case $* in *install*) exit 5; esac", "id": "echo 0"}, 5, ""),
        ({"apt-get": "", "id": "echo 0"}, 3, "pip install"),
        ({"chromium": ""}, 3, "pip install"),
    ],
)
def test_chromium_is_installed_or_a_note_says_why_not(
    tmp_path: Path, programs: dict[str, str], status: int, words: str
) -> None:
    makers = {"apt-cache": "echo Package: chromium", "python": 'echo "$2 $3"; exit 3'}
    python = str(tmp_path / "python")
    done = run_among(tmp_path, {**makers, **programs}, "install-chromium", python)
    assert done.returncode == status
    assert words in done.stdout


def test_the_reason_of_a_skipped_test_is_one_line() -> None:
    where = ("tests/test_x.py", 3, "Skipped: needs\n  a Koji")
    report = pytest.TestReport("x", where, {}, "skipped", where, "setup")
    assert reason_of(report) == "needs a Koji"


# What the English dictionaries of aspell and hunspell refuse of the words that come to mind;
# rpmlint says spelling-error of each where one is installed.
_REFUSED = re.compile(
    r"\b(toolchains?|config|xml|rpmbuild|buildroots?|rpmlint's|sgxEnclaves?|mock|[Ll]icences?|"
    r"reproducibly|verifications|upstream's)\b"
)


def summaries_and_descriptions() -> list[str]:
    specs = [ROOT / "packaging" / "sgx-enclaves.spec", *(ROOT / "spec-templates").glob("*.j2")]
    text = "\n".join(spec.read_text("utf-8") for spec in specs)
    parts = r"^Summary:.*?$|^%description.*?(?=^%|^\{% endblock|\Z)"
    return re.findall(parts, text, re.DOTALL | re.MULTILINE)


def test_no_description_has_a_word_that_a_dictionary_refuses() -> None:
    found = summaries_and_descriptions()
    assert len(found) > 16
    assert [_REFUSED.search(text) for text in found] == [None] * len(found)
    assert _REFUSED.search("with its config.xml")


@pytest.mark.parametrize("name", ["demo/rpmlint.toml", "packaging/rpmlint.toml"])
def test_no_dictionary_of_the_machine_decides_whether_our_packages_are_clean(name: str) -> None:
    config = parse_toml((ROOT / name).read_bytes(), file=name, error=InputError)
    assert config["UseEnchant"] is False


def test_what_an_extra_brings_is_in_the_spec_file_too() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    spec = (ROOT / "packaging" / "sgx-enclaves.spec").read_text("utf-8")
    for extra in ("zstd", "rpm", "repodata"):
        for line in setup["options.extras_require"][extra].split():
            name = re.split("[>=]", line)[0].replace("-", "_")
            assert re.search(rf"^(Requires|Recommends): .*\bpython3-{name}\b", spec, re.MULTILINE)
    floor = setup["options.extras_require"]["koji"].strip().replace("koji>=", "")
    for part in ("koji-builder", "koji-hub", "koji"):
        assert f"\nRequires:       {part} >= {floor}\n" in spec
    packages = (ROOT / "packaging" / "install-system-packages").read_text("utf-8")
    for program in ("bubblewrap", "python3-rpm", "curl"):
        assert re.search(rf"^(Requires|Recommends): +{program}( >= 7.76)?$", spec, re.MULTILINE)
        assert program in packages


def locked(name: str) -> list[tuple[Requirement, str]]:
    """What a lock installs on this Python, each with the lines of its digests."""
    text = (ROOT / "packaging" / "locks" / name).read_text("utf-8")
    blocks = re.findall(
        r"^([^\s#][^\\\n]*)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE
    )
    assert "\n".join(first + rest for first, rest in blocks) + "\n" == text
    found = [(Requirement(first), rest) for first, rest in blocks]
    return [each for each in found if each[0].marker is None or each[0].marker.evaluate()]


def test_what_setup_installs_is_locked_by_version_and_digest() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    wanted = [setup["options"]["install_requires"], *(extras[e] for e in ("test", "docs", "koji"))]
    versions = {}
    for requirement, digests in locked("tests.txt"):
        assert digests, f"{requirement} has no digest"
        assert requirement.name not in versions
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        versions[requirement.name] = pin.version
    for line in filter(None, "\n".join(wanted).splitlines()):
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate():
            name = asked.name.replace(".", "-")
            assert asked.specifier.contains(versions[name]), f"{line}: make locks"


@pytest.mark.parametrize("version", ["2.4.0", "2.10.0"])
def test_each_rpmlint_is_locked_by_digest(version: str) -> None:
    found = {
        each.name: (str(each.specifier), digests)
        for each, digests in locked(f"rpmlint-{version}.txt")
    }
    assert found["rpmlint"][0] == f"=={version}"
    assert all(digests for _, digests in found.values())
    assert "pyelftools" in found


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
def test_what_has_another_digest_is_not_installed(tmp_path: Path) -> None:
    """Set-up's own options, with a lock that names a wheel of ours by another's digest."""
    name, version = "sgx_enclaves_test_wheel", "1.0"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    options = re.search(
        r"\$\(PIP\) (.*) --requirement packaging/locks", (ROOT / "Makefile").read_text()
    )
    assert options
    digest = hashlib.sha256(next(tmp_path.glob("*.whl")).read_bytes()).hexdigest()
    for given, refused in (
        (digest, False),
        (digest[:-1] + ("0" if digest[-1] != "0" else "1"), True),
    ):
        lock = tmp_path / "lock.txt"
        lock.write_text(f"{name}=={version} --hash=sha256:{given}\n")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", *options[1].split()),
                *("--no-index", "--dry-run", "--find-links", str(tmp_path)),
                *("--requirement", str(lock)),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode != 0) is refused, done.stderr
        assert ("DO NOT MATCH THE HASHES" in done.stderr) is refused
