# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory that `sgx-enclaves build` made, as a reference.

Its manifest says which release was built, and pins every file: one that was
changed after the build is refused. Which version an enclave of that release has
is in the catalogue.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.reader import load_catalogue
from sgx_enclaves.catalogue.records import Catalogue
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.release.manifest import (
    EnclaveRecord,
    config_name,
    load_enclave,
    load_manifest,
    unsigned_name,
)
from sgx_enclaves.rpm.presence import stem_of, version_of
from sgx_enclaves.rpm.reader import DEFAULT_PACKAGE_LIMITS, PackageLimits
from sgx_enclaves.rpm.references import Counterpart


class BuiltReference:
    """A built directory; an enclave of another version than the one asked for does not fit.

    Args:
        path: the directory, or the manifest in it.
        limits: see `PackageLimits`.
        catalogue: of releases; None for the one that is installed.

    Raises:
        ManifestError: the manifest is wrong.
        InputError: it cannot be read.
    """

    def __init__(
        self,
        path: str,
        limits: PackageLimits = DEFAULT_PACKAGE_LIMITS,
        catalogue: Optional[Catalogue] = None,
    ) -> None:
        self.name = path
        self._folder = Path(path) if Path(path).is_dir() else Path(path).parent
        self._limits = limits
        self._catalogue = catalogue
        self._manifest = load_manifest(self._folder)

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`; no other enclave is read than the one that is asked for."""
        for kept in self._manifest.enclaves:
            if stem_of(unsigned_name(kept.file)) != stem_of(path):
                continue
            version = self._version(kept)
            if version is not None and version_of(path) not in (version, None):
                continue
            built = load_enclave(self._folder, kept, self._limits.enclave)
            if built is not None:
                yield Counterpart(
                    f"{self._folder / unsigned_name(kept.file)} ({self._origin(version)})",
                    built.unsigned,
                    str(self._folder / config_name(kept.file)),
                    built.config,
                )

    def _origin(self, version: Optional[str]) -> str:
        toolchain = "the designated" if self._manifest.designated else "another"
        words = f"{self._manifest.release}, built with {toolchain} toolchain"
        return f"{version} of {words}" if version else words

    def _version(self, record: EnclaveRecord) -> Optional[str]:
        """The version that its release gives it; None when that is not known."""
        try:
            release = self._releases.release(self._manifest.release)
        except CatalogueError:
            # Built from a description of one's own.
            return None
        known = next((e.so_version for e in release.enclaves if e.name == record.name), None)
        return known.value if known is not None else None

    @functools.cached_property
    def _releases(self) -> Catalogue:
        return self._catalogue if self._catalogue is not None else load_catalogue()
