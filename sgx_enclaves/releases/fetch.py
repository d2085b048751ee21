# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring a pinned file into the cache, or say why not.

The rules:

0. A file in the local folder is taken from there if it is the right one; a wrong one
   there is an error, since its user has put it there.
1. A file counts only when its SHA-256, or the digest of its contents, is the pinned
   one; if both are pinned, both. Without a pin the caller must ask for that by name,
   and the result says so.
2. Each place is tried a bounded number of times, then the next place.
3. What is here already is gone on with only if the server vouches by If-Range
   that it still has the same file. Pieces that do not fit are fetched anew once.
4. A file with a wrong digest is kept aside and told of. Another place may still
   have the right one (upstream was renamed, and archives that are made on demand
   carry the name); when none has, the wrong digest is the error.
5. Trouble with the local disk ends the job too; what is here stays for later.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

from sgx_enclaves.errors import DigestError, FetchError
from sgx_enclaves.releases.artifact import Artifact, Lookaside
from sgx_enclaves.releases.cache import Cache, Partial, disk_errors
from sgx_enclaves.releases.download import (
    DEFAULT_FETCH_SETTINGS,
    Download,
    Fetched,
    FetchSettings,
    PlaceFailedError,
    Tools,
    final_path,
)
from sgx_enclaves.releases.pins import Pins, check_pins
from sgx_enclaves.releases.progress import Event, Progress, silent
from sgx_enclaves.releases.transport import Transport


class Fetcher:
    """Fetches artifacts into one cache by one transport.

    Args:
        cache: where files are kept.
        transport: asks servers; None means offline.
        settings: see `FetchSettings`.
        progress: told how it goes.
        lookaside: a look-aside cache to ask first.
        local: a folder where files may lie already, under their names.
        sleep: for tests.
    """

    def __init__(
        self,
        cache: Cache,
        transport: Optional[Transport],
        settings: FetchSettings = DEFAULT_FETCH_SETTINGS,
        *,
        progress: Progress = silent,
        lookaside: Optional[Lookaside] = None,
        local: Optional[Path] = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._transport = transport
        self._settings = settings
        self._progress = progress
        self._lookaside = lookaside
        self._local = local
        self._sleep = sleep

    def fetch(self, artifact: Artifact, *, allow_unpinned: bool = False) -> Fetched:
        """Give the file from the cache, or bring it there.

        Args:
            artifact: what to fetch.
            allow_unpinned: accept a file whose digest nobody knows beforehand.

        Raises:
            DigestError: the file is not the pinned one; its message says where it is kept.
            FetchError: no place gave it, it is too large, offline, or the disk is full.
        """
        if not artifact.pinned and not allow_unpinned:
            raise FetchError(
                f"{artifact.filename} has no pinned digest",
                hint="pin its SHA-256 or that of its contents in the release, "
                "or allow unpinned files for this run",
            )
        hit = self._here(artifact) or self._cached(artifact)
        if hit is not None:
            return hit
        if self._transport is None:
            raise FetchError(
                f"{artifact.filename} is not in the cache, and the network is switched off",
                file=str(self._cache.root),
                expected=artifact.pin,
                hint="fetch it once without --offline, or put it into the folder of --local",
            )
        tools = Tools(self._cache, self._transport, self._settings, self._progress, self._sleep)
        with self._cache.lock(
            artifact.key,
            self._settings.lock_timeout,
            lambda: self._note(artifact, "another process is fetching this; waiting"),
        ):
            hit = self._cached(artifact)
            if hit is not None:
                return hit
            return self._from_places(artifact, tools)

    def _here(self, artifact: Artifact) -> Optional[Fetched]:
        """The file in the local folder, which is used there, not copied."""
        if self._local is None:
            return None
        path = self._local / artifact.filename
        if not path.is_file():
            return None
        with disk_errors(path):
            pins = check_pins(path, artifact)
        if not pins.hold:
            raise DigestError(
                "this is not the file that the release pins",
                file=str(path),
                expected=pins.expected,
                found=pins.found,
                hint="replace it, or take it away to have it fetched",
            )
        return _as_it_was_here(path, pins, artifact)

    def _cached(self, artifact: Artifact) -> Optional[Fetched]:
        if not artifact.pinned:
            return None
        path = final_path(self._cache, artifact, artifact.sha256 or "")
        with disk_errors(path):
            if not path.is_file():
                return None
            pins = check_pins(path, artifact)
        if pins.hold:
            return _as_it_was_here(path, pins, artifact)
        if pins.sha256 == artifact.sha256:
            raise DigestError(
                f"two pins of {artifact.filename} contradict each other",
                file=str(path),
                expected=pins.expected,
                found=pins.found,
                hint=f"the file has the pinned sha256 {pins.sha256}; correct the release",
            )
        bad = self._cache.quarantine(path, path.name[:16], pins.sha256)
        self._note(artifact, f"the file in the cache had gone bad; it is kept as {bad}")
        return None

    def _note(self, artifact: Artifact, text: str) -> None:
        self._progress(Event(artifact.filename, note=text))

    def _from_places(self, artifact: Artifact, tools: Tools) -> Fetched:
        partial = self._cache.partial(artifact.key)
        whole = self._whole_already(artifact, partial)
        if whole is not None:
            return whole
        places = (self._lookaside.urls(artifact) if self._lookaside else ()) + artifact.urls
        # go on where the last run stopped, not at the first place
        origin = partial.origin()
        if origin is not None and origin.url in places:
            places = (origin.url, *(url for url in places if url != origin.url))
        failures = []
        wrong: list[DigestError] = []
        for url in places:
            try:
                fetched = Download(tools, artifact, partial, url).run()
                return replace(fetched, rejected=tuple(str(error.file) for error in wrong))
            except DigestError as error:
                wrong.append(error)
                failures.append(f"{url}: {error.message}")
                self._note(artifact, str(error))
            except PlaceFailedError as failure:
                failures.append(f"{url}: {failure.reason}")
                self._note(artifact, failures[-1])
        if wrong:
            raise wrong[0]
        raise FetchError(
            f"{artifact.filename} could not be fetched from any of {len(places)} places: "
            + "; ".join(failures),
            hint=_hint(failures),
        )

    def _whole_already(self, artifact: Artifact, partial: Partial) -> Optional[Fetched]:
        """Take a part file that only lacked its final name when the last run ended."""
        if not partial.size() or not artifact.pinned:
            return None
        with disk_errors(partial.path):
            pins = check_pins(partial.path, artifact)
        if not pins.hold:
            return None
        path = self._cache.store(partial, final_path(self._cache, artifact, pins.sha256))
        return _as_it_was_here(path, pins, artifact)


def _as_it_was_here(path: Path, pins: Pins, artifact: Artifact) -> Fetched:
    return Fetched(
        path,
        pins.sha256,
        pins.size,
        None,
        artifact.pinned,
        contents_sha256=artifact.contents_sha256,
    )


def _hint(failures: list[str]) -> str:
    """The next step after no place gave the file."""
    if not failures:
        return "the release names no URL for it; add one in /etc/sgx-enclaves/releases.d"
    return "check the network and the proxy, or name a mirror with --lookaside"
