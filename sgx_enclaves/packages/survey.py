# SPDX-License-Identifier: GPL-2.0-or-later
"""Which packages of a tree must be looked at, and which are passed by on repodata's word.

A package is passed by when the repodata of a repository in the tree describe a
file of its size at its place, and neither its Provides nor its file list have
anything of an enclave. All others are looked at: packages with such things,
packages that no repodata list, those of another size than listed, and all
packages of a repository whose repodata cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional, Union

from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError
from sgx_enclaves.packages.repodata import (
    FILELISTS,
    PRIMARY,
    REPOMD,
    Half,
    Listing,
    Repository,
    join,
    read_half,
)

_SUFFIX = ".rpm"


class Target(NamedTuple):
    """A package file that must be looked at.

    Attributes:
        path: the file.
        listing: what the repodata say about it, when they say that it may have
            enclaves; otherwise its own header tells.
    """

    path: str
    listing: Optional[Listing] = None


@dataclass(frozen=True)
class Survey:
    """What is to do in a tree.

    Attributes:
        targets: the packages that must be looked at, by path.
        passed: how many were passed by on repodata's word.
        absent: how many the repodata list that are not there and have no enclaves.
        stamps: digests of every repomd.xml that was believed, sorted.
        problems: what speaks against repodata that were not believed.
    """

    targets: tuple[Target, ...]
    passed: int = 0
    absent: int = 0
    stamps: tuple[str, ...] = ()
    problems: tuple[SgxEnclavesError, ...] = ()


def survey(folder: str, *, repodata: bool = True, jobs: int = 1) -> Survey:
    """Look over a tree of packages, with or without repositories in it.

    Args:
        folder: the tree; links to folders are not followed.
        repodata: False to look at every package, whatever repodata say.
        jobs: processes that may read repodata; with more than one, none of it is read
            in this one, which so outlives what makes the parser's C code crash.

    Raises:
        InputError: a folder cannot be read, or this is no folder.
    """
    paths, roots = _walk(folder)
    if not repodata or not roots:
        return Survey(tuple(Target(path) for path in paths))
    listings: dict[str, Optional[Listing]] = {}
    problems: list[SgxEnclavesError] = []
    stamps: list[str] = []
    for root, found in _read(roots, jobs).items():
        if isinstance(found, SgxEnclavesError):
            problems.append(found)
            continue
        stamps.append(found.stamp)
        _merge(listings, root, found)
    targets = {path: Target(path) for path in paths}
    passed = absent = 0
    for path, listing in listings.items():
        if listing is None:
            continue
        if listing.suspect:
            # Even when it is not there: then that is what there is to say.
            targets[path] = Target(path, listing)
        elif _size(path) == listing.size:
            targets.pop(path, None)
            passed += 1
        elif path not in targets:
            absent += 1
    return Survey(
        tuple(targets[path] for path in sorted(targets)),
        passed,
        absent,
        tuple(sorted(stamps)),
        tuple(problems),
    )


def _walk(folder: str) -> tuple[list[str], list[str]]:
    """All package files below a folder, and all folders with repodata."""
    if "://" in folder:
        raise InputError(
            "not a folder: repositories are scanned where they are mirrored",
            file=folder,
            hint="mirror it first, for example with dnf reposync --download-metadata",
        )

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot be read: {error.strerror}", file=error.filename) from None

    found: list[str] = []
    roots: list[str] = []
    for parent, folders, files in os.walk(str(Path(folder)), onerror=refuse):
        folders.sort()
        found += [os.path.join(parent, name) for name in files if name.endswith(_SUFFIX)]
        if "repodata" in folders and os.path.isfile(os.path.join(parent, REPOMD)):
            roots.append(parent)
    return sorted(found), roots


def _read(roots: list[str], jobs: int) -> dict[str, Union[Repository, SgxEnclavesError]]:
    """The repodata of each folder, or what speaks against them."""
    work = [(root, kind) for root in roots for kind in (PRIMARY, FILELISTS)]
    found: dict[str, Union[Repository, SgxEnclavesError]] = {}
    try:
        done = dict(_halves(work, jobs))
    except LimitError as error:
        # Nobody knows whose repodata made the process die.
        return dict.fromkeys(roots, error)
    for root in roots:
        primary, filelists = done[root, PRIMARY], done[root, FILELISTS]
        if isinstance(primary, SgxEnclavesError):
            found[root] = primary
        elif isinstance(filelists, SgxEnclavesError):
            found[root] = filelists
        else:
            try:
                found[root] = join(root, primary, filelists)
            except SgxEnclavesError as error:
                found[root] = error
    return found


Work = tuple[str, str]
Result = tuple[Work, Union[Half, SgxEnclavesError]]


def _halves(work: list[Work], jobs: int) -> Iterator[Result]:
    if jobs == 1:
        return map(_half, work)
    # Costs start-up time.
    from sgx_enclaves.packages.scan_pool import in_processes  # noqa: PLC0415

    return in_processes(_half, work, min(jobs, len(work)))


def _half(work: Work) -> Result:
    root, kind = work
    try:
        return work, read_half(root, kind)
    except SgxEnclavesError as error:
        return work, error


def _merge(listings: dict[str, Optional[Listing]], root: str, repository: Repository) -> None:
    for place, listing in repository.packages.items():
        path = os.path.join(root, place)
        if listings.setdefault(path, listing) != listing:
            # Two repositories contradict each other: the package itself tells.
            listings[path] = None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
