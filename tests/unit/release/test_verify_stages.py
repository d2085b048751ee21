# SPDX-License-Identifier: GPL-2.0-or-later
"""Kept builds: used when whole and unchanged, and never otherwise."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from sgx_enclaves.errors import BuildError, InputError
from sgx_enclaves.release.manifest import StepOutcome, StepRecord, write_manifest
from sgx_enclaves.release.store import BuildStore, TreeProgress
from sgx_enclaves.release.toolchain import digest_of
from tests.unit.release.test_manifest import CONFIG, UNSIGNED, sample

INPUTS = {"a": 1, "b": ["x"]}
MADE = sample()


class Maker:
    """Builds what a sample manifest says, and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, into: Path) -> None:
        self.runs += 1
        (into / "logs").mkdir()
        (into / "libsgx_pce.so").write_bytes(UNSIGNED)
        (into / "libsgx_pce.config.xml").write_bytes(CONFIG)
        write_manifest(into, MADE)


@pytest.fixture
def store(tmp_path: Path) -> BuildStore:
    return BuildStore(tmp_path / "work")


def reused(store: BuildStore, make: Callable[[Path], None], inputs: Any = INPUTS) -> bool:
    return store.build(inputs, make)[1]


def test_a_build_is_made_once(store: BuildStore) -> None:
    make = Maker()
    first, kept, _notice = store.build(INPUTS, make)
    second, kept_then, _notice = store.build(dict(reversed(INPUTS.items())), make)
    assert (kept, kept_then, make.runs) == (False, True, 1)
    assert first == second
    assert second.manifest == MADE
    assert [enclave.unsigned for enclave in second.enclaves] == [UNSIGNED]


def test_other_inputs_are_another_build(store: BuildStore) -> None:
    make = Maker()
    store.build(INPUTS, make)
    assert not reused(store, make, {**INPUTS, "a": 2})
    assert digest_of({"a": "1"}) != digest_of({"a": 1})


def test_a_build_of_other_inputs_in_its_place_is_not_used(store: BuildStore) -> None:
    make, other = Maker(), {**INPUTS, "a": 2}
    store.build(other, make)
    folder = files_of(store).parent
    folder.rename(folder.with_name(digest_of(INPUTS)[:24]))
    _built, kept, notice = store.build(INPUTS, make)
    assert (kept, make.runs) == (False, 2)
    assert "is of another build" in notice


def test_a_build_without_logs_is_kept(store: BuildStore) -> None:
    def make(into: Path) -> None:
        Maker()(into)
        (into / "logs").rmdir()

    assert not reused(store, make)
    assert reused(store, make)


def files_of(store: BuildStore) -> Path:
    (folder,) = (store.root / "build").iterdir()
    return folder / "files"


def rewrite(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("Old compilers", "New compilers"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "libsgx_pce.so").write_bytes(b"enclavE"), "not the file that the manifest"),
        (lambda f: (f / "libsgx_pce.so").unlink(), "cannot be read"),
        (lambda f: (f / "new").write_bytes(b""), "new: was added after the build"),
        (lambda f: (f / "l").symlink_to("/etc/passwd"), "was added after the build"),
        (lambda f: os.mkfifo(f / "pipe"), "was added after the build"),
        (rewrite, "manifest.json: was changed after the build"),
        (lambda f: (f / "logs" / "make.log").write_bytes(b"all well"), "as a log may be"),
        (lambda f: os.mkfifo(f / "logs" / "pipe"), "neither a file"),
        (lambda f: (f / "manifest.json").unlink(), "cannot be read"),
        (lambda f: (f / "manifest.json").write_bytes(b""), "was changed after the build"),
        (lambda f: (f.parent / "pin").unlink(), "cannot be read"),
        (lambda f: (f.parent / "pin").write_bytes(b""), "was changed after the build"),
        (lambda f: (f.parent / "pin").write_bytes(b"\xff" * 64), "was changed after the build"),
        (lambda f: (f.parent / "pin").write_bytes(b" " * (17 << 20)), "too large"),
    ],
)
def test_changed_build_is_made_again(
    store: BuildStore, spoil: Callable[[Path], object], words: str
) -> None:
    make = Maker()
    store.build(INPUTS, make)
    spoil(files_of(store))
    _built, kept, notice = store.build(INPUTS, make)
    assert (kept, make.runs) == (False, 2)
    assert notice.startswith("the kept build is not used: ")
    assert words in notice
    assert reused(store, make)


def test_a_file_that_is_a_link_is_not_used(store: BuildStore, tmp_path: Path) -> None:
    """The bytes are the same now, and may be others when they are read again."""
    store.build(INPUTS, Maker())
    file = files_of(store) / "libsgx_pce.so"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    _built, _kept, notice = store.build(INPUTS, Maker())
    assert "was added" in notice


def test_failed_build_leaves_nothing(store: BuildStore) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_bytes(b"half")
        raise BuildError("no")

    with pytest.raises(BuildError):
        store.build(INPUTS, fail)
    assert list((store.root / "build").iterdir()) == []
    assert not reused(store, Maker())


def test_what_a_killed_run_left_is_never_taken_and_goes_away(store: BuildStore) -> None:
    store.build(INPUTS, Maker())
    final = files_of(store).parent
    left = final.with_name(f".{final.name}.abc")
    final.rename(left)
    final.symlink_to(left.name)
    _built, *said = store.build(INPUTS, Maker())
    assert said == [False, ""]
    assert not left.exists()


def test_a_path_that_is_said_while_it_is_made_leads_there_afterwards(store: BuildStore) -> None:
    said: list[Path] = []

    def make(into: Path) -> None:
        Maker()(into)
        said.append(into / "logs" / "log")
        said[0].write_bytes(b"text")

    built, _kept, _notice = store.build(INPUTS, make)
    assert said == [built.directory / "logs" / "log"]
    assert said[0].read_bytes() == b"text"


def test_build_that_is_not_accepted_is_made_again(store: BuildStore) -> None:
    store.build(INPUTS, Maker())
    _built, kept, _notice = store.build(INPUTS, Maker(), lambda _built: True)
    assert kept
    _built, *said = store.build(INPUTS, Maker(), lambda built: built.enclave("pce") is None)
    assert said == [False, ""]


STEP = StepRecord("prepare", None, StepOutcome.OK, 12, "logs/prepare.log", None)


@pytest.fixture
def built_directory(tmp_path: Path) -> Path:
    into = tmp_path / "into"
    (into / "logs").mkdir(parents=True)
    (into / "logs" / "prepare.log").write_text("its log")
    return into


def test_progress_is_read_by_the_next_run(tmp_path: Path, built_directory: Path) -> None:
    first = TreeProgress(tmp_path / "progress")
    assert not first.resumed
    first.add(None, built_directory)
    first.configs["pce"] = b"<xml/>"
    first.add(STEP, built_directory)
    (built_directory / "logs" / "prepare.log").unlink()
    second = TreeProgress(tmp_path / "progress")
    assert second.resumed
    assert second.configs == {"pce": b"<xml/>"}
    assert second.resume("other", built_directory) is None
    assert second.resume("prepare", built_directory) == STEP
    assert (built_directory / "logs" / "prepare.log").read_text() == "its log"


ENDLESS = b'{"steps": [{"milliseconds": 1e999}], "configs": {}}'
NULLS = b'{"steps": [null], "configs": {}}'
GARBAGE = [b"", b"[]", b"{}", b'{"steps": [1], "configs": {}}', b"\xff", ENDLESS, NULLS]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_progress_that_is_garbage_is_none(
    tmp_path: Path, built_directory: Path, garbage: bytes
) -> None:
    first = TreeProgress(tmp_path / "progress")
    first.add(STEP, built_directory)
    path = tmp_path / "progress" / "progress.json"
    good = path.read_bytes()
    assert b'"configs": {}' in good
    path.write_bytes(garbage or good.replace(b'"configs": {}', b'"configs": {"pce": "no hex"}'))
    second = TreeProgress(tmp_path / "progress")
    assert not second.resumed
    assert second.resume("prepare", built_directory) is None


def test_a_step_whose_log_is_gone_is_done_again(tmp_path: Path, built_directory: Path) -> None:
    TreeProgress(tmp_path / "progress").add(STEP, built_directory)
    (tmp_path / "progress" / "prepare.log").unlink()
    assert TreeProgress(tmp_path / "progress").resume("prepare", built_directory) is None


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    said: list[str] = []
    store = BuildStore(tmp_path, said.append)
    make, inside, results = Maker(), threading.Event(), []

    def slow(into: Path) -> None:
        inside.set()
        threading.Event().wait(0.3)
        make(into)

    first = threading.Thread(target=lambda: results.append(store.build(INPUTS, slow)))
    first.start()
    assert inside.wait(10)
    results.append(store.build(INPUTS, make))
    first.join(10)
    assert make.runs == 1
    assert [line.partition(";")[0] for line in said] == ["another process builds the same"]
    assert sorted(kept for _built, kept, _notice in results) == [False, True]


def test_waiting_for_another_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgx_enclaves.release.store._LOCK_TIMEOUT", 0.2)
    impatient = BuildStore(tmp_path)

    def nested(into: Path) -> None:
        with pytest.raises(InputError, match="another process"):
            impatient.build(INPUTS, Maker())
        Maker()(into)

    impatient.build(INPUTS, nested)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="work directory cannot be used"):
        BuildStore(tmp_path / "file").build(INPUTS, Maker())
