# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages as librpm reads them, and what must be true of one before it is believed.

Asserts what librpm does not: that a header is bounded before it is parsed, that it is one
immutable region under a digest, and that the file list agrees with itself, stays in the tree
and claims no more than it may.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Optional

from sgx_enclaves.errors import LimitError, PackageError, UnsupportedError
from sgx_enclaves.files import kind_of, open_regular, system_errors
from sgx_enclaves.limits import DEFAULT_PACKAGE_LIMITS, PackageLimits, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.librpm import KINDS, Header, PackageFile, read_header, take, truncated

_LEAD_SIZE = 96
_LEAD_MAGIC = b"\xed\xab\xee\xdb"
# Those that rpm accepts.
_LEAD_VERSIONS = (b"\3", b"\4")
_HEADER_DIGESTS = {"SHA3_256HEADER": "sha3_256", "SHA256HEADER": "sha256", "SHA1HEADER": "sha1"}
# OpenPGP's numbers of hash algorithms, as RPM uses them.
_ALGORITHMS = {
    **{1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"},
    **{12: "sha3_256", 14: "sha3_512"},
}
_GHOST = 1 << 6
# A part that is empty or only dots.
_ODD = re.compile(r"/\.{0,2}(?:/|\Z)")


@record
class Provide:
    """One thing that a package provides; `version` has no epoch and release, and may be empty."""

    name: str
    version: str


class Package:
    """A package's headers, read and checked.

    Args:
        signed: the header that has the signatures over it, good or not, if there is one.
        payload_size: bytes behind the header, where there is a file.
    """

    def __init__(
        self, header: Header, signed: Optional[Header], payload_size: Optional[int] = None
    ) -> None:
        self.file = header.file
        self.header = header
        self.limits = header.limits
        self.signatures = signed.signatures if signed is not None else {}
        self._payload_size = payload_size
        names = {tag: header.one(tag, str) or "" for tag in ("NAME", "VERSION", "RELEASE")}
        for tag, name in names.items():
            if not name:
                raise header.wrong(f"the package has no {tag}", "one")
        self.name, self.version, self.release = names.values()
        self.epoch = header.one("EPOCH", int)
        self.is_source = "SOURCERPM" not in header
        self.arch = "src" if self.is_source else header.one("ARCH", str) or "noarch"
        # rpm still takes names from there; nothing may hide in a list that is not read.
        if "OLDFILENAMES" in header:
            message = "the package has its file names in a form that is older than RPM 4"
            raise header.wrong(message, "BASENAMES")

    @property
    def nevra(self) -> str:
        """Name, epoch, version, release and architecture in RPM's notation."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"

    @functools.cached_property
    def provides(self) -> tuple[Provide, ...]:
        """What the package provides."""
        names = self.header.all("PROVIDENAME", str)
        versions = self.header.all("PROVIDEVERSION", str)
        self._require_equal("Provides", len(names), len(versions))
        plain = (version.rpartition(":")[2].partition("-")[0] for version in versions)
        return tuple(map(Provide, names, plain))

    @functools.cached_property
    def file_algorithm(self) -> str:
        """Name of the hash of the files' digests."""
        return self.algorithm(self.header.one("FILEDIGESTALGO", int) or 1, "file digests")

    def algorithm(self, number: int, what: str) -> str:
        """The hashlib name of an OpenPGP hash number."""
        name = _ALGORITHMS.get(number)
        if name is None or name not in hashlib.algorithms_available:
            raise UnsupportedError(
                f"the {what} are of an unknown hash", file=self.file, found=f"algorithm {number}"
            )
        return name

    @functools.cached_property
    def files(self) -> tuple[PackageFile, ...]:
        """All files, in the header's order."""
        header = self.header
        paths = self.paths
        sizes = "LONGFILESIZES" if "LONGFILESIZES" in header else "FILESIZES"
        names = (sizes, "FILEMODES", "FILEFLAGS", "FILEINODES", "FILEDEVICES")
        numbers = {name: header.all(name, int) for name in names}
        texts = {name: header.all(name, str) for name in ("FILEDIGESTS", "FILELINKTOS")}
        for name, column in {**numbers, **texts}.items():
            self._require_equal(name, len(paths), len(column))
        files: list[PackageFile] = []
        columns = zip(paths, *numbers.values(), *texts.values())
        for path, size, mode, flags, inode, device, digest, target in columns:
            if stat.S_IFMT(mode) not in KINDS:
                message = f"{path!r} is of an unknown kind"
                raise header.wrong(message, "a file mode", f"mode 0o{mode:o}")
            index, ghost = len(files), bool(flags & _GHOST)
            # RPM counts inodes from 1; 0 is for builders that do not know.
            own = (device, inode) if inode else (-1, index)
            files.append(PackageFile(index, path, mode, size, digest, target, ghost, own))
        self._check_claims(files)
        return tuple(files)

    @functools.cached_property
    def paths(self) -> list[str]:
        """The path of each file, in the header's order."""
        names = self.header.all("BASENAMES", str)
        folders = self.header.all("DIRNAMES", str)
        indexes = self.header.all("DIRINDEXES", int)
        self._require_equal("file names", len(indexes), len(names))
        most = max(indexes, default=-1)
        if most >= len(folders):
            self._require_equal("folders", most + 1, len(folders))
        sizes = [len(folders[index]) + len(name) for name, index in zip(names, indexes)]
        longest, limits = max(sizes, default=0), self.limits
        at_most(limits.path_size, longest, "a path is too long", "bytes", file=self.file)
        message = "all paths together are too long"
        at_most(limits.paths_size, sum(sizes), message, "bytes", file=self.file)
        paths = [folders[index] + name for name, index in zip(names, indexes)]
        start = "/" if self.is_source else ""
        for path in paths:
            whole = start + path
            if whole[:1] != "/" or (_ODD.search(whole) and (start or path != "/")):
                expected = "a relative path" if start else "an absolute path without '..'"
                message = f"a file's path leaves the tree or is not plain: {path!r}"
                raise self.header.wrong(message, expected)
        if len(set(paths)) != len(paths):
            raise self.header.wrong("a path is in the package twice", "each path once")
        return paths

    def _check_claims(self, files: list[PackageFile]) -> None:
        """Refuse a package that claims to unpack to more than it may."""
        # Hard links share their content, so it counts once.
        total = sum({file.inode: file.size for file in files if file.is_regular}.values())
        limits = self.limits.payload
        limit = limits.total_size
        if self._payload_size is not None:
            limit = min(limit, max(limits.ratio_grace, limits.ratio * self._payload_size))
        if total > limit:
            raise LimitError(
                "the package claims files that are larger than they may be",
                file=self.file,
                expected=f"at most {limit} bytes for a payload of this size",
                found=f"{total} bytes",
                hint="this looks like a decompression bomb",
            )

    @functools.cached_property
    def hard_links(self) -> Mapping[int, tuple[PackageFile, ...]]:
        """File number to all files with its content, itself too; none for single files."""
        by_inode: dict[tuple[int, int], list[PackageFile]] = {}
        for file in self.files:
            if file.is_regular:
                by_inode.setdefault(file.inode, []).append(file)
        groups: dict[int, tuple[PackageFile, ...]] = {}
        for group in by_inode.values():
            if len({(f.size, f.digest) for f in group}) > 1:
                message = f"the header gives the hard links of {group[0].path!r} different contents"
                raise self.header.wrong(message, "one size and digest")
            if len(group) > 1:
                groups.update(dict.fromkeys((file.index for file in group), tuple(group)))
        return groups

    def _require_equal(self, what: str, expected: int, found: int) -> None:
        if expected != found:
            message = f"the header contradicts itself about {what}"
            raise self.header.wrong(message, str(expected), str(found))


@contextmanager
def open_package(
    path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS
) -> Iterator[tuple[Package, BinaryIO]]:
    """A package file and its stream, at the payload.

    Raises:
        InputError: it cannot be opened.
        PackageError: malformed.
        PackageDamagedError: its size or header is not the one that it states.
        LimitError: larger than `limits`.
        UnsupportedError: there is no librpm.
    """
    with system_errors(path, "cannot be read", hint="check path and rights"):
        stream = open_regular(path)
    with stream:
        size = os.fstat(stream.fileno()).st_size
        with system_errors(path, "cannot be read", error=PackageError):
            package = _read_headers(stream, path, size, limits)
        yield package, stream


def _read_headers(stream: BinaryIO, file: str, end: int, limits: PackageLimits) -> Package:
    """The package in a file of `end` bytes, whose stream is then at the payload."""
    lead = stream.read(_LEAD_SIZE)
    if lead[:4] != _LEAD_MAGIC or lead[4:5] not in (b"", *_LEAD_VERSIONS):
        raise PackageError(
            "not an RPM package",
            file=file,
            offset=0,
            expected=_LEAD_MAGIC.hex(),
            found=kind_of(lead),
            hint="compare, show and measure take enclaves"
            if lead[:4] == b"\x7fELF"
            else "name an RPM package, or get it again",
        )
    take(stream, _LEAD_SIZE - len(lead), file)
    signature = read_header(stream, file, limits)
    take(stream, -signature.end % 8, file)
    header = read_header(stream, file, limits)
    if header.has_tags_twice:
        raise header.wrong("a header is malformed", "each tag once")
    if not header.is_one_region:
        raise header.wrong("the header is not one immutable region", "a package of RPM 4 or 6")
    pins = {name: signature.one(tag, str) for tag, name in _HEADER_DIGESTS.items()}
    for name, pinned in pins.items():
        if pinned is not None and pinned != (found := header.digest(name)):
            message = f"the {name.upper()} digest of the header is wrong"
            raise header.damaged(message, pinned, found, offset=header.start)
    if not any(pins.values()):
        message = "the package has no digest of its header"
        raise signature.wrong(message, "SHA256HEADER or SHA1HEADER")
    _check_size(header, signature, end)
    return Package(header, signature, end - stream.tell())


def _check_size(header: Header, signature: Header, end: int) -> None:
    """Whether the file ends where the package says, if it does."""
    sizes = [signature.one(tag, int) for tag in ("SIGNATURE_LONGSIZE", "SIGNATURE_SIZE")]
    ends = [header.start + size for size in sizes if size is not None][:1]
    if not ends:
        # From V6 on the header says so, and the payload may have been unpacked and left so.
        sizes = [header.one(tag, int) for tag in ("PAYLOADSIZE", "PAYLOADSIZEALT")]
        ends = [header.end + size for size in sizes if size is not None]
    if ends and end < ends[0]:
        raise truncated(header.file, ends[0], end)
    if ends and end not in ends:
        message = "there are bytes behind the end of the package"
        expected = ", or unpacked ".join(f"{size} bytes" for size in ends)
        raise header.damaged(message, expected, f"{end} bytes", offset=ends[0])
