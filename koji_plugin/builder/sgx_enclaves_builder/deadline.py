# SPDX-License-Identifier: GPL-2.0-or-later
"""A deadline on what kojid runs for us and waits for without one.

When it passes, the programs that were started are ended, and kojid's own waiting
sees them end. Nothing is raised into kojid's code, which may be talking to the hub.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Optional

# mock cleans up after itself when it is asked to end, if it is given the time
_GRACE = 20.0


class Deadline:
    """Whether the deadline passed."""

    def __init__(self) -> None:
        self.passed = False


@contextlib.contextmanager
def children_end_within(seconds: float) -> Iterator[Deadline]:
    """End all children of this process if the block takes longer; for the main thread.

    Args:
        seconds: until they are asked to end; some time later they are killed.
    """
    deadline = Deadline()

    def ring(_number: int, _frame: Optional[FrameType]) -> None:
        how = signal.SIGKILL if deadline.passed else signal.SIGTERM
        deadline.passed = True
        for process in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(process, how)
        signal.setitimer(signal.ITIMER_REAL, _GRACE)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield deadline
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def descendants(process: int) -> list[int]:
    """Processes that a process has started, and those that they have, youngest last."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name before may hold anything, even brackets
            parent = int(path.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    pending = [process]
    while pending:
        here = children.get(pending.pop(), [])
        found += here
        pending += here
    return found
