# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages in files, and installed ones."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.errors import InputError, PackageDamagedError, PackageError, SgxEnclavesError
from sgx_enclaves.rpm.librpm import HEADER_MAGIC
from sgx_enclaves.rpm.payload import Opener, SharedOpener, installed, packed
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
        (folder / "root" / "usr" / "link").symlink_to("a")

    def write(self, files: list[RpmFile], **changes: Any) -> None:
        self.package.write_bytes(write_rpm(files, **changes))

    def files(self, opener: Opener) -> dict[str, bytes]:
        """Content of every file that has one of its own."""
        with opener(str(self.package)) as (_package, members):
            return {m.file.path: b"".join(m.chunks) for m in members}

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


def test_both_ways_give_the_same(tree: Tree) -> None:
    expected = {UNSIGNED: CASE.built, FILES[0].path: CASE.config, "/usr/b": b"shared"}
    expected["/usr/empty"] = b""
    assert tree.files(packed) == expected
    assert tree.files(partial(installed, tree.header, root=str(tree.folder / "root"))) == expected


def packages(folder: Path) -> dict[str, bytes]:
    """Three packages with a file each, by path; its content."""
    contents = {str(folder / f"{n}.rpm"): n.encode() * 300_000 for n in "abc"}
    for path, content in contents.items():
        Path(path).write_bytes(write_rpm([RpmFile("/usr/x", content), RpmFile("/usr/y", b"y")]))
    return contents


def all_of(opener: Opener, path: str) -> bytes:
    with opener(path) as (_package, members):
        return b"".join(b"".join(member.chunks) for member in members)


@pytest.mark.parametrize(
    ("order", "children"), [("abc", 1), ("acb", 2), ("cab", 2), ("aabc", 2), ("ccc", 3)]
)
def test_one_child_for_several_packages(
    tmp_path: Path, order: str, children: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = packages(tmp_path)
    forks: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forks.append(1) or fork())  # type: ignore[func-returns-value]
    with SharedOpener() as opener:
        for path in contents:
            with opener(path):
                assert not forks
        opener.plan(contents)
        for letter in order:
            path = str(tmp_path / f"{letter}.rpm")
            assert all_of(opener, path) == contents[path] + b"y"
    assert len(forks) == children


@pytest.mark.parametrize("where", [-1, -40])
def test_a_damaged_package_does_not_hide_others(tmp_path: Path, where: int) -> None:
    first, *others = packages(tmp_path)
    data = bytearray(Path(first).read_bytes())
    data[where] ^= 1
    Path(first).write_bytes(data)
    with SharedOpener() as opener:
        for path in (first, *others):
            with opener(path):
                pass
        opener.plan([first, *others])
        with pytest.raises(SgxEnclavesError):
            all_of(opener, first)
        # Left in the middle.
        with opener(others[0]) as (_package, members):
            assert next(iter(members)).file.path == "/usr/x"
        assert all_of(opener, others[0]) == packages(tmp_path)[others[0]] + b"y"
        assert all_of(opener, others[1]) == packages(tmp_path)[others[1]] + b"y"
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_malformed_file_list_does_not_hide_others(tmp_path: Path) -> None:
    contents = packages(tmp_path)
    first, bad, last = contents
    Path(bad).write_bytes(write_rpm([RpmFile("/usr/x", b"x")], tags={1028: [1, 2]}))
    with SharedOpener() as opener:
        for path in contents:
            with opener(path):
                pass
        opener.plan(contents)
        assert all_of(opener, first) == contents[first] + b"y"
        with pytest.raises(PackageError, match="about FILESIZES"):
            all_of(opener, bad)
        assert all_of(opener, last) == contents[last] + b"y"


def test_other_content_is_refused(tree: Tree) -> None:
    place = Path(tree.places[UNSIGNED])
    header = tree.header

    def read() -> dict[str, bytes]:
        return tree.files(partial(installed, header, root=str(tree.folder / "root")))

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


def test_a_header_that_gives_one_file_two_contents_is_refused(tree: Tree) -> None:
    tree.write([*FILES[:3], replace(FILES[3], data=b"others")])
    with pytest.raises(PackageError, match="different contents"):
        tree.files(partial(installed, tree.header, root=str(tree.folder / "root")))


def test_a_reference_is_opened_once_for_an_enclave(tree: Tree) -> None:
    opened = []

    def opener(path: str) -> Any:
        opened.append(path)
        return packed(path)

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
    with pytest.raises(InputError, match="not a reference"):
        list(PackageReference(str(tree.package)).counterparts("/x/libsgx_pce.signed.so"))


def test_malformed_headers_of_a_database_are_refused(tree: Tree) -> None:
    for header in (tree.header[:-1], tree.header + b"?", b""):
        with pytest.raises(PackageError, match="malformed"):
            tree.files(partial(installed, header, root=str(tree.folder / "root")))


def test_hard_links_of_an_installed_package_are_named(tree: Tree) -> None:
    opener = partial(installed, tree.header, root=str(tree.folder / "root"))
    with opener("x") as (_package, members):
        links = {m.file.path: m.links for m in members}
    assert links["/usr/b"] == ("/usr/a",)
    assert "/usr/a" not in links


def test_links_of_an_installed_package_are_compared(tree: Tree) -> None:
    """A regular file in the place of a link: whoever follows the link gets that."""
    opener = partial(installed, tree.header, root=str(tree.folder / "root"))
    place = tree.folder / "root/usr/link"
    assert tree.files(opener)
    place.unlink()
    place.write_bytes(CASE.signed)
    with pytest.raises(PackageDamagedError, match="'/usr/link' is not what the package installed"):
        tree.files(opener)
    place.unlink()
    place.symlink_to("b")
    with pytest.raises(PackageDamagedError, match="'/usr/link' is not what the package installed"):
        tree.files(opener)
    place.unlink()
    with pytest.raises(PackageDamagedError, match="'/usr/link' is not what the package installed"):
        tree.files(opener)
