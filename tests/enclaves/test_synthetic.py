# SPDX-License-Identifier: GPL-2.0-or-later
"""The writer of synthetic enclaves: good by default, and as wrong as asked for.

Read back with `struct` alone, so that a mistake of the project's reader cannot
hide one of the writer.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from tests.enclaves.synthetic import (
    NOTE_SECTION,
    PF_R,
    R_X86_64_NONE,
    Enclave,
    Load,
    Note,
    Relocation,
    SectionHeader,
    build,
    sdk_releases,
    sdk_shape,
    small_enclave,
)


def u(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def test_it_is_small_and_the_same_each_time() -> None:
    assert small_enclave() == small_enclave()
    assert len(small_enclave()) < 0x6000 + 0x1400
    assert small_enclave(code=b"\xc3") != small_enclave()


@pytest.mark.parametrize("sdk", sdk_releases())
def test_sizes_and_version_are_those_of_the_release(sdk: str) -> None:
    shape = sdk_shape(sdk)
    image = build(Enclave(sdk=sdk))
    assert image.descriptor_size == shape.descriptor_size
    assert image.global_data_size == shape.global_data_size
    assert u(image.data, image.global_data_offset, 8) == shape.version


def test_the_version_word_is_that_of_the_sdk() -> None:
    assert sdk_shape("2.25").version == 0x0000_0002_0019_0064
    assert sdk_shape("2.17").version == 0x0000_0002_0011_0064


def test_the_note_is_not_padded() -> None:
    image = build(Enclave())
    start = image.section(NOTE_SECTION).sh_offset
    assert image.data[start : start + 25] == struct.pack("<III", 13, 0x6000, 1) + b"sgx_metadata\0"
    assert image.descriptor_offset == start + 25
    assert image.data[start + 25 : start + 25 + 0x6000] == bytes(0x6000)


def test_loaded_segments_do_not_share_a_page() -> None:
    image = build(Enclave(code=b"\x90" * 5000))
    text, data = (s for s in image.segments if s.p_type == 1)
    assert (text.p_vaddr + text.p_memsz - 1) // 0x1000 < data.p_vaddr // 0x1000
    assert data.p_offset % 0x1000 == data.p_vaddr % 0x1000


def test_text_relocations_point_into_the_text() -> None:
    image = build(Enclave(textrel=True))
    table = image.section(".rela.dyn")
    last = image.data[table.sh_offset + table.sh_size - 24 :]
    text = image.section(".text")
    assert text.sh_addr <= u(last, 0, 8) < text.sh_addr + text.sh_size
    assert (22).to_bytes(8, "little") in _dynamic_tags(image.data, image.section(".dynamic"))
    plain = build(Enclave())
    assert (22).to_bytes(8, "little") not in _dynamic_tags(plain.data, plain.section(".dynamic"))


def _dynamic_tags(data: bytes, section: SectionHeader) -> list[bytes]:
    start = section.sh_offset
    return [data[at : at + 8] for at in range(start, start + section.sh_size, 16)]


def test_own_relocations_replace_the_default_ones() -> None:
    chosen = Relocation(0x123456, R_X86_64_NONE, r_addend=-1)
    image = build(Enclave(relocations=[chosen], jump_slots=()))
    table = image.section(".rela.dyn")
    assert image.data[table.sh_offset : table.sh_offset + table.sh_size] == chosen.to_bytes()
    with pytest.raises(KeyError):
        image.section(".rela.plt")


def test_a_further_segment_lands_where_it_says() -> None:
    image = build(Enclave(loads=[Load(0x10080, b"abc", memsz=0x3000, flags=PF_R)]))
    segment = next(s for s in image.segments if s.p_vaddr == 0x10080)
    assert image.data[segment.p_offset : segment.p_offset + 3] == b"abc"
    assert (segment.p_filesz, segment.p_memsz, segment.p_offset % 0x1000) == (3, 0x3000, 0x80)


def test_fields_can_lie() -> None:
    honest = build(Enclave())
    image = build(
        Enclave(
            header_fields={"e_phnum": 0x7777},
            segment_fields={1: {"p_filesz": 1 << 63}},
            section_fields={NOTE_SECTION: {"sh_offset": (1 << 64) - 1}},
        )
    )
    assert u(image.data, 56, 2) == 0x7777
    assert u(image.data, 64 + 56 + 32, 8) == 1 << 63
    index = [s.name for s in image.sections].index(NOTE_SECTION)
    assert u(image.data, u(image.data, 40, 8) + 64 * index + 24, 8) == (1 << 64) - 1
    assert len(image.data) == len(honest.data)


@pytest.mark.parametrize(
    ("note", "offset", "expected"),
    [
        (Note(descsz=0xFFFFFFFF), 4, 0xFFFFFFFF),
        (Note(namesz=16), 0, 16),
        (Note(note_type=0x1234), 8, 0x1234),
    ],
)
def test_the_note_can_lie(note: Note, offset: int, expected: int) -> None:
    image = build(Enclave(note=note))
    assert u(image.data, image.section(NOTE_SECTION).sh_offset + offset, 4) == expected


def test_a_descriptor_can_be_given_at_once_or_afterwards() -> None:
    wanted = bytes(range(256)) * 96
    assert small_enclave(note=Note(descriptor=wanted)) == build(Enclave()).with_descriptor(wanted)
    with pytest.raises(ValueError, match="24576"):
        build(Enclave()).with_descriptor(b"short")


def test_tail_patches_and_truncation() -> None:
    plain = small_enclave()
    assert small_enclave(trailing=b"tail") == plain + b"tail"
    assert small_enclave(patches={4: b"\x01"})[4] == 1
    assert small_enclave(truncate=100) == plain[:100]


def test_parts_can_be_left_out() -> None:
    assert NOTE_SECTION.encode() not in small_enclave(note=None)
    assert u(small_enclave(section_headers=False), 60, 2) == 0
    assert b"enclave_entry\0" not in small_enclave(entry_symbol=False)
    assert b"g_global_data\0" not in small_enclave(global_data_symbol=False)
    types = [s.p_type for s in build(Enclave(tls=None, dynamic=False)).segments]
    assert types == [1, 1]


def test_a_second_section_of_the_same_name_can_be_added() -> None:
    second = replace(SectionHeader(), name=NOTE_SECTION)
    image = build(Enclave(extra_sections=[(second, b"more")]))
    assert [s.name for s in image.sections].count(NOTE_SECTION) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        {"sdk": "9.9"},
        {"segment_fields": {99: {"p_filesz": 1}}},
        {"section_fields": {".absent": {"sh_size": 1}}},
    ],
)
def test_what_does_not_exist_cannot_be_changed(overrides: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        small_enclave(**overrides)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError):
        small_enclave(no_such_field=1)
