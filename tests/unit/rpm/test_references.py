# SPDX-License-Identifier: GPL-2.0-or-later
"""What a package of unsigned enclaves offers to be compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.errors import InputError, LimitError, PackageError, SgxEnclavesError
from sgx_enclaves.limits import DEFAULT_PACKAGE_LIMITS
from sgx_enclaves.rpm import references
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import FolderReference, PackageReference, open_reference
from tests.enclaves.synthetic import small_enclave
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.rpm.test_neighbours import versions

CASE = signed_enclave("2.25")
PCE = ENCLAVE_FOLDER + "libsgx_pce.so"
ASKED = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1"
CONFIG = "/usr/share/sgx-enclaves/pce.config.xml"
UNSIGNED = (RpmFile(PCE, CASE.built), RpmFile(CONFIG, CASE.config))
_PLAIN = small_enclave(note=None)
# A program that holds the enclave.
PROGRAM = _PLAIN + bytes(-len(_PLAIN) % 16) + CASE.built


class Packages:
    """Of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, files: Sequence[RpmFile], file: str = "a.rpm", **changes: Any) -> str:
        path = self._folder / file
        path.write_bytes(write_rpm(files, **changes))
        return str(path)

    def reference(self, *more: RpmFile, **changes: Any) -> PackageReference:
        return PackageReference(self.write([*UNSIGNED, *more], **changes))


@pytest.fixture(name="packages")
def _packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def test_what_is_no_shared_library_is_no_enclave(packages: Packages) -> None:
    files = [RpmFile("/usr/share/libsgx_pce", CASE.built), UNSIGNED[1]]
    with pytest.raises(InputError, match="no unsigned enclave is in it"):
        PackageReference(packages.write(files))


def test_an_enclave_that_a_program_holds_is_none_of_the_package(packages: Packages) -> None:
    held = RpmFile("/usr/bin/program", PROGRAM)
    (found,) = packages.reference(held).counterparts(ASKED)
    assert found.data == CASE.built


def test_an_unsigned_enclave_that_cannot_be_read_says_why(packages: Packages) -> None:
    broken = CASE.built[: CASE.area.start]
    reference = PackageReference(packages.write([RpmFile(PCE, broken), UNSIGNED[1]]))
    (item, _config) = reference.items()
    with pytest.raises(SgxEnclavesError) as caught:
        list(reference.counterparts(ASKED))
    assert caught.value is getattr(item, "problem", None)


def test_the_only_config_is_the_only_enclaves(packages: Packages) -> None:
    """Of another name, it belongs to one enclave, and to none of several."""
    other = RpmFile("/usr/share/other.config.xml", CASE.config)
    (alone,) = PackageReference(packages.write([UNSIGNED[0], other])).counterparts(ASKED)
    assert alone.config == CASE.config
    assert alone.config_name.endswith(":/usr/share/other.config.xml")
    second = RpmFile(ENCLAVE_FOLDER + "libsgx_qe3.so", CASE.built)
    path = packages.write([UNSIGNED[0], second, other])
    (beside,) = PackageReference(path).counterparts(ASKED)
    assert (beside.config, beside.config_name) == (None, f"{path}:config.xml")


def test_the_label_is_of_the_enclaves_own_name(packages: Packages) -> None:
    tags = versions(("pce:unsigned", "2.25-1"), ("None:unsigned", "2.26-1"))
    unnamed = RpmFile("/opt/some.so", CASE.built)
    reference = packages.reference(unnamed, tags=tags)
    labels = [c.label for p in (ASKED, "/opt/some.signed.so") for c in reference.counterparts(p)]
    assert labels == ["2.25", ""]


def test_a_package_that_was_replaced_is_no_reference(packages: Packages) -> None:
    """Its signature was that of the first one."""
    reference = packages.reference()
    packages.reference(RpmFile("/usr/bin/x", b"x"))
    with pytest.raises(InputError, match="has changed while it was read"):
        list(reference.counterparts(ASKED))


def test_a_library_of_an_enclaves_name_is_no_counterpart(packages: Packages) -> None:
    library = RpmFile("/usr/lib64/libsgx_pce.so", _PLAIN)
    (found,) = packages.reference(library).counterparts(ASKED)
    assert found.data == CASE.built


def test_a_package_file_is_the_reference_only_with_these_headers(packages: Packages) -> None:
    reference = packages.reference()
    same = packages.write(UNSIGNED, "b.rpm")

    def is_of(path: str) -> bool:
        with packed(path) as (package, _members):
            return reference.is_of(package)

    assert is_of(reference.name)
    assert not is_of(same)
    packages.write(UNSIGNED, name="another")
    assert not is_of(reference.name)


@pytest.mark.parametrize(
    ("name", "provides", "source", "expected"),
    [
        ("pce-unsigned", [], "a.src.rpm", True),
        ("pce", ["sgx-enclave(pce:unsigned:reproducible)"], "a.src.rpm", True),
        ("pce", ["sgx-enclave(pce:unsigned)"], "a.src.rpm", False),
        ("pce-unsigned", ["sgx-enclave(pce:unsigned:reproducible)"], None, False),
    ],
)
def test_who_is_for_others_to_be_compared_with(
    packages: Packages, name: str, provides: list[str], source: Any, expected: bool
) -> None:
    files = UNSIGNED if source else [replace(f, path=f.path.lstrip("/")) for f in UNSIGNED]
    tags = {1044: source}
    reference = PackageReference(packages.write(files, name=name, provides=provides, tags=tags))
    assert reference.is_neighbour() is expected


def test_the_enclaves_of_a_reference_are_bounded(packages: Packages) -> None:
    held = RpmFile("/usr/bin/program", PROGRAM)
    path = packages.write([*UNSIGNED, held])
    size = len(CASE.built) + len(CASE.config)

    def items(limit: int) -> int:
        opener = partial(packed, limits=replace(DEFAULT_PACKAGE_LIMITS, reference=limit))
        return len(PackageReference(path, opener).items())

    assert items(size) == 3
    with pytest.raises(LimitError, match="too large for a reference"):
        items(size - 1)


def test_a_folder_whose_versions_are_known_to_whoever_asks(tmp_path: Path) -> None:
    file = tmp_path / "libsgx_pce.so.1.24"
    file.write_bytes(CASE.built)
    (own,) = FolderReference(str(tmp_path)).counterparts(ASKED)
    assert (own.label, own.version) == ("", "1.24")
    (known,) = FolderReference(str(tmp_path), ("2.25", "1.25")).counterparts(ASKED)
    assert (known.label, known.version) == ("2.25", "1.25")
    assert (known.config, known.config_name) == (None, f"{tmp_path}/config.xml")
    config = tmp_path / "pce.config.xml"
    config.write_bytes(CASE.config)
    (known,) = FolderReference(str(tmp_path)).counterparts(ASKED)
    assert (known.config, known.config_name) == (CASE.config, str(config))


def test_the_files_of_a_folder_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_FOLDER_ENTRIES", 2)
    (tmp_path / "below").mkdir()
    for name in ("a.so", "below/b.so"):
        (tmp_path / name).touch()
    FolderReference(str(tmp_path))
    (tmp_path / "c").touch()
    with pytest.raises(LimitError, match="too many files in the reference folder"):
        FolderReference(str(tmp_path))


def test_of_a_file_and_its_links_the_first_by_name_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order the file system has them."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b/libsgx_pce.so").write_bytes(CASE.built)
    (tmp_path / "a/libsgx_pce.so").symlink_to("../b/libsgx_pce.so")

    def unsorted(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
        folders = ["b", "a"]
        yield path, folders, []
        for name in folders:
            yield f"{path}/{name}", [], ["libsgx_pce.so"]

    monkeypatch.setattr(references, "walk", unsorted)
    (found,) = FolderReference(str(tmp_path)).counterparts(ASKED)
    assert found.name == f"{tmp_path}/a/libsgx_pce.so"


def test_what_is_no_package_is_told_from_a_bad_one(packages: Packages) -> None:
    path = packages.write(UNSIGNED)
    data = Path(path).read_bytes()
    hints = []
    for bad in (b"\0" * 200, data[:200]):
        Path(path).write_bytes(bad)
        with pytest.raises(PackageError) as caught:
            open_reference(path)
        hints.append("a reference is a package of unsigned enclaves" in (caught.value.hint or ""))
    assert hints == [True, False]
