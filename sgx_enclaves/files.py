# SPDX-License-Identifier: GPL-2.0-or-later
"""Files and directories: read bounded, written whole or not at all, locked, digested; and processes
that do not outlive the one that started them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Callable, NamedTuple, Optional, Protocol

from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError

_READ_CHUNK = 1 << 16
_DIGEST_CHUNK = 1 << 20
_LOCK_POLL = 0.1


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file, or of standard input where the path is `-`: an InputError if
    it cannot be read, a LimitError if it has more than `limit` bytes.
    """
    parts, left = [], limit + 1
    reading = system_errors(path, "cannot be read", hint="check path and rights")
    with reading, open_regular(path) if path != "-" else open(0, "rb", closefd=False) as stream:
        # Asked for the limit at once, Python would reserve that much.
        step = os.fstat(stream.fileno()).st_size + _READ_CHUNK
        while left > 0 and (part := stream.read(min(left, step))):
            parts.append(part)
            left -= len(part)
    if left <= 0:
        raise LimitError("the file is too large", file=path, expected=f"at most {limit} bytes")
    return b"".join(parts)


# How packed files begin, and others that people take for one another.
PACKED = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
_BEGINNINGS = {
    b"\xed\xab\xee\xdb": "an RPM package",
    b"\x7fELF": "an ELF file, such as an enclave",
    b"-----BEGIN ": "a PEM file",
    b"<": "an XML file",
    b"PK\3\4": "a zip archive",
    **{beginning: f"a file packed with {kind}" for kind, beginning in PACKED.items()},
}


def kind_of(start: bytes) -> str:
    """What a file is that begins so, in words; its first four bytes where that is not known."""
    for beginning, kind in _BEGINNINGS.items():
        if start.startswith(beginning):
            return kind
    return start[:4].hex() or "an empty file"


def open_regular(path: str) -> BinaryIO:
    """Open a regular file; what has no end, or no writer for ever, is an InputError at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        # Python says of a directory what it is.
        return open(descriptor, "rb")
    os.close(descriptor)
    raise InputError("no regular file", file=path, hint="name a file, or - for standard input")


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a directory and those above it; it may be there."""
    with system_errors(str(folder), "the directory cannot be made", hint="name another directory"):
        folder.mkdir(mode, parents=True, exist_ok=True)


def write_file(path: str, data: bytes, mode: int = 0o666) -> None:
    """Replace `path`, in a directory that is there, with `data` atomically: readers see the old
    file or the new one. The umask takes away of the mode; after an InputError nothing is left.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}")
    with system_errors(path, "cannot be written", hint="check the directory and its rights"):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, by name, into a directory, which is made."""
    make_folder(folder)
    for name, data in files.items():
        write_file(str(folder / name), data)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def system_errors(
    file: str,
    problem: str,
    *,
    error: type[SgxEnclavesError] = InputError,
    hint: Optional[str] = None,
) -> Iterator[None]:
    """Turn what the system refuses into an error of ours, `PROBLEM: REASON`."""
    try:
        yield
    except OSError as refused:
        if refused.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"make room, or {hint}" if hint else "make room"
        raise error(f"{problem}: {refused.strerror or refused}", file=file, hint=hint) from None


@contextlib.contextmanager
def locked(
    path: Path,
    timeout: float,
    *,
    opening: Optional[AbstractContextManager[object]] = None,
    error: type[SgxEnclavesError] = InputError,
    waiting: Optional[Callable[[], None]] = None,
) -> Iterator[None]:
    """Hold an exclusive lock; the kernel releases it when the process ends, however.

    Its file is made, with its directory, inside `opening`, such as `system_errors`. Another process
    is waited for so many seconds, then `error` is raised; if one must be, `waiting` is called once.
    """
    with opening or contextlib.nullcontext():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if waiting is not None:
                waiting()
                waiting = None
            if time.monotonic() >= deadline:
                problem = f"another process has held this lock for {timeout:.0f} s"
                raise error(problem, file=str(path), hint="wait for it or end it")
            time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)


def sha256_of(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path, kind: str = "sha256") -> str:
    """The file's digest in hexadecimal."""
    with path.open("rb") as file:
        return DigestedStream(file, kind).digest()


class Readable(Protocol):
    """What is needed of a stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""


class DigestedStream:
    """A stream whose bytes are digested as they are read; `shown` is called with their number."""

    def __init__(
        self, stream: Readable, algorithm: str = "sha256", shown: Callable[[int], object] = int
    ) -> None:
        self._stream, self._shown, self._done = stream, shown, 0
        self._hash = hashlib.new(algorithm, usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        """The next bytes; empty at the end."""
        data = self._stream.read(size)
        self._hash.update(data)
        self._done += len(data)
        self._shown(self._done)
        return data

    def digest(self) -> str:
        """The digest of the whole stream, of which the rest is read now."""
        while self.read(_DIGEST_CHUNK):
            pass
        return self._hash.hexdigest()


DIRECTORY, FILE, PROGRAM, LINK = "d", "f", "x", "l"


class Entry(NamedTuple):
    """One thing in a tree, by its path below the root, `/` between its parts.

    The kinds are `d` directory, `f` file, `x` file that its owner may execute, `l` symbolic link.
    The value of a file is its SHA-256 in lower-case hexadecimal, of a link its target, of a
    directory nothing.
    """

    kind: str
    path: str
    value: str


def tree_entries(root: Path) -> list[Entry]:
    """What a directory holds."""
    paths = (Path(top, n) for top, folders, files in walk(str(root)) for n in (*folders, *files))
    return [_entry(path, _as_utf8(str(path.relative_to(root)))) for path in paths]


def walk(root: str, hint: Optional[str] = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, but a directory that cannot be read is an error."""

    def refuse(problem: OSError) -> None:
        with system_errors(str(problem.filename), "cannot be read", hint=hint):
            raise problem

    yield from os.walk(root, onerror=refuse)


def _as_utf8(name: str) -> str:
    """A name as UTF-8 reads it, so that a tree's digest is the same in every locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _entry(path: Path, name: str) -> Entry:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Entry(LINK, name, _as_utf8(os.readlink(path)))
    if stat.S_ISDIR(mode):
        return Entry(DIRECTORY, name, "")
    if stat.S_ISREG(mode):
        return Entry(PROGRAM if mode & stat.S_IXUSR else FILE, name, digest_file(path))
    message = "neither a file, a directory nor a link"
    raise InputError(message, file=str(path), hint="take it out of the tree")


def digest_entries(entries: Iterable[Entry]) -> str:
    """SHA-256 in hexadecimal over a tree's entries, in the order of their paths' bytes.

    Each is three fields, kind, path and value, and each field ends with a zero byte, which none of
    them can hold. So a tree has one digest, in a directory or an archive (docs/releases.md).
    """
    fields = ([part.encode("utf-8", "surrogateescape") for part in entry] for entry in entries)
    ordered = sorted(fields, key=lambda entry: entry[1])
    return sha256_of(b"".join(part + b"\0" for entry in ordered for part in entry))


# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_INIT = 1


def can_have_workers() -> bool:
    """Whether processes can wait for each other here: that takes shared memory, /dev/shm."""
    import multiprocessing  # noqa: PLC0415

    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


def end_with_parent(parent: Optional[int] = None) -> None:
    """Make this process end when its parent does, by whatever that is killed.

    Without a process id, the parent is any but the first process of all. A worker of a process
    pool would wait for work for ever, since it holds the other end of the queue itself.
    """
    # Takes time that a comparison would notice.
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == _INIT if parent is None else os.getppid() != parent:
        # The parent was gone before it could be watched.
        os._exit(0)
