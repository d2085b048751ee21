# SPDX-License-Identifier: GPL-2.0-or-later
"""A package's header together with its files, wherever the files are.

In the package file; in a folder, where somebody has unpacked them already; or
installed. Whoever judges packages sees the same in each case, and in each case
a file is what the header says or an error: nothing depends on who unpacked it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Callable, Optional

from sgx_enclaves.errors import PackageDamagedError, PackageError
from sgx_enclaves.format.elf import ELF_MAGIC
from sgx_enclaves.packages.header import Header, Tag, parse_header
from sgx_enclaves.packages.limits import DEFAULT_PACKAGE_LIMITS, PackageLimits
from sgx_enclaves.packages.package import FileKind, Package, PackageFile, open_package
from sgx_enclaves.packages.payload import (
    PayloadFile,
    check_payload_digest,
    hard_links,
    read_payload,
    verified,
)

_CHUNK = 1 << 18

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
        yield package, read_payload(package, stream)


class Unpacked:
    """Opens a package file whose files lie unpacked somewhere, to save unpacking them again.

    The compressed payload is held against the header all the same, once. Where the
    copies do not do, the package file is read.

    Args:
        places: path in the package to path of the copy, of every file with content.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places
        self._is_whole = False

    @contextmanager
    def __call__(
        self, path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
    ) -> Iterator[Contents]:
        """See `Opener`.

        Raises:
            SgxEnclavesError: see `open_package` and `read_unpacked`.
        """
        with open_package(path, limits) as (package, stream):
            if self._suffices(package):
                yield package, self._files(package, stream)
            else:
                yield package, read_payload(package, stream)

    def _files(self, package: Package, stream: BinaryIO) -> Iterator[PayloadFile]:
        # Not before somebody wants files: a reference is opened for its header as well.
        if not self._is_whole:
            check_payload_digest(package, stream)
            self._is_whole = True
        yield from read_unpacked(package, self._places)

    def _suffices(self, package: Package) -> bool:
        # Without a digest of the payload, only unpacking shows whether it is whole.
        return Tag.PAYLOADDIGEST in package.header and all(
            file.path in self._places for file in files_with_content(package)
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
            SgxEnclavesError: see `parse_header` and `read_unpacked`.
        """
        header = parse_header(self._header, path, limits)
        package = Package(Header(path, 0, b"", b"", limits), header, limits)
        places = {
            file.path: os.path.join(self._root, file.path.lstrip("/"))
            for file in files_with_content(package)
        }
        yield package, read_unpacked(package, places)


def files_with_content(package: Package) -> Iterator[PackageFile]:
    """The regular files of a package that come with it."""
    return (f for f in package.files if f.kind is FileKind.FILE and not f.ghost)


def read_unpacked(package: Package, places: Mapping[str, str]) -> Iterator[PayloadFile]:
    """Yield the regular files of a package from their copies, as `read_payload` would.

    Args:
        package: whose files.
        places: path in the package to path of the copy.

    Raises:
        PackageError: the header contradicts itself.
        PackageDamagedError: a copy is missing, or other than the header says.
    """
    groups = hard_links(package)
    for file in files_with_content(package):
        group = groups.get(file.index, ())
        if group and group[-1].index != file.index:
            continue
        with _open_copy(package, file, places.get(file.path)) as stream:
            whole = file.size <= package.limits.enclave.file_size
            content = verified(
                package, file, file.digest, _chunks(stream, file.size if whole else _CHUNK)
            )
            yield PayloadFile(file, group, content, bool(file.size))
            for _chunk in content:
                pass


def _open_copy(package: Package, file: PackageFile, place: Optional[str]) -> BinaryIO:
    if place is None:
        raise _missing(package, file, "it was not unpacked")
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _missing(package, file, error.strerror or str(error)) from None
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


def _chunks(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """The content; of an ELF file in pieces of `most` bytes: who wants it whole need not copy."""
    head = stream.read(len(ELF_MAGIC))
    stream.seek(0)
    size = most if head == ELF_MAGIC else _CHUNK
    while True:
        chunk = stream.read(size)
        if not chunk:
            return
        yield chunk


def _missing(package: Package, file: PackageFile, why: str) -> PackageError:
    return PackageDamagedError(
        f"{file.path!r} cannot be read: {why}", file=package.file, hint="get the package again"
    )
