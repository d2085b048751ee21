# SPDX-License-Identifier: GPL-2.0-or-later
"""A digest of what a source archive holds, whoever packed it and however.

An archive that a server makes on demand has other bytes after a rename of the
repository (its top folder is called after it) or a change of compressor. What is
unpacked from it stays the same, and that is what is digested here: each folder, file
and link below the one top folder, with the executable bit, and nothing else. The
serialisation is written down in `docs/releases.md`.

Knows source archives with one top folder only. Never writes a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sgx_enclaves.decompress import DEFAULT_ARCHIVE_LIMITS, ArchiveLimits
from sgx_enclaves.errors import ArchiveError
from sgx_enclaves.releases.archive import leads_out, open_archive
from sgx_enclaves.releases.tarstream import Kind, Member, Symlinks, TarStream

_FOLDER, _FILE, _PROGRAM, _LINK = "d", "f", "x", "l"


@dataclass(frozen=True)
class Entry:
    """One thing in the tree.

    Attributes:
        kind: `d` folder, `f` file, `x` file that may be executed, `l` symbolic link.
        path: below the top folder, `/` between its parts.
        value: of a file its SHA-256 in lower-case hexadecimal, of a link its target,
            of a folder nothing.
    """

    kind: str
    path: str
    value: str


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
        sha256: digest of the contents, in lower-case hexadecimal.
        archive_sha256: digest of the very bytes that they were read from.
        top: name of the top folder; it is not part of the contents.
        entries: sorted by path.
    """

    sha256: str
    archive_sha256: str
    top: str
    entries: tuple[Entry, ...]


def digest_entries(entries: Iterable[Entry]) -> str:
    """SHA-256 in hexadecimal over the entries, in the order of their paths' bytes.

    Each is three fields, kind, path and value, and each field ends with a zero byte,
    which none of them can hold.
    """
    digest = hashlib.sha256()
    for entry in sorted(entries, key=_path_bytes):
        digest.update(f"{entry.kind}\0{entry.path}\0{entry.value}\0".encode())
    return digest.hexdigest()


def _path_bytes(entry: Entry) -> bytes:
    return entry.path.encode()


def read_contents(archive: Path, limits: ArchiveLimits = DEFAULT_ARCHIVE_LIMITS) -> Contents:
    """Digest what a source archive holds, in one pass over it.

    Args:
        archive: a tar archive as `open_archive` takes it.
        limits: see `ArchiveLimits`.

    Raises:
        InputError: the file cannot be read.
        ArchiveError: it is broken or hostile, or has not exactly one top folder.
        LimitError: it is beyond the limits.
    """
    packed = hashlib.sha256()
    entries: dict[str, Entry] = {}
    top = ""
    with open_archive(archive, limits, Symlinks.INSIDE, packed=packed) as stream:
        for member in stream:
            first, _, path = member.name.partition("/")
            if not top:
                top = first
            if not first or first != top or (not path and member.kind is not Kind.DIRECTORY):
                raise ArchiveError(
                    f"{member.name or '.'!r} is not below one top folder",
                    file=str(archive),
                    expected=f"everything below {top!r}" if top else "a top folder",
                    hint="contents are digested below the one folder that holds everything",
                )
            if path:
                _add_folders(entries, path)
                entries[path] = _entry(member, path, stream, archive)
    if not any(entry.kind != _FOLDER for entry in entries.values()):
        raise ArchiveError("the archive has no file below a top folder", file=str(archive))
    ordered = tuple(sorted(entries.values(), key=_path_bytes))
    return Contents(digest_entries(ordered), packed.hexdigest(), top, ordered)


def _add_folders(entries: dict[str, Entry], path: str) -> None:
    """Some packers name the folders, some leave them to be inferred."""
    folder = path.rpartition("/")[0]
    while folder and folder not in entries:
        entries[folder] = Entry(_FOLDER, folder, "")
        folder = folder.rpartition("/")[0]


def _entry(member: Member, path: str, stream: TarStream, archive: Path) -> Entry:
    if member.kind is Kind.DIRECTORY:
        return Entry(_FOLDER, path, "")
    if member.kind is Kind.SYMLINK:
        if leads_out(path, member.target):
            raise ArchiveError(
                f"{member.name!r} is a symbolic link to {member.target!r},"
                " which may lead out of the tree",
                file=str(archive),
            )
        return Entry(_LINK, path, member.target)
    digest = hashlib.sha256()
    for chunk in stream.content():
        digest.update(chunk)
    return Entry(_PROGRAM if member.executable else _FILE, path, digest.hexdigest())
