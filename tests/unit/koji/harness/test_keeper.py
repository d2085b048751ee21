# SPDX-License-Identifier: GPL-2.0-or-later
"""The rooms that Koji's daemons are tested in: private, and gone with whoever started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.koji.harness.settings import MACHINE

KEEPER = MACHINE / "keeper.py"
_TRY = "from tests.koji.machine import namespaces as n; n.unshare(n.NEW_MOUNTS | n.NEW_PIDS)"
ROOT = MACHINE.parents[2]


def _rooms_are_possible() -> bool:
    done = subprocess.run([sys.executable, "-c", _TRY], cwd=ROOT, check=False, capture_output=True)
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    not _rooms_are_possible(), reason="needs root, and a system that lets it make namespaces"
)


def room(folder: Path, *program: str) -> list[str]:
    """The command that runs a program in a room whose /etc is folder/etc."""
    for name in ("etc", "log"):
        (folder / name).mkdir(exist_ok=True)
    argv = [sys.executable, str(KEEPER), str(folder / "etc"), str(folder / "log"), "-"]
    return [*argv, *program]


def run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def test_etc_and_the_log_folder_are_private(tmp_path: Path) -> None:
    script = "echo a > /etc/of-the-room; echo b > /var/log/of-the-room; ls /etc"
    done = run(room(tmp_path, "/bin/sh", "-c", script))
    assert (done.returncode, done.stdout) == (0, "of-the-room\n")
    assert (tmp_path / "etc/of-the-room").read_text() == "a\n"
    assert (tmp_path / "log/of-the-room").read_text() == "b\n"
    assert not Path("/etc/of-the-room").exists()


def test_the_room_has_its_own_processes(tmp_path: Path) -> None:
    done = run(room(tmp_path, "/bin/sh", "-c", "kill -0 $PPID; echo $PPID; ls /proc"))
    assert done.stdout.splitlines()[0] == "1"
    numbers = [int(name) for name in done.stdout.split() if name.isdigit()]
    assert max(numbers) < 10


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_daemons_exit_status_is_the_keepers(tmp_path: Path, script: str, status: int) -> None:
    assert run(room(tmp_path, "/bin/sh", "-c", script)).returncode == status


def test_a_signal_reaches_the_daemon(tmp_path: Path) -> None:
    script = "trap 'exit 5' TERM; echo ready; sleep 60 & wait"
    argv = room(tmp_path, "/bin/sh", "-c", script)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"ready\n"
        keeper.send_signal(signal.SIGTERM)
        assert keeper.wait(60) == 5


def test_a_crash_kills_the_daemon_alone_and_starts_another(tmp_path: Path) -> None:
    # No other test sleeps so long.
    mark = 300 + os.getpid()
    script = f"echo $$ >> {tmp_path}/daemons; trap 'exit 3' TERM; (setsid sleep {mark} &); "
    argv = room(tmp_path, "/bin/bash", "-c", script + "while :; do sleep 0.1; done")
    with subprocess.Popen(argv) as keeper:
        try:
            wait_for_lines(tmp_path / "daemons", 1)
            keeper.send_signal(signal.SIGUSR1)
            pids = wait_for_lines(tmp_path / "daemons", 2)
            assert pids[0] != pids[1]
            wait_for(lambda: sleepers(mark) == 2)
            assert keeper.poll() is None
            keeper.send_signal(signal.SIGTERM)
            assert keeper.wait(60) == 3
        finally:
            keeper.kill()


def sleepers(seconds: int) -> int:
    """How many processes sleep for that long."""
    found = 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += line.read_bytes() == f"sleep\0{seconds}\0".encode()
    return found


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_lines(path: Path, number: int) -> list[str]:
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) >= number)
    return path.read_text().splitlines()


def holders(pipe: Path) -> list[int]:
    """Processes that have a file open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(link) == str(pipe) for link in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("victim", ["keeper", "parent"])
def test_nothing_in_the_room_outlives_the_keeper_or_its_parent(tmp_path: Path, victim: str) -> None:
    mark = tmp_path / "mark"
    # A daemon that forks, and whose child leaves the session.
    script = f"exec 9>{mark}; setsid sleep 300 & sleep 300"
    argv = room(tmp_path, "/bin/bash", "-c", script)
    starter = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    started = argv if victim == "keeper" else [sys.executable, "-c", starter, *argv]
    with subprocess.Popen(started) as process:
        deadline = time.monotonic() + 60
        # The shell and both sleeps.
        while len(holders(mark)) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
    while holders(mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)
