# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF reader: what it finds, and each refusal beside a twin that passes."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any, Optional

import pytest

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import (
    PAGE_SIZE,
    Section,
    Segment,
    name_at,
    page_ceil,
    page_floor,
)
from sgx_enclaves.errors import FormatError, LimitError
from sgx_enclaves.limits import Limits
from tests.enclaves.synthetic import (
    DT_JMPREL,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELASZ,
    DT_STRTAB,
    DT_SYMTAB,
    DT_TEXTREL,
    NOTE_SECTION,
    PF_R,
    PF_W,
    PF_X,
    PT_DYNAMIC,
    PT_TLS,
    R_X86_64_NONE,
    SHF_ALLOC,
    SHT_NOBITS,
    Enclave,
    Load,
    Note,
    ProgramHeader,
    Relocation,
    SectionHeader,
    Symbol,
    Tls,
    build,
    small_enclave,
)

U64 = (1 << 64) - 1


def parse(**overrides: Any) -> EnclaveImage:
    return EnclaveImage.parse(small_enclave(**overrides), "e.so")


def test_what_is_found() -> None:
    built = build(Enclave(interpreter="/lib/ld.so", symtab=True))
    image = EnclaveImage.parse(built.data, "e.so")
    assert image.descriptor_offset == built.descriptor_offset
    assert image.descriptor == bytes(0x6000)
    assert image.symbol_address("enclave_entry") == built.entry
    assert image.symbol_address("g_global_data") == built.global_data_address
    assert image.file_offset(built.global_data_address) == built.global_data_offset
    assert image.address_of(built.global_data_offset) == built.global_data_address
    assert [s.name for s in image.sections] == [s.name for s in built.sections]
    assert [s.secinfo for s in image.load_segments] == [0x205, 0x203]
    assert image.header.serialise() == built.data[:64]
    for segment, written in zip(image.segments, built.segments):
        assert segment.serialise() == written.to_bytes()


def test_a_segment_may_end_where_the_file_does() -> None:
    note = ProgramHeader(4, PF_R, 0, 0, 0, 1, 1, 1)
    built = build(Enclave(extra_segments=[note]))
    start, size = built.descriptor_offset + built.descriptor_size, len(built.data)
    for more in (0, 1):
        fields = {4: {"p_offset": start, "p_filesz": size - start + more}}
        if more:
            with pytest.raises(FormatError, match="program header 4 leaves the file"):
                parse(extra_segments=[note], segment_fields=fields)
        else:
            parse(extra_segments=[note], segment_fields=fields)


def test_the_note_may_end_where_the_file_does() -> None:
    built = build(Enclave())
    note = built.section(NOTE_SECTION)
    data = bytearray(built.data + built.data[note.sh_offset :][: note.sh_size])
    at = built.sections.index(note) * 64 + int.from_bytes(data[40:48], "little") + 24
    data[at : at + 8] = len(built.data).to_bytes(8, "little")
    image = EnclaveImage.parse(bytes(data))
    assert image.descriptor_end == len(data)
    with pytest.raises(FormatError, match="leaves the file"):
        EnclaveImage.parse(bytes(data[:-1]))


@pytest.mark.parametrize(
    ("start", "end", "longest", "name"),
    [
        (0, 5, 9, b""),
        (1, 5, 9, b"abc"),
        (1, 5, 3, b"abc"),
        (1, 5, 2, None),
        (1, 4, 9, None),
        (4, 5, 0, b""),
        (5, 5, 9, None),
        (9, 5, 9, None),
    ],
)
def test_a_name_ends_where_it_may(
    start: int, end: int, longest: int, name: Optional[bytes]
) -> None:
    assert name_at(b"\0abc\0", start, end, longest) == name


def test_rights_are_those_of_the_flags() -> None:
    rights = [Segment(p_flags=flags).secinfo for flags in range(8)]
    assert rights == [0x200, 0x204, 0x202, 0x206, 0x201, 0x205, 0x203, 0x207]


def test_pages() -> None:
    assert [page_floor(v) for v in (0, 1, 4095, 4096)] == [0, 0, 0, 4096]
    assert [page_ceil(v) for v in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]


Contradiction = tuple[dict[str, Any], Optional[str]]
CONTRADICTIONS: list[Contradiction] = [
    ({"truncate": 0}, "not an ELF file"),
    ({"truncate": 63}, "ends within its ELF header"),
    ({"patches": {0: b"\x7eELF"}}, "not an ELF file"),
    ({"patches": {4: b"\1"}}, "wrong ELF class"),
    ({"patches": {5: b"\2"}}, "wrong byte order"),
    ({"patches": {6: b"\0"}}, "wrong ELF version"),
    ({"header_fields": {"e_type": 2}}, "wrong e_type"),
    ({"header_fields": {"e_machine": 3}}, "wrong e_machine"),
    ({"header_fields": {"e_phentsize": 55}}, "wrong e_phentsize"),
    ({"header_fields": {"e_phoff": U64}}, "program headers leave the file"),
    ({"header_fields": {"e_phoff": 1 << 20}}, "program headers leave the file"),
    ({"header_fields": {"e_phnum": 0}}, "no segment is loaded"),
    ({"header_fields": {"e_shoff": U64}}, "section headers leave the file"),
    ({"header_fields": {"e_shoff": 0}}, "no section headers"),
    ({"header_fields": {"e_shnum": 0}}, "no section headers"),
    ({"section_headers": False}, "no section headers"),
    ({"header_fields": {"e_shentsize": 40}}, "wrong size of a section header"),
    ({"header_fields": {"e_shstrndx": 0xFFFF}}, "section of section names does not exist"),
    ({"section_fields": {".text": {"sh_offset": U64}}}, None),
    ({"segment_fields": {0: {"p_filesz": U64}}}, "program header 0 leaves the file"),
    ({"segment_fields": {0: {"p_offset": U64}}}, "program header 0 leaves the file"),
    ({"segment_fields": {2: {"p_filesz": 1 << 40}}}, "program header 2 leaves the file"),
    ({"segment_fields": {0: {"p_memsz": 1}}}, "more bytes in the file than in memory"),
    ({"segment_fields": {1: {"p_vaddr": U64 - 0xFFF}}}, "overflows the address space"),
    ({"segment_fields": {1: {"p_memsz": U64 - 0x2000}}}, "overflows the address space"),
    ({"segment_fields": {1: {"p_align": U64 - 0xFFF}}}, "overflows the address space"),
    ({"segment_fields": {1: {"p_align": 0}}}, "not aligned to whole pages"),
    ({"segment_fields": {1: {"p_align": 0x800}}}, "not aligned to whole pages"),
    ({"segment_fields": {1: {"p_align": 0x3000}}}, "not aligned to whole pages"),
    ({"segment_fields": {1: {"p_flags": 8}}}, "has no permission"),
    ({"segment_fields": {1: {"p_vaddr": 0}}}, "overlaps another segment"),
    ({"loads": [Load(0x10000, b"x"), Load(0x10000, b"x")]}, "overlaps another segment"),
    ({"loads": [Load(0x10000, b"x" * 0x1001), Load(0x11000)]}, "overlaps another segment"),
    ({"loads": [Load(0x10000, b"x" * 0x1000), Load(0x11000)]}, None),
    ({"note": None}, "no section .note.sgxmeta"),
    (
        {"extra_sections": [(replace(SectionHeader(), name=NOTE_SECTION), b"x" * 64)]},
        "more than one section .note.sgxmeta",
    ),
    ({"section_fields": {NOTE_SECTION: {"sh_offset": U64}}}, "leaves the file"),
    ({"section_fields": {NOTE_SECTION: {"sh_size": U64}}}, "leaves the file"),
    ({"section_fields": {NOTE_SECTION: {"sh_type": SHT_NOBITS}}}, "leaves the file"),
    ({"section_fields": {NOTE_SECTION: {"sh_size": 24}}}, "too small for its note"),
    ({"note": Note(namesz=12)}, "has another name"),
    ({"note": Note(name=b"sgx_metadatb\0")}, "has another name"),
    ({"note": Note(descsz=0x5FFF)}, "disagree on their size"),
    ({"note": Note(descsz=0x6001)}, "disagree on their size"),
    ({"note": Note(descriptor=b"")}, "has no metadata area"),
    ({"note": Note(align=8)}, None),
    ({"note": Note(align=8), "section_fields": {NOTE_SECTION: {"sh_addralign": 1}}}, "size"),
    ({"section_fields": {NOTE_SECTION: {"sh_addralign": 0}}}, None),
    ({"section_fields": {".data": {"sh_size": 0x1000}}}, "overlaps section .data"),
    ({"truncate": 64}, "program headers leave the file"),
    (
        {"note": Note(align=8), "section_fields": {NOTE_SECTION: {"sh_size": 0x6010}}},
        "disagree on their size",
    ),
    ({"header_fields": {"e_shstrndx": 14}}, "section of section names does not exist"),
    ({"loads": [Load(0x11000, b"x"), Load(0x10000, b"x" * 0x1000)]}, None),
    ({"loads": [Load(0x20000, memsz=U64 - 0x20000 - 0x1000)]}, None),
    ({"loads": [Load(0x20000, memsz=U64 - 0x20000 - 0x1000 + 1)]}, "overflows the address"),
    ({"segment_fields": {0: {"p_type": 4}, 1: {"p_type": 4}}}, "no segment is loaded"),
    (
        {"segment_fields": {i: {"p_filesz": 0, "p_memsz": 0} for i in (0, 1)}},
        "no segment is loaded",
    ),
    ({"patches": {0: bytes.fromhex("edabeedb")}}, "not an ELF file"),
]


@pytest.mark.parametrize(("overrides", "message"), CONTRADICTIONS)
def test_contradictions_are_refused(overrides: dict[str, Any], message: str | None) -> None:
    assert parse().name == "e.so"
    if message is None:
        parse(**overrides)
        return
    with pytest.raises(FormatError, match=message) as caught:
        parse(**overrides)
    assert str(caught.value).startswith("e.so")


@pytest.mark.parametrize(
    "what", ["the ELF header", "the program headers", "the section headers", "a segment", "section"]
)
def test_a_metadata_area_that_is_also_something_else(what: str) -> None:
    """The signer writes there: it must not be anything that counts."""
    note = ProgramHeader(4, PF_R, 0, 0, 0, 1, 1, 1)
    built = build(Enclave(extra_segments=[note]))
    at, size = built.descriptor_offset, built.descriptor_size
    if what == "the ELF header":
        # A note that starts in the header cannot have the right name, so the check is asked.
        image = EnclaveImage.parse(built.data)
        moved = replace(image, descriptor_offset=63, descriptor_size=36, segments=(), sections=())
        with pytest.raises(FormatError, match=what):
            moved._check_descriptor_is_apart()
        return
    overrides: dict[str, dict[str, Any]] = {
        "the program headers": {"header_fields": {"e_phoff": at, "e_phnum": 1}},
        "the section headers": {"section_fields": {NOTE_SECTION: {}}},
        "a segment": {"segment_fields": {4: {"p_offset": at + size - 1}}},
        "section": {"section_fields": {".data": {"sh_offset": at + size - 1, "sh_size": 1}}},
    }
    data = bytearray(small_enclave(extra_segments=[note], **overrides[what]))
    if what == "the program headers":
        load = built.segments[0].to_bytes()
        data[at : at + len(load)] = load
    if what == "the section headers":
        shoff = int.from_bytes(data[40:48], "little")
        table = data[shoff : shoff + 64 * len(built.sections)]
        data[at : at + len(table)] = table
        data[40:48] = at.to_bytes(8, "little")
    with pytest.raises(FormatError, match=f"overlaps {what}"):
        EnclaveImage.parse(bytes(data))


def test_what_only_touches_the_metadata_area_is_apart() -> None:
    at = parse().descriptor_offset
    for fields in ({"sh_offset": at - 1, "sh_size": 1}, {"sh_offset": at + 1, "sh_size": 0}):
        assert parse(section_fields={".data": fields}).descriptor_offset == at


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(file_size=100), "file is too large"),
        (Limits(program_headers=3), "too many program headers"),
        (Limits(section_headers=3), "too many section headers"),
        (Limits(descriptor_size=0x5FFF), "metadata area is too large"),
    ],
)
def test_limits(limits: Limits, message: str) -> None:
    with pytest.raises(LimitError, match=message):
        EnclaveImage.parse(small_enclave(), limits=limits)


def test_truncation_at_every_offset_is_refused() -> None:
    data = small_enclave(sdk="1.9")
    EnclaveImage.parse(data)
    for size in range(0, len(data), 7):
        with pytest.raises(FormatError):
            EnclaveImage.parse(data[:size])


def test_a_section_name_must_end() -> None:
    plain = build(Enclave())
    names = plain.section(".shstrtab")
    end = names.sh_offset + names.sh_size
    with pytest.raises(FormatError, match="has no name"):
        parse(patches={end - 1: b"x"})
    with pytest.raises(FormatError, match="has no name"):
        parse(patches={names.sh_offset: b"x" * names.sh_size})


def test_names_that_leave_the_file() -> None:
    plain = build(Enclave())
    table = plain.section(".shstrtab").sh_offset
    fits = {".shstrtab": {"sh_size": len(plain.data) - table}}
    assert parse(section_fields=fits).sections
    for field in ("sh_offset", "sh_size"):
        data = bytearray(small_enclave())
        image = EnclaveImage.parse(bytes(data))
        at = image.header.e_shoff + 64 * image.header.e_shstrndx
        at += {"sh_offset": 24, "sh_size": 32}[field]
        data[at : at + 8] = U64.to_bytes(8, "little")
        with pytest.raises(FormatError, match="section names leave the file"):
            EnclaveImage.parse(bytes(data))


def test_missing_symbols() -> None:
    with pytest.raises(FormatError, match="g_global_data is missing"):
        parse(global_data_symbol=False).symbol_address("g_global_data")
    image = parse(entry_symbol=False)
    assert image.symbol_address("enclave_entry") == image.header.e_entry
    none = parse(entry_symbol=False, header_fields={"e_entry": 0})
    with pytest.raises(FormatError, match="enclave_entry is missing"):
        none.symbol_address("enclave_entry")


def test_the_last_symbol_of_a_name_counts_and_undefined_ones_do_not() -> None:
    image = parse(
        extra_symbols=[
            Symbol("twice", 1, st_shndx=1),
            Symbol("twice", 2, st_shndx=1),
            Symbol("elsewhere", 3, st_shndx=0),
        ]
    )
    assert image.symbol_address("twice") == 2
    with pytest.raises(FormatError, match="elsewhere is missing"):
        image.symbol_address("elsewhere")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dynamic": False}, "no section holds the dynamic symbol table"),
        ({"dynamic_fields": {DT_SYMTAB: 0}}, "no section holds the dynamic symbol table"),
        ({"dynamic_fields": {DT_SYMTAB: 0x999}}, "no section holds the dynamic symbol table"),
        ({"dynamic_fields": {DT_STRTAB: U64}}, "no section holds the dynamic string table"),
        ({"section_fields": {".dynsym": {"sh_entsize": 16}}}, "unknown entry size"),
        ({"section_fields": {".dynstr": {"sh_size": 3}}}, "leaves the string table"),
        ({"section_fields": {".dynsym": {"sh_offset": 0x40}}}, "section and segment disagree"),
    ],
)
def test_symbol_tables_that_lie(overrides: dict[str, Any], message: str) -> None:
    assert parse().dynamic_symbols
    with pytest.raises(FormatError, match=message):
        parse(**overrides).symbol_address("g_global_data")


def test_a_package_is_named() -> None:
    with pytest.raises(FormatError, match=r"found an RPM package.*check-rpm"):
        EnclaveImage.parse(bytes.fromhex("edabeedb") + bytes(200))


def test_tls() -> None:
    assert parse(tls=None).tls_size == 0
    assert parse(tls=None).tls_segment is None
    assert parse(tls=Tls(memsz=0x91, align=0x10)).tls_size == 0xA0
    assert parse(tls=Tls(memsz=0x91, align=1)).tls_size == 0x91
    assert parse(segment_fields={2: {"p_align": 0}}).tls_size == 0x90
    last = ProgramHeader(PT_TLS, PF_R, p_memsz=0x123, p_align=1)
    assert parse(extra_segments=[last]).tls_size == 0x123


def test_zero_fill_is_not_in_the_file() -> None:
    image = parse(bss_size=0x2000)
    data = image.load_segments[1]
    end = data.p_vaddr + data.p_filesz
    assert image.file_offset(end - 1) == data.p_offset + data.p_filesz - 1
    assert image.file_offset(end) is None
    assert image.address_of(image.descriptor_offset) is None
    assert image.image_size == page_ceil(end + 0x2000)


def test_symbols_stay_within_the_file() -> None:
    """A table behind the metadata area; one before it would overlap that, and is refused."""
    image = parse(trailing=bytes(10))
    table, strings = image.section(".dynsym"), image.section(".dynstr")
    assert table is not None
    assert strings is not None

    def until(section: Section, end: int) -> Section:
        return replace(section, header=replace(section.header, sh_size=end - section.file_range[0]))

    size = len(image.data)
    for more in (0, 1):
        for pair in ((until(table, size + more), strings), (table, until(strings, size + more))):
            if more:
                with pytest.raises(FormatError, match="a symbol table leaves the file"):
                    list(image._symbols(*pair))
            elif pair[0] is table:
                assert list(image._symbols(*pair)) == list(image.named_symbols)
            else:
                # What is there are no names.
                with pytest.raises(FormatError, match="leaves the string table"):
                    list(image._symbols(*pair))


def test_names_of_symbols_are_counted() -> None:
    """Twice the file's bytes may be spelled; symbols without a name are none."""
    names = b"\0" + b"a" * 100 + b"\0"
    unnamed = struct.pack("<IBBHQQ", 0, 0x10, 0, 1, 7, 0)
    table = bytes(24) + unnamed + struct.pack("<IBBHQQ", 1, 0, 0, 1, 7, 0) * 10
    sections = parse().sections[:1] * 2
    ranges = ((0, len(table)), (len(table), len(names)))

    def spelled(size: int) -> list[str]:
        image = replace(parse(), data=(table + names).ljust(size, b"\0"))
        made = (
            replace(s, header=replace(s.header, sh_offset=start, sh_size=length, sh_entsize=24))
            for s, (start, length) in zip(sections, ranges)
        )
        return [name for name, _ in image._symbols(*made)]

    assert spelled(500) == ["a" * 100] * 10
    with pytest.raises(LimitError, match="too many symbol names"):
        spelled(499)


def test_what_is_at_the_start_of_a_segment() -> None:
    image = parse()
    for segment in image.load_segments:
        assert image.file_offset(segment.p_vaddr) == segment.p_offset
        assert image.address_of(segment.p_offset) == segment.p_vaddr


def test_where_an_enclave_is_entered() -> None:
    """The symbol says it; the header only where there is none."""
    image = parse(header_fields={"e_entry": 0x1234})
    assert image.symbol_address("enclave_entry") == parse().symbol_address("enclave_entry")


def test_the_word_of_the_sdk_is_eight_bytes_of_the_file() -> None:
    image = parse()
    offset, _ = image.global_data
    assert offset is not None
    assert parse(patches={offset + 8: b"\xff"}).sdk_word == image.sdk_word != 0
    end = image.load_segments[1].p_vaddr + image.load_segments[1].p_filesz
    zero = replace(image.dynamic_symbols["g_global_data"], st_value=end)
    unset = replace(image)
    object.__setattr__(unset, "dynamic_symbols", {"g_global_data": zero})
    assert unset.global_data == (None, zero.st_size)
    assert unset.sdk_word == 0


def test_the_dynamic_table_ends_at_its_first_empty_entry() -> None:
    image = parse()
    at = next(s.p_offset for s in image.segments if s.p_type == PT_DYNAMIC)
    tags = list(image.dynamic)
    assert len(tags) > 2
    assert list(parse(patches={at + 32: bytes(8)}).dynamic) == tags[:2]
    for other in (0x6FFFFFFB, U64):
        changed = parse(patches={at + 32: other.to_bytes(8, "little")})
        assert list(changed.dynamic) == [*tags[:2], *tags[3:]]


def test_only_the_first_dynamic_table_counts() -> None:
    image = parse(extra_segments=[ProgramHeader(PT_DYNAMIC, PF_R, 0, 0, 0, 64, 64)])
    assert DT_SYMTAB in image.dynamic
    assert parse(dynamic=False).dynamic == {}


def relocated(*addresses: int, **overrides: Any) -> frozenset[int]:
    loads = [Load(0x10000, b"x" * 0x5000, flags=PF_R | PF_X)]
    entries = [Relocation(a) for a in addresses]
    return parse(loads=loads, relocations=entries, **overrides).relocated_pages


IMAGE_SIZE = parse(textrel=True).image_size


def test_a_relocation_table_may_end_where_the_file_does() -> None:
    built = build(Enclave(textrel=True))
    size = len(built.data) - built.section(".rela.dyn").sh_offset
    assert list(parse(textrel=True, dynamic_fields={DT_RELASZ: size}).relocations())
    image = parse(textrel=True, dynamic_fields={DT_RELASZ: size + 1})
    with pytest.raises(FormatError, match="relocation table leaves the file"):
        list(image.relocations())


def test_pages_that_text_relocations_make_writable() -> None:
    text = relocated(textrel=True) - relocated(0x10000)
    assert relocated(0x10000) == frozenset()
    assert relocated(0x10000, textrel=True) == text | {0x10}
    assert relocated(0x10FF8, textrel=True) == text | {0x10}
    # Eight bytes from here reach into the next page.
    assert relocated(0x10FF9, textrel=True) == text | {0x10, 0x11}
    none = parse(
        relocations=[Relocation(0x3000, R_X86_64_NONE)],
        jump_slots=(),
        dynamic_fields={DT_TEXTREL: 0},
    )
    assert none.relocated_pages == frozenset()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dynamic_fields": {DT_RELASZ: U64}}, "relocation table leaves the file"),
        ({"dynamic_fields": {DT_PLTRELSZ: U64}}, "relocation table leaves the file"),
        ({"dynamic_fields": {DT_RELA: 0x999}}, "no section holds the relocation table"),
        ({"dynamic_fields": {DT_JMPREL: 0x999}}, "no section holds the relocation table"),
        ({"relocations": [Relocation(U64 - 7)]}, "relocation leaves the enclave"),
        ({"relocations": [Relocation(1 << 40)]}, "relocation leaves the enclave"),
        ({"relocations": [Relocation(IMAGE_SIZE)]}, "relocation leaves the enclave"),
    ],
)
def test_relocation_tables_that_lie(overrides: dict[str, Any], message: str) -> None:
    assert parse(textrel=True).relocated_pages
    with pytest.raises(FormatError, match=message):
        parse(textrel=True, **overrides).relocated_pages  # noqa: B018


def test_trailing_bytes_and_a_note_type_are_accepted() -> None:
    assert parse(trailing=b"tail").data.endswith(b"tail")
    assert parse(note=Note(note_type=77)).note_type == 77
    extra = replace(SectionHeader(), name=".extra", sh_flags=SHF_ALLOC)
    assert parse(extra_sections=[(extra, b"more")]).section(".extra") is not None
    assert parse().section(".absent") is None
    assert PAGE_SIZE == 0x1000
    assert parse(loads=[Load(0x20000, b"", 0x10, PF_R | PF_W)]).image_size == 0x21000
