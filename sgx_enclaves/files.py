# SPDX-License-Identifier: GPL-2.0-or-later
"""Read files whole but bounded, and write them whole or not at all.

Worker processes that do not outlive the program that started them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from sgx_enclaves.errors import InputError, LimitError

_READ_CHUNK = 1 << 16


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file or pipe, once.

    Args:
        path: the file.
        limit: the most bytes to read.

    Raises:
        InputError: it cannot be read.
        LimitError: there is more than `limit` bytes.
    """
    try:
        with open(path, "rb") as stream:
            # Asked for the limit at once, Python would reserve that much.
            step = os.fstat(stream.fileno()).st_size + _READ_CHUNK
            parts = []
            left = limit + 1
            while left > 0:
                part = stream.read(min(left, step))
                if not part:
                    break
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}", file=path, hint="check path and rights"
        ) from None
    if len(data) > limit:
        raise LimitError("the file is too large", file=path, expected=f"at most {limit} bytes")
    return data


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; it may be there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder cannot be made: {error.strerror or error}",
            file=str(folder),
            hint="name another folder",
        ) from None


def write_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` with `data` atomically: readers see the old file or the new one.

    Raises:
        InputError: it cannot be written; nothing is left behind.
    """
    import tempfile  # noqa: PLC0415  (needed only to write, and slow to import)

    target = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise InputError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            hint="check the folder, its rights and the space left",
        ) from None


# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_INIT = 1


def end_with_parent() -> None:
    """Make this process end when its parent does, by whatever it is killed.

    An initializer for process pools: a worker otherwise waits for work for ever
    when its parent gets SIGKILL, since it holds the other end of the queue itself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == _INIT:
        # The parent was gone before it could be watched.
        os._exit(0)
