# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are read whole but bounded; locks, the disk's errors, digests of trees."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from typing import Callable, Optional

import pytest

from sgx_enclaves.errors import FetchError, InputError, LimitError
from sgx_enclaves.files import (
    digest_entries,
    digest_file,
    locked,
    read_file,
    sync,
    system_errors,
    tree_entries,
    write_file,
)


def test_a_small_file_costs_little_however_large_it_might_be(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 5000)
    tracemalloc.start()
    data = read_file(str(path), 512 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert data == b"x" * 5000
    assert peak < 1 << 20


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_up_to_the_limit_and_not_beyond(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    assert read_file(str(path), 100) == b"x" * size
    path.write_bytes(b"x" * 101)
    with pytest.raises(LimitError, match="too large"):
        read_file(str(path), 100)


def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_file(str(tmp_path / "pipe"), 1 << 20)


def test_what_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="no regular file"):
        read_file("/dev/zero", 1 << 20)


def test_a_directory_is_named_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_file(str(tmp_path), 1 << 20)


@pytest.mark.parametrize(("umask", "mode"), [(0o22, 0o644), (0o77, 0o600), (0o2, 0o664)])
def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_file(str(tmp_path / "x"), b"x")
        write_file(str(tmp_path / "program"), b"x", 0o777)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode
    assert (tmp_path / "program").stat().st_mode & 0o777 == 0o777 & ~umask
    assert sorted(os.listdir(tmp_path)) == ["program", "x"]


def test_a_lock_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    seen: list[str] = []
    with (
        locked(path, 1),
        pytest.raises(FetchError, match="another process has held this lock for 0 s") as caught,
        locked(path, 0.0, error=FetchError, waiting=lambda: seen.append("waiting")),
    ):
        pass
    assert caught.value.file == str(path)
    assert seen == ["waiting"]
    with locked(path, 0.0):
        pass


@pytest.mark.parametrize(
    ("number", "hint", "words"),
    [
        (errno.ENOSPC, "name another", "make room, or name another"),
        (errno.EDQUOT, None, "make room"),
        (errno.EACCES, "name another", "name another"),
        (errno.EACCES, None, None),
    ],
)
def test_what_the_disk_refuses_is_worded(
    number: int, hint: Optional[str], words: Optional[str]
) -> None:
    with (
        pytest.raises(FetchError, match="the cache cannot be used: no") as caught,
        system_errors("cache", "the cache cannot be used", hint=hint, error=FetchError),
    ):
        raise OSError(number, "no")
    assert caught.value.hint == words


def make_tree(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    (root / "a/run").write_text("#!")
    (root / "a/run").chmod(0o755)
    (root / "a.c").write_text("int a;")
    (root / "empty").mkdir()
    (root / "b").symlink_to("a")


def test_a_tree_has_one_digest_however_it_was_made(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_tree(tmp_path / name)
    first = tree_entries(tmp_path / "one")
    assert {entry.path: entry.kind for entry in first} == {
        **{"a": "d", "a.c": "f", "a/run": "x"},
        **{"b": "l", "empty": "d"},
    }
    digest = digest_entries(first)
    assert digest_entries(reversed(tree_entries(tmp_path / "two"))) == digest
    changes: list[Callable[[Path], object]] = [
        lambda root: (root / "a/run").chmod(0o644),
        lambda root: (root / "a.c").write_text("int b;"),
        lambda root: (root / "empty").rmdir(),
        lambda root: (root / "b").rename(root / "bb"),
        lambda root: (root / "a.c").rename(root / "c.c"),
    ]
    for number, change in enumerate(changes):
        root = tmp_path / f"changed{number}"
        make_tree(root)
        change(root)
        assert digest_entries(tree_entries(root)) != digest


def test_a_tree_with_anything_else_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file, a directory nor a link"):
        tree_entries(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "x/"])
def test_what_is_no_name_of_a_file_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_file(name, b"x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_on_the_disk_before_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    sync(tmp_path / "x")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "y")


def test_a_file_is_digested(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_file(tmp_path / "x").startswith("ba7816bf")
    assert digest_file(tmp_path / "x", "sha512").startswith("ddaf35a1")
