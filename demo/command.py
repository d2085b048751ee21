# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs what a user would type, and shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
# Builds, signatures and comparisons of the test enclaves take seconds, not minutes.
DEADLINE = 120


def title(text: str) -> None:
    """A heading in the demo's output."""
    print(f"\n== {text}\n", flush=True)


def shown(path: Path) -> Path:
    """The path as a user in the checkout would type it."""
    return Path(os.path.relpath(path, ROOT)) if path.is_absolute() else path


def sgx_enclaves(*arguments: str, log: Optional[Path] = None) -> int:
    """Run the command `sgx-enclaves`; returns its exit status.

    Args:
        *arguments: the verb and what follows.
        log: receives what it prints; None shows it.
    """
    print("$ sgx-enclaves " + " ".join(arguments), flush=True)
    command = [sys.executable, "-m", "sgx_enclaves", *arguments]
    if log is None:
        return subprocess.run(command, check=False, timeout=DEADLINE).returncode
    with log.open("wb") as out:
        result = subprocess.run(command, check=False, timeout=DEADLINE, stdout=out, stderr=out)
    return result.returncode
