# SPDX-License-Identifier: GPL-2.0-or-later
"""What forks thousands of times does so in a small process: a fork costs what its process holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_SCRIPT = """
import importlib, pathlib, sys
module, function, folder = sys.argv[1:]
getattr(importlib.import_module(module), function)(pathlib.Path(folder))
"""


def alone(function: Callable[[Path], object], folder: Path) -> None:
    """Call a module's function in a process of its own, which does not hold all tests."""
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, function.__module__, function.__name__, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if ended.returncode:
        pytest.fail(ended.stdout + ended.stderr, pytrace=False)
