# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded decompression: gzip, xz, zstd or plain bytes as one stream.

Knows compression formats by their first bytes. Never holds more than one chunk
of output, and stops as soon as the output is larger than it may be, absolutely
or in proportion to the input read so far. For zstd it takes whatever this Python has: its
own module from 3.14 on, the backport, zstandard, or pyzstd.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import importlib
import lzma
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional, Union

from sgx_enclaves.errors import ArchiveError, LimitError, UnsupportedError
from sgx_enclaves.files import Readable
from sgx_enclaves.limits import MIB, ArchiveLimits, at_most

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# As much as the zstd program itself takes by default.
_WINDOW_LOG = 27
_MODULES = ("compression.zstd", "backports.zstd", "zstandard", "pyzstd")


@functools.cache
def _zstd() -> Any:
    """The first module for zstd that is installed; to look for the others again takes time."""
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


_MAGICS = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": ZSTD_MAGIC}
_INPUT_CHUNK = 64 << 10
_OUTPUT_CHUNK = 256 << 10
# xz -9 needs 65 MiB to decompress; more is a dictionary made to hurt.
_XZ_MEMORY = 96 * MIB
# Files may be several streams; thousands of empty ones only burn time. Those of zstd are small:
# some tools begin one for every file.
_STREAMS = 1024
_FRAMES = 1 << 20


# What the decompressors have in common: `eof`, `unused_data`, and `decompress(data, max_length)`.
_Decoder = Any
_BOMB = "this looks like a decompression bomb"


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


# How each kind is unpacked, and what is raised when it is broken.
_DECODERS: Mapping[str, tuple[Callable[[], _Decoder], type[Exception]]] = {
    "gzip": (lambda: zlib.decompressobj(wbits=31), zlib.error),
    "xz": (
        lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
        lzma.LZMAError,
    ),
    "lzma": (
        lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY),
        lzma.LZMAError,
    ),
    "bzip2": (bz2.BZ2Decompressor, OSError),
}


class _Packed:
    """The packed bytes, counted and bounded.

    Apart from the reader, since zstandard's reader holds on to it: in a circle of
    both, Python would never free it.
    """

    def __init__(self, raw: Readable, file: str, limit: int) -> None:
        self._raw = raw
        self._file = file
        self._limit = limit
        self.head = raw.read(6)
        self.consumed = len(self.head)
        self._pending = self.head

    def read(self, _size: int = -1) -> bytes:
        """The next piece; empty at the end."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        try:
            data = self._raw.read(_INPUT_CHUNK)
        except OSError as error:
            raise ArchiveError(f"cannot be read: {error.strerror}", file=self._file) from None
        self.consumed += len(data)
        at_most(self._limit, self.consumed, "the archive is too large", "bytes", file=self._file)
        return data


class BoundedReader:
    """A readable stream of the unpacked bytes, with every bound applied.

    Args:
        packed_by: "gzip", "xz", "zstd", "bzip2" or "lzma"; None finds out the first three,
            and what is not packed, by the first bytes.
    """

    def __init__(
        self, raw: Readable, file: str, limits: ArchiveLimits, packed_by: Optional[str] = None
    ) -> None:
        self.file = file
        self._packed_by = packed_by
        self.produced = 0
        self._limits = limits
        self._packed = _Packed(raw, file, limits.archive_size)
        self._chunks = self._open()
        self._buffer = b""
        self._at = 0

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces as they come, instead of `read`; raises as that does."""
        return self._chunks

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the stream."""
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

    def _count(self, chunk: bytes) -> bytes:
        self.produced += len(chunk)
        most, message = self._limits.total_size, "the archive unpacks to more than it may"
        at_most(most, self.produced, message, "bytes", file=self.file, hint=_BOMB)
        if (
            self.produced > self._limits.ratio_grace
            and self.produced > self._packed.consumed * self._limits.ratio
        ):
            raise LimitError(
                "the archive unpacks to far more than it holds",
                file=self.file,
                expected=f"at most {self._limits.ratio} bytes for a packed byte",
                found=f"{self.produced} bytes from {self._packed.consumed}",
                hint=_BOMB,
            )
        return chunk

    def _open(self) -> Iterator[bytes]:
        kind = self._packed_by or next(
            (kind for kind, magic in _MAGICS.items() if self._packed.head.startswith(magic)), ""
        )
        if kind == "zstd":
            return self._frames()
        if kind in _DECODERS:
            return self._streams(kind, *_DECODERS[kind])
        if kind:
            raise UnsupportedError(f"compressed with {kind}", file=self.file)
        return self._pulled(self._packed, ())

    def _frames(self) -> Iterator[bytes]:
        module = _zstd()
        if module is None:
            message = "compressed with zstd, and no Python module for it is installed"
            hint = "install python3-zstandard (on PyPI: zstandard, or pyzstd), or use Python 3.14"
            raise UnsupportedError(message, file=self.file, hint=hint)
        if module.__name__ == "zstandard":
            decompressor = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
            reader = decompressor.stream_reader(self._packed, read_across_frames=True)
            return self._pulled(reader, module.ZstdError)
        if module.__name__ == "pyzstd":
            options = {module.DParameter.windowLogMax: _WINDOW_LOG}
        else:
            options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
        make = functools.partial(module.ZstdDecompressor, None, options)
        return self._streams("zstd", make, module.ZstdError)

    def _streams(
        self, kind: str, make: Callable[[], _Decoder], broken: type[Exception]
    ) -> Iterator[bytes]:
        """Unpack one or more streams back to back, as all of them allow."""
        pending = self._packed.read()
        streams = 0
        most = _FRAMES if kind == "zstd" else _STREAMS
        while pending:
            streams += 1
            at_most(most, streams, f"the archive has too many {kind} streams", file=self.file)
            decoder = make()
            try:
                while not decoder.eof:
                    if not pending:
                        raise ArchiveError(f"the {kind} data ends too early", file=self.file)
                    for chunk in _drain(decoder, pending):
                        yield self._count(chunk)
                    pending = b"" if decoder.eof else self._packed.read()
            except broken as error:
                raise ArchiveError(f"the {kind} data is broken: {error}", file=self.file) from None
            pending = decoder.unused_data or self._packed.read()
            if kind == "zstd":
                continue
            # tape blocking and xz stream padding leave zeros behind the last stream
            while pending and not pending.strip(b"\0"):
                pending = self._packed.read()
            pending = pending.lstrip(b"\0")

    def _pulled(
        self, reader: Readable, broken: Union[type[Exception], tuple[()]]
    ) -> Iterator[bytes]:
        """Plain bytes, or zstandard's, which does not see whether the last frame is whole."""
        try:
            while chunk := reader.read(_OUTPUT_CHUNK):
                yield self._count(chunk)
        except broken as error:
            raise ArchiveError(f"the zstd data is broken: {error}", file=self.file) from None
