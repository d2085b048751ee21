# SPDX-License-Identifier: GPL-2.0-or-later
"""Members of an archive by name, and source trees laid out safely.

Knows what the catalogue's archives are for: single binaries that are read into
memory, source trees that are unpacked for a build, and a distribution's repack
that is held against the original. Never writes a file for the first and the
last, and never outside `dest` for the second.

A strict reader of tar streams: ustar, pax and GNU long names, nothing else.

Knows the tar format (POSIX.1-2017 `pax`, GNU tar's manual, "Basic Tar Format").
Never seeks, never writes, never holds more than one header or one chunk.

Python's own `tarfile` repairs and guesses; here an archive is evidence, so what
is odd is refused: links that leave the tree, devices, sparse files, absolute
and `..` names, a name that comes twice, bytes behind the end.

A digest of what a source archive holds, whoever packed it and however.

An archive that a server makes on demand has other bytes after a rename of the
repository (its top folder is called after it) or a change of compressor. What is
unpacked from it stays the same, and that is what is digested here: each folder, file
and link below the one top folder, with the executable bit, and nothing else. The
serialisation is written down in `docs/releases.md`.

Knows source archives with one top folder only. Never writes a file.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Protocol

from sgx_enclaves.decompress import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits, BoundedReader
from sgx_enclaves.errors import ArchiveError, DigestError, InputError, LimitError, UnsupportedError

BLOCK = 512
_TARSTREAM_CHUNK = 256 << 10
# A pax header holds names and times; 64 KiB is far above the longest name.
_EXTENSION_BYTES = 64 << 10
_EXTENSIONS_IN_A_ROW = 8


class Kind(enum.Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"


class Symlinks(enum.Enum):
    """What to do with symbolic links.

    `REFUSE` is for archives of binaries, where a link has no business.
    `INSIDE` allows relative ones that stay inside the tree, as sources have.
    """

    REFUSE = "refuse"
    INSIDE = "inside"


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: path with `/` between its parts, without a leading `./` or a trailing `/`.
        kind: see `Kind`.
        size: bytes of content.
        executable: whether the owner may execute it.
        mtime: seconds since 1970.
        target: where a symbolic link points, else empty.
    """

    name: str
    kind: Kind
    size: int
    executable: bool
    mtime: int
    target: str


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"5": Kind.DIRECTORY,
    b"2": Kind.SYMLINK,
}
_REFUSED = {
    b"1": "a hard link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"M": "a continued file",
    b"V": "a volume label",
    b"D": "an incremental directory",
}


@dataclass
class _Extension:
    """What pax and GNU headers say about the next member."""

    name: Optional[str] = None
    target: Optional[str] = None
    size: Optional[int] = None
    mtime: Optional[int] = None


class TarStream:
    """The members of a tar archive, one after the other.

    Iterate over it; between two steps `content()` gives the bytes of the member
    last seen. What is not read is skipped. The iteration ends only when the
    whole stream has been seen, so that a truncated archive is always noticed.

    Args:
        reader: the unpacked stream.
        limits: see `ArchiveLimits`.
        symlinks: see `Symlinks`.
    """

    def __init__(
        self, reader: BoundedReader, limits: ArchiveLimits, symlinks: Symlinks = Symlinks.REFUSE
    ) -> None:
        self._reader = reader
        self._limits = limits
        self._symlinks = symlinks
        self._seen: dict[str, Kind] = {}
        self._offset = 0
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield each member in the archive's order.

        Raises:
            ArchiveError: broken, truncated or hostile.
            LimitError: beyond `ArchiveLimits`.
        """
        extension = _Extension()
        in_a_row = 0
        while True:
            header = self._next_header()
            if header is None:
                if in_a_row:
                    raise self._error("an extension header without a member")
                return
            kind = header[156:157]
            if kind in (b"x", b"g", b"L", b"K"):
                in_a_row += 1
                if in_a_row > _EXTENSIONS_IN_A_ROW:
                    raise self._error("too many extension headers in a row")
                self._extend(extension, kind, header)
                continue
            member = self._member(header, extension)
            extension, in_a_row = _Extension(), 0
            self._admit(member)
            self._left = member.size
            self._padding = -member.size % BLOCK
            yield member
            self._skip()

    def content(self) -> Iterator[bytes]:
        """Yield the bytes of the member last seen, in chunks of at most 256 KiB."""
        while self._left:
            chunk = self._take(min(self._left, _TARSTREAM_CHUNK))
            self._left -= len(chunk)
            yield chunk

    def _skip(self) -> None:
        for _chunk in self.content():
            pass
        self._take(self._padding)
        self._padding = 0

    def _error(self, message: str, offset: Optional[int] = None) -> ArchiveError:
        return ArchiveError(
            message,
            file=self._reader.file,
            offset=self._offset if offset is None else offset,
            hint="offsets count unpacked bytes",
        )

    def _take(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._offset += len(data)
        if len(data) != size:
            raise self._error("the archive ends too early")
        return data

    def _next_header(self) -> Optional[bytes]:
        header = self._take(BLOCK)
        if header.strip(b"\0"):
            _check_sum(header, self)
            return header
        while True:
            rest = self._reader.read(_TARSTREAM_CHUNK)
            if not rest:
                return None
            if rest.strip(b"\0"):
                raise self._error("bytes behind the end of the archive")
            self._offset += len(rest)

    def _extend(self, extension: _Extension, kind: bytes, header: bytes) -> None:
        size = self._number(header[124:136], "size")
        if size > _EXTENSION_BYTES:
            raise LimitError(
                "an extension header is too large",
                file=self._reader.file,
                offset=self._offset,
                expected=f"at most {_EXTENSION_BYTES} bytes",
                found=f"{size} bytes",
            )
        data = self._take(size)
        self._take(-size % BLOCK)
        if kind == b"L":
            extension.name = self._text(data.rstrip(b"\0"), "name")
        elif kind == b"K":
            extension.target = self._text(data.rstrip(b"\0"), "link target")
        else:
            for key, value in self._records(data):
                self._apply(extension, key, value, is_global=kind == b"g")

    def _records(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Split pax records: decimal length, blank, key, `=`, value, newline."""
        at = 0
        while at < len(data):
            blank = data.find(b" ", at, at + 8)
            digits = data[at:blank] if blank > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            record = data[at : at + length]
            key, equals, value = record[blank + 1 - at : -1].partition(b"=")
            if len(record) != length or not equals or record[-1:] != b"\n":
                raise self._error("a pax header is malformed")
            yield self._text(key, "pax key"), value
            at += length

    def _apply(self, extension: _Extension, key: str, value: bytes, *, is_global: bool) -> None:
        if key.startswith("GNU.sparse.") or key == "hdrcharset":
            raise self._error(f"pax key {key} is not supported")
        if key not in ("path", "linkpath", "size", "mtime"):
            return
        if is_global:
            raise self._error(f"a global pax header sets {key}")
        if key == "path":
            extension.name = self._text(value, "name")
        elif key == "linkpath":
            extension.target = self._text(value, "link target")
        elif key == "size":
            if not value.isdigit() or len(value) > 19:
                raise self._error("a pax size is not a number")
            extension.size = int(value)
        else:
            seconds = value.partition(b".")[0]
            if not seconds.lstrip(b"-").isdigit() or len(seconds) > 12:
                raise self._error("a pax time is not a number")
            extension.mtime = int(seconds)

    def _member(self, header: bytes, extension: _Extension) -> Member:
        flag = header[156:157]
        raw_name = _until_nul(header[0:100])
        if header[257:263] == b"ustar\0" and header[345]:
            raw_name = _until_nul(header[345:500]) + b"/" + raw_name
        name = extension.name if extension.name is not None else self._text(raw_name, "name")
        if flag in _REFUSED:
            raise self._error(f"{name!r} is {_REFUSED[flag]}, which is refused")
        if flag not in _KINDS:
            raise UnsupportedError(
                f"{name!r} is a member of unknown type {flag!r}",
                file=self._reader.file,
                offset=self._offset - BLOCK,
            )
        kind = _KINDS[flag]
        if kind is Kind.FILE and name.endswith("/"):
            kind = Kind.DIRECTORY
        size = extension.size
        if size is None:
            size = self._number(header[124:136], "size")
        if kind is not Kind.FILE and size:
            raise self._error(f"{name!r} is a {kind.value} with content")
        mtime = extension.mtime
        if mtime is None:
            mtime = self._number(header[136:148], "time")
        target = ""
        if kind is Kind.SYMLINK:
            target = extension.target or self._text(_until_nul(header[157:257]), "link target")
        return Member(
            name=self._safe_name(name),
            kind=kind,
            size=size,
            executable=bool(self._number(header[100:108], "mode") & 0o100),
            mtime=min(max(mtime, 0), 0xFFFFFFFF),
            target=target,
        )

    def _admit(self, member: Member) -> None:
        """Check a member against the limits and against those before it."""
        self._bound()
        if member.size > self._limits.member_size:
            raise LimitError(
                f"{member.name!r} is too large",
                file=self._reader.file,
                offset=self._offset - BLOCK,
                expected=f"at most {self._limits.member_size} bytes",
                found=f"{member.size} bytes",
            )
        if member.kind is Kind.SYMLINK:
            self._check_link(member)
        before = self._seen.get(member.name)
        both_directories = before is Kind.DIRECTORY and member.kind is Kind.DIRECTORY
        if before is not None and not both_directories:
            raise self._error(f"{member.name!r} is there twice")
        parent = member.name.rpartition("/")[0]
        while parent:
            kind = self._seen.get(parent, Kind.DIRECTORY)
            if kind is not Kind.DIRECTORY:
                raise self._error(f"{member.name!r} lies below {parent!r}, which is a {kind.value}")
            if parent in self._seen:
                break
            self._seen[parent] = Kind.DIRECTORY
            self._bound()
            parent = parent.rpartition("/")[0]
        if member.name:
            self._seen[member.name] = member.kind

    def _bound(self) -> None:
        if len(self._seen) >= self._limits.members:
            raise LimitError(
                "the archive has too many members",
                file=self._reader.file,
                expected=f"at most {self._limits.members}",
            )

    def _check_link(self, member: Member) -> None:
        target = member.target
        if self._symlinks is Symlinks.REFUSE:
            raise self._error(f"{member.name!r} is a symbolic link, which is refused")
        parts = target.split("/")
        ups = 0
        while ups < len(parts) and parts[ups] == "..":
            ups += 1
        # `..` behind a name could climb out through another link
        if (
            not target
            or target.startswith("/")
            or ".." in parts[ups:]
            or ups > member.name.count("/")
            or len(target.encode()) > self._limits.name_bytes
        ):
            raise self._error(
                f"{member.name!r} is a symbolic link to {target!r}, which may lead out of the tree"
            )

    def _safe_name(self, name: str) -> str:
        plain = name[:-1] if name.endswith("/") else name
        while plain.startswith("./"):
            plain = plain[2:]
        if plain in ("", "."):
            if name in (".", "./"):
                return ""
            raise self._error(f"a member's name is empty or absolute: {name!r}")
        if plain.startswith("/"):
            raise self._error(f"a member's name is absolute: {name!r}")
        parts = plain.split("/")
        if ".." in parts:
            raise self._error(f"a member's name has '..': {name!r}")
        if "" in parts or "." in parts:
            raise self._error(f"a member's name has an empty part: {name!r}")
        if len(plain.encode()) > self._limits.name_bytes or len(parts) > self._limits.depth:
            raise LimitError(
                "a member's name is too long or too deep",
                file=self._reader.file,
                offset=self._offset - BLOCK,
                expected=f"at most {self._limits.name_bytes} bytes in {self._limits.depth} parts",
            )
        return plain

    def _text(self, raw: bytes, what: str) -> str:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error(f"a {what} is not UTF-8: {raw[:64]!r}") from None
        if not text.isprintable():
            raise self._error(f"a {what} has control characters: {text[:64]!r}")
        return text

    def _number(self, raw: bytes, what: str) -> int:
        """Read an octal field, or GNU's base-256 form of large numbers."""
        if raw[0] == 0x80:
            return int.from_bytes(raw[1:], "big")
        digits = raw.strip(b" \0")
        if not digits:
            return 0
        if digits.strip(b"01234567"):
            raise self._error(f"a member's {what} is not a number: {raw!r}")
        return int(digits, 8)


def _until_nul(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _check_sum(header: bytes, stream: TarStream) -> None:
    """Compare the header's checksum, in which its own field counts as blanks."""
    expected = stream._number(header[148:156], "checksum")
    blanked = header[:148] + b" " * 8 + header[156:]
    signed = sum(blanked) - 256 * sum(1 for byte in blanked if byte > 127)
    if expected not in (sum(blanked), signed):
        raise stream._error("this is not a tar header: its checksum is wrong", stream._offset)


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


_FOLDER, _FILE, _PROGRAM, _LINK = "d", "f", "x", "l"


@dataclass(frozen=True)
class Entry:
    """One thing in the tree.

    Attributes:
        kind: `d` folder, `f` file, `x` file that may be executed, `l` symbolic link.
        path: below the top folder, `/` between its parts.
        value: of a file its SHA-256 in lower-case hexadecimal, of a link its target,
            of a folder nothing.
    """

    kind: str
    path: str
    value: str


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
        sha256: digest of the contents, in lower-case hexadecimal.
        archive_sha256: digest of the very bytes that they were read from.
        top: name of the top folder; it is not part of the contents.
        entries: sorted by path.
    """

    sha256: str
    archive_sha256: str
    top: str
    entries: tuple[Entry, ...]


def digest_entries(entries: Iterable[Entry]) -> str:
    """SHA-256 in hexadecimal over the entries, in the order of their paths' bytes.

    Each is three fields, kind, path and value, and each field ends with a zero byte,
    which none of them can hold.
    """
    digest = hashlib.sha256()
    for entry in sorted(entries, key=_path_bytes):
        digest.update(f"{entry.kind}\0{entry.path}\0{entry.value}\0".encode())
    return digest.hexdigest()


def _path_bytes(entry: Entry) -> bytes:
    return entry.path.encode()


def read_contents(archive: Path, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS) -> Contents:
    """Digest what a source archive holds, in one pass over it.

    Args:
        archive: a tar archive as `open_archive` takes it.
        limits: see `ArchiveLimits`.

    Raises:
        InputError: the file cannot be read.
        ArchiveError: it is broken or hostile, or has not exactly one top folder.
        LimitError: it is beyond the limits.
    """
    packed = hashlib.sha256()
    entries: dict[str, Entry] = {}
    top = ""
    with open_archive(archive, limits, Symlinks.INSIDE, packed=packed) as stream:
        for member in stream:
            first, _, path = member.name.partition("/")
            if not top:
                top = first
            if not first or first != top or (not path and member.kind is not Kind.DIRECTORY):
                raise ArchiveError(
                    f"{member.name or '.'!r} is not below one top folder",
                    file=str(archive),
                    expected=f"everything below {top!r}" if top else "a top folder",
                    hint="contents are digested below the one folder that holds everything",
                )
            if path:
                _add_folders(entries, path)
                entries[path] = _entry(member, path, stream, archive)
    if not any(entry.kind != _FOLDER for entry in entries.values()):
        raise ArchiveError("the archive has no file below a top folder", file=str(archive))
    ordered = tuple(sorted(entries.values(), key=_path_bytes))
    return Contents(digest_entries(ordered), packed.hexdigest(), top, ordered)


def _add_folders(entries: dict[str, Entry], path: str) -> None:
    """Some packers name the folders, some leave them to be inferred."""
    folder = path.rpartition("/")[0]
    while folder and folder not in entries:
        entries[folder] = Entry(_FOLDER, folder, "")
        folder = folder.rpartition("/")[0]


def _entry(member: Member, path: str, stream: TarStream, archive: Path) -> Entry:
    if member.kind is Kind.DIRECTORY:
        return Entry(_FOLDER, path, "")
    if member.kind is Kind.SYMLINK:
        if leads_out(path, member.target):
            raise ArchiveError(
                f"{member.name!r} is a symbolic link to {member.target!r},"
                " which may lead out of the tree",
                file=str(archive),
            )
        return Entry(_LINK, path, member.target)
    digest = hashlib.sha256()
    for chunk in stream.content():
        digest.update(chunk)
    return Entry(_PROGRAM if member.executable else _FILE, path, digest.hexdigest())
