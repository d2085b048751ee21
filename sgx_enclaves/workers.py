# SPDX-License-Identifier: GPL-2.0-or-later
"""Worker processes that do not outlive the program that started them."""

from __future__ import annotations

import ctypes
import os
import signal

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_INIT = 1


def end_with_parent() -> None:
    """Make this process end when its parent does, by whatever it is killed.

    An initializer for process pools: a worker otherwise waits for work for ever
    when its parent gets SIGKILL, since it holds the other end of the queue itself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == _INIT:
        # The parent was gone before it could be watched.
        os._exit(0)
