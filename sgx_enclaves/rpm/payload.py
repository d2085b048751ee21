# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a package, wherever they are: in its payload, or installed.

The payload's digests are checked before anything is unpacked, each file's while it comes. The
archive in it is read strictly: each entry must say what the header says, so that it has but one
reading, which is librpm's when the package is installed.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import hashlib
import os
import stat
import struct
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Callable, NamedTuple, Optional

from sgx_enclaves.decompress import Pieces, unpack
from sgx_enclaves.errors import (
    LimitError,
    PackageDamagedError,
    PackageError,
    UnsupportedError,
)
from sgx_enclaves.files import DigestedStream, system_errors
from sgx_enclaves.limits import DEFAULT_PACKAGE_LIMITS, MIB, PackageLimits
from sgx_enclaves.rpm.librpm import Header
from sgx_enclaves.rpm.reader import KINDS, Package, PackageFile, open_package

_PACKED = {
    **{"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"},
    **{"lzma": b"\x5d\0\0", "zstd": b"\x28\xb5\x2f\xfd"},
}
# Digests of the payload as it was packed, and with ALT behind the name of it unpacked;
# the first one's algorithm is in the header.
_DIGESTS = {"PAYLOADDIGEST": None, "PAYLOADSHA512": "sha512", "PAYLOADSHA3_256": "sha3_256"}
# What a payload may take to unpack. The rate is slower than any machine: large ones take longer.
_SECONDS, _BYTES_A_SECOND = 30.0, 16 * MIB
_CHUNK = 256 << 10
# Entries of cpio's newer form, and RPM's own, which only has the file's number in the header.
_NEWC, _STRIPPED = (b"070701", b"070702"), b"07070X"
_TRAILER = "TRAILER!!!"
# RPM ends at the trailer; others fill up a block of 512 bytes.
_PADDING = 512


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
    with opened as (package, stream), contextlib.closing(_files(package, stream)) as files:
        yield package, files


def _files(package: Package, stream: BinaryIO) -> Generator[PayloadFile, None, None]:
    yield from _Archive(package, _in_time(package, _unpacked(package, stream))).files()


def _in_time(package: Package, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, as long as unpacking them takes no more time than it may."""
    claimed = sum(file.size for file in package.files if file.is_regular)
    most = _SECONDS + min(claimed, package.limits.payload.total_size) / _BYTES_A_SECOND
    taken = 0.0
    while True:
        start = time.monotonic()
        piece = next(pieces, b"")
        taken += time.monotonic() - start
        if taken > most:
            message = "the payload takes too long to unpack"
            raise LimitError(message, file=package.file, expected=f"at most {most:.0f} s")
        if not piece:
            return
        yield piece


class _Archive:
    """The archive in a payload, of which every entry is compared with the header."""

    def __init__(self, package: Package, pieces: Iterator[bytes]) -> None:
        self._package = package
        self._stream = Pieces(pieces)
        # Names are of paths below the root, whatever they begin with.
        self._by_name = {file.path.lstrip("/"): file for file in package.files}
        self._missing = {file.index for file in package.files if not file.ghost}

    def files(self) -> Iterator[PayloadFile]:
        """The regular files, in the order of the archive."""
        links = (f for f in self._package.files if stat.S_ISLNK(f.mode) and not f.ghost)
        for link in links:
            if link.size != len(_target(link)):
                message = f"the link {link.path!r} has another size than its target"
                raise self._wrong(message, link.target)
        while (file := self._next()) is not None:
            if self._package.carries(file):
                yield from _payload_file(self._package, file, self._content(file.size))

    def _content(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self._take(min(size, _CHUNK))
            size -= len(chunk)
            yield chunk

    def _next(self) -> Optional[PackageFile]:
        """The file whose content comes next; None at the end of the archive."""
        self._take(-self._stream.offset % 4)
        magic = self._stream.read(6)
        if magic == _STRIPPED:
            (number,) = self._numbers(1)
            if number >= len(self._package.files):
                raise self._wrong("the payload has a file that the header does not list")
            file: Optional[PackageFile] = self._package.files[number]
            name, stated = self._package.files[number].path, None
        elif magic in (b"", *_NEWC):
            fields = self._numbers(13)
            name, stated = self._name(fields[11]), (fields[1], fields[6])
            if name == _TRAILER:
                self._end(fields[6])
                return None
            file = self._by_name.get(name.removeprefix("./").lstrip("/"))
        else:
            raise self._wrong("not a cpio entry where one should be in the payload", magic.hex())
        self._take(-self._stream.offset % 4)
        if file is None or file.ghost:
            # If nothing follows, not even a trailer, it is a part of one.
            self._take(1)
            raise self._wrong(f"{name!r} is not in the header, or only as a %ghost")
        if file.index not in self._missing:
            raise self._wrong(f"{file.path!r} is in the payload twice")
        self._missing.remove(file.index)
        self._compare(file, stated)
        return file

    def _name(self, size: int) -> str:
        most = self._package.limits.path_size
        if not 0 < size <= most:
            raise LimitError(
                "a name in the payload is empty or too long",
                file=self._package.file,
                expected=f"1 to {most} bytes",
                found=f"{size} bytes",
            )
        return self._take(size).partition(b"\0")[0].decode("utf-8", "surrogateescape")

    def _compare(self, file: PackageFile, stated: Optional[tuple[int, int]]) -> None:
        """Mode and size, if the entry has them, and a link's target with the header's."""
        is_link = stat.S_ISLNK(file.mode)
        expected = file.size if is_link or self._package.carries(file) else 0
        mode, size = stated or (file.mode, expected)
        if stat.S_IFMT(mode) != stat.S_IFMT(file.mode):
            raise self._differs(
                f"{file.path!r} is another kind of file", f"mode 0o{mode:o}", file.kind
            )
        if size != expected:
            what = f"{file.path!r} has another size"
            raise self._differs(what, f"{size} bytes", f"{expected} bytes")
        if is_link and (content := self._take(size)) != _target(file):
            what = f"the link {file.path!r} has another target"
            raise self._differs(what, repr(content), repr(file.target))

    def _end(self, size: int) -> None:
        """Check that the trailer is one, that no file is missing, and that nothing follows."""
        if size:
            raise self._wrong("the trailer has content")
        if self._missing:
            first = self._package.files[min(self._missing)].path
            message = f"{len(self._missing)} files are not in the payload, among them {first!r}"
            raise PackageDamagedError(message, file=self._package.file)
        self._take(-self._stream.offset % 4)
        rest = self._stream.read(_PADDING + 1)
        if len(rest) > _PADDING or rest.strip(b"\0"):
            raise self._wrong("there are bytes behind the end of the payload")

    def _numbers(self, count: int) -> tuple[int, ...]:
        """Fields of eight hexadecimal digits, where librpm would take signs and blanks for some."""
        digits = self._take(8 * count)
        try:
            return struct.unpack(f">{count}I", binascii.unhexlify(digits))
        except ValueError:
            message = "a field of a cpio entry is not a number"
            raise self._wrong(message, digits.hex()) from None

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise PackageDamagedError("the payload ends too early", file=self._package.file)
        return data

    def _differs(self, what: str, found: str, expected: str) -> PackageError:
        return self._wrong(f"{what} in the payload than in the header", found, expected)

    def _wrong(
        self, message: str, found: Optional[str] = None, expected: Optional[str] = None
    ) -> PackageError:
        return PackageError(message, file=self._package.file, expected=expected, found=found)


def _target(link: PackageFile) -> bytes:
    return link.target.encode("utf-8", "surrogateescape")


def _unpacked(package: Package, stream: BinaryIO) -> Iterator[bytes]:
    """What unpacks the payload, whose digests are right and whose form is the header's."""
    header, file, start = package.header, package.file, package.payload_start
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
    stream.seek(start)
    first = stream.read(6)
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
        stream.seek(start)
        with system_errors(file, "cannot be read", error=PackageError):
            found = DigestedStream(stream, name).digest()
        if found != pinned:
            message = "the digest of the payload is wrong"
            raise package.damaged(message, f"{name} {pinned}", found, offset=start)
    stream.seek(start)
    return unpack(stream, file, package.limits.payload, None if unpacked else compressor)


def _payload_file(
    package: Package, file: PackageFile, chunks: Iterable[bytes]
) -> Iterator[PayloadFile]:
    """The file; what nobody has read of it when the next is asked for, is read and checked."""
    group = package.hard_links.get(file.index, ())
    content = _content(package, file, chunks)
    yield PayloadFile(file, tuple(f.path for f in group if f.index != file.index), content)
    for _chunk in content:
        pass


def _content(package: Package, file: PackageFile, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks of a file; behind the last one, their digest is checked if the header has one."""
    digest = hashlib.new(package.file_algorithm, usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    found = digest.hexdigest()
    if file.digest and found != file.digest:
        raise package.damaged(f"the digest of {file.path!r} is wrong", file.digest, found)


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
        if package.carries(file):
            with _open_installed(package, file, place) as stream:
                chunks = iter(functools.partial(stream.read, MIB), b"")
                yield from _payload_file(package, file, chunks)


def _compare_installed(package: Package, file: PackageFile, place: str) -> None:
    """What is no regular file must be what the header says: a link could be a file now."""
    try:
        mode = os.lstat(place).st_mode
        kind = KINDS.get(stat.S_IFMT(mode), "")
        found = os.readlink(place) if stat.S_ISLNK(mode) else ""
    except OSError as error:
        kind, found = "", error.strerror or str(error)
    if kind != file.kind or (stat.S_ISLNK(file.mode) and found != file.target):
        raise package.damaged(
            f"{file.path!r} is not what the package installed",
            f"a {file.kind} {file.target}".rstrip(),
            f"a {kind} {found}".rstrip() if kind else found,
            hint="install the package again",
        )


def _open_installed(package: Package, file: PackageFile, place: str) -> BinaryIO:
    problem = f"{file.path!r} cannot be read"
    with system_errors(package.file, problem, error=PackageDamagedError):
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        os.close(handle)
        message = f"{file.path!r} has another size than the header says"
        found = f"{status.st_size} bytes"
        raise package.damaged(message, f"a file of {file.size} bytes", found)
    return os.fdopen(handle, "rb")
