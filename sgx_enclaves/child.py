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
import time
import warnings
from typing import Callable

from sgx_enclaves.errors import LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.files import end_with_parent

MIB = 1 << 20
_CHUNK = 1 << 20


def in_child(
    work: Callable[[], bytes], *, what: str, seconds: float = 30, memory: int = 512 * MIB
) -> bytes:
    """What `work` returns, computed in a child process.

    Args:
        work: needs no lock that another thread may hold, and writes no file.
        what: what is done, for messages: "the file cannot be described".
        seconds: how long it may take.
        memory: how many bytes it may use beyond what this process has; also the
            most bytes that it may return.

    Raises:
        LimitError: it took longer, or needed more memory.
        UnsupportedError: it failed.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of other threads; were one to stop the child, the deadline ends it.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer, parent, seconds, memory)
    os.close(writer)
    try:
        answer = _read(reader, what, time.monotonic() + seconds, memory)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if answer[:1] == b"D":
        return answer[1:]
    if answer[:1] == b"F":
        raise UnsupportedError(what, found=answer[1:].decode("utf-8", "replace"))
    raise LimitError(what, expected=f"at most {memory // MIB} MiB of memory, {seconds:g} s")


def _read(reader: int, what: str, deadline: float, most: int) -> bytes:
    parts: list[bytes] = []
    left = most + 1
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise LimitError(what, expected="an answer in time")
        part = os.read(reader, _CHUNK)
        if not part:
            return b"".join(parts)
        parts.append(part)
        left -= len(part)
        if left < 0:
            raise LimitError(what, expected=f"at most {most} bytes of answer")


def _work(work: Callable[[], bytes], writer: int, parent: int, seconds: float, memory: int) -> None:
    """The child's life; never returns."""
    status = 1
    try:
        end_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        most = _used() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = b"D" + work()
        except MemoryError:
            answer = b"M"
        except SgxEnclavesError as error:
            answer = b"F" + str(error).encode("utf-8", "replace")
        except BaseException as error:
            answer = b"F" + f"{type(error).__name__}: {error}"[:200].encode("utf-8", "replace")
        view = memoryview(answer)
        while view:
            view = view[os.write(writer, view) :]
        status = 0
    finally:
        # No clean-up of the parent's: neither its buffers nor its exit handlers.
        os._exit(status)


def _used() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
