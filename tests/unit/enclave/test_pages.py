# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages are added, and every refusal: ranges, overlaps, cost."""

from __future__ import annotations

import struct
import time
import tracemalloc
from dataclasses import replace
from typing import Any, Union

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import (
    PageRun,
    Repetition,
    checked_layout,
    enclave_pages,
    measure,
    mrenclave,
    patched_image,
)
from sgx_enclaves.enclave.metadata import (
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    Block,
    Directory,
    ExtendEntry,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.limits import Limits
from tests.enclaves.synthetic import PF_R, PF_W, PF_X, Load, small_enclave

PAGE = 0x1000
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
EADD, EEXTEND = 1, 2
RW, TCS = 0x203, 0x100
START = 0x10000
Item = Union[LayoutEntry, LayoutGroup]


@pytest.fixture(scope="module")
def image() -> EnclaveImage:
    return EnclaveImage.parse(small_enclave())


@pytest.fixture(scope="module")
def block(image: EnclaveImage) -> Block:
    config = Config({"HeapMaxSize": 0x4000, "StackMaxSize": 0x3000})
    return regenerate(image, config, generation_named("2.25")).blocks[0]


def with_table(block: Block, index: int, table: bytes) -> Block:
    """The block with another table, appended to its data."""
    at = block.data_offset + len(block.data)
    directories = list(block.directories)
    directories[index] = Directory(at, len(table))
    header = replace(block.header, size=at + len(table))
    data = block.data + table
    return replace(block, header=header, directories=tuple(directories), data=data)


def with_layout(block: Block, *items: Item, size: int = 1 << 40) -> Block:
    changed = with_table(block, DIR_LAYOUT, b"".join(i.serialise() for i in items))
    return replace(changed, header=replace(changed.header, enclave_size=size))


def entry(rva: int, pages: int = 1, **fields: Any) -> LayoutEntry:
    values = {"id": 1, "attributes": EADD, "si_flags": RW, **fields}
    return LayoutEntry(page_count=pages, rva=rva, **values)


def unrolled(layout: list[Repetition]) -> list[tuple[LayoutEntry, int]]:
    return [placed for repetition in layout for placed in repetition]


def layout_runs(image: EnclaveImage, block: Block) -> list[PageRun]:
    runs = list(enclave_pages(image, block))
    return [run for run in runs if run.offset >= START]


def test_groups_repeat_the_entries_before_them(image: EnclaveImage, block: Block) -> None:
    table: list[Item] = [entry(START), entry(START + PAGE, 2), LayoutGroup(0x1009, 2, 3, 4 * PAGE)]
    found = unrolled(checked_layout(image, with_layout(block, *table)))
    assert [rva for _, rva in found] == [
        START + base + offset for base in range(0, 16 * PAGE, 4 * PAGE) for offset in (0, PAGE)
    ]


def test_what_is_added_and_measured(image: EnclaveImage, block: Block) -> None:
    whole = block.serialise()
    content = with_layout(
        block,
        entry(START, 2),
        entry(START + 2 * PAGE, attributes=0),
        entry(START + 3 * PAGE, attributes=EADD | EEXTEND, content_size=0x01020304),
        entry(START + 4 * PAGE, 3, content_offset=64, content_size=PAGE + 5),
        entry(START + 7 * PAGE, 0),
        entry(START + 8 * PAGE, si_flags=0),
        entry(START + 9 * PAGE, si_flags=TCS, content_offset=64, content_size=72),
    )
    heap, filled, region, rest, tcs = layout_runs(image, content)
    assert (heap.offset, heap.count, heap.measured, heap.flags) == (START, 2, False, RW)
    assert filled.measured
    assert bytes(filled.content) == b"\x04\x03\x02\x01" * 1024
    # A region's pages are measured although the entry does not say so.
    assert (region.count, rest.count, region.measured, rest.measured) == (2, 1, True, True)
    wanted = content.serialise()[64 : 64 + PAGE + 5]
    assert bytes(region.content) == wanted.ljust(2 * PAGE, b"\0")
    assert bytes(rest.content) == bytes(PAGE)
    rva = START + 9 * PAGE
    for field in (16, 48, 56):
        before = int.from_bytes(whole[64 + field : 72 + field], "little")
        assert int.from_bytes(tcs.content[field : field + 8], "little") == (before + rva) & U64
    assert not any(tcs.content[72:])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([entry(START + 1)], "whole pages"),
        ([entry(1 << 40)], "whole pages"),
        ([entry((1 << 40) - PAGE, 2)], "whole pages"),
        ([entry(U64 - PAGE + 1, 2)], "whole pages"),
        ([entry(START, U32)], "whole pages"),
        ([entry(0)], "overlap"),
        ([entry(START, 2), entry(START + PAGE)], "overlap"),
        ([entry(START + PAGE), entry(START, 2)], "overlap"),
        ([entry(START), LayoutGroup(0x1009, 1, 1, 0)], "overlap"),
        ([entry(START, 2), LayoutGroup(0x1009, 1, 1, PAGE)], "overlap"),
        ([LayoutGroup(0x1009, 1, 1, PAGE)], "before the table"),
        ([entry(START), LayoutGroup(0x1009, 2, 1, PAGE)], "before the table"),
        (
            [entry(START), LayoutGroup(0x1009, 1, 1, PAGE), LayoutGroup(0x1009, 2, 1, PAGE)],
            "another group",
        ),
        ([entry(START), LayoutGroup(0x1009, 1, 2, U64)], "leaves the enclave"),
        ([entry(START), LayoutGroup(0x1009, 1, 2, 1 << 40)], "leaves the enclave"),
        ([entry(START, si_flags=RW | 8)], "EADD does not take"),
        ([entry(START, si_flags=1 << 63 | RW)], "EADD does not take"),
        ([entry(START, si_flags=TCS, content_offset=64, content_size=71)], "TCS template"),
        ([entry(START, si_flags=TCS, content_offset=64, content_size=PAGE + 1)], "TCS template"),
        ([entry(START, content_offset=64, content_size=U32)], "leaves its metadata block"),
        ([entry(START, content_offset=U32, content_size=1)], "leaves its metadata block"),
    ],
)
def test_contradictions_are_refused(
    image: EnclaveImage, block: Block, table: list[Item], message: str
) -> None:
    # A twin without the fault must pass, so that the message is about the fault alone.
    assert layout_runs(image, with_layout(block, entry(START))) != []
    with pytest.raises(FormatError, match=message):
        list(enclave_pages(image, with_layout(block, *table)))


@pytest.mark.parametrize(
    ("table", "size"),
    [
        ([entry(START, U32)], 1 << 50),
        ([entry(START, U32, attributes=EADD | EEXTEND)], 1 << 50),
        ([entry(START, (1 << 22) + 1, attributes=EADD | EEXTEND)], 1 << 50),
        ([entry(START, (1 << 22) + 1, content_offset=64, content_size=1)], 1 << 50),
        ([entry(START), LayoutGroup(0x1009, 1, U32, PAGE)], 1 << 50),
        ([entry(START, 1 << 20), LayoutGroup(0x1009, 1, 1000, 1 << 32)], 1 << 50),
    ],
)
def test_what_would_cost_too_much_is_refused_at_once(
    image: EnclaveImage, block: Block, table: list[Item], size: int
) -> None:
    hostile = with_layout(block, *table, size=size)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            mrenclave(image, hostile)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 2


def test_groups_without_members_cost_nothing(image: EnclaveImage, block: Block) -> None:
    groups = [LayoutGroup(0x1009, 0, U32, 0) for _ in range(20)]
    start = time.perf_counter()
    assert layout_runs(image, with_layout(block, entry(START), *groups)) != []
    assert time.perf_counter() - start < 2


def test_a_region_of_many_pages(image: EnclaveImage, block: Block) -> None:
    """Content of more than a page, or of more than the entry has pages for."""
    for pages in (1, 2, 3):
        changed = with_layout(block, entry(START, pages, content_offset=64, content_size=PAGE + 5))
        whole = changed.serialise()[64 : 64 + PAGE + 5].ljust(3 * PAGE, b"\0")
        runs = layout_runs(image, changed)
        assert sum(run.count for run in runs) == pages
        content = b"".join(bytes(r.content) for r in runs)
        assert content == whole[: len(content)]
        by_page = [
            PageRun(START + i * PAGE, 1, RW, True, memoryview(whole[i * PAGE : (i + 1) * PAGE]))
            for i in range(pages)
        ]
        assert measure(1, 1 << 40, runs, 0) == measure(1, 1 << 40, by_page, 0)


def test_a_huge_segment_is_refused_at_once() -> None:
    data = small_enclave(loads=[Load(START, b"", 1 << 45, PF_R | PF_W)])
    with pytest.raises(LimitError, match="too many pages"):
        regenerate(EnclaveImage.parse(data), Config({}), generation_named("2.25"))


def test_limits_can_be_lowered(image: EnclaveImage, block: Block) -> None:
    with pytest.raises(LimitError, match="too many pages"):
        list(enclave_pages(image, block, Limits(hashed_bytes=3 * 5184)))
    added = entry(START, 1 << 20, attributes=1)
    least = Limits(hashed_bytes=image.image_size // PAGE * 5184 + (64 << 20))
    assert checked_layout(image, with_layout(block, added), least)
    with pytest.raises(LimitError, match="too many pages") as caught:
        checked_layout(image, with_layout(block, added, entry(START + (1 << 32))), least)
    assert caught.value.expected == "at most 64 MiB to hash"
    assert caught.value.found == "64 MiB"


def test_no_page_however_often_is_no_page(image: EnclaveImage, block: Block) -> None:
    nothing: list[Item] = [entry(START, 0), LayoutGroup(0x1009, 1, U32, 0)]
    alone = mrenclave(image, with_layout(block, size=1 << 50))
    assert mrenclave(image, with_layout(block, *nothing, size=1 << 50)) == alone


def test_repetitions_that_follow_each_other_are_not_listed(
    image: EnclaveImage, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are looked at one by one."""
    monkeypatch.setattr("sgx_enclaves.enclave.measure._MOST_LISTED", 12)
    times = 1 << 16
    dense = with_layout(block, entry(START), LayoutGroup(0x1009, 1, times, PAGE))
    found = checked_layout(image, dense, Limits(layout_entries=1 + times))
    assert len(found) == 2
    assert len(unrolled(found)) == 1 + times
    with pytest.raises(LimitError, match="too often"):
        checked_layout(image, dense, Limits(layout_entries=times))
    # Two entries whose repetitions interleave.
    pair = (entry(START), entry(START + 8 * PAGE))
    mixed = with_layout(block, *pair, LayoutGroup(0x1009, 2, 5, PAGE))
    assert len(unrolled(checked_layout(image, mixed))) == 12
    more = with_layout(block, *pair, LayoutGroup(0x1009, 2, 6, PAGE))
    with pytest.raises(LimitError, match="too often"):
        checked_layout(image, more)


def test_the_last_repetition_of_a_group_counts(image: EnclaveImage, block: Block) -> None:
    """It stays within the enclave, and no other entry lies where it does."""
    size = 2 * START
    room = (size - START) // PAGE
    for times, more, message in (
        (room - 1, [], None),
        (room, [], "whole pages inside the enclave"),
        (3, [entry(START + 4 * PAGE)], None),
        (3, [entry(START + 3 * PAGE)], "overlap"),
        (3, [entry(START + PAGE)], "overlap"),
    ):
        table: list[Item] = [entry(START), LayoutGroup(0x1009, 1, times, PAGE), *more]
        changed = with_layout(block, *table, size=size)
        if message is None:
            assert len(layout_runs(image, changed)) == 1 + times + len(more)
        else:
            with pytest.raises(FormatError, match=message):
                checked_layout(image, changed)


@pytest.mark.parametrize("size", [0, 1, PAGE, 0x3000, (1 << 40) + PAGE, U64])
def test_an_enclave_size_that_cannot_be(image: EnclaveImage, block: Block, size: int) -> None:
    changed = replace(block, header=replace(block.header, enclave_size=size))
    with pytest.raises(FormatError, match="power of two"):
        list(enclave_pages(image, changed))


def test_the_least_enclave_is_a_page(
    image: EnclaveImage, block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image_size, size, message in ((0, 1, "power of two"), (PAGE, PAGE, "inside the enc")):
        monkeypatch.setattr(EnclaveImage, "image_size", image_size)
        changed = replace(block, header=replace(block.header, enclave_size=size))
        with pytest.raises(FormatError, match=message):
            list(enclave_pages(image, changed))


@pytest.mark.parametrize("rva", [0, START, START + PAGE])
def test_an_entry_without_pages_overlaps_nothing(
    image: EnclaveImage, block: Block, rva: int
) -> None:
    table = [entry(START, 2), entry(rva, 0)]
    found = layout_runs(image, with_layout(block, *table))
    assert found == layout_runs(image, with_layout(block, table[0])) != []


def test_whoever_waits_hears_where_the_measurement_is(image: EnclaveImage, block: Block) -> None:
    heard: list[tuple[int, int]] = []
    changed = with_layout(block, entry(1 << 20, 600))
    mrenclave(image, changed, watch=lambda *said: heard.append(said))
    assert heard == [(n << 20, 1 << 40) for n in (1, 2, 3)]


def test_many_kinds_of_pages_take_the_memory_of_a_few(image: EnclaveImage, block: Block) -> None:
    """Records of 16 equal pages are kept, 81 KiB a kind."""
    fields = {"attributes": EADD | EEXTEND}
    table = [entry(START + n * 64 * PAGE, 64, content_size=n + 1, **fields) for n in range(60)]
    changed = with_layout(block, *table)
    tracemalloc.start()
    try:
        mrenclave(image, changed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_patches_are_applied_in_order(image: EnclaveImage, block: Block) -> None:
    table = PatchEntry(0x100, 0, 8).serialise() + PatchEntry(0x104, 64, 8).serialise()
    changed = with_table(block, DIR_PATCH, table)
    data = patched_image(image, changed)
    whole = changed.serialise()
    assert data[0x100:0x10C] == whole[0:4] + whole[64:72]
    assert data[:0x100] == image.data[:0x100]
    assert data[0x10C:] == image.data[0x10C:]


@pytest.mark.parametrize("dst", [U64, 1 << 63, "end"])
def test_a_patch_outside_the_file(image: EnclaveImage, block: Block, dst: Union[int, str]) -> None:
    at = len(image.data) - 7 if isinstance(dst, str) else dst
    fits = with_table(block, DIR_PATCH, PatchEntry(len(image.data) - 8, 0, 8).serialise())
    assert len(patched_image(image, fits)) == len(image.data)
    changed = with_table(block, DIR_PATCH, PatchEntry(at, 0, 8).serialise())
    with pytest.raises(FormatError, match="patch 0 leaves the file"):
        patched_image(image, changed)


def test_an_embedded_fips_module_is_refused_by_name(image: EnclaveImage, block: Block) -> None:
    changed = with_table(block, DIR_EXTEND, ExtendEntry(0x1002, 32, 64).serialise())
    with pytest.raises(UnsupportedError, match="EnableOSSLFIPS"):
        list(enclave_pages(image, changed))


def version_1_3(loads: list[Load]) -> list[tuple[int, int, int]]:
    """Pages of an enclave's further segments under metadata 1.3."""
    image = EnclaveImage.parse(small_enclave(sdk="1.8", loads=loads))
    block = regenerate(image, Config({}), generation_named("1.8")).blocks[0]
    assert block.version == Version(1, 3)
    end = max(load.vaddr for load in loads) + 0x4000
    return [(r.offset, r.count, r.flags) for r in layout_runs(image, block) if r.offset < end][
        : len(loads) + 2
    ]


def test_pages_have_the_rights_of_their_segment_and_no_other() -> None:
    for flags, secinfo in ((PF_R, 0x201), (PF_W, 0x202), (PF_X, 0x204)):
        loads = [Load(START, b"x", flags=flags)]
        image = EnclaveImage.parse(small_enclave(loads=loads))
        block = regenerate(image, Config({}), generation_named("2.25")).blocks[0]
        assert layout_runs(image, block)[0].flags == secinfo


def test_the_page_too_many_of_metadata_1_3() -> None:
    # 0x80 bytes near a page's end: their size rounded to a page reaches into the next.
    corner = Load(START + 0xF00, b"x" * 0x80, flags=PF_R)
    assert version_1_3([corner])[:2] == [(START, 1, 0x201), (START + PAGE, 1, 0x201)]
    later = Load(START + 2 * PAGE, b"y", flags=PF_R | PF_W)
    assert version_1_3([corner, later])[:3] == [
        (START, 1, 0x201),
        (START + PAGE, 1, 0x201),
        (START + 2 * PAGE, 1, 0x203),
    ]
    # A segment that starts in that page takes its place.
    touching = Load(START + PAGE, b"y" * 0x1000, flags=PF_R | PF_W)
    image = EnclaveImage.parse(small_enclave(sdk="1.8", loads=[corner, touching]))
    block = regenerate(image, Config({}), generation_named("1.8")).blocks[0]
    runs = layout_runs(image, block)
    assert [(r.offset, r.count, r.flags) for r in runs[:2]] == [
        (START, 1, 0x201),
        (START + PAGE, 1, 0x203),
    ]
    assert runs[2].offset > START + PAGE
    # It is behind the highest segment, not behind the last of the table.
    early = Load(START - PAGE, b"y", flags=PF_R)
    image = EnclaveImage.parse(small_enclave(sdk="1.8", loads=[corner, early]))
    block = regenerate(image, Config({}), generation_named("1.8")).blocks[0]
    places = [(r.offset, r.count) for r in enclave_pages(image, block)]
    assert places.count((START + PAGE, 1)) == 1
    # Also where it is the first of the table, before a higher one.
    data = bytearray(small_enclave(sdk="1.8", loads=[corner, later]))
    (table,) = struct.unpack_from("<Q", data, 32)
    entries = [data[at : at + 56] for at in range(table, table + 56 * data[56], 56)]
    first = {corner.vaddr: 0, later.vaddr: 1}
    entries.sort(key=lambda entry: first.get(struct.unpack_from("<Q", entry, 16)[0], 2))
    data[table : table + 56 * data[56]] = b"".join(entries)
    image = EnclaveImage.parse(bytes(data))
    assert image.load_segments[0].p_vaddr == corner.vaddr
    block = regenerate(image, Config({}), generation_named("1.8")).blocks[0]
    places = [(r.offset, r.count) for r in enclave_pages(image, block)]
    assert places.count((START + PAGE, 1)) == 1
    plain = Load(START, b"x" * 0x80, flags=PF_R)
    assert (START + PAGE, 1, 0x201) not in version_1_3([plain])


numbers = st.one_of(
    st.integers(0, 64), st.sampled_from([U32, U32 - 1, 1 << 31]), st.integers(0, U32)
)
addresses = st.one_of(
    st.integers(0, 64).map(lambda page: START + page * PAGE),
    st.sampled_from([0, U64, U64 - PAGE + 1, 1 << 63, 1 << 40]),
    st.integers(0, U64),
)
items = st.one_of(
    st.builds(
        LayoutEntry,
        id=st.integers(0, 0xFFF),
        attributes=st.integers(0, 3),
        page_count=st.one_of(st.integers(0, 8), numbers),
        rva=addresses,
        content_size=numbers,
        content_offset=numbers,
        si_flags=st.sampled_from([0, RW, TCS, U64]),
    ),
    st.builds(
        LayoutGroup,
        id=st.integers(0x1000, 0x1FFF),
        entry_count=st.integers(0, 5),
        load_times=numbers,
        load_step=addresses,
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(items, max_size=6), st.sampled_from([1 << 20, 1 << 40, 1 << 63]))
def test_any_table_is_measured_or_refused(table: list[Item], size: int) -> None:
    limits = Limits(layout_entries=1 << 12, hashed_bytes=1 << 23)
    image = EnclaveImage.parse(small_enclave())
    block = regenerate(image, Config({}), generation_named("2.25")).blocks[0]
    try:
        assert len(mrenclave(image, with_layout(block, *table, size=size), limits)) == 32
    except SgxEnclavesError as error:
        assert str(error)
