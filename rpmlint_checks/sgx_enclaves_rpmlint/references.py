# SPDX-License-Identifier: GPL-2.0-or-later
"""What the check compares signed enclaves with, beside the packages on the command line.

What the configuration names and the installed packages that somebody has signed are
trusted; installed packages without a signature are worth what a neighbour is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.librpm import is_signed, librpm
from sgx_enclaves.rpm.payload import Installed, OneChild, Opener
from sgx_enclaves.rpm.presence import enclave_name, stem_of
from sgx_enclaves.rpm.references import (
    REPRODUCIBLE,
    Counterpart,
    Neighbours,
    PackageReference,
    Reference,
    neighbours_among,
    never_a_reference,
    open_reference,
)
from sgx_enclaves_rpmlint.options import Options
from sgx_enclaves_rpmlint.packages import Subject

# So many are held in memory, see `PackageReference.items`.
_HELD = 4


@record
class InstalledPackage:
    """An installed package.

    Attributes:
        name: what to call it.
        header: as the database has it.
        signed: whether it carries a signature, which rpm has seen when it was installed.
    """

    name: str
    header: bytes
    signed: bool


def installed_packages(provide: str) -> list[InstalledPackage]:
    """All installed packages that provide something and may be references.

    Raises:
        InputError: the database cannot be read.
    """
    rpm = librpm()
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [
        InstalledPackage(f"installed {header['nevra']}", header.unload(), is_signed(header))
        for header in headers
        if not any(map(never_a_reference, header["providename"]))
    ]


Query = Callable[[str], list[InstalledPackage]]


class ConfiguredReference:
    """The folders and packages that [SgxEnclave] names, by enclave and version.

    Args:
        options: the configuration.
    """

    name = "[SgxEnclave] reference"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._open = functools.lru_cache(open_reference)

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        places = self._options.paths_for(path)
        yield from _all_of([functools.partial(self._open, place) for place in places], path)


class InstalledReference:
    """The installed packages that provide `sgx-enclave(NAME:unsigned:reproducible)`.

    Args:
        query: the installed packages that provide something.
        signed: whether to take those that are signed, or those that are not.
    """

    name = "installed packages"

    def __init__(self, query: Query, *, signed: bool) -> None:
        self._query = query
        self._signed = signed

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        name = enclave_name(path) or stem_of(path)
        openers = [
            functools.partial(PackageReference, package.name, opener=Installed(package.header))
            for package in self._query(f"sgx-enclave({name}{REPRODUCIBLE}")
            if package.signed is self._signed
        ]
        yield from _all_of(openers, path)


def _all_of(openers: Iterable[Callable[[], Reference]], path: str) -> Iterator[Counterpart]:
    """The counterparts of each; one that cannot be read does not hide the others."""
    first: Optional[SgxEnclavesError] = None
    for opener in openers:
        try:
            yield from opener().counterparts(path)
        except SgxEnclavesError as error:
            first = first or error
    if first is not None:
        raise first


class Files:
    """The package files on the command line, and which of them others may be compared with.

    Args:
        subjects: every package on the command line.

    Attributes:
        neighbours: the packages that may hold the counterparts of others.
    """

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self._opener = OneChild()
        files = [s.file for s in subjects if s.suspect and not s.installed]
        self.neighbours = neighbours_among(files, opener=self._opener)
        first = [reference.name for reference in self.neighbours]
        self._opener.plan([*first, *(file for file in files if file not in first)])
        for reference in self.neighbours[:_HELD] if len(files) > 1 else ():
            # What is wrong with it, its own result says.
            with contextlib.suppress(SgxEnclavesError):
                reference.items()

    def opener_for(self, subject: Subject) -> Opener:
        """What opens that package."""
        return self._opener if subject.header is None else Installed(subject.header)

    def close(self) -> None:
        """Close them."""
        self._opener.close()


def references_for(
    neighbours: tuple[PackageReference, ...], options: Options, query: Query
) -> tuple[tuple[Reference, ...], Neighbours]:
    """What is trusted, and what is asked besides.

    Args:
        neighbours: packages on the command line.
        options: the configuration.
        query: see `InstalledReference`.
    """
    beside: tuple[Reference, ...] = (*neighbours, InstalledReference(query, signed=False))
    return (
        (ConfiguredReference(options), InstalledReference(query, signed=True)),
        Neighbours(beside, options.neighbours == "trust", options.neighbours == "signed"),
    )
