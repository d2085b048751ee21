# SPDX-License-Identifier: GPL-2.0-or-later
"""Work on hostile input by code that is not ours: in a child process with limits.

The child is a fork, so that it costs a few milliseconds and sees what its parent has
read. It cannot change anything of its parent's: all that comes back is bytes, of
which the parent takes a bounded number within a bounded time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import struct
import time
import warnings
from typing import Callable

from sgx_enclaves import errors
from sgx_enclaves.errors import LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.files import end_with_parent
from sgx_enclaves.limits import MIB

SECONDS = 30.0
MEMORY = 512 * MIB
# Whether it is data or an error, and its size.
_HEAD = struct.Struct("<cI")
# What Linux holds in a pipe.
_PIPE = 64 << 10


def in_child(
    work: Callable[[], bytes], *, what: str, seconds: float = SECONDS, memory: int = MEMORY
) -> bytes:
    """What `work` returns, computed in a child process.

    Args:
        work: needs no lock that another thread may hold, and writes no file.
        what: what is wrong where it fails: "the file cannot be described".
        seconds: how long this process waits for the answer.
        memory: how many bytes it may use beyond what this process has, and return.

    Raises:
        LimitError: it took longer, or needed more memory.
        SgxEnclavesError: as `work` raised it; an UnsupportedError of other exceptions.
    """
    # For `end_with_parent`: or each child would import it again, which is most of its time.
    import ctypes  # noqa: F401, PLC0415

    parent = os.getpid()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of other threads; were one to stop the child, the deadline ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer, what, parent, seconds, memory)
    os.close(writer)
    deadline = time.monotonic() + seconds
    try:
        head = _taken(reader, _HEAD.size, deadline, what)
        kind, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
        if size > memory:
            raise LimitError(what, expected=f"at most {memory} bytes of answer")
        answer = _taken(reader, size, deadline, what)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if kind == b"" or len(answer) < size:
        raise LimitError(what, expected=f"at most {memory // MIB} MiB of memory, {seconds:.0f} s")
    if kind == b"X":
        # Costs as much to import as the child takes to start, and mostly there is no error.
        import json  # noqa: PLC0415

        fields = json.loads(answer)
        raise getattr(errors, fields.pop("kind"))(**fields)
    return answer


def _taken(reader: int, size: int, deadline: float, what: str) -> bytes:
    """So many bytes of what the child has written; fewer where it has ended."""
    taken = bytearray()
    while len(taken) < size:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise LimitError(what, expected="an answer in time")
        more = os.read(reader, min(_PIPE, size - len(taken)))
        if not more:
            break
        taken += more
    return bytes(taken)


def _work(
    work: Callable[[], bytes], writer: int, what: str, parent: int, seconds: float, memory: int
) -> None:
    """The child's life; never returns."""

    def send(kind: bytes, answer: bytes) -> None:
        os.write(writer, _HEAD.pack(kind, len(answer)))
        left = memoryview(answer)
        while left:
            left = left[os.write(writer, left) :]

    try:
        end_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _bound(resource.RLIMIT_AS, used + memory)
        _bound(resource.RLIMIT_CPU, int(seconds) + 1)
        _bound(resource.RLIMIT_CORE, 0)
        send(b"D", work())
    except MemoryError:
        # That nothing more comes says it.
        pass
    except BaseException as error:
        import json  # noqa: PLC0415

        if not isinstance(error, SgxEnclavesError):
            error = UnsupportedError(what, found=f"{type(error).__name__}: {error}"[:200])
        send(b"X", json.dumps(error.as_dict()).encode())
    finally:
        # No clean-up of the parent's: neither its buffers nor its exit handlers.
        os._exit(0)


def _bound(kind: int, most: int) -> None:
    """Lower a limit of this process; one that is lower already stays."""
    limits = [most, *(limit for limit in resource.getrlimit(kind) if limit >= 0)]
    resource.setrlimit(kind, (min(limits), min(limits)))
