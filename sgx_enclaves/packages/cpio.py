# SPDX-License-Identifier: GPL-2.0-or-later
"""A strict reader of the cpio streams that RPM writes.

Knows `newc` (magic 070701, and 070702 with a sum that RPM never uses) and RPM's
own stripped form for files of 4 GiB and more (magic 07070X), whose entries are
nothing but the number of a file in the header. Never seeks, never writes,
never holds more than one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional, Protocol

from sgx_enclaves.errors import LimitError, PackageDamagedError, PackageError
from sgx_enclaves.records import record

CHUNK = 256 << 10
_MAGIC_SIZE = 6
_NEWC = (b"070701", b"070702")
_STRIPPED = b"07070X"
_NEWC_FIELDS = 13
_FIELD = 8
_TRAILER = b"TRAILER!!!"
# RPM ends at the trailer; others fill up a block of 512 bytes.
_PADDING = 512


class Reader(Protocol):
    """The unpacked payload."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""


@record
class CpioEntry:
    """One entry.

    Attributes:
        name: its path; None in the stripped form.
        index: number of the file in the header; None in `newc`.
        mode: file type and permission bits; None in the stripped form.
        size: bytes of content that follow.
        offset: where it starts in the unpacked payload.
    """

    name: Optional[str]
    index: Optional[int]
    mode: Optional[int]
    size: int
    offset: int


class CpioStream:
    """The entries of a cpio archive, one after the other.

    Iterate over it; between two steps `content()` gives the bytes of the entry
    last seen. What is not read is skipped.

    Args:
        reader: the unpacked payload.
        file: the package, for messages.
        size_of: bytes of content of the file with this number in the header; asked
            for in the stripped form only, where the payload does not say.
        entries: how many entries there may be.
        name_size: how long a name may be, bytes.
    """

    def __init__(
        self,
        reader: Reader,
        file: str,
        size_of: Callable[[int], int],
        *,
        entries: int,
        name_size: int,
    ) -> None:
        self._reader = reader
        self._file = file
        self._size_of = size_of
        self._entries = entries
        self._name_size = name_size
        self._offset = 0
        self._left = 0

    def __iter__(self) -> Iterator[CpioEntry]:
        """Yield each entry in the archive's order, to the end of the stream.

        Raises:
            PackageError: not cpio, or malformed.
            PackageDamagedError: it ends too early.
            LimitError: too many entries, or a name that is too long.
        """
        seen = 0
        while True:
            entry = self._next()
            if entry is None:
                self._end()
                return
            seen += 1
            if seen > self._entries:
                raise LimitError(
                    "the payload has too many entries",
                    file=self._file,
                    expected=f"at most {self._entries}, as many as the header lists",
                )
            self._left = entry.size
            yield entry
            for _chunk in self.content():
                pass
            self._align()

    def content(self) -> Iterator[bytes]:
        """Yield the bytes of the entry last seen, in chunks of at most 256 KiB."""
        while self._left:
            chunk = self._take(min(self._left, CHUNK))
            self._left -= len(chunk)
            yield chunk

    def _next(self) -> Optional[CpioEntry]:
        start = self._offset
        magic = self._take(_MAGIC_SIZE)
        if magic == _STRIPPED:
            index = self._number(self._take(_FIELD), start)
            self._align()
            return CpioEntry(None, index, None, self._size_of(index), start)
        if magic not in _NEWC:
            raise PackageError(
                "not a cpio entry where one should be in the payload",
                file=self._file,
                offset=start,
                expected="070701 or 07070X",
                found=magic.hex(),
                hint="offsets count unpacked bytes of the payload",
            )
        fields = self._take(_NEWC_FIELDS * _FIELD)
        mode, size, name_size = (
            self._number(fields[at * _FIELD : (at + 1) * _FIELD], start) for at in (1, 6, 11)
        )
        if not 0 < name_size <= self._name_size:
            raise LimitError(
                "a name in the payload is empty or too long",
                file=self._file,
                offset=start,
                expected=f"1 to {self._name_size} bytes",
                found=f"{name_size} bytes",
            )
        name = self._take(name_size)
        self._align()
        if name[-1] or b"\0" in name[:-1]:
            raise PackageError("a name in the payload has no end", file=self._file, offset=start)
        if name[:-1] == _TRAILER:
            if size:
                raise PackageError("the trailer has content", file=self._file, offset=start)
            return None
        text = name[:-1].decode("utf-8", "surrogateescape")
        return CpioEntry(text, None, mode, size, start)

    def _end(self) -> None:
        rest = self._reader.read(_PADDING + 1)
        if len(rest) > _PADDING or rest.strip(b"\0"):
            raise PackageError(
                "there are bytes behind the end of the payload",
                file=self._file,
                offset=self._offset,
            )

    def _take(self, size: int) -> bytes:
        data = self._reader.read(size)
        self._offset += len(data)
        if len(data) != size:
            raise PackageDamagedError(
                "the payload ends too early",
                file=self._file,
                offset=self._offset,
                expected=f"{size - len(data)} more bytes",
                hint="offsets count unpacked bytes of the payload",
            )
        return data

    def _align(self) -> None:
        self._take(-self._offset % 4)

    def _number(self, digits: bytes, start: int) -> int:
        # int() would take blanks, signs and underscores too.
        if digits.strip(b"0123456789abcdefABCDEF"):
            raise PackageError(
                "a field of a cpio entry is not a number",
                file=self._file,
                offset=start,
                found=digits.hex(),
            )
        return int(digits, 16)
