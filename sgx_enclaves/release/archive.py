# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives as evidence: members by name, digests of contents, trees laid out safely.

Writes a file only below the `dest` of `unpack_tree`, or the tree of `lay_out`.

An archive that a server makes on demand has other bytes after a rename of the repository
(its top directory is called after it) or a change of compressor. What is unpacked from it
stays the same, and that is what `read_contents` digests: each directory, file and link
below the one top directory, with the executable bit, and nothing else (docs/releases.md).
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from sgx_enclaves import files
from sgx_enclaves.catalogue.records import Build
from sgx_enclaves.errors import ArchiveError, BuildError, DigestError, InputError
from sgx_enclaves.limits import DEFAULT_ARCHIVE_LIMITS, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.progress import Progress, silent
from sgx_enclaves.tar import KIND_WORDS, TarStream, open_tar

if TYPE_CHECKING:
    from sgx_enclaves.release.fetch import Fetched

# Contents that are pinned have no times; a fixed one keeps `make` from seeing what the
# packer chose. Not 1970: some tools take early times for none.
_NO_TIME = 315_619_200  # 1980-01-02


def read_files(
    archive: Path, wanted: Callable[[str], bool], *, sha256: Optional[str] = None
) -> tuple[dict[str, str], dict[str, bytes], str]:
    """Read and check a whole archive: the SHA-256 of each regular file in it by name, the content
    of those whose names are wanted, and the archive's own SHA-256, in hexadecimal.

    A DigestError if the bytes that are read do not have the digest `sha256`; an ArchiveError if
    what is wanted is no file.
    """
    digests: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    kept, file = 0, str(archive)
    with open_tar(archive) as stream:
        for member in stream:
            if wanted(member.name):
                if not member.is_file:
                    what = f"a {KIND_WORDS[member.kind]}, not a file"
                    raise ArchiveError(f"{member.name!r} is {what}", file=file)
                kept += member.size
                message = "the members asked for are too large together"
                at_most(DEFAULT_ARCHIVE_LIMITS.kept_bytes, kept, message, "bytes", file=file)
                contents[member.name] = b"".join(stream.content())
                digests[member.name] = files.sha256_of(contents[member.name])
            elif member.is_file:
                digests[member.name] = _content_digest(stream)
        found = _check_same(archive, sha256, stream.packed.digest())
    return digests, contents, found


def read_members(
    archive: Path, names: Collection[str], *, sha256: Optional[str] = None
) -> dict[str, bytes]:
    """Read the named regular files into memory, by name; an ArchiveError if one is missing."""
    digests, contents, _ = read_files(archive, set(names).__contains__, sha256=sha256)
    for name in sorted(set(names) - contents.keys()):
        base = name.rpartition("/")[2]
        same = [other for other in digests if other.rpartition("/")[2] == base]
        near = same or difflib.get_close_matches(name, list(digests)[:5000], n=1)
        raise ArchiveError(
            f"the archive has no member {name!r}",
            file=str(archive),
            hint=f"the nearest is {near[0]!r}" if near else "list the archive, correct the name",
        )
    return contents


def pack_members(members: Mapping[str, bytes]) -> bytes:
    """An uncompressed tar archive of these files, the same bytes whoever makes it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            header = tarfile.TarInfo(name)
            header.size = len(members[name])
            tar.addfile(header, io.BytesIO(members[name]))
    return packed.getvalue()


def _content_digest(stream: TarStream) -> str:
    digest = hashlib.sha256()
    for chunk in stream.content():
        digest.update(chunk)
    return digest.hexdigest()


@record
class Contents:
    """What an archive holds below its top directory, and the digests of that and of itself."""

    sha256: str
    archive_sha256: str
    top: str
    entries: tuple[files.Entry, ...]


def read_contents(archive: Path, progress: Progress = silent) -> Contents:
    """Digest what a source archive holds, in one pass; it must have one top directory."""
    entries: dict[str, files.Entry] = {}
    top = ""
    with open_tar(archive, dropped=1, progress=progress) as stream:
        for member in stream:
            first, _, path = member.name.partition("/")
            top = top or first
            if not first or first != top or (not path and member.kind != files.DIRECTORY):
                raise ArchiveError(
                    f"{member.name or '.'!r} is not below one top directory",
                    file=str(archive),
                    expected=f"everything below {top!r}" if top else "a top directory",
                    hint="contents are digested below the one directory that holds everything",
                )
            if path:
                value = _content_digest(stream) if member.is_file else member.target
                entries[path] = files.Entry(member.kind, path, value)
            # some packers name the directories, some leave them to be inferred
            while (path := path.rpartition("/")[0]) and path not in entries:
                entries[path] = files.Entry(files.DIRECTORY, path, "")
        archive_sha256 = stream.packed.digest()
    if all(entry.kind == files.DIRECTORY for entry in entries.values()):
        raise ArchiveError("the archive has no file below a top directory", file=str(archive))
    ordered = tuple(sorted(entries.values(), key=lambda entry: entry.path.encode()))
    return Contents(files.digest_entries(ordered), archive_sha256, top, ordered)


def unpack_tree(
    archive: Path,
    dest: Path,
    strip: int = 1,
    sha256: Optional[str] = None,
    mtime: Optional[int] = None,
    progress: Progress = silent,
) -> None:
    """Lay a source archive out, whole or not at all, as `dest`, which may be there if it is empty.

    Files get mode 0644, or 0755 when the owner may execute them, and the archive's time, or `mtime`
    (seconds since 1970); owners and special bits are ignored. `strip` leading parts of each name
    are dropped, and members with no more.
    `sha256` is what the archive must have, in the very bytes that are unpacked.
    """
    dest = Path(os.path.abspath(dest))
    with files.system_errors(str(dest), "cannot be made"):
        if dest.is_symlink() or (dest.exists() and any(dest.iterdir())):
            raise InputError(
                "there is something in the way", file=str(dest), hint="give a new directory"
            )
        dest.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", dir=dest.parent))
    try:
        with files.system_errors(str(dest), "cannot be unpacked"):
            with open_tar(archive, dropped=strip, progress=progress) as stream:
                _lay_out(stream, work, strip, mtime)
                _check_same(archive, sha256, stream.packed.digest())
            work.chmod(0o755)
            work.rename(dest)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_same(archive: Path, expected: Optional[str], found: str) -> str:
    """The digest, or a DigestError for a file that is not the one that was looked at before."""
    if expected is not None and found != expected:
        raise DigestError(
            "the file was changed after it was checked",
            file=str(archive),
            expected=f"sha256 {expected}",
            found=f"sha256 {found}",
            hint="find out who writes there, and run again",
        )
    return found


def _lay_out(stream: TarStream, root: Path, strip: int, mtime: Optional[int]) -> None:
    """Write the members below a new directory."""
    links: dict[str, str] = {}
    taken: set[str] = set()
    for member in stream:
        name = "/".join(member.name.split("/")[strip:])
        if not name:
            continue
        path = root / name
        folder = path if member.kind == files.DIRECTORY else path.parent
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if member.kind == files.DIRECTORY:
            continue
        if name in taken:
            raise ArchiveError(
                f"{name!r} is there twice once {strip} leading parts are dropped", file=stream.file
            )
        taken.add(name)
        if member.kind == files.LINK:
            links[name] = member.target
            continue
        with path.open("xb") as out:
            out.writelines(stream.content())
            out.flush()
            os.fchmod(out.fileno(), 0o755 if member.kind == files.PROGRAM else 0o644)
            time = member.mtime if mtime is None else mtime
            os.utime(out.fileno(), (time, time))
    # last, so that no file can be written through a link
    for name, target in links.items():
        (root / name).symlink_to(target)
    if not taken:
        raise ArchiveError(
            "the archive has no file to unpack",
            file=stream.file,
            hint=f"{strip} leading parts of each name are dropped",
        )


def lay_out(
    tree: Path, build: Build, archives: Mapping[str, Fetched], progress: Progress = silent
) -> None:
    """Unpack the sources into their places in a tree; `archives` are the files by source id."""
    for source in build.sources:
        dest, here = tree / source.place, archives[source.id]
        check_inside(tree, dest.parent if source.unpack and source.place else dest, source.id)
        if source.unpack:
            untimed = source.artifact.sha256 is None and source.artifact.pinned
            mtime = _NO_TIME if untimed else None
            unpack_tree(here.path, dest, source.strip, here.sha256, mtime, progress)
        else:
            _copy_file(here, dest / source.artifact.filename, source.id)


def _copy_file(here: Fetched, target: Path, source: str) -> None:
    """Copy a fetched file, if it is still what was fetched."""
    with files.system_errors(str(target), f"source {source} cannot be put there", error=BuildError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with here.path.open("rb") as file, target.open("xb") as copy:
            stream = files.DigestedStream(file)
            shutil.copyfileobj(stream, copy)
            _check_same(here.path, here.sha256, stream.digest())


def copy_tree(source: Path, tree: Path) -> str:
    """Copy a ready-made tree, without its `.git`; its digest, as `files.digest_entries` has it."""
    if not source.is_dir():
        raise BuildError("there is no such source tree", file=str(source))
    git = shutil.ignore_patterns(".git")
    try:
        shutil.copytree(source, tree, symlinks=True, dirs_exist_ok=True, ignore=git)
        return files.digest_entries(files.tree_entries(tree))
    except shutil.Error as error:
        path, _target, reason = error.args[0][0]
        raise BuildError(f"cannot be copied: {reason}", file=str(path)) from None
    except OSError as error:
        raise BuildError(f"cannot be copied: {error.strerror}", file=str(source)) from None


def check_inside(tree: Path, path: Path, what: str) -> None:
    """Raise `BuildError` for a path that a link leads out of the tree."""
    if not path.resolve().is_relative_to(tree.resolve()):
        raise BuildError(f"{what}: a link leads out of the tree", file=str(path))
