# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a package's payload, streamed and held against the header.

Every file's size, kind, link target and digest must be what the header says,
each file must come exactly once, and the compressed payload must have every
digest that the header pins. Never holds more than one chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Optional, cast

from sgx_enclaves.decompress import BoundedReader
from sgx_enclaves.errors import PackageDamagedError, PackageError, UnsupportedError
from sgx_enclaves.packages.cpio import CpioEntry, CpioStream
from sgx_enclaves.packages.header import Tag, take, truncated
from sgx_enclaves.packages.package import FileKind, Package, PackageFile, kind_of_mode

_MAGICS = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\x00", "zstd": b"\x28\xb5\x2f\xfd"}
_MAGIC_SIZE = 6
_CPIO_MAGIC = b"07070"
# Digests of the payload: as it was packed, unpacked, and their algorithm; the
# first one's is in the header.
_DIGESTS = (
    (Tag.PAYLOADDIGEST, Tag.PAYLOADDIGESTALT, None),
    (Tag.PAYLOADSHA512, Tag.PAYLOADSHA512ALT, "sha512"),
    (Tag.PAYLOADSHA3_256, Tag.PAYLOADSHA3_256ALT, "sha3_256"),
)


class PayloadFile:
    """One file of the payload.

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


class _Source:
    """The payload as it is packed: ends where it should, and is hashed on the way.

    Attributes:
        head: its first bytes, not consumed.
        is_unpacked: whether it was left unpacked although its header says otherwise,
            as V6 allows: then the digests of the unpacked payload count.
    """

    def __init__(self, stream: BinaryIO, package: Package) -> None:
        self._stream = stream
        self._package = package
        self._left: Optional[int] = None
        self._pins: list[tuple[str, Any]] = []
        self.size = 0
        self._pending = b""
        self.head = take(stream, _MAGIC_SIZE, package.file, package.payload_start)
        header = package.header
        self.is_unpacked = (
            self.head.startswith(_CPIO_MAGIC)
            and Tag.PAYLOADCOMPRESSOR in header
            and Tag.PAYLOADDIGESTALT in header
        )
        for tags in _DIGESTS:
            pinned = header.string(tags[1] if self.is_unpacked else tags[0])
            if pinned is not None:
                self._pins.append((pinned, self._hash(tags[2])))
        self._left = package.unpacked_size if self.is_unpacked else package.payload_size
        self._pending = self._counted(self.head, _MAGIC_SIZE)

    def _hash(self, algorithm: Optional[str]) -> Any:
        number = self._package.header.integer(Tag.PAYLOADDIGESTALGO) or 8
        name = algorithm or self._package.algorithm(number, "payload digests")
        return hashlib.new(name, usedforsecurity=False)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
            return data
        if self._left is not None:
            size = max(0, min(size, self._left))
        start = self._package.payload_start + self.size
        return self._counted(take(self._stream, size, self._package.file, start), size)

    def _counted(self, data: bytes, size: int) -> bytes:
        """Account for what was read when `size` bytes were asked for."""
        if self._left is not None:
            data, size = data[: max(0, self._left)], min(size, self._left)
        self.size += len(data)
        if self._left is not None:
            if len(data) < size:
                start = self._package.payload_start
                end = start + self.size
                raise truncated(self._package.file, end - len(data) + self._left, end)
            self._left -= len(data)
        for _pinned, digest in self._pins:
            digest.update(data)
        return data

    def check(self) -> None:
        """Hold what was read, which must be all, against the header's digests."""
        while self.read(1 << 20):
            pass
        for pinned, digest in self._pins:
            if digest.hexdigest() != pinned:
                raise PackageDamagedError(
                    "the digest of the payload is wrong",
                    file=self._package.file,
                    offset=self._package.payload_start,
                    expected=f"{digest.name} {pinned}",
                    found=digest.hexdigest(),
                    hint="get the package again",
                )


def read_payload(package: Package, stream: BinaryIO) -> Iterator[PayloadFile]:
    """Yield the payload's files in its order; what is not read is read and checked here.

    The payload is right only when the iteration ends.

    Args:
        package: from `open_package` or `read_package`.
        stream: at the payload.

    Raises:
        PackageError: malformed, or not what the header says.
        PackageDamagedError: truncated, or a digest is wrong.
        ArchiveError: the compressed data is broken.
        LimitError: it unpacks to more than it may.
        UnsupportedError: a compression or format that cannot be read.
    """
    source = _Source(stream, package)
    _check_format(package, source)
    reader = BoundedReader(cast(BinaryIO, source), package.file, package.limits.payload)
    yield from _Files(package, reader)
    source.check()


def check_payload_digest(package: Package, stream: BinaryIO) -> None:
    """Read the compressed payload and hold it against the header, without unpacking it.

    Args:
        package: from `open_package` or `read_package`; its header pins the digest.
        stream: at the payload.

    Raises:
        PackageDamagedError: truncated, or the digest is wrong.
    """
    _Source(stream, package).check()


def _check_format(package: Package, source: _Source) -> None:
    form = package.header.string(Tag.PAYLOADFORMAT) or "cpio"
    if form != "cpio":
        raise UnsupportedError(f"the payload is of format {form!r}", file=package.file)
    compressor = package.header.string(Tag.PAYLOADCOMPRESSOR)
    if compressor is None or source.is_unpacked:
        return
    magic = _MAGICS.get(compressor)
    if magic is None:
        raise UnsupportedError(
            f"the payload is compressed with {compressor}",
            file=package.file,
            expected="gzip, xz or zstd",
            hint="rebuild the package with another _binary_payload",
        )
    if not source.head.startswith(magic):
        raise PackageError(
            f"the payload is not compressed with {compressor}, as the header says",
            file=package.file,
            offset=package.payload_start,
            expected=magic.hex(),
            found=source.head.hex() or "nothing",
        )


class _Files:
    """The payload's files, each admitted once."""

    def __init__(self, package: Package, reader: BoundedReader) -> None:
        self._package = package
        self._files = package.files
        self._by_name = {f.path.lstrip("/"): f for f in self._files}
        self._missing = {f.index for f in self._files if not f.ghost}
        self._groups = hard_links(package)
        # Hard-linked files whose content is still to come.
        self._awaited = {group[-1].inode for group in self._groups.values() if group[-1].size}
        self._cpio = CpioStream(
            reader,
            package.file,
            self._size_in_stripped,
            entries=len(self._missing),
            name_size=package.limits.path_size,
        )

    def __iter__(self) -> Iterator[PayloadFile]:
        for entry in self._cpio:
            file = self._admit(entry)
            group = self._groups.get(file.index, ())
            yield from self._one(file, group, entry)
        if self._missing or self._awaited:
            left = next((self._files[i].path for i in sorted(self._missing)), "a hard link")
            raise PackageDamagedError(
                f"{len(self._missing)} files are not in the payload, among them {left!r}",
                file=self._package.file,
                hint="get the package again",
            )

    def _one(
        self, file: PackageFile, group: tuple[PackageFile, ...], entry: CpioEntry
    ) -> Iterator[PayloadFile]:
        if file.kind is FileKind.SYMLINK:
            self._check_target(file, entry)
        carries = file.kind is FileKind.FILE and entry.size > 0
        expected = file.size if file.kind is FileKind.FILE else 0
        if carries and group:
            if file.inode not in self._awaited:
                raise self._lie(file, entry, "no content: another link carried it")
            self._awaited.discard(file.inode)
        if file.kind is not FileKind.SYMLINK and entry.size != expected and (carries or not group):
            raise self._lie(file, entry, f"{expected} bytes")
        digest = file.digest if carries or (file.kind is FileKind.FILE and not group) else ""
        content = verified(self._package, file, digest, self._cpio.content())
        yield PayloadFile(file, group, content, carries)
        for _chunk in content:
            pass

    def _admit(self, entry: CpioEntry) -> PackageFile:
        file: Optional[PackageFile] = None
        if entry.index is not None:
            file = self._files[entry.index]
        elif entry.name is not None:
            name = entry.name[2:] if entry.name.startswith("./") else entry.name.lstrip("/")
            file = self._by_name.get(name)
        if file is None or file.index not in self._missing:
            again = "is in the payload twice" if file else "is not in the header"
            raise PackageError(
                f"{(file.path if file else entry.name)!r} {again}",
                file=self._package.file,
                offset=entry.offset,
                hint="offsets count unpacked bytes of the payload",
            )
        if entry.mode is not None and kind_of_mode(entry.mode) is not file.kind:
            raise PackageError(
                f"{file.path!r} is another kind of file in the payload than in the header",
                file=self._package.file,
                offset=entry.offset,
                expected=file.kind.value,
                found=f"mode 0o{entry.mode:o}",
            )
        self._missing.discard(file.index)
        return file

    def _check_target(self, file: PackageFile, entry: CpioEntry) -> None:
        wanted = file.target.encode("utf-8", "surrogateescape")
        if entry.size != len(wanted):
            raise self._lie(file, entry, f"a link target of {len(wanted)} bytes")
        found = b"".join(self._cpio.content())
        if found != wanted:
            raise PackageError(
                f"the link {file.path!r} has another target in the payload than in the header",
                file=self._package.file,
                offset=entry.offset,
                expected=repr(file.target),
                found=repr(found),
            )

    def _lie(self, file: PackageFile, entry: CpioEntry, expected: str) -> PackageError:
        return PackageError(
            f"{file.path!r} has another size in the payload than in the header",
            file=self._package.file,
            offset=entry.offset,
            expected=expected,
            found=f"{entry.size} bytes",
        )

    def _size_in_stripped(self, index: int) -> int:
        """Bytes behind a stripped entry; of several hard links the last one has them."""
        if index >= len(self._files):
            raise PackageError(
                "the payload has a file that the header does not list",
                file=self._package.file,
                expected=f"a number below {len(self._files)}",
                found=str(index),
            )
        file = self._files[index]
        if file.kind is FileKind.SYMLINK:
            return len(file.target.encode("utf-8", "surrogateescape"))
        group = self._groups.get(index)
        if file.kind is not FileKind.FILE or (group and group[-1].index != index):
            return 0
        return file.size


def verified(
    package: Package, file: PackageFile, pinned: str, chunks: Iterable[bytes]
) -> Iterator[bytes]:
    """The chunks of a file; behind the last one, their digest is checked.

    Args:
        package: whose file it is.
        file: the file.
        pinned: the digest that it must have, hexadecimal; empty: any.
        chunks: its bytes.

    Raises:
        PackageDamagedError: other bytes than the header says.
    """
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


def hard_links(package: Package) -> dict[int, tuple[PackageFile, ...]]:
    """File number to all files that share its content, itself included; none for single files.

    Raises:
        PackageError: the header gives one file two contents.
    """
    by_inode: dict[tuple[int, int], list[PackageFile]] = {}
    for file in package.files:
        # RPM counts inodes from 1; 0 is for builders that do not know.
        if file.kind is FileKind.FILE and not file.ghost and file.inode[1]:
            by_inode.setdefault(file.inode, []).append(file)
    groups: dict[int, tuple[PackageFile, ...]] = {}
    for members in by_inode.values():
        if len(members) < 2:
            continue
        group = tuple(members)
        if len({(f.size, f.digest) for f in group}) > 1:
            raise PackageError(
                f"the header gives the hard links of {group[0].path!r} different contents",
                file=package.file,
            )
        groups.update((file.index, group) for file in group)
    return groups
