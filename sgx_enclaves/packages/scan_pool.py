# SPDX-License-Identifier: GPL-2.0-or-later
"""Work in several processes, with results as they come and memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from sgx_enclaves.errors import LimitError
from sgx_enclaves.workers import end_with_parent

# Pieces that wait for a process; bounds the memory of a scan of millions.
_WAITING = 4

Piece = TypeVar("Piece")
Done = TypeVar("Done")


def in_processes(
    work: Callable[[Piece], Done], pieces: Sequence[Piece], jobs: int
) -> Iterator[Done]:
    """Yield what the work makes of each piece, in no order.

    Args:
        work: must be picklable.
        pieces: what to work on.
        jobs: processes.

    Raises:
        LimitError: a process died.
    """
    waiting = iter(pieces)
    with ProcessPoolExecutor(jobs, initializer=end_with_parent) as pool:
        running: set[Future[Done]] = set()
        try:
            while True:
                while len(running) < jobs * _WAITING:
                    piece = next(waiting, None)
                    if piece is None:
                        break
                    running.add(pool.submit(work, piece))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise LimitError(
                "a process of the scan died, perhaps for want of memory",
                hint="scan again with fewer --jobs; what was done is in the --state file",
            ) from None
        finally:
            for future in running:
                future.cancel()
