# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges, places and causes of differences in small, exact files."""

from __future__ import annotations

import struct
import time
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import (
    DIR_LAYOUT,
    DIR_PATCH,
    Block,
    LayoutEntry,
    PageAttr,
    PatchEntry,
)
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sigstruct import SECINFO_REG, SECINFO_RW, SECINFO_RWX, SECINFO_X
from sgx_enclaves.enclave.verdict import GAP, differing_ranges
from sgx_enclaves.explain.explain import MOST, Explainer
from sgx_enclaves.explain.file_map import scan
from tests.enclaves.synthetic import Enclave, Load, build, small_enclave
from tests.unit.explain.explaining import PLAIN, Case, codes, described_here, message

CODE = bytes(range(1, 251)) * 2
IMAGE = build(Enclave(code=CODE, symtab=True, interpreter="/lib/ld.so"))


@pytest.fixture(scope="module")
def case() -> Case:
    return Case.of(IMAGE.data)


def changed(data: bytes, *offsets: int) -> bytes:
    result = bytearray(data)
    for offset in offsets:
        result[offset] ^= 0xFF
    return bytes(result)


def naive(left: bytes, right: bytes) -> list[list[int]]:
    ranges: list[list[int]] = []
    for index, (a, b) in enumerate(zip(left, right)):
        if a == b:
            continue
        if ranges and index - ranges[-1][1] < GAP:
            ranges[-1][1] = index + 1
        else:
            ranges.append([index, index + 1])
    return ranges


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 140_000),
    st.sets(st.integers(0, 139_999), max_size=60),
    st.sets(st.integers(65_500, 65_570), max_size=20),
    st.integers(0, 5),
)
def test_a_scan_finds_and_counts_what_a_naive_one_does(
    size: int, far: set[int], near: set[int], most: int
) -> None:
    left = bytes(size)
    right = changed(left, *(o for o in far | near if o < size))
    expected = naive(left, right)
    found = scan(left, right, [(0, size)], most)
    assert [list(r) for r in found.ranges] == expected[:most]
    assert found.omitted == max(0, len(expected) - most)
    assert found.differing_bytes == sum(a != b for a, b in zip(left, right))


def test_a_scan_stays_within_its_areas() -> None:
    left, right = bytes(100), b"\1" * 100
    found = scan(left, right, [(10, 20), (21, 30)], 9)
    assert found.ranges == ((10, 20), (21, 30))
    assert found.differing_bytes == 19


def test_differences_less_than_16_bytes_apart_are_one_range(case: Case) -> None:
    text = IMAGE.section(".text").sh_offset
    near = case.explain(changed(case.signed(), text, text + GAP))
    assert [(d.start - text, d.end - text) for d in near.differences] == [(0, GAP + 1)]
    assert near.differing_bytes == 2
    far = case.explain(changed(case.signed(), text, text + GAP + 1))
    assert [d.start - text for d in far.differences] == [0, GAP + 1]


def test_a_range_says_where_it_is_and_what_stands_there(case: Case) -> None:
    text = IMAGE.section(".text").sh_offset
    (difference,) = case.explain(changed(case.signed(), text + 5)).differences
    assert difference.where == "payload"
    assert difference.segment == 0
    assert difference.section == ".text"
    assert difference.symbol == "enclave_entry"
    assert difference.field is None
    assert difference.measured
    assert (difference.expected, difference.found) == ("06", "f9")


def test_a_byte_behind_a_symbol_is_named_by_its_distance() -> None:
    image = build(Enclave(code=CODE, symtab=True))
    # A symbol table that covers only the first byte of the code.
    table = image.section(".symtab")
    size_at = table.sh_offset + 24 + 16
    data = image.data[:size_at] + struct.pack("<Q", 1) + image.data[size_at + 8 :]
    case = Case.of(data)
    text = image.section(".text").sh_offset
    (difference,) = case.explain(changed(case.signed(), text + 0x40)).differences
    assert difference.symbol == "enclave_entry+0x40"


@pytest.mark.parametrize(
    ("section", "shift", "measured"),
    [
        (".text", 0, True),
        (".dynstr", 1, True),
        (".interp", 0, True),
        (".data", 0, True),
        (".data.rel.ro", 9, False),
        (".data.rel.ro", 1767, False),
        (".symtab", 30, False),
        (".shstrtab", 2, False),
    ],
)
def test_only_what_the_loader_maps_and_does_not_overwrite_is_measured(
    case: Case, section: str, shift: int, measured: bool
) -> None:
    offset = IMAGE.section(section).sh_offset + shift
    (difference,) = case.explain(changed(case.signed(), offset)).differences
    assert difference.measured is measured
    assert difference.section == section


@pytest.mark.parametrize(
    ("offset", "field", "measured"),
    [
        (0x18, "ELF header.e_entry", True),
        (0x28, "ELF header.e_shoff", False),
        (0x34, "ELF header.e_ehsize", True),
        (0x3D, "ELF header.e_shnum", False),
        (0x3E, "ELF header.e_shstrndx", False),
        (0x40 + 56 + 1, "program header 1.p_type", True),
    ],
)
def test_a_header_field_is_named(case: Case, offset: int, field: str, measured: bool) -> None:
    (difference,) = case.explain(changed(case.signed(), offset)).differences
    assert difference.field == field
    assert difference.measured is measured


def test_a_range_over_measured_bytes_that_are_equal_is_not_measured(case: Case) -> None:
    """e_shoff and e_shnum are 12 measured bytes apart: one range, and none of them differs."""
    (difference,) = case.explain(changed(case.signed(), 0x2F, 0x3C)).differences
    assert (difference.start, difference.end) == (0x2F, 0x3D)
    assert not difference.measured
    (difference,) = case.explain(changed(case.signed(), 0x2F, 0x34, 0x3C)).differences
    assert difference.measured


def test_without_metadata_the_payload_is_still_explained(case: Case) -> None:
    offset = IMAGE.section(".data.rel.ro").sh_offset
    text = IMAGE.section(".text").sh_offset
    signed = changed(case.signed(), offset + 9, text)
    explanation = Explainer(case.built, signed, None, case.config, "signed").explanation()
    assert [d.measured for d in explanation.differences] == [True, False]
    assert codes(explanation) == ["code-patch"]


def test_appended_bytes_are_one_range(case: Case) -> None:
    explanation = case.explain(case.signed() + b"tail")
    (difference,) = explanation.differences
    size = len(IMAGE.data)
    assert (difference.where, difference.start, difference.end) == ("appended", size, size + 4)
    assert (difference.expected, difference.found) == ("", b"tail".hex())
    assert not difference.measured
    assert codes(explanation) == ["appended-data", "not-measured"]
    assert "4 bytes are appended" in explanation.causes[0].message
    assert explanation.differing_bytes == 4


@pytest.mark.parametrize("missing", [1, 100, 5000, 20000, 28000])
def test_missing_bytes_are_one_range(case: Case, missing: int) -> None:
    size = len(IMAGE.data)
    explanation = case.explain(case.signed()[:-missing])
    difference = explanation.differences[-1]
    assert (difference.where, difference.end) == ("truncated", size)
    assert difference.start == size - missing
    assert difference.found == ""
    assert codes(explanation)[:2] == ["truncated", "signed-malformed"]
    assert f"{missing} bytes too early" in message(explanation, "truncated")
    assert difference.measured is (missing == 28000)


def test_a_file_of_another_size_that_differs_elsewhere_is_not_called_truncated(case: Case) -> None:
    text = IMAGE.section(".text").sh_offset
    explanation = case.explain(changed(case.signed(), text)[:-1])
    assert "truncated" not in codes(explanation)
    explanation = case.explain(changed(case.signed(), text) + b"x")
    assert "appended-data" not in codes(explanation)


def block_of(case: Case) -> Block:
    return case.regenerated.blocks[0]


@pytest.mark.parametrize(
    ("at", "field", "measured"),
    [
        (20, "block 0 header.tcs_policy", False),
        (24, "block 0 header.ssa_frame_size", True),
        (47, "block 0 header.enclave_size", True),
        (64 + 1026, "block 0 SIGSTRUCT.isvsvn", False),
        (64 + 960, "block 0 SIGSTRUCT.enclavehash", False),
    ],
)
def test_a_metadata_field_is_named(case: Case, at: int, field: str, measured: bool) -> None:
    offset = case.built.descriptor_offset + at
    (difference,) = case.explain(changed(case.signed(), offset)).differences
    assert difference.where == "metadata"
    assert difference.field == field
    assert difference.measured is measured
    assert difference.start == offset
    assert difference.segment is None


def test_table_entries_and_their_contents_are_named(case: Case) -> None:
    block = block_of(case)
    layout, patch = block.directories[DIR_LAYOUT], block.directories[DIR_PATCH]
    tcs = next(e for e in block.layout if isinstance(e, LayoutEntry) and e.content_offset)
    global_data = block.patches[0]
    for at, field, measured in (
        (layout.offset + 32 * 2 + 4, "block 0 layout[2].page_count", True),
        (patch.offset + 32 + 1, "block 0 patch[1].dst", True),
        (tcs.content_offset + 0x10, "block 0 TCS template +0x10", True),
        (global_data.src + 0x40, "block 0 global data +0x40", True),
        (block.header.size, "tail", False),
        (len(case.regenerated.descriptor) - 1, "tail", False),
    ):
        explanation = case.explain(changed(case.signed(), case.built.descriptor_offset + at))
        (difference,) = explanation.differences
        assert (difference.field, difference.measured) == (field, measured)


def test_neighbouring_fields_are_distinguished(case: Case) -> None:
    at = case.built.descriptor_offset + 64
    explanation = case.explain(changed(case.signed(), at + 1024, at + 1026))
    assert [d.field for d in explanation.differences] == [
        "block 0 SIGSTRUCT.isvprodid",
        "block 0 SIGSTRUCT.isvsvn",
    ]
    assert explanation.differing_bytes == 2


def test_the_signatures_own_bytes_are_no_difference(case: Case) -> None:
    signed = case.signed()
    for start, end in case.regenerated.signature_ranges:
        offset = case.built.descriptor_offset
        signed = changed(signed, *range(offset + start, offset + end))
    assert case.explain(signed).differences == ()


def test_a_hostile_patch_is_named_first(case: Case) -> None:
    text = IMAGE.section(".text").sh_offset
    block = block_of(case)
    entry = PatchEntry(text + 2, block.patches[0].src, 12)
    explanation = case.explain(case.signed(with_patch(case, 3, entry)))
    assert codes(explanation) == ["metadata-patch"]
    said = explanation.causes[0].message
    assert "patch[3] of block 0 overwrites 12 bytes of .text" in said
    assert "enclave_entry" in said
    assert said.endswith("the metadata patches measured bytes at load: hostile")


def test_a_patch_of_what_is_not_measured_is_only_strange(case: Case) -> None:
    at = IMAGE.section(".shstrtab").sh_offset
    entry = PatchEntry(at, block_of(case).patches[1].src, 2)
    explanation = case.explain(case.signed(with_patch(case, 3, entry)))
    assert "is not the SDK's" in message(explanation, "metadata-patch")


def with_patch(case: Case, index: int, entry: PatchEntry) -> bytes:
    at = block_of(case).directories[DIR_PATCH].offset + 32 * index
    descriptor = case.regenerated.descriptor
    return descriptor[:at] + entry.serialise() + descriptor[at + 32 :]


def with_layout(case: Case, index: int, entry: LayoutEntry) -> bytes:
    at = block_of(case).directories[DIR_LAYOUT].offset + 32 * index
    descriptor = case.regenerated.descriptor
    return descriptor[:at] + entry.serialise() + descriptor[at + 32 :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"content_offset": 0x800, "content_size": 64},
            "layout[1] of block 0 (GUARD) adds 16 pages (REG rw-) with content out of the metadata",
        ),
        (
            {"si_flags": SECINFO_RWX, "attributes": PageAttr.EADD | PageAttr.EEXTEND},
            "(REG rwx) of code that our build and the config do not ask for",
        ),
        ({"id": 777}, "(id 777)"),
    ],
)
def test_a_hostile_layout_entry_is_named(case: Case, change: dict[str, int], said: str) -> None:
    entry = block_of(case).layout[1]
    assert isinstance(entry, LayoutEntry)
    values = {"attributes": PageAttr.EADD, "si_flags": SECINFO_RW, **change}
    explanation = case.explain(case.signed(with_layout(case, 1, replace(entry, **values))))
    assert codes(explanation)[0] == "metadata-layout"
    assert said in message(explanation, "metadata-layout")
    assert "hostile" in message(explanation, "metadata-layout")


def test_of_many_hostile_layout_entries_the_rest_is_counted() -> None:
    options = {**PLAIN, "HeapMaxSize": 0x10000, "StackMinSize": 0x3000}
    case = Case.of(small_enclave(), options=options)
    table = [
        replace(item, id=700) if isinstance(item, LayoutEntry) else item
        for item in block_of(case).layout
    ]
    start = block_of(case).directories[DIR_LAYOUT].offset
    entries = b"".join(item.serialise() for item in table)
    descriptor = case.regenerated.descriptor
    evil = descriptor[:start] + entries + descriptor[start + len(entries) :]
    named = message(case.explain(case.signed(evil)), "metadata-layout").split("\n")
    assert len(named) == 9
    more = sum(isinstance(item, LayoutEntry) for item in table) - 8
    assert named[-1] == f"... and {more} more such layout entries"


def test_pages_of_code_that_the_config_asks_for_are_not_hostile() -> None:
    options = {**PLAIN, "ReservedMemMinSize": 0x1000, "ReservedMemMaxSize": 0x1000}
    options["ReservedMemExecutable"] = 1
    case = Case.of(small_enclave(), options=options)
    assert any(
        isinstance(e, LayoutEntry) and e.si_flags & SECINFO_X and e.si_flags & SECINFO_REG
        for e in block_of(case).layout
    )
    other = case.with_options(ReservedMemMinSize=0x3000, ReservedMemMaxSize=0x3000)
    assert set(codes(case.explain(case.signed(other)))) == {"config-value"}


def test_a_moved_g_global_data_is_patched_without_being_hostile(case: Case) -> None:
    other = EnclaveImage.parse(small_enclave(code=CODE * 3))
    theirs = regenerate(other, case.config, generation_named("2.25"))
    explanation = case.explain(case.signed(theirs.descriptor, other.data))
    assert "metadata-patch" not in codes(explanation)


def test_bytes_behind_the_last_block_are_named(case: Case) -> None:
    offset = case.built.descriptor_offset + block_of(case).header.size
    explanation = case.explain(changed(case.signed(), offset, offset + 99))
    assert codes(explanation) == ["metadata-tail", "not-measured"]
    assert "2 bytes behind the last metadata block" in explanation.causes[0].message


@pytest.mark.parametrize("sdk", ["2.24", "2.22", "2.17"])
def test_another_sdk_is_named(case: Case, sdk: str) -> None:
    other = EnclaveImage.parse(small_enclave(sdk=sdk, code=CODE, symtab=True))
    theirs = regenerate(other, case.config, generation_named(sdk))
    explanation = case.explain(case.signed(theirs.descriptor, other.data))
    text = message(explanation, "sdk-generation")
    assert f"g_global_data names SDK {sdk}, in our build 2.25" in text
    if sdk != "2.24":
        assert "metadata area has 20480 bytes, ours 24576" in text
        assert f"SDK 2.25 with this config writes {block_of(case).version}" in text


CONFIG_CHANGES = [
    ({"ISVSVN": 17}, "ISVSVN"),
    ({"ProdID": 7}, "ProdID"),
    ({"DisableDebug": 0}, "DisableDebug"),
    ({"ReleaseType": 1}, "ReleaseType"),
    ({"IntelSigned": 1}, "IntelSigned"),
    ({"ProvisionKey": 0}, "ProvisionKey"),
    ({"LaunchKey": 1, "HW": 2}, "LaunchKey"),
    ({"LaunchKey": 1, "HW": 2}, "HW"),
    ({"TCSPolicy": 0}, "TCSPolicy"),
    ({"MiscSelect": 2}, "MiscSelect"),
    ({"MiscMask": 0xFFFFFFF0}, "MiscMask"),
    ({"PKRU": 1}, "PKRU"),
    ({"AMX": 1}, "AMX"),
    ({"EnableAEXNotify": 1}, "EnableAEXNotify"),
    ({"EnableIPPFIPS": 1}, "EnableIPPFIPS"),
    ({"EnableKSS": 1}, "EnableKSS"),
    ({"HeapMaxSize": 0x9000, "HeapMinSize": 0x9000}, "HeapMaxSize"),
    ({"HeapMaxSize": 0x9000}, "HeapMaxSize"),
    ({"StackMaxSize": 0x9000}, "StackMaxSize"),
    ({"StackMinSize": 0x3000}, "StackMinSize"),
    ({"TCSNum": 3}, "TCSNum"),
    ({"TCSNum": 3, "TCSMinPool": 2}, "TCSMinPool"),
    ({"ReservedMemMinSize": 0x1000, "ReservedMemMaxSize": 0x2000}, "ReservedMemMaxSize"),
    (
        {
            "ELRangeSize": 0x1000000,
            "ELRangeStartAddress": 0x10000000,
            "EnclaveImageAddress": 0x10000000,
        },
        "ELRangeSize",
    ),
    ({"MiscSelect": 1, "UserRegionSize": 0x100000}, "MiscSelect"),
    ({"ISVFAMILYID_H": 5, "EnableKSS": 1}, "ISVFAMILYID_H"),
    ({"ISVEXTPRODID_L": 5, "EnableKSS": 1}, "ISVEXTPRODID_L"),
]


@pytest.mark.parametrize(("changes", "named"), CONFIG_CHANGES, ids=str)
def test_the_config_options_that_differ_are_named(
    case: Case, changes: dict[str, int], named: str
) -> None:
    explanation = case.explain(case.signed(case.with_options(**changes)))
    lines = message(explanation, "config-value").splitlines()
    names = [line.split(":")[0] for line in lines]
    assert named in names
    for line in lines:
        name = line.split(":")[0]
        # An option whose default follows another is named only when that says nothing.
        assert name in changes
        assert _number(changes[name]) in line


def _number(value: int) -> str:
    return f"says {value}" if value < 4096 else f"says 0x{value:x}"


def test_the_default_of_an_option_is_called_one(case: Case) -> None:
    explanation = case.explain(case.signed(case.with_options(PKRU=1, ISVSVN=9)))
    text = message(explanation, "config-value")
    assert "PKRU: block 0 of the vendor's file says 1, config.xml says 0 (its default)" in text
    assert "ISVSVN: block 0 of the vendor's file says 9, config.xml says 16\n" in text + "\n"


def test_dynamic_threads_are_counted_as_the_config_counts_them() -> None:
    dynamic = {**PLAIN, "MiscSelect": 1, "MiscMask": 0xFFFFFFFE, "TCSNum": 4, "TCSMinPool": 2}
    case = Case.of(small_enclave(), options={**dynamic, "TCSMaxNum": 8})
    assert len(case.regenerated.blocks) == 2
    explanation = case.explain(case.signed(case.with_options(TCSMaxNum=9)))
    assert message(explanation, "config-value") == (
        "TCSMaxNum: block 0 of the vendor's file says 9, config.xml says 8"
    )
    explanation = case.explain(case.signed(case.with_options(TCSNum=5)))
    assert "TCSNum: blocks 0, 1 of the vendor's file says 5" in message(explanation, "config-value")


def test_metadata_that_no_option_explains_are_called_so(case: Case) -> None:
    reserved = case.built.descriptor_offset + 64 + 50
    explanation = case.explain(changed(case.signed(), reserved))
    assert codes(explanation) == ["metadata-fields"]
    assert "block 0 SIGSTRUCT.reserved1" in explanation.causes[0].message
    # In the block for SGX1 alone this option shows only in g_global_data.
    explanation = case.explain(case.signed(case.with_options(TCSMaxNum=4)))
    assert "block 0 global data" in message(explanation, "metadata-fields")


def test_a_user_region_of_another_size_is_named() -> None:
    case = Case.of(small_enclave(), options={**PLAIN, "MiscSelect": 1, "UserRegionSize": 0x100000})
    explanation = case.explain(case.signed(case.with_options(UserRegionSize=0x300000)))
    assert message(explanation, "config-value").startswith("UserRegionSize: ")


def test_a_file_that_is_no_enclave_is_called_so(case: Case) -> None:
    for signed in (b"", b"\x7fELF", b"<script>\x1b[2J" * 500, bytes(len(IMAGE.data))):
        explanation = case.explain(signed)
        assert "signed-malformed" in codes(explanation)
        assert explanation.differing_bytes > 0


def test_only_so_many_differences_are_listed(case: Case) -> None:
    text = IMAGE.section(".text").sh_offset
    offsets = [text + 20 * n for n in range(MOST + 17)]
    case = Case.of(build(Enclave(code=CODE * 3)).data)
    explanation = case.explain(changed(case.signed(), *offsets))
    assert [d.start for d in explanation.differences] == offsets[:MOST]
    assert explanation.omitted == 17
    assert explanation.differing_bytes == MOST + 17


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(IMAGE.data) - 1), st.binary(min_size=1, max_size=9)),
        max_size=6,
    ),
    st.one_of(st.none(), st.integers(0, len(IMAGE.data) + 300)),
)
def test_a_hostile_file_is_explained_without_a_traceback(
    edits: list[tuple[int, bytes]], size: int | None
) -> None:
    case = Case.of(IMAGE.data)
    signed = bytearray(case.signed())
    for offset, content in edits:
        signed[offset : offset + len(content)] = content
    if size is not None:
        signed = signed[:size].ljust(size, b"\xee")
    with described_here():
        explanation = case.explain(bytes(signed))
    starts = [d.start for d in explanation.differences]
    assert starts == sorted(starts)
    start, end = case.built.descriptor_offset, case.built.descriptor_end
    parts = ((0, start), (end, len(IMAGE.data)))
    outside = any(differing_ranges(IMAGE.data, bytes(signed), parts))
    if outside:
        assert explanation.differing_bytes
        assert explanation.differences


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [b"\x01", b"\0\x01", bytes(16) + b"\x01"], ids=str)
def test_a_huge_file_that_differs_everywhere_is_explained_in_seconds(pattern: bytes) -> None:
    size = 128 << 20
    built = small_enclave(loads=[Load(0x100000, bytes(size))])
    image = EnclaveImage.parse(built)
    at = image.load_segments[-1].p_offset
    case = Case.of(small_enclave())
    signed = built[:at] + (pattern * (size // len(pattern) + 1))[:size] + built[at + size :]
    tracemalloc.start()
    before = time.process_time()
    explanation = Explainer(image, signed, None, case.config, "signed").explanation()
    seconds = time.process_time() - before
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 256 MiB are to take 2 s; the rest is room for a busy machine.
    assert seconds < 3
    assert peak < 32 << 20
    assert explanation.differing_bytes == sum(
        (size // len(pattern)) * (1 if b else 0) for b in pattern
    ) + sum(1 for b in pattern[: size % len(pattern)] if b)


def test_an_unsigned_file_given_as_the_signed_one_has_no_second_cause() -> None:
    case = Case.of(small_enclave())
    assert codes(case.explain(case.built.data)) == []


def test_a_file_that_is_cut_off_is_not_said_to_measure_the_same() -> None:
    case = Case.of(small_enclave(trailing=b"tail" * 9))
    assert codes(case.explain(case.signed()[:-8])) == ["truncated"]


def test_cpu_features_that_no_option_gives() -> None:
    """Occlum's signer asks for MPX and PKRU too: 0xff where the SDK's tool asks for less."""
    case = Case.of(small_enclave())
    (block,) = case.regenerated.blocks
    xfrm = block.sigstruct.attributes_xfrm | 0x18
    evil = replace(block, sigstruct=replace(block.sigstruct, attributes_xfrm=xfrm))
    size = case.regenerated.generation.metadata_size
    explanation = case.explain(case.signed(evil.serialise().ljust(size, b"\0")))
    assert codes(explanation) == ["xfrm"]
    assert "MPX" in message(explanation, "xfrm")
    assert f"0x{xfrm:x}" in message(explanation, "xfrm")
