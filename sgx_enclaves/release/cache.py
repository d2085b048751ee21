# SPDX-License-Identifier: GPL-2.0-or-later
"""The content-addressed cache of fetched files.

    DIR/sha256/ab/cdef…     whole files, named by their digest, read-only
    DIR/contents/ab/cdef…   archives of which only the contents are pinned, named by these
    DIR/partial/KEY.part    what a broken download left, with KEY.json beside it
    DIR/locks/KEY.lock      held while KEY is fetched
    DIR/quarantine/         files that were not what they should be

A file gets its final name only by a rename of a whole, synced, digested file,
and is digested again each time before it is used. Never opens a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from sgx_enclaves import files
from sgx_enclaves.errors import FetchError


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """`SGX_ENCLAVES_CACHE`, else `sgx-enclaves` in the user's cache folder."""
    own = environ.get("SGX_ENCLAVES_CACHE")
    if own:
        return Path(own)
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/"), ".cache")
    return Path(base) / "sgx-enclaves"


def disk_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Word what the file system refuses; the disk being full most of all."""
    hint = "name another cache directory, then run again: what is here is kept"
    return files.disk_errors(path, "the cache", hint, FetchError)


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a part file came from, so that they can be gone on with."""

    url: str
    validator: Optional[str]


class Partial:
    """A download that is not whole yet. The lock of its key must be held."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.part"
        self._note = folder / f"{key}.json"

    def size(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def origin(self) -> Optional[Origin]:
        """Where they came from; None when that is unknown and they are of no use."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            url, validator = note["url"], note["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if isinstance(url, str) and isinstance(validator, str):
            return Origin(url, validator)
        return None

    def begin(self, origin: Origin) -> None:
        """Start anew; the note goes first, so that no bytes are ever without it."""
        self.discard()
        self._note.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"url": origin.url, "validator": origin.validator})
        fresh = self._note.with_suffix(".new")
        fresh.write_text(text, "utf-8")
        fresh.replace(self._note)

    def discard(self) -> None:
        """Forget the bytes, then the note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


class Cache:
    """A cache folder; it is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, sha256: str) -> Path:
        """Where the file with this digest stands, or would."""
        return self.root / "sha256" / sha256[:2] / sha256[2:]

    def path_of_contents(self, contents_sha256: str) -> Path:
        """Where an archive with these contents stands, or would."""
        return self.root / "contents" / contents_sha256[:2] / contents_sha256[2:]

    def partial(self, key: str) -> Partial:
        """The download of this key that is not whole."""
        return Partial(self.root / "partial", key)

    def store(self, partial: Partial, path: Path) -> Path:
        """Give a whole, digested file its final name, which `path_of…` gave."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.path.chmod(0o444)
            partial.path.rename(path)
            files.sync(path.parent)
            partial.discard()
        return path

    def quarantine(self, path: Path, name: str, found: str) -> Path:
        """Put a file aside under its name and its true digest."""
        folder = self.root / "quarantine"
        target = folder / f"{name}.{found[:16]}"
        with disk_errors(target):
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return target

    @contextlib.contextmanager
    def lock(
        self,
        key: str,
        timeout: float,
        waiting: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[None]:
        """Hold the key's lock; the kernel lets go of it when the process ends, however.

        Args:
            key: see `Artifact.key`.
            timeout: seconds to wait for another process.
            waiting: called once if one must be waited for.
            sleep: for tests.

        Raises:
            FetchError: the other process took too long.
        """
        path = self.root / "locks" / f"{key}.lock"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = files.locked(path, timeout, error=FetchError, waiting=waiting, sleep=sleep)
        with contextlib.ExitStack() as stack:
            with disk_errors(path):
                stack.enter_context(lock)
            yield
