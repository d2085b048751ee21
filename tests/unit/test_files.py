# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are read whole but bounded, whatever they are."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from sgx_enclaves.errors import LimitError
from sgx_enclaves.files import read_file


def test_a_small_file_costs_little_however_large_it_might_be(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 5000)
    tracemalloc.start()
    data = read_file(str(path), 512 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data == b"x" * 5000
    assert peak < 1 << 20


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_up_to_the_limit_and_not_beyond(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    assert read_file(str(path), 100) == b"x" * size
    path.write_bytes(b"x" * 101)
    with pytest.raises(LimitError, match="too large"):
        read_file(str(path), 100)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = os.urandom(300_000)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert read_file(str(pipe), 1 << 20) == data
    writer.join()


def test_what_never_ends_is_stopped() -> None:
    with pytest.raises(LimitError, match="too large"):
        read_file("/dev/zero", 1 << 20)
