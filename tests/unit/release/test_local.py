# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that lie beside a spec file, and a release's choice of its enclaves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.errors import CatalogueError, DigestError, FetchError
from sgx_enclaves.release.fetch import Cache, Fetcher

DATA = b"an archive"
NEWEST = "sgx-2.25-dcap-1.22"


def artifact(sha256: Optional[str], sha512: Optional[str] = None) -> Artifact:
    return Artifact("a.tar.gz", ("https://vendor.example/a.tar.gz",), sha256, sha512)


@pytest.fixture(name="fetcher")
def _fetcher(tmp_path: Path) -> Fetcher:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "a.tar.gz").write_bytes(DATA)
    return Fetcher(Cache(tmp_path / "cache"), None, local=tmp_path / "local")


def test_the_right_file_is_used_where_it_lies(fetcher: Fetcher, tmp_path: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    fetched = fetcher.fetch(artifact(digest))
    assert fetched.path == tmp_path / "local" / "a.tar.gz"
    assert (fetched.sha256, fetched.size, fetched.pinned) == (digest, len(DATA), True)
    assert not (tmp_path / "cache").exists()


def test_a_wrong_file_is_an_error(fetcher: Fetcher) -> None:
    with pytest.raises(DigestError, match="not the file that the release pins"):
        fetcher.fetch(artifact("0" * 64))
    good = hashlib.sha256(DATA).hexdigest()
    with pytest.raises(DigestError, match="not the file that the release pins"):
        fetcher.fetch(artifact(good, "0" * 128))


def test_without_a_pin_it_must_be_allowed(fetcher: Fetcher) -> None:
    with pytest.raises(FetchError, match="has no pinned digest"):
        fetcher.fetch(artifact(None))
    fetched = fetcher.fetch(artifact(None), allow_unpinned=True)
    assert not fetched.pinned
    assert fetched.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_file_that_is_not_there(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "local" / "a.tar.gz").rename(tmp_path / "local" / "b.tar.gz")
    with pytest.raises(FetchError, match="not in the cache"):
        fetcher.fetch(artifact(hashlib.sha256(DATA).hexdigest()))


def test_a_file_stands_for_a_catalogue(tmp_path: Path) -> None:
    text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8")
    path = tmp_path / "own.toml"
    path.write_text(text.replace(NEWEST, "own"), "utf-8")
    (tmp_path / "other.toml").write_text("is no release")
    assert list(load_catalogue((path,)).releases) == ["own"]
    with pytest.raises(CatalogueError):
        load_catalogue((tmp_path,))


def test_a_release_with_some_of_its_enclaves() -> None:
    release = load_catalogue((OWN_FOLDER,)).release(NEWEST)
    chosen = release.only(["qve", "pce", "qve"])
    assert [(e.name, e.required) for e in chosen.enclaves] == [("qve", True), ("pce", True)]
    assert chosen.unpinned == release.unpinned
    with pytest.raises(CatalogueError, match="has no enclave 'x'"):
        release.only(["pce", "x"])


def test_the_version_of_an_enclaves_package() -> None:
    release = load_catalogue((OWN_FOLDER,)).release(NEWEST)
    found = {enclave.name: enclave.component for enclave in release.enclaves}
    assert found == {"pce": "sgx", "ide": "dcap", "qe3": "dcap", "tdqe": "dcap", "qve": "dcap"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('license = "Apache-2.0', 'license = "Apache 2; or so', "license"),
        ('"License.txt"', '"../License.txt"', "license_files"),
        ('"sdk/tlibcxx/LICENSE.TXT"', '"sdk/../../LICENSE.TXT"', "license_files"),
        ('"License.txt"', '"-x"', "license_files"),
    ],
)
def test_licences_have_a_form(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8")
    assert old in text
    (tmp_path / "own.toml").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(CatalogueError, match=words):
        load_catalogue((tmp_path,))
