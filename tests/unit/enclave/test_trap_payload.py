# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps 2 and 8: what no measurement and no signature covers, and other counterparts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor
from sgx_enclaves.enclave.policy import all_pins, pin_for_file, pin_named, policy_for
from sgx_enclaves.enclave.verdict import Origin, Outcome, Severity
from tests.enclaves.synthetic import NOTE_SECTION, Enclave, Image, Load, Note, SectionHeader, build
from tests.support.signed import Case, signed_enclave
from tests.unit.enclave.verdicts import assert_only, assert_unverifiable, codes, refuted

COMMENT = SectionHeader(name=".comment")
FIELDS: dict[str, Any] = {"symtab": True, "extra_sections": ((COMMENT, b"GCC: (own) 1.0\0"),)}


@pytest.fixture(scope="module")
def case() -> Case:
    """An enclave with all that a linker leaves behind, and its signed counterpart."""
    return signed_enclave("2.17", None, **FIELDS)


@pytest.fixture(scope="module")
def image() -> Image:
    return build(Enclave(sdk="2.17", **FIELDS))


def section_byte(image: Image, name: str) -> int:
    return image.section(name).sh_offset + 1


def section_header(image: Image, name: str) -> int:
    """File offset of a section's header."""
    index = [section.name for section in image.sections].index(name)
    return image.header.e_shoff + index * 64


UNMEASURED: dict[str, Callable[[Image], int]] = {
    "comment": lambda image: section_byte(image, ".comment"),
    "symbol table": lambda image: section_byte(image, ".symtab"),
    "symbol names": lambda image: section_byte(image, ".strtab"),
    "section names": lambda image: section_byte(image, ".shstrtab") + 1,
    "section type": lambda image: section_header(image, ".data") + 4,
    "section flags": lambda image: section_header(image, ".comment") + 8,
    "section entry size": lambda image: section_header(image, ".comment") + 56,
    "note type": lambda image: image.section(NOTE_SECTION).sh_offset + 8,
    "global data": lambda image: image.global_data_offset + 100,
}


@pytest.mark.parametrize("what", UNMEASURED)
def test_a_byte_that_is_not_measured(case: Case, image: Image, what: str) -> None:
    """Guards `_compare_payload`: measurement, signature and policy all still say yes."""
    offset = UNMEASURED[what](image)
    evil = bytearray(case.signed)
    evil[offset] ^= 1
    assert measures_as_signed(bytes(evil))
    verdict = case.compare(bytes(evil))
    assert_only(verdict, "payload")
    assert [f.offset for f in verdict.findings] == [offset]
    assert verdict.bytes_of(Origin.UNEXPLAINED) == 1


def measures_as_signed(data: bytes) -> bool:
    image = EnclaveImage.parse(data)
    blocks = Descriptor.parse(image.descriptor).blocks
    return all(mrenclave(image, block) == block.sigstruct.enclavehash for block in blocks)


@pytest.mark.parametrize("tail", [b"\0", b"\x01", b"x" * 5000])
def test_trailing_bytes(case: Case, tail: bytes) -> None:
    """Guards `_compare_payload` behind the metadata area: nothing measures a tail."""
    evil = case.signed + tail
    assert measures_as_signed(evil)
    verdict = case.compare(evil)
    assert_only(verdict, "payload")
    assert "size-differs" in codes(verdict)
    assert verdict.byte_map[-1].origin is Origin.UNEXPLAINED
    last = verdict.byte_map[-1]
    assert last.end - last.start == len(tail)


def test_a_missing_tail() -> None:
    """Guards the same the other way round: our build has a tail that the vendor dropped."""
    case = signed_enclave("2.17", None, trailing=b"\0" * 8)
    verdict = case.compare(case.signed[:-8])
    assert_only(verdict, "payload")
    assert codes(verdict) == ["size-differs"]


def test_padding_between_segments() -> None:
    """Guards `_compare_payload`: bytes of the file that no segment maps."""
    case = signed_enclave("2.17", None, loads=(Load(0x10080, b"far away"),))
    far = case.image.load_segments[-1]
    padding = far.p_offset - 1
    assert case.image.address_of(padding) is None
    evil = bytearray(case.signed)
    evil[padding] = 1
    assert measures_as_signed(bytes(evil))
    assert_only(case.compare(bytes(evil)), "payload")


def test_measured_bytes_with_our_mrenclave_in_the_signature(case: Case, image: Image) -> None:
    """Guards `_compare_payload` where the CPU would refuse the enclave, but nobody asks it."""
    evil = bytearray(case.signed)
    evil[image.section(".text").sh_offset] ^= 1
    assert not measures_as_signed(bytes(evil))
    assert_only(case.compare(bytes(evil)), "payload")


def test_the_metadata_area_elsewhere(case: Case) -> None:
    """Guards that our build says where the metadata area is, not the vendor's headers."""
    other = signed_enclave("2.17", None, symtab=True)
    verdict = case.compare(other.signed)
    assert verdict.outcome is Outcome.DIFFERS
    assert "payload-differs" in codes(verdict)


def test_a_vendors_note_that_points_away(case: Case, image: Image) -> None:
    """Guards the same: his section header names an area of his own behind the file."""
    evil = bytearray(case.signed)
    note = image.section(NOTE_SECTION)
    at = section_header(image, NOTE_SECTION)
    struct.pack_into("<Q", evil, at + 24, len(evil))
    evil += case.signed[note.sh_offset : note.sh_offset + note.sh_size]
    verdict = case.compare(bytes(evil))
    assert verdict.outcome is Outcome.DIFFERS
    assert "size-differs" in codes(verdict)


# Trap 8: names, and counterparts that went through strip.


@pytest.mark.parametrize(
    ("name", "enclave"),
    [
        ("libsgx_id_enclave.so", "ide"),
        ("libsgx_id_enclave.signed.so", "ide"),
        ("libsgx_id_enclave.signed.so.1", "ide"),
        ("/usr/x86_64-intel-sgx/lib64/libsgx_id_enclave.signed.so.1.22.100.1", "ide"),
        ("libsgx_pce.signed.so.1.25.100.1", "pce"),
        ("libsgx_qe3.signed.so", "qe3"),
        ("libsgx_qe.signed.so", "qe"),
        ("./libsgx_tdqe.signed.so.1.22.100.1", "tdqe"),
        ("libsgx_qve.signed.so", "qve"),
        ("libsgx_pve.signed.so", "pve"),
        ("libsgx_le.signed.so", "le"),
        ("psw/ae/data/prebuilt/le_prod_css.bin", "le"),
    ],
)
def test_a_file_name_says_which_enclave(name: str, enclave: str) -> None:
    """Guards the pins and `_ENCLAVE_FILE`: `ide` is `id_enclave` in file names."""
    pin = pin_for_file(name)
    assert pin is not None
    assert pin.enclave == enclave
    assert pin_named(enclave) == pin


@pytest.mark.parametrize(
    "name",
    [
        "libsgx_ide.signed.so",
        "libsgx_id.signed.so",
        "libsgx_pce.signed.so.evil",
        "libsgx_pce.signed.so.1.25.100.1\n",
        "libsgx_pce.so/enclave.so",
        "xlibsgx_pce.signed.so",
        "libsgx_pce_evil.signed.so",
        "libsgx_PCE.signed.so",
        "pce",
        "pce_prod_css.bin",
        "le_prod_css.bin.so",
        "",
    ],
)
def test_other_names_pin_nobody(name: str) -> None:
    """Guards the anchors of `_ENCLAVE_FILE`."""
    assert pin_for_file(name) is None


def test_a_name_that_is_only_a_file_name_is_no_enclave() -> None:
    assert pin_named("id_enclave") is None
    assert {pin.enclave: pin.file for pin in all_pins() if pin.enclave != pin.file} == {
        "ide": "id_enclave"
    }


def test_our_build_stripped_and_the_vendors_not(case: Case) -> None:
    """Guards `_compare_payload`: MRENCLAVE is the same, and yet these are two files."""
    stripped = signed_enclave("2.17")
    assert stripped.regenerated.mrenclave == case.regenerated.mrenclave
    verdict = stripped.compare(case.signed)
    assert verdict.outcome is Outcome.DIFFERS
    assert verdict.explanation is not None
    assert "stripped-differently" in [cause.code for cause in verdict.explanation.causes]


def test_the_vendors_file_stripped_and_our_build_not(case: Case) -> None:
    """Guards the same for a signed file that was stripped again, which signing survives."""
    stripped = signed_enclave("2.17")
    verdict = case.compare(stripped.signed)
    assert verdict.outcome is Outcome.DIFFERS
    assert "size-differs" in codes(verdict)


def test_our_build_without_section_headers(case: Case) -> None:
    """Guards `_read_built`: stripped too far, nothing says where the metadata area is."""
    bare = build(Enclave(sdk="2.17", section_headers=False)).data
    assert_unverifiable(case.compare(built=bare), "reference-unusable")


def test_our_build_without_its_note(case: Case) -> None:
    """Guards `_read_built`: `strip --remove-section=.note.sgxmeta`."""
    bare = build(Enclave(sdk="2.17", note=None)).data
    assert_unverifiable(case.compare(built=bare), "reference-unusable")


def test_a_built_file_that_is_already_signed(case: Case) -> None:
    """Guards `require_unsigned`: the vendor's file compared with itself proves nothing."""
    verdict = case.compare(case.built, built=case.signed)
    assert_unverifiable(verdict, "reference-unusable")
    assert "swapped" in str(verdict.findings[0].hint)
    verdict = case.compare(built=case.signed)
    assert "swapped" not in str(verdict.findings[0].hint)
    assert_unverifiable(verdict, "reference-unusable")
    assert "already signed" in verdict.findings[0].message


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_a_built_file_with_one_byte_in_its_metadata_area(case: Case, at: int) -> None:
    """Guards the same: all of it must be zero, not only the magic."""
    area = bytearray(len(case.descriptor))
    area[at] = 1
    built = bytearray(case.built)
    built[case.area] = area
    assert_unverifiable(case.compare(built=bytes(built)), "reference-unusable")


def test_a_vendors_file_that_is_not_signed(case: Case) -> None:
    """Guards the check of `is_signed`: two equal builds are not a signed enclave."""
    verdict = case.compare(case.built)
    assert_unverifiable(verdict, "not-signed")


def test_metadata_of_random_bytes(case: Case) -> None:
    """Guards `Descriptor.parse`: neither empty nor a block."""
    verdict = case.compare(case.with_descriptor(b"\x5a" * 100))
    assert_unverifiable(verdict, "metadata-malformed")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", bytes(100_000)])
def test_files_that_are_no_enclaves(case: Case, data: bytes) -> None:
    assert_unverifiable(case.compare(built=data), "reference-unusable")
    verdict = case.compare(data)
    assert verdict.outcome is Outcome.DIFFERS
    assert "signed-malformed" in codes(verdict)


def test_a_note_with_other_words(case: Case) -> None:
    """Guards the size of the metadata area: the note's own, and equal in both files."""
    other = build(Enclave(sdk="2.17", **{**FIELDS, "note": Note(align=4)}))
    verdict = case.compare(built=other.data)
    assert verdict.outcome is Outcome.DIFFERS


@pytest.mark.parametrize("longer", [True, False])
def test_where_sizes_differ_only_what_differs_is_unexplained(longer: bool) -> None:
    """The vendor's metadata area is elsewhere: it and what follows it are compared there."""
    plain = signed_enclave("2.17", None)
    other = signed_enclave("2.17", None, loads=(Load(0x10080, b"far away"),))
    ours, theirs = (plain, other) if longer else (other, plain)
    at = theirs.image.descriptor_offset
    assert at != ours.image.descriptor_offset
    verdict = ours.compare(theirs.signed)
    assert verdict.outcome is Outcome.DIFFERS
    inside = [r for r in verdict.byte_map if r.start >= at and r.end <= theirs.image.descriptor_end]
    wrong = sum(r.end - r.start for r in inside if r.origin is Origin.UNEXPLAINED)
    expected = ours.regenerated.differences(theirs.descriptor)
    assert wrong == sum(end - start for start, end in expected)
    assert sum(r.end - r.start for r in inside if r.origin is Origin.SIGNATURE) > 1000
    assert verdict.bytes_of(Origin.UNEXPLAINED) < 3000
    assert sum(r.end - r.start for r in verdict.byte_map) == len(theirs.signed)


def test_bytes_put_into_the_metadata_area(case: Case) -> None:
    """All before and behind the area is as in our build, and yet the payload is another."""
    start, stop = case.area.start, case.area.stop
    longer = case.signed[:stop] + bytes(16) + case.signed[stop:]
    verdict = case.compare(longer)
    assert "payload" in refuted(verdict)
    assert "size-differs" in codes(verdict)
    shorter = case.signed[: stop - 16] + case.signed[stop:]
    assert "payload" in refuted(case.compare(shorter))
    assert start < stop


def test_only_the_first_other_byte_is_reported(case: Case, image: Image) -> None:
    """Also where it is the first of the file; the reasons have the rest."""
    evil = bytearray(case.signed)
    evil[0] ^= 1
    evil[section_byte(image, ".comment")] ^= 1
    (found,) = (f for f in case.compare(bytes(evil)).findings if f.code == "payload-differs")
    assert found.offset == 0


def test_a_finding_names_the_file_it_is_about(case: Case) -> None:
    names = ("ours.so", "theirs.so", "its.xml")
    (found,) = case.compare(built=b"", names=names).findings
    assert found.message.startswith("ours.so: ")
    assert found.hint is None or "swapped" not in found.hint
    found = next(f for f in case.compare(b"", names=names).findings if f.code.startswith("signed"))
    assert found.message.startswith("theirs.so: ")
    found = next(f for f in case.compare(config=b"<", names=names).findings)
    assert found.message.startswith("its.xml: ")


def test_two_unsigned_builds_are_not_swapped(case: Case) -> None:
    """Nor are two signed files, nor something that is no enclave."""
    note = build(Enclave(sdk="2.17", note=None)).data
    for built, signed in ((note, case.built), (case.signed, case.signed), (note, b"")):
        (found,) = (
            f for f in case.compare(signed, built=built).findings if f.code == "reference-unusable"
        )
        assert "swapped" not in str(found.hint)


def test_where_metadata_cannot_be_read(case: Case) -> None:
    """The offset is the file's, not the area's."""
    second = Descriptor.parse(case.descriptor).blocks[1].offset
    area = bytearray(case.descriptor)
    struct.pack_into("<Q", area, second + 8, 99 << 32)
    verdict = case.compare(case.with_descriptor(bytes(area)), names=("a.so", "b.so", "c.xml"))
    (found,) = (f for f in verdict.findings if f.code == "metadata-malformed")
    assert found.message.startswith("b.so: ")
    assert found.offset == case.area.start + second


def test_who_signed_is_not_judged_where_nobody_validly_did(case: Case) -> None:
    evil = bytearray(case.signed)
    # The last byte of the first block's signature.
    evil[case.area.start + Block.SIGSTRUCT_OFFSET + 516 + 383] ^= 1
    policy = policy_for(None, mrsigners=["00" * 32])
    verdict = case.compare(bytes(evil), policy)
    about = [f.code for f in verdict.findings if f.block == 0 and f.severity is Severity.DIFFERS]
    assert "signature-invalid" in about
    assert not [code for code in about if "signer" in code]
    by_another = [f for f in case.compare(policy=policy).findings if f.block == 0]
    assert any("signer" in f.code for f in by_another)
