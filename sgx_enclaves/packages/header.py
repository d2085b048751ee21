# SPDX-License-Identifier: GPL-2.0-or-later
"""The lead and the two headers of an RPM file, as tags and values.

Knows the container format (RPM's "Package format" reference manual, V3 to V6):
a lead of 96 bytes, a signature header padded to 8 bytes, the main header, the
payload. Every offset is checked here, once; values are decoded when asked for.
Judges no OpenPGP signature: that a package is somebody's is another question
than what is in it.
"""

from __future__ import annotations

import enum
import hashlib
import io
import struct
from typing import BinaryIO, Optional

from sgx_enclaves.errors import LimitError, PackageDamagedError, PackageError
from sgx_enclaves.packages.limits import PackageLimits

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
