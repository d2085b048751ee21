# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs what a user would type, and shows it; says at the end what was tried and who refused it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
# Builds, signatures and comparisons of the test enclaves take seconds; on a busy machine, minutes.
DEADLINE = 900


@dataclass(frozen=True)
class Result:
    """One thing that a part of the demo tried, and what came of it, or who refused it.

    `good` says whether that is what must come of it.
    """

    part: str
    story: str
    answer: str
    good: bool


def table(results: Iterable[Result]) -> Iterable[str]:
    """The results, one a line, in columns."""
    rows = [(r.part, r.story, r.answer + ("" if r.good else "  NOT AS EXPECTED")) for r in results]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for part, story, answer in rows:
        yield f"  {part:<{widths[0]}}  {story:<{widths[1]}}  {answer}"


def title(text: str) -> None:
    """A heading in the demo's output."""
    print(f"\n== {text}\n", flush=True)


def shown(path: Path) -> Path:
    """The path as a user in the checkout would type it."""
    return Path(os.path.relpath(path, ROOT)) if path.is_absolute() else path


def sgx_enclaves(*arguments: str, log: Optional[Path] = None) -> int:
    """Run the command `sgx-enclaves`, printing to the log if there is one; its exit status."""
    print("$ sgx-enclaves " + " ".join(arguments), flush=True)
    command = [sys.executable, "-m", "sgx_enclaves", *arguments]
    with log.open("wb") if log is not None else nullcontext() as out:
        ended = subprocess.run(command, check=False, timeout=DEADLINE, stdout=out, stderr=out)
    return ended.returncode
