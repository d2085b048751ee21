# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the source tree of a build, and take the results out of it.

Knows files only. Whatever the sources or the steps have put there, nothing is read
or written outside of the tree through a link in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from sgx_enclaves.errors import BuildError, FormatError
from sgx_enclaves.files import read_file
from sgx_enclaves.format.config import Config
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import Descriptor
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.releases.archive import check_same, unpack_tree
from sgx_enclaves.releases.cache import digest_file
from sgx_enclaves.releases.download import Fetched
from sgx_enclaves.releases.release import Build, OwnBuild

_GIT = ".git"
_CHUNK = 1 << 20
# Contents that are pinned have no times; a fixed one keeps `make` from seeing what the
# packer chose. Not 1970: some tools take early times for none.
_NO_TIME = 315_619_200  # 1980-01-02


def lay_out(tree: Path, build: Build, archives: Mapping[str, Fetched]) -> None:
    """Unpack the sources into their places.

    Args:
        tree: the folder to make; it may be there and empty.
        build: the release's.
        archives: the file of each source, by its id.

    Raises:
        BuildError: a place is not within the tree, or taken.
        DigestError: a file is no longer what was fetched.
        SgxEnclavesError: an archive is broken or hostile, or the disk is full.
    """
    for source in build.sources:
        dest = tree / source.place
        if source.place:
            _check_inside(tree, dest.parent, source.id)
        here = archives[source.id]
        if source.unpack:
            untimed = source.artifact.sha256 is None and source.artifact.pinned
            unpack_tree(
                here.path,
                dest,
                strip=source.strip,
                sha256=here.sha256,
                mtime=_NO_TIME if untimed else None,
            )
            continue
        try:
            _check_inside(tree, dest, source.id)
            dest.mkdir(parents=True, exist_ok=True)
            _copy(here, dest / source.artifact.filename)
        except OSError as error:
            raise BuildError(
                f"source {source.id} cannot be put there: {error.strerror}", file=str(dest)
            ) from None


def _copy(here: Fetched, target: Path) -> None:
    """Copy a fetched file, and see that the copy is what was fetched."""
    digest = hashlib.sha256()
    with here.path.open("rb") as data, target.open("xb") as out:
        while True:
            chunk = data.read(_CHUNK)
            if not chunk:
                break
            digest.update(chunk)
            out.write(chunk)
    check_same(here.path, here.sha256, digest)


def copy_tree(source: Path, tree: Path) -> str:
    """Copy a ready-made tree, without its `.git`.

    Returns:
        SHA-256 in hexadecimal over its names, kinds and contents.

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
        return _digest_tree(tree)
    except shutil.Error as error:
        path, _target, reason = error.args[0][0]
        raise BuildError(f"cannot be copied: {reason}", file=str(path)) from None
    except OSError as error:
        raise BuildError(f"cannot be copied: {error.strerror}", file=str(source)) from None


def _digest_tree(tree: Path) -> str:
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                line = f"link {path.relative_to(tree)} {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                kind = "program" if mode & stat.S_IXUSR else "file"
                line = f"{kind} {path.relative_to(tree)} {digest_file(path)}"
            else:
                raise BuildError("neither file, folder nor link", file=str(path))
            digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def remove_prebuilt(tree: Path, build: OwnBuild) -> None:
    """Remove a result that came with the sources: it must not be taken for ours.

    Raises:
        BuildError: it cannot be removed.
    """
    path = tree / build.unsigned
    if not os.path.lexists(path):
        return
    _check_inside(tree, path.parent, "the result")
    try:
        path.unlink()
    except OSError as error:
        raise BuildError(
            f"came with the sources and cannot be removed: {error.strerror}", file=str(path)
        ) from None


def read_config(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's `config.xml` from the sources, checked to be one.

    Raises:
        SgxEnclavesError: it is missing or wrong.
    """
    data = _read(tree, build.config, DEFAULT_LIMITS.config_size)
    Config.parse(data, build.config)
    return data


def read_unsigned(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's build result, checked to be an unsigned enclave.

    Raises:
        SgxEnclavesError: it is missing, or something else.
    """
    data = _read(tree, build.unsigned, DEFAULT_LIMITS.file_size)
    image = EnclaveImage.parse(data, build.unsigned)
    if Descriptor.parse(image.descriptor).is_signed:
        raise FormatError("the result is signed already", file=build.unsigned)
    return data


def _read(tree: Path, name: str, limit: int) -> bytes:
    path = tree / name
    if not os.path.lexists(path):
        raise BuildError("is not there", file=name)
    _check_inside(tree, path, name)
    if not path.is_file():
        raise BuildError("is no file", file=name)
    return read_file(str(path), limit)


def _check_inside(tree: Path, path: Path, what: str) -> None:
    if not path.resolve().is_relative_to(tree.resolve()):
        raise BuildError(f"{what}: a link leads out of the tree", file=str(path))
