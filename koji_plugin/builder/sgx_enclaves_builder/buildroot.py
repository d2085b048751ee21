# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a site of the core's builder: its toolchain, packages and places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.releases.build_sandbox import Isolation
from sgx_enclaves.releases.installed import InstalledPackage, installed_packages
from sgx_enclaves.releases.place import Place
from sgx_enclaves.releases.toolchain import ToolchainRecord
from sgx_enclaves.releases.toolchain_inside import record_inside

from .chroot import Chroot
from .place import KojiPlace
from .shutters import find_shutters

_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")


class KojiSite:
    """One buildroot; see `Site` and `Inside` of the core.

    Args:
        chroot: the buildroot.
        say: told what should be known.
        urls: NEVRA to where a package can be had, as far as anybody knows.
    """

    isolation = Isolation.ROOT

    def __init__(
        self,
        chroot: Chroot,
        say: Callable[[str], None],
        urls: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.chroot = chroot
        self._urls = dict(urls or {})
        self._records: dict[tuple[tuple[str, ...], str], ToolchainRecord] = {}
        self._packages: Optional[tuple[InstalledPackage, ...]] = None
        self.shutters = find_shutters(chroot)
        for missing in self.shutters.missing:
            say(f"warning: this buildroot gives the steps no {missing}")
        if self.shutters.network:
            say("warning: steps can reach a network in this buildroot")

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """See `Site`; looked at once, since only we run anything in there."""
        key = (tuple(names), path)
        if key not in self._records:
            self._records[key] = record_inside(names, path, self)
        return self._records[key]

    def open(self, scratch: Path, root: str) -> Place:
        """See `Site`."""
        return KojiPlace(self.chroot, self.shutters, scratch.name, root)

    def run_all(self, commands: Sequence[Sequence[str]], timeout: float) -> Any:
        """See `Inside`."""
        return self.chroot.run_all(commands, timeout)

    def put(self, name: str, data: bytes) -> str:
        """See `Inside`."""
        return self.chroot.put(name, data)

    def get(self, name: str, limit: int) -> bytes:
        """See `Inside`."""
        return self.chroot.get(name, limit)

    def packages(self) -> tuple[InstalledPackage, ...]:
        """See `Inside`: what RPM's database in the buildroot says, as it was before any step."""
        if self._packages is None:
            folders = [self.chroot.root / name for name in _DATABASES]
            here = next((folder for folder in folders if folder.is_dir()), None)
            self._packages = (
                () if here is None else installed_packages(urls=self._urls, dbpath=str(here))
            )
        return self._packages
