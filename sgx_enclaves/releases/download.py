# SPDX-License-Identifier: GPL-2.0-or-later
"""The attempts to get one file from one place.

Knows when to try again, when to go on and when to begin anew; see the rules in
`fetch`. Never chooses between places.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Optional

from sgx_enclaves.errors import DigestError, FetchError
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.cache import Cache, Origin, Partial, disk_errors
from sgx_enclaves.releases.pins import check_pins
from sgx_enclaves.releases.progress import Event, Progress
from sgx_enclaves.releases.transport import (
    RangeRefusedError,
    Response,
    RetryableError,
    Transport,
)


@dataclass(frozen=True)
class FetchSettings:
    """How patient to be; times in seconds.

    Attributes:
        attempts: requests to one place.
        backoff: wait before the second request; doubled each time.
        backoff_max: longest wait, whatever the server asks for.
        total_timeout: for one request with its content.
        min_rate: bytes a second that a server must give, on average over `rate_window`.
        rate_window: see above.
        lock_timeout: to wait for another process that fetches the same file.
        max_size: bytes of a file, whatever the release allows; None for no bound besides.
    """

    attempts: int = 4
    backoff: float = 1.0
    backoff_max: float = 30.0
    total_timeout: float = 3600.0
    min_rate: int = 1024
    rate_window: float = 30.0
    lock_timeout: float = 3600.0
    max_size: Optional[int] = None


DEFAULT_FETCH_SETTINGS = FetchSettings()


@dataclass(frozen=True)
class Fetched:
    """A file that is here, whole, with the digest that was asked for.

    Attributes:
        path: in the cache; read-only.
        sha256: its digest.
        size: bytes.
        url: where it came from; None if it was here already.
        pinned: whether the digest, or that of its contents, was known beforehand.
        rejected: files from other places that had a wrong digest, in the quarantine.
        contents_sha256: the pin of its contents, which it fulfils; None without one.
    """

    path: Path
    sha256: str
    size: int
    url: Optional[str]
    pinned: bool
    rejected: tuple[str, ...] = ()
    contents_sha256: Optional[str] = None


@dataclass(frozen=True)
class Tools:
    """What a download works with.

    Attributes:
        cache: where files go.
        transport: asks the servers.
        settings: see `FetchSettings`.
        progress: told how it goes.
        sleep: waits a number of seconds.
    """

    cache: Cache
    transport: Transport
    settings: FetchSettings
    progress: Progress
    sleep: Callable[[float], None]


class PlaceFailedError(Exception):
    """This place will not give the file; the next may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Download:
    """The attempts to get one file from one place; the lock of its key must be held."""

    def __init__(self, tools: Tools, artifact: Artifact, partial: Partial, url: str) -> None:
        self._tools = tools
        self._artifact = artifact
        self._partial = partial
        self._url = url
        self._pieces = 0

    def run(self) -> Fetched:
        """Get the file.

        Raises:
            PlaceFailedError: this place will not give it.
            DigestError: it is not the pinned one.
            FetchError: the local disk is in the way.
        """
        settings = self._tools.settings
        wait = settings.backoff
        reason = ""
        for attempt in range(settings.attempts):
            if attempt:
                self._tell(f"{reason}; trying again in {wait:g} s")
                self._tools.sleep(wait)
            try:
                self._request()
                fetched = self._judge()
            except RetryableError as error:
                reason = str(error)
                if isinstance(error, RangeRefusedError):
                    with disk_errors(self._partial.path):
                        self._partial.discard()
                asked = max(settings.backoff * 2**attempt, error.retry_after)
                wait = min(settings.backoff_max, asked)
                continue
            except FetchError as error:
                if error.file is not None:  # the local disk, not the place
                    raise
                raise PlaceFailedError(str(error)) from None
            if fetched is not None:
                return fetched
            reason = "the pieces did not fit together"
        raise PlaceFailedError(f"{reason} ({settings.attempts} attempts)")

    def _tell(self, text: str) -> None:
        self._tools.progress(Event(self._artifact.filename, note=text))

    def _request(self) -> None:
        """Ask once, and add what comes to the part file."""
        origin = self._partial.origin()
        have = self._partial.size()
        if origin is None or origin.url != self._url or not have:
            have, origin = 0, None
        response = self._tools.transport.open(
            self._url, have, origin.validator if origin is not None else None
        )
        self._check_size(response)
        path = self._partial.path
        with disk_errors(path):
            if response.start == 0 or response.start != have:
                self._partial.begin(Origin(self._url, response.validator))
                self._pieces = 1
            else:
                self._pieces = 2
                self._tell(f"going on at byte {have}")
            self._check_room(response)
        with disk_errors(path), path.open("ab") as out:
            try:
                self._receive(response, out)
            finally:
                out.flush()
                os.fsync(out.fileno())

    def _check_size(self, response: Response) -> None:
        artifact = self._artifact
        if response.total is None:
            return
        if artifact.size is not None and response.total != artifact.size:
            raise FetchError(
                "the server's file has another size",
                expected=f"{artifact.size} bytes",
                found=f"{response.total} bytes",
            )
        most = self._max_size()
        if response.total > most:
            raise FetchError(
                "the file is too large",
                expected=f"at most {most} bytes",
                found=f"{response.total} bytes",
            )

    def _max_size(self) -> int:
        """The release's bound, and the user's."""
        own = self._tools.settings.max_size
        return self._artifact.max_size if own is None else min(own, self._artifact.max_size)

    def _check_room(self, response: Response) -> None:
        if response.total is None:
            return
        need = response.total - response.start
        room = shutil.disk_usage(self._partial.path.parent).free
        if need > room:
            raise FetchError(
                "no room left for the file",
                file=str(self._partial.path),
                expected=f"{need} bytes",
                found=f"{room} bytes",
                hint="make room or choose another cache folder, then run again: it goes on",
            )

    def _receive(self, response: Response, out: BinaryIO) -> None:
        settings = self._tools.settings
        most = self._max_size()
        done = response.start
        begun = mark = time.monotonic()
        since_mark = 0
        for chunk in response.chunks:
            done += len(chunk)
            since_mark += len(chunk)
            if done > most:
                out.truncate(0)
                raise FetchError("the file is too large", expected=f"at most {most} bytes")
            out.write(chunk)
            now = time.monotonic()
            if now - begun > settings.total_timeout:
                raise RetryableError(f"not done after {settings.total_timeout:g} s")
            if now - mark > settings.rate_window:
                if since_mark < settings.min_rate * (now - mark):
                    raise RetryableError(f"slower than {settings.min_rate} bytes a second")
                mark, since_mark = now, 0
            self._tools.progress(Event(self._artifact.filename, done, response.total))

    def _judge(self) -> Optional[Fetched]:
        """Digest the whole file; None means that its pieces should be fetched anew."""
        artifact = self._artifact
        path = self._partial.path
        with disk_errors(path):
            pins = check_pins(path, artifact)
        if not pins.hold:
            if self._pieces > 1:
                with disk_errors(path):
                    self._partial.discard()
                return None
            aside = self._tools.cache.quarantine(path, artifact.filename, pins.sha256)
            with disk_errors(path):
                self._partial.discard()
            raise DigestError(
                f"{artifact.filename} from {self._url} is not the pinned file",
                file=str(aside),
                expected=pins.expected,
                found=pins.found,
                hint="it is kept there for study and is not used; "
                "find out who is right before you change the pin",
            )
        stored = self._tools.cache.store(
            self._partial, final_path(self._tools.cache, artifact, pins.sha256)
        )
        self._tell(f"here, {pins.size} bytes, sha256 {pins.sha256}")
        return Fetched(
            stored,
            pins.sha256,
            pins.size,
            self._url,
            artifact.pinned,
            contents_sha256=artifact.contents_sha256,
        )


def final_path(cache: Cache, artifact: Artifact, sha256: str) -> Path:
    """Where the file stays in the cache: by what it is looked for next time."""
    if artifact.sha256 is None and artifact.contents_sha256 is not None:
        return cache.path_of_contents(artifact.contents_sha256)
    return cache.path_of(sha256)
