# SPDX-License-Identifier: GPL-2.0-or-later
"""Building twice: what leaves a trace in the result is found, and where."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sgx_enclaves.release.manifest import load_built
from sgx_enclaves.release.sandbox import Isolation, best_isolation
from tests.enclaves.compiled import have_toolchain
from tests.integration.release.building import SmallRelease, wrapper

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")

VARIED = {"path", "umask", "locale", "timezone", "hostname", "time"}


@pytest.fixture
def small(tmp_path: Path) -> SmallRelease:
    return SmallRelease(tmp_path / "small", enclaves=("pce",))


def stamp(small: SmallRelease, text: str) -> None:
    """Bake a text into the enclave; make and shell expand it."""
    extra = 'EXTRA = "CFLAGS_EXTRA=-DBUILD_STAMP=\'\\"' + text + '\\"\'"\n'
    small.files["GNUmakefile"] = extra.encode() + wrapper()


def test_a_build_without_traces_is_reproducible(small: SmallRelease, into: Path) -> None:
    stamp(small, "$(SOURCE_DATE_EPOCH)")
    manifest = small.build(into, twice=True)
    assert manifest.reproducible is True
    assert load_built(into).manifest == manifest
    assert manifest.second is not None
    assert not (into / "second").exists()


def test_all_is_varied_or_said_not_to_be(small: SmallRelease, into: Path, tmp_path: Path) -> None:
    second = small.build(into, twice=True).second
    assert second is not None
    missing = {item.partition(":")[0] for item in second.not_varied}
    assert set(second.varied) | missing == VARIED
    assert not set(second.varied) & missing
    if best_isolation()[0] is not Isolation.NONE:
        assert "hostname" in second.varied
    assert ("time" in second.varied) == (shutil.which("faketime") is not None)


@pytest.mark.parametrize(
    "text",
    ["$(CURDIR)", "$(shell umask)", "$(LC_ALL)", "$(shell date +%Z)", "$(shell date +%s%N)"],
)
def test_a_trace_is_found_and_located(small: SmallRelease, into: Path, text: str) -> None:
    stamp(small, text)
    manifest = small.build(into, twice=True)
    assert manifest.reproducible is False
    assert load_built(into).manifest == manifest
    second = manifest.second
    assert second is not None
    assert {item.file for item in second.differences} == {"libsgx_pce.so"}
    assert all(item.offset is not None and item.size > 0 for item in second.differences)
    sections = {str(item.section) for item in second.differences}
    # a text of another length moves what comes before it as well
    if text in ("$(shell umask)", "$(shell date +%s%N)"):
        assert {section.partition(".str")[0] for section in sections} == {".rodata"}
    else:
        assert sections != {"None"}
    # for study
    ours = (into / "libsgx_pce.so").read_bytes()
    theirs = (into / "second" / "libsgx_pce.so").read_bytes()
    first = second.differences[0].offset
    assert first is not None
    assert ours[:first] == theirs[:first]
    assert ours[first] != theirs[first]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime")
def test_a_year_is_a_trace(small: SmallRelease, into: Path) -> None:
    stamp(small, "$(shell date +%Y)")
    assert small.build(into, twice=True).reproducible is False


def test_a_host_name_is_a_trace(small: SmallRelease, into: Path, tmp_path: Path) -> None:
    if best_isolation()[0] is Isolation.NONE:
        pytest.skip("the host name cannot be changed here")
    stamp(small, "$(shell uname -n)")
    assert small.build(into, twice=True).reproducible is False


def test_the_date_macro_obeys_the_releases_date(small: SmallRelease, into: Path) -> None:
    source = small.files["src/pce.c"].decode()
    used = "\nconst char when[] __attribute__((used)) = __DATE__ __TIME__;\n"
    small.files["src/pce.c"] = (source + used).encode()
    assert small.build(into, twice=True).reproducible is True


def test_the_date_macro_without_one_is_a_trace(small: SmallRelease, into: Path) -> None:
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    source = small.files["src/pce.c"].decode()
    used = "\nconst char when[] __attribute__((used)) = __DATE__ __TIME__;\n"
    small.files["src/pce.c"] = (source + used).encode()
    small.files["GNUmakefile"] = b"unexport SOURCE_DATE_EPOCH\n" + wrapper("unset X; true")
    small.files["Makefile"] = b"unexport SOURCE_DATE_EPOCH\n" + small.files["Makefile"]
    assert small.build(into, twice=True).reproducible is False


def test_a_second_build_that_fails_is_no_reproduction(small: SmallRelease, into: Path) -> None:
    small.files["GNUmakefile"] = wrapper("test $(CURDIR) = /small-build/tree")
    manifest = small.build(into, twice=True)
    assert manifest.complete
    assert manifest.reproducible is False
    assert manifest.second is not None
    (difference, config) = manifest.second.differences
    assert (difference.file, difference.offset) == ("libsgx_pce.so", None)
    assert (config.file, config.offset) == ("libsgx_pce.config.xml", None)
    assert (into / "second" / "logs" / "make-pce.log").is_file()


def test_without_isolation_there_is_a_second_path_too(
    small: SmallRelease, into: Path, tmp_path: Path
) -> None:
    small.root = str(tmp_path / "new" / "tree")
    stamp(small, "$(CURDIR)")
    manifest = small.build(into, twice=True, isolation=Isolation.NONE)
    assert manifest.reproducible is False
    assert manifest.second is not None
    assert manifest.second.differences[0].offset is not None
    assert any(item.startswith("hostname") for item in manifest.second.not_varied)
    assert not (tmp_path / "new").exists()


def test_paths_that_steps_install_to_move_along(small: SmallRelease, into: Path) -> None:
    small.environment = 'SGX_SDK = "/small-build/sdk"'
    small.steps = {"install": ["mkdir", "-p", "/small-build/sdk/made"]}
    small.files["GNUmakefile"] = wrapper("test -d $(SGX_SDK)/made")
    assert small.build(into, twice=True).reproducible is True
