# SPDX-License-Identifier: GPL-2.0-or-later
"""Each compiled variant is explained by its own cause, and by no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.explain.description import describe_file
from tests.enclaves.compiled import build_enclaves, have_toolchain, variant_file
from tests.support.once import built_enclaves
from tests.unit.explain.explaining import Case, codes, message

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="no make, gcc and binutils")

# Variant to all the causes it must have, and what their messages must name.
EXPECTED = {
    "interp": (["interpreter-path"], ["/nix/store/", "/lib64/ld-linux-x86-64.so.2"]),
    "interp-same-length": (["interpreter-path"], ["/lib32/ld-linux", "/lib64/ld-linux"]),
    "no-interp": (["interpreter-path"], ["absent in the vendor's file", "/lib64/"]),
    "build-id": (["build-id"], ["absent in our build"]),
    "hash-style": (["hash-style"], [".hash and .gnu.hash for the vendor's", ".gnu.hash for our"]),
    "comment": (["comment-section", "not-measured"], ["GCC: ", "the vendor's file has"]),
    "unstripped": (
        ["comment-section", "stripped-differently", "not-measured"],
        [".symtab of", "our build has no .symtab"],
    ),
    "debug": (
        ["comment-section", "stripped-differently", "debug-sections", "not-measured"],
        [".debug_info"],
    ),
    "opt": (["other-compiler"], ["likely another compiler", "constant strings are equal"]),
    "lfence": (["mitigation"], ["lfence", "our build 0"]),
    "retpoline": (["mitigation"], ["retpolines", "our build 0"]),
    "cet": (["mitigation"], ["endbr64", "our build 0"]),
    "textrel": (["text-relocations"], ["the vendor's file has text relocations"]),
    "textrel-code": (["text-relocations"], ["the vendor's file has text relocations"]),
    "constant": (["code-patch"], ["2 bytes differ", ".text", ".rodata"]),
    "sdk-version": (["sdk-generation", "not-measured"], ["SDK 2.26", "in our build 2.25"]),
    "build-path": (["build-path"], ["/builddir/build/BUILD/enclave-1.0/pce.c", "none in our"]),
    "build-date": (["build-date"], ["Jan  1 2001 00:00:00", "none in our build"]),
    "link-order": (["link-order"], ["likely another link order"]),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_enclaves(tmp_path_factory)


@pytest.fixture(scope="module")
def case(out: Path) -> Case:
    return Case.of((out / "libsgx_pce.so").read_bytes())


def variant(out: Path, name: str) -> bytes:
    return variant_file(out, name).read_bytes()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_variant_has_its_cause(out: Path, case: Case, name: str) -> None:
    explanation = case.explain(case.signed(data=variant(out, name)))
    expected, fragments = EXPECTED[name]
    assert [c for c in codes(explanation) if c != "config-value"] == expected
    text = "\n".join(cause.message for cause in explanation.causes)
    for fragment in fragments:
        assert fragment in text


@pytest.mark.parametrize("name", EXPECTED)
def test_the_causes_name_the_right_side_when_the_roles_are_changed(
    out: Path, case: Case, name: str
) -> None:
    sdk = "2.26" if name == "sdk-version" else "2.25"
    other = Case.of(variant(out, name), sdk)
    explanation = other.explain(other.signed(case.regenerated.descriptor, case.built.data))
    expected, _ = EXPECTED[name]
    assert set(expected) <= set(codes(explanation))
    if name == "comment":
        assert message(explanation, "comment-section").startswith("our build has")
    if name == "textrel":
        assert message(explanation, "text-relocations").startswith("our build has")


def test_an_equal_build_has_no_cause_and_no_difference(case: Case) -> None:
    explanation = case.explain(case.signed())
    assert explanation.causes == ()
    assert explanation.differences == ()
    assert (explanation.omitted, explanation.differing_bytes) == (0, 0)


def test_two_compilers_are_both_named(out: Path) -> None:
    data = variant(out, "comment")
    other = data.replace(b"GCC: (", b"GCC: [")
    assert other != data
    case = Case.of(data)
    explanation = case.explain(case.signed(data=other))
    text = message(explanation, "compiler-comment")
    assert text.index("GCC: [") < text.index("GCC: (")


def test_two_build_ids_are_both_named(out: Path) -> None:
    data = variant(out, "build-id")
    image = EnclaveImage.parse(data)
    section = image.section(".note.gnu.build-id")
    assert section is not None
    at = section.header.sh_offset + 16
    case = Case.of(data)
    explanation = case.explain(case.signed(data=data[:at] + b"\xab" * 20 + data[at + 20 :]))
    text = message(explanation, "build-id")
    assert "ab" * 20 in text
    assert data[at : at + 20].hex() in text
    assert "data-patch" not in codes(explanation)
    # Nothing else differs, so that it follows from nothing that is left to see.
    assert "and everything else is equal: the compiler's version text, symbol names or the" in text
    changed = bytearray(case.signed(data=data[:at] + b"\xab" * 20 + data[at + 20 :]))
    changed[image.header.e_entry] ^= 1
    assert "everything else is equal" not in message(case.explain(bytes(changed)), "build-id")


def test_functions_are_named_by_the_unstripped_file(out: Path) -> None:
    """Our build is stripped: what it was before says which functions differ, and of how many."""
    stripped = (out / "libsgx_pce.so").read_bytes()
    unstripped = variant(out, "unstripped")
    symbols = describe_file(unstripped, "unstripped").symbols
    (place,) = [(start, size) for name, start, size in symbols if name == "same_bytes"]
    image = EnclaveImage.parse(stripped)
    offset = image.file_offset(place[0])
    assert offset is not None
    case = Case.of(stripped)
    changed = bytearray(case.signed())
    for at in range(offset, offset + place[1], 2):
        changed[at] ^= 1
    explanation = case.explain(bytes(changed), symbols=unstripped)
    text = message(explanation, "functions-differ")
    assert re.fullmatch(r"1 of \d+ functions differ: same_bytes", text)
    assert explanation.differences[0].symbol == "same_bytes"
    assert "functions-differ" not in codes(case.explain(bytes(changed)))
    other = bytearray(unstripped)
    other[offset] ^= 1
    text = message(case.explain(bytes(changed), symbols=bytes(other)), "not-described")
    assert "the file with symbols is of another build" in text


def test_functions_come_before_the_build_id_that_follows_from_them(
    out: Path, tmp_path: Path
) -> None:
    build_enclaves(tmp_path, "variant-build-id", tools={"STRIP": "true"})
    case = Case.of(variant(out, "build-id"))
    changed = bytearray(case.signed())
    changed[EnclaveImage.parse(bytes(changed)).header.e_entry] ^= 1
    changed[changed.index(b"GNU\0") + 4] ^= 1
    found = codes(case.explain(bytes(changed), symbols=variant(tmp_path, "build-id")))
    assert found.index("functions-differ") < found.index("build-id")


def test_a_changed_code_byte_is_a_patch_in_its_symbol(out: Path) -> None:
    data = variant(out, "unstripped")
    case = Case.of(data)
    symbols = describe_file(data, "unstripped").symbols
    (address,) = [start for name, start, _ in symbols if name == "same_bytes"]
    offset = EnclaveImage.parse(data).file_offset(address)
    assert offset is not None
    changed = bytearray(case.signed())
    changed[offset + 3] ^= 1
    explanation = case.explain(bytes(changed))
    assert codes(explanation) == ["code-patch"]
    assert "1 byte differs in .text same_bytes, and nothing else" in explanation.causes[0].message
    assert "nothing else" in explanation.causes[0].message
    (difference,) = explanation.differences
    assert (difference.start, difference.end) == (offset + 3, offset + 4)
    assert (difference.section, difference.symbol) == (".text", "same_bytes")
    assert difference.measured
    assert difference.segment == 0


def test_a_patch_hides_behind_no_other_cause(out: Path, case: Case) -> None:
    changed = bytearray(case.signed(data=variant(out, "interp-same-length")))
    image = EnclaveImage.parse(bytes(changed))
    changed[image.header.e_entry] ^= 1
    explanation = case.explain(bytes(changed))
    assert codes(explanation) == ["code-patch", "interpreter-path"]
    assert "nothing else" not in explanation.causes[0].message


def test_another_string_is_likely_another_source(case: Case) -> None:
    signed = case.signed().replace(b"\0forget\0", b"\0recall\0")
    explanation = case.explain(signed)
    assert codes(explanation) == ["data-patch", "other-strings"]
    text = message(explanation, "other-strings")
    assert '"recall" only in the vendor\'s file' in text
    assert '"forget" only in our build' in text
