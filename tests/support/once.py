# SPDX-License-Identifier: GPL-2.0-or-later
"""Costly things are made once: in a test run, whichever of its processes needs them first, or in
a process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.limits import Limits
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


@contextmanager
def regenerated_once() -> Iterator[None]:
    """What follows from an enclave, a config and an SDK is computed once, for all comparisons."""
    made: dict[object, Regenerated] = {}

    def made_once(
        image: EnclaveImage, config: Config, sdk: Generation, fips: bool, *limits: Limits
    ) -> Regenerated:
        key = image.data, repr(config), sdk.name, fips, repr(limits)
        if key not in made:
            made[key] = regenerate(image, config, sdk, fips, *limits)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgx_enclaves.enclave.compare.regenerate", made_once)
        patch.setattr("sgx_enclaves.explain.explain.regenerate", made_once)
        yield
