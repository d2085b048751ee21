# SPDX-License-Identifier: GPL-2.0-or-later
"""Kept results: used when whole and unchanged, and never otherwise."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Callable

import pytest

from sgx_enclaves.errors import BuildError, InputError
from sgx_enclaves.release.manifest import StepOutcome, StepRecord
from sgx_enclaves.release.store import StageStore, TreeProgress, input_key

INPUTS = {"a": 1, "b": ["x"]}


class Maker:
    """Fills a folder and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, into: Path) -> None:
        self.runs += 1
        (into / "sub").mkdir()
        (into / "one").write_bytes(b"one")
        (into / "sub" / "two").write_bytes(b"two")


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "work", lock_timeout=5)


def test_result_is_made_once(store: StageStore) -> None:
    make = Maker()
    first, second = (
        store.run("s", INPUTS, make),
        store.run("s", dict(reversed(INPUTS.items())), make),
    )
    assert (first.reused, second.reused, make.runs) == (False, True, 1)
    assert first.folder == second.folder
    assert (second.folder / "sub" / "two").read_bytes() == b"two"


def test_other_inputs_or_stages_are_other_results(store: StageStore) -> None:
    make = Maker()
    store.run("s", INPUTS, make)
    assert not store.run("s", {**INPUTS, "a": 2}, make).reused
    assert not store.run("t", INPUTS, make).reused
    assert input_key({"a": "1"}) != input_key({"a": 1})


def files_of(store: StageStore) -> Path:
    (folder,) = (store.root / "s").iterdir()
    return folder / "files"


def rewrite_record(folder: Path, key: str, value: object) -> None:
    path = folder.parent / "stage.json"
    record = json.loads(path.read_text("utf-8"))
    record[key] = value
    path.write_text(json.dumps(record), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "one").write_bytes(b"onE"), "one changed (expected sha256 "),
        (lambda f: (f / "one").unlink(), "one is missing"),
        (lambda f: (f / "sub" / "new").write_bytes(b""), "sub/new was added"),
        (lambda f: (f / "l").symlink_to("one"), "cannot be read whole"),
        (lambda f: os.mkfifo(f / "pipe"), "cannot be read whole"),
        (lambda f: (f.parent / "stage.json").unlink(), "cannot be read whole"),
        (lambda f: (f.parent / "stage.json").write_bytes(b""), "makes no sense"),
        (lambda f: (f.parent / "stage.json").write_bytes(b"[]"), "makes no sense"),
        (lambda f: (f.parent / "stage.json").write_bytes(b"\xff"), "makes no sense"),
        (lambda f: rewrite_record(f, "files", 7), "makes no sense"),
        (lambda f: rewrite_record(f, "form", 2), "another form"),
        (lambda f: rewrite_record(f, "key", "0" * 64), "another form"),
        (lambda f: rewrite_record(f, "inputs", {"a": 2}), "other inputs"),
        (lambda f: rewrite_record(f, "files", {}), "one was added"),
    ],
)
def test_changed_result_is_made_again(
    store: StageStore, spoil: Callable[[Path], object], words: str
) -> None:
    make = Maker()
    store.run("s", INPUTS, make)
    spoil(files_of(store))
    again = store.run("s", INPUTS, make)
    assert (again.reused, make.runs) == (False, 2)
    assert words in again.notice
    assert store.run("s", INPUTS, make).reused


def test_failed_stage_leaves_nothing(store: StageStore) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_bytes(b"half")
        raise BuildError("no")

    with pytest.raises(BuildError):
        store.run("s", INPUTS, fail)
    assert list((store.root / "s").iterdir()) == []
    assert not store.run("s", INPUTS, Maker()).reused


def test_what_a_killed_run_left_is_never_taken_and_goes_away(store: StageStore) -> None:
    store.run("s", INPUTS, Maker())
    final = files_of(store).parent
    left = final.with_name(f".{final.name}.abc")
    final.rename(left)
    final.symlink_to(left.name)
    again = store.run("s", INPUTS, Maker())
    assert (again.reused, again.notice) == (False, "")
    assert not left.exists()


def test_a_path_that_is_said_while_it_is_made_leads_there_afterwards(store: StageStore) -> None:
    said: list[Path] = []

    def make(into: Path) -> None:
        said.append(into / "log")
        said[0].write_bytes(b"text")

    kept = store.run("s", INPUTS, make)
    assert said == [kept.folder / "log"]
    assert said[0].read_bytes() == b"text"


def test_stage_may_make_no_links(store: StageStore) -> None:
    with pytest.raises(InputError, match="neither a file nor a directory"):
        store.run("s", INPUTS, lambda into: (into / "l").symlink_to("/etc/passwd"))
    assert list((store.root / "s").iterdir()) == []


def test_result_that_is_not_accepted_is_made_again(store: StageStore) -> None:
    store.run("s", INPUTS, Maker())
    assert store.run("s", INPUTS, Maker(), lambda _folder: True).reused
    again = store.run("s", INPUTS, Maker(), lambda folder: not folder.is_dir())
    assert not again.reused
    assert again.notice == ""


@pytest.mark.parametrize(
    ("garbage", "times"), [(b"[", 200_000), (b"\xff", 1), (b"7", 1), (b"{}", 1), (b" ", 17 << 20)]
)
def test_record_that_is_garbage_has_the_stage_made_again(
    store: StageStore, garbage: bytes, times: int
) -> None:
    store.run("s", INPUTS, Maker())
    (files_of(store).parent / "stage.json").write_bytes(garbage * times)
    again = store.run("s", INPUTS, Maker())
    assert not again.reused
    assert again.notice.startswith("the kept result of stage s is not used")


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


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{}", b'{"steps": [1], "configs": {}}', b"\xff"])
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


def test_no_progress_is_kept_without_a_directory(built_directory: Path) -> None:
    none = TreeProgress(None)
    none.add(STEP, built_directory)
    assert not none.resumed
    assert none.resume("prepare", built_directory) is None


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    said: list[str] = []
    store = StageStore(tmp_path, lock_timeout=20, say=said.append)
    make, inside, results = Maker(), threading.Event(), []

    def slow(into: Path) -> None:
        inside.set()
        threading.Event().wait(0.3)
        make(into)

    first = threading.Thread(target=lambda: results.append(store.run("s", INPUTS, slow)))
    first.start()
    assert inside.wait(10)
    results.append(store.run("s", INPUTS, make))
    first.join(10)
    assert make.runs == 1
    assert [line.partition(";")[0] for line in said] == ["another process builds the same"]
    assert sorted(kept.reused for kept in results) == [False, True]


def test_waiting_for_another_process_ends(tmp_path: Path) -> None:
    impatient = StageStore(tmp_path, lock_timeout=0.2)

    def nested(into: Path) -> None:
        with pytest.raises(InputError, match="another process"):
            impatient.run("s", INPUTS, Maker())
        (into / "x").write_bytes(b"")

    impatient.run("s", INPUTS, nested)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="work directory cannot be used"):
        StageStore(tmp_path / "file").run("s", INPUTS, Maker())
