# SPDX-License-Identifier: GPL-2.0-or-later
"""What the check compares signed enclaves with, beside the packages on the command line.

What the configuration names and the installed packages that somebody has signed are
trusted; installed packages without a signature are worth what a neighbour is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.header import librpm
from sgx_enclaves.rpm.payload import Installed, Opener, packed
from sgx_enclaves.rpm.presence import enclave_name, stem_of
from sgx_enclaves.rpm.references import (
    REPRODUCIBLE,
    Counterpart,
    Neighbours,
    PackageReference,
    Reference,
    is_signed,
    neighbours_among,
    never_a_reference,
    open_reference,
)
from sgx_enclaves_rpmlint.options import Options
from sgx_enclaves_rpmlint.packages import Subject


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


def references_for(
    subjects: Iterable[Subject], options: Options, query: Query
) -> tuple[tuple[Reference, ...], Neighbours]:
    """What is trusted, and what is asked besides.

    Args:
        subjects: every package on the command line.
        options: the configuration.
        query: see `InstalledReference`.
    """
    packages = neighbours_among(s.file for s in subjects if s.header is None and not s.installed)
    beside: tuple[Reference, ...] = (*packages, InstalledReference(query, signed=False))
    return (
        (ConfiguredReference(options), InstalledReference(query, signed=True)),
        Neighbours(beside, options.neighbours == "trust", options.neighbours == "signed"),
    )


def opener_for(subject: Subject) -> Opener:
    """Where the files of a package that rpmlint was given are read from."""
    return packed if subject.header is None else Installed(subject.header)
