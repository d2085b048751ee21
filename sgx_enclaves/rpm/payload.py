# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a package, wherever they are: in its payload, or installed.

The payload is unpacked in a child process with limits on memory and time (`librpm.py`).
Its digests are checked before anything is unpacked, each file's while it comes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Callable, NamedTuple

from sgx_enclaves.child import SECONDS, Send, pieces_from_child
from sgx_enclaves.decompress import unpack
from sgx_enclaves.errors import (
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.files import PACKED, DigestedStream, system_errors
from sgx_enclaves.limits import DEFAULT_PACKAGE_LIMITS, MIB, PackageLimits
from sgx_enclaves.rpm.librpm import FILE_HEAD, KINDS, Header, PackageFile, Unpacker
from sgx_enclaves.rpm.reader import Package, open_package

_PACKED = {**PACKED, "bzip2": b"BZh", "lzma": b"\x5d\0\0"}
# Digests of the payload as it was packed, and with ALT behind the name of it unpacked;
# the first one's algorithm is in the header.
_DIGESTS = {"PAYLOADDIGEST": None, "PAYLOADSHA512": "sha512", "PAYLOADSHA3_256": "sha3_256"}
# Slower than any machine unpacks; a large package may take longer than a small one.
_BYTES_A_SECOND = 16 * MIB
# Packages that one child unpacks: they are open all the time.
_TOGETHER = 16


class PayloadFile(NamedTuple):
    """A regular file that comes with a package, and the paths of the hard links to it.

    The chunks are its bytes, once; the digest is checked behind the last one.
    """

    file: PackageFile
    links: tuple[str, ...]
    chunks: Iterator[bytes]


Contents = tuple[Package, Iterator[PayloadFile]]
# Opens a package by its path; what it yields is good until the context ends.
Opener = Callable[[str], AbstractContextManager[Contents]]


@contextmanager
def packed(path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS) -> Iterator[Contents]:
    """A package file, and its regular files in the payload's order; see `open_package`.

    What is not read of them is read and checked here; the payload is right only when the
    iteration ends.

    Raises:
        PackageError: malformed, or not what the header says.
        PackageDamagedError: truncated, or a digest is wrong.
        ArchiveError: the compressed data is broken.
        LimitError: it unpacks to more than it may, or takes too much memory or time.
        UnsupportedError: a compression or format that cannot be read.
    """
    opened = open_package(path, limits)
    with opened as (package, stream), contextlib.closing(_alone(package, stream)) as files:
        yield package, files


def _alone(package: Package, stream: BinaryIO) -> Generator[PayloadFile, None, None]:
    with contextlib.closing(_pieces([_payload(package, stream)])) as pieces:
        yield from _files(package, pieces)


# A package, the seconds that unpacking it may take, and what unpacks it.
_Payload = tuple[Package, float, Iterator[bytes]]


def _pieces(payloads: Sequence[_Payload]) -> Generator[bytes, None, None]:
    """What a child sends of each payload in turn; an empty piece ends each."""

    def work(send: Send) -> None:
        for package, _, archive in payloads:
            Unpacker(package, archive).run(send)

    what = f"{payloads[0][0].file}: the payload cannot be read"
    seconds = SECONDS + sum(seconds for _, seconds, _ in payloads)
    return pieces_from_child(work, what=what, seconds=seconds)


def _files(package: Package, pieces: Iterator[bytes]) -> Iterator[PayloadFile]:
    def read() -> bytes:
        """The next piece; an empty one is the end, which who passes over an error does not get."""
        piece = next(pieces, None)
        if piece is None:
            raise PackageError("the payload was not read to its end", file=package.file)
        return piece

    groups = package.hard_links
    while head := read():
        index, has_content = FILE_HEAD.unpack(head)
        file = package.files[index]
        # Of hard links one has the content; files without any have a digest too.
        if has_content or (file.is_regular and index not in groups):
            yield from _payload_file(package, file, file.size if has_content else 0, read)


class SharedOpener(contextlib.ExitStack):
    """An `Opener` of packages whose payloads one child process unpacks, in the order of `plan`.

    A child costs as much as a payload of some megabytes. What is read in another order, or
    behind a payload that could not be read, gets a child of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[str, tuple[Package, BinaryIO]] = {}
        self._queue: list[str] = []
        self._pieces: Generator[bytes, None, None]

    def plan(self, paths: Iterable[str]) -> None:
        """In which order payloads are going to be read, of packages that were opened before."""
        payloads = {}
        for path in paths:
            # Without the packages whose payload is damaged.
            with contextlib.suppress(KeyError, SgxEnclavesError):
                payloads[path] = _payload(*self._opened[path])
        if payloads:
            self._queue = list(payloads)
            self._pieces = self.enter_context(contextlib.closing(_pieces([*payloads.values()])))

    @contextmanager
    def __call__(self, path: str) -> Iterator[Contents]:
        """See `packed`; the first packages stay open until `close`."""
        if path not in self._opened and len(self._opened) < _TOGETHER:
            self._opened[path] = self.enter_context(open_package(path))
        if path not in self._opened:
            with packed(path) as contents:
                yield contents
            return
        package, stream = self._opened[path]
        members = self._next(package) if path in self._queue[:1] else _alone(package, stream)
        with contextlib.closing(members) as files:
            yield package, files

    def _next(self, package: Package) -> Generator[PayloadFile, None, None]:
        del self._queue[0]
        try:
            yield from _files(package, self._pieces)
        except BaseException:
            self._pieces.close()
            self._queue = []
            raise


class _Source:
    """The packed bytes; the position is its own, since parent and child share the file's."""

    def __init__(self, handle: int, position: int) -> None:
        self._handle = handle
        self._position = position

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._handle, size, self._position)
        self._position += len(data)
        return data


def _payload(package: Package, stream: BinaryIO) -> _Payload:
    """The payload, whose digests are right and whose form is the header's."""
    header, file, start = package.header, package.file, package.header.end
    form = header.one("PAYLOADFORMAT", str) or "cpio"
    if form != "cpio":
        hint = "build the package again: rpmbuild makes cpio"
        message = f"the payload is of format {form!r}"
        raise UnsupportedError(message, file=file, expected="cpio", hint=hint)
    compressor = header.one("PAYLOADCOMPRESSOR", str)
    if compressor not in (None, *_PACKED):
        raise UnsupportedError(
            f"the payload is compressed with {compressor}",
            file=file,
            expected="gzip, bzip2, xz, lzma or zstd",
            hint="rebuild the package with another _binary_payload",
        )
    first = os.pread(stream.fileno(), 6, start)
    # V6 allows that a payload is left unpacked: then the digests of the unpacked one count.
    unpacked = first.startswith(b"07070") and "PAYLOADDIGESTALT" in header and bool(compressor)
    if compressor and not unpacked and not first.startswith(_PACKED[compressor]):
        raise PackageError(
            f"the payload is not compressed with {compressor}, as the header says",
            file=file,
            offset=start,
            expected=_PACKED[compressor].hex(),
            found=first.hex() or "nothing",
        )
    for tag, algorithm in _DIGESTS.items():
        pinned = header.one(f"{tag}ALT" if unpacked else tag, str)
        if pinned is None:
            continue
        number = header.one("PAYLOADDIGESTALGO", int) or 8
        name = algorithm or package.algorithm(number, "payload digests")
        with system_errors(file, "cannot be read", error=PackageError):
            found = DigestedStream(_Source(stream.fileno(), start), name).digest()
        if found != pinned:
            message = "the digest of the payload is wrong"
            raise header.damaged(message, f"{name} {pinned}", found, offset=start)
    limits, source = package.limits.payload, _Source(stream.fileno(), start)
    pieces = unpack(source, file, limits, None if unpacked else compressor)
    claimed = sum(file.size for file in package.files if file.is_regular)
    return package, min(claimed, limits.total_size) / _BYTES_A_SECOND, pieces


def _payload_file(
    package: Package, file: PackageFile, size: int, read: Callable[[], bytes]
) -> Iterator[PayloadFile]:
    """The file; what nobody has read of it when the next is asked for, is read and checked."""
    group = package.hard_links.get(file.index, ())
    content = _content(package, file, size, read)
    yield PayloadFile(file, tuple(f.path for f in group if f.index != file.index), content)
    for _chunk in content:
        pass


def _content(
    package: Package, file: PackageFile, size: int, read: Callable[[], bytes]
) -> Iterator[bytes]:
    """The chunks of a file; behind the last one, their digest is checked if the header has one."""
    digest = hashlib.new(package.file_algorithm, usedforsecurity=False)
    while size > 0 and (chunk := read()):
        size -= len(chunk)
        digest.update(chunk)
        yield chunk
    found = digest.hexdigest()
    if file.digest and found != file.digest:
        raise package.header.damaged(f"the digest of {file.path!r} is wrong", file.digest, found)


@contextmanager
def installed(header: bytes, path: str, root: str = "/") -> Iterator[Contents]:
    """The contents of an installed package, called `path`, by its header in the RPM database."""
    parsed = Header(path, 0, header, DEFAULT_PACKAGE_LIMITS)
    # Of a relocated package, rpm has written the paths again, and nobody has signed those.
    package = Package(parsed, None if parsed.has_tags_twice else parsed)
    yield package, _installed_files(package, root)


def _installed_files(package: Package, root: str) -> Iterator[PayloadFile]:
    files = [(file, os.path.join(root, file.path.lstrip("/"))) for file in package.files]
    for file, place in files:
        if not (file.ghost or file.is_regular):
            _compare_installed(package, file, place)
    for file, place in files:
        group = package.hard_links.get(file.index, (file,))
        if not file.is_regular or group[-1].index != file.index:
            continue
        problem = f"{file.path!r} cannot be read"
        with system_errors(package.file, problem, error=PackageDamagedError):
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            os.close(handle)
            message = f"{file.path!r} has another size than the header says"
            found = f"{status.st_size} bytes"
            raise package.header.damaged(message, f"a file of {file.size} bytes", found)
        with os.fdopen(handle, "rb") as stream:
            read = functools.partial(stream.read, MIB)
            yield from _payload_file(package, file, file.size, read)


def _compare_installed(package: Package, file: PackageFile, place: str) -> None:
    """What is no regular file must be what the header says: a link could be a file now."""
    expected = f"a {file.kind}" + (f" {file.target}" if stat.S_ISLNK(file.mode) else "")
    try:
        mode = os.lstat(place).st_mode
        target = f" {os.readlink(place)}" if stat.S_ISLNK(mode) else ""
        found = f"a {KINDS[stat.S_IFMT(mode)]}{target}"
    except OSError as error:
        found = error.strerror or str(error)
    if found != expected:
        message = f"{file.path!r} is not what the package installed"
        raise package.header.damaged(message, expected, found, hint="install the package again")
