# SPDX-License-Identifier: GPL-2.0-or-later
"""Which release a task is about, and the bytes that describe it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import koji
from koji.daemon import SCM

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import (
    OWN_FOLDER,
    USER_FOLDER,
    load_catalogue,
    read_release,
)
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.files import digest_file, read_file
from sgx_enclaves.gate.record import CATALOGUE
from sgx_enclaves.gate.subjects import release_of
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.fetch import Fetcher

from .config import Config


@dataclass(frozen=True)
class ResolvedRelease:
    """A release, and all bytes that say what it is.

    Attributes:
        catalogue: all releases.
        release: what is to be verified.
        origin: `CATALOGUE`, or the URL that it came from.
        files: release name to TOML text: its own, and those whose trees it is built in.
        sha256: of its own file.
    """

    catalogue: Catalogue
    release: Release
    origin: str
    files: Mapping[str, str]
    sha256: str


def resolve(
    asked: Optional[str], paths: Sequence[str], config: Config, task: Any, fetcher: Fetcher
) -> ResolvedRelease:
    """Find the release.

    Args:
        asked: a name in the catalogue, a URL, or None to go by `paths`.
        paths: of the signed enclaves of the build.
        config: the plugin's.
        task: the task handler, for its options and its session.
        fetcher: brings a file from an https URL.

    Raises:
        SgxEnclavesError: there is none, or it is wrong.
        koji.GenericError: it may not be taken from there.
    """
    catalogue = load_catalogue((OWN_FOLDER, USER_FOLDER, *config.catalogues))
    origin = CATALOGUE
    if asked is None:
        release = release_of(catalogue, paths)
    elif "://" in asked:
        origin = asked
        release = _from_url(asked, task, fetcher)
        catalogue = Catalogue({**catalogue.releases, release.name: release}, catalogue.notices)
    else:
        release = catalogue.release(asked)
    files = {
        tree.name: read_file(tree.file, MIB).decode("utf-8")
        for tree in (release, *catalogue.trees_of(release))
    }
    return ResolvedRelease(catalogue, release, origin, files, digest_file(Path(release.file)))


def _from_url(url: str, task: Any, fetcher: Fetcher) -> Release:
    plain = url.startswith("https://")
    # Koji's rules are about repositories; a plain file's place must fit them too
    scm = SCM(
        f"git+{url}#file" if plain else url,
        allow_password=getattr(task.options, "allow_password_in_scm_url", False),
    )
    scm.assert_allowed(
        allowed=task.options.allowed_scms,
        session=task.session,
        by_config=getattr(task.options, "allowed_scms_use_config", True),
        by_policy=getattr(task.options, "allowed_scms_use_policy", False),
        policy_data={"user_id": task.taskinfo["owner"], "scratch": False},
    )
    path = _fetched(url, fetcher) if plain else _checked_out(scm, task)
    return read_release(read_file(str(path), MIB), str(path))


def _fetched(url: str, fetcher: Fetcher) -> Path:
    """A file from one of the allowed hosts; nobody pins what is being asked for."""
    name = url.partition("?")[0].rpartition("/")[2] or "release.toml"
    artifact = Artifact(name, (url,), sha256=None, max_size=MIB)
    return fetcher.fetch(artifact, allow_unpinned=True).path


def _checked_out(scm: Any, task: Any) -> Path:
    """A file of a repository: `SCHEME://HOST/REPO?FILE#COMMIT`."""
    file: str = scm.module
    if not file.endswith(".toml"):
        raise koji.GenericError(
            f"{scm.url} names no release: put the path of its TOML file behind the question mark"
        )
    # Koji checks out a directory, and would look for a Makefile's `common` beside it
    scm.module, scm.use_common = os.path.dirname(file), False
    folder = Path(task.workdir) / "scm"
    folder.mkdir()
    log = str(Path(task.workdir) / "checkout.log")
    there: str = scm.checkout(str(folder), task.session, task.getUploadDir(), log)
    path = Path(there) / os.path.basename(file)
    if path.is_symlink() or not path.is_file():
        raise koji.GenericError(f"{scm.url}: there is no such file in the repository")
    return path
