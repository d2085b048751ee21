# SPDX-License-Identifier: GPL-2.0-or-later
"""The built enclaves as the project reads them: shape, and what a loader sees of a variant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.enclave.elf import DT_TEXTREL, EnclaveImage
from sgx_enclaves.enclave.elf_headers import Segment
from tests.enclaves.compiled import (
    MEASURED_VARIANTS,
    PARTS,
    UNMEASURED_VARIANTS,
    build_enclaves,
    have_toolchain,
    variant_file,
)
from tests.enclaves.records import PT_INTERP
from tests.enclaves.sdk import sdk_shape
from tests.support.once import built_enclaves

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs make, gcc, ld and strip")

# e_shoff, then e_shnum and e_shstrndx: the loader zeroes them.
_ZEROED_HEADER_FIELDS = ((0x28, 8), (0x3C, 4))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_enclaves(tmp_path_factory)


def global_data(image: EnclaveImage) -> tuple[int, int]:
    symbol = image.dynamic_symbols["g_global_data"]
    offset = image.file_offset(symbol.st_value)
    assert offset is not None
    return offset, symbol.st_size


def loaded(path: Path) -> list[tuple[Segment, bytes]]:
    """The segments with what every SDK's patches overwrite blanked."""
    image = EnclaveImage.parse(path.read_bytes())
    view = bytearray(image.data)
    for offset, size in (*_ZEROED_HEADER_FIELDS, global_data(image)):
        view[offset : offset + size] = bytes(size)
    return [(s, bytes(view[s.p_offset : s.p_offset + s.p_filesz])) for s in image.load_segments]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_the_shape_of_its_sdk(built: Path, name: str) -> None:
    part = PARTS[name]
    shape = sdk_shape(part.sdk)
    image = EnclaveImage.parse((built / part.file).read_bytes())
    offset, size = global_data(image)
    assert size == shape.global_data_size
    assert int.from_bytes(image.data[offset : offset + 8], "little") == shape.version
    assert image.symbol_address("enclave_entry") == image.header.e_entry
    assert image.tls_size > 0
    has_interpreter = any(s.p_type == PT_INTERP for s in image.segments)
    assert has_interpreter == (name in ("pce", "tdqe"))
    assert image.section(".symtab") is None


@pytest.mark.parametrize("name", MEASURED_VARIANTS)
def test_the_loader_sees_a_measured_variant(built: Path, name: str) -> None:
    pce = loaded(built / PARTS["pce"].file)
    if name in ("textrel", "textrel-code"):
        assert EnclaveImage.parse(variant_file(built, name).read_bytes()).relocated_pages
    assert loaded(variant_file(built, name)) != pce


@pytest.mark.parametrize("name", UNMEASURED_VARIANTS)
def test_the_loader_does_not_see_an_unmeasured_variant(built: Path, name: str) -> None:
    assert loaded(variant_file(built, name)) == loaded(built / PARTS["pce"].file)


def test_only_the_textrel_variants_have_text_relocations(built: Path) -> None:
    having = [
        name
        for name in (*MEASURED_VARIANTS, *UNMEASURED_VARIANTS)
        if DT_TEXTREL in EnclaveImage.parse(variant_file(built, name).read_bytes()).dynamic
    ]
    assert having == ["textrel", "textrel-code"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CFLAGS_EXTRA", "-O1"), ("MITIGATION", "load"), ("SDK", "2.26"), ("INTERP", "/lib/ld.so")],
)
def test_a_variable_reaches_the_build(
    built: Path, tmp_path: Path, variable: str, value: str
) -> None:
    build_enclaves(tmp_path, "all", tools={variable: value})
    name = PARTS["pce"].file
    assert (tmp_path / name).read_bytes() != (built / name).read_bytes()


@pytest.mark.parametrize(("variable", "value"), [("SDK", "9.9"), ("MITIGATION", "some")])
def test_a_value_that_the_makefile_does_not_know_is_refused(
    tmp_path: Path, variable: str, value: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build_enclaves(tmp_path, "all", tools={variable: value})
    assert f"{variable}={value}" in caught.value.stderr
    assert not list(tmp_path.rglob("*.so"))
