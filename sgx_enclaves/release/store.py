# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of stages, kept in a folder so that a broken run can go on.

    DIR/NAME/KEY/files/     what the stage made
    DIR/NAME/KEY/stage.json the stage's inputs, and each file's SHA-256
    DIR/locks/              held while a stage runs

KEY is a digest of the stage's inputs: other inputs are another stage. A result
gets its name by one rename when it is whole and synced. Before it is used again
every file is digested anew; one that changed, is missing or is new makes the
whole result worthless. That guards against accidents, and against a change of
the files alone; whoever may write the folder may forge a result with its record.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from sgx_enclaves.errors import DigestError, InputError
from sgx_enclaves.files import digest_file, read_file, write_file
from sgx_enclaves.release.sandbox import remove_tree

_FORM = 1
_MAX_RECORD = 16 << 20
_LOCK_POLL = 0.1
_NAME_DIGITS = 24


def input_key(inputs: Mapping[str, Any]) -> str:
    """A digest over inputs that JSON can write; the order of keys does not count."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """The result of a stage, as it was when it was recorded or last digested.

    Attributes:
        folder: where its files are.
        digests: path within the folder to SHA-256.
        reused: whether an earlier run made it.
        notice: why an earlier result could not be used; empty if there was none.
    """

    folder: Path
    digests: Mapping[str, str]
    reused: bool
    notice: str

    def read(self, name: str, limit: int) -> bytes:
        """A file's content, digested once more, so that no change in between goes unseen.

        Raises:
            InputError: there is no such file, or it cannot be read.
            DigestError: it changed.
        """
        path = str(self.folder / name)
        if name not in self.digests:
            raise InputError("the stage made no such file", file=path)
        data = read_file(path, limit)
        found = hashlib.sha256(data).hexdigest()
        if found != self.digests[name]:
            raise DigestError(
                "changed after it was recorded",
                file=path,
                expected=f"sha256 {self.digests[name]}",
                found=f"sha256 {found}",
                hint="find out who writes there, then run again",
            )
        return data


class StageStore:
    """A folder of kept results; it is made when first written to.

    Args:
        root: the folder.
        lock_timeout: seconds to wait for another process at the same stage.
        sleep: for tests.
    """

    def __init__(
        self,
        root: Path,
        lock_timeout: float = 4 * 3600.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root = root
        self._lock_timeout = lock_timeout
        self._sleep = sleep

    def run(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Kept:
        """Give the kept result for these inputs, or make it.

        Args:
            name: of the stage, a plain word.
            inputs: everything that the result depends on; digests, not files.
            make: fills the folder that it is given, which is new and empty.

        Raises:
            InputError: the folder cannot be written, or another process takes too long.
            SgxEnclavesError: from `make`; nothing is kept then.
        """
        key = input_key(inputs)
        with _disk_errors(self.root):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            (self.root / "locks").mkdir(exist_ok=True)
        with self._lock(f"{name}-{key}"):
            final = self._place(name, key)
            notice = ""
            if final.exists():
                kept, problem = _check(final, key)
                if kept is not None:
                    return Kept(final / "files", kept, True, "")
                notice = f"the kept result of stage {name} is not used: {problem}"
            with _disk_errors(final):
                _remove(final)
                # left by a run that was killed; nobody else has the lock
                for left in final.parent.glob(f".{final.name}.*"):
                    _remove(left)
                work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
            try:
                (work / "files").mkdir()
                make(work / "files")
                with _disk_errors(work):
                    made = _digest_tree(work / "files")
                    for file in made:
                        _sync(work / "files" / file)
                    record = {"form": _FORM, "key": key, "inputs": inputs, "files": made}
                    write_file(str(work / "stage.json"), json.dumps(record, indent=2).encode())
                    work.chmod(0o755)
                    work.rename(final)
                    _sync(final.parent)
            finally:
                if work.exists():
                    remove_tree(work)
            return Kept(final / "files", made, False, notice)

    def forget(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Remove the kept result for these inputs.

        Raises:
            InputError: it cannot be removed, or another process takes too long.
        """
        key = input_key(inputs)
        with self._lock(f"{name}-{key}"), _disk_errors(self.root):
            _remove(self._place(name, key))

    def _place(self, name: str, key: str) -> Path:
        """Part of the key is name enough; the record holds, and is held to, the whole."""
        return self.root / name / key[:_NAME_DIGITS]

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        path = self.root / "locks" / f"{name}.lock"
        with _disk_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + self._lock_timeout
            while True:
                try:
                    # the kernel lets go of it when the process ends, however
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise InputError(
                            f"another process has been at this for {self._lock_timeout:.0f} s",
                            file=str(path),
                            hint="wait for it or end it",
                        ) from None
                    self._sleep(_LOCK_POLL)
            yield
        finally:
            os.close(descriptor)


def _check(final: Path, key: str) -> tuple[Optional[dict[str, str]], str]:
    """The digests of a kept result, or why it is worth nothing."""
    try:
        record = json.loads(read_file(str(final / "stage.json"), _MAX_RECORD))
        recorded = dict(record["files"])
        if record["form"] != _FORM or record["key"] != key or input_key(record["inputs"]) != key:
            return None, "its record is of another form or for other inputs"
        found = _digest_tree(final / "files")
    except (InputError, OSError):
        return None, "it cannot be read whole"
    except (ValueError, KeyError, TypeError):
        return None, "its record makes no sense"
    problem = _difference(recorded, found)
    return (None, problem) if problem else (found, "")


def _difference(recorded: Mapping[str, str], found: Mapping[str, str]) -> str:
    """In what a folder is not as it was recorded; empty if it is."""
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in recorded:
            return f"{name} was added"
        if recorded[name] != found[name]:
            return f"{name} changed (expected sha256 {recorded[name]}, found sha256 {found[name]})"
    return ""


def _digest_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of each file; anything but files and folders is refused."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError("neither a file nor a folder", file=str(path))
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = digest_file(path)
    return found


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        remove_tree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the work folder cannot be used: {error.strerror or error}",
            file=str(path),
            hint="check the folder, its rights and the space left; --work names another",
        ) from None
