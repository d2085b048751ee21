# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a package, wherever they are: in its payload, or installed.

librpm reads the archive in the payload, in a child process with limits on memory and
time. Its digests are checked before anything is unpacked, each file's while it comes.
What librpm passes over is compared here: for every entry, that kind, size and link
target are what the header says, that it comes once, and that nothing follows the last.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import os
import stat
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO, Callable, Optional

from sgx_enclaves.child import SECONDS, Send, pieces_from_child
from sgx_enclaves.decompress import BoundedReader
from sgx_enclaves.errors import (
    LimitError,
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import MIB
from sgx_enclaves.rpm.reader import (
    DEFAULT_PACKAGE_LIMITS,
    KINDS,
    FileKind,
    Header,
    Package,
    PackageFile,
    PackageLimits,
    librpm,
    open_package,
    truncated,
)

_PACKED = {
    **{"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"},
    **{"lzma": b"\x5d\0\0", "zstd": b"\x28\xb5\x2f\xfd"},
}
# Digests of the payload as it was packed, and with ALT behind the name of it unpacked;
# the first one's algorithm is in the header.
_DIGESTS = {"PAYLOADDIGEST": None, "PAYLOADSHA512": "sha512", "PAYLOADSHA3_256": "sha3_256"}
_CHUNK = 32 << 10
# Slower than any machine unpacks; a large package may take longer than a small one.
_BYTES_A_SECOND = 16 * MIB
# What librpm may read for an entry before its content: padding, fields, name, link target.
_ENTRY_MOST = 3 + 110 + 4096 + 3 + 4096 + 3
_STRIPPED = b"07070X"
_NEWC = (b"070701", b"070702")
_TRAILER = b"TRAILER!!!\0"
# RPM ends at the trailer; others fill up a block of 512 bytes.
_PADDING = 512
_FILE_HEAD = struct.Struct(">I?")


class PayloadFile:
    """One file that comes with a package.

    Attributes:
        file: what the header says about it.
        is_linked: whether it has other paths.
        has_content: False for an empty file, a link, a folder, and for all but
            one of several hard links.
    """

    def __init__(
        self,
        file: PackageFile,
        group: tuple[PackageFile, ...],
        content: Iterator[bytes],
        has_content: bool,
    ) -> None:
        self.file = file
        self.is_linked = len(group) > 1
        self.has_content = has_content
        self._group = group
        self._content = content

    @property
    def links(self) -> tuple[PackageFile, ...]:
        """The other paths of the same hard-linked file.

        Made when asked for: of a hundred thousand links, one has to know all others.
        """
        return tuple(f for f in self._group if f.index != self.file.index)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, once; the digest is checked behind the last one.

        Raises:
            PackageDamagedError: other bytes than the header says.
        """
        return self._content


Contents = tuple[Package, Iterator[PayloadFile]]
# Opens a package by its path; what it yields is good until the context ends.
Opener = Callable[[str, PackageLimits], AbstractContextManager[Contents]]


@contextmanager
def packed(path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS) -> Iterator[Contents]:
    """The contents of a package file.

    Raises:
        SgxEnclavesError: see `open_package` and `read_payload`.
    """
    with open_package(path, limits) as (package, stream):
        files = read_payload(package, stream)
        with contextlib.closing(files):
            yield package, files


def read_payload(package: Package, stream: BinaryIO) -> Generator[PayloadFile, None, None]:
    """Yield the payload's files in its order; what is not read is read and checked here.

    The payload is right only when the iteration ends.

    Args:
        package: from `open_package`.
        stream: of it; where it stands does not matter.

    Raises:
        PackageError: malformed, or not what the header says.
        PackageDamagedError: truncated, or a digest is wrong.
        ArchiveError: the compressed data is broken.
        LimitError: it unpacks to more than it may, or takes too much memory or time.
        UnsupportedError: a compression or format that cannot be read.
    """
    compressor = _check_payload(package, stream)
    stream.seek(package.payload_start)
    reader = BoundedReader(stream, package.file, package.limits.payload, compressor)
    groups = package.hard_links
    claimed = sum(file.size for file in files_with_content(package))
    pieces = pieces_from_child(
        lambda send: _Unpacker(package, reader).run(send),
        what=f"{package.file}: the payload cannot be read",
        seconds=SECONDS + min(claimed, package.limits.payload.total_size) / _BYTES_A_SECOND,
    )
    with contextlib.closing(pieces):
        while head := _next(package, pieces):
            index, has_content = _FILE_HEAD.unpack(head)
            file = package.files[index]
            chunks = _sized(package, pieces, file.size if has_content else 0)
            # Of hard links one has the content; files without any have a digest too.
            own = has_content or (file.kind is FileKind.FILE and index not in groups)
            content = _verified(package, file, file.digest if own else "", chunks)
            yield PayloadFile(file, groups.get(index, ()), content, has_content and file.size > 0)
            for _chunk in content:
                pass


def _next(package: Package, pieces: Iterator[bytes]) -> bytes:
    """The next piece; an empty one is the end, which who passes over an error does not get."""
    piece = next(pieces, None)
    if piece is None:
        raise PackageError("the payload was not read to its end", file=package.file)
    return piece


def _sized(package: Package, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        piece = _next(package, pieces)
        size -= len(piece)
        yield piece


def _check_payload(package: Package, stream: BinaryIO) -> Optional[str]:
    """Compare the payload with every digest of it, and its form with the header's words.

    Returns:
        What it is compressed with; None when it is not.
    """
    header = package.header
    form = header.one("PAYLOADFORMAT", str) or "cpio"
    if form != "cpio":
        raise UnsupportedError(f"the payload is of format {form!r}", file=package.file)
    compressor = header.one("PAYLOADCOMPRESSOR", str)
    if compressor is not None and compressor not in _PACKED:
        raise UnsupportedError(
            f"the payload is compressed with {compressor}",
            file=package.file,
            expected="gzip, bzip2, xz, lzma or zstd",
            hint="rebuild the package with another _binary_payload",
        )
    stream.seek(package.payload_start)
    start = stream.read(6)
    # V6 allows that a payload is left unpacked: then the digests of the unpacked one count.
    unpacked = (
        compressor is not None and start.startswith(b"07070") and "PAYLOADDIGESTALT" in header
    )
    if compressor is not None and not unpacked and not start.startswith(_PACKED[compressor]):
        raise PackageError(
            f"the payload is not compressed with {compressor}, as the header says",
            file=package.file,
            offset=package.payload_start,
            expected=_PACKED[compressor].hex(),
            found=start.hex() or "nothing",
        )
    pins = []
    for tag, algorithm in _DIGESTS.items():
        pinned = header.one(f"{tag}ALT" if unpacked else tag, str)
        if pinned is not None:
            number = header.one("PAYLOADDIGESTALGO", int) or 8
            name = algorithm or package.algorithm(number, "payload digests")
            pins.append((pinned, hashlib.new(name, usedforsecurity=False)))
    size = _hash_payload(package, stream, [digest for _pinned, digest in pins])
    expected = package.unpacked_size if unpacked else package.payload_size
    if expected is not None and size != expected:
        end = package.payload_start
        raise truncated(package.file, end + expected, end + size)
    for pinned, digest in pins:
        if digest.hexdigest() != pinned:
            raise PackageDamagedError(
                "the digest of the payload is wrong",
                file=package.file,
                offset=package.payload_start,
                expected=f"{digest.name} {pinned}",
                found=digest.hexdigest(),
                hint="get the package again",
            )
    return None if unpacked else compressor


def _hash_payload(package: Package, stream: BinaryIO, digests: list[Any]) -> int:
    """Bytes of the payload, hashed."""
    stream.seek(package.payload_start)
    size = 0
    try:
        while chunk := stream.read(MIB):
            size += len(chunk)
            for digest in digests:
                digest.update(chunk)
    except OSError as error:
        raise PackageError(
            f"cannot be read: {error.strerror or error}",
            file=package.file,
            offset=package.payload_start + size,
        ) from None
    return size


class _Feed:
    """Unpacked bytes in a pipe, from which librpm reads; as many as it is about to read.

    So they can be looked at, and neither side ever waits.
    """

    def __init__(self, reader: BoundedReader) -> None:
        self.outlet, self._inlet = os.pipe()
        # Where the system has small pipes, fail instead of waiting.
        os.set_blocking(self._inlet, False)
        self._reader = reader
        self._ahead = bytearray()
        self._position = 0
        self.ended = False

    def ensure(self, size: int) -> None:
        """Have so many bytes ready, or all there are."""
        missing = size - len(self._ahead)
        if missing <= 0 or self.ended:
            return
        data = self._reader.read(missing)
        if os.write(self._inlet, data) != len(data):
            raise OSError("a pipe of this system is too small")
        self._ahead += data
        if len(data) < missing:
            self.ended = True
            os.close(self._inlet)

    def taken(self, position: int) -> bytes:
        """What was read since the last time, to this position in the archive."""
        size = position - self._position
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        self._position = position
        return data

    def peek(self) -> bytes:
        """What is ready and was not taken yet."""
        return bytes(self._ahead)

    def is_at_end(self, position: int) -> bool:
        """Whether there is nothing behind this position in the archive."""
        return self.ended and position >= self._position + len(self._ahead)

    def rest(self) -> bytes:
        """What follows, so much of it as shows whether it is padding."""
        return bytes(self._ahead) + self._reader.read(_PADDING + 1)


class _Unpacker:
    """Reads the archive in a payload; runs in the child."""

    def __init__(self, package: Package, reader: BoundedReader) -> None:
        self._package = package
        self._feed = _Feed(reader)
        self._missing = {f.index: f for f in package.files if not f.ghost}
        # What librpm has to say goes into errors, not to the terminal.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for file in self._missing.values():
            if file.kind is FileKind.SYMLINK and file.size != len(_target(file)):
                raise self._wrong(
                    f"the link {file.path!r} has another size than its target", file.target
                )
        try:
            files = librpm().files(package.header.parsed)
            self._archive = files.archive(librpm().fd(self._feed.outlet, "r", "ufdio"))
        except (ValueError, OSError, librpm().error) as error:
            raise self._wrong("librpm refuses the file list", str(error)) from None

    def run(self, send: Send) -> None:
        """Send the head of each file, then its content; see `_FILE_HEAD`."""
        position = 0
        while True:
            self._feed.ensure(_ENTRY_MOST)
            padding = -position % 4
            try:
                found = next(self._archive, None)
            except (OSError, librpm().error) as error:
                raise self._failed(error, padding) from None
            raw = self._feed.taken(self._archive.tell())[padding:]
            if found is None:
                self._end(raw)
                send(b"")
                return
            file = self._admit(found.fx)
            has_content = bool(self._archive.hascontent())
            self._compare(file, raw, file.size if has_content else 0)
            send(_FILE_HEAD.pack(file.index, has_content))
            left = file.size if has_content else 0
            while left > 0:
                self._feed.ensure(min(left, _CHUNK))
                chunk = self._archive.read(min(left, _CHUNK))
                self._feed.taken(self._archive.tell())
                if not chunk:
                    raise self._too_early()
                left -= len(chunk)
                send(chunk)
            position = self._archive.tell()

    def _admit(self, index: int) -> PackageFile:
        file = self._missing.pop(index, None)
        if file is None:
            path = self._package.files[index].path
            raise self._wrong(f"{path!r} is in the payload twice")
        return file

    def _compare(self, file: PackageFile, raw: bytes, size: int) -> None:
        """What the archive says of a file, beside its number or name, with the header."""
        if file.kind is FileKind.SYMLINK:
            size = file.size
            content = raw[len(raw) - size :]
            if content != _target(file):
                raise self._wrong(
                    f"the link {file.path!r} has another target in the payload than in the header",
                    repr(content),
                    repr(file.target),
                )
        if raw.startswith(_STRIPPED):
            return
        mode, stated = self._field(raw, 1), self._field(raw, 6)
        if KINDS.get(stat.S_IFMT(mode)) is not file.kind:
            raise self._wrong(
                f"{file.path!r} is another kind of file in the payload than in the header",
                f"mode 0o{mode:o}",
                file.kind.value,
            )
        if stated != size:
            raise self._wrong(
                f"{file.path!r} has another size in the payload than in the header",
                f"{stated} bytes",
                f"{size} bytes",
            )

    def _end(self, raw: bytes) -> None:
        self._check_trailer(raw)
        rest = self._feed.rest()
        if len(rest) > _PADDING or rest.strip(b"\0"):
            raise self._wrong("there are bytes behind the end of the payload")

    def _check_trailer(self, raw: bytes) -> None:
        if raw.startswith(_STRIPPED) or self._field(raw, 6):
            raise self._wrong("the trailer has content")
        if self._missing:
            raise self._not_there()

    def _field(self, raw: bytes, number: int) -> int:
        """A field of a `newc` entry, where librpm would take signs and blanks for digits."""
        self._hexadecimal(raw[6:110])
        return int(raw[6 + 8 * number : 14 + 8 * number], 16)

    def _hexadecimal(self, digits: bytes) -> None:
        try:
            binascii.unhexlify(digits)
        except ValueError:
            message = "a field of a cpio entry is not a number"
            raise self._wrong(message, digits.hex()) from None

    def _failed(self, error: Exception, padding: int) -> SgxEnclavesError:
        """What is wrong where librpm does not read on."""
        raw = self._feed.peek()[padding:]
        if raw.startswith(_STRIPPED):
            self._hexadecimal(raw[6:14])
            return self._wrong("the payload has a file that the header does not list")
        if raw[:6] not in (b"", *_NEWC):
            return self._wrong("not a cpio entry where one should be in the payload", raw[:6].hex())
        if len(raw) < 110:
            return self._too_early()
        size = self._field(raw, 11)
        if not 0 < size <= self._package.limits.path_size:
            return LimitError(
                "a name in the payload is empty or too long",
                file=self._package.file,
                expected=f"1 to {self._package.limits.path_size} bytes",
                found=f"{size} bytes",
            )
        name = raw[110 : 110 + size]
        if name == _TRAILER:
            self._check_trailer(raw)
        if self._feed.is_at_end(self._archive.tell()):
            return self._too_early()
        path = name.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return self._wrong(f"{path!r} is not in the header, or only as a %ghost", str(error))

    def _not_there(self) -> PackageError:
        first = self._missing[min(self._missing)].path
        return PackageDamagedError(
            f"{len(self._missing)} files are not in the payload, among them {first!r}",
            file=self._package.file,
            hint="get the package again",
        )

    def _too_early(self) -> PackageError:
        return PackageDamagedError(
            "the payload ends too early", file=self._package.file, hint="get the package again"
        )

    def _wrong(
        self, message: str, found: Optional[str] = None, expected: Optional[str] = None
    ) -> PackageError:
        return PackageError(message, file=self._package.file, expected=expected, found=found)


def _target(file: PackageFile) -> bytes:
    return file.target.encode("utf-8", "surrogateescape")


def _verified(
    package: Package, file: PackageFile, pinned: str, chunks: Iterable[bytes]
) -> Iterator[bytes]:
    """The chunks of a file; behind the last one, their digest is checked unless it is empty."""
    digest = hashlib.new(package.file_algorithm, usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if pinned and digest.hexdigest() != pinned:
        raise PackageDamagedError(
            f"the digest of {file.path!r} is wrong",
            file=package.file,
            expected=pinned,
            found=digest.hexdigest(),
            hint="get the package again",
        )


class Installed:
    """Opens an installed package.

    Args:
        header: the package's header as the RPM database has it.
        root: where it is installed.
    """

    def __init__(self, header: bytes, root: str = "/") -> None:
        self._header = header
        self._root = root

    @contextmanager
    def __call__(
        self, path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
    ) -> Iterator[Contents]:
        """See `Opener`; `path` is only what to call the package.

        Raises:
            PackageError: the header contradicts itself.
            PackageDamagedError: a file is missing, or other than the header says.
        """
        package = Package(Header(path, 0, self._header, limits), limits)
        yield package, self._files(package)

    def _files(self, package: Package) -> Iterator[PayloadFile]:
        groups = package.hard_links
        for file in package.files:
            if file.kind is not FileKind.FILE:
                self._compare(package, file)
        for file in files_with_content(package):
            group = groups.get(file.index, ())
            if group and group[-1].index != file.index:
                continue
            place = self._place(file)
            with _open_installed(package, file, place) as stream:
                content = _verified(package, file, file.digest, iter(_reading(stream), b""))
                yield PayloadFile(file, group, content, bool(file.size))
                for _chunk in content:
                    pass

    def _place(self, file: PackageFile) -> str:
        return os.path.join(self._root, file.path.lstrip("/"))

    def _compare(self, package: Package, file: PackageFile) -> None:
        """What is no regular file must be what the header says: a link could be a file now."""
        place = self._place(file)
        if file.ghost:
            return
        try:
            kind = KINDS.get(stat.S_IFMT(os.lstat(place).st_mode))
            found = os.readlink(place) if kind is FileKind.SYMLINK else ""
        except OSError as error:
            kind, found = None, error.strerror or str(error)
        if kind is not file.kind or (kind is FileKind.SYMLINK and found != file.target):
            raise PackageDamagedError(
                f"{file.path!r} is not what the package installed",
                file=package.file,
                expected=f"a {file.kind.value} {file.target}".rstrip(),
                found=f"a {kind.value} {found}".rstrip() if kind else found,
                hint="install the package again",
            )


def _reading(stream: BinaryIO) -> Callable[[], bytes]:
    return lambda: stream.read(MIB)


def files_with_content(package: Package) -> Iterator[PackageFile]:
    """The regular files of a package that come with it."""
    return (f for f in package.files if f.kind is FileKind.FILE and not f.ghost)


def _open_installed(package: Package, file: PackageFile, place: str) -> BinaryIO:
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise PackageDamagedError(
            f"{file.path!r} cannot be read: {error.strerror or error}",
            file=package.file,
            hint="get the package again",
        ) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
        os.close(handle)
        raise PackageDamagedError(
            f"{file.path!r} has another size than the header says",
            file=package.file,
            expected=f"a file of {file.size} bytes",
            found=f"{status.st_size} bytes",
            hint="get the package again",
        )
    return os.fdopen(handle, "rb")
