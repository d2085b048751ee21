# SPDX-License-Identifier: GPL-2.0-or-later
"""MRENCLAVE: SHA-256 over the ECREATE, EADD and EEXTEND records of the pages of an enclave.

First, which pages a loader adds for an image and a metadata block, in its order. Image and
block were parsed; checked here is what needs both: ranges, overlaps, and cost. Source:
psw/urts/loader.cpp of the SDK (build_sections, build_contexts, validate_layout_table).

A page costs one 64-byte record when it is added and, when it is measured, 16 times a 64-byte
record and 256 bytes. Hashing those piece by piece would spend most of the time in the
interpreter, so runs of pages are laid out in a buffer of 1 MiB of address space, in which only
the offsets change from one use to the next. Source: Intel SDM vol. 3D, ECREATE, EADD, EEXTEND.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U64_MAX, Segment, page_ceil, page_floor
from sgx_enclaves.enclave.metadata import (
    ATTR_EADD,
    ATTR_EEXTEND,
    EXTEND_SHARED_OBJECT,
    TCS_TEMPLATE_SIZE,
    Block,
    ElrangeEntry,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.enclave.sigstruct import SECINFO_EXTERNAL, SECINFO_TCS, SECINFO_W
from sgx_enclaves.errors import FormatError, LimitError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record

_METADATA_1_3 = Version(1, 3)

# Offsets of the fields of a TCS that are relative to its own page (SDM 38.8).
_TCS_RELATIVE_FIELDS = (16, 48, 56)


@record
class PageRun:
    """Consecutive pages that differ in nothing but their content.

    Attributes:
        offset: bytes from the enclave's base to the first page.
        count: number of pages.
        flags: SECINFO flags.
        measured: whether the content is measured (EEXTEND).
        content: either one page that all pages repeat, or all of them.
    """

    offset: int
    count: int
    flags: int
    measured: bool
    content: memoryview


ZERO_PAGE = memoryview(bytes(PAGE_SIZE))


def patched_image(image: EnclaveImage, block: Block) -> bytearray:
    """The file as the loader sees it once the block's patches are applied.

    Raises:
        FormatError: a patch leaves the file.
    """
    data = bytearray(image.data)
    for index, patch in enumerate(block.patches):
        _check_patch(image, block, index, patch)
        data[patch.dst : patch.dst + patch.size] = block.content(patch.src, patch.size)
    return data


def enclave_pages(
    image: EnclaveImage, block: Block, limits: Limits = DEFAULT_LIMITS
) -> Iterator[PageRun]:
    """All pages that are added (EADD) before EINIT, in order.

    Raises:
        FormatError: pages that leave the enclave or overlap, contradictory tables.
        UnsupportedError: a block that maps a second shared object.
        LimitError: more pages than `limits` allows.
    """
    if any(e.entry_id == EXTEND_SHARED_OBJECT for e in block.extensions):
        raise UnsupportedError(
            "the enclave embeds the OpenSSL FIPS provider (EnableOSSLFIPS)",
            file=image.name,
            hint="such enclaves cannot be measured yet",
        )
    _check_enclave_size(image, block)
    layout = checked_layout(image, block, limits)
    data = memoryview(patched_image(image, block))
    yield from _segment_pages(image, block.version, data)
    for entry, rva in layout:
        yield from _layout_pages(image, block, entry, rva)


def checked_layout(
    image: EnclaveImage, block: Block, limits: Limits = DEFAULT_LIMITS
) -> list[tuple[LayoutEntry, int]]:
    """The layout entries with groups unrolled: (entry, offset in the enclave).

    The order is the loader's. Cost is checked before anything is unrolled.

    Raises:
        FormatError: see `enclave_pages`.
        LimitError: too many entries or pages.
    """
    size = block.header.enclave_size
    unrolled: list[tuple[LayoutEntry, int]] = []
    table = block.layout
    for index, item in enumerate(table):
        if isinstance(item, LayoutEntry):
            unrolled.append((item, item.rva))
            continue
        members = _group_members(image, block, index, item)
        if len(unrolled) + len(members) * item.load_times > limits.layout_entries:
            raise LimitError(
                "a thread group is repeated too often",
                file=image.name,
                expected=f"at most {limits.layout_entries} layout entries in all",
                found=f"{item.load_times} times {len(members)} entries",
            )
        if item.load_times and item.load_times * item.load_step > size:
            raise FormatError(
                "a thread group leaves the enclave",
                file=image.name,
                expected=f"at most 0x{size:x} bytes",
                found=f"{item.load_times} steps of 0x{item.load_step:x} bytes",
            )
        # Without members nothing bounds how often nothing is repeated.
        for repetition in range(1, item.load_times + 1 if members else 1):
            unrolled += [(m, m.rva + repetition * item.load_step) for m in members]
    _check_ranges(image, size, unrolled)
    _check_cost(image, unrolled, limits)
    return unrolled


def _group_members(
    image: EnclaveImage, block: Block, index: int, group: LayoutGroup
) -> list[LayoutEntry]:
    if group.entry_count > index:
        raise FormatError(
            "a layout group repeats entries before the table's first",
            file=image.name,
            expected=f"at most {index}",
            found=str(group.entry_count),
        )
    members = []
    for member in block.layout[index - group.entry_count : index]:
        if not isinstance(member, LayoutEntry):
            raise FormatError("a layout group repeats another group", file=image.name)
        members.append(member)
    return members


def _check_ranges(image: EnclaveImage, size: int, unrolled: list[tuple[LayoutEntry, int]]) -> None:
    """Whole pages, inside the enclave, behind each other and the image."""
    ranges = sorted((rva, entry.page_count * PAGE_SIZE) for entry, rva in unrolled)
    previous_end = image.image_size
    for rva, length in ranges:
        if rva % PAGE_SIZE or rva + length > size:
            raise FormatError(
                "a layout entry is not in whole pages inside the enclave",
                file=image.name,
                expected=f"within 0x{size:x} bytes",
                found=f"0x{rva:x} to 0x{rva + length:x}",
            )
        if rva < previous_end and length:
            raise FormatError(
                "layout entries overlap each other or the image",
                file=image.name,
                expected=f"0x{previous_end:x} or more",
                found=f"0x{rva:x}",
            )
        previous_end = max(previous_end, rva + length)


def _check_cost(
    image: EnclaveImage, unrolled: list[tuple[LayoutEntry, int]], limits: Limits
) -> None:
    added = measured = image.image_size // PAGE_SIZE
    for entry, _ in unrolled:
        if entry.attributes & ATTR_EADD:
            added += entry.page_count
            if entry.attributes & ATTR_EEXTEND or entry.content_offset:
                measured += entry.page_count
    for what, found, limit in (
        ("added", added, limits.added_pages),
        ("measured", measured, limits.measured_pages),
    ):
        if found > limit:
            raise LimitError(
                f"too many {what} pages",
                file=image.name,
                expected=f"at most {limit}",
                found=str(found),
            )


def _check_patch(image: EnclaveImage, block: Block, index: int, patch: PatchEntry) -> None:
    if patch.dst + patch.size > len(image.data):
        raise FormatError(
            f"patch {index} leaves the file",
            file=image.name,
            offset=image.descriptor_offset + block.offset,
            expected=f"an end at most 0x{len(image.data):x}",
            found=f"0x{patch.dst + patch.size:x}",
        )


def _check_enclave_size(image: EnclaveImage, block: Block) -> None:
    size = block.header.enclave_size
    if size < PAGE_SIZE or size & (size - 1) or image.image_size > size:
        raise FormatError(
            "the enclave size is not a power of two that holds the image",
            file=image.name,
            offset=image.descriptor_offset + block.offset,
            expected=f"at least 0x{image.image_size:x}",
            found=f"0x{size:x}",
        )


def _segment_pages(image: EnclaveImage, version: Version, data: memoryview) -> Iterator[PageRun]:
    relocated = image.relocated_pages
    highest = None
    for segment in image.load_segments:
        if version == _METADATA_1_3 and highest is not None:
            yield from _extra_page(highest, page_floor(segment.p_vaddr))
        if highest is None or segment.p_vaddr > highest.p_vaddr:
            highest = segment
        yield from _one_segment(segment, data, relocated)
    if version == _METADATA_1_3 and highest is not None:
        yield from _extra_page(highest, None)


def _one_segment(
    segment: Segment, data: memoryview, relocated: frozenset[int]
) -> Iterator[PageRun]:
    if segment.p_memsz == 0:
        return
    start, flags = segment.p_vaddr, segment.secinfo
    file_end = start + segment.p_filesz
    content = data[segment.p_offset : segment.p_offset + segment.p_filesz]
    position = start
    while position < file_end:
        page = page_floor(position)
        writable = page // PAGE_SIZE in relocated
        end = page + PAGE_SIZE
        if position == page and not relocated:
            # The long run of whole pages, in one piece.
            end = max(page_floor(file_end), end)
        piece = content[position - start : min(end, file_end) - start]
        if len(piece) % PAGE_SIZE:
            padded = bytearray(PAGE_SIZE)
            padded[position - page : position - page + len(piece)] = piece
            piece = memoryview(padded)
        yield PageRun(
            page, (end - page) // PAGE_SIZE, flags | (SECINFO_W if writable else 0), True, piece
        )
        position = end
    first_zero = page_floor(max(position, start))
    end = page_ceil(start + segment.p_memsz)
    if end > first_zero:
        yield PageRun(first_zero, (end - first_zero) // PAGE_SIZE, flags, True, ZERO_PAGE)


def _extra_page(segment: Segment, next_start: int | None) -> Iterator[PageRun]:
    """The page too many of metadata 1.3: a segment's size is rounded before it is added."""
    end = page_ceil(segment.p_vaddr + segment.p_memsz)
    if end < page_ceil(segment.p_vaddr + page_ceil(segment.p_memsz)) and (
        next_start is None or end < next_start
    ):
        yield PageRun(end, 1, segment.secinfo, True, ZERO_PAGE)


def _layout_pages(
    image: EnclaveImage, block: Block, entry: LayoutEntry, rva: int
) -> Iterator[PageRun]:
    if not entry.attributes & ATTR_EADD or entry.page_count == 0:
        return
    if entry.si_flags & ~SECINFO_EXTERNAL:
        raise FormatError(
            "a layout entry with SECINFO flags that EADD does not take",
            file=image.name,
            found=f"0x{entry.si_flags:x}",
        )
    measured = bool(entry.attributes & ATTR_EEXTEND)
    if entry.content_offset:
        content = block.content(entry.content_offset, entry.content_size)
        if entry.si_flags == SECINFO_TCS:
            page = _tcs_page(image, content, rva)
            yield PageRun(rva, entry.page_count, entry.si_flags, measured, page)
        else:
            yield from _region(entry, rva, content)
    elif entry.si_flags:
        page = ZERO_PAGE
        if entry.content_size:
            page = memoryview(entry.content_size.to_bytes(4, "little") * (PAGE_SIZE // 4))
        yield PageRun(rva, entry.page_count, entry.si_flags, measured, page)


def _tcs_page(image: EnclaveImage, template: bytes, rva: int) -> memoryview:
    if not TCS_TEMPLATE_SIZE <= len(template) <= PAGE_SIZE:
        raise FormatError(
            "a TCS template of an impossible size",
            file=image.name,
            expected=f"{TCS_TEMPLATE_SIZE} bytes",
            found=f"{len(template)} bytes",
        )
    page = bytearray(PAGE_SIZE)
    page[: len(template)] = template
    for at in _TCS_RELATIVE_FIELDS:
        value = int.from_bytes(page[at : at + 8], "little") + rva
        page[at : at + 8] = (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
    return memoryview(page)


def _region(entry: LayoutEntry, rva: int, content: bytes) -> Iterator[PageRun]:
    """A layout entry with content: its pages are measured whatever its attributes say."""
    pages = min(page_ceil(len(content)) // PAGE_SIZE, entry.page_count)
    if pages:
        padded = content[: pages * PAGE_SIZE].ljust(pages * PAGE_SIZE, b"\0")
        yield PageRun(rva, pages, entry.si_flags, True, memoryview(padded))
    if entry.page_count > pages:
        rest = rva + pages * PAGE_SIZE
        yield PageRun(rest, entry.page_count - pages, entry.si_flags, True, ZERO_PAGE)


_RECORD = 64
_CHUNK = 256
_CHUNKS = PAGE_SIZE // _CHUNK
_OFFSET_IN_RECORD = 8

# 1 MiB of address space: the lowest two and a half bytes of every offset never change within it.
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
        and first + enclave_size <= start + size <= U64_MAX
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
