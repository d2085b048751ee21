# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring what a release needs: its sources, and the vendor's signed enclaves.

Joins catalogue, fetcher, archives and the vendor's checksum files. Such a file stands
beside the archive on the same server, so that it proves nothing against that server; it
does catch a pin that was copied wrongly and an archive that was exchanged silently.

A repacked archive, as a distribution makes it, is taken for the vendor's where each kept
member is the original's, byte for byte; what is not must be proved by comparing the enclaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Artifact, Release, VendorArchive
from sgx_enclaves.errors import CatalogueError, DigestError, FetchError, FormatError, InputError
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits
from sgx_enclaves.plain import record
from sgx_enclaves.release.archive import (
    digest_members,
    list_members,
    read_members,
)
from sgx_enclaves.release.fetch import Fetched, Fetcher

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


@record
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
    listed = replace(archive.checksums, max_size=_MAX_BYTES)
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


@record
class Repack:
    """How a repacked archive stands to the original; each a sorted tuple of names.

    Attributes:
        kept: same name, same content.
        changed: same name, other content.
        added: in the repack only.
        dropped: in the original only; harmless.
    """

    kept: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def faithful(self) -> bool:
        """Whether everything in the repack is the original's."""
        return bool(self.kept) and not self.changed and not self.added


def compare_repack(original: Mapping[str, str], repacked: Mapping[str, str]) -> Repack:
    """Compare a repack's digests (from `digest_members`) with the original's."""
    both = original.keys() & repacked.keys()
    return Repack(
        kept=tuple(sorted(name for name in both if original[name] == repacked[name])),
        changed=tuple(sorted(name for name in both if original[name] != repacked[name])),
        added=tuple(sorted(repacked.keys() - original.keys())),
        dropped=tuple(sorted(original.keys() - repacked.keys())),
    )


@record
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
