# SPDX-License-Identifier: GPL-2.0-or-later
"""Costly things are made once a test run, whichever of its processes needs them first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.enclaves.compiled import build_enclaves


def built_enclaves(factory: pytest.TempPathFactory) -> Path:
    """Every compiled enclave and every variant, for all tests: nothing is written beside them."""
    return made_once(factory, "enclaves", lambda folder: build_enclaves(folder, "all", "variants"))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, in this process or in another one of this run.

    Args:
        factory: pytest's.
        name: of the folder.
        make: fills it; if it fails, the next process tries again in a new one.
    """
    base = factory.getbasetemp()
    # The processes of one run share the parent folder.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / f"{name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        done = lock.read()
        if done:
            return Path(done)
        attempt = sum(1 for _ in shared.glob(f"{name}-[0-9]*"))
        folder = shared / f"{name}-{attempt}"
        folder.mkdir()
        make(folder)
        lock.write(str(folder))
    return folder
