# SPDX-License-Identifier: GPL-2.0-or-later
"""The digest of an archive's contents: what it depends on, what not, what has none."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.errors import ArchiveError, DigestError, InputError, LimitError, SgxEnclavesError
from sgx_enclaves.files import Entry, digest_entries
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS
from sgx_enclaves.release.archive import read_contents, unpack_tree
from sgx_enclaves.release.fetch import check_pins
from tests.unit.release import tarmaker as tm

DOCS = Path(__file__).resolve().parents[3] / "docs" / "releases.md"


def hexed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def members(top: str = "top") -> list[bytes]:
    """A tree with one of each kind, an empty folder, and names that sort oddly."""
    return [
        tm.directory(f"{top}/"),
        tm.file(f"{top}/b.c", b"int b;"),
        tm.directory(f"{top}/b/"),
        tm.file(f"{top}/b/run", b"#!", mode=b"0000755\0"),
        tm.symlink(f"{top}/b/link", "../b.c"),
        tm.directory(f"{top}/empty/"),
        tm.file(f"{top}/Ä", b""),
    ]


# written out by hand from docs/releases.md; "b" before "b.c" before "b/…", "Ä" last
SERIALISED = (
    b"d\0b\0\0"
    b"f\0b.c\0" + hexed(b"int b;").encode() + b"\0"
    b"l\0b/link\0../b.c\0"
    b"x\0b/run\0" + hexed(b"#!").encode() + b"\0"
    b"d\0empty\0\0"
    b"f\0\xc3\x84\0" + hexed(b"").encode() + b"\0"
)
DIGEST = hexed(SERIALISED)


@pytest.mark.parametrize("packer", sorted(tm.PACKERS))
def test_the_digest_is_that_of_the_docs(tmp_path: Path, packer: str) -> None:
    path = tm.write(tmp_path, *members(), pack=tm.PACKERS[packer])
    contents = read_contents(path)
    assert contents.sha256 == DIGEST
    assert contents.archive_sha256 == hexed(path.read_bytes())
    assert contents.top == "top"
    assert [entry.path for entry in contents.entries] == [
        "b",
        "b.c",
        "b/link",
        "b/run",
        "empty",
        "Ä",
    ]


def test_the_docs_own_program_agrees(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert found is not None
    script = tmp_path / "contents.py"
    script.write_text(found[1], "utf-8")
    for parts in (members(), members("other")[1:], [tm.file("t/a/b/c")]):
        path = tm.write(tmp_path, *parts)
        printed = subprocess.run(
            [sys.executable, str(script), str(path)], capture_output=True, text=True, check=True
        ).stdout
        assert printed == read_contents(path).sha256 + "\n"


SAME: dict[str, list[bytes]] = {
    "other top folder": members("confidential-computing.sgx-1.0"),
    "top folder with a dot in front": members("./top"),
    "top folder not named": members()[1:],
    "other order": [members()[0], *reversed(members()[1:])],
    "folders that files imply left out": [m for n, m in enumerate(members()) if n not in (0, 2)],
    "folder named twice": [*members(), tm.directory("top/b")],
    "comment of git": [tm.pax("comment", b"0" * 40, b"g"), *members()],
    "times and owner": [tm.pax("mtime", b"12.5"), *members()],
    "other bits of the mode": [
        *members()[:3],
        tm.file("top/b/run", b"#!", mode=b"0006700\0"),
        *members()[4:],
    ],
}


@pytest.mark.parametrize("case", sorted(SAME))
def test_what_has_no_part_in_it(tmp_path: Path, case: str) -> None:
    assert read_contents(tm.write(tmp_path, *SAME[case])).sha256 == DIGEST


def swapped(number: int, *parts: bytes) -> list[bytes]:
    return [*members()[:number], *parts, *members()[number + 1 :]]


OTHER: dict[str, list[bytes]] = {
    "a byte": swapped(1, tm.file("top/b.c", b"int c;")),
    "a name": swapped(1, tm.file("top/c.c", b"int b;")),
    "executable": swapped(1, tm.file("top/b.c", b"int b;", mode=b"0000755\0")),
    "not executable": swapped(3, tm.file("top/b/run", b"#!")),
    "executable for others only": swapped(3, tm.file("top/b/run", b"#!", mode=b"0000655\0")),
    "link target": swapped(4, tm.symlink("top/b/link", "run")),
    "file for a link": swapped(4, tm.file("top/b/link", b"../b.c")),
    "no empty folder": swapped(5),
    "file for a folder": swapped(5, tm.file("top/empty", b"")),
    "a file less": members()[:-1],
    "a file more": [*members(), tm.file("top/more")],
    "an empty folder more": [*members(), tm.directory("top/b/more")],
    "one folder deeper": [tm.directory("a"), *members("a/top")],
}


@pytest.mark.parametrize("case", sorted(OTHER))
def test_every_change_of_the_tree_changes_it(tmp_path: Path, case: str) -> None:
    assert read_contents(tm.write(tmp_path, *OTHER[case])).sha256 != DIGEST


def test_fields_cannot_run_into_each_other() -> None:
    trees = [
        [Entry("d", "a", ""), Entry("d", "b", "")],
        [Entry("d", "a", "d")],
        [Entry("l", "a", "b")],
        [Entry("l", "ab", "")],
        [Entry("d", "ab", "")],
        [],
    ]
    assert len({digest_entries(tree) for tree in trees}) == len(trees)


REFUSED: dict[str, tuple[list[bytes], str]] = {
    "two top folders": ([*members(), tm.file("other/a")], "not below one top directory"),
    "second top folder, empty": (
        [*members(), tm.directory("other")],
        "not below one top directory",
    ),
    "file beside the top folder": ([*members(), tm.file("README")], "not below one top directory"),
    "file in place of the top folder": ([tm.file("top")], "not below one top directory"),
    "link as the top folder": ([tm.symlink("top", "b")], "not below one top directory"),
    "no top folder": ([tm.directory("./"), tm.file("./a")], "not below one top directory"),
    "a file twice": ([*members(), tm.file("top/b.c", b"int b;")], "there twice"),
    "a file twice, spelt otherwise": ([*members(), tm.file("./top/b.c")], "there twice"),
    "link over a file": ([*members(), tm.symlink("top/b.c", "b")], "there twice"),
    "file below a link": ([tm.symlink("top/l", "b"), tm.file("top/l/f")], "lies below"),
    "hard link": ([*members(), tm.header("top/h", flag=b"1", target="top/b.c")], "hard link"),
    "dot-dot": ([*members(), tm.file("top/../x")], "'..'"),
    "absolute": ([*members(), tm.file("/top/x")], "absolute"),
    "link out of the tree": ([*members(), tm.symlink("top/l", "../x")], "lead out"),
    "absolute link": ([*members(), tm.symlink("top/l", "/etc/passwd")], "lead out"),
    "device": ([*members(), tm.header("top/d", flag=b"3")], "device"),
    "only folders": ([tm.directory("top"), tm.directory("top/a")], "has no file"),
    "nothing": ([], "has no file"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_archives_without_such_a_digest(tmp_path: Path, case: str) -> None:
    parts, words = REFUSED[case]
    path = tm.write(tmp_path, *parts)
    with pytest.raises(ArchiveError, match=re.escape(words)) as caught:
        read_contents(path)
    assert caught.value.file == str(path)


def test_broken_archives_have_none(tmp_path: Path) -> None:
    whole = tm.write(tmp_path, *members(), pack=tm.PACKERS["gzip"]).read_bytes()
    path = tmp_path / "broken"
    for data in (whole[:-9], whole + b"more", gzip.decompress(whole)[:-1024], b"", b"PK\3\4"):
        path.write_bytes(data)
        with pytest.raises(ArchiveError):
            read_contents(path)
    with pytest.raises(LimitError, match="bomb"):
        large = tm.file("t/a", bytes(DEFAULT_ARCHIVE_LIMITS.ratio_grace + 1))
        read_contents(tm.write(tmp_path, large, pack=tm.PACKERS["gzip"]))
    with pytest.raises(InputError, match="no such file"):
        read_contents(tmp_path / "none")


def entries_of(root: Path) -> list[Entry]:
    """What lies on the disk, read without any of our code."""
    entries = []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                kind, value = "l", os.readlink(path)
            elif stat.S_ISDIR(mode):
                kind, value = "d", ""
            else:
                kind, value = "x" if mode & 0o100 else "f", hexed(path.read_bytes())
            entries.append(Entry(kind, str(path.relative_to(root)), value))
    return entries


NAMES = st.sampled_from(["a", "b", "b.c", "b-c", "ü", "sub", "sub/a", "sub/deep/b", "z"])
TREES = st.dictionaries(NAMES, st.tuples(st.sampled_from("fxdl"), st.binary(max_size=5)))


@given(tree=TREES, named=st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_unpacked_is_what_was_digested(
    tmp_path: Path, tree: dict[str, tuple[str, bytes]], named: bool
) -> None:
    parts = [tm.directory("top")] if named else []
    for name, (wanted, data) in tree.items():
        has_below = any(other.startswith(name + "/") for other in tree)
        kind = "d" if has_below else wanted
        parts.append(
            {
                "d": tm.directory(f"top/{name}"),
                "l": tm.symlink(f"top/{name}", "a"),
                "x": tm.file(f"top/{name}", data, mode=b"0000755\0"),
                "f": tm.file(f"top/{name}", data),
            }[kind]
        )
    path = tm.write(tmp_path, *parts, tm.file("top/always"))
    dest = tmp_path / "tree"
    shutil.rmtree(dest, ignore_errors=True)
    contents = read_contents(path)
    unpack_tree(path, dest, sha256=contents.archive_sha256)
    assert digest_entries(entries_of(dest)) == contents.sha256


@given(at=st.integers(0, 6000), byte=st.integers(0, 255))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_byte_changed_is_refused_or_changes_what_counts(
    tmp_path: Path, at: int, byte: int
) -> None:
    path = tm.write(tmp_path, *members())
    data = bytearray(path.read_bytes())
    # A checksum that begins with NUL: GNU tar and we read on behind it, Python's tarfile does not.
    assume((at % len(data) % 512, byte) != (148, 0))
    data[at % len(data)] = byte
    path.write_bytes(data)
    try:
        contents = read_contents(path)
    except SgxEnclavesError as error:
        assert error.file == str(path)
        return
    with tarfile.open(path) as tar:
        seen = {tuple(m.name.split("/")[1:]): m for m in tar if m.isfile()}
    for entry in contents.entries:
        if entry.kind in "fx":
            found = seen[tuple(entry.path.split("/"))]
            with tarfile.open(path) as tar:
                content = tar.extractfile(found)
                assert content is not None
                assert hexed(content.read()) == entry.value
            assert (entry.kind == "x") == bool(found.mode & 0o100)


def test_an_archive_changed_after_the_check_is_not_unpacked(tmp_path: Path) -> None:
    path = tm.write(tmp_path, *members())
    seen = read_contents(path).archive_sha256
    tm.write(tmp_path, *OTHER["a byte"])
    with pytest.raises(DigestError, match="changed after it was checked") as caught:
        unpack_tree(path, tmp_path / "tree", sha256=seen)
    assert caught.value.expected == f"sha256 {seen}"
    assert caught.value.found == f"sha256 {hexed(path.read_bytes())}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive.tar"]


def test_a_tail_that_the_decompressor_ignores_is_seen(tmp_path: Path) -> None:
    """Zeros behind a gzip stream change no content, but they change the file."""
    path = tm.write(tmp_path, *members(), pack=tm.PACKERS["gzip"])
    seen = read_contents(path)
    path.write_bytes(path.read_bytes() + bytes(10))
    assert read_contents(path).sha256 == seen.sha256
    assert read_contents(path).archive_sha256 == hexed(path.read_bytes()) != seen.archive_sha256
    with pytest.raises(DigestError):
        unpack_tree(path, tmp_path / "tree", sha256=seen.archive_sha256)


def test_one_time_for_all_files(tmp_path: Path) -> None:
    unpack_tree(tm.write(tmp_path, *members()), tmp_path / "tree", mtime=7)
    assert {(tmp_path / "tree" / name).stat().st_mtime for name in ("b.c", "b/run", "Ä")} == {7}


def test_pins_of_a_file(tmp_path: Path) -> None:
    path = tm.write(tmp_path, *members())
    sha256 = hexed(path.read_bytes())

    def pins(sha256: str | None, contents: str | None) -> tuple[bool, str, str]:
        checked = check_pins(path, Artifact("a", (), sha256, contents_sha256=contents))
        assert checked.size == path.stat().st_size
        return not checked.expected, checked.expected, checked.found

    zeros = "0" * 64
    assert pins(None, None) == pins(sha256, None) == pins(sha256, DIGEST) == (True, "", "")
    assert pins(None, DIGEST) == (True, "", "")
    assert pins(zeros, DIGEST) == (False, f"sha256 {zeros}", f"sha256 {sha256}")
    wrong = (False, f"contents_sha256 {zeros}", f"contents_sha256 {DIGEST}")
    assert pins(None, zeros) == pins(sha256, zeros) == wrong
    path.write_bytes(b"<html>")
    hold, expected, found = pins(None, DIGEST)
    assert (hold, expected) == (False, f"contents_sha256 {DIGEST}")
    assert found.startswith("contents_sha256 of nothing: ")
    assert "no tar archive" in found
    assert "found an XML file" in found


def test_git_archives_of_one_commit_agree(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    repository = tmp_path / "repository"
    (repository / "src").mkdir(parents=True)
    (repository / "src" / "a.c").write_text("int a;\n")
    (repository / "src" / "secret").write_text("left out\n")
    (repository / "configure").write_text("#!/bin/sh\n")
    (repository / "configure").chmod(0o755)
    (repository / "link").symlink_to("src/a.c")
    (repository / ".gitattributes").write_text("secret export-ignore\n")

    def git(*arguments: str) -> bytes:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, "-C", str(repository), *arguments]
        environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, check=True, env=environment).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    packers: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, lzma.compress]
    digests = set()
    for number, pack in enumerate(packers):
        path = tmp_path / f"{number}.tar"
        prefix = f"--prefix=name-{number}/"
        path.write_bytes(pack(git("archive", "--format=tar", prefix, "HEAD")))
        digests.add(read_contents(path).sha256)
        assert [e.path for e in read_contents(path).entries] == [
            ".gitattributes",
            "configure",
            "link",
            "src",
            "src/a.c",
        ]
    # the same tree by another packer, in another order, with other times and owners
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("src/a.c", "link", "configure", ".gitattributes"):
            info = tar.gettarinfo(str(repository / name), f"else/{name}")
            info.uid, info.uname, info.mtime = 12, "else", 5
            with (repository / name).open("rb") as content:
                tar.addfile(info, content if info.isfile() else None)
    (tmp_path / "other.tar").write_bytes(data.getvalue())
    digests.add(read_contents(tmp_path / "other.tar").sha256)
    assert len(digests) == 1
