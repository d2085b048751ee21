# SPDX-License-Identifier: GPL-2.0-or-later
"""A release cut down to some enclaves says of these what the whole says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, catalogue_from, load_catalogue
from sgx_enclaves.errors import CatalogueError

CATALOGUE = load_catalogue((OWN_FOLDER,))
PAIRS = [
    (release, enclave.name)
    for release in CATALOGUE.releases.values()
    for enclave in release.enclaves
]


@pytest.mark.parametrize(("release", "name"), PAIRS, ids=lambda v: getattr(v, "name", v))
def test_every_enclave_of_the_catalogue_can_be_cut_out(release: object, name: str) -> None:
    whole = CATALOGUE.release(getattr(release, "name", ""))
    part = whole.only([name])
    (enclave,) = part.enclaves
    assert enclave.name == name
    assert enclave.required
    assert [archive.id for archive in part.vendor] == [enclave.vendor]
    known = [fact for fact in whole.unpinned if fact.startswith(f"enclave.{name}.")]
    assert [fact for fact in part.unpinned if fact.startswith("enclave.")] == known
    assert (f"vendor.{enclave.vendor}" in part.unpinned) == (
        f"vendor.{enclave.vendor}" in whole.unpinned
    )
    assert not any(
        fact.startswith("enclave.") and not fact.startswith(f"enclave.{name}.")
        for fact in part.unpinned
    )


def test_a_release_with_some_of_its_enclaves() -> None:
    release = CATALOGUE.release("sgx-2.25-dcap-1.22")
    chosen = release.only(["qve", "pce", "qve"])
    assert [(e.name, e.required) for e in chosen.enclaves] == [("qve", True), ("pce", True)]
    assert chosen.unpinned == release.unpinned
    with pytest.raises(CatalogueError, match="has no enclave 'x'"):
        release.only(["pce", "x"])


def test_the_version_of_an_enclaves_package() -> None:
    release = CATALOGUE.release("sgx-2.25-dcap-1.22")
    found = {enclave.name: enclave.component for enclave in release.enclaves}
    assert found == {"pce": "sgx", "ide": "dcap", "qe3": "dcap", "tdqe": "dcap", "qve": "dcap"}


def test_what_is_handed_on_is_enough_and_no_more() -> None:
    for release in CATALOGUE.releases.values():
        needed = {tree.name: tree for tree in (release, *CATALOGUE.trees_of(release))}.values()
        handed = catalogue_from({tree.name: Path(tree.file).read_bytes() for tree in needed})
        assert set(handed.releases) == {tree.name for tree in needed}
        for enclave in release.enclaves:
            if enclave.not_reproducible is None:
                tree, _own = handed.build_of(handed.release(release.name), enclave)
                assert tree.name in handed.releases


def test_two_of_a_name_are_refused() -> None:
    release = next(iter(CATALOGUE.releases.values()))
    data = Path(release.file).read_bytes()
    with pytest.raises(CatalogueError, match="there are two releases"):
        catalogue_from({"a": data, "b": data})


def test_one_that_is_wrong_is_refused() -> None:
    with pytest.raises(CatalogueError, match="x: not TOML"):
        catalogue_from({"x": b"= ="})
