# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo, run once a test run; its output and its files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.command import ROOT
from tests.support.keys import VENDOR_PEM
from tests.support.once import made_once

OUTPUT = "output.txt"
STATUS = "status.txt"


def demo_folder(factory: pytest.TempPathFactory) -> Path:
    """The demo's directory; beside its files what it printed and its exit status."""
    return made_once(factory, "demo", _run)


def _run(folder: Path) -> None:
    # The demo uses a key that is there; Mallory's it makes itself.
    shutil.copy(VENDOR_PEM, folder / "vendor.pem")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "demo.main", "--into", str(folder)),
            *("--rpmlint", str(ROOT / "build" / "rpmlint-2.10.0")),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    (folder / OUTPUT).write_text(done.stdout, "utf-8")
    (folder / STATUS).write_text(str(done.returncode), "utf-8")
