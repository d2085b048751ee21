# SPDX-License-Identifier: GPL-2.0-or-later
"""Every Python module for zstd gives the same bytes, the same refusals and no leak."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import sys
import weakref
from collections.abc import Iterator
from typing import Optional

import pytest

from sgx_enclaves import decompress as zstd
from sgx_enclaves.decompress import unpack
from sgx_enclaves.errors import ArchiveError, LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits

zstandard = pytest.importorskip("zstandard", reason="the package zstandard is not there")
DATA = bytes(range(256)) * 5000


class Stream(io.BytesIO):
    """Bytes that can be watched."""


def pack(data: bytes, **parameters: int) -> bytes:
    chosen = zstandard.ZstdCompressionParameters(**parameters)
    packed: bytes = zstandard.ZstdCompressor(compression_params=chosen).compress(data)
    return packed


@pytest.fixture(name="module", params=zstd._MODULES)
def _module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the modules, and none of the others."""
    name: str = request.param
    try:
        importlib.import_module(name)
    except ImportError:
        if name != "compression.zstd":
            pytest.skip(f"{name} is not installed")
        backport = pytest.importorskip("backports.zstd", reason="backports.zstd is not installed")
        monkeypatch.setitem(sys.modules, name, backport)
    for other in zstd._MODULES:
        if other != name:
            monkeypatch.setitem(sys.modules, other, None)
    return name


@pytest.fixture(autouse=True)
def _looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd, "_zstd", zstd._zstd.__wrapped__)


def unpacked(packed: bytes, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS) -> bytes:
    return b"".join(unpack(Stream(packed), "x.zst", limits))


@pytest.mark.usefixtures("module")
def test_the_same_bytes() -> None:
    assert unpacked(pack(DATA)) == DATA
    assert unpacked(pack(b"")) == b""
    # Frames back to back, and one that is to be skipped.
    skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    assert unpacked(pack(b"one") + skipped + pack(DATA)) == b"one" + DATA
    for size in ((256 << 10) - 1, 256 << 10, (256 << 10) + 1):
        assert unpacked(pack(bytes(size))) == bytes(size)


@pytest.mark.usefixtures("module")
def test_broken_data_are_refused_or_end() -> None:
    packed = pack(DATA, write_checksum=1)
    changed = bytearray(packed)
    changed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ArchiveError, match="zstd data is broken"):
        unpacked(bytes(changed))
    try:
        # Of zstandard nobody learns that a frame is not whole: the content must show it.
        assert len(unpacked(packed[:-6])) <= len(DATA)
    except ArchiveError as error:
        assert "ends too early" in str(error)


@pytest.mark.usefixtures("module")
def test_a_bomb_is_stopped_before_it_is_unpacked() -> None:
    bomb = pack(bytes(128 << 20))
    pieces = unpack(Stream(bomb), "x.zst", ArchiveLimits(ratio=10, ratio_grace=1 << 20))
    produced: list[int] = []
    with pytest.raises(LimitError, match="bomb"):
        produced.extend(map(len, pieces))
    assert sum(produced) < 2 << 20


@pytest.mark.usefixtures("module")
def test_a_window_of_a_gigabyte_is_refused() -> None:
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=30)
    ).compressobj()
    packed = packer.compress(DATA) + packer.flush()
    with pytest.raises(ArchiveError, match="zstd data is broken"):
        unpacked(packed)


@pytest.mark.usefixtures("module")
def test_a_reader_that_is_left_behind_is_freed() -> None:
    def begun() -> Iterator[weakref.ref[Stream]]:
        stream = Stream(pack(DATA))
        pieces = unpack(stream, "x.zst", DEFAULT_ARCHIVE_LIMITS)
        assert next(pieces)[:10] == DATA[:10]
        yield weakref.ref(stream)

    watched = list(begun())
    gc.collect()
    assert watched[0]() is None


@pytest.mark.parametrize("before", [0, 1])
def test_a_stream_that_cannot_be_read_is_said_to_be(before: int) -> None:
    class Broken(Stream):
        left = before

        def read(self, size: Optional[int] = -1, /) -> bytes:
            if not self.left:
                raise OSError(errno.EIO, "Input/output error")
            self.left -= 1
            return super().read(size)

    with pytest.raises(ArchiveError, match="cannot be read: Input/output error"):
        list(unpack(Broken(bytes(1 << 20)), "x.tar", DEFAULT_ARCHIVE_LIMITS))


def test_without_any_module_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in zstd._MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match=r"install python3-zstandard.*pyzstd.*3\.14"):
        unpacked(pack(DATA))


def test_other_errors_of_a_module_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is there and of another make is a bug, not an absent one."""
    monkeypatch.setitem(sys.modules, "compression.zstd", object())
    with pytest.raises(AttributeError):
        unpacked(pack(DATA))
    assert not issubclass(AttributeError, SgxEnclavesError)
