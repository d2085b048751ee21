# SPDX-License-Identifier: GPL-2.0-or-later
"""MRENCLAVE: SHA-256 over the ECREATE, EADD and EEXTEND records of an enclave.

Source: Intel SDM vol. 3D, ECREATE, EADD and EEXTEND; SDK
sdk/sign_tool/SignTool/enclave_creator_sign.cpp.

A page costs one 64-byte record when it is added and, when it is measured, 16
times a 64-byte record and 256 bytes. Hashing those piece by piece would spend
most of the time in the interpreter, so runs of pages are laid out in a buffer
of 1 MiB of address space, in which only the offsets change from one use to the
next.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from sgx_enclaves.errors import FormatError
from sgx_enclaves.format.elf import PAGE_SIZE, EnclaveImage
from sgx_enclaves.format.metadata import Block, ElrangeEntry
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.measurement.pages import PageRun, enclave_pages

_U64_MAX = (1 << 64) - 1
_RECORD = 64
_CHUNK = 256
_CHUNKS = PAGE_SIZE // _CHUNK
_OFFSET_IN_RECORD = 8

# Pages of one buffer: 1 MiB of address space, so that the lowest two bytes of
# every offset, and the low half of the third, never change within it.
_WINDOW_PAGES = 256
_WINDOW = _WINDOW_PAGES * PAGE_SIZE
_CONSTANT_BYTES = 2
_OFFSET_BYTES = 8
# Below this many pages, laying out a window costs more than it saves.
_LEAST_FOR_WINDOW = 64
_MOST_WINDOWS = 4

_ADDED_PAGE = struct.Struct("<8sQQ40x")
_MEASURED_PAGE = struct.Struct("<8sQQ40x" + _CHUNKS * f"8sQ48x{_CHUNK}s")
_SPLIT = struct.Struct(_CHUNKS * f"{_CHUNK}s")
_HIGH_PAGE_BITS = bytes(page >> 4 for page in range(_WINDOW_PAGES))


def mrenclave(image: EnclaveImage, block: Block, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Measure `image` as it would be loaded with `block`.

    Returns:
        The 32 bytes of MRENCLAVE.

    Raises:
        FormatError, UnsupportedError, LimitError: see `enclave_pages`.
    """
    elrange = block.elrange
    size, base = block.header.enclave_size, 0
    if elrange is not None:
        _check_elrange(image, elrange, size)
        size = elrange.elrange_size
        base = elrange.enclave_image_address - elrange.elrange_start_address
    pages = enclave_pages(image, block, limits)
    return measure(block.header.ssa_frame_size, size, pages, base)


def _check_elrange(image: EnclaveImage, elrange: ElrangeEntry, enclave_size: int) -> None:
    """The checks of set_elrange_config in psw/urts/loader.cpp."""
    start, size = elrange.elrange_start_address, elrange.elrange_size
    first = elrange.enclave_image_address
    good = (
        size >= PAGE_SIZE
        and size & (size - 1) == 0
        and start % size == 0
        and first % PAGE_SIZE == 0
        and start <= first
        and first + enclave_size <= start + size <= _U64_MAX
    )
    if not good:
        raise FormatError(
            "the ELRANGE entry does not hold the enclave",
            file=image.name,
            expected="a power of two at a multiple of itself, around the image",
            found=f"image 0x{first:x} of 0x{enclave_size:x} bytes in 0x{start:x}+0x{size:x}",
        )


def measure(ssa_frame_size: int, size: int, runs: Iterable[PageRun], base: int = 0) -> bytes:
    """Hash an enclave's creation.

    Args:
        ssa_frame_size: pages of an SSA frame.
        size: SECS.SIZE, bytes.
        runs: the pages, in the order in which they are added.
        base: bytes from SECS.BASEADDR to the image.
    """
    digest = hashlib.sha256()
    digest.update(struct.pack("<8sIQ44x", b"ECREATE", ssa_frame_size, size))
    windows = _Windows()
    for run in runs:
        offset = run.offset + base & 0xFFFF_FFFF_FFFF_FFFF
        differing = len(run.content) > PAGE_SIZE
        if not differing and run.count >= _LEAST_FOR_WINDOW:
            for part in windows.repeated(offset, run):
                digest.update(part)
            continue
        for index in range(run.count):
            page = run.content
            if differing:
                page = page[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
            digest.update(_records(offset + index * PAGE_SIZE, run.flags, run.measured, page))
    return digest.digest()


def _records(offset: int, flags: int, measured: bool, page: memoryview) -> bytes:
    """EADD and, if measured, EEXTEND records of one page, in one stroke."""
    if not measured:
        return _ADDED_PAGE.pack(b"EADD", offset, flags)
    values: list[object] = [b"EADD", offset, flags]
    for chunk in _SPLIT.unpack(page):
        values += (b"EEXTEND", offset, chunk)
        offset += _CHUNK
    return _MEASURED_PAGE.pack(*values)


class _Windows:
    """Buffers of records, reused from run to run."""

    def __init__(self) -> None:
        self._cache: dict[tuple[int, bool, bytes], _Window] = {}

    def repeated(self, offset: int, run: PageRun) -> Iterable[memoryview]:
        """The records of pages that all have the content of `run`, window by window."""
        key = (run.flags, run.measured, bytes(run.content) if run.measured else b"")
        window = self._cache.get(key)
        if window is None:
            # A few buffers serve the alternation of stacks and other pages of threads.
            if len(self._cache) >= _MOST_WINDOWS:
                self._cache.clear()
            window = self._cache[key] = _Window(run)
        end = offset + run.count * PAGE_SIZE
        position = offset
        while position < end:
            start = position - position % _WINDOW
            stop = min(end, start + _WINDOW)
            first = (position - start) // PAGE_SIZE
            yield window.records(start, first, (stop - start) // PAGE_SIZE)
            position = stop


class _Window:
    """The records of up to 256 equal pages that start at a multiple of 1 MiB."""

    def __init__(self, run: PageRun) -> None:
        page = _records(0, run.flags, run.measured, run.content)
        self._size = len(page)
        self._buffer = bytearray(page) * _WINDOW_PAGES
        self._view = memoryview(self._buffer)
        self._positions = _offset_positions(run.measured)
        self._start = 0
        # Offsets are multiples of 256: their lowest byte is 0, and the next one is
        # the page's low four bits and the chunk, the same every 16 pages.
        for position, delta in self._positions:
            second = bytes(range(delta // _CHUNK, 256, _CHUNKS)) * (_WINDOW_PAGES // 16)
            self._buffer[position + 1 :: self._size] = second
            self._buffer[position + 2 :: self._size] = _HIGH_PAGE_BITS

    def records(self, start: int, first: int, last: int) -> memoryview:
        """The records of the pages `first` to `last` (exclusive) of the window at `start`."""
        changed = start ^ self._start
        for byte in range(_CONSTANT_BYTES, _OFFSET_BYTES):
            if changed >> 8 * byte & 0xFF:
                high = start >> 8 * byte & 0xFF
                if byte == _CONSTANT_BYTES:
                    values = bytes(high | bits for bits in _HIGH_PAGE_BITS)
                else:
                    values = bytes([high]) * _WINDOW_PAGES
                for position, _ in self._positions:
                    self._buffer[position + byte :: self._size] = values
        self._start = start
        return self._view[first * self._size : last * self._size]


def _offset_positions(measured: bool) -> tuple[tuple[int, int], ...]:
    """Where a page's records hold an offset, and what it is beyond the page's own."""
    positions = [(_OFFSET_IN_RECORD, 0)]
    if measured:
        positions += [
            (_RECORD + chunk * (_RECORD + _CHUNK) + _OFFSET_IN_RECORD, chunk * _CHUNK)
            for chunk in range(_CHUNKS)
        ]
    return tuple(positions)
