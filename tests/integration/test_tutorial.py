# SPDX-License-Identifier: GPL-2.0-or-later
"""The tutorial's commands, run on the demo's files: they print what the tutorial shows.

`UPDATE_TUTORIAL=1`, after `make demo`, writes what they print into the tutorial.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo import one_enclave
from demo.command import ROOT
from tests.enclaves.compiled import have_toolchain
from tests.integration.demonstration import demo_folder

TUTORIAL = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"(?<=```console\n)(.*?)(?=```)", re.DOTALL)
# What depends on the compiler and on the place: digests, numbers, symbols, how lines are filled.
_CHANGES = re.compile(r"\S+\+0x[0-9a-f]+|\b0x[0-9a-f]+|\b[0-9a-f]{2,}\b|\d+|\.\.\.|\s+")


def masked(text: str) -> str:
    return _CHANGES.sub(" ", text).strip()


@pytest.mark.slow
@pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")
@pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed")
def test_the_tutorial_shows_what_its_commands_print(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    update = "UPDATE_TUTORIAL" in os.environ
    place = "build/demo" if update else str(demo_folder(tmp_path_factory))
    command = tmp_path / "bin" / "sgx-enclaves"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sgx_enclaves "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    text = TUTORIAL.read_text("utf-8")
    new = text
    for block in _BLOCK.findall(text):
        shown = ""
        for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
            done = subprocess.run(
                ["/bin/sh", "-c", line.replace("build/demo", place)],
                cwd=ROOT,
                env=env,
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
            shown += f"$ {line}\n" + done.stdout.replace(place, "build/demo").rstrip() + "\n"
        shown = re.sub(r"\n{2,}", "\n", shown)
        new = new.replace(block, shown)
    if update:
        TUTORIAL.write_text(new, "utf-8")
    assert [masked(block) for block in _BLOCK.findall(text)] == [
        masked(block) for block in _BLOCK.findall(new)
    ]


def test_another_verdict_is_noticed() -> None:
    assert masked("IDENTICAL: x, 12 bytes") == masked("IDENTICAL: x,\n 13 bytes")
    assert masked("IDENTICAL: x, 12 bytes") != masked("DIFFERS: x, 12 bytes")
    assert one_enclave.CONFIG.is_file()
