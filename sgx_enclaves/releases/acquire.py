# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring what a release needs: its sources, and the vendor's signed enclaves.

Joins catalogue, fetcher, checksums and archives. A repacked archive, as a
distribution makes it, is taken for the vendor's where each kept member is the
original's, byte for byte; what is not must be proved by comparing the enclaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.decompress import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits
from sgx_enclaves.errors import CatalogueError, FetchError, InputError
from sgx_enclaves.releases.archive import (
    Repack,
    compare_repack,
    digest_members,
    list_members,
    read_members,
)
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.checksums import cross_check, parse_checksums
from sgx_enclaves.releases.download import Fetched
from sgx_enclaves.releases.fetch import Fetcher
from sgx_enclaves.releases.release import Release, VendorArchive

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
