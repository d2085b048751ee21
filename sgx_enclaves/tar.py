# SPDX-License-Identifier: GPL-2.0-or-later
"""A strict reader of tar streams: ustar, pax and GNU long names, nothing else.

Knows the tar format (POSIX.1-2017 `pax`, GNU tar's manual, "Basic Tar Format").
Never seeks, never writes, never holds more than one header or one chunk.

Python's own `tarfile` repairs and guesses; here an archive is evidence, so what
is odd is refused: links that leave the tree, devices, sparse files, absolute
and `..` names, a name that comes twice, bytes behind the end.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional, Union

from sgx_enclaves.decompress import BoundedReader
from sgx_enclaves.errors import ArchiveError, LimitError, UnsupportedError
from sgx_enclaves.files import kind_of
from sgx_enclaves.limits import ArchiveLimits, at_most
from sgx_enclaves.plain import record

BLOCK = 512
_CHUNK = 256 << 10
# A pax header holds names and times; 64 KiB is far above the longest name.
_EXTENSION_BYTES = 64 << 10
_EXTENSIONS_IN_A_ROW = 8
_LONGEST_SIZE = 19
_LONGEST_TIME = 12


class MemberKind(enum.Enum):
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


@record
class Member:
    """One entry of an archive.

    Attributes:
        name: path with `/` between its parts, without a leading `./` or a trailing `/`.
        mtime: seconds since 1970.
        target: where a symbolic link points, else empty.
    """

    name: str
    kind: MemberKind
    size: int
    executable: bool
    mtime: int
    target: str


_KINDS = {
    **dict.fromkeys((b"0", b"\0", b"7"), MemberKind.FILE),
    b"5": MemberKind.DIRECTORY,
    b"2": MemberKind.SYMLINK,
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
# GNU's extension headers, and the pax keys that say the same.
_GNU_LONG = {b"L": "path", b"K": "linkpath"}
_COMMIT = re.compile(rb"[0-9a-f]{40}")
_PAX_KEYS = frozenset({"path", "linkpath", "size", "mtime"})


class TarStream:
    """The members of a tar archive, one after the other.

    Iterate over it; between two steps `content()` gives the bytes of the member
    last seen. What is not read is skipped. The iteration ends only when the
    whole stream has been seen, so that a truncated archive is always noticed.
    """

    def __init__(
        self, reader: BoundedReader, limits: ArchiveLimits, symlinks: Symlinks = Symlinks.REFUSE
    ) -> None:
        self._reader = reader
        self._limits = limits
        self._symlinks = symlinks
        self._seen: dict[str, MemberKind] = {}
        self._offset = 0
        self._left = 0
        # of the tree that `git archive` packed; empty if there is none
        self.commit = ""

    def __iter__(self) -> Iterator[Member]:
        """Yield each member in the archive's order."""
        extended: dict[str, Any] = {}
        in_a_row = 0
        while True:
            header = self._next_header()
            if header is None:
                if in_a_row:
                    raise self._error("an extension header without a member")
                return
            kind = header[156:157]
            if kind in (b"x", b"g", *_GNU_LONG):
                in_a_row += 1
                if in_a_row > _EXTENSIONS_IN_A_ROW:
                    raise self._error("too many extension headers in a row")
                extended.update(self._extension(kind, header))
                continue
            member = self._member(header, extended)
            extended, in_a_row = {}, 0
            self._admit(member)
            self._left = member.size
            yield member
            for _chunk in self.content():
                pass
            self._take(-member.size % BLOCK)

    def content(self) -> Iterator[bytes]:
        """Yield the bytes of the member last seen, in chunks of at most 256 KiB."""
        while self._left:
            chunk = self._take(min(self._left, _CHUNK))
            self._left -= len(chunk)
            yield chunk

    def _error(self, message: str) -> ArchiveError:
        return ArchiveError(
            message,
            file=self._reader.file,
            offset=self._offset,
            hint="offsets count unpacked bytes",
        )

    def _beyond(
        self, message: str, expected: str, found: Optional[str] = None, back: int = BLOCK
    ) -> LimitError:
        at = self._offset - back
        return LimitError(
            message, file=self._reader.file, offset=at, expected=expected, found=found
        )

    def _take(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._offset += len(data)
        if len(data) != size:
            raise self._error("the archive ends too early")
        return data

    def _first_header(self) -> bytes:
        """Where whatever is no tar archive at all is found out."""
        header = self._reader.read(BLOCK)
        self._offset += len(header)
        digits = header[148:156].strip(b" \0")
        if header.strip(b"\0") and (not digits or digits.strip(b"01234567")):
            raise ArchiveError(
                "no tar archive",
                file=self._reader.file,
                expected="a tar archive, packed with gzip, xz, zstd or not at all",
                found=kind_of(header),
            )
        if len(header) != BLOCK:
            raise self._error("the archive ends too early")
        return header

    def _next_header(self) -> Optional[bytes]:
        header = self._take(BLOCK) if self._offset else self._first_header()
        if header.strip(b"\0"):
            # its own field counts as blanks; some tars added up signed bytes
            blanked = header[:148] + b" " * 8 + header[156:]
            signed = sum(blanked) - 256 * sum(byte > 127 for byte in blanked)
            if self._number(header[148:156], "checksum") not in (sum(blanked), signed):
                raise self._error("this is not a tar header: its checksum is wrong")
            return header
        while rest := self._reader.read(_CHUNK):
            if rest.strip(b"\0"):
                raise self._error("bytes behind the end of the archive")
            self._offset += len(rest)
        return None

    def _extension(self, kind: bytes, header: bytes) -> dict[str, Any]:
        """What a pax or GNU header says about the next member, by pax key."""
        size = self._number(header[124:136], "size")
        if size > _EXTENSION_BYTES:
            expected, found = f"at most {_EXTENSION_BYTES} bytes", f"{size} bytes"
            raise self._beyond("an extension header is too large", expected, found, 0)
        data = self._take(size)
        self._take(-size % BLOCK)
        if kind in _GNU_LONG:
            key = _GNU_LONG[kind]
            return {key: self._extended(key, data.rstrip(b"\0"))}
        said = {}
        for key, value in self._pax_records(data):
            if key.startswith("GNU.sparse.") or key == "hdrcharset":
                raise self._error(f"pax key {key} is not supported")
            if kind == b"g" and key == "comment" and _COMMIT.fullmatch(value):
                self.commit = value.decode("ascii")
            if key in _PAX_KEYS:
                if kind == b"g":
                    raise self._error(f"a global pax header sets {key}")
                said[key] = self._extended(key, value)
        return said

    def _extended(self, key: str, value: bytes) -> Union[str, int]:
        if key in _GNU_LONG.values():
            return self._text(value, "name" if key == "path" else "link target")
        if key == "size":
            if not value.isdigit() or len(value) > _LONGEST_SIZE:
                raise self._error("a pax size is not a number")
            return int(value)
        seconds = value.partition(b".")[0]
        if not seconds.removeprefix(b"-").isdigit() or len(seconds) > _LONGEST_TIME:
            raise self._error("a pax time is not a number")
        return int(seconds)

    def _pax_records(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Split pax records: decimal length, blank, key, `=`, value, newline."""
        at = 0
        while at < len(data):
            blank = data.find(b" ", at, at + 8)
            digits = data[at:blank] if blank > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            line = data[at : at + length]
            key, equals, value = line[blank + 1 - at : -1].partition(b"=")
            if len(line) != length or not equals or line[-1:] != b"\n":
                raise self._error("a pax header is malformed")
            yield self._text(key, "pax key"), value
            at += length

    def _member(self, header: bytes, extended: Mapping[str, Any]) -> Member:
        flag = header[156:157]
        name = extended.get("path")
        if name is None:
            raw_name = header[0:100].partition(b"\0")[0]
            if header[257:263] == b"ustar\0" and header[345]:
                raw_name = header[345:500].partition(b"\0")[0] + b"/" + raw_name
            name = self._text(raw_name, "name")
        if flag in _REFUSED:
            raise self._error(f"{name!r} is {_REFUSED[flag]}, which is refused")
        if flag not in _KINDS:
            raise UnsupportedError(
                f"{name!r} is a member of unknown type {flag!r}",
                file=self._reader.file,
                offset=self._offset - BLOCK,
            )
        kind = _KINDS[flag]
        if kind is MemberKind.FILE and name.endswith("/"):
            kind = MemberKind.DIRECTORY
        size = extended["size"] if "size" in extended else self._number(header[124:136], "size")
        if kind is not MemberKind.FILE and size:
            raise self._error(f"{name!r} is a {kind.value} with content")
        mtime = extended["mtime"] if "mtime" in extended else self._number(header[136:148], "time")
        target = ""
        if kind is MemberKind.SYMLINK:
            raw_target = header[157:257].partition(b"\0")[0]
            target = extended.get("linkpath") or self._text(raw_target, "link target")
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
            expected, found = f"at most {self._limits.member_size} bytes", f"{member.size} bytes"
            raise self._beyond(f"{member.name!r} is too large", expected, found)
        if member.kind is MemberKind.SYMLINK:
            self._check_link(member)
        before = self._seen.get(member.name)
        both_directories = before is MemberKind.DIRECTORY and member.kind is MemberKind.DIRECTORY
        if before is not None and not both_directories:
            raise self._error(f"{member.name!r} is there twice")
        parent = member.name.rpartition("/")[0]
        while parent:
            kind = self._seen.get(parent, MemberKind.DIRECTORY)
            if kind is not MemberKind.DIRECTORY:
                raise self._error(f"{member.name!r} lies below {parent!r}, which is a {kind.value}")
            if parent in self._seen:
                break
            self._seen[parent] = MemberKind.DIRECTORY
            self._bound()
            parent = parent.rpartition("/")[0]
        if member.name:
            self._seen[member.name] = member.kind

    def _bound(self) -> None:
        message, file = "the archive has too many members", self._reader.file
        at_most(self._limits.members, len(self._seen) + 1, message, file=file)

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
            raise self._error(leads_out(member))

    def _safe_name(self, name: str) -> str:
        plain = name[:-1] if name.endswith("/") else name
        while plain.startswith("./"):
            plain = plain[2:]
        if name in (".", "./"):
            return ""
        parts = plain.split("/")
        if plain.startswith("/") or plain in ("", "."):
            raise self._error(f"a member's name is empty or absolute: {name!r}")
        if ".." in parts:
            raise self._error(f"a member's name has '..': {name!r}")
        if "" in parts or "." in parts:
            raise self._error(f"a member's name has an empty part: {name!r}")
        most, depth = self._limits.name_bytes, self._limits.depth
        if len(plain.encode()) > most or len(parts) > depth:
            raise self._beyond(
                "a member's name is too long or too deep", f"at most {most} bytes in {depth} parts"
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
        if digits.strip(b"01234567"):
            raise self._error(f"a member's {what} is not a number: {raw!r}")
        return int(digits or b"0", 8)


def leads_out(member: Member) -> str:
    """What is wrong with a symbolic link that leaves its tree."""
    return (
        f"{member.name!r} is a symbolic link to {member.target!r}, which may lead out of the tree"
    )
