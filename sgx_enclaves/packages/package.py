# SPDX-License-Identifier: GPL-2.0-or-later
"""What a package's header says: who it is, what it provides, which files it holds.

Checks that the file list agrees with itself, so that the payload can be held
against it. Reads no payload.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Optional

from sgx_enclaves.errors import (
    InputError,
    LimitError,
    PackageDamagedError,
    PackageError,
    UnsupportedError,
)
from sgx_enclaves.packages.header import Header, SignatureTag, Tag, read_headers, truncated
from sgx_enclaves.packages.limits import DEFAULT_PACKAGE_LIMITS, PackageLimits
from sgx_enclaves.records import record

_GHOST = 1 << 6
# OpenPGP's numbers of hash algorithms, as RPM uses them.
_ALGORITHMS = {
    1: "md5",
    2: "sha1",
    8: "sha256",
    9: "sha384",
    10: "sha512",
    11: "sha224",
    12: "sha3_256",
    14: "sha3_512",
}


class FileKind(enum.Enum):
    """What a file of a package is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    SPECIAL = "device, pipe or socket"


def kind_of_mode(mode: int) -> Optional[FileKind]:
    """The kind that a file mode states; None for a mode that no file has."""
    return {
        stat.S_IFREG: FileKind.FILE,
        stat.S_IFDIR: FileKind.DIRECTORY,
        stat.S_IFLNK: FileKind.SYMLINK,
        stat.S_IFCHR: FileKind.SPECIAL,
        stat.S_IFBLK: FileKind.SPECIAL,
        stat.S_IFIFO: FileKind.SPECIAL,
        stat.S_IFSOCK: FileKind.SPECIAL,
    }.get(stat.S_IFMT(mode))


@record
class PackageFile:
    """One file as the header describes it.

    Attributes:
        index: its place in the header.
        path: absolute; relative in a source package.
        kind: see `FileKind`.
        mode: permission bits.
        size: bytes.
        digest: hexadecimal; empty for what has no content.
        target: where a symbolic link points, else empty.
        ghost: owned by the package, but not in its payload.
        inode: device and inode; files that share them are hard links.
    """

    index: int
    path: str
    kind: FileKind
    mode: int
    size: int
    digest: str
    target: str
    ghost: bool
    inode: tuple[int, int]


@record
class Provide:
    """One thing that a package provides; `version` is empty when it has none."""

    name: str
    version: str


class Package:
    """A package's headers, read and checked.

    Args:
        signature: the signature header.
        header: the main header.
        limits: see `PackageLimits`.

    Raises:
        PackageError: it has no name, version or release, or names of files where
            they are not looked for.
    """

    def __init__(self, signature: Header, header: Header, limits: PackageLimits) -> None:
        self.file = header.file
        self.header = header
        self.limits = limits
        self.payload_start = header.start + header.size
        sizes = [signature.integer(t) for t in (SignatureTag.LONGSIZE, SignatureTag.SIZE)]
        known = next((s for s in sizes if s is not None), None)
        # Bytes of the compressed payload, when the package says so; from V6 on the header does.
        self.payload_size = (
            header.integer(Tag.PAYLOADSIZE) if known is None else known - header.size
        )
        # Bytes of the payload when it was unpacked and left so, which V6 allows.
        self.unpacked_size = header.integer(Tag.PAYLOADSIZEALT) if known is None else None
        self.name = self._required(Tag.NAME)
        self.version = self._required(Tag.VERSION)
        self.release = self._required(Tag.RELEASE)
        self.epoch = header.integer(Tag.EPOCH)
        self.is_source = Tag.SOURCERPM not in header
        self.arch = "src" if self.is_source else header.string(Tag.ARCH) or "noarch"
        # rpm still takes names from there; nothing may hide in a list that is not read.
        if Tag.OLDFILENAMES in header:
            raise PackageError(
                "the package has its file names in a form that is older than RPM 4",
                file=self.file,
                offset=header.start,
                hint="rebuild it",
            )

    def _required(self, tag: Tag) -> str:
        value = self.header.string(tag)
        if not value:
            raise PackageError(
                f"the package has no {tag.name}", file=self.file, offset=self.header.start
            )
        return value

    @property
    def nevra(self) -> str:
        """Name, epoch, version, release and architecture in RPM's notation."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"

    @functools.cached_property
    def provides(self) -> tuple[Provide, ...]:
        """What the package provides."""
        names = self.header.strings(Tag.PROVIDENAME)
        versions = self.header.strings(Tag.PROVIDEVERSION)
        if len(names) != len(versions):
            raise self._contradiction("Provides", len(names), len(versions))
        return tuple(Provide(n, v) for n, v in zip(names, versions))

    @functools.cached_property
    def file_algorithm(self) -> str:
        """Name of the hash of the files' digests.

        Raises:
            UnsupportedError: an unknown one.
        """
        return self.algorithm(self.header.integer(Tag.FILEDIGESTALGO) or 1, "file digests")

    def algorithm(self, number: int, what: str) -> str:
        """The hashlib name of an OpenPGP hash number.

        Raises:
            UnsupportedError: an unknown one.
        """
        name = _ALGORITHMS.get(number)
        if name is None or name not in hashlib.algorithms_available:
            raise UnsupportedError(
                f"the {what} are of an unknown hash", file=self.file, found=f"algorithm {number}"
            )
        return name

    @functools.cached_property
    def files(self) -> tuple[PackageFile, ...]:
        """All files, in the header's order.

        Raises:
            PackageError: the list contradicts itself, or a path leaves the tree.
            LimitError: more files or bytes than `PackageLimits` allows.
        """
        header = self.header
        paths = self._paths()
        count = len(paths)
        long_sizes = Tag.LONGFILESIZES in header
        sizes = header.integers(Tag.LONGFILESIZES if long_sizes else Tag.FILESIZES)
        modes = header.integers(Tag.FILEMODES)
        digests = header.strings(Tag.FILEDIGESTS)
        targets = header.strings(Tag.FILELINKTOS)
        flags = header.integers(Tag.FILEFLAGS)
        inodes = header.integers(Tag.FILEINODES)
        devices = header.integers(Tag.FILEDEVICES)
        for name, column in (
            ("sizes", sizes),
            ("modes", modes),
            ("digests", digests),
            ("link targets", targets),
            ("flags", flags),
            ("inodes", inodes),
            ("devices", devices),
        ):
            if len(column) != count:
                raise self._contradiction(f"file {name}", count, len(column))
        files = []
        for i, path in enumerate(paths):
            kind = kind_of_mode(modes[i])
            if kind is None:
                raise PackageError(
                    f"{path!r} is of an unknown kind", file=self.file, found=f"mode 0o{modes[i]:o}"
                )
            files.append(
                PackageFile(
                    i,
                    path,
                    kind,
                    stat.S_IMODE(modes[i]),
                    sizes[i],
                    digests[i],
                    targets[i],
                    bool(flags[i] & _GHOST),
                    (devices[i], inodes[i]),
                )
            )
        self._check_claims(files)
        return tuple(files)

    def _paths(self) -> list[str]:
        names = self.header.strings(Tag.BASENAMES)
        folders = self.header.strings(Tag.DIRNAMES)
        indexes = self.header.integers(Tag.DIRINDEXES)
        if len(names) != len(indexes):
            raise self._contradiction("file names", len(indexes), len(names))
        paths = []
        total = 0
        for name, index in zip(names, indexes):
            if index >= len(folders):
                raise self._contradiction("folders", index + 1, len(folders))
            size = len(folders[index]) + len(name)
            total += size
            if size > self.limits.path_size or total > self.limits.paths_size:
                raise LimitError(
                    "a path is too long, or all paths together are",
                    file=self.file,
                    expected=f"at most {self.limits.path_size} bytes, "
                    f"{self.limits.paths_size} in all",
                )
            paths.append(self._safe(folders[index] + name))
        if len(set(paths)) != len(paths):
            raise PackageError("a path is in the package twice", file=self.file)
        return paths

    def _safe(self, path: str) -> str:
        absolute = path.startswith("/")
        parts = path[1:].split("/") if absolute else path.split("/")
        if absolute is self.is_source or (path != "/" and {"", ".", ".."} & set(parts)):
            raise PackageError(
                f"a file's path leaves the tree or is not plain: {path!r}",
                file=self.file,
                expected="a relative path" if self.is_source else "an absolute path without '..'",
            )
        return path

    def _check_claims(self, files: list[PackageFile]) -> None:
        """Refuse a package that claims to unpack to more than it may."""
        links: dict[tuple[int, int], int] = {}
        total = 0
        for file in files:
            if file.kind is FileKind.FILE and not file.ghost:
                # Hard links share their content, so it counts once.
                first = links.setdefault(file.inode, file.index)
                total += file.size if first == file.index or not file.inode[1] else 0
        limit = self.limits.payload.total_size
        grace, ratio = self.limits.payload.ratio_grace, self.limits.payload.ratio
        if self.payload_size is not None:
            limit = min(limit, max(grace, ratio * max(0, self.payload_size)))
        if total > limit:
            raise LimitError(
                "the package claims files that are larger than they may be",
                file=self.file,
                expected=f"at most {limit} bytes for a payload of this size",
                found=f"{total} bytes",
                hint="this looks like a decompression bomb",
            )

    def _contradiction(self, what: str, expected: int, found: int) -> PackageError:
        return PackageError(
            f"the header contradicts itself about {what}",
            file=self.file,
            offset=self.header.start,
            expected=str(expected),
            found=str(found),
        )


def read_package(
    stream: BinaryIO, file: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
) -> Package:
    """The headers of a package; `stream` is then at the payload.

    Raises:
        PackageError: malformed or damaged.
        LimitError: larger than `limits`.
    """
    signature, header = read_headers(stream, file, limits)
    return Package(signature, header, limits)


@contextmanager
def open_package(
    path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
) -> Iterator[tuple[Package, BinaryIO]]:
    """A package file and its stream, at the payload.

    Raises:
        InputError: it cannot be opened.
        PackageDamagedError: its size is not the one that it states.
        SgxEnclavesError: see `read_package`.
    """
    try:
        # A pipe without a writer must not make us wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror or error}", file=path, hint="check path and rights"
        ) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError("not a regular file", file=path, hint="name an RPM package")
    with os.fdopen(handle, "rb") as stream:
        package = read_package(stream, path, limits)
        if package.payload_size is not None:
            payload = status.st_size - package.payload_start
            is_unpacked = payload == package.unpacked_size
            size = payload if is_unpacked else package.payload_size
            expected = package.payload_start + size
            if status.st_size < expected:
                raise truncated(path, expected, status.st_size)
            if status.st_size > expected:
                other = package.unpacked_size
                raise PackageDamagedError(
                    "there are bytes behind the end of the package",
                    file=path,
                    offset=expected,
                    expected=f"{expected} bytes"
                    + (f", or {package.payload_start + other} unpacked" if other else ""),
                    found=f"{status.st_size} bytes",
                )
        yield package, stream
