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
from collections.abc import Generator
from typing import Callable

from sgx_enclaves import errors
from sgx_enclaves.errors import LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.files import end_with_parent
from sgx_enclaves.limits import MIB

SECONDS = 30.0
MEMORY = 512 * MIB
# Kind and size of a piece: data, an error, the end.
_PIECE = struct.Struct("<cI")
# What Linux holds in a pipe, and what is left of that for a piece that goes through at once.
_PIPE = 64 << 10
PIECE_SIZE = _PIPE - _PIECE.size
Send = Callable[[bytes], None]


def in_child(
    work: Callable[[], bytes], *, what: str, seconds: float = SECONDS, memory: int = MEMORY
) -> bytes:
    """What `work` returns, computed in a child process; see `pieces_from_child`."""
    pieces = pieces_from_child(lambda send: send(work()), what=what, seconds=seconds, memory=memory)
    with contextlib.closing(pieces):
        return next(pieces, b"")


def pieces_from_child(
    work: Callable[[Send], None], *, what: str, seconds: float = SECONDS, memory: int = MEMORY
) -> Generator[bytes, None, None]:
    """Yield each piece that `work` sends, as it comes; the child ends with the iteration.

    Args:
        work: is given a function that sends a piece; needs no lock that another thread may
            hold, and writes no file.
        what: what is wrong where it fails: "the file cannot be described".
        seconds: how long this process waits for pieces in all.
        memory: how many bytes it may use beyond what this process has, and send in a piece.

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
    try:
        yield from _pieces(reader, what, seconds, memory)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _pieces(reader: int, what: str, seconds: float, memory: int) -> Generator[bytes, None, None]:
    """The pieces that a child writes, waited for no longer than it may take in all."""
    ahead, left = bytearray(), seconds

    def take(size: int) -> bytes:
        nonlocal left
        while len(ahead) < size:
            start = time.monotonic()
            ready, _, _ = select.select([reader], [], [], max(0.0, left))
            left -= time.monotonic() - start
            if not ready:
                raise LimitError(what, expected="an answer in time")
            if not (more := os.read(reader, _PIPE)):
                limits = f"at most {memory // MIB} MiB of memory, {seconds:.0f} s"
                raise LimitError(what, expected=limits)
            ahead.extend(more)
        with memoryview(ahead) as held:
            taken = bytes(held[:size])
        del ahead[:size]
        return taken

    while True:
        kind, size = _PIECE.unpack(take(_PIECE.size))
        if size > memory:
            raise LimitError(what, expected=f"at most {memory} bytes of answer")
        piece = take(size)
        if kind == b"E":
            return
        if kind != b"D":
            raise _error(piece, what)
        yield piece


def _error(piece: bytes, what: str) -> SgxEnclavesError:
    """The error that a child sends, which is none of ours where hostile input has taken it over."""
    # Costs as much to import as a child takes to start, and mostly there is no error.
    import json  # noqa: PLC0415

    with contextlib.suppress(AttributeError, KeyError, RecursionError, TypeError, ValueError):
        fields = json.loads(piece)
        kind = getattr(errors, fields.pop("kind"))
        if issubclass(kind, SgxEnclavesError):
            error: SgxEnclavesError = kind(**fields)
            # Parts of other types than those of an error's have no words.
            str(error)
            return error
    return UnsupportedError(what, found="an error that is none of ours")


def _work(
    work: Callable[[Send], None], writer: int, what: str, parent: int, seconds: float, memory: int
) -> None:
    """The child's life; never returns."""

    def send(piece: bytes, kind: bytes = b"D") -> None:
        head = _PIECE.pack(kind, len(piece))
        sent = os.writev(writer, (head, piece))
        while sent < len(head) + len(piece):
            sent += os.write(writer, (head + piece)[sent:])

    try:
        end_with_parent(parent)
        # What foreign code prints about its input is not for a terminal.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        bounds = {resource.RLIMIT_AS: used + memory, resource.RLIMIT_CPU: int(seconds) + 1}
        for kind, most in {**bounds, resource.RLIMIT_CORE: 0}.items():
            # One that is lower already stays.
            limits = [most, *(limit for limit in resource.getrlimit(kind) if limit >= 0)]
            resource.setrlimit(kind, (min(limits), min(limits)))
        work(send)
        send(b"", b"E")
    except MemoryError:
        # That nothing more comes says it.
        pass
    except BaseException as error:
        import json  # noqa: PLC0415

        if not isinstance(error, SgxEnclavesError):
            error = UnsupportedError(what, found=f"{type(error).__name__}: {error}"[:200])
        send(json.dumps(error.as_dict()).encode(), b"X")
    finally:
        # No clean-up of the parent's: neither its buffers nor its exit handlers.
        os._exit(0)
