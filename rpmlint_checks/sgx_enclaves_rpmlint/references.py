# SPDX-License-Identifier: GPL-2.0-or-later
"""What the check compares signed enclaves with, beside the packages on the command line.

What the configuration names and the installed packages that somebody has signed are
trusted; installed packages without a signature are worth what a neighbour is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.payload import Installed, Opener, SharedOpener
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
from sgx_enclaves_rpmlint.packages import NotedPackage

# So many are held in memory, see `PackageReference.items`.
_HELD = 4


# Name for messages, and header as the database has it.
Query = Callable[[str], list[tuple[str, bytes]]]


def installed_packages(provide: str) -> list[tuple[str, bytes]]:
    """All installed packages that provide something and may be references."""
    rpm = librpm()
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [
        (f"installed {header['nevra']}", header.unload())
        for header in headers
        if not any(map(never_a_reference, header["providename"]))
    ]


class ConfiguredReference:
    """The folders and packages that [SgxEnclave] names, by enclave and version."""

    name = "[SgxEnclave] reference"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._open = functools.lru_cache(open_reference)

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        yield from _all_of(self._of, [(place, path) for place in self._options.paths_for(path)])

    def _of(self, place: str, path: str) -> Iterator[Counterpart]:
        yield from self._open(place).counterparts(path)


class InstalledReference:
    """The installed packages that provide `sgx-enclave(NAME:unsigned:reproducible)`.

    Those that a key of rpm's keyring has signed, or the others: that they are installed proves
    nothing, since rpm installs what nobody has signed.
    """

    name = "installed packages"

    def __init__(self, query: Query, *, signed: bool) -> None:
        self._query = query
        self._signed = signed

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        name = enclave_name(path) or stem_of(path)
        found = self._query(f"sgx-enclave({name}{REPRODUCIBLE}")
        yield from _all_of(self._of, [(called, header, path) for called, header in found])

    def _of(self, called: str, header: bytes, path: str) -> Iterator[Counterpart]:
        try:
            reference = PackageReference(called, Installed(header))
        except SgxEnclavesError:
            # What cannot be read is signed by nobody.
            if self._signed:
                return
            raise
        if reference.is_authenticated is self._signed:
            yield from reference.counterparts(path)


def _all_of(
    counterparts: Callable[..., Iterator[Counterpart]], places: Iterable[tuple[Any, ...]]
) -> Iterator[Counterpart]:
    """The counterparts of each; a place that cannot be read does not hide the others."""
    first: Optional[SgxEnclavesError] = None
    for place in places:
        try:
            yield from counterparts(*place)
        except SgxEnclavesError as error:
            first = first or error
    if first is not None:
        raise first


class Files:
    """The package files on the command line, and which of them others may be compared with."""

    def __init__(self, subjects: Sequence[NotedPackage]) -> None:
        self._opener = SharedOpener()
        files = [s.file for s in subjects if s.suspect and not s.installed]
        self.neighbours = neighbours_among(files, opener=self._opener)
        first = [reference.name for reference in self.neighbours]
        self._opener.plan([*first, *(file for file in files if file not in first)])
        for reference in self.neighbours[:_HELD] if len(files) > 1 else ():
            # What is wrong with it, its own result says.
            with contextlib.suppress(SgxEnclavesError):
                reference.items()

    def opener_for(self, subject: NotedPackage) -> Opener:
        """What opens that package."""
        return self._opener if subject.header is None else Installed(subject.header)

    def close(self) -> None:
        """Close them."""
        self._opener.close()


def references_for(
    neighbours: tuple[PackageReference, ...], options: Options, query: Query
) -> tuple[tuple[Reference, ...], Neighbours]:
    """What is trusted, and what is asked besides."""
    beside: tuple[Reference, ...] = (*neighbours, InstalledReference(query, signed=False))
    return (
        (ConfiguredReference(options), InstalledReference(query, signed=True)),
        Neighbours(
            beside,
            options.neighbours == "trust",
            options.neighbours == "signed",
            options.attested,
        ),
    )
