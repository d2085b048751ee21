# SPDX-License-Identifier: GPL-2.0-or-later
"""MRENCLAVE: SHA-256 over the ECREATE, EADD and EEXTEND records of the pages of an enclave.

First, which pages a loader adds for an image and a metadata block, in its order. Image and
block were parsed; checked here is what needs both: ranges, overlaps, and cost. Source:
psw/urts/loader.cpp of the SDK (build_sections, build_contexts, validate_layout_table).

A page costs one 64-byte record when it is added and, when it is measured, 16 times a 64-byte
record and 256 bytes. Long runs of equal pages are hashed 64 KiB of address space at a time, between
which only the upper bytes of offsets change. Source: Intel SDM vol. 3D, ECREATE, EADD, EEXTEND.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, Segment, page_ceil, page_floor
from sgx_enclaves.enclave.metadata import (
    EXTEND_SHARED_OBJECT,
    TCS_TEMPLATE_SIZE,
    Block,
    LayoutEntry,
    PageAttr as Attr,
    Version,
)
from sgx_enclaves.enclave.sigstruct import SECINFO_EXTERNAL, SECINFO_TCS, SECINFO_W
from sgx_enclaves.enclave.verdict import Range
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits, at_most
from sgx_enclaves.plain import record

_METADATA_1_3 = Version(1, 3)
ZERO_PAGE = memoryview(bytes(PAGE_SIZE))
_MOST_LISTED = 1 << 17
_TOO_OFTEN = "layout entries are repeated too often"

# Offsets of the fields of a TCS that are relative to its own page (SDM 38.8).
_TCS_RELATIVE_FIELDS = (16, 48, 56)


@record
class PageRun:
    """Consecutive pages that differ in nothing but their content.

    `offset` is in bytes from the enclave's base; `content` is one page that all repeat, or all.
    """

    offset: int
    count: int
    flags: int
    measured: bool
    content: memoryview


def patched_image(image: EnclaveImage, block: Block) -> bytearray:
    """The file as the loader sees it once the block's patches are applied."""
    data = bytearray(image.data)
    for index, patch in enumerate(block.patches):
        if patch.dst + patch.size > len(data):
            raise FormatError(
                f"patch {index} leaves the file",
                offset=image.descriptor_offset + block.offset,
                expected=f"an end at most 0x{len(data):x}",
                found=f"0x{patch.dst + patch.size:x}",
            )
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
        message = "the enclave embeds the OpenSSL FIPS provider (EnableOSSLFIPS)"
        raise UnsupportedError(message, hint="such enclaves cannot be measured yet")
    size = block.header.enclave_size
    if size < PAGE_SIZE or size & (size - 1) or image.image_size > size:
        raise FormatError(
            "the enclave size is not a power of two that holds the image",
            offset=image.descriptor_offset + block.offset,
            expected=f"at least 0x{image.image_size:x}",
            found=f"0x{size:x}",
        )
    layout = checked_layout(image, block, limits)
    data = memoryview(patched_image(image, block))
    yield from _segment_pages(image, block.version, data)
    for entry, rva in itertools.chain(*(repetition.added for repetition in layout)):
        yield from _layout_pages(block, entry, rva)


@record
class Repetition:
    """Layout entries that are loaded one after the other, `times` times, `step` bytes apart.

    Iterating gives each with its offset in the enclave; the entries themselves are number 0.
    """

    entries: tuple[LayoutEntry, ...]
    first: int = 0
    times: int = 1
    step: int = 0

    def __iter__(self) -> Iterator[tuple[LayoutEntry, int]]:
        for number in range(self.first, self.first + self.times):
            for entry in self.entries:
                yield entry, entry.rva + number * self.step

    @property
    def added(self) -> Repetition:
        """What of them is added (EADD); no times if nothing is."""
        entries = tuple(e for e in self.entries if e.attributes & Attr.EADD and e.page_count)
        return replace(self, entries=entries, times=self.times if entries else 0)

    @property
    def hashed_bytes(self) -> int:
        """What measuring them hashes."""
        added, measured = _ADDED_PAGE.size, _MEASURED_PAGE.size
        return self.times * sum(
            e.page_count * (measured if e.attributes & Attr.EEXTEND or e.content_offset else added)
            for e in self.added.entries
        )

    @property
    def hull(self) -> Range:
        """Start and end of what they take all together."""
        start = min(e.rva for e in self.entries)
        end = max(e.rva + e.page_count * PAGE_SIZE for e in self.entries)
        last = self.first + self.times - 1
        return start + self.first * self.step, end + last * self.step


def checked_layout(
    image: EnclaveImage, block: Block, limits: Limits = DEFAULT_LIMITS
) -> list[Repetition]:
    """The layout table in the loader's order; groups are never unrolled in memory."""
    layout: list[Repetition] = []
    count = 0
    for index, item in enumerate(block.layout):
        if isinstance(item, LayoutEntry):
            layout.append(Repetition((item,)))
            continue
        if item.entry_count > index:
            message = "a layout group repeats entries before the table's first"
            raise FormatError(message, expected=f"at most {index}", found=str(item.entry_count))
        members = block.layout[index - item.entry_count : index]
        entries = tuple(m for m in members if isinstance(m, LayoutEntry))
        if len(entries) < len(members):
            raise FormatError("a layout group repeats another group")
        repeated = Repetition(entries, 1, item.load_times, item.load_step)
        count += len(entries) + repeated.added.times * len(repeated.added.entries)
        at_most(limits.layout_entries, count, _TOO_OFTEN, "layout entries")
        if item.load_times * item.load_step > block.header.enclave_size:
            raise FormatError(
                "a thread group leaves the enclave",
                expected=f"at most 0x{block.header.enclave_size:x} bytes",
                found=f"{item.load_times} steps of 0x{item.load_step:x} bytes",
            )
        if entries and item.load_times:
            layout.append(repeated)
    _check_ranges(image, block, layout)
    total = image.image_size // PAGE_SIZE * _MEASURED_PAGE.size
    total += sum(repetition.hashed_bytes for repetition in layout)
    if total > limits.hashed_bytes:
        raise LimitError(
            "the enclave has too many pages to measure",
            expected=f"at most {limits.hashed_bytes >> 20} MiB to hash",
            found=f"{total >> 20} MiB",
            hint="is it meant to be that large? --no-limit of measure and rpm-provides lifts this",
        )
    return layout


def _check_ranges(image: EnclaveImage, block: Block, layout: Sequence[Repetition]) -> None:
    size = block.header.enclave_size
    # Where a group's range lies behind what it repeats, its repetitions lie behind each other: one
    # range will do. Where such ranges do not fit, each repetition is listed, which takes memory.
    with contextlib.suppress(FormatError):
        return _check_order(image, size, [r.hull for r in layout])
    listed = sum(r.times * len(r.entries) for r in layout)
    at_most(_MOST_LISTED, listed, _TOO_OFTEN, "layout entries")
    placed = [(a, a + e.page_count * PAGE_SIZE) for e, a in itertools.chain(*layout)]
    return _check_order(image, size, placed)


def _check_order(image: EnclaveImage, size: int, ranges: list[Range]) -> None:
    previous_end = image.image_size
    for start, end in sorted(ranges):
        if start % PAGE_SIZE or end > size:
            message = "a layout entry is not in whole pages inside the enclave"
            found = f"0x{start:x} to 0x{end:x}"
            raise FormatError(message, expected=f"within 0x{size:x} bytes", found=found)
        if start < previous_end and end > start:
            message = "layout entries overlap each other or the image"
            expected = f"0x{previous_end:x} or more"
            raise FormatError(message, expected=expected, found=f"0x{start:x}")
        previous_end = max(previous_end, end)


def _segment_pages(image: EnclaveImage, version: Version, data: memoryview) -> Iterator[PageRun]:
    relocated = image.relocated_pages
    highest = image.load_segments[0]
    for segment in image.load_segments:
        if version == _METADATA_1_3:
            yield from _extra_page(highest, page_floor(segment.p_vaddr))
        if segment.p_vaddr > highest.p_vaddr:
            highest = segment
        yield from _one_segment(segment, data, relocated)
    if version == _METADATA_1_3:
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
    first_zero = page_floor(position)
    end = page_ceil(start + segment.p_memsz)
    if end > first_zero:
        yield PageRun(first_zero, (end - first_zero) // PAGE_SIZE, flags, True, ZERO_PAGE)


def _extra_page(segment: Segment, next_start: int | None) -> Iterator[PageRun]:
    """The page too many of metadata 1.3: a segment's size is rounded before it is added."""
    end = page_ceil(segment.p_vaddr + segment.p_memsz)
    rounded = page_ceil(segment.p_vaddr + page_ceil(segment.p_memsz))
    if end < rounded and (next_start is None or end < next_start):
        yield PageRun(end, 1, segment.secinfo, True, ZERO_PAGE)


def _layout_pages(block: Block, entry: LayoutEntry, rva: int) -> Iterator[PageRun]:
    if entry.si_flags & ~SECINFO_EXTERNAL:
        message = "a layout entry with SECINFO flags that EADD does not take"
        raise FormatError(message, found=f"0x{entry.si_flags:x}")
    measured = bool(entry.attributes & Attr.EEXTEND)
    if entry.content_offset:
        content = block.content(entry.content_offset, entry.content_size)
        if entry.si_flags == SECINFO_TCS:
            page = _tcs_page(content, rva)
            yield PageRun(rva, entry.page_count, entry.si_flags, measured, page)
        else:
            yield from _region(entry, rva, content)
    elif entry.si_flags:
        page = memoryview(entry.content_size.to_bytes(4, "little") * (PAGE_SIZE // 4))
        yield PageRun(rva, entry.page_count, entry.si_flags, measured, page)


def _tcs_page(template: bytes, rva: int) -> memoryview:
    if not TCS_TEMPLATE_SIZE <= len(template) <= PAGE_SIZE:
        raise FormatError(
            "a TCS template of an impossible size",
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
    padded = content[: pages * PAGE_SIZE].ljust(pages * PAGE_SIZE, b"\0")
    yield PageRun(rva, pages, entry.si_flags, True, memoryview(padded))
    rest = rva + pages * PAGE_SIZE
    yield PageRun(rest, entry.page_count - pages, entry.si_flags, True, ZERO_PAGE)


_RECORD = 64
_CHUNK = 256
_CHUNKS = PAGE_SIZE // _CHUNK
_OFFSET_IN_RECORD = 8

# 64 KiB of address space: only the lowest two bytes of an offset change within it.
_WINDOW = 1 << 16
# Below this many pages, cutting a window costs more than it saves.
_LEAST_FOR_WINDOW = 64

_ADDED_PAGE = struct.Struct("<8sQQ40x")
_MEASURED_PAGE = struct.Struct("<8sQQ40x" + _CHUNKS * f"8sQ48x{_CHUNK}s")
_SPLIT = struct.Struct(_CHUNKS * f"{_CHUNK}s")

# Is given the address that the measurement has come to, and the enclave's size.
Watch = Callable[[int, int], object]


def mrenclave(
    image: EnclaveImage,
    block: Block,
    limits: Limits = DEFAULT_LIMITS,
    watch: Optional[Watch] = None,
    known: Optional[tuple[Block, bytes]] = None,
) -> bytes:
    """The 32 bytes of MRENCLAVE of `image` as it would be loaded with `block`.

    What loads the same as a `known` block, whose MRENCLAVE is given with it, is not hashed again.
    """
    base, size = 0, block.header.enclave_size
    try:
        if known and _taken_from(image, block, limits) == _taken_from(image, known[0], limits):
            return known[1]
        elrange = block.elrange
        if elrange is not None:
            if problem := elrange.problem(size):
                message = f"the ELRANGE entry does not hold the enclave: {problem}"
                raise FormatError(message, found=elrange.ranges(size))
            size, base = elrange.elrange_size, elrange.base
        pages = enclave_pages(image, block, limits)
        return measure(block.header.ssa_frame_size, size, pages, base, watch)
    except SgxEnclavesError as error:
        error.file = image.name
        raise


def _taken_from(image: EnclaveImage, block: Block, limits: Limits) -> list[object]:
    """All that a measurement takes from a block."""
    marks = block.version == _METADATA_1_3, block.elrange, [e.entry_id for e in block.extensions]
    taken: list[object] = [block.header.enclave_size, block.header.ssa_frame_size, *marks]
    taken += [(patch.dst, block.content(patch.src, patch.size)) for patch in block.patches]
    for r in checked_layout(image, block, limits):
        taken += [(r.first, r.times, r.step)] if r.added.entries else []
        for e in r.added.entries:
            content = block.content(e.content_offset, e.content_size) if e.content_offset else None
            fields = e.rva, e.page_count, e.si_flags, e.attributes & Attr.EEXTEND, e.content_size
            taken.append((*fields, content))
    return taken


def measure(
    ssa_frame_size: int,
    size: int,
    runs: Iterable[PageRun],
    base: int,
    watch: Optional[Watch] = None,
) -> bytes:
    """Hash an enclave's creation; `watch` is called at each whole MiB within equal pages.

    `size` is SECS.SIZE, `base` the distance from SECS.BASEADDR to the image, both in bytes.
    """
    digest = hashlib.sha256()
    digest.update(struct.pack("<8sIQ44x", b"ECREATE", ssa_frame_size, size))
    for run in runs:
        offset = run.offset + base & 0xFFFF_FFFF_FFFF_FFFF
        pages = len(run.content) // PAGE_SIZE
        if pages > 1 or run.count < _LEAST_FOR_WINDOW:
            for index in range(run.count):
                at = index % pages * PAGE_SIZE
                page = run.content[at : at + PAGE_SIZE]
                digest.update(_records(offset + index * PAGE_SIZE, run.flags, run.measured, page))
            continue
        parts = _window(run.flags, run.measured, bytes(run.content))
        end = offset + run.count * PAGE_SIZE
        for start in range(offset - offset % _WINDOW, end, _WINDOW):
            records = (start >> 16).to_bytes(6, "little").join(parts)
            # At the ends of the run, a window is only partly within it.
            first, last = (min(max(at - start, 0), _WINDOW) for at in (offset, end))
            digest.update(records[first * len(records) // _WINDOW : last * len(records) // _WINDOW])
            if watch is not None and start % (1 << 20) == 0:
                watch(start - base, size)
    return digest.digest()


def _records(offset: int, flags: int, measured: bool, page: bytes | memoryview) -> bytes:
    """EADD and, if measured, EEXTEND records of one page, in one stroke."""
    if not measured:
        return _ADDED_PAGE.pack(b"EADD", offset, flags)
    values: list[object] = [b"EADD", offset, flags]
    for chunk in _SPLIT.unpack(page):
        values += (b"EEXTEND", offset, chunk)
        offset += _CHUNK
    return _MEASURED_PAGE.pack(*values)


@functools.lru_cache(maxsize=4)
def _window(flags: int, measured: bool, content: bytes) -> list[bytes]:
    """The records of 16 equal pages from a multiple of 64 KiB on, without the upper six bytes of
    each offset: what stands before, between and behind these.
    """
    starts = range(0, _WINDOW, PAGE_SIZE)
    records = b"".join(_records(start, flags, measured, content) for start in starts)
    size = len(records) // len(starts)
    first = _RECORD + _OFFSET_IN_RECORD
    offsets = [_OFFSET_IN_RECORD, *range(first, size, _RECORD + _CHUNK)]
    cuts = [page + offset + 2 for page in range(0, len(records), size) for offset in offsets]
    return [records[a:b] for a, b in zip([0, *(cut + 6 for cut in cuts)], [*cuts, len(records)])]
