# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded decompression: gzip, xz, zstd or plain bytes as one stream.

Knows compression formats by their first bytes. Never holds more than one chunk
of output, and stops as soon as the output is larger than it may be, absolutely
or in proportion to the input read so far.
"""

from __future__ import annotations

import importlib
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sgx_enclaves.errors import ArchiveError, LimitError, UnsupportedError
from sgx_enclaves.limits import MIB

_GZIP_MAGIC = b"\x1f\x8b"
_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_INPUT_CHUNK = 64 << 10
_OUTPUT_CHUNK = 256 << 10
# xz -9 needs 65 MiB to decompress; more is a dictionary made to hurt.
_XZ_MEMORY = 96 * MIB
_ZSTD_WINDOW = 128 * MIB
# gzip and xz files may be several streams; thousands of empty ones only burn time.
_STREAMS = 1024


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may cost; what goes beyond raises `LimitError`.

    Attributes:
        archive_size: bytes of the packed file.
        members: entries, of any kind, with the directories that names imply.
        member_size: bytes of one unpacked member.
        total_size: bytes of the whole unpacked stream.
        ratio: unpacked bytes per packed byte, once past `ratio_grace`.
        ratio_grace: unpacked bytes that are free of the ratio; a small archive
            of zeros is harmless.
        name_bytes: bytes of a member's name or link target.
        depth: components of a member's name.
        kept_bytes: bytes of members that are held in memory at once.
    """

    archive_size: int = 1024 * MIB
    members: int = 100_000
    member_size: int = 512 * MIB
    total_size: int = 4096 * MIB
    ratio: int = 100
    ratio_grace: int = 16 * MIB
    name_bytes: int = 1024
    depth: int = 64
    kept_bytes: int = 512 * MIB


DEFAULT_ARCHIVE_LIMITS = ArchiveLimits()


class _Decoder(Protocol):
    """What zlib's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool:
        """Whether the stream is complete."""

    @property
    def unused_data(self) -> bytes:
        """Input behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Unpack at most so many bytes."""


def _drain(decoder: _Decoder, data: bytes) -> Iterator[bytes]:
    """Yield all that the input gives, in chunks of bounded size."""
    while True:
        out = decoder.decompress(data, _OUTPUT_CHUNK)
        if out:
            yield out
        # zlib hands input back that it had no room for, lzma keeps it
        data = getattr(decoder, "unconsumed_tail", b"")
        if decoder.eof or (not data and len(out) < _OUTPUT_CHUNK):
            return


def _decoder(kind: str) -> _Decoder:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _zstandard(file: str) -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise UnsupportedError(
            "the archive is compressed with zstd, and Python's zstandard module is not installed",
            file=file,
            hint="install python3-zstandard, or use a .gz or .xz archive",
        ) from None


class BoundedReader:
    """A readable stream of the unpacked bytes, with every bound applied.

    Args:
        raw: the packed file, open for reading at its start.
        file: its name, for messages.
        limits: see `ArchiveLimits`.
    """

    def __init__(self, raw: BinaryIO, file: str, limits: ArchiveLimits) -> None:
        self.file = file
        self.consumed = 0
        self.produced = 0
        self._raw = raw
        self._limits = limits
        self._head = raw.read(6)
        self.consumed = len(self._head)
        self._chunks = self._open()
        self._buffer = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the stream.

        Raises:
            ArchiveError: the compressed data is broken or truncated.
            LimitError: the output is larger than it may be.
        """
        parts = []
        while size > 0:
            if self._at == len(self._buffer):
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._buffer, self._at = chunk, 0
            part = self._buffer[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _read_input(self) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            return data
        try:
            data = self._raw.read(_INPUT_CHUNK)
        except OSError as error:
            raise ArchiveError(f"cannot be read: {error.strerror}", file=self.file) from None
        self.consumed += len(data)
        if self.consumed > self._limits.archive_size:
            raise LimitError(
                "the archive is too large",
                file=self.file,
                expected=f"at most {self._limits.archive_size} bytes",
            )
        return data

    def _count(self, chunk: bytes) -> bytes:
        self.produced += len(chunk)
        if self.produced > self._limits.total_size:
            raise LimitError(
                "the archive unpacks to more than it may",
                file=self.file,
                expected=f"at most {self._limits.total_size} bytes",
                hint="this looks like a decompression bomb",
            )
        if (
            self.produced > self._limits.ratio_grace
            and self.produced > self.consumed * self._limits.ratio
        ):
            raise LimitError(
                "the archive unpacks to far more than it holds",
                file=self.file,
                expected=f"at most {self._limits.ratio} bytes for a packed byte",
                found=f"{self.produced} bytes from {self.consumed}",
                hint="this looks like a decompression bomb",
            )
        return chunk

    def _open(self) -> Iterator[bytes]:
        if self._head.startswith(_GZIP_MAGIC):
            return self._streams("gzip")
        if self._head.startswith(_XZ_MAGIC):
            return self._streams("xz")
        if self._head.startswith(_ZSTD_MAGIC):
            return self._zstd(_zstandard(self.file))
        return self._plain()

    def _plain(self) -> Iterator[bytes]:
        while True:
            data = self._read_input()
            if not data:
                return
            yield self._count(data)

    def _streams(self, kind: str) -> Iterator[bytes]:
        """Unpack one or more streams back to back, as gzip and xz allow."""
        pending = self._read_input()
        streams = 0
        while pending:
            streams += 1
            if streams > _STREAMS:
                raise LimitError(
                    f"the archive has too many {kind} streams",
                    file=self.file,
                    expected=f"at most {_STREAMS}",
                )
            decoder = _decoder(kind)
            try:
                while not decoder.eof:
                    if not pending:
                        raise ArchiveError(f"the {kind} data ends too early", file=self.file)
                    for chunk in _drain(decoder, pending):
                        yield self._count(chunk)
                    pending = b"" if decoder.eof else self._read_input()
            except (zlib.error, lzma.LZMAError) as error:
                raise ArchiveError(f"the {kind} data is broken: {error}", file=self.file) from None
            pending = decoder.unused_data or self._read_input()
            # tape blocking and xz stream padding leave zeros behind the last stream
            while pending and not pending.strip(b"\0"):
                pending = self._read_input()
            pending = pending.lstrip(b"\0")

    def _zstd(self, zstandard: Any) -> Iterator[bytes]:
        """Unpack zstd frames; that the last one is whole, the reader of the content must see."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        reader = decompressor.stream_reader(
            _InputFile(self), read_size=_INPUT_CHUNK, read_across_frames=True
        )
        try:
            while True:
                chunk = reader.read(_OUTPUT_CHUNK)
                if not chunk:
                    break
                yield self._count(chunk)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"the zstd data is broken: {error}", file=self.file) from None


class _InputFile:
    """The packed bytes as the file object that zstandard wants."""

    def __init__(self, owner: BoundedReader) -> None:
        self._owner = owner

    def read(self, _size: int = -1) -> bytes:
        return self._owner._read_input()
