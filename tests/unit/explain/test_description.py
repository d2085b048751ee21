# SPDX-License-Identifier: GPL-2.0-or-later
"""A file is described by pyelftools, and a hostile one costs a bounded time and no verdict."""

from __future__ import annotations

import builtins
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.enclave.elf_headers import SHT_NOTE
from sgx_enclaves.explain import description
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.explain.file_map import Side
from tests.enclaves.compiled import build_enclaves, have_toolchain, variant_file
from tests.enclaves.synthetic import Enclave, SectionHeader, build, small_enclave
from tests.support.signed import signed_enclave
from tests.unit.explain.explaining import Case, codes, message


def test_what_a_file_says() -> None:
    built = build(Enclave(sdk="2.25", interpreter="/lib/ld.so", symtab=True))
    found = describe_file(built.data, "built")
    assert found.problems == ()
    assert found.interpreter == "/lib/ld.so"
    assert {name for name, _, _ in found.symbols} == {"enclave_entry", "g_global_data"}
    assert found.dynamic.keys() >= {"DT_SYMTAB", "DT_STRTAB"}
    assert describe_file(small_enclave(), "small").interpreter is None


@pytest.mark.skipif(not have_toolchain(), reason="no make, gcc and binutils")
def test_compilers_and_source_lines_of_debugging_information(tmp_path: Path) -> None:
    build_enclaves(tmp_path, "variant-debug")
    data = variant_file(tmp_path, "debug").read_bytes()
    found = describe_file(data, "debug")
    assert found.problems == ()
    assert found.comments is not None
    assert found.comments[0].startswith("GCC: ")
    assert any(p.startswith("GNU C") for p in found.producers)
    (start,) = [address for name, address, _ in found.symbols if name == "same_bytes"]
    lines = describe_file(data, "debug", [start, start + 1, 0]).lines
    assert set(lines) == {start, start + 1}
    assert lines[start].partition(":")[0].endswith((".c", ".h"))
    assert int(lines[start].partition(":")[2]) > 0
    case = Case.of(data)
    offset = case.built.file_offset(start)
    assert offset is not None
    changed = bytearray(case.signed())
    changed[offset] ^= 1
    (difference,) = case.explain(bytes(changed)).differences
    assert difference.symbol == f"same_bytes ({lines[start]})"


def test_a_file_that_takes_too_long_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*_: object) -> bytes:
        while True:
            pass

    monkeypatch.setattr(description, "_described", stuck)
    monkeypatch.setattr(description, "_SECONDS", 0.2)
    found = describe_file(small_enclave(), "stuck")
    assert found.symbols == ()
    assert found.problems[0].startswith("stuck cannot be described")


def test_what_pyelftools_cannot_take_is_said_and_the_rest_described() -> None:
    lies = {".symtab": {"sh_entsize": 0}}
    case = signed_enclave("2.25", symtab=True)
    evil = build(Enclave(sdk="2.25", symtab=True, section_fields=lies)).data
    found = describe_file(evil, "evil")
    assert found.problems
    verdict = case.compare(evil)
    assert verdict.explanation is not None
    assert "not-described" in codes(verdict.explanation)
    assert describe_file(b"\x7fELF", "cut").problems
    assert describe_file(b"", "empty").problems


def test_without_pyelftools_a_verdict_is_the_same_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("elftools"):
            raise ImportError(name)
        return real(name, *rest)

    case = signed_enclave("2.25")
    evil = bytearray(case.signed)
    evil[build(Enclave(sdk="2.25")).section(".text").sh_offset] ^= 1
    before = case.compare(bytes(evil))
    monkeypatch.setattr(builtins, "__import__", refuse)
    after = case.compare(bytes(evil))
    assert (after.outcome, after.findings, after.checks, after.byte_map) == (
        before.outcome,
        before.findings,
        before.checks,
        before.byte_map,
    )
    assert before.explanation is not None
    assert after.explanation is not None
    assert [(d.start, d.end, d.section) for d in after.explanation.differences] == [
        (d.start, d.end, d.section) for d in before.explanation.differences
    ]
    assert "python3-pyelftools" in message(after.explanation, "not-described")


def test_a_note_that_is_not_gnus_is_none_of_its_properties() -> None:
    section = SectionHeader(name=".note.other", sh_type=SHT_NOTE, sh_addralign=4)
    note = struct.pack("<III", 4, 4, 5) + b"ABC\0" + bytes(4)
    found = describe_file(build(Enclave(extra_sections=((section, note * 2),))).data, "other")
    assert found.problems == ()
    assert (found.build_id, found.features) == (None, ())


def test_an_identical_file_is_never_described(tmp_path: Path) -> None:
    """pyelftools costs more to import than the comparison takes."""
    case = signed_enclave()
    for name, data in (("b", case.built), ("s", case.signed), ("c", case.config)):
        (tmp_path / name).write_bytes(data)
    program = (
        "import sys; from sgx_enclaves.cli.main import main; code = main(sys.argv[1:]); "
        "assert not [m for m in sys.modules if m.startswith(('elftools', 'sgx_enclaves.explain'))]"
        "; sys.exit(code)"
    )
    arguments = ["compare", "b", "s", "--config", "c", "--signer", signer(case)]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def signer(case: Any) -> str:
    return str(case.blocks[0].sigstruct.mrsigner.hex())


def test_the_traces_of_a_side() -> None:
    case = signed_enclave("2.25")
    side = Side(case.image, describe_file(case.built, "built"))
    assert side.global_data == case.image.global_data
    assert side.sdk_word is not None
    assert list(side.mitigations.values()) == [0, 0, 0]
