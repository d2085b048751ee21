# SPDX-License-Identifier: GPL-2.0-or-later
"""Trap 7: offsets and sizes that overlap, overflow, lie, or ask for the moon.

Whatever a file claims, reading, measuring and comparing it end soon, in little
memory, with a verdict or an error that says why.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import (
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    LAYOUT_GROUP_FLAG,
    Block,
    Descriptor,
    Directory,
    Layout,
    LayoutEntry,
    LayoutGroup,
    PageAttr,
    PatchEntry,
)
from sgx_enclaves.enclave.sigstruct import SECINFO_RW
from sgx_enclaves.enclave.verdict import Outcome
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError
from sgx_enclaves.explain.explain import Explainer
from tests.enclaves.synthetic import NOTE_SECTION, Enclave, Load, build
from tests.support.signed import (
    fips_enclave,
    reread,
    signed_enclave,
    table_bytes,
    with_bytes,
    with_table,
)
from tests.unit.enclave.verdicts import assert_only, assert_unverifiable

U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
SECONDS = 3.0
MEMORY = 24 << 20
SDK = "2.17"


@contextmanager
def bounded() -> Iterator[None]:
    """Fails when what is inside takes long, or much memory."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
    finally:
        elapsed = time.monotonic() - start
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert elapsed < SECONDS
    assert peak < MEMORY


def with_layout(block: Block, *items: Layout) -> Block:
    """The block with entries behind its layout table, an enclave of any size around them."""
    table = table_bytes(block, DIR_LAYOUT) + b"".join(item.serialise() for item in items)
    return with_table(block, DIR_LAYOUT, table)


def page(
    rva: int, count: int = 1, attributes: int = PageAttr.EADD | PageAttr.EEXTEND
) -> LayoutEntry:
    return LayoutEntry(20, attributes, count, rva, si_flags=SECINFO_RW)


def group(times: int, step: int, members: int = 1) -> LayoutGroup:
    return LayoutGroup(LAYOUT_GROUP_FLAG | 9, members, times, step)


def huge(block: Block) -> Block:
    """The block in an enclave of 2**63 bytes, so that nothing leaves it."""
    return replace(block, header=replace(block.header, enclave_size=1 << 63))


FREE = 1 << 40

# Layouts to measure, and what must be said of each.
LAYOUTS: dict[str, tuple[Callable[[Block], Block], type[SgxEnclavesError], str]] = {
    "a group repeated 2**32-1 times": (
        lambda b: with_layout(huge(b), page(FREE), group(U32, PAGE_SIZE)),
        LimitError,
        "repeated too often",
    ),
    "a group that does not step": (
        lambda b: with_layout(huge(b), page(FREE), group(1000, 0)),
        FormatError,
        "overlap",
    ),
    "a group that steps out": (
        lambda b: with_layout(b, group(3, 1 << 40)),
        FormatError,
        "leaves the enclave",
    ),
    "a group that wraps around": (
        lambda b: with_layout(huge(b), page(FREE), group(2, U64 - PAGE_SIZE + 1)),
        FormatError,
        "leaves the enclave",
    ),
    "a group of more than there is": (
        lambda b: with_layout(huge(b), page(FREE), group(1, PAGE_SIZE, U16)),
        FormatError,
        "before the table's first",
    ),
    "a group of groups": (
        lambda b: with_layout(huge(b), page(FREE), group(0, 0), group(2, PAGE_SIZE)),
        FormatError,
        "repeats another group",
    ),
    "2**32-1 measured pages": (
        lambda b: with_layout(huge(b), page(FREE, U32)),
        LimitError,
        "too many pages",
    ),
    "2**25 measured pages": (
        lambda b: with_layout(huge(b), page(FREE, 1 << 25)),
        LimitError,
        "too many pages",
    ),
    "2**31 added pages": (
        lambda b: with_layout(huge(b), page(FREE, 1 << 31, PageAttr.EADD)),
        LimitError,
        "too many pages",
    ),
    "many pages, repeated": (
        lambda b: with_layout(huge(b), page(FREE, 1 << 24), group(1 << 14, 1 << 37)),
        LimitError,
        "too many pages",
    ),
    "pages beyond the enclave": (
        lambda b: with_layout(b, page(b.header.enclave_size)),
        FormatError,
        "whole pages inside the enclave",
    ),
    "pages that wrap around": (
        lambda b: with_layout(huge(b), page(U64 - PAGE_SIZE + 1, 2)),
        FormatError,
        "whole pages inside the enclave",
    ),
    "half a page further": (
        lambda b: with_layout(huge(b), page(FREE + 0x800)),
        FormatError,
        "whole pages inside the enclave",
    ),
    "pages over the image": (
        lambda b: with_layout(huge(b), page(0)),
        FormatError,
        "overlap",
    ),
    "pages over other pages": (
        lambda b: with_layout(huge(b), page(FREE, 4), page(FREE + 3 * PAGE_SIZE)),
        FormatError,
        "overlap",
    ),
    "content behind the block": (
        lambda b: with_layout(
            huge(b), replace(page(FREE), content_size=64, content_offset=b.header.size + 4096)
        ),
        FormatError,
        "leaves its metadata block",
    ),
    "content of 2**32-1 bytes": (
        lambda b: with_layout(huge(b), replace(page(FREE, 5), content_size=U32, content_offset=64)),
        FormatError,
        "leaves its metadata block",
    ),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_layouts(what: str) -> None:
    """Guards `checked_layout` and `_check_ranges`, `_check_cost` behind it."""
    case = signed_enclave(SDK)
    change, error, message = LAYOUTS[what]
    block = reread(change(case.blocks[0]))
    with bounded(), pytest.raises(error, match=message):
        mrenclave(case.image, block)
    # The comparison does not even look: our own build says how it is loaded.
    with bounded():
        verdict = case.compare(case.hostile(change, measured=False))
    assert_only(verdict, "metadata")


def test_a_group_of_nothing() -> None:
    """Guards the loop in `checked_layout`: nothing, 2**32-1 times, is nothing at once."""
    case = signed_enclave(SDK)
    block = case.blocks[0]
    evil = reread(with_layout(huge(block), group(U32, PAGE_SIZE, 0)))
    with bounded():
        assert mrenclave(case.image, evil) == mrenclave(case.image, huge(block))


@pytest.mark.parametrize("dst", [1 << 20, U64, U64 - 7])
def test_patches_that_leave_the_file(dst: int) -> None:
    """Guards `_check_patch`."""
    case = signed_enclave(SDK)

    def change(block: Block) -> Block:
        table = table_bytes(block, DIR_PATCH) + PatchEntry(dst, 64, 8).serialise()
        return with_table(block, DIR_PATCH, table)

    with bounded(), pytest.raises(FormatError, match="leaves the file"):
        mrenclave(case.image, reread(change(case.blocks[0])))
    assert_only(case.compare(case.hostile(change, measured=False)), "metadata")


@pytest.mark.parametrize(("src", "size"), [(U32, 1), (0, U32), (U32, U32), (4000, 4096)])
def test_patches_from_outside_the_block(src: int, size: int) -> None:
    """Guards `Block._check_tables`."""
    case = signed_enclave(SDK)
    block = case.blocks[0]
    evil = with_bytes(
        block, block.directories[DIR_PATCH].offset, PatchEntry(0, src, size).serialise()
    )
    with bounded():
        verdict = case.compare(case.with_blocks([evil, *case.blocks[1:]]))
    assert_unverifiable(verdict, "metadata-malformed")


@pytest.mark.parametrize("which", [DIR_PATCH, DIR_LAYOUT, DIR_EXTEND])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(U32, 32), (0, U32 - 31), (U32, U32 - 31), (64, 31), (100, 33), (1 << 31, 1 << 31)],
)
def test_directories_that_lie(which: int, offset: int, size: int) -> None:
    """Guards `Block._check_tables`: tables within the block, in whole entries."""
    case = fips_enclave()
    (block,) = case.blocks
    directories = list(block.directories)
    directories[which] = Directory(offset, size)
    with bounded():
        verdict = case.compare(case.with_blocks([replace(block, directories=tuple(directories))]))
    assert_unverifiable(verdict, "metadata-malformed")


def test_tables_that_overlap_each_other() -> None:
    """Guards the metadata check: patch table and layout table in the same bytes parse well."""
    case = signed_enclave(SDK)

    def change(block: Block) -> Block:
        directories = list(block.directories)
        directories[DIR_LAYOUT] = directories[DIR_PATCH]
        return replace(block, directories=tuple(directories))

    assert_only(case.compare(case.hostile(change, measured=False)), "metadata")


@pytest.mark.parametrize("size", [0, 1, 64, 0x5001, 0x7FFF_FFFF, U32])
def test_block_sizes_that_lie(size: int) -> None:
    """Guards the check of `header.size` in `Block.parse`; 0 would never end."""
    case = signed_enclave(SDK)
    blocks = list(case.blocks)
    blocks[0] = replace(blocks[0], header=replace(blocks[0].header, size=size))
    with bounded():
        verdict = case.compare(case.with_blocks(blocks))
    assert_unverifiable(verdict, "metadata-malformed")


@pytest.mark.parametrize("size", [0, PAGE_SIZE - 1, PAGE_SIZE, 3 << 20, (1 << 20) + 1, U64])
def test_enclave_sizes_that_lie(size: int) -> None:
    """Guards `_check_enclave_size`: a power of two that holds the image."""
    case = signed_enclave(SDK)
    block = case.blocks[0]
    evil = replace(block, header=replace(block.header, enclave_size=size))
    with bounded(), pytest.raises(FormatError):
        mrenclave(case.image, evil)


SEGMENT_LIES: tuple[dict[str, int], ...] = (
    {"p_offset": U64},
    {"p_filesz": U64},
    {"p_filesz": 1 << 40},
    {"p_memsz": U64},
    {"p_memsz": 0},
    {"p_vaddr": U64},
    {"p_vaddr": U64 - PAGE_SIZE},
    {"p_vaddr": 0x1000},
    {"p_align": 0},
    {"p_align": 3},
    {"p_align": 1 << 63},
    {"p_flags": 0},
)
HEADER_LIES: tuple[dict[str, int], ...] = (
    {"e_phoff": U64},
    {"e_phoff": 1},
    {"e_phnum": U16},
    {"e_phnum": 0},
    {"e_phentsize": 1},
    {"e_shoff": U64},
    {"e_shoff": 0},
    {"e_shnum": U16},
    {"e_shnum": 0},
    {"e_shentsize": 0},
    {"e_shstrndx": U16},
    {"e_machine": 3},
    {"e_type": 2},
    {"e_version": 0},
)
SECTION_LIES: tuple[dict[str, int], ...] = (
    {"sh_offset": U64},
    {"sh_offset": 0},
    {"sh_offset": 1 << 30},
    {"sh_size": U64},
    {"sh_size": 0},
    {"sh_size": 24},
    {"sh_size": 1 << 30},
    {"sh_type": 8},
    {"sh_name": U32},
)
LIES: list[dict[str, Any]] = [
    *({"segment_fields": {index: lie}} for index in (0, 1) for lie in SEGMENT_LIES),
    *({"header_fields": lie} for lie in HEADER_LIES),
    *({"section_fields": {NOTE_SECTION: lie}} for lie in SECTION_LIES),
    *({"section_fields": {".shstrtab": lie}} for lie in ({"sh_size": U64}, {"sh_offset": U64})),
    *({"segment_fields": {0: {"p_type": 0}, 1: {"p_type": 0}}} for _ in range(1)),
    {"section_fields": {".dynsym": {"sh_size": U64}}},
    {"section_fields": {".dynsym": {"sh_entsize": 1}}},
    {"section_fields": {".dynstr": {"sh_offset": U64}}},
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_our_own_build_lies(lie: dict[str, Any]) -> None:
    """Guards the checks of `EnclaveImage.parse`, and of the tables that are read later.

    A reference that cannot be read proves nothing: *unverifiable*, or refuted.
    """
    case = signed_enclave(SDK)
    evil = build(Enclave(sdk=SDK, **lie)).data
    with bounded():
        verdict = case.compare(built=evil)
    assert verdict.outcome is not Outcome.IDENTICAL
    # His file has the same lie in its headers: now the payload does not show it.
    copy = bytearray(evil)
    if len(evil) == len(case.signed):
        copy[case.area] = case.descriptor
        with bounded():
            verdict = case.compare(bytes(copy), built=evil)
        assert verdict.outcome is not Outcome.IDENTICAL


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_the_vendors_file_lies(lie: dict[str, Any]) -> None:
    """Guards that the vendor's headers lead nowhere: *differs*, and never an exception."""
    case = signed_enclave(SDK)
    with bounded():
        verdict = case.compare(build(Enclave(sdk=SDK, **lie)).data)
    assert verdict.outcome is Outcome.DIFFERS
    assert verdict.explanation is not None


MUST_BE_REFUSED: list[dict[str, Any]] = [
    {"loads": [Load(0x1000, b"x" * 16)]},
    {"segment_fields": {1: {"p_vaddr": 0}}},
    {"segment_fields": {0: {"p_filesz": 0x100000}}},
    {"section_fields": {NOTE_SECTION: {"sh_offset": 0}}},
    {"section_fields": {".text": {"sh_offset": 0, "sh_size": 0x5800}}},
    {"segment_fields": {0: {"p_filesz": 0x3000, "p_memsz": 0x3000}, 1: {"p_vaddr": 0x8000}}},
    {"segment_fields": {1: {"p_offset": 1 << 30}}},
    {"truncate": 0x1000},
]


@pytest.mark.parametrize("lie", MUST_BE_REFUSED, ids=str)
def test_overlaps_are_refused(lie: dict[str, Any]) -> None:
    """Guards `_parse_segments`, `_check_load_segment` and `_check_descriptor_is_apart`.

    Were the metadata area part of a segment, the signer could write what he
    likes into measured memory and call it a signature.
    """
    with pytest.raises(FormatError):
        EnclaveImage.parse(build(Enclave(sdk=SDK, **lie)).data)


def test_a_claim_costs_no_memory_before_it_is_checked() -> None:
    """Guards the order of checks: a segment of 2**60 bytes of zeros is not laid out."""
    case = signed_enclave(SDK)
    data = build(Enclave(sdk=SDK, segment_fields={1: {"p_memsz": 1 << 60}})).data
    with bounded():
        image = EnclaveImage.parse(data)
        block = replace(case.blocks[0], header=replace(case.blocks[0].header, enclave_size=1 << 62))
        with pytest.raises(SgxEnclavesError):
            mrenclave(image, block)
        assert case.compare(built=data).outcome is not Outcome.IDENTICAL


def test_an_explanation_of_a_hostile_layout_is_bounded() -> None:
    """Guards the reading of layouts in explanations: groups are never unrolled there."""
    case = signed_enclave(SDK)

    def change(block: Block) -> Block:
        return with_layout(huge(block), page(FREE, U32), *[group(U32, PAGE_SIZE)] * 40)

    evil = case.hostile(change, measured=False)
    assert Descriptor.parse(evil[case.area]).blocks[0].layout[-1] == group(U32, PAGE_SIZE)
    with bounded():
        config = Config.parse(case.config)
        generation = case.regenerated.generation
        explainer = Explainer(case.image, evil, generation, config, "signed")
        explanation = explainer.explanation()
    assert explanation.differences
