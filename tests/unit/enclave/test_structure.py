# SPDX-License-Identifier: GPL-2.0-or-later
"""Structures: every byte in one field, and parse then serialise is the identity."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.elf_headers import ElfHeader, SectionHeader, Segment, Symbol
from sgx_enclaves.enclave.metadata import (
    BlockHeader,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
)
from sgx_enclaves.enclave.sigstruct import FipsSignature, Sigstruct
from sgx_enclaves.errors import FormatError
from sgx_enclaves.plain import as_plain, record
from sgx_enclaves.structure import Structure, raw, uint

STRUCTURES = (
    ElfHeader,
    Segment,
    SectionHeader,
    Symbol,
    Sigstruct,
    BlockHeader,
    Directory,
    PatchEntry,
    LayoutEntry,
    LayoutGroup,
    ElrangeEntry,
    ExtendEntry,
    FipsSignature,
)


@record
class Pair(Structure, size=12):
    number: int = uint(0, 4, "a number")
    rest: bytes = raw(4, 8, "the rest")


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda k: k.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_parse_then_serialise_is_the_identity(kind: type[Structure], data: Any) -> None:
    content = data.draw(st.binary(min_size=kind.SIZE, max_size=kind.SIZE))
    before = data.draw(st.binary(max_size=9))
    parsed = kind.parse(before + content + b"after", len(before))
    assert parsed.serialise() == content
    assert parsed == kind.parse(content)
    assert hash(parsed) == hash(kind.parse(content))


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda k: k.__name__)
def test_every_byte_belongs_to_one_field(kind: type[Structure]) -> None:
    for offset in range(kind.SIZE):
        spec = kind.field_at(offset)
        start, end = kind.range_of(spec.name)
        assert start <= offset < end
        content = bytearray(kind.SIZE)
        content[offset] = 1
        parsed = kind.parse(bytes(content))
        zero = kind.parse(bytes(kind.SIZE))
        changed = [s.name for s in kind.table() if getattr(parsed, s.name) != getattr(zero, s.name)]
        assert changed == [spec.name]
    assert all(spec.doc for spec in kind.table())


@pytest.mark.parametrize("kind", STRUCTURES, ids=lambda k: k.__name__)
def test_a_cut_off_structure_is_refused(kind: type[Structure]) -> None:
    whole = bytes(kind.SIZE)
    kind.parse(whole)
    for data, offset in ((whole[:-1], 0), (whole, 1), (whole, -1), (b"", 0), (whole, 1 << 70)):
        with pytest.raises(FormatError, match="cut off"):
            kind.parse(data, offset)


def test_numbers_are_little_endian_and_bytes_are_kept() -> None:
    pair = Pair.parse(bytes(range(12)))
    assert pair == Pair(0x03020100, bytes(range(4, 12)))
    assert as_plain(pair) == {"number": 0x03020100, "rest": "0405060708090a0b"}
    assert Pair().serialise() == bytes(12)


def test_there_is_no_field_outside() -> None:
    for offset in (-1, 12):
        with pytest.raises(IndexError):
            Pair.field_at(offset)
    with pytest.raises(KeyError):
        Pair.range_of("absent")


def test_a_gap_or_a_wrong_size_is_refused() -> None:
    @record
    class Gap(Structure, size=12):
        first: int = uint(0, 4, "a number")
        second: int = uint(8, 4, "another, four bytes late")

    @record
    class Short(Structure, size=12):
        first: int = uint(0, 4, "a number")

    with pytest.raises(AssertionError, match="second is not at offset 4"):
        Gap.parse(bytes(12))
    with pytest.raises(AssertionError, match="has 4 bytes, not 12"):
        Short.parse(bytes(12))
