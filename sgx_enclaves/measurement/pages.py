# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages a loader adds for an image and a metadata block, in its order.

Source of the behaviour: psw/urts/loader.cpp of the SDK (build_sections,
build_contexts, validate_layout_table). This module lists pages; it hashes
nothing. It trusts that the image and the block were parsed, and checks here
only what needs both: ranges within the enclave, overlaps, and cost.
"""

from __future__ import annotations

from collections.abc import Iterator

from sgx_enclaves.errors import FormatError, LimitError, UnsupportedError
from sgx_enclaves.format.attributes import SECINFO_EXTERNAL, SECINFO_TCS, SECINFO_W
from sgx_enclaves.format.elf import PAGE_SIZE, EnclaveImage, Segment, page_ceil, page_floor
from sgx_enclaves.format.metadata import (
    ATTR_EADD,
    ATTR_EEXTEND,
    EXTEND_SHARED_OBJECT,
    Block,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.records import record

_METADATA_1_3 = Version(1, 3)

# Offsets of the fields of a TCS that are relative to its own page (SDM 38.8).
_TCS_RELATIVE_FIELDS = (16, 48, 56)
TCS_TEMPLATE_SIZE = 72


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
    """Whole pages, inside the enclave, behind each other; the image comes first."""
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
