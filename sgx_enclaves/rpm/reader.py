# SPDX-License-Identifier: GPL-2.0-or-later
"""What a package's header says: who it is, what it provides, which files it holds.

Checks that the file list agrees with itself, so that the payload can be held
against it. Reads no payload.

How much memory and time a package may cost, whatever it claims about itself.

The lead and the two headers of an RPM file, as tags and values.

Knows the container format (RPM's "Package format" reference manual, V3 to V6):
a lead of 96 bytes, a signature header padded to 8 bytes, the main header, the
payload. Every offset is checked here, once; values are decoded when asked for.
Judges no OpenPGP signature: that a package is somebody's is another question
than what is in it.

A strict reader of the cpio streams that RPM writes.

Knows `newc` (magic 070701, and 070702 with a sum that RPM never uses) and RPM's
own stripped form for files of 4 GiB and more (magic 07070X), whose entries are
nothing but the number of a file in the header. Never seeks, never writes,
never holds more than one chunk.

The files of a package's payload, streamed and held against the header.

Every file's size, kind, link target and digest must be what the header says,
each file must come exactly once, and the compressed payload must have every
digest that the header pins. Never holds more than one chunk.

The quick way past a package that has nothing to do with enclaves.

Says yes only to what is certain: a package of the usual form, whose header has
the right digest, whose file has the stated size, and whose header nowhere has
a word that an enclave's package has. Whatever is odd gets a no, and with it the
thorough reading of `package.py`, which says what is wrong.

A package's header together with its files, wherever the files are.

In the package file; in a folder, where somebody has unpacked them already; or
installed. Whoever judges packages sees the same in each case, and in each case
a file is what the header says or an error: nothing depends on who unpacked it.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from typing import Any, BinaryIO, Callable, Optional, Protocol, cast

from sgx_enclaves.decompress import BoundedReader
from sgx_enclaves.enclave.elf import ELF_MAGIC
from sgx_enclaves.errors import (
    InputError,
    LimitError,
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB, ArchiveLimits, Limits
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.presence import HINTS


@record
class PackageLimits:
    """Upper bounds; what goes beyond raises `LimitError`.

    Attributes:
        header_entries: tags of one header.
        header_size: bytes of one header's data; kernels and TeX come near 20 MiB.
        items: items of one tag that is read, and so files of a package.
        path_size: bytes of a path.
        paths_size: bytes of all paths of a package together.
        enclaves: enclaves of a package; each costs a comparison. Fedora ships one a package.
        payload: the compressed payload; see `ArchiveLimits`.
        enclave: enclave files and config.xml files.
    """

    header_entries: int = 1 << 16
    header_size: int = 64 * MIB
    items: int = 500_000
    path_size: int = 4096
    paths_size: int = 128 * MIB
    enclaves: int = 64
    payload: ArchiveLimits = field(
        default=ArchiveLimits(archive_size=4096 * MIB, ratio=200, ratio_grace=64 * MIB)
    )
    enclave: Limits = DEFAULT_LIMITS


DEFAULT_PACKAGE_LIMITS = PackageLimits()


LEAD_SIZE = 96
LEAD_MAGIC = b"\xed\xab\xee\xdb"
# Those that rpm accepts.
LEAD_VERSIONS = (3, 4)
HEADER_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
_PREAMBLE = struct.Struct(">8sII")
_ENTRY = struct.Struct(">IIII")
_SIGNED_ENTRY = struct.Struct(">IIiI")
_READ_CHUNK = 1 << 20

REGION_SIGNATURE = 62
REGION_MAIN = 63
_TYPE_STRING = 6
_TYPE_BINARY = 7
_STRING_TYPES = frozenset({6, 8, 9})
# Bytes of an item by type; strings have none of their own.
_WIDTHS = {0: 0, 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
_INTEGER_FORMATS = {2: "B", 3: "H", 4: "I", 5: "Q"}


class SignatureTag(enum.IntEnum):
    """Tags of the signature header that are read (RPMSIGTAG_*)."""

    SHA1 = 269
    LONGSIZE = 270
    SHA256 = 273
    SHA3_256 = 279
    SIZE = 1000


class Tag(enum.IntEnum):
    """Tags of the main header that are read (RPMTAG_*)."""

    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    ARCH = 1022
    OLDFILENAMES = 1027
    FILESIZES = 1028
    FILEMODES = 1030
    FILEDIGESTS = 1035
    FILELINKTOS = 1036
    FILEFLAGS = 1037
    SOURCERPM = 1044
    PROVIDENAME = 1047
    FILEDEVICES = 1095
    FILEINODES = 1096
    PROVIDEFLAGS = 1112
    PROVIDEVERSION = 1113
    DIRINDEXES = 1116
    BASENAMES = 1117
    DIRNAMES = 1118
    PAYLOADFORMAT = 1124
    PAYLOADCOMPRESSOR = 1125
    LONGFILESIZES = 5008
    FILEDIGESTALGO = 5011
    PAYLOADDIGEST = 5092
    PAYLOADDIGESTALGO = 5093
    # ALT: of the unpacked payload.
    PAYLOADDIGESTALT = 5097
    PAYLOADSIZE = 5112
    PAYLOADSIZEALT = 5113
    PAYLOADSHA512 = 5121
    PAYLOADSHA512ALT = 5122
    PAYLOADSHA3_256 = 5123
    PAYLOADSHA3_256ALT = 5124


_HEADER_DIGESTS = (
    (SignatureTag.SHA3_256, "sha3_256"),
    (SignatureTag.SHA256, "sha256"),
    (SignatureTag.SHA1, "sha1"),
)


class Header:
    """One header structure.

    Args:
        file: the package, for messages.
        start: offset of the header in the package.
        index: its entries as they stand in the file, 16 bytes each.
        store: its data.
        limits: see `PackageLimits`.
        replaced: the last of several entries of a tag counts, as in a database, where
            a relocated package has its new paths behind the old ones; else one is all.

    Raises:
        PackageError: an entry of an unknown type, or one that leaves the data.
    """

    def __init__(
        self,
        file: str,
        start: int,
        index: bytes,
        store: bytes,
        limits: PackageLimits,
        *,
        replaced: bool = False,
    ) -> None:
        self.file = file
        self.start = start
        self._index = index
        self._store = store
        self._limits = limits
        self._entries: dict[int, tuple[int, int, int]] = {}
        for number, (tag, kind, offset, count) in enumerate(_ENTRY.iter_unpack(index)):
            width = _WIDTHS.get(kind, 1)
            if (
                (kind not in _WIDTHS and kind not in _STRING_TYPES)
                or offset + width * count > len(store)
                or count == 0
                or (tag in self._entries and not replaced)
            ):
                raise PackageError(
                    f"entry {number} of a header is malformed",
                    file=file,
                    offset=start + _PREAMBLE.size + number * _ENTRY.size,
                    expected=f"a new tag of a known type within {len(store)} bytes",
                    found=f"tag {tag}, type {kind}, {count} item(s) at {offset}",
                )
            self._entries[tag] = (kind, offset, count)

    @property
    def size(self) -> int:
        """Bytes of the header in the file."""
        return _PREAMBLE.size + len(self._index) + len(self._store)

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def digest(self, algorithm: str) -> str:
        """Digest of the header as RPM computes it, hexadecimal."""
        digest = hashlib.new(algorithm, usedforsecurity=False)
        count = len(self._index) // _ENTRY.size
        digest.update(_PREAMBLE.pack(HEADER_MAGIC, count, len(self._store)))
        digest.update(self._index)
        digest.update(self._store)
        return digest.hexdigest()

    def require_region(self, tag: int) -> None:
        """Refuse a header that is not one immutable region from end to end.

        Outside of the region there could be tags that no digest covers.

        Raises:
            PackageError: no region, or one that leaves something out.
        """
        kind, offset, count = self._entries.get(tag, (0, 0, 0))
        first = _ENTRY.unpack_from(self._index)[0] if self._index else None
        whole = first == tag and (kind, count) == (_TYPE_BINARY, _ENTRY.size)
        if whole:
            end = offset + _ENTRY.size
            trailer = _SIGNED_ENTRY.unpack_from(self._store, offset)
            wanted = (tag, _TYPE_BINARY, -len(self._index), _ENTRY.size)
            whole = end == len(self._store) and trailer == wanted
        if not whole:
            raise PackageError(
                "the header is not one immutable region",
                file=self.file,
                offset=self.start,
                hint="packages older than RPM 4 cannot be read",
            )

    def string(self, tag: int) -> Optional[str]:
        """The first string of a tag; None when it is not there.

        Raises:
            PackageError: the tag holds something else.
        """
        values = self.strings(tag)
        return values[0] if values else None

    def strings(self, tag: int) -> tuple[str, ...]:
        """All strings of a tag; none when it is not there.

        Raises:
            PackageError: the tag holds something else.
            LimitError: there are too many.
        """
        if tag not in self._entries:
            return ()
        kind, offset, count = self._entries[tag]
        if kind not in _STRING_TYPES or (kind == _TYPE_STRING and count != 1):
            raise self._wrong(tag, "text")
        self._bound(tag, count)
        end = offset - 1
        for _ in range(count):
            end = self._store.find(b"\0", end + 1)
            if end < 0:
                raise self._wrong(tag, f"{count} strings within the header")
        # Old packages hold names in other encodings: they must come out distinct.
        return tuple(self._store[offset:end].decode("utf-8", "surrogateescape").split("\0"))

    def integers(self, tag: int) -> tuple[int, ...]:
        """All numbers of a tag; none when it is not there.

        Raises:
            PackageError: the tag holds something else.
            LimitError: there are too many.
        """
        if tag not in self._entries:
            return ()
        kind, offset, count = self._entries[tag]
        if kind not in _INTEGER_FORMATS:
            raise self._wrong(tag, "numbers")
        self._bound(tag, count)
        return struct.unpack_from(f">{count}{_INTEGER_FORMATS[kind]}", self._store, offset)

    def integer(self, tag: int) -> Optional[int]:
        """The first number of a tag; None when it is not there."""
        values = self.integers(tag)
        return values[0] if values else None

    def _bound(self, tag: int, count: int) -> None:
        if count > self._limits.items:
            raise LimitError(
                f"tag {_tag_name(tag)} has too many items",
                file=self.file,
                expected=f"at most {self._limits.items}",
                found=str(count),
            )

    def _wrong(self, tag: int, expected: str) -> PackageError:
        return PackageError(
            f"tag {_tag_name(tag)} does not hold what it should",
            file=self.file,
            offset=self.start,
            expected=expected,
        )


def _tag_name(tag: int) -> str:
    return tag.name if isinstance(tag, enum.Enum) else str(tag)


def read_headers(stream: BinaryIO, file: str, limits: PackageLimits) -> tuple[Header, Header]:
    """The signature header and the main header; `stream` is then at the payload.

    The main header is held against the digest in the signature header.

    Args:
        stream: the package, at its start.
        file: its name, for messages.
        limits: see `PackageLimits`.

    Raises:
        PackageError: not an RPM package, or a malformed one.
        PackageDamagedError: truncated, or the header's digest is wrong.
        LimitError: a header is larger than `limits`.
    """
    lead = take(stream, LEAD_SIZE, file, 0)
    if lead[:4] != LEAD_MAGIC or lead[4] not in LEAD_VERSIONS:
        raise PackageError(
            "not an RPM package",
            file=file,
            offset=0,
            expected=LEAD_MAGIC.hex(),
            found=lead[:4].hex() or "an empty file",
        )
    if len(lead) < LEAD_SIZE:
        raise truncated(file, LEAD_SIZE, len(lead))
    signature = _read_header(stream, file, LEAD_SIZE, limits)
    end = LEAD_SIZE + signature.size
    padding = -signature.size % 8
    if len(take(stream, padding, file, end)) < padding:
        raise truncated(file, end + padding, end)
    main = _read_header(stream, file, end + padding, limits)
    main.require_region(REGION_MAIN)
    _check_digest(signature, main)
    return signature, main


def parse_header(data: bytes, file: str, limits: PackageLimits) -> Header:
    """A main header as the RPM database hands it out: without its magic.

    Args:
        data: number of entries, size of the data, entries, data.
        file: what to call the package in messages.
        limits: see `PackageLimits`.

    Raises:
        PackageError: malformed.
        LimitError: larger than `limits`.
    """
    stream = io.BytesIO(data if data.startswith(HEADER_MAGIC) else HEADER_MAGIC + data)
    header = _read_header(stream, file, 0, limits, replaced=True)
    if stream.read(1):
        raise PackageError("there are bytes behind the header", file=file, offset=header.size)
    return header


def _read_header(
    stream: BinaryIO, file: str, start: int, limits: PackageLimits, *, replaced: bool = False
) -> Header:
    preamble = take(stream, _PREAMBLE.size, file, start)
    if len(preamble) < _PREAMBLE.size:
        raise truncated(file, start + _PREAMBLE.size, start + len(preamble))
    magic, entries, size = _PREAMBLE.unpack(preamble)
    if magic != HEADER_MAGIC:
        raise PackageError(
            "no RPM header where one should be",
            file=file,
            offset=start,
            expected=HEADER_MAGIC.hex(),
            found=magic.hex(),
        )
    if entries > limits.header_entries or size > limits.header_size:
        raise LimitError(
            "a header is too large",
            file=file,
            offset=start,
            expected=f"at most {limits.header_entries} tags, {limits.header_size} bytes",
            found=f"{entries} tags, {size} bytes",
        )
    wanted = entries * _ENTRY.size + size
    data = take(stream, wanted, file, start)
    if len(data) < wanted:
        begin = start + _PREAMBLE.size
        raise truncated(file, begin + wanted, begin + len(data))
    index = data[: entries * _ENTRY.size]
    store = data[entries * _ENTRY.size :]
    return Header(file, start, index, store, limits, replaced=replaced)


def _check_digest(signature: Header, main: Header) -> None:
    """Hold the main header against every digest in the signature header."""
    pins = [(algorithm, signature.string(tag)) for tag, algorithm in _HEADER_DIGESTS]
    for algorithm, pinned in pins:
        found = main.digest(algorithm) if pinned is not None else None
        if found != pinned:
            raise PackageDamagedError(
                f"the {algorithm.upper()} digest of the header is wrong",
                file=main.file,
                offset=main.start,
                expected=pinned,
                found=found,
                hint="get the package again",
            )
    if all(pinned is None for _algorithm, pinned in pins):
        raise PackageError(
            "the package has no digest of its header",
            file=main.file,
            offset=signature.start,
            expected="SHA256HEADER or SHA1HEADER",
        )


def take(stream: BinaryIO, size: int, file: str, offset: int) -> bytes:
    """Up to `size` bytes, fewer only at the end; memory grows with what is there.

    Raises:
        PackageError: reading fails.
    """
    parts = []
    while size > 0:
        try:
            part = stream.read(min(size, _READ_CHUNK))
        except OSError as error:
            raise PackageError(
                f"cannot be read: {error.strerror or error}", file=file, offset=offset
            ) from None
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def truncated(file: str, expected: int, found: int) -> PackageDamagedError:
    """The error for a package that ends too early; both sizes in bytes."""
    return PackageDamagedError(
        "the package is truncated",
        file=file,
        offset=found,
        expected=f"{expected} bytes at least",
        found=f"{found} bytes",
        hint="get the package again",
    )


CHUNK = 256 << 10
_CPIO_MAGIC_SIZE = 6
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
        magic = self._take(_CPIO_MAGIC_SIZE)
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


# Enough for the headers of most packages in one read.
_FIRST = 32 << 10
_MOST = 8 << 20
_COUNTS = struct.Struct(">II")
_ENTRY_SIZE = 16
_PREAMBLE_SIZE = 16
_LIMITS = DEFAULT_PACKAGE_LIMITS
_HINTS = tuple(hint.encode() for hint in HINTS)


def is_plain(path: str) -> bool:
    """Whether a package is, as far as headers tell, intact and without enclaves."""
    try:
        # A pipe without a writer must not make us wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(handle)
        return stat.S_ISREG(status.st_mode) and _is_plain(path, handle, status.st_size)
    except (OSError, struct.error, SgxEnclavesError):
        return False
    finally:
        os.close(handle)


def _is_plain(path: str, handle: int, file_size: int) -> bool:
    data = os.read(handle, _FIRST)
    index = LEAD_SIZE + _PREAMBLE_SIZE
    if len(data) < index or data[:4] != LEAD_MAGIC or data[4] not in LEAD_VERSIONS:
        return False
    if data[LEAD_SIZE : index - 8] != HEADER_MAGIC:
        return False
    count, size = _COUNTS.unpack_from(data, index - 8)
    store = index + _ENTRY_SIZE * count
    start = store + size + -size % 8
    if data[start : start + 8] != HEADER_MAGIC:
        return False
    main_count, main_size = _COUNTS.unpack_from(data, start + 8)
    end = start + _PREAMBLE_SIZE + _ENTRY_SIZE * main_count + main_size
    if end > _MOST:
        return False
    if end > len(data):
        data += os.read(handle, end - len(data))
    if end > len(data) or any(data.find(hint, start, end) >= 0 for hint in _HINTS):
        return False
    signature = Header(path, LEAD_SIZE, data[index:store], data[store : store + size], _LIMITS)
    # From V6 on there is none, and the main header knows.
    stated = signature.integer(SignatureTag.SIZE)
    if stated is None:
        begin = start + _PREAMBLE_SIZE
        middle = begin + _ENTRY_SIZE * main_count
        main = Header(path, start, data[begin:middle], data[middle:end], _LIMITS)
        payload = main.integer(Tag.PAYLOADSIZE)
        stated = None if payload is None else end - start + payload
    digest = hashlib.sha256(memoryview(data)[start:end]).hexdigest()
    return (
        SignatureTag.LONGSIZE not in signature
        and stated == file_size - start
        and signature.string(SignatureTag.SHA256) == digest
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
