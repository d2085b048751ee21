# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole release is brought from a real server: sources, archives, checksums, repacks."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import (
    Build,
    Enclave,
    Release,
    Source,
    Toolchain,
    VendorArchive,
)
from sgx_enclaves.errors import (
    ArchiveError,
    CatalogueError,
    DigestError,
    FetchError,
    InputError,
    LimitError,
)
from sgx_enclaves.release.archive import pack_members
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.outcome import Stage, StageState
from sgx_enclaves.release.transport import HttpsTransport
from sgx_enclaves.release.vendor import (
    SignedArchive,
    SignedFiles,
    fetch_signed,
    fetch_sources,
    read_signed_enclaves,
    take_repack,
)
from tests.support.archives import list_members
from tests.unit.release import tarmaker as tm
from tests.vendor_server import VendorServer

SIGNED = {"one": b"signed one" * 50, "two": b"signed two" * 50}


def archive(*parts: bytes) -> bytes:
    return gzip.compress(b"".join(parts) + tm.END, mtime=0)


ORIGINAL = archive(
    tm.directory("psw"),
    tm.file("psw/libsgx_one.signed.so", SIGNED["one"]),
    tm.file("psw/libsgx_two.signed.so", SIGNED["two"]),
    tm.file("prebuilt/libcrypto.a", b"library"),
)
SOURCE = archive(tm.file("top/a.c", b"int a;"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def enclave(name: str) -> Enclave:
    return Enclave(
        name=name,
        file=name,
        vendor="signed",
        member=f"psw/libsgx_{name}.signed.so",
        build=None,
        built_in="other",
        not_reproducible=None,
        so_version=None,
        signer="ab" * 32,
        isvprodid=None,
        least_isvsvn=None,
        required=True,
        may_ship=True,
        reason="",
    )


class Place:
    """A release whose files stand on the test server."""

    def __init__(self, vendor: VendorServer, root: Path, sums: str = "") -> None:
        self.vendor = vendor
        self.fetcher = Fetcher(
            root,
            HttpsTransport(ca_file=str(vendor.ca_file)),
            sleep=lambda _seconds: None,
        )
        source = Artifact("a.tar.gz", (vendor.put("/a.tar.gz", SOURCE),), sha256(SOURCE))
        signed = Artifact("s.tar.gz", (vendor.put("/s.tar.gz", ORIGINAL),), sha256(ORIGINAL))
        url = vendor.url + "/SUMS"
        if sums:
            vendor.put("/SUMS", sums.encode())
        self.release = Release(
            name="test",
            title="",
            sgx="1",
            dcap="1",
            build=Build(
                "/build",
                (Source("a", source, "", 1, None, True), Source("b", source, "b", 1, None, True)),
                (),
                (),
            ),
            toolchain=Toolchain("old", ()),
            vendor=(VendorArchive("signed", signed, Artifact("SUMS", (url,))),),
            enclaves=(enclave("one"), enclave("two")),
            unpinned=(),
            notes=(),
            file="test.toml",
        )


REPACKED = "a63bf07f9832ca88b773765f35f93753b1b9d40d988afb50e2a97f8a8d51cbf2"
GOOD_SUMS = f"{sha256(ORIGINAL)}  s.tar.gz\n"


def test_sources_are_fetched_once_each(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path)
    sources = fetch_sources(place.release, place.fetcher)
    assert sorted(sources) == ["a", "b"]
    assert sources["a"].path.read_bytes() == SOURCE
    assert len(vendor.asked("/a.tar.gz")) == 1


@pytest.mark.parametrize("folder", ["", "linux/", "./"])
def test_signed_enclaves_are_fetched_checked_and_read(
    vendor: VendorServer, tmp_path: Path, folder: str
) -> None:
    place = Place(vendor, tmp_path, f"{'cd' * 32}  other\n{sha256(ORIGINAL)}  {folder}s.tar.gz\n")
    archives = fetch_signed(place.release, place.fetcher)
    assert archives["signed"].note == ""
    assert read_signed_enclaves(place.release, archives) == SIGNED
    path = archives["signed"].fetched.path
    path.chmod(0o644)
    path.write_bytes(SOURCE)
    with pytest.raises(DigestError, match="changed after it was checked"):
        read_signed_enclaves(place.release, archives)


def test_vendors_list_that_disagrees_is_an_error(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path, f"{'cd' * 32}  s.tar.gz\n")
    with pytest.raises(DigestError, match="vendor's checksums file gives") as caught:
        fetch_signed(place.release, place.fetcher)
    assert sha256(ORIGINAL) in str(caught.value)
    assert "cd" * 32 in str(caught.value)


@pytest.mark.parametrize(
    ("sums", "words"), [("", "is not here"), (f"{'cd' * 32}  other\n", "does not name")]
)
def test_what_was_not_cross_checked_is_noted(
    vendor: VendorServer, tmp_path: Path, sums: str, words: str
) -> None:
    place = Place(vendor, tmp_path, sums)
    archives = fetch_signed(place.release, place.fetcher)
    assert words in archives["signed"].note


def test_a_list_that_lies_here_is_bounded(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path / "cache")
    (tmp_path / "SUMS").write_bytes(b"a" * (1 << 21))
    with pytest.raises(LimitError, match="too large"):
        fetch_signed(place.release, replace(place.fetcher, local=tmp_path))


def test_without_sources_or_network(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path, GOOD_SUMS)
    offline = Fetcher(tmp_path, None)
    with pytest.raises(FetchError, match="not in the cache"):
        fetch_signed(place.release, offline)
    fetch_signed(place.release, place.fetcher)
    again = fetch_signed(place.release, offline)
    assert again["signed"].fetched.url is None
    bare = Release(**{**place.release.__dict__, "build": None})
    with pytest.raises(CatalogueError, match=r"no sources of its own.*built in: other"):
        fetch_sources(bare, place.fetcher)


def test_missing_member_is_an_error(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path / "cache")
    less = tm.write(tmp_path, tm.file("psw/libsgx_one.signed.so", SIGNED["one"]))
    with pytest.raises(ArchiveError, match="libsgx_two"):
        read_signed_enclaves(place.release, {"signed": here(less)})


def here(path: Path) -> SignedArchive:
    data = path.read_bytes()
    return SignedArchive(Fetched(path, sha256(data), len(data), pinned=True))


def repacked(
    release: Release, path: Path, original: Optional[Path] = None
) -> tuple[SignedFiles, Stage]:
    """What is taken of a repack, and what is said of that."""
    found, stage = SignedFiles(), Stage("repack")
    whole = here(original).fetched if original is not None else None
    take_repack(found, stage, release, release.vendor[0], path, path.name, whole)
    return found, stage


def data_of(found: SignedFiles) -> dict[str, bytes]:
    return {name: file.data for name, file in found.files.items()}


def foreign(stage: Stage) -> list[Optional[str]]:
    assert (stage.state is StageState.REFUSED) == bool(stage.findings)
    return [finding.found for finding in stage.findings]


def test_repack_is_proved_member_by_member(vendor: VendorServer, tmp_path: Path) -> None:
    release = Place(vendor, tmp_path / "cache").release
    original = tmp_path / "original.tar.gz"
    original.write_bytes(ORIGINAL)
    faithful = tm.write(
        tmp_path,
        tm.file("psw/libsgx_one.signed.so", SIGNED["one"]),
        tm.file("psw/libsgx_two.signed.so", SIGNED["two"]),
    )
    found, stage = repacked(release, faithful, original)
    assert (data_of(found), found.to_prove, foreign(stage)) == (SIGNED, set(), [])
    assert "2 of 2 members are the vendor's" in stage.detail

    tampered = tm.write(
        tmp_path,
        tm.file("psw/libsgx_one.signed.so", SIGNED["one"]),
        tm.file("psw/libsgx_two.signed.so", b"tampered"),
    )
    _found, stage = repacked(release, tampered, original)
    assert "1 of 2 members are the vendor's" in stage.detail
    assert foreign(stage) == ["'libsgx_two.signed.so'"]
    found, stage = repacked(release, tampered)
    assert (found.to_prove, foreign(stage)) == ({"one", "two"}, [])
    more = tm.write(
        tmp_path, tm.file("p/libsgx_one.signed.so", SIGNED["one"]), tm.file("p/evil", b"x")
    )
    assert foreign(repacked(release, more, original)[1]) == ["'evil'"]
    assert foreign(repacked(release, more)[1]) == ["'evil'"]
    # moved below another folder: the same bytes, though not the same archive
    moved = tm.write(tmp_path, tm.file("repack-1/libsgx_one.signed.so", SIGNED["one"]))
    found, stage = repacked(release, moved, original)
    assert (sorted(found.files), found.to_prove, foreign(stage)) == (["one"], set(), [])
    # what is left out is said to be so
    assert found.refused["two"][0] == "repack"
    assert repacked(release, moved)[0].to_prove == {"one"}


def test_repacks_that_prove_nothing_are_refused(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path / "cache")
    with pytest.raises(InputError, match="holds no enclave"):
        repacked(place.release, tm.write(tmp_path, tm.file("a")))
    twice = tm.write(
        tmp_path, tm.file("a/libsgx_one.signed.so"), tm.file("b/libsgx_one.signed.so", b"x")
    )
    with pytest.raises(InputError, match="2 times"):
        repacked(place.release, twice)
    fetched = here(twice).fetched
    twice.write_bytes(ORIGINAL)
    with pytest.raises(DigestError, match="changed after it was checked"):
        take_repack(
            SignedFiles(), Stage(""), place.release, place.release.vendor[0], fetched, "", None
        )


def pinned(release: Release, name: str, data: bytes) -> Release:
    enclaves = tuple(
        replace(item, signed_sha256=sha256(data)) if item.name == name else item
        for item in release.enclaves
    )
    return replace(release, enclaves=enclaves)


def test_a_pinned_enclave_is_proved_without_the_original(
    vendor: VendorServer, tmp_path: Path
) -> None:
    place = Place(vendor, tmp_path / "cache")
    release = pinned(place.release, "one", SIGNED["one"])
    both = tm.write(
        tmp_path,
        tm.file("x/libsgx_one.signed.so", SIGNED["one"]),
        tm.file("x/libsgx_two.signed.so", SIGNED["two"]),
    )
    found, stage = repacked(release, both)
    assert (data_of(found), found.to_prove, foreign(stage)) == (SIGNED, {"two"}, [])
    assert "1 of 2 members are the vendor's" in stage.detail
    wrong = pinned(place.release, "one", b"another")
    with pytest.raises(DigestError, match="signed one is not the file that the release pins"):
        repacked(wrong, both)
    original = tmp_path / "original.tar.gz"
    original.write_bytes(ORIGINAL)
    assert read_signed_enclaves(release, {"signed": here(original)}) == SIGNED
    with pytest.raises(DigestError, match="signed one is not the file that the release pins"):
        read_signed_enclaves(wrong, {"signed": here(original)})


def test_a_repack_is_the_same_each_time(vendor: VendorServer, tmp_path: Path) -> None:
    place = Place(vendor, tmp_path / "cache")
    names = {f"psw/libsgx_{name}.signed.so": data for name, data in SIGNED.items()}
    packed = pack_members(names)
    assert packed == pack_members(dict(reversed(names.items())))
    target = tmp_path / "repack.tar"
    target.write_bytes(packed)
    found = list_members(target)
    assert [member.name for member in found] == sorted(names)
    assert {(member.kind, member.mtime) for member in found} == {("f", 0)}
    # the very bytes: a change of Python's tarfile must not go unseen
    assert sha256(packed) == REPACKED
    original = tm.write(tmp_path, *(tm.file(name, data) for name, data in names.items()))
    taken, stage = repacked(place.release, target, original)
    assert (data_of(taken), foreign(stage)) == (SIGNED, [])
