# SPDX-License-Identifier: GPL-2.0-or-later
"""Members of an archive by name, and source trees laid out safely.

Knows what the catalogue's archives are for: single binaries that are read into
memory, source trees that are unpacked for a build, and a distribution's repack
that is held against the original. Never writes a file for the first and the
last, and never outside `dest` for the second.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol

from sgx_enclaves.decompress import (
    DEFAULT_ARCHIVE_LIMITS,
    ArchiveLimits,
    BoundedReader,
)
from sgx_enclaves.errors import ArchiveError, DigestError, InputError, LimitError
from sgx_enclaves.releases.tarstream import Kind, Member, Symlinks, TarStream

_CHUNK = 1 << 20


class Digest(Protocol):
    """What is needed of a `hashlib` object."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest of all that was added."""


class _DigestedFile(io.FileIO):
    """A file whose bytes are digested as they are read."""

    def __init__(self, path: Path, digest: Digest) -> None:
        super().__init__(path, "rb")
        self._digest = digest

    def read(self, size: Optional[int] = -1, /) -> bytes:
        """The next bytes; empty at the end."""
        data = super().read(-1 if size is None else size) or b""
        self._digest.update(data)
        return data


@contextmanager
def open_archive(
    archive: Path,
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
    symlinks: Symlinks = Symlinks.REFUSE,
    *,
    packed: Optional[Digest] = None,
) -> Iterator[TarStream]:
    """Open a tar archive, packed with gzip, xz, zstd or not at all.

    Args:
        archive: the file.
        limits: see `ArchiveLimits`.
        symlinks: see `Symlinks`.
        packed: gets every byte of the packed file, once and as it was read here; whole
            when the members have been gone through and the context is left.

    Raises:
        InputError: the file cannot be opened.
        ArchiveError: broken or hostile.
        LimitError: beyond the limits.
    """
    try:
        # opening a pipe would wait for a writer
        if not archive.is_file():
            raise InputError("there is no such file", file=str(archive))
        raw = archive.open("rb") if packed is None else _DigestedFile(archive, packed)
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror}", file=str(archive)) from None
    with raw:
        yield TarStream(BoundedReader(raw, str(archive), limits), limits, symlinks)
        if packed is not None:
            # a decompressor may leave the end of its input unread
            while raw.read(_CHUNK):
                pass


def list_members(
    archive: Path,
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
    symlinks: Symlinks = Symlinks.REFUSE,
) -> list[Member]:
    """Each member of the archive, in its order; the whole stream is checked."""
    with open_archive(archive, limits, symlinks) as stream:
        return list(stream)


def read_members(
    archive: Path,
    names: Collection[str],
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
    symlinks: Symlinks = Symlinks.REFUSE,
) -> dict[str, bytes]:
    """Read the named files into memory; nothing is written.

    The rest of the archive is checked too: it is one piece of evidence.

    Returns:
        Name to content, one entry for each of `names`.

    Raises:
        ArchiveError: a name is missing or is no regular file, or the archive is
            broken or hostile.
        LimitError: beyond the limits.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    others: list[str] = []
    room = limits.kept_bytes
    with open_archive(archive, limits, symlinks) as stream:
        for member in stream:
            if member.name not in wanted:
                others.append(member.name)
                continue
            if member.kind is not Kind.FILE:
                raise ArchiveError(
                    f"{member.name!r} is a {member.kind.value}, not a file", file=str(archive)
                )
            room -= member.size
            if room < 0:
                raise LimitError(
                    "the members asked for are too large together",
                    file=str(archive),
                    expected=f"at most {limits.kept_bytes} bytes",
                )
            found[member.name] = b"".join(stream.content())
    for name in sorted(wanted - found.keys()):
        near = _similar(name, others)
        raise ArchiveError(
            f"the archive has no member {name!r}",
            file=str(archive),
            hint=f"the nearest is {near!r}" if near else "list the archive and correct the name",
        )
    return found


def _similar(name: str, others: list[str]) -> str:
    """The member that was probably meant: same file name, or spelt alike; else empty."""
    base = name.rpartition("/")[2]
    for other in others:
        if other.rpartition("/")[2] == base:
            return other
    near = difflib.get_close_matches(name, others[:5000], n=1)
    return near[0] if near else ""


def digest_members(
    archive: Path,
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
    symlinks: Symlinks = Symlinks.REFUSE,
) -> dict[str, str]:
    """SHA-256 in hexadecimal of each regular file of the archive, by name."""
    digests: dict[str, str] = {}
    with open_archive(archive, limits, symlinks) as stream:
        for member in stream:
            if member.kind is Kind.FILE:
                digest = hashlib.sha256()
                for chunk in stream.content():
                    digest.update(chunk)
                digests[member.name] = digest.hexdigest()
    return digests


@dataclass(frozen=True)
class Repack:
    """How a repacked archive stands to the original; each a sorted tuple of names.

    Attributes:
        kept: same name, same content.
        changed: same name, other content.
        added: in the repack only.
        dropped: in the original only; harmless.
    """

    kept: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def faithful(self) -> bool:
        """Whether everything in the repack is the original's."""
        return bool(self.kept) and not self.changed and not self.added


def compare_repack(original: Mapping[str, str], repacked: Mapping[str, str]) -> Repack:
    """Hold a repack's digests (from `digest_members`) against the original's."""
    both = original.keys() & repacked.keys()
    return Repack(
        kept=tuple(sorted(name for name in both if original[name] == repacked[name])),
        changed=tuple(sorted(name for name in both if original[name] != repacked[name])),
        added=tuple(sorted(repacked.keys() - original.keys())),
        dropped=tuple(sorted(original.keys() - repacked.keys())),
    )


def unpack_tree(
    archive: Path,
    dest: Path,
    *,
    strip: int = 1,
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
    sha256: Optional[str] = None,
    mtime: Optional[int] = None,
) -> int:
    """Lay a source archive out as the new directory `dest`.

    All or nothing: the tree is made beside `dest` and renamed when it is whole.
    Files get mode 0644, or 0755 when the owner may execute them, and the
    archive's time; owners and special bits are ignored.

    Args:
        archive: the packed sources.
        dest: the directory to make; it may exist if it is empty.
        strip: leading parts of each name to drop; members with no more are dropped.
        limits: see `ArchiveLimits`.
        sha256: what the archive must have, in the very bytes that are unpacked.
        mtime: seconds since 1970 for every file, in place of the archive's.

    Returns:
        How many files and links were made.

    Raises:
        InputError: `dest` is in the way or cannot be written.
        ArchiveError: broken or hostile, or nothing is left after `strip`.
        DigestError: it is not the archive with that digest; nothing is left behind.
        LimitError: beyond the limits.
    """
    dest = Path(os.path.abspath(dest))
    try:
        if dest.is_symlink() or (dest.exists() and any(dest.iterdir())):
            raise InputError(
                "there is something in the way", file=str(dest), hint="give a new directory"
            )
        dest.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", dir=dest.parent))
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=str(dest)) from None
    try:
        packed = hashlib.sha256()
        made = _fill(archive, work, strip, limits, packed, mtime)
        check_same(archive, sha256, packed)
        work.chmod(0o755)
        work.rename(dest)
    except OSError as error:
        raise InputError(f"cannot be unpacked: {error.strerror}", file=str(dest)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def check_same(archive: Path, expected: Optional[str], found: Digest) -> None:
    """Refuse a file that is no longer the one that was looked at before.

    Raises:
        DigestError: the digests differ.
    """
    if expected is not None and found.hexdigest() != expected:
        raise DigestError(
            "the file was changed after it was checked",
            file=str(archive),
            expected=f"sha256 {expected}",
            found=f"sha256 {found.hexdigest()}",
            hint="find out who writes there, and run again",
        )


def leads_out(name: str, target: str) -> bool:
    """Whether a symbolic link, which `TarStream` let pass, climbs above the tree's root."""
    return target.split("/").count("..") > name.count("/")


def _fill(
    archive: Path,
    root: Path,
    strip: int,
    limits: ArchiveLimits,
    packed: Digest,
    mtime: Optional[int],
) -> int:
    made = 0
    links: list[tuple[str, str]] = []
    with open_archive(archive, limits, Symlinks.INSIDE, packed=packed) as stream:
        taken: set[str] = set()
        for member in stream:
            name = "/".join(member.name.split("/")[strip:])
            if not name:
                continue
            if member.kind is Kind.DIRECTORY:
                _make_directories(root / name)
                continue
            if name in taken:
                raise ArchiveError(
                    f"{name!r} is there twice once {strip} leading parts are dropped",
                    file=str(archive),
                )
            taken.add(name)
            made += 1
            _make_directories((root / name).parent)
            if member.kind is Kind.SYMLINK:
                if leads_out(name, member.target):
                    raise ArchiveError(
                        f"{member.name!r} is a symbolic link to {member.target!r},"
                        " which may lead out of the tree",
                        file=str(archive),
                    )
                links.append((name, member.target))
            else:
                _write(root / name, member, stream, member.mtime if mtime is None else mtime)
    # last, so that no file can be written through a link
    for name, target in links:
        (root / name).symlink_to(target)
    if not made:
        raise ArchiveError(
            "the archive has no file to unpack",
            file=str(archive),
            hint=f"{strip} leading parts of each name are dropped",
        )
    return made


def _make_directories(path: Path) -> None:
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


def _write(path: Path, member: Member, stream: TarStream, mtime: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for chunk in stream.content():
            out.write(chunk)
        out.flush()
        os.fchmod(out.fileno(), 0o755 if member.executable else 0o644)
        os.utime(out.fileno(), (mtime, mtime))
