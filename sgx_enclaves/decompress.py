# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded decompression: gzip, xz, zstd or plain bytes as one stream.

Never holds more than one chunk of output, and stops as soon as the output is larger than it may
be, absolutely or in proportion to the input read so far. For zstd it takes whatever this Python
has: its own module from 3.14 on, the backport, zstandard, or pyzstd.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import importlib
import lzma
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional

from sgx_enclaves.errors import ArchiveError, LimitError, UnsupportedError
from sgx_enclaves.files import PACKED, Readable
from sgx_enclaves.limits import MIB, ArchiveLimits, at_most

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


_INPUT_CHUNK = 64 << 10
_OUTPUT_CHUNK = 256 << 10
# xz -9 needs 65 MiB to decompress; more is a dictionary made to hurt.
_XZ_MEMORY = 96 * MIB
# Files may be several streams; thousands of empty ones only burn time. Those of zstd are small:
# some tools begin one for every file.
_STREAMS = 1024
_FRAMES = 1 << 20
_BOMB = "this looks like a decompression bomb"


_lzma = functools.partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY)
# How each kind is unpacked, and what is raised when it is broken.
_DECODERS: Mapping[str, tuple[Callable[[], Any], type[Exception]]] = {
    "gzip": (functools.partial(zlib.decompressobj, wbits=31), zlib.error),
    "xz": (functools.partial(_lzma, lzma.FORMAT_XZ), lzma.LZMAError),
    "lzma": (functools.partial(_lzma, lzma.FORMAT_ALONE), lzma.LZMAError),
    "bzip2": (bz2.BZ2Decompressor, OSError),
}


class _Packed:
    """The packed bytes, counted and bounded."""

    def __init__(self, raw: Readable, file: str, limit: int) -> None:
        self.file, self.consumed = file, 0
        self._raw, self._limit, self._pending = raw, limit, b""
        self.head = self._pending = self.read(6)

    def read(self, size: int = _INPUT_CHUNK) -> bytes:
        """The next piece; empty at the end."""
        data, self._pending = self._pending, b""
        if data:
            return data
        try:
            data = self._raw.read(size)
        except OSError as error:
            raise ArchiveError(f"cannot be read: {error.strerror}", file=self.file) from None
        self.consumed += len(data)
        at_most(self._limit, self.consumed, "the archive is too large", "bytes", file=self.file)
        return data


def unpack(
    raw: Readable, file: str, limits: ArchiveLimits, packed_by: Optional[str] = None
) -> Iterator[bytes]:
    """The unpacked bytes, in pieces as they come, with every bound applied.

    `packed_by` is "gzip", "xz", "zstd", "bzip2" or "lzma"; by default the first bytes say which of
    the first three it is, or that it is not packed.
    """
    packed = _Packed(raw, file, limits.archive_size)
    found = (kind for kind, magic in PACKED.items() if packed.head.startswith(magic))
    kind = packed_by or next(found, "")
    if kind == "zstd":
        pieces = _frames(packed)
    elif kind in _DECODERS:
        pieces = _streams(packed, kind, *_DECODERS[kind])
    elif kind:
        raise UnsupportedError(f"compressed with {kind}", file=file)
    else:
        pieces = iter(packed.read, b"")
    produced, message = 0, "the archive unpacks to more than it may"
    for piece in pieces:
        produced += len(piece)
        at_most(limits.total_size, produced, message, "bytes", file=file, hint=_BOMB)
        if produced > max(limits.ratio_grace, packed.consumed * limits.ratio):
            raise LimitError(
                "the archive unpacks to far more than it holds",
                file=file,
                expected=f"at most {limits.ratio} bytes for a packed byte",
                found=f"{produced} bytes from {packed.consumed}",
                hint=_BOMB,
            )
        yield piece


def _frames(packed: _Packed) -> Iterator[bytes]:
    module = _zstd()
    if module is None:
        message = "compressed with zstd, and no Python module for it is installed"
        hint = "install python3-zstandard (on PyPI: zstandard, or pyzstd), or use Python 3.14"
        raise UnsupportedError(message, file=packed.file, hint=hint)
    if module.__name__ != "zstandard":
        # ZSTD_d_windowLogMax of zstd.h, for which each module has its own name.
        make = functools.partial(module.ZstdDecompressor, None, {100: _WINDOW_LOG})
        yield from _streams(packed, "zstd", make, module.ZstdError)
        return
    # It does not see whether the last frame is whole.
    decompressor = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
    reader = decompressor.stream_reader(packed, read_across_frames=True)
    try:
        while piece := reader.read(_OUTPUT_CHUNK):
            yield piece
    except module.ZstdError as error:
        raise ArchiveError(f"the zstd data is broken: {error}", file=packed.file) from None


def _streams(
    packed: _Packed, kind: str, make: Callable[[], Any], broken: type[Exception]
) -> Iterator[bytes]:
    """Unpack one or more streams back to back, as all of them allow.

    `make` makes what unpacks one: it has `eof`, `unused_data`, and `decompress(data, max_length)`.
    """
    pending = packed.read()
    streams = 0
    most = _FRAMES if kind == "zstd" else _STREAMS
    while pending:
        streams += 1
        at_most(most, streams, f"the archive has too many {kind} streams", file=packed.file)
        decoder = make()
        try:
            while not decoder.eof:
                if out := decoder.decompress(pending, _OUTPUT_CHUNK):
                    yield out
                # zlib hands input back that it had no room for, the others keep it.
                pending = getattr(decoder, "unconsumed_tail", b"")
                if not (decoder.eof or pending or len(out) == _OUTPUT_CHUNK):
                    pending = packed.read()
                    if not pending:
                        raise ArchiveError(f"the {kind} data ends too early", file=packed.file)
        except broken as error:
            raise ArchiveError(f"the {kind} data is broken: {error}", file=packed.file) from None
        pending = decoder.unused_data or packed.read()
        if kind == "zstd":
            continue
        # tape blocking and xz stream padding leave zeros behind the last stream
        while pending and not pending.strip(b"\0"):
            pending = packed.read()
        pending = pending.lstrip(b"\0")
