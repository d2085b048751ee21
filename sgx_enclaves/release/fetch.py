# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring a pinned file into the cache, or say why not; docs/releases.md has the cache's layout.

1. A file counts only when its SHA-256, or the digest of its contents, is the pinned one; if both
   are pinned, both. Without a pin the caller must ask for that by name, and the result says so.
2. A wrong file in the local directory is an error, since its user has put it there.
3. Each place is tried a bounded number of times, then the next place. A broken download is resumed
   only if the server vouches by If-Range that it still has the same file. Pieces that do not fit
   are fetched again once.
4. A file with a wrong digest is kept aside and reported. Another place may still have the right one
   (upstream was renamed, and archives that are made on demand carry the name); when none has, the
   wrong digest is the error.
5. Trouble with the local disk ends the job too; what is here stays for later.

A file gets its final name only by a rename of a whole, synced, digested file, and is digested again
each time before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional
from urllib.parse import urlsplit

from sgx_enclaves import files
from sgx_enclaves.catalogue.artifact import Artifact, Lookaside
from sgx_enclaves.errors import DigestError, FetchError, SgxEnclavesError
from sgx_enclaves.files import digest_file
from sgx_enclaves.plain import record
from sgx_enclaves.progress import Event, Progress, silent
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.transport import HttpsTransport, NoNetworkError, RetryableError

# seconds, for another process at the same file; before the second request, and before any
_LOCK_TIMEOUT = 3600.0
_WAIT, _LONGEST_WAIT = 1.0, 30.0


def disk_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Word what the file system refuses."""
    hint = "name another cache directory, then run again: what is here is kept"
    return files.system_errors(str(path), "the cache cannot be used", error=FetchError, hint=hint)


class Partial:
    """A download that is not whole yet. The lock of its key must be held."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.part"
        self._note = folder / f"{key}.origin"

    def state(self) -> tuple[int, str, str]:
        """How many bytes are there, their URL and validator; both are empty when unknown, and the
        bytes of no use.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        url = validator = ""
        with contextlib.suppress(OSError, ValueError):
            url, _, validator = self._note.read_text("utf-8").partition("\n")
        return size, url, validator

    def begin(self, url: str, validator: str) -> None:
        """Start from nothing; the note goes first, so that no bytes are ever without it."""
        self.discard()
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(f"{url}\n{validator}", "utf-8")

    def discard(self) -> None:
        """Forget the bytes, then the note."""
        with disk_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)


def path_of(cache: Path, artifact: Artifact, sha256: str = "") -> Path:
    """Where a file stays in a cache: by what it is looked for, else by the digest that it has."""
    by_contents = artifact.sha256 is None and artifact.pinned
    digest = artifact.sha256 or artifact.contents_sha256 or sha256
    return cache / ("contents" if by_contents else "sha256") / digest[:2] / digest[2:]


@record
class Fetched:
    """A whole file that is here, read-only in the cache or where the user has put it.

    It is `pinned` if its digest, or that of its contents (`contents_sha256`), was known beforehand.
    It came from `url`, if it was not here already; `rejected` are files from other places that had
    a wrong digest, in the quarantine. `expected` is the pin that does not hold, such as
    `sha256 ab…`, and `found` what is there instead; both are empty in all that `Fetcher` gives.
    """

    path: Path
    sha256: str
    size: int
    pinned: bool
    contents_sha256: Optional[str] = None
    url: Optional[str] = None
    rejected: tuple[str, ...] = ()
    expected: str = ""
    found: str = ""

    def error(self, message: str, hint: str) -> DigestError:
        """That the pin does not hold."""
        expected, found = self.expected, self.found
        return DigestError(message, file=str(self.path), expected=expected, found=found, hint=hint)


def check_pins(path: Path, artifact: Artifact) -> Fetched:
    """Compare a file with all its pins; an archive whose contents cannot be digested is not the
    pinned one either, and `found` says why.
    """
    with disk_errors(path):
        sha256, size = digest_file(path), path.stat().st_size
        file = Fetched(path, sha256, size, artifact.pinned, artifact.contents_sha256)
        digests: dict[str, Callable[[], str]] = {
            "sha256": lambda: sha256,
            "sha512": lambda: digest_file(path, "sha512"),
            "contents_sha256": lambda: _contents(path, sha256),
        }
        for kind, digest in digests.items():
            pinned = getattr(artifact, kind)
            found = digest() if pinned is not None else None
            if found != pinned:
                return replace(file, expected=f"{kind} {pinned}", found=f"{kind} {found}")
    return file


def _contents(path: Path, sha256: str) -> str:
    """The digest of the contents, or in words why there is none."""
    try:
        contents = read_contents(path)
    except SgxEnclavesError as error:
        return f"of nothing: {error}"
    if contents.archive_sha256 != sha256:
        return "of nothing: the file was changed while it was read"
    return contents.sha256


@record
class Fetcher:
    """Fetches artifacts into a cache by one transport; without one it is offline.

    The look-aside cache is asked first, each place `attempts` times, with longer waits each time,
    whatever the server asks for. `local` is a directory where files may lie already. A file may
    have `max_size` bytes, besides what the release allows.
    """

    cache: Path
    transport: Optional[HttpsTransport]
    progress: Progress = silent
    lookaside: Optional[Lookaside] = None
    local: Optional[Path] = None
    allow_unpinned: bool = False
    max_size: Optional[int] = None
    attempts: int = 4
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, artifact: Artifact, *, allow_unpinned: bool = False) -> Fetched:
        """The file, brought here if need be; a DigestError if it is another, else a FetchError."""
        if not (artifact.pinned or allow_unpinned or self.allow_unpinned):
            raise FetchError(
                f"{artifact.filename} has no pinned digest",
                hint="pin its SHA-256 or that of its contents in the release, "
                "or allow unpinned files for this run",
            )
        here = self._given(artifact) or self._cached(artifact)
        if here is not None:
            return here
        if self.transport is None:
            raise FetchError(
                f"{artifact.filename} is not in the cache, and the network is switched off",
                file=str(self.cache),
                expected=artifact.pin,
                hint="fetch it once without --offline, or put it into the directory of --local",
            )
        lock = self.cache / "locks" / f"{artifact.key}.lock"
        with files.locked(
            lock,
            _LOCK_TIMEOUT,
            opening=disk_errors(lock),
            error=FetchError,
            waiting=lambda: self._note(artifact, "another process is fetching this; waiting"),
        ):
            return self._cached(artifact) or self._from_places(artifact, self.transport)

    def _note(self, artifact: Artifact, text: str) -> None:
        self.progress(Event(artifact.filename, note=text))

    def _set_aside(self, path: Path, name: str, found: str) -> Path:
        """Put a file into the quarantine, under its name and its true digest."""
        target = self.cache / "quarantine" / f"{name}.{found[:16]}"
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return target

    def _given(self, artifact: Artifact) -> Optional[Fetched]:
        """The file in the local directory, which is used there, not copied."""
        path = self.local / artifact.filename if self.local is not None else None
        if path is None or not path.is_file():
            return None
        check = check_pins(path, artifact)
        if check.expected:
            hint = "replace it, or take it away to have it fetched"
            raise check.error("this is not the file that the release pins", hint)
        return check

    def _cached(self, artifact: Artifact) -> Optional[Fetched]:
        if not artifact.pinned:
            return None
        path = path_of(self.cache, artifact)
        with disk_errors(path):
            if not path.is_file():
                return None
        check = check_pins(path, artifact)
        if not check.expected:
            return check
        if check.sha256 == artifact.sha256:
            hint = f"the file has the pinned sha256 {check.sha256}; correct the release"
            raise check.error(f"two pins of {artifact.filename} contradict each other", hint)
        bad = self._set_aside(path, path.name[:16], check.sha256)
        self._note(artifact, f"the file in the cache had gone bad; it is kept as {bad}")
        return None

    def _from_places(self, artifact: Artifact, transport: HttpsTransport) -> Fetched:
        partial = Partial(self.cache / "partial", artifact.key)
        have, begun, _validator = partial.state()
        if artifact.pinned and have:
            # the last run may have ended between the last byte and the rename
            check = check_pins(partial.path, artifact)
            if not check.expected:
                return self._stored(partial, artifact, check)
        if self.lookaside and not (artifact.sha512 or artifact.lookaside_sha512):
            asked = "asked by SHA-256 alone" if artifact.sha256 else "not asked"
            why = "no SHA-512 of it is known, by which look-aside caches find files"
            self._note(artifact, f"{why}; the look-aside cache is {asked}")
        places = (self.lookaside.urls(artifact) if self.lookaside else ()) + artifact.urls
        # What went wrong, and whether for want of a network; each said once.
        failures: dict[str, bool] = {}
        wrong: list[DigestError] = []
        # resume where the last run stopped, not at the first place
        for url in sorted(places, key=lambda url: url != begun):
            try:
                fetched = self._from_place(artifact, url, partial, transport)
                return replace(fetched, rejected=tuple(str(error.file) for error in wrong))
            except DigestError as error:
                wrong.append(error)
                self._note(artifact, str(error))
            except NoNetworkError as error:
                failures[f"{urlsplit(url).hostname}: {error}"] = True
            except FetchError as error:
                if error.file is not None:  # the local disk, not the place
                    raise
                failures[f"{url}: {error}"] = False
                self._note(artifact, f"{url}: {error}")
        if wrong:
            raise wrong[0]
        where, hint = f" from any of {len(places)} places", "check the network and the proxy, or "
        hint += "have the file in the directory of --local"
        if not places:
            hint = "the release names no URL for it; add one in /etc/sgx-enclaves/releases.d"
        elif all(failures.values()):
            where, hint = "", "connect this machine, or name a directory that has the file with "
            hint += "--local"
        message = f"{artifact.filename} could not be fetched{where}: {'; '.join(failures)}"
        raise FetchError(message, hint=hint)

    def _stored(self, partial: Partial, artifact: Artifact, check: Fetched) -> Fetched:
        """Give a whole, digested file its final name."""
        path = path_of(self.cache, artifact, check.sha256)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.path.chmod(0o444)
            partial.path.rename(path)
            files.sync(path.parent)
            partial.discard()
        self._note(artifact, f"here, {check.size} bytes, sha256 {check.sha256}")
        return replace(check, path=path)

    def _from_place(
        self, artifact: Artifact, url: str, partial: Partial, transport: HttpsTransport
    ) -> Fetched:
        """Ask one place a few times; a `FetchError` with a file is the local disk's."""
        wait, reason = _WAIT, ""
        for attempt in range(self.attempts):
            if attempt:
                self._note(artifact, f"{reason}; trying again in {wait:g} s")
                self.sleep(wait)
            try:
                resumed = self._download(artifact, url, partial, transport)
            except RetryableError as error:
                reason = str(error)
                if error.afresh:
                    partial.discard()
                wait = min(_LONGEST_WAIT, max(_WAIT * 2**attempt, error.retry_after))
                continue
            check = check_pins(partial.path, artifact)
            if not check.expected:
                return replace(self._stored(partial, artifact, check), url=url)
            if resumed:
                partial.discard()
                reason = "the pieces did not fit together"
                continue
            aside = self._set_aside(partial.path, artifact.filename, check.sha256)
            partial.discard()
            hint = "it is kept there for study and is not used; "
            hint += "find out who is right before you change the pin"
            message = f"{artifact.filename} from {url} is not the pinned file"
            raise replace(check, path=aside).error(message, hint)
        raise FetchError(f"{reason} ({self.attempts} attempts)")

    def _download(
        self, artifact: Artifact, url: str, partial: Partial, transport: HttpsTransport
    ) -> bool:
        """Ask once, and add what comes to the part file; whether that resumed an earlier part."""
        have, begun, validator = partial.state()
        if begun != url:
            have = 0
        most = min(artifact.max_size, self.max_size or artifact.max_size)
        too_large = f"at most {most} bytes"
        with transport.open(url, have, validator) as response:
            total, done = response.total, response.start
            if total is not None and (artifact.size not in (None, total) or total > most):
                expected = too_large if total > most else f"{artifact.size} bytes"
                what = "file is too large" if total > most else "server's file has another size"
                raise FetchError(f"the {what}", expected=expected, found=f"{total} bytes")
            with disk_errors(partial.path):
                if done:
                    self._note(artifact, f"resumed at byte {done}")
                else:
                    partial.begin(url, response.validator)
                free = shutil.disk_usage(partial.path.parent).free
                if (total or done) - done > free:
                    # as the disk itself would say, and before anything is fetched
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with partial.path.open("ab") as out:
                    try:
                        for chunk in response.chunks:
                            done += len(chunk)
                            if done > most:
                                out.truncate(0)
                                raise FetchError("the file is too large", expected=too_large)
                            out.write(chunk)
                            self.progress(Event(artifact.filename, done, total))
                    finally:
                        out.flush()
                        os.fsync(out.fileno())
        return response.start > 0
