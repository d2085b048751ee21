# SPDX-License-Identifier: GPL-2.0-or-later
"""A release cut down to one of its enclaves, for those who share the work.

What is said of the part is said of that enclave only: unknown facts of others do
not stand in its way.
"""

from __future__ import annotations

from dataclasses import replace

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.release import Release


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
