# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one daemon in a room of its own: keeper.py ETC VAR_LOG USER PROGRAM ARGUMENT...

The room has private /etc and /var/log (bind mounts of the two folders) and its own process
table. It is gone, with all that ever ran in it, when the daemon ends, when the keeper is
killed, or when the keeper's parent dies. Signals to the keeper reach the daemon; but for SIGUSR1,
which kills the daemon alone (SIGKILL) and starts another in the room, where its children live on.
USER is the account that the daemon runs as; "-" keeps root.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.koji.machine import namespaces

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_CRASH = signal.SIGUSR1
_HELD = (*_FORWARDED, _CRASH)


def _hold_signals() -> None:
    """Keep signals back until somebody can be sent them: the first process would ignore them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def _forward_to(pid: int, numbers: Iterable[int]) -> None:
    def handler(number: int, _frame: Optional[FrameType]) -> None:
        os.kill(pid, number)

    for number in numbers:
        signal.signal(number, handler)


def _exit_status(status: int) -> int:
    """The shell's way to word a wait status: 128 + signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(user: str) -> Callable[[], None]:
    """What a forked child calls to become that user, open to signals again."""
    if user == "-":
        return _let_signals_through
    account = pwd.getpwnam(user)

    def change() -> None:
        _let_signals_through()
        os.setgid(account.pw_gid)
        os.setgroups([])
        os.setuid(account.pw_uid)

    return change


def _be_first_process(etc: Path, var_log: Path, user: str, argv: list[str]) -> int:
    """Set the room up, run the daemon and collect orphans until it ends."""
    namespaces.die_with_parent()
    become = _become(user)
    namespaces.bind(etc, Path("/etc"))
    namespaces.bind(var_log, Path("/var/log"))
    namespaces.mount_proc(Path("/proc"))
    crashes: list[int] = []
    while True:
        daemon = subprocess.Popen(argv, preexec_fn=become)  # noqa: PLW1509 - no threads here
        _forward_to(daemon.pid, _FORWARDED)
        signal.signal(_CRASH, _killer(daemon.pid, crashes))
        _let_signals_through()
        status = _wait_for(daemon.pid)
        _hold_signals()
        if daemon.pid not in crashes:
            return _exit_status(status)


def _killer(pid: int, crashes: list[int]) -> Callable[[int, Optional[FrameType]], None]:
    """A signal's handler that kills a process and notes it."""

    def kill(_number: int, _frame: Optional[FrameType]) -> None:
        crashes.append(pid)
        os.kill(pid, signal.SIGKILL)

    return kill


def _wait_for(wanted: int) -> int:
    """Collect orphans until this process ends; its wait status."""
    while True:
        pid, status = os.wait()
        if pid == wanted:
            return status


def main(argv: list[str]) -> int:
    """Keep one daemon until it ends; its exit status is ours."""
    etc, var_log, user, program = Path(argv[0]), Path(argv[1]), argv[2], argv[3:]
    namespaces.die_with_parent()
    namespaces.unshare(namespaces.NEW_MOUNTS | namespaces.NEW_PIDS)
    _hold_signals()
    first = os.fork()
    if first == 0:
        # Nothing of the keeper's own interpreter may run on in the child.
        os._exit(_be_first_process(etc, var_log, user, program))
    _forward_to(first, _HELD)
    _let_signals_through()
    return _exit_status(os.waitpid(first, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
