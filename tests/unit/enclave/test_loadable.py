# SPDX-License-Identifier: GPL-2.0-or-later
"""What Intel's tool refuses of an image is refused before it is signed, each by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sgx_enclaves.enclave.elf import DT_REL, EnclaveImage, not_loadable, obstacles, require_loadable
from sgx_enclaves.enclave.verdict import Outcome, Severity
from sgx_enclaves.errors import SigningError
from tests.enclaves.synthetic import DT_TEXTREL, Relocation, SectionHeader, Symbol, small_enclave
from tests.support.signed import signed_enclave

WEAK, UNDEFINED = 0x21, 0


def image(**overrides: Any) -> EnclaveImage:
    return EnclaveImage.parse(small_enclave(**overrides), "built.so")


def section(name: str) -> dict[str, Any]:
    return {"extra_sections": [(replace(SectionHeader(), name=name), b"\xc3")]}


def relocation(kind: int) -> dict[str, Any]:
    address = EnclaveImage.parse(small_enclave()).load_segments[1].p_vaddr
    return {"relocations": [Relocation(address, kind)], "textrel": False}


def undefined(name: str, info: int = 0x10) -> dict[str, Any]:
    return {"extra_symbols": [Symbol(name, st_info=info, st_shndx=UNDEFINED)]}


def test_the_good_one_is_good() -> None:
    """What makes every other test here mean something."""
    assert list(obstacles(image())) == []
    require_loadable(image())
    for kind in (0, 1, 6, 7, 8, 16, 17, 18):
        assert not_loadable(image(**relocation(kind))) == []
    assert list(obstacles(image(**undefined("weak", WEAK)))) == []
    assert list(obstacles(image(tls=None))) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (undefined("missing_function"), "undefined.*found missing_function"),
        (relocation(36), "relocations that the SDK does not know.*TLSDESC"),
        (relocation(37), "IRELATIVE"),
        (relocation(5), "COPY"),
        (relocation(2), "PC32"),
        (relocation(99), "type 99"),
        (section(".ctors"), "section .ctors"),
        (section(".init"), "section .init.*--ignore-init-section"),
        ({"segment_fields": {2: {"p_flags": 0}}}, "PT_TLS has no permission"),
        ({"dynamic": False}, "no dynamic table"),
        ({"textrel": True}, "code is relocated.*--ignore-text-relocations"),
        (
            {"dynamic_fields": {DT_TEXTREL: 0}, "relocations": (), "jump_slots": ()},
            "code is relocated.*--ignore-text-relocations",
        ),
    ],
)
def test_what_no_loader_takes(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SigningError, match=message) as caught:
        require_loadable(image(**overrides))
    assert caught.value.file == "built.so"
    assert caught.value.hint


def test_rel_is_refused() -> None:
    plain = image()
    plain.dynamic[DT_REL] = 0x1000
    assert [o.found for o in obstacles(plain)] == ["DT_REL"]


def test_a_relocation_in_code_needs_no_flag() -> None:
    text = EnclaveImage.parse(small_enclave()).section(".text")
    assert text is not None
    evil = image(relocations=[Relocation(text.header.sh_addr)], textrel=False)
    assert [o.option for o in obstacles(evil)] == ["--ignore-text-relocations"]


def test_what_its_user_accepts_is_signed() -> None:
    require_loadable(image(**section(".init")), frozenset({"--ignore-init-section"}))
    require_loadable(image(textrel=True), frozenset({"--ignore-text-relocations"}))
    with pytest.raises(SigningError, match=r"section \.init"):
        require_loadable(image(**section(".init")), frozenset({"--ignore-text-relocations"}))


def test_many_names_are_counted() -> None:
    names = [Symbol(f"f{n}", st_info=0x10, st_shndx=UNDEFINED) for n in range(7)]
    (found,) = obstacles(image(extra_symbols=names))
    assert found.found == "f0, f1, f2, f3 and 3 more"


def test_a_verdict_on_such_a_file_is_as_it_was_with_a_note() -> None:
    case = signed_enclave("2.25", extra_symbols=(Symbol("gone", st_info=0x10, st_shndx=0),))
    verdict = case.compare()
    assert verdict.outcome is Outcome.IDENTICAL
    assert [(f.code, f.severity) for f in verdict.findings] == [("not-loadable", Severity.NOTE)]


def test_what_cannot_be_read_is_no_obstacle_of_its_own() -> None:
    assert not_loadable(image(omit_sections=(".dynsym",))) == []
