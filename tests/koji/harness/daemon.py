# SPDX-License-Identifier: GPL-2.0-or-later
"""One long-running program in a room of its own (`machine/keeper.py`)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import MACHINE, SYSTEM_PYTHON

_TAIL = 40

# Seconds for what takes some alone: the machine may have twenty others to serve.
PATIENCE = 600.0


class DaemonError(Exception):
    """A daemon that did not come up, ended by itself or would not end."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Ask `condition` five times a second until it holds.

    Raises:
        DaemonError: it does not within `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise DaemonError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.2)


class Daemon:
    """A program that can be started, stopped and killed any number of times.

    Args:
        name: of the log, too.
        layout: its scratch folder.
        argv: program and arguments.
        environ: its whole environment.
        user: account to run as; "-" for root.
        stop_signal: what asks it to end in good order.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        user: str = "-",
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = layout.logs / f"{name}.log"
        self._argv = [str(SYSTEM_PYTHON), "-I", str(MACHINE / "keeper.py")]
        self._argv += [str(layout.etc), str(layout.var_log), user, *argv]
        self._environ = dict(environ)
        self._stop_signal = stop_signal
        self._cwd = layout.root
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the first process of its room."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; returns at once. Nothing when it runs already."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` holds.

        Raises:
            DaemonError: it ended, or `PATIENCE` went by; with the end of its log.
        """

        def ready_or_dead() -> bool:
            return not self.running or ready()

        try:
            wait_until(ready_or_dead, f"{self.name} is up")
        except DaemonError as error:
            raise DaemonError(f"{error}\n{self.tail()}") from None
        if not self.running:
            raise DaemonError(f"{self.name} ended at once\n{self.tail()}")

    def stop(self, seconds: float = 20) -> None:
        """Ask it to end, and kill it when it will not."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL to it and everything that it started, like a machine that loses power."""
        if self._process is None:
            return
        inside = self._first_inside()
        self._process.kill()
        self._process.wait()
        self._process = None
        for pid in inside:
            wait_until(lambda pid=pid: _gone(pid), f"{self.name} is dead")  # type: ignore[misc]

    def crash(self) -> None:
        """SIGKILL to the daemon alone; what it started lives on, and it is started again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def tail(self, lines: int = _TAIL) -> str:
        """The end of its log."""
        if not self.log.exists():
            return f"({self.name} wrote no log)"
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join([f"--- {self.log}", *text.splitlines()[-lines:]])

    def _first_inside(self) -> list[int]:
        """The first process of the room, with which all others in it die."""
        assert self._process is not None
        pid = self._process.pid
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return [int(word) for word in text.split()]


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for has, too."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def environment(**extra: str) -> dict[str, str]:
    """A small, known environment for a daemon."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    for name in ("TMPDIR",):
        if name in os.environ:
            environ[name] = os.environ[name]
    return {**environ, **extra}
