# SPDX-License-Identifier: GPL-2.0-or-later
"""The enclaves built from source: the same everywhere, and different where meant."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.enclaves.compiled import (
    HERE,
    MEASURED_VARIANTS,
    PARTS,
    UNMEASURED_VARIANTS,
    build_enclaves,
    have_toolchain,
    variant_file,
)
from tests.enclaves.sdk import sdk_shape
from tests.support.once import built_enclaves

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs make, gcc, ld and strip")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_enclaves(tmp_path_factory)


def test_another_place_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(HERE, copy)
    out = tmp_path / "out"
    build_enclaves(out, "all", "variant-debug", source=copy)
    for part in PARTS.values():
        assert (out / part.file).read_bytes() == (built / part.file).read_bytes()
    assert variant_file(out, "debug").read_bytes() == variant_file(built, "debug").read_bytes()


def test_the_comparison_sees_another_compiler_option(built: Path, tmp_path: Path) -> None:
    build_enclaves(tmp_path, tools={"CC": "gcc -fno-schedule-insns2 -fno-inline"})
    name = PARTS["pce"].file
    assert (tmp_path / name).read_bytes() != (built / name).read_bytes()


@pytest.mark.parametrize("name", PARTS)
def test_the_note_survives_stripping(built: Path, name: str) -> None:
    part = PARTS[name]
    data = (built / part.file).read_bytes()
    shape = sdk_shape(part.sdk)
    start = data.index(b"sgx_metadata\0")
    assert data[start - 12 : start - 4] == b"\x0d\0\0\0" + shape.descriptor_size.to_bytes(
        4, "little"
    )
    assert data[start + 13 : start + 13 + shape.descriptor_size] == bytes(shape.descriptor_size)
    assert shape.version.to_bytes(8, "little") in data[:start]
    assert b".comment\0" not in data
    assert len(data) < 60 * 1024


def test_every_variant_is_another_file(built: Path) -> None:
    files = [built / PARTS["pce"].file]
    files += [variant_file(built, name) for name in (*MEASURED_VARIANTS, *UNMEASURED_VARIANTS)]
    contents = {path.read_bytes() for path in files}
    assert len(contents) == len(files)


def test_the_makefile_and_this_list_name_the_same_variants() -> None:
    listed = subprocess.run(
        ["make", "-s", "-C", str(HERE), "list"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert sorted(listed) == sorted((*MEASURED_VARIANTS, *UNMEASURED_VARIANTS))


def test_no_folder_no_build() -> None:
    result = subprocess.run(
        ["make", "-C", str(HERE), "OUT="], check=False, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "OUT=DIR" in result.stderr
