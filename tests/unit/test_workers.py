# SPDX-License-Identifier: GPL-2.0-or-later
"""A pool's workers end with their parent, even when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sgx_enclaves.files import can_have_workers

PARENT = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from sgx_enclaves.files import end_with_parent

pool = ProcessPoolExecutor(1, initializer=end_with_parent if sys.argv[1] == "ends" else None)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(60)
"""
DEADLINE = 20.0


def lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", ["ends", "stays"])
def test_a_worker_of_a_killed_parent(how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert lives(worker)
    parent.kill()
    parent.wait(DEADLINE)
    deadline = time.monotonic() + (DEADLINE if how == "ends" else 0.5)
    while lives(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        # Without the initializer it stays: that is what the check is for.
        assert lives(worker) == (how == "stays")
    finally:
        if lives(worker):
            os.kill(worker, signal.SIGKILL)
        parent.stdout.close()


def test_without_shared_memory_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied")

    assert can_have_workers()
    monkeypatch.setattr(multiprocessing, "Lock", refused)
    assert not can_have_workers()
