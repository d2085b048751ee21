# SPDX-License-Identifier: GPL-2.0-or-later
"""The completions, asked as the shells ask them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.declare import VERBS

pytest.importorskip("shtab", reason="shtab is not installed")

import completions

# What bash does when TAB is pressed at the end of these words.
_TAB = """
set -eu
source "$1"; shift
rule=$(complete -p sgx-enclaves)
rule=${rule#*-F }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE} COMPREPLY=()
"${rule%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" || true
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    completions.main(folder)
    return folder


def tab(scripts: Path, *words: str, cwd: Path = Path("/")) -> set[str]:
    """What bash offers after `sgx-enclaves WORDS`."""
    script = scripts / "bash/sgx-enclaves"
    result = subprocess.run(
        ["bash", "--norc", "-c", _TAB, "bash", str(script), "sgx-enclaves", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return set(result.stdout.split())


def test_bash_offers_every_verb(scripts: Path) -> None:
    assert tab(scripts, "") == set(VERBS)
    assert tab(scripts, "ver") == {"verify-attestation", "verify-release", "verify-signature"}


def test_bash_offers_the_options_of_the_verb_and_no_others(scripts: Path) -> None:
    assert tab(scripts, "show", "--") == {
        *("--help", "--json", "--quiet", "--verbose", "--html", "--open", "--force"),
    }
    assert tab(scripts, "show", "x", "--c") == set()
    assert tab(scripts, "compare", "x", "y", "--c") == {"--config"}


def test_bash_offers_the_values_that_an_option_takes(scripts: Path) -> None:
    assert tab(scripts, "compare", "--enclave", "p") == {"pce", "pve"}


def test_bash_offers_the_releases_of_the_catalogue(scripts: Path) -> None:
    releases = set(load_catalogue((OWN_FOLDER,)).releases)
    assert tab(scripts, "fetch", "sgx") == releases
    assert tab(scripts, "toolchain", "check", "sgx") == releases


def test_bash_offers_files_or_folders_only(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for words in (("show",), ("compare", "--config")):
        assert tab(scripts, *words, "f", cwd=tmp_path) == {"file", "folder"}
    assert tab(scripts, "compare", "--report", "f", cwd=tmp_path) == {"folder"}
    assert tab(scripts, "show", "x", cwd=tmp_path) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_its_script(scripts: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = scripts / shell / completions.NAMES[shell]
    if not script.exists():
        pytest.skip(f"this shtab does not know {shell}")
    subprocess.run([shell, "-n", str(script)], check=True)
    broken = script.with_suffix(".broken")
    broken.write_text(script.read_text() + "\nif then (\n")
    assert subprocess.run([shell, "-n", str(broken)], check=False, capture_output=True).returncode


def test_fish_offers_verbs_and_options(scripts: Path, tmp_path: Path) -> None:
    script = scripts / "fish" / completions.NAMES["fish"]
    if shutil.which("fish") is None or not script.exists():
        pytest.skip("fish is not installed, or this shtab does not know it")
    ask = f'source {script}; complete -C "sgx-enclaves ver"; complete -C "sgx-enclaves fetch --o"'
    result = subprocess.run(
        ["fish", "--no-config", "-c", ask],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    offered = {line.split("\t")[0] for line in result.stdout.splitlines()}
    assert offered == {"verify-release", "verify-signature", "--offline"}
