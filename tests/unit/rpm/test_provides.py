# SPDX-License-Identifier: GPL-2.0-or-later
"""What packages provide by an enclave: read from the file, and only if its signature holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.metadata import DIR_LAYOUT, Block, LayoutEntry
from sgx_enclaves.errors import LimitError, SgxEnclavesError
from sgx_enclaves.limits import measuring_limits
from sgx_enclaves.rpm.enclaves import provides_of
from tests.support.keys import foreign_key, mrsigner, vendor_key
from tests.support.signed import Case, signed_enclave

PCE = "/b/usr/x86_64-intel-sgx/lib64/libsgx_pce.signed.so.1.25.100.1"
UNSIGNED = "/b/usr/x86_64-intel-sgx/lib64/libsgx_pce.so"


def hexes(case: Case, of: str) -> set[str]:
    """MRENCLAVE of each block."""
    return {f"sgx-enclave-{of}({b.sigstruct.enclavehash.hex()})" for b in case.blocks}


def test_a_signed_enclave() -> None:
    case = signed_enclave("2.25")
    found = provides_of(PCE, case.signed, {"pce": "2.25", "ide": "1.22"})
    assert found[0] == "sgx-enclave(pce:signed) = 2.25"
    signer = f"sgx-enclave-mrsigner({mrsigner(vendor_key())})"
    assert set(found[1:]) == {*hexes(case, "mrenclave"), signer}


def test_every_block_counts_once() -> None:
    case = signed_enclave("2.17")
    assert len(case.blocks) == 3
    found = provides_of(PCE, case.signed, {})
    assert len(found) == len(set(found))
    assert hexes(case, "mrenclave") <= set(found)


def test_an_unsigned_enclave_has_no_measurement_yet() -> None:
    case = signed_enclave()
    wanted = ["sgx-enclave(pce:unsigned) = 2.25"]
    assert provides_of(UNSIGNED, case.built, {"pce": "2.25"}) == wanted


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("libsgx_id_enclave.signed.so.1.22.100.1", "ide"),
        ("libsgx_own.signed.so.1", "own"),
        ("plugin.signed.so", "plugin"),
    ],
)
def test_names(path: str, name: str) -> None:
    case = signed_enclave("2.25")
    assert provides_of(path, case.signed, {name: "3"})[0] == f"sgx-enclave({name}:signed) = 3"
    assert provides_of(path, case.signed, {"x": "3"})[0] == f"sgx-enclave({name}:signed)"


def test_a_foreign_signature_is_provided_as_what_it_is() -> None:
    """Who may sign is policy; what is provided must be true."""
    case = signed_enclave("2.25")
    found = provides_of(PCE, case.hostile(lambda b: b, key=foreign_key()), {})
    assert f"sgx-enclave-mrsigner({mrsigner(foreign_key())})" in found


def test_what_does_not_hold_is_not_provided() -> None:
    case = signed_enclave("2.25")
    other_measurement = case.hostile(
        lambda b: replace(b, sigstruct=replace(b.sigstruct, enclavehash=bytes(32))),
        measured=False,
    )
    (block,) = case.blocks
    signature = bytes([block.sigstruct.signature[0] ^ 1]) + block.sigstruct.signature[1:]
    broken = replace(block, sigstruct=replace(block.sigstruct, signature=signature))
    code = bytearray(case.signed)
    code[case.image.load_segments[0].p_filesz - 1] ^= 1
    for bad in (other_measurement, case.with_blocks([broken]), bytes(code), b"\x7fELF", b""):
        with pytest.raises(SgxEnclavesError):
            provides_of(PCE, bad, {})


def test_what_is_measured_has_a_budget() -> None:
    """Metadata may ask for years; what fits the file's size is enough for an honest one."""
    case = signed_enclave("2.25")
    area = len(case.signed)
    assert measuring_limits(area).hashed_bytes == (1 << 30) + 64 * area
    assert measuring_limits(area, 8).hashed_bytes * 8 <= measuring_limits(area).hashed_bytes
    with pytest.raises(LimitError, match="too many pages"):
        provides_of(PCE, case.signed, {}, replace(measuring_limits(area), hashed_bytes=1 << 10))
    evil = case.hostile(lambda b: with_pages(b, 1 << 22), measured=False)
    with pytest.raises(LimitError, match="too many pages"):
        provides_of(PCE, evil, {})


def with_pages(block: Block, count: int) -> Block:
    """The block with so many more measured pages, in an enclave that has room for them."""
    added = LayoutEntry(1, 3, count, 1 << 40, si_flags=0x203).serialise()
    old = block.directories[DIR_LAYOUT]
    directories = list(block.directories)
    directories[DIR_LAYOUT] = replace(old, size=old.size + len(added))
    header = replace(block.header, size=block.header.size + len(added), enclave_size=1 << 50)
    return replace(block, header=header, directories=tuple(directories), data=block.data + added)


# --- the verb ---


def run(
    lines: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, list[str]]:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status = main(["rpm-provides", *arguments])
    return status, capsys.readouterr().out.splitlines()


def test_file_names_come_as_rpm_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = signed_enclave("2.25")
    file = tmp_path / "libsgx_pce.signed.so.1.25.100.1"
    file.write_bytes(case.signed)
    link = tmp_path / "libsgx_pce.signed.so.1"
    link.symlink_to(file.name)
    arguments = ["--versions", "pce=2.25", "qe3=1.22"]
    status, found = run(f"{file}\n{link}\n", arguments, monkeypatch, capsys)
    assert status == 0
    assert found == provides_of(str(file), case.signed, {"pce": "2.25"})
    assert run("", arguments, monkeypatch, capsys) == (0, [])
    assert run(f"{link}\n", [], monkeypatch, capsys) == (0, [])


def test_a_file_that_is_no_enclave_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "libsgx_pce.so"
    file.write_bytes(b"text")
    assert run(f"{file}\n", [], monkeypatch, capsys)[0] == 2
    assert run(f"{file}x\n", [], monkeypatch, capsys)[0] == 2


@pytest.mark.parametrize("text", ["pce", "=1", "pce=", "pce=1 2", "PCE=1", "pce=1\n"])
def test_versions_have_a_form(text: str) -> None:
    assert main(["rpm-provides", "--versions", text]) == 2
