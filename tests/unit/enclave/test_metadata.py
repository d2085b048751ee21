# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata blocks: real ones byte for byte, and each refusal."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import (
    DIR_ELRANGE,
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    KNOWN_VERSIONS,
    MAGIC,
    Block,
    BlockHeader,
    Descriptor,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import GENERATIONS, Generation, generation_named
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.errors import FormatError, LimitError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.limits import Limits
from tests.enclaves.synthetic import small_enclave
from tests.unit.enclave.vectors import metadata_areas, sigstructs

REAL = metadata_areas()
U32 = (1 << 32) - 1


@pytest.mark.parametrize("vector", REAL, ids=lambda v: v["name"])
def test_a_real_area(vector: dict[str, Any]) -> None:
    data = vector["descriptor"]
    assert len(data) == vector["descriptor_size"]
    parsed = Descriptor.parse(data)
    assert parsed.serialise() == data
    assert parsed.is_signed
    assert not any(parsed.tail)
    found = [
        {"offset": b.offset, "version": str(b.version), "size": b.header.size}
        for b in parsed.blocks
    ]
    assert found == vector["blocks"]
    for block in parsed.blocks:
        assert block.serialise() == data[block.offset :][: block.header.size]
        assert len(block.patches) == 4
        assert [p.dst for p in block.patches[1:]] == [60, 40, 62]
        assert {block.layout_name(item) for item in block.layout} >= {"HEAP_MIN", "TCS", "GUARD"}
        assert block.elrange is None


def test_the_signatures_of_real_areas_are_the_real_sigstructs() -> None:
    known = {vector["sigstruct"] for vector in sigstructs()}
    blocks = [b for v in REAL for b in Descriptor.parse(v["descriptor"]).blocks]
    assert len(blocks) >= 8
    assert all(block.sigstruct.serialise() in known for block in blocks)


def test_the_second_signature_of_a_real_area() -> None:
    pce = next(v for v in REAL if "pce" in v["name"])
    (block,) = Descriptor.parse(pce["descriptor"]).blocks
    fips = block.fips_signature
    assert fips is not None
    assert block.fips_offset is not None
    assert fips.exponent == 65537
    n = int.from_bytes(fips.modulus, "little")
    assert pow(int.from_bytes(fips.signature, "big"), 65537, n).to_bytes(384, "big")[:2] == b"\0\1"
    (other,) = Descriptor.parse(REAL[0]["descriptor"]).blocks
    assert other.fips_signature is None


def written(generation: Generation, **config: int) -> Descriptor:
    """What a generation writes, read back."""
    image = EnclaveImage.parse(small_enclave(sdk=generation.releases[0]))
    values = {"HeapMaxSize": 0x4000, "StackMaxSize": 0x3000, **config}
    data = regenerate(image, Config(values), generation).descriptor
    parsed = Descriptor.parse(data)
    assert parsed.serialise() == data
    return parsed


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
def test_what_each_generation_writes_is_read_back(generation: Generation) -> None:
    plain = written(generation, MiscSelect=1, MiscMask=U32 - 1)
    assert plain.blocks
    assert {b.version for b in plain.blocks} <= KNOWN_VERSIONS
    first = plain.blocks[0]
    names = [first.layout_name(item) for item in first.layout]
    early = generation.metadata_size == 0x1000
    assert names[0] == ("HEAP" if early else "HEAP_MIN")
    assert names[4 if early else 6] in ("TCS", "GUARD", "STACK_MIN")
    if "ELRangeSize" in generation.options:
        ranged = written(generation, ELRangeSize=1 << 28, EnclaveImageAddress=0x3000)
        assert all(b.version.has_elrange for b in ranged.blocks)
        assert {b.elrange for b in ranged.blocks} == {ElrangeEntry(0x3000, 0, 1 << 28)}


def test_ids_of_1_x_have_their_own_names() -> None:
    one_nine = written(generation_named("1.9")).blocks[0]
    two = written(generation_named("2.17")).blocks[-1]
    assert one_nine.version == two.version == Version(1, 4)
    assert [one_nine.layout_name(i) for i in one_nine.layout[:6]] == [
        *("HEAP", "GUARD", "STACK", "GUARD", "TCS", "SSA")
    ]
    assert [two.layout_name(i) for i in two.layout[:3]] == ["HEAP_MIN", "HEAP_INIT", "GUARD"]
    assert two.layout_name(LayoutEntry(id=999)) == "id 999"
    assert two.layout_name(LayoutGroup(id=0x1009)) == "THREAD_GROUP"


def test_versions() -> None:
    assert Version.from_word(0x0000_0002_0000_0004) == Version(2, 4)
    assert Version(13, 3).word == 0x0000_000D_0000_0003
    assert str(Version(1, 5)) == "1.5"
    assert Version(1, 4) < Version(2, 1) < Version(2, 4)
    counts = {v: v.directory_count for v in KNOWN_VERSIONS}
    assert counts[Version(1, 4)] == 2
    assert counts[Version(11, 4)] == counts[Version(12, 4)] == counts[Version(13, 1)] == 3
    for major, minor in ((1, 5), (3, 2), (3, 3), (11, 5), (13, 2), (13, 3)):
        assert counts[Version(major, minor)] == 4


VERSION = Version(1, 5)


def made(version: Version = VERSION, data: bytes = b"", **directories: Directory) -> bytes:
    """A block of one's own; `directories` by name."""
    names = ("patch", "layout", "elrange", "extend")[: version.directory_count]
    table = b"".join(directories.get(name, Directory()).serialise() for name in names)
    size = BlockHeader.SIZE + Sigstruct.SIZE + len(table) + len(data)
    header = BlockHeader(version=version.word, size=size)
    return header.serialise() + Sigstruct().serialise() + table + data


START = BlockHeader.SIZE + Sigstruct.SIZE + 4 * Directory.SIZE


def test_an_own_block_is_read() -> None:
    patch = PatchEntry(1, 2, 3).serialise()
    data = made(data=patch, patch=Directory(START, 32))
    assert Block.parse(data).patches == (PatchEntry(1, 2, 3),)
    assert Block.parse(b"12345" + data + b"678", 5).serialise() == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (made(data=bytes(32), patch=Directory(START, 31)), "ends within an entry"),
        (made(data=bytes(32), layout=Directory(START, 33)), "leaves its metadata block"),
        (made(data=bytes(32), layout=Directory(START + 1, 32)), "leaves its metadata block"),
        (made(data=bytes(32), elrange=Directory(START, 23)), "ends within an entry"),
        (made(data=bytes(32), extend=Directory(START, 8)), "ends within an entry"),
        (made(patch=Directory(U32, U32)), "leaves its metadata block"),
        (made(layout=Directory(U32 - 31, 32)), "leaves its metadata block"),
        (
            made(data=PatchEntry(0, U32, U32).serialise(), patch=Directory(START, 32)),
            "a patch leaves",
        ),
        (
            made(data=PatchEntry(0, 0, START + 33).serialise(), patch=Directory(START, 32)),
            "a patch leaves",
        ),
        (
            made(data=ExtendEntry(7, U32, U32).serialise(), extend=Directory(START, 16)),
            "an extension leaves",
        ),
        (
            made(data=ExtendEntry(0x1001, 771, 64).serialise(), extend=Directory(START, 16)),
            "FIPS signature of another size",
        ),
    ],
)
def test_tables_that_lie_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Block.parse(data)


@pytest.mark.parametrize("delta", [-START, -1, 1, U32 - START])
def test_a_size_that_lies_is_refused(delta: int) -> None:
    data = bytearray(made())
    Block.parse(bytes(data))
    struct.pack_into("<I", data, 16, START + delta)
    with pytest.raises(FormatError, match="size does not fit"):
        Block.parse(bytes(data))


@pytest.mark.parametrize("version", [(1, 2), (1, 6), (2, 0), (2, 5), (3, 4), (4, 0), (10, 4)])
def test_an_unknown_version_is_refused_by_name(version: tuple[int, int]) -> None:
    unknown = Version(*version)
    with pytest.raises(UnsupportedError, match=f"metadata version {unknown} is unknown"):
        Block.parse(made(unknown))
    for known in KNOWN_VERSIONS:
        assert Block.parse(made(known)).version == known


def test_no_block_and_a_cut_off_one() -> None:
    with pytest.raises(FormatError, match="no metadata block"):
        Block.parse(bytes(4096))
    whole = made()
    for size in range(0, len(whole), 11):
        with pytest.raises(FormatError):
            Block.parse(whole[:size])


def test_an_area_is_empty_or_starts_with_a_block() -> None:
    assert not Descriptor.parse(bytes(100)).is_signed
    assert Descriptor.parse(bytes(100)).serialise() == bytes(100)
    with pytest.raises(FormatError, match="neither empty nor") as caught:
        Descriptor.parse(bytes(99) + b"\1")
    assert (caught.value.offset, caught.value.found) == (0, "00" * 8)
    block = made()
    three = Descriptor.parse(block * 3 + b"tail")
    assert [b.offset for b in three.blocks] == [0, len(block), 2 * len(block)]
    assert three.tail == b"tail"
    assert three.serialise() == block * 3 + b"tail"
    assert Descriptor.parse(block + b"\0" + block).tail == b"\0" + block


def test_too_many_blocks_are_refused() -> None:
    block = made()
    assert len(Descriptor.parse(block * 8).blocks) == 8
    with pytest.raises(LimitError, match="too many metadata blocks"):
        Descriptor.parse(block * 9)
    with pytest.raises(LimitError):
        Descriptor.parse(block * 2, Limits(metadata_blocks=1))


def test_an_elrange_block_needs_its_entry() -> None:
    version = Version(11, 4)
    at = START - Directory.SIZE
    entry = ElrangeEntry(1, 2, 3).serialise()
    good = Block.parse(made(version, entry, elrange=Directory(at, 24)))
    assert good.elrange == ElrangeEntry(1, 2, 3)
    for directory in (Directory(), Directory(at, 0), Directory(at, 48)):
        block = Block.parse(made(version, entry * 2, elrange=directory))
        with pytest.raises(FormatError, match="without its entry"):
            block.elrange  # noqa: B018
    plain = Block.parse(made(Version(1, 5), entry, elrange=Directory(START, 24)))
    assert plain.elrange is None


def test_an_elrange_entry_is_in_the_block_and_not_at_its_start() -> None:
    data = ElrangeEntry(1, 2, 3).serialise()
    block = Block.parse(made(Version(11, 4), data, elrange=Directory(0, 24)))
    with pytest.raises(FormatError, match="without its entry"):
        block.elrange  # noqa: B018


PAGE = 0x1000
WHOLE = "the ELRANGE addresses and size are not whole pages"


@pytest.mark.parametrize(
    ("image", "start", "size", "problem"),
    [
        (4 * PAGE, 4 * PAGE, 4 * PAGE, None),
        (4 * PAGE + 1, 4 * PAGE, 4 * PAGE, WHOLE),
        (4 * PAGE, 4 * PAGE + 1, 4 * PAGE, WHOLE),
        (4 * PAGE, 4 * PAGE, 2048, WHOLE),
        (4 * PAGE, 4 * PAGE, 0, "ELRangeSize is not a power of two"),
        (4 * PAGE, 4 * PAGE, 3 * PAGE, "ELRangeSize is not a power of two"),
        (4 * PAGE, 2 * PAGE, 4 * PAGE, "ELRangeStartAddress is not a multiple of ELRangeSize"),
        (3 * PAGE, 4 * PAGE, 4 * PAGE, "the enclave does not fit its ELRANGE"),
        (5 * PAGE, 4 * PAGE, 4 * PAGE, "the enclave does not fit its ELRANGE"),
    ],
)
def test_an_elrange_that_cannot_be(image: int, start: int, size: int, problem: str) -> None:
    assert ElrangeEntry(image, start, size).problem(4 * PAGE) == problem


def test_an_extension_that_is_no_signature_is_none() -> None:
    entry = ExtendEntry(0x1002, 8, 64).serialise()
    block = Block.parse(made(data=entry, extend=Directory(START, 16)))
    assert [e.entry_id for e in block.extensions] == [0x1002]
    assert block.fips_offset is None
    assert block.fips_signature is None


def test_content_stays_within_the_block() -> None:
    block = Block.parse(made(data=b"abc"))
    assert block.content(START, 3) == b"abc"
    assert block.content(0, 8) == MAGIC.to_bytes(8, "little")
    for offset, size in ((START, 4), (START + 3, 1), (U32, U32)):
        with pytest.raises(FormatError, match="content leaves"):
            block.content(offset, size)


def test_groups_and_entries_are_distinguished() -> None:
    entry, group = LayoutEntry(id=1, page_count=7), LayoutGroup(0x1009, 1, 2, 3)
    data = entry.serialise() + group.serialise()
    block = Block.parse(made(data=data, layout=Directory(START, 64)))
    assert block.layout == (entry, group)
    assert block.extensions == ()
    assert Block.parse(made(Version(1, 4))).extensions == ()


DIRECTORIES = (DIR_PATCH, DIR_LAYOUT, DIR_ELRANGE, DIR_EXTEND)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_area_is_read_and_written_back_or_refused(data: Any) -> None:
    area = bytearray(data.draw(st.sampled_from(REAL))["descriptor"])
    interesting = st.one_of(st.integers(0, 64), st.integers(0x740, 0x7A0), st.integers(0, 0x1100))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(interesting)
        value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 4)))
        area[at : at + len(value)] = value
    area = area[: data.draw(st.one_of(st.just(len(area)), st.integers(0, len(area))))]
    try:
        parsed = Descriptor.parse(bytes(area))
    except SgxEnclavesError as error:
        assert str(error)
        return
    assert parsed.serialise() == area
    for block in parsed.blocks:
        for item in block.layout:
            assert block.layout_name(item)
        assert len(block.directories) == len(DIRECTORIES[: block.version.directory_count])
        assert replace(block) == block
