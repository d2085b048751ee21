# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of releases: ours, and what users add in folders of their own.

Knows folders of TOML files. A later folder's release replaces an earlier one of
the same name, never silently. What a release means is `release`'s matter.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.release import Enclave, Release
from sgx_enclaves.releases.release_reader import read_release

OWN_FOLDER = Path(__file__).with_name("catalogue")
USER_FOLDER = Path("/etc/sgx-enclaves/releases.d")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Catalogue:
    """All releases that are known.

    Attributes:
        releases: by name, in the order that they were first met.
        notices: what the user should know, such as that a release was replaced.
    """

    releases: Mapping[str, Release]
    notices: tuple[str, ...]

    def release(self, name: str) -> Release:
        """The release of that name.

        Raises:
            CatalogueError: there is none; the hint lists those that are there.
        """
        release = self.releases.get(name)
        if release is None:
            raise CatalogueError(
                f"there is no release {name!r}",
                hint="known are " + ", ".join(self.releases) if self.releases else "none is known",
            )
        return release

    def build_of(self, release: Release, enclave: Enclave) -> tuple[Release, Enclave]:
        """The release and the enclave in it whose tree this enclave is built from.

        Not every enclave is signed anew for each release: the vendor's README
        says which tag each one was built from.

        Raises:
            CatalogueError: nobody outside can build it, or its `built_in` is wrong.
        """
        if enclave.not_reproducible is not None:
            raise CatalogueError(
                f"{enclave.name} of {release.name} cannot be built: {enclave.not_reproducible}",
                file=release.file,
            )
        if enclave.built_in is None:
            return release, enclave
        other = self.releases.get(enclave.built_in)
        built = other.enclave(enclave.name) if other is not None else None
        if other is None or built is None or built.build is None:
            raise CatalogueError(
                f"enclave {enclave.name}.built_in: names no release that builds it",
                file=release.file,
                found=repr(enclave.built_in),
                hint="add that release to the same folder",
            )
        return other, built

    def unpinned_for(self, release: Release, enclave: Enclave) -> tuple[str, ...]:
        """The unknown facts that stand between this enclave and the verdict `identical`.

        Returns:
            The facts, those of another release's tree with that release's name in front.

        Raises:
            CatalogueError: see `build_of`.
        """
        own = (f"vendor.{enclave.vendor}", f"enclave.{enclave.name}.")
        facts = [fact for fact in release.unpinned if fact.startswith(own)]
        built, _enclave = self.build_of(release, enclave)
        prefix = "" if built is release else f"{built.name}: "
        facts += [
            prefix + fact for fact in built.unpinned if fact.startswith(("source.", "toolchain."))
        ]
        return tuple(facts)


def parse_toml(data: bytes, file: str) -> dict[str, Any]:
    """Parse TOML, by `tomllib` or before Python 3.11 by `tomli`.

    Raises:
        CatalogueError: no TOML, or neither module is there.
    """
    if len(data) > _MAX_BYTES:
        raise CatalogueError("too large for a release", file=file)
    for name in ("tomllib", "tomli"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        try:
            parsed: dict[str, Any] = module.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise CatalogueError(f"not TOML: {error}", file=file) from None
        return parsed
    raise CatalogueError("TOML cannot be read here", file=file, hint="install python3-tomli")


def read_release_file(path: Path) -> Release:
    """Read one release.

    Raises:
        CatalogueError: it cannot be read, or is wrong.
    """
    try:
        if not path.is_file():
            raise CatalogueError("there is no such file", file=str(path))
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CatalogueError(f"cannot be read: {error.strerror}", file=str(path)) from None
    return read_release(parse_toml(data, str(path)), str(path))


def load_catalogue(folders: Sequence[Path] = (OWN_FOLDER, USER_FOLDER)) -> Catalogue:
    """Read every `*.toml` of the folders, sorted by name within each.

    Args:
        folders: later ones win; those that do not exist are passed over. A file stands
            for itself.

    Raises:
        CatalogueError: any file is wrong. A broken catalogue decides nothing.
    """
    releases: dict[str, Release] = {}
    notices = []
    for folder in folders:
        files = [folder] if folder.is_file() else sorted(folder.glob("*.toml"))
        for path in files:
            release = read_release_file(path)
            before = releases.get(release.name)
            if before is not None:
                notices.append(f"{release.name}: {path} replaces {before.file}")
            releases[release.name] = release
    catalogue = Catalogue(releases, tuple(notices))
    for release in releases.values():
        for enclave in release.enclaves:
            if enclave.built_in is not None:
                catalogue.build_of(release, enclave)
    return catalogue
