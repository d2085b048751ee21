# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at many packages: which carry enclaves, and each one's verdict.

A package is passed by when the repodata of a repository in the tree describe a file of its size
at its place, without anything of an enclave. All others are looked at: the header first, the
payload where that gives a reason. What is done, in several processes, can be kept to resume.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError
from sgx_enclaves.files import (
    can_have_workers,
    digest_file,
    end_with_parent,
    open_regular,
    sha256_of,
    system_errors,
    walk,
    write_file,
)
from sgx_enclaves.rpm.check import NO_NEIGHBOURS, PackageResult
from sgx_enclaves.rpm.enclaves import may_carry_enclaves
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.reader import open_package
from sgx_enclaves.rpm.references import Neighbours, Reference, neighbours_among, open_reference
from sgx_enclaves.rpm.repodata import REPOMD, Listing, Listings, repository_in
from sgx_enclaves.rpm.rules import finding

_BEGINNING = b'{"scan": '
# The lead and the signature header, which has the digest of the other one.
_HEAD = 16 << 10
# Where the Provides of a package of enclaves are: it has few files.
_START = 64 << 10


# Package files that must be looked at; with a listing, the repodata say so, else their headers.
Targets = Mapping[str, Optional[Listing]]
Target = tuple[str, Optional[Listing]]
# A package file and its result for `json.dumps`; None where there is nothing of an enclave.
Scanned = tuple[str, Optional[dict[str, Any]]]


def stamp_of(path: str) -> str:
    """What changes with a file: size, times, inode and first bytes; empty when it is not there."""
    try:
        with open(path if os.path.isfile(path) else os.devnull, "rb") as stream:
            head = sha256_of(stream.read(_HEAD))
        status = os.stat(path)
    except OSError:
        return ""
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return " ".join((*map(str, numbers), head))


def stamps_below(path: str) -> str:
    """Digest of the stamps of a file, or of all files of a folder: another one, other results."""
    files = [path]
    for parent, folders, names in os.walk(path):
        folders.sort()
        files += [os.path.join(parent, name) for name in sorted(names)]
    return sha256_of(repr([(file, stamp_of(file)) for file in files]).encode())


class ScanState:
    """What was scanned already, as JSON lines; with another `key` the file starts again."""

    def __init__(self, path: str, key: str) -> None:
        self._path = path
        self._stamps: dict[str, str] = {}
        self._known: dict[str, tuple[str, Optional[dict[str, Any]]]] = {}
        header, lines = json.dumps({"scan": key}), []
        if os.path.exists(path):
            with system_errors(path, "cannot be read"), open_regular(path) as stream:
                if stream.read(len(_BEGINNING)) != _BEGINNING:
                    message = "not the state of a scan, and so not written over"
                    hint = "name a file that is not there yet"
                    raise InputError(message, file=path, hint=hint)
                lines = (_BEGINNING + stream.read()).decode("utf-8", "replace").splitlines()
        for line in lines[1:] if lines[:1] == [header] else ():
            # A scan that was killed may have left half a line: it is left out, as what was edited.
            text, _, digest = line.rpartition(" ")
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                file, stamp, report = json.loads(text)
                good = digest == sha256_of(text.encode())
                if good and (report is None or report["exit_status"] in (0, 1, 2)):
                    self._known[f"{file:s}"] = f"{stamp:s}", report
        kept = (_line(file, *known) for file, known in self._known.items())
        write_file(path, "".join((f"{header}\n", *kept)).encode())
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def known(self, path: str) -> Optional[Scanned]:
        """The earlier result for a file that has not changed since."""
        self._stamps[path] = stamp_of(path)
        stamp, report = self._known.get(path, (None, None))
        return (path, report) if stamp == self._stamps[path] else None

    def add(self, file: str, report: Optional[dict[str, Any]]) -> None:
        """Keep a result about a file as it was when its earlier result was asked for."""
        with system_errors(self._path, "the state cannot be kept"):
            self._stream.write(_line(file, self._stamps.get(file, ""), report))
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _line(*known: object) -> str:
    text = json.dumps(known)
    return f"{text} {sha256_of(text.encode())}\n"


@dataclass(frozen=True)
class Survey:
    """What is to do in a tree.

    Attributes:
        targets: what must be looked at, in the order of the paths.
        passed, absent: how many the repodata list without enclaves, and are there or not.
        stamps: digests of every repomd.xml that was believed, sorted.
        problems: what speaks against repodata that were not believed.
    """

    targets: Targets
    passed: int = 0
    absent: int = 0
    stamps: tuple[str, ...] = ()
    problems: tuple[SgxEnclavesError, ...] = ()


def survey(folder: str, *, repodata: bool = True) -> Survey:
    """Look over a tree of packages, with or without repositories in it."""
    if "://" in folder:
        message = "not a folder: repositories are scanned where they are mirrored"
        hint = "mirror it first, for example with dnf reposync --download-metadata"
        raise InputError(message, file=folder, hint=hint)
    targets: Listings = {}
    listings: Listings = {}
    problems: list[SgxEnclavesError] = []
    stamps: list[str] = []
    is_file = os.path.isfile(folder)
    hint = "check-rpm checks a package, compare an enclave" if is_file else "check path and rights"
    for parent, folders, files in walk(os.path.normpath(folder), hint):
        folders.sort()
        targets |= {os.path.join(parent, name): None for name in files if name.endswith(".rpm")}
        if not (repodata and os.path.isfile(os.path.join(parent, REPOMD))):
            continue
        try:
            stamp, packages = repository_in(parent)
        except SgxEnclavesError as error:
            problems.append(error)
            continue
        stamps.append(stamp)
        for place, listing in packages.items():
            path = os.path.join(parent, place)
            # Where two repositories contradict each other, the package itself decides.
            listings[path] = listing if listings.get(path, listing) == listing else None
    passed = absent = 0
    for path, known in listings.items():
        if known is None:
            continue
        if known.suspect:
            # Even when it is not there: then that is what there is to say.
            targets[path] = known
        elif path not in targets:
            absent += 1
        else:
            # A link that leads nowhere is looked at.
            with contextlib.suppress(OSError):
                if os.path.getsize(path) == known.size:
                    del targets[path]
                    passed += 1
    found = dict(sorted(targets.items()))
    return Survey(found, passed, absent, tuple(sorted(stamps)), tuple(problems))


# Packages that a process is given at once: a few with enclaves are as much work as many without.
_BATCH = 64


@dataclass(frozen=True)
class ScanSettings:
    """How packages are judged; goes to every process.

    Attributes:
        check: `check_package` with the policies and what is permitted.
        record: a result as a mapping that `json.dumps` takes, with its `exit_status`.
        deep: read every payload, so that an enclave under an innocent name is found.
        beside: see `neighbours_in`; `neighbours` is what those are worth, none of them opened.
    """

    references: tuple[str, ...]
    check: Callable[..., PackageResult]
    record: Callable[[PackageResult], dict[str, Any]]
    deep: bool = False
    beside: tuple[str, ...] = ()
    neighbours: Neighbours = NO_NEIGHBOURS


def scan(
    targets: Targets,
    settings: ScanSettings,
    *,
    jobs: int = 1,
    state: Optional[ScanState] = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Scanned]:
    """Yield a result for each package, as they come; `state` has those of an earlier scan.

    New results are added to it. With one of `jobs`, the work is done in this process.
    """
    kept = dict(filter(None, map(state.known, targets))) if state is not None else {}
    pending = [target for target in targets.items() if target[0] not in kept]
    found = itertools.chain(kept.items(), _scanned(pending, settings, jobs))
    for done, scanned in enumerate(found, 1):
        if state is not None and done > len(kept):
            state.add(*scanned)
        progress(done, len(targets))
        yield scanned


def _scanned(targets: Sequence[Target], settings: ScanSettings, jobs: int) -> Iterator[Scanned]:
    """The results; raises LimitError where a process dies."""
    # Here too, so that what is missing or bad is an error, and not the result of every package.
    librpm()
    _opened(settings.references, settings.beside, settings.neighbours)
    work = functools.partial(scan_one, settings)
    if jobs == 1 or len(targets) < 2 or not can_have_workers():
        yield from map(work, targets)
        return
    size = max(1, min(_BATCH, len(targets) // (4 * jobs)))
    try:
        with ProcessPoolExecutor(jobs, initializer=_begin_work) as pool:
            yield from pool.map(work, targets, chunksize=size)
    except BrokenProcessPool:
        raise LimitError(
            "a process of the scan died, perhaps for want of memory",
            hint="scan again with fewer --jobs; what was done is in the --state file",
        ) from None


def _begin_work() -> None:
    """A worker ends by Ctrl-C at once: as an exception, that could leave it waiting for work."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


@functools.lru_cache(maxsize=1)
def _opened(
    references: tuple[str, ...], beside: tuple[str, ...], neighbours: Neighbours
) -> tuple[tuple[Reference, ...], Neighbours]:
    """What enclaves are compared with, opened once in each process."""
    opened = tuple(map(open_reference, references))
    return opened, replace(neighbours, references=neighbours_among(beside))


def neighbours_in(targets: Targets) -> tuple[str, ...]:
    """The packages of a tree that may hold unsigned enclaves, whatever their files are called."""
    return tuple(path for path, listing in targets.items() if listing or _speaks_of_unsigned(path))


def _speaks_of_unsigned(path: str) -> bool:
    if "-unsigned" in os.path.basename(path):
        return True
    try:
        with open_regular(path) as stream:
            return b":unsigned" in stream.read(_START)
    except (OSError, InputError):
        return False


def scan_one(settings: ScanSettings, target: Target) -> Scanned:
    """Look at one package; whatever is wrong with it is in the result."""
    path, listing = target
    if not settings.deep and listing is None:
        # What is wrong with a package, its result says.
        with contextlib.suppress(SgxEnclavesError), open_package(path) as (package, _stream):
            if not may_carry_enclaves(package):
                return path, None
    references, neighbours = _opened(settings.references, settings.beside, settings.neighbours)
    result = settings.check(path, references, neighbours=neighbours)
    if listing is not None:
        # It could be read a moment ago; the other findings are true of what was there.
        with contextlib.suppress(OSError):
            found = digest_file(Path(path), listing.algorithm)
            if found != listing.digest:
                differs = finding(
                    "repodata-differs",
                    "the package is not the one that the repodata describe",
                    f"{listing.algorithm} {listing.digest}",
                    found,
                    "make the repodata again, or get the package again",
                )
                result = replace(result, findings=(*result.findings, differs))
    return path, settings.record(result) if result.enclaves or result.findings else None
