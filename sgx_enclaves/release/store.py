# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds, and how far a build has come, that are kept for the next run:

    DIR/build/KEY/files/    the built directory
    DIR/build/KEY/pin       a digest of KEY, the logs, and the manifest, which has the files'
    DIR/trees/SUBJECT/KEY/  what a build that ended too early may resume in
    DIR/locks/              held while a build runs

KEY is a digest of everything that the result depends on. A build gets its name by one rename
when it is whole. Before it is used again every file is digested again; one that changed, is
missing or is new makes the whole worthless. That guards against accidents, and against a change
of the files alone; whoever may write the directory may forge a build with its manifest and pin.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from sgx_enclaves import files
from sgx_enclaves.errors import FormatError, ManifestError, SgxEnclavesError
from sgx_enclaves.plain import as_plain, from_plain, parse_json
from sgx_enclaves.release.manifest import LOGS, MANIFEST, Built, StepRecord, load_built
from sgx_enclaves.release.outcome import Say
from sgx_enclaves.release.sandbox import remove_tree
from sgx_enclaves.release.toolchain import digest_of

_PIN = "pin"
_MAX_RECORD = 16 << 20
_NAME_DIGITS = 24
_PROGRESS = "progress.json"
_LOCK_TIMEOUT = 4 * 3600.0
# what plain data give that are no progress
_OTHER_FORM = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


class BuildStore:
    """A directory of kept builds; it waits for another process at the same build, and says so."""

    def __init__(self, root: Path, say: Say = lambda _text: None) -> None:
        # paths in it are said to people
        self.root = Path(os.path.abspath(root))
        self._say = say

    def trees_place(self, subject: str, inputs: Mapping[str, Any]) -> Path:
        """Where the trees of a build are; see `trees`."""
        return self.root / "trees" / subject / digest_of(inputs)[:_NAME_DIGITS]

    @contextmanager
    def trees(self, subject: str, inputs: Mapping[str, Any]) -> Iterator[Path]:
        """Hold the directory that keeps a build's trees; the subject's trees of other inputs go."""
        own = self.trees_place(subject, inputs)
        with self._held(f"trees-{own.name}"):
            for other in {*own.parent.glob("*")} - {own}:
                # another process may be at work there
                with suppress(SgxEnclavesError), self._held(f"trees-{other.name}", wait=False):
                    remove_tree(other)
            yield own
            for empty in (own, own.parent):
                with suppress(OSError):
                    empty.rmdir()

    def _held(self, name: str, *, wait: bool = True) -> AbstractContextManager[None]:
        path = self.root / "locks" / f"{name}.lock"
        waiting = partial(self._say, f"another process builds the same; waiting for it ({path})")
        most, said = (_LOCK_TIMEOUT, waiting) if wait else (0.0, None)
        return files.locked(path, most, opening=_disk_errors(self.root), waiting=said)

    def build(
        self,
        inputs: Mapping[str, Any],
        make: Callable[[Path], object],
        accept: Callable[[Built], bool] = lambda _built: True,
    ) -> tuple[Built, bool, str]:
        """The kept build for these inputs if it is accepted, else one that is made now; whether it
        was kept, and why one that was kept could not be used, if so.

        `inputs` are all that it depends on, digests, not files. `make` fills the directory that it
        is given, which is new and empty; if it raises, nothing is kept.
        """
        key = digest_of(inputs)
        # part of the key is name enough; the pin holds the whole
        final, notice = self.root / "build" / key[:_NAME_DIGITS], ""
        with self._held(f"build-{final.name}"), _disk_errors(self.root):
            final.parent.mkdir(parents=True, exist_ok=True)
            # a link is of a run that was killed
            if final.exists() and not final.is_symlink():
                try:
                    built = _load(final, key)
                    if accept(built):
                        return built, True, ""
                except SgxEnclavesError as error:
                    notice = f"the kept build is not used: {error}"
            _make(final, key, make)
            return _load(final, key), False, notice


class TreeProgress:
    """How far a tree's build has come, kept with the logs of the finished steps, so that a later
    run resumes at the step that failed; guarded against accidents only, as the kept results are.

    `resumed` says whether the sources lie there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.steps: dict[str, StepRecord] = {}
        self.configs: dict[str, bytes] = {}
        self.resumed = False
        path = str(folder / _PROGRESS)
        with suppress(SgxEnclavesError, OSError, *_OTHER_FORM):
            folder.mkdir(parents=True, exist_ok=True)
            kept = parse_json(files.read_file(path, _MAX_RECORD), file=path, error=FormatError)
            steps = (from_plain(StepRecord, step) for step in kept["steps"])
            finished = {step.id: step for step in steps}
            self.configs = {name: bytes.fromhex(text) for name, text in kept["configs"].items()}
            self.steps, self.resumed = finished, True

    def resume(self, step: str, into: Path) -> Optional[StepRecord]:
        """The record of a step that an earlier run finished, its log brought into `into`."""
        record = self.steps.get(step)
        if record is not None and record.log is not None:
            log = self._folder / Path(record.log).name
            if not log.is_file():
                return None
            shutil.copyfile(log, into / record.log)
        return record

    def add(self, step: Optional[StepRecord], into: Path) -> None:
        """Note that a step was finished; None that the sources lie there."""
        with self._lock:
            if step is not None:
                self.steps[step.id] = step
                if step.log is not None:
                    shutil.copyfile(into / step.log, self._folder / Path(step.log).name)
            plain = {"steps": tuple(self.steps.values()), "configs": self.configs}
            files.write_file(str(self._folder / _PROGRESS), json.dumps(as_plain(plain)).encode())


def _make(final: Path, key: str, make: Callable[[Path], object]) -> None:
    """Make a build beside its place, to which its name is a link until it is whole.

    So a path that is said while it is made, such as a log's, leads there afterwards too.
    """
    # those with a dot were left by a run that was killed; nobody else has the lock
    for left in (final, *final.parent.glob(f".{final.name}.*")):
        remove_tree(left)
    work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    final.symlink_to(work.name)
    try:
        (work / "files").mkdir()
        make(final / "files")
        files.write_file(str(work / _PIN), _pin(work, key).encode())
        work.chmod(0o755)
        final.unlink()
        work.rename(final)
        files.sync(final.parent)
    finally:
        if work.exists():
            final.unlink(missing_ok=True)
            remove_tree(work)


def _pin(folder: Path, key: str) -> str:
    manifest = files.sha256_of(files.read_file(str(folder / "files" / MANIFEST), _MAX_RECORD))
    logs = folder / "files" / LOGS
    # a build that never came to its first step has none
    entries = files.tree_entries(logs) if logs.exists() else ()
    return digest_of({"key": key, "manifest": manifest, "logs": files.digest_entries(entries)})


def _load(folder: Path, key: str) -> Built:
    """A kept build of that key, if it is whole and unchanged; an error of ours otherwise."""
    if _pin(folder, key).encode() != files.read_file(str(folder / _PIN), 64):
        words = "was changed after the build, as a log may be, or is of another build"
        raise ManifestError(words, file=str(folder / "files" / MANIFEST))
    built = load_built(folder / "files")
    records = [r for e in built.manifest.enclaves for r in (e.unsigned, e.config, e.unstripped)]
    known = {MANIFEST, LOGS, *(record.file for record in records if record is not None)}
    for path in built.directory.iterdir():
        if path.name not in known or path.is_symlink():
            raise ManifestError("was added after the build", file=str(path))
    return built


def _disk_errors(path: Path) -> AbstractContextManager[None]:
    hint = "check the directory and its rights; --work names another"
    return files.system_errors(str(path), "the work directory cannot be used", hint=hint)
