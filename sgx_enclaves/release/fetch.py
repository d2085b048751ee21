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

How far a download is, told to a person: a bar on a terminal, else plain lines.

The vendor's checksum files, as `sha256sum` writes them.

A line is `DIGEST  NAME` or `DIGEST *NAME`. Such a file stands beside the archive
on the same server, so that it proves nothing against that server; it does catch
a pin that was copied wrongly and an archive that was exchanged silently.

Is a file what the release pins? Every pin that is given must hold.

Reads the file; never moves it, never fetches one.

The attempts to get one file from one place.

Knows when to try again, when to go on and when to begin anew; see the rules in
`fetch`. Never chooses between places.

Bring what a release needs: its sources, and the vendor's signed enclaves.

Joins catalogue, fetcher, checksums and archives. A repacked archive, as a
distribution makes it, is taken for the vendor's where each kept member is the
original's, byte for byte; what is not must be proved by comparing the enclaves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Callable, Optional, TextIO
from urllib.parse import quote

from sgx_enclaves.decompress import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits
from sgx_enclaves.errors import (
    ArchiveError,
    CatalogueError,
    DigestError,
    FetchError,
    FormatError,
    InputError,
    LimitError,
    UnsupportedError,
)
from sgx_enclaves.release.archive import (
    Digest,
    Repack,
    compare_repack,
    digest_members,
    list_members,
    read_contents,
    read_members,
)
from sgx_enclaves.release.cache import Cache, Origin, Partial, disk_errors
from sgx_enclaves.release.catalogue import PLAIN_NAME, Artifact, Release, VendorArchive, check_url
from sgx_enclaves.release.transport import RangeRefusedError, Response, RetryableError, Transport

_BAR = 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Event:
    """One thing to tell.

    Attributes:
        name: the file.
        done: bytes that are here.
        total: bytes of the whole, if known.
        note: a sentence; empty when only the count has moved.
    """

    name: str
    done: int = 0
    total: Optional[int] = None
    note: str = ""


Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Tell nothing."""


def for_stream(stream: TextIO) -> Progress:
    """The bar if the stream is a terminal, else the lines."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress:
    """Notes, and each tenth of a file as a line: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Write the event if it is worth a line."""
        if event.note:
            self._line(f"{event.name}: {event.note}")
        elif event.total:
            tenth = event.done * 10 // event.total
            if tenth > self._told.get(event.name, 0):
                self._line(f"{event.name}: {_amount(event)}")
            self._told[event.name] = tenth

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class TerminalProgress:
    """A bar that is drawn over itself at most ten times a second."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next = 0.0
        self._drawn = False

    def __call__(self, event: Event) -> None:
        """Draw the bar, or write the note on a line of its own."""
        if event.note:
            self._stream.write(f"{self._clear()}{event.name}: {event.note}\n")
            self._drawn = False
        elif self._clock() >= self._next or event.done == event.total:
            self._next = self._clock() + 0.1
            self._stream.write(f"{self._clear()}{event.name} {_bar(event)}{_amount(event)}")
            self._drawn = True
        self._stream.flush()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._drawn else ""


def _bar(event: Event) -> str:
    if not event.total:
        return ""
    full = min(_BAR, event.done * _BAR // event.total)
    return f"[{'#' * full}{'.' * (_BAR - full)}] "


def _amount(event: Event) -> str:
    done = f"{event.done / _MIB:.1f}"
    if not event.total:
        return f"{done} MiB"
    return f"{done} of {event.total / _MIB:.1f} MiB ({event.done * 100 // event.total} %)"


_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *]([^\x00-\x1f\x7f]{1,1024})")
_MAX_BYTES = 1 << 20


def parse_checksums(data: bytes, file: str) -> dict[str, str]:
    """Read a checksums file.

    Args:
        data: its content.
        file: its name, for messages.

    Returns:
        Name to lower-case SHA-256.

    Raises:
        FormatError: a line of another form, the same name with two digests, or no line.
    """
    if len(data) > _MAX_BYTES:
        raise FormatError("too large for a checksums file", file=file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("not text", file=file, offset=error.start) from None
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise FormatError(
                f"line {number} is not a checksum",
                file=file,
                expected="SHA-256, two blanks, name",
                found=repr(line[:100]),
            )
        name, digest = match[2].removeprefix("./"), match[1].lower()
        if digests.setdefault(name, digest) != digest:
            raise FormatError(f"line {number} gives {name} a second digest", file=file)
    if not digests:
        raise FormatError("holds no checksum", file=file)
    return digests


def cross_check(checksums: Mapping[str, str], filename: str, sha256: str, file: str) -> bool:
    """Hold a digest against the vendor's list.

    Args:
        checksums: from `parse_checksums`.
        filename: the archive, without a folder.
        sha256: the digest that is pinned or was found.
        file: the checksums file, for messages.

    Returns:
        Whether the list names the archive at all.

    Raises:
        DigestError: the list gives it another digest.
    """
    listed = {digest for name, digest in checksums.items() if name.rpartition("/")[2] == filename}
    if listed and listed != {sha256}:
        raise DigestError(
            f"the vendor's checksums file gives {filename} another digest",
            file=file,
            expected=f"sha256 {sha256}",
            found=f"sha256 {', '.join(sorted(listed))}",
            hint="either the vendor exchanged the archive or the pin is wrong; find out which",
        )
    return bool(listed)


_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pins:
    """What a file is, held against its pins.

    Attributes:
        sha256: the file's digest.
        size: its bytes.
        expected: the pin that does not hold, such as `sha256 ab…`; empty if all hold.
        found: what there is instead; empty if all hold.
    """

    sha256: str
    size: int
    expected: str = ""
    found: str = ""

    @property
    def hold(self) -> bool:
        """Whether the file is what it should be, as far as that is known beforehand."""
        return not self.expected


def check_pins(path: Path, artifact: Artifact) -> Pins:
    """Hold a file against everything that is pinned of it.

    An archive that is too broken, hostile or large for its contents to be digested is
    not the pinned one either; what is wrong with it is in `found`.

    Raises:
        OSError: it cannot be read.
    """
    hashes: dict[str, Digest] = {"sha256": hashlib.sha256()}
    if artifact.sha512 is not None:
        hashes["sha512"] = hashlib.sha512()
    size = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            size += len(chunk)
            for digest in hashes.values():
                digest.update(chunk)
    sha256 = hashes["sha256"].hexdigest()
    for kind, digest in hashes.items():
        pinned: Optional[str] = getattr(artifact, kind)
        if pinned is not None and digest.hexdigest() != pinned:
            return Pins(sha256, size, f"{kind} {pinned}", f"{kind} {digest.hexdigest()}")
    if artifact.contents_sha256 is not None:
        found = _contents(path, sha256)
        if found != artifact.contents_sha256:
            expected = f"contents_sha256 {artifact.contents_sha256}"
            return Pins(sha256, size, expected, f"contents_sha256 {found}")
    return Pins(sha256, size)


def _contents(path: Path, sha256: str) -> str:
    """The digest of the contents, or in words why there is none."""
    try:
        contents = read_contents(path)
    except (ArchiveError, InputError, LimitError, UnsupportedError) as error:
        return f"of nothing: {error}"
    if contents.archive_sha256 != sha256:
        return "of nothing: the file was changed while it was read"
    return contents.sha256


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


@dataclass(frozen=True)
class Lookaside:
    """A look-aside cache as dist-git servers keep beside their package repositories.

    A file stands at `BASE/PACKAGE/FILENAME/HASHTYPE/HASH/FILENAME`. Fedora's base
    is `https://src.fedoraproject.org/repo/pkgs/rpms`, CentOS Stream's
    `https://sources.stream.centos.org/sources/rpms`; both key by sha512.

    Attributes:
        base: URL without a trailing slash.
        package: name of the source package that the file belongs to.
    """

    base: str
    package: str

    def __post_init__(self) -> None:
        check_url(self.base)
        if not PLAIN_NAME.fullmatch(self.package):
            raise CatalogueError("a package name must be plain", found=repr(self.package))

    def urls(self, artifact: Artifact) -> tuple[str, ...]:
        """Where the file would stand, for each digest that is known; maybe none."""
        name = quote(artifact.filename)
        return tuple(
            f"{self.base.rstrip('/')}/{self.package}/{name}/{kind}/{value}/{name}"
            for kind, value in (("sha512", artifact.sha512), ("sha256", artifact.sha256))
            if value is not None
        )


_CHECKSUMS_SIZE = 1 << 20


@dataclass(frozen=True)
class SignedArchive:
    """A vendor's archive that is here.

    Attributes:
        fetched: see `Fetched`.
        cross_checked: whether the vendor's own checksums file says the same.
        note: why it was not cross-checked; empty if it was.
        checksums: the vendor's checksums file; None if it is not here.
    """

    fetched: Fetched
    cross_checked: bool
    note: str
    checksums: Optional[Path] = None


def fetch_sources(
    release: Release, fetcher: Fetcher, *, allow_unpinned: bool = False
) -> dict[str, Fetched]:
    """Bring every source archive of the release's own tree.

    Returns:
        Source id to file. Sources that are the same archive are fetched once.

    Raises:
        CatalogueError: the release has no tree of its own.
        DigestError: a file is not the pinned one.
        FetchError: a file could not be brought.
    """
    if release.build is None:
        raise CatalogueError(
            f"{release.name} has no sources of its own; its enclaves are built in other releases",
            file=release.file,
        )
    here: dict[Artifact, Fetched] = {}
    for source in release.build.sources:
        if source.artifact not in here:
            here[source.artifact] = fetcher.fetch(source.artifact, allow_unpinned=allow_unpinned)
    return {source.id: here[source.artifact] for source in release.build.sources}


def fetch_signed(
    release: Release, fetcher: Fetcher, *, allow_unpinned: bool = False
) -> dict[str, SignedArchive]:
    """Bring the vendor's archives, and hold each against the vendor's checksums file.

    Returns:
        Archive id to file.

    Raises:
        DigestError: a file is not the pinned one, or the vendor's list says otherwise.
        FetchError: a file could not be brought. That the list cannot be had is only noted.
        FormatError: the list is no list.
    """
    archives = {}
    for archive in release.vendor:
        fetched = fetcher.fetch(archive.artifact, allow_unpinned=allow_unpinned)
        note, checksums = _cross_check(archive, fetched, fetcher)
        archives[archive.id] = SignedArchive(fetched, not note, note, checksums)
    return archives


def _cross_check(
    archive: VendorArchive, fetched: Fetched, fetcher: Fetcher
) -> tuple[str, Optional[Path]]:
    """Why the vendor's list says nothing of the file, empty if it says the same; and the list."""
    if archive.checksums is None:
        return "the vendor publishes no checksums file", None
    listed = replace(archive.checksums, max_size=_CHECKSUMS_SIZE)
    try:
        # the list cannot be pinned: the vendor may add lines to it
        path = fetcher.fetch(listed, allow_unpinned=True).path
    except FetchError as error:
        return f"the vendor's checksums file is not here: {error.message}", None
    name = listed.filename
    checksums = parse_checksums(path.read_bytes(), name)
    if not cross_check(checksums, archive.artifact.filename, fetched.sha256, name):
        return f"the vendor's checksums file does not name {archive.artifact.filename}", path
    return "", path


def read_signed_enclaves(
    release: Release,
    archives: Mapping[str, Path],
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
) -> dict[str, bytes]:
    """Read the release's signed enclaves out of the vendor's archives.

    Args:
        release: what to look for.
        archives: archive id to file; enclaves of archives that are not given are left out.
        limits: see `ArchiveLimits`.

    Returns:
        Enclave name to content.

    Raises:
        ArchiveError: a member is missing, or an archive is broken or hostile.
    """
    found: dict[str, bytes] = {}
    for vendor, path in archives.items():
        members = {item.name: item.member for item in release.enclaves if item.vendor == vendor}
        content = read_members(path, set(members.values()), limits)
        found.update({name: content[member] for name, member in members.items()})
    return found


@dataclass(frozen=True)
class Repacked:
    """A distribution's repack of a vendor's archive.

    Attributes:
        enclaves: the release's signed enclaves that it holds, by name.
        repack: how it stands to the original; None if the original is not here.
        proved: names of the enclaves that are the original's, byte for byte. The
            others must be proved by comparison.
    """

    enclaves: Mapping[str, bytes]
    repack: Optional[Repack]
    proved: frozenset[str]


def read_repacked(
    release: Release,
    vendor: str,
    repacked: Path,
    original: Optional[Path],
    limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS,
) -> Repacked:
    """Read a repacked archive in the place of the vendor's.

    Args:
        release: what to look for.
        vendor: id of the archive that was repacked.
        repacked: the distribution's file. Its members may stand below another top folder.
        original: the vendor's file, if it is here.
        limits: see `ArchiveLimits`.

    Raises:
        InputError: it holds none of the release's enclaves, or one of them twice.
        ArchiveError: an archive is broken or hostile.
    """
    names = [member.name for member in list_members(repacked, limits)]
    places: dict[str, str] = {}
    for enclave in release.enclaves:
        if enclave.vendor != vendor:
            continue
        here = [name for name in names if name.rpartition("/")[2] == enclave.signed_file]
        if len(here) > 1:
            raise InputError(
                f"the repacked archive holds {enclave.signed_file} {len(here)} times",
                file=str(repacked),
                found=", ".join(here[:4]),
            )
        if here:
            places[enclave.name] = here[0]
    if not places:
        raise InputError(
            f"the repacked archive holds no enclave of {release.name}", file=str(repacked)
        )
    content = read_members(repacked, set(places.values()), limits)
    enclaves = {name: content[place] for name, place in places.items()}
    if original is None:
        return Repacked(enclaves, None, frozenset())
    ours = digest_members(repacked, limits)
    theirs = digest_members(original, limits)
    member = {item.name: item.member for item in release.enclaves}
    proved = frozenset(
        name for name, place in places.items() if ours[place] == theirs.get(member[name])
    )
    return Repacked(enclaves, compare_repack(theirs, ours), proved)
