# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site's attestations agree on: whole directories, several releases, k of n signers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.statements import agreed, attested, trusted
from tests.support.attested import Rebuilder
from tests.support.records import A, B, C

PCE = {"pce": A}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


@pytest.fixture(name="two")
def _two(tmp_path: Path) -> tuple[Rebuilder, Rebuilder]:
    return Rebuilder(tmp_path, "a"), Rebuilder(tmp_path, "b")


def found(folder: Path, two: tuple[Rebuilder, ...], threshold: int = 2) -> frozenset[str]:
    return attested([str(folder)], [str(one.key) for one in two], None, threshold)


def test_all_files_of_a_directory_count(folder: Path, two: tuple[Rebuilder, Rebuilder]) -> None:
    for name, one in zip("ab", two):
        one.attest(folder / name, PCE)
    (folder / ".hidden").write_text("no attestation")
    (folder / "a.asc").write_text("a signature that nobody asks for")
    assert found(folder, two) == {A}
    (folder / "c").write_text("no attestation")
    with pytest.raises(SgxEnclavesError, match="no JSON text"):
        found(folder, two)


def test_an_empty_directory_attests_nothing(folder: Path, two: tuple[Rebuilder, ...]) -> None:
    with pytest.raises(SgxEnclavesError, match="no statement names an unsigned enclave"):
        found(folder, two)


def test_an_enclave_of_two_releases_may_have_two_digests(
    folder: Path, two: tuple[Rebuilder, Rebuilder]
) -> None:
    for name, one in zip("ab", two):
        one.attest(folder / f"{name}1", {"pce": A, "ide": C}, "r-1")
        one.attest(folder / f"{name}2", {"pce": B, "ide": C}, "r-2")
    assert found(folder, two) == {A, B, C}
    keys = [str(one.key) for one in two]
    named = agreed(trusted([str(folder)], keys, None), 2)
    assert named == {"pce of r-1": A, "pce of r-2": B, "ide": C}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("r-1", A), ("r-1", B), "the signers disagree about pce"),
        (("r-1", A), ("", B), "the signers disagree about pce"),
        (("r-1", A), ("r-2", B), "too few signers vouch for pce"),
        (("r-1", A), ("r-2", A), ""),
        (("r-1", A), ("", A), ""),
    ],
)
def test_who_speaks_of_one_release_must_name_one_digest(
    folder: Path,
    two: tuple[Rebuilder, Rebuilder],
    first: tuple[str, str],
    second: tuple[str, str],
    words: str,
) -> None:
    for one, (release, digest), name in zip(two, (first, second), "ab"):
        one.attest(folder / name, {"pce": digest}, release)
    if not words:
        assert found(folder, two) == {A}
        return
    with pytest.raises(SgxEnclavesError, match=words):
        found(folder, two)


def test_who_compared_is_no_rebuilder(folder: Path, two: tuple[Rebuilder, Rebuilder]) -> None:
    one, other = two
    one.compare(folder / "a", PCE)
    other.compare(folder / "b", PCE)
    for threshold in (1, 2):
        with pytest.raises(SgxEnclavesError, match="2 signers compared pce, none says"):
            found(folder, two, threshold)
    one.attest(folder / "c", PCE)
    assert found(folder, two, 1) == {A}
    with pytest.raises(SgxEnclavesError, match="too few signers vouch for pce"):
        found(folder, two)
    other.compare(folder / "b", {"pce": B})
    with pytest.raises(SgxEnclavesError, match="the signers disagree about pce"):
        found(folder, two, 1)


def test_a_build_counts_whatever_who_compared_calls_it(
    folder: Path, two: tuple[Rebuilder, Rebuilder]
) -> None:
    for name, one in zip("ab", two):
        one.attest(folder / name, PCE)
    two[0].compare(folder / "c", {"libsgx_pce": A})
    assert found(folder, two) == {A}
