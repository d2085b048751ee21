# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs what a user would type, and shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Builds, signatures and comparisons of the test enclaves take seconds, not minutes.
DEADLINE = 120


def title(text: str) -> None:
    """A heading in the demo's output."""
    print(f"\n== {text}\n", flush=True)


def sgx_enclaves(*arguments: str, quiet: bool = False) -> int:
    """Run the command `sgx-enclaves`; returns its exit status.

    Args:
        *arguments: the verb and what follows.
        quiet: show the command, but nothing of what it prints.
    """
    print("$ sgx-enclaves " + " ".join(arguments), flush=True)
    command = [sys.executable, "-m", "sgx_enclaves", *arguments]
    result = subprocess.run(command, check=False, timeout=DEADLINE, capture_output=quiet)
    return result.returncode
