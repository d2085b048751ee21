# SPDX-License-Identifier: GPL-2.0-or-later
"""Lay the sources of a tree out; nothing is written outside of it through a link in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sgx_enclaves.catalogue.records import Build, OwnBuild
from sgx_enclaves.errors import BuildError
from sgx_enclaves.files import digest_entries, digest_file, tree_entries
from sgx_enclaves.release.archive import check_same, unpack_tree
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.manifest import SourceRecord

_GIT = ".git"
# Contents that are pinned have no times; a fixed one keeps `make` from seeing what the
# packer chose. Not 1970: some tools take early times for none.
_NO_TIME = 315_619_200  # 1980-01-02


def lay_out(tree: Path, build: Build, archives: Mapping[str, Fetched]) -> None:
    """Unpack the sources into their places.

    Args:
        tree: the directory to make; it may be there and empty.
        build: the release's.
        archives: the file of each source, by its id.

    Raises:
        BuildError: a place is not within the tree, or taken.
        DigestError: a file is no longer what was fetched.
        SgxEnclavesError: an archive is broken or hostile, or the disk is full.
    """
    for source in build.sources:
        dest, here = tree / source.place, archives[source.id]
        check_inside(tree, dest.parent if source.unpack and source.place else dest, source.id)
        if source.unpack:
            untimed = source.artifact.sha256 is None and source.artifact.pinned
            mtime = _NO_TIME if untimed else None
            unpack_tree(here.path, dest, strip=source.strip, sha256=here.sha256, mtime=mtime)
        else:
            _copy(here, dest / source.artifact.filename, source.id)


def source_records(build: Build, archives: Mapping[str, Fetched]) -> tuple[SourceRecord, ...]:
    """What `lay_out` lays out."""
    records = []
    for source in build.sources:
        here = archives[source.id]
        record = (source.id, source.place, source.artifact.filename, here.sha256, here.pinned)
        records.append(SourceRecord(*record, here.contents_sha256))
    return tuple(records)


def _copy(here: Fetched, target: Path, source: str) -> None:
    """Copy a fetched file, and see that the copy is what was fetched."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        shutil.copyfile(here.path, target)
        check_same(here.path, here.sha256, digest_file(target))
    except OSError as error:
        raise BuildError(
            f"source {source} cannot be put there: {error.strerror}", file=str(target)
        ) from None


def copy_tree(source: Path, tree: Path) -> str:
    """Copy a ready-made tree, without its `.git`.

    Returns:
        SHA-256 in hexadecimal over its entries (see `files.digest_entries`).

    Raises:
        BuildError: it cannot be copied.
    """
    if not source.is_dir():
        raise BuildError("there is no such source tree", file=str(source))
    try:
        shutil.copytree(
            source,
            tree,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda _folder, names: [name for name in names if name == _GIT],
        )
        return digest_entries(tree_entries(tree))
    except shutil.Error as error:
        path, _target, reason = error.args[0][0]
        raise BuildError(f"cannot be copied: {reason}", file=str(path)) from None
    except OSError as error:
        raise BuildError(f"cannot be copied: {error.strerror}", file=str(source)) from None


def remove_prebuilt(tree: Path, build: OwnBuild) -> None:
    """Remove a result that came with the sources: it must not be taken for ours.

    Raises:
        BuildError: it cannot be removed.
    """
    path = tree / build.unsigned
    if not os.path.lexists(path):
        return
    check_inside(tree, path.parent, "the result")
    try:
        path.unlink()
    except OSError as error:
        raise BuildError(
            f"came with the sources and cannot be removed: {error.strerror}", file=str(path)
        ) from None


def check_inside(tree: Path, path: Path, what: str) -> None:
    """Refuse a path that a link leads out of the tree.

    Raises:
        BuildError: it does.
    """
    if not path.resolve().is_relative_to(tree.resolve()):
        raise BuildError(f"{what}: a link leads out of the tree", file=str(path))
