# SPDX-License-Identifier: GPL-2.0-or-later
"""The bounded run: every target with its seeds and some hundred mutants of them."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from sgx_enclaves.errors import SgxEnclavesError
from tests.fuzz.targets import TARGETS, seeds
from tests.golden.stored import Numbers, mutant

MUTANTS = 150
SECONDS = 1.0
MIB = 1 << 20


def bounded(name: str, data: bytes) -> None:
    """One case: an answer or an error of ours, in less than a second of the processor's time."""
    start = time.process_time()
    try:
        TARGETS[name].read(data)
    except SgxEnclavesError as error:
        assert str(error)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_mutants(name: str) -> None:
    numbers = Numbers(name)
    for seed in seeds(name):
        tracemalloc.start()
        bounded(name, seed)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * MIB + 10 * len(seed)
        for _ in range(MUTANTS):
            bounded(name, mutant(seed, numbers))


def test_a_reader_that_lets_another_error_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgx_enclaves.enclave.elf.EnclaveImage.parse", lambda *_, **__: int("x"))
    with pytest.raises(ValueError, match="x"):
        bounded("elf", b"")
