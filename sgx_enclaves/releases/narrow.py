# SPDX-License-Identifier: GPL-2.0-or-later
"""A release cut down and handed on, for those who share the work.

What is said of the part is said of that enclave only: unknown facts of others do
not stand in its way. Those who share it work from the same bytes of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.catalogue import Catalogue, parse_toml
from sgx_enclaves.releases.release import Release
from sgx_enclaves.releases.release_reader import read_release


def only(release: Release, name: str) -> Release:
    """The release with that enclave alone, which is then required.

    Raises:
        CatalogueError: it has no such enclave.
    """
    enclave = release.enclave(name)
    if enclave is None:
        raise CatalogueError(
            f"{release.name} has no enclave {name!r}",
            file=release.file,
            hint="it has " + ", ".join(item.name for item in release.enclaves),
        )
    archive = f"vendor.{enclave.vendor}"
    own = [f"enclave.{name}."]
    if enclave.built_in is None:
        own += ["source.", "toolchain."]
    return replace(
        release,
        vendor=tuple(item for item in release.vendor if item.id == enclave.vendor),
        enclaves=(replace(enclave, required=True),),
        unpinned=tuple(
            fact for fact in release.unpinned if fact == archive or fact.startswith(tuple(own))
        ),
    )


def needed_for(catalogue: Catalogue, release: Release) -> tuple[Release, ...]:
    """The release and those whose trees its enclaves are built in, each once.

    Enclaves that nobody outside can build need no tree.

    Raises:
        CatalogueError: a `built_in` names no release that builds the enclave.
    """
    needed = {release.name: release}
    for enclave in release.enclaves:
        if enclave.not_reproducible is None:
            tree, _own = catalogue.build_of(release, enclave)
            needed.setdefault(tree.name, tree)
    return tuple(needed.values())


def catalogue_from(files: Mapping[str, bytes]) -> Catalogue:
    """A catalogue of exactly these releases.

    Args:
        files: what to call each in messages, to its TOML.

    Raises:
        CatalogueError: one is wrong, or two have the same name.
    """
    releases: dict[str, Release] = {}
    for name, data in files.items():
        release = read_release(parse_toml(data, name), name)
        if release.name in releases:
            raise CatalogueError(f"there are two releases {release.name!r}", file=name)
        releases[release.name] = release
    return Catalogue(releases, ())
