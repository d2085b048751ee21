# SPDX-License-Identifier: GPL-2.0-or-later
"""What we use of rpmlint, which has no types: this is the one place that says so.

Holds for rpmlint 2.0 to 2.10. What is not sure to be there in each of them is
asked for with `getattr` where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Protocol

from sgx_enclaves.records import record


class PackedFile(Protocol):
    """A file of a package: rpmlint's `PkgFile`."""

    path: str
    size: int
    mode: int


class LintPackage(Protocol):
    """A package as rpmlint hands it to a check: its `Pkg`."""

    name: str
    arch: Optional[str]
    filename: Any
    is_source: bool
    header: Any
    files: Mapping[str, Any]
    ghost_files: Any
    provides: Any

    def dir_name(self) -> Optional[str]:
        """The folder it is extracted in; `/` for an installed package."""


class Output(Protocol):
    """What collects rpmlint's findings: its `Filter`."""

    badness: dict[str, Any]
    blocked_filters: set[str]
    error_details: dict[str, str]
    printed_messages: dict[str, int]
    results: list[str]
    score: int

    def add_info(self, level: str, package: Any, rpmlint_issue: str, *details: str) -> None:
        """Report a finding."""


@record
class Subject:
    """What is kept of a package until all have been seen: `add_info` accepts it as one.

    Attributes:
        name: of the package.
        arch: of the package.
        file: the package file; of an installed package only a name.
        is_source: whether it is a source package.
        installed: whether there is no package file.
        provides: name and version of what it provides; the version may be empty.
            Nothing of a package that is not suspect.
        suspect: whether it may carry enclaves, so that its files must be read.
        blanks: whether a path in it has blanks, so that findings about it are ambiguous.
        places: where its files are kept; None: read the package file.
        header: of an installed package, as the RPM database has it.
        current_linenum: for `add_info`.
    """

    name: str
    arch: Optional[str]
    file: str
    is_source: bool
    installed: bool
    provides: tuple[tuple[str, str], ...]
    suspect: bool
    blanks: bool = False
    places: Optional[Mapping[str, str]] = None
    header: Optional[bytes] = None
    current_linenum: None = None


def provides_of(package: LintPackage) -> tuple[tuple[str, str], ...]:
    """Name and version of each Provides; rpmlint has (name, flags, (epoch, version, release))."""
    found = []
    for name, _flags, (_epoch, version, _release) in package.provides:
        found.append((str(name), str(version or "")))
    return tuple(found)
