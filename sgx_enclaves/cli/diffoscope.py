# SPDX-License-Identifier: GPL-2.0-or-later
"""Hand two files over to diffoscope, which shows disassembly and headers side by side.

Its view adds nothing to a verdict and takes nothing away: that it is missing or
fails is a message, never an error.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TextIO

PROGRAM = "diffoscope"
# It takes about 11 s for a 2 MB enclave; a debug build takes minutes.
TIMEOUT = 600.0
_EQUAL, _DIFFERENT = 0, 1


def diffoscope_argv(program: str, built: Path, signed: Path) -> list[str]:
    """The command line; file names are never taken for options."""
    return [program, "--text=-", "--", str(built), str(signed)]


def run_diffoscope(
    built: Path,
    signed: Path,
    runner: Callable[..., subprocess.CompletedProcess[Any]] = subprocess.run,
    *,
    timeout: float = TIMEOUT,
    find: Callable[[str], Optional[str]] = shutil.which,
    output: Optional[TextIO] = None,
) -> Optional[str]:
    """Let diffoscope print its comparison of two files.

    Args:
        built: our unsigned enclave.
        signed: the vendor's.
        runner: runs an argument list, as `subprocess.run` does.
        timeout: seconds after which diffoscope is stopped.
        find: finds a program on PATH.
        output: where it prints to, instead of standard output.

    Returns:
        What to tell the user when diffoscope showed nothing; None when it did.
    """
    program = find(PROGRAM)
    if program is None:
        return "diffoscope is not installed; install the package diffoscope to see its comparison"
    try:
        result = runner(
            diffoscope_argv(program, built, signed), check=False, timeout=timeout, stdout=output
        )
    except subprocess.TimeoutExpired:
        return f"diffoscope was stopped after {timeout:g} seconds; run it by hand to wait longer"
    except OSError as error:
        return f"diffoscope could not be started: {error.strerror or error}"
    if result.returncode not in (_EQUAL, _DIFFERENT):
        return f"diffoscope failed with exit status {result.returncode}"
    return None
