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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, Optional

from sgx_enclaves import files
from sgx_enclaves.catalogue.records import Artifact
from sgx_enclaves.errors import FetchError


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """`SGX_ENCLAVES_CACHE`, else `sgx-enclaves` in the user's cache directory."""
    own = environ.get("SGX_ENCLAVES_CACHE")
    if own:
        return Path(own)
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/"), ".cache")
    return Path(base) / "sgx-enclaves"


def disk_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Word what the file system refuses; the disk being full most of all."""
    hint = "name another cache directory, then run again: what is here is kept"
    return files.disk_errors(path, "the cache", hint, FetchError)


class Partial:
    """A download that is not whole yet. The lock of its key must be held."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.part"
        self._note = folder / f"{key}.json"

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def origin(self) -> tuple[str, str]:
        """URL and validator of the bytes; empty when unknown, and they are of no use."""
        try:
            note = json.loads(self._note.read_text("utf-8"))
            url, validator = note["url"], note["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""
        return (url, validator) if isinstance(url, str) and isinstance(validator, str) else ("", "")

    def begin(self, url: str, validator: Optional[str]) -> None:
        """Start from nothing; the note goes first, so that no bytes are ever without it."""
        self.discard()
        self._note.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._note.with_suffix(".new")
        fresh.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")
        fresh.replace(self._note)

    def discard(self) -> None:
        """Forget the bytes, then the note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


class Cache:
    """A cache directory; it is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, artifact: Artifact, sha256: str = "") -> Path:
        """Where the file stays: by what it is looked for, else by the digest that it has."""
        kind, digest = "sha256", artifact.sha256 or sha256
        if artifact.sha256 is None and artifact.contents_sha256 is not None:
            kind, digest = "contents", artifact.contents_sha256
        return self.root / kind / digest[:2] / digest[2:]

    def partial(self, key: str) -> Partial:
        """The download of this key that is not whole."""
        return Partial(self.root / "partial", key)

    def store(self, partial: Partial, path: Path) -> Path:
        """Give a whole, digested file its final name, which `path_of` gave."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.path.chmod(0o444)
            partial.path.rename(path)
            files.sync(path.parent)
            partial.discard()
        return path

    def quarantine(self, path: Path, name: str, found: str) -> Path:
        """Put a file aside under its name and its true digest."""
        target = self.root / "quarantine" / f"{name}.{found[:16]}"
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return target

    @contextlib.contextmanager
    def lock(self, key: str, timeout: float, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of `Artifact.key`.

        Args:
            key: see above.
            timeout: seconds to wait for another process.
            waiting: called once if one must be waited for.

        Raises:
            FetchError: the other process took too long.
        """
        path = self.root / "locks" / f"{key}.lock"
        with contextlib.ExitStack() as held:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.locked(path, timeout, error=FetchError, waiting=waiting))
            yield
