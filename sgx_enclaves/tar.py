# SPDX-License-Identifier: GPL-2.0-or-later
"""A strict reader of tar streams: ustar, pax and GNU long names, nothing else.

Source: POSIX.1-2017 `pax`; GNU tar's manual, "Basic Tar Format". Never seeks, never holds more than
one header or one chunk. Python's own `tarfile` repairs and guesses; here an archive is evidence, so
what is odd is refused: links that leave the tree, devices, sparse files, absolute and `..` names, a
name that comes twice, bytes behind the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.decompress import unpack
from sgx_enclaves.errors import ArchiveError, InputError, UnsupportedError
from sgx_enclaves.files import (
    DIRECTORY,
    FILE,
    LINK,
    PROGRAM,
    DigestedStream,
    kind_of,
    system_errors,
)
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.progress import Event, Progress, silent

_BLOCK = 512
_CHUNK = 256 << 10
# A pax header holds names and times; 64 KiB is far above the longest name.
_EXTENSION_BYTES = 64 << 10
_EXTENSIONS_IN_A_ROW = 8
KIND_WORDS = {FILE: "file", PROGRAM: "file", DIRECTORY: "directory", LINK: "symbolic link"}
_KINDS = {**dict.fromkeys((b"0", b"\0", b"7"), FILE), b"5": DIRECTORY, b"2": LINK}
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
# GNU's extension headers, and the pax keys that say the same; pax keys that are numbers.
_GNU_LONG = {b"L": "path", b"K": "linkpath"}
_TEXTS = {"path": "name", "linkpath": "link target"}
_NUMBERS = {
    "size": re.compile(rb"(\d{1,19})"),
    "mtime": re.compile(rb"(\d{1,12}|-\d{1,11})(?:\..*)?", re.DOTALL),
}
_COMMIT = re.compile(rb"[0-9a-f]{40}")


@record
class Member:
    """One entry of an archive, its name without a leading `./` or a trailing `/`, its kind as in
    `files.Entry`, its time in seconds since 1970; `target` is where a symbolic link points.
    """

    name: str
    kind: str
    size: int
    mtime: int
    target: str

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind in (FILE, PROGRAM)


@contextmanager
def open_tar(
    path: Path, *, dropped: Optional[int] = None, progress: Progress = silent
) -> Iterator[TarStream]:
    """Open a tar archive, packed with gzip, xz, zstd or not at all; see `TarStream`."""
    with system_errors(str(path), "cannot be opened"):
        # opening a pipe would wait for a writer
        if not path.is_file():
            what = "no archive, but a directory" if path.is_dir() else "there is no such file"
            raise InputError(what, file=str(path))
        raw = path.open("rb")
        size = path.stat().st_size
    with raw:
        packed = DigestedStream(raw, shown=lambda done: progress(Event(path.name, done, size)))
        yield TarStream(packed, str(path), dropped)


class TarStream:
    """The members of a tar archive, one after the other; between two, `content()` gives the bytes
    of the member last seen; what is not read is skipped. The iteration ends only when the whole
    stream has been seen, so that a truncated archive is always noticed.

    Without a number in `dropped` any symbolic link is refused: in an archive of binaries it has no
    business. With it, a relative one is allowed, as sources have, if it stays inside the tree once
    so many leading parts of each name are dropped. `packed` digests the packed file.
    """

    def __init__(self, packed: DigestedStream, file: str, dropped: Optional[int]) -> None:
        self.packed = packed
        self.file = file
        self._pieces = unpack(packed, file, DEFAULT_ARCHIVE_LIMITS)
        self._piece = memoryview(b"")
        self._dropped = dropped
        self._seen: dict[str, str] = {}
        self._offset = 0
        self._left = 0
        # of the tree that `git archive` packed; empty if there is none
        self.commit = ""

    def __iter__(self) -> Iterator[Member]:
        """Yield each member in the archive's order."""
        extended: dict[str, Any] = {}
        in_a_row = 0
        while (header := self._next_header()) is not None:
            flag = header[156:157]
            if flag in (b"x", b"g", *_GNU_LONG):
                in_a_row += 1
                if in_a_row > _EXTENSIONS_IN_A_ROW:
                    raise self._error("too many extension headers in a row")
                extended.update(self._extension(flag, header))
                continue
            member = self._member(flag, header, extended)
            extended, in_a_row = {}, 0
            self._admit(member)
            self._left = member.size
            yield member
            for _chunk in self.content():
                pass
            self._take(-member.size % _BLOCK)
        if in_a_row:
            raise self._error("an extension header without a member")

    def content(self) -> Iterator[bytes]:
        """Yield the bytes of the member last seen, in chunks of at most 256 KiB."""
        while self._left:
            chunk = self._take(min(self._left, _CHUNK))
            self._left -= len(chunk)
            yield chunk

    def _where(self, back: int = 0) -> dict[str, Any]:
        hint = "offsets count unpacked bytes"
        return {"file": self.file, "offset": self._offset - back, "hint": hint}

    def _error(self, message: str, back: int = 0) -> ArchiveError:
        return ArchiveError(message, **self._where(back))

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the stream."""
        parts = []
        while size and (piece := self._piece or memoryview(next(self._pieces, b""))):
            parts.append(piece[:size])
            self._piece = piece[size:]
            size -= len(parts[-1])
        data = b"".join(parts)
        self._offset += len(data)
        return data

    def _take(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) != size:
            raise self._error("the archive ends too early")
        return data

    def _next_header(self) -> Optional[bytes]:
        first, header = not self._offset, self._read(_BLOCK)
        digits = header[148:156].strip(b" \0")
        if first and header.strip(b"\0") and (not digits or digits.strip(b"01234567")):
            raise ArchiveError(
                "no tar archive",
                file=self.file,
                expected="a tar archive, packed with gzip, xz, zstd or not at all",
                found=kind_of(header),
            )
        if len(header) != _BLOCK:
            raise self._error("the archive ends too early")
        if header.strip(b"\0"):
            # its own field counts as blanks
            blanked = header[:148] + b" " * 8 + header[156:]
            if self._number(header[148:156], "checksum") != sum(blanked):
                raise self._error("this is not a tar header: its checksum is wrong")
            return header
        while rest := self._read(_CHUNK):
            if rest.strip(b"\0"):
                raise self._error("bytes behind the end of the archive", len(rest))
        return None

    def _extension(self, flag: bytes, header: bytes) -> dict[str, Any]:
        """What a pax or GNU header says about the next member, by pax key."""
        size = self._number(header[124:136], "size")
        message = "an extension header is too large"
        at_most(_EXTENSION_BYTES, size, message, "bytes", **self._where())
        data = self._take(size)
        self._take(-size % _BLOCK)
        if flag in _GNU_LONG:
            key = _GNU_LONG[flag]
            return {key: self._text(data.rstrip(b"\0"), _TEXTS[key])}
        said: dict[str, Any] = {}
        for key, value in self._pax_records(data):
            if key.startswith("GNU.sparse.") or key == "hdrcharset":
                raise self._error(f"pax key {key} is not supported")
            if flag == b"g" and key == "comment" and _COMMIT.fullmatch(value):
                self.commit = value.decode("ascii")
            if flag == b"g" and key in (*_TEXTS, *_NUMBERS):
                raise self._error(f"a global pax header sets {key}")
            if key in _TEXTS:
                said[key] = self._text(value, _TEXTS[key])
            elif key in _NUMBERS:
                number = _NUMBERS[key].fullmatch(value)
                if number is None:
                    raise self._error(f"a pax {'time' if key == 'mtime' else key} is not a number")
                said[key] = int(number[1])
        return said

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

    def _member(self, flag: bytes, header: bytes, extended: Mapping[str, Any]) -> Member:
        name = extended.get("path")
        if name is None:
            raw_name = header[0:100].partition(b"\0")[0]
            if header[257:263] == b"ustar\0" and header[345]:
                raw_name = header[345:500].partition(b"\0")[0] + b"/" + raw_name
            name = self._text(raw_name, "name")
        if flag in _REFUSED:
            raise self._error(f"{name!r} is {_REFUSED[flag]}, which is refused")
        if flag not in _KINDS:
            message = f"{name!r} is a member of unknown type {flag!r}"
            raise UnsupportedError(message, **self._where(_BLOCK))
        kind = DIRECTORY if _KINDS[flag] == FILE and name.endswith("/") else _KINDS[flag]
        executable = self._number(header[100:108], "mode") & 0o100
        kind = PROGRAM if kind == FILE and executable else kind
        size = extended["size"] if "size" in extended else self._number(header[124:136], "size")
        if kind in (DIRECTORY, LINK) and size:
            raise self._error(f"{name!r} is a {KIND_WORDS[kind]} with content")
        mtime = extended["mtime"] if "mtime" in extended else self._number(header[136:148], "time")
        target = ""
        if kind == LINK:
            raw_target = header[157:257].partition(b"\0")[0]
            target = extended.get("linkpath") or self._text(raw_target, "link target")
        return Member(self._safe_name(name), kind, size, min(max(mtime, 0), 0xFFFFFFFF), target)

    def _admit(self, member: Member) -> None:
        """Check a member against the limits and against those before it."""
        message, most = f"{member.name!r} is too large", DEFAULT_ARCHIVE_LIMITS.member_size
        at_most(most, member.size, message, "bytes", **self._where(_BLOCK))
        if member.kind == LINK:
            self._check_link(member)
        before = self._seen.get(member.name)
        if before is not None and not before == member.kind == DIRECTORY:
            raise self._error(f"{member.name!r} is there twice")
        parent = member.name
        while parent := parent.rpartition("/")[0]:
            kind = self._seen.setdefault(parent, DIRECTORY)
            if kind != DIRECTORY:
                below = f"{member.name!r} lies below {parent!r}"
                raise self._error(f"{below}, which is a {KIND_WORDS[kind]}")
        if member.name:
            self._seen[member.name] = member.kind
        message, most = "the archive has too many members", DEFAULT_ARCHIVE_LIMITS.members
        at_most(most, len(self._seen), message, file=self.file)

    def _check_link(self, member: Member) -> None:
        if self._dropped is None:
            raise self._error(f"{member.name!r} is a symbolic link, which is refused")
        parts = member.target.split("/")
        ups, deep = parts.count(".."), member.name.count("/")
        # a member that is dropped whole leads nowhere
        deep -= self._dropped if deep >= self._dropped else 0
        # `..` behind a name could climb out through another link
        if (
            not parts[0]
            or parts[:ups] != [".."] * ups
            or ups > deep
            or len(member.target.encode()) > DEFAULT_ARCHIVE_LIMITS.name_bytes
        ):
            link = f"{member.name!r} is a symbolic link to {member.target!r}"
            raise self._error(f"{link}, which may lead out of the tree")

    def _safe_name(self, name: str) -> str:
        if name in (".", "./"):
            return ""
        plain = re.sub(r"^(\./)+", "", name.removesuffix("/"))
        parts = plain.split("/")
        if plain.startswith("/") or plain in ("", "."):
            raise self._error(f"a member's name is empty or absolute: {name!r}")
        if ".." in parts:
            raise self._error(f"a member's name has '..': {name!r}")
        if "" in parts or "." in parts:
            raise self._error(f"a member's name has an empty part: {name!r}")
        where = self._where(_BLOCK)
        size, message = len(plain.encode()), "a member's name is too"
        at_most(DEFAULT_ARCHIVE_LIMITS.name_bytes, size, f"{message} long", "bytes", **where)
        at_most(DEFAULT_ARCHIVE_LIMITS.depth, len(parts), f"{message} deep", "parts", **where)
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
