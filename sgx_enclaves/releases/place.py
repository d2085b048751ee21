# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build asks of the place that it is done in.

A place runs the steps of one tree: `build_sandbox.Sandbox` on this machine, or a
buildroot of somebody else's making. A site gives a place for each tree, and lets the
toolchain that will be used there be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sgx_enclaves.releases.build_sandbox import Command, Ended, Isolation
from sgx_enclaves.releases.toolchain import ToolchainRecord


class Place(Protocol):
    """Where one tree stands, and its steps run."""

    @property
    def root(self) -> str:
        """The path that the tree has for the commands."""

    @property
    def fixed(self) -> bool:
        """Whether that is the path that was asked for."""

    @property
    def tree(self) -> Path:
        """The same folder as this process sees it; it is not made yet at first."""

    @property
    def home(self) -> str:
        """A folder for HOME as the commands see it."""

    @property
    def network(self) -> bool:
        """Whether commands can reach a network."""

    def run(self, command: Command, log: Path) -> Ended:
        """Run a command to its end, whatever that is; `log` gets what it prints."""

    def close(self) -> None:
        """Remove everything that was made for the tree."""


class Site(Protocol):
    """Where all trees of a build are built."""

    @property
    def isolation(self) -> Isolation:
        """How far its places shut steps off."""

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """Look at the toolchain of its places.

        Args:
            names: tools, as in the catalogue.
            path: folders to look in, as in PATH.
        """

    def open(self, scratch: Path, root: str) -> Place:
        """Make a place.

        Args:
            scratch: a folder on this machine that may be made and used; it is removed later.
            root: the path that the tree should have.
        """
