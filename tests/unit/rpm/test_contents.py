# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages whose files were unpacked elsewhere, and installed ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.errors import LimitError, PackageDamagedError, PackageError
from sgx_enclaves.rpm import reader as module
from sgx_enclaves.rpm.reader import (
    DEFAULT_PACKAGE_LIMITS,
    HEADER_MAGIC,
    Installed,
    Opener,
    PackageLimits,
    Unpacked,
    packed,
    parse_header,
)
from sgx_enclaves.rpm.references import PackageReference
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm

CASE = signed_enclave("2.25")
UNSIGNED = "/usr/x86_64-intel-sgx/lib64/libsgx_pce.so"
FILES = [
    RpmFile("/usr/share/pce/config.xml", CASE.config),
    RpmFile(UNSIGNED, CASE.built),
    RpmFile("/usr/a", b"shared", inode=7),
    RpmFile("/usr/b", b"shared", inode=7),
    RpmFile("/usr/ghost", b"", ghost=True),
    RpmFile("/usr/empty", b""),
    link("/usr/link", "a"),
]


class Tree:
    """A package file and its files, unpacked beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "x.rpm"
        self.write(FILES)
        self.places = {}
        for file in FILES:
            if file.mode >> 12 == 0o10 and not file.ghost:
                place = folder / "root" / file.path.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.data)
                self.places[file.path] = str(place)

    def write(self, files: list[RpmFile], **changes: Any) -> None:
        self.package.write_bytes(write_rpm(files, **changes))

    def files(self, opener: Opener) -> dict[str, bytes]:
        """Content of every file that has one of its own."""
        with opener(str(self.package), DEFAULT_PACKAGE_LIMITS) as (_package, members):
            return {
                m.file.path: b"".join(m.chunks())
                for m in members
                if m.has_content and not m.file.target
            }

    @property
    def header(self) -> bytes:
        """The main header as a database would hand it out."""
        data = self.package.read_bytes()
        start = data.rindex(HEADER_MAGIC)
        count, size = (int.from_bytes(data[start + i : start + i + 4], "big") for i in (8, 12))
        return data[start + 8 : start + 16 + 16 * count + size]


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_all_ways_give_the_same(tree: Tree) -> None:
    expected = {UNSIGNED: CASE.built, FILES[0].path: CASE.config, "/usr/b": b"shared"}
    assert tree.files(packed) == expected
    assert tree.files(Unpacked(tree.places)) == expected
    assert tree.files(Installed(tree.header, str(tree.folder / "root"))) == expected


def test_hard_links_are_named(tree: Tree) -> None:
    with Unpacked(tree.places)(str(tree.package), DEFAULT_PACKAGE_LIMITS) as (_package, members):
        links = {m.file.path: [f.path for f in m.links] for m in members}
    assert links["/usr/b"] == ["/usr/a"]
    assert "/usr/a" not in links


def test_unpacked_files_are_not_unpacked_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Iterator[object]:
        raise AssertionError

    monkeypatch.setattr(module, "read_payload", refuse)
    assert tree.files(Unpacked(tree.places))[UNSIGNED] == CASE.built
    with pytest.raises(AssertionError):
        tree.files(Unpacked({}))


@pytest.mark.parametrize("way", ["unpacked", "installed"])
def test_other_content_is_refused(tree: Tree, way: str) -> None:
    place = Path(tree.places[UNSIGNED])
    header = tree.header

    def read() -> dict[str, bytes]:
        if way == "unpacked":
            return tree.files(Unpacked(tree.places))
        return tree.files(Installed(header, str(tree.folder / "root")))

    place.write_bytes(CASE.built[:-1] + b"?")
    with pytest.raises(PackageDamagedError, match="digest of"):
        read()
    place.write_bytes(CASE.built + b"?")
    with pytest.raises(PackageDamagedError, match="another size"):
        read()
    place.unlink()
    with pytest.raises(PackageDamagedError, match="cannot be read"):
        read()
    os.mkfifo(place)
    with pytest.raises(PackageDamagedError, match="another size"):
        read()
    place.unlink()
    good = tree.folder / "good"
    good.write_bytes(CASE.built)
    place.symlink_to(good)
    with pytest.raises(PackageDamagedError, match="cannot be read"):
        read()


def test_a_damaged_payload_is_refused_though_the_copies_are_good(tree: Tree) -> None:
    data = bytearray(tree.package.read_bytes())
    data[-9] ^= 1
    tree.package.write_bytes(bytes(data))
    with pytest.raises(PackageDamagedError, match="digest of the payload"):
        tree.files(Unpacked(tree.places))
    tree.package.write_bytes(bytes(data[:-20]))
    with pytest.raises(PackageDamagedError, match="truncated"):
        tree.files(Unpacked(tree.places))


def test_without_a_payload_digest_the_package_file_counts(tree: Tree) -> None:
    wrong = dict.fromkeys(tree.places, "/nowhere")
    tree.write(FILES, tags={5092: None, 5093: None})
    assert tree.files(Unpacked(wrong))[UNSIGNED] == CASE.built
    tree.write(FILES)
    with pytest.raises(PackageDamagedError, match="cannot be read"):
        tree.files(Unpacked(wrong))


def test_a_header_that_gives_one_file_two_contents_is_refused(tree: Tree) -> None:
    tree.write([*FILES[:3], replace(FILES[3], data=b"others")])
    with pytest.raises(PackageError, match="different contents"):
        tree.files(Installed(tree.header, str(tree.folder / "root")))


def test_malformed_headers_of_a_database_are_refused(tree: Tree) -> None:
    header = tree.header
    limits = PackageLimits(header_size=10)
    with pytest.raises(PackageError):
        parse_header(header[:-1], "x", DEFAULT_PACKAGE_LIMITS)
    with pytest.raises(PackageError, match="behind the header"):
        parse_header(header + b"?", "x", DEFAULT_PACKAGE_LIMITS)
    with pytest.raises(LimitError):
        parse_header(header, "x", limits)
    assert parse_header(HEADER_MAGIC + header, "x", DEFAULT_PACKAGE_LIMITS).size == len(header) + 8


def test_a_reference_is_opened_once_for_an_enclave(tree: Tree) -> None:
    opened = []

    def opener(path: str, limits: PackageLimits) -> Any:
        opened.append(path)
        return packed(path, limits)

    reference = PackageReference(str(tree.package), opener=opener)
    assert len(opened) == 1
    assert list(reference.counterparts("/x/libsgx_qe3.signed.so")) == []
    assert len(opened) == 1
    (one,) = reference.counterparts("/x/libsgx_pce.signed.so.1")
    assert (one.data, one.config) == (CASE.built, CASE.config)
    assert len(opened) == 2


def test_a_config_behind_the_enclave_is_found(tree: Tree) -> None:
    tree.write([FILES[1], FILES[0]])
    (one,) = PackageReference(str(tree.package)).counterparts("/x/libsgx_pce.signed.so.1")
    assert (one.data, one.config) == (CASE.built, CASE.config)


def test_a_signed_file_of_an_unsigned_name_is_no_counterpart(tree: Tree) -> None:
    tree.write([FILES[0], RpmFile(UNSIGNED, CASE.signed)])
    assert list(PackageReference(str(tree.package)).counterparts("/x/libsgx_pce.signed.so")) == []


def test_in_a_database_the_last_entry_of_a_tag_counts(tree: Tree) -> None:
    """RPM puts the paths of a relocated package behind the original ones."""
    header = tree.header
    count, size = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
    index, store = header[8 : 8 + 16 * count], header[8 + 16 * count :]
    entry = b"".join(n.to_bytes(4, "big") for n in (1000, 6, size, 1))
    numbers = (count + 1).to_bytes(4, "big") + (size + 4).to_bytes(4, "big")
    changed = numbers + index + entry + store + b"new\0"
    assert parse_header(changed, "x", DEFAULT_PACKAGE_LIMITS).string(1000) == "new"
    tree.package.write_bytes(tree.package.read_bytes().replace(header, changed))
    with pytest.raises(PackageError, match="entry"):
        tree.files(packed)
