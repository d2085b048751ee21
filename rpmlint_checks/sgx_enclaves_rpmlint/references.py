# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the check looks for unsigned counterparts, and in which order.

First the other packages on rpmlint's command line, then what the configuration
names, then what is installed. Each is opened only when a signed enclave asks for it.

The headers of installed packages, by what they provide; asks the RPM database.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.payload import Installed, Opener, packed
from sgx_enclaves.rpm.presence import enclave_name, stem_of
from sgx_enclaves.rpm.references import (
    Counterpart,
    PackageReference,
    Reference,
    open_reference,
)
from sgx_enclaves_rpmlint.options import Options
from sgx_enclaves_rpmlint.packages import Subject

_NEVER = re.compile(r"sgx-enclave\([^()]*:(?:signed|unsigned:latest)[:)]")


@record
class InstalledPackage:
    """An installed package: what to call it, and its header as the database has it."""

    name: str
    header: bytes


def installed_packages(provide: str) -> list[InstalledPackage]:
    """All installed packages that provide something and may be references.

    Raises:
        InputError: the database cannot be read.
    """
    # rpmlint needs this module too; it has no types.
    rpm = importlib.import_module("rpm")
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [
        InstalledPackage(f"installed {header[rpm.RPMTAG_NEVRA]}", header.unload())
        for header in headers
        if not any(map(never_a_reference, header[rpm.RPMTAG_PROVIDENAME]))
    ]


def never_a_reference(provide: str) -> bool:
    """Whether a package with this Provides proves nothing, whatever else it provides.

    It was built with the distribution's newest toolchain, or brings the signed
    enclave along: then it would be its own witness.
    """
    return bool(_NEVER.match(provide))


Query = Callable[[str], list[InstalledPackage]]
_UNSIGNED = "-unsigned"
_REPRODUCIBLE = ":unsigned:reproducible)"


class LazyReference:
    """A reference that is opened when it is asked for the first time.

    Args:
        name: what to call it in messages.
        opener: opens it.
    """

    def __init__(self, name: str, opener: Callable[[], Reference]) -> None:
        self.name = name
        self._opener = opener
        self._opened: Optional[Reference] = None
        self._error: Optional[SgxEnclavesError] = None

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        if self._error is not None:
            raise self._error
        if self._opened is None:
            try:
                self._opened = self._opener()
            except SgxEnclavesError as error:
                self._error = error
                raise
        yield from self._opened.counterparts(path)


class ConfiguredReference:
    """The folders and packages that [SgxEnclave] names, by enclave and version.

    Args:
        options: the configuration.
    """

    name = "[SgxEnclave] reference"

    def __init__(self, options: Options) -> None:
        self._options = options
        self._opened: dict[str, LazyReference] = {}

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        places = self._options.paths_for(path)
        for place in places:
            opener = functools.partial(open_reference, place)
            self._opened.setdefault(place, LazyReference(place, opener))
        yield from _all_of([self._opened[place] for place in places], path)


class InstalledReference:
    """The installed packages that provide `sgx-enclave(NAME:unsigned:reproducible)`.

    Args:
        query: the installed packages that provide something.
    """

    name = "installed packages"

    def __init__(self, query: Query) -> None:
        self._query = query
        self._opened: dict[str, LazyReference] = {}

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        name = enclave_name(path) or stem_of(path)
        packages = self._query(f"sgx-enclave({name}{_REPRODUCIBLE}")
        for package in packages:
            opener = functools.partial(
                PackageReference, package.name, opener=Installed(package.header)
            )
            self._opened.setdefault(package.name, LazyReference(package.name, opener))
        yield from _all_of([self._opened[package.name] for package in packages], path)


def _all_of(references: Iterable[Reference], path: str) -> Iterator[Counterpart]:
    """The counterparts of each; one that cannot be read does not hide the others."""
    first: Optional[SgxEnclavesError] = None
    for reference in references:
        try:
            yield from reference.counterparts(path)
        except SgxEnclavesError as error:
            first = first or error
    if first is not None:
        raise first


def is_neighbour(subject: Subject) -> bool:
    """Whether a package on the command line serves as a reference for the others."""
    names = [name for name, _version in subject.provides]
    if subject.is_source or subject.installed or any(map(never_a_reference, names)):
        return False
    return subject.name.endswith(_UNSIGNED) or any(n.endswith(_REPRODUCIBLE) for n in names)


def references_for(subjects: Iterable[Subject], options: Options, query: Query) -> list[Reference]:
    """All references, in the order in which they are asked.

    Args:
        subjects: every package on the command line.
        options: the configuration.
        query: see `InstalledReference`.
    """
    neighbours = [
        LazyReference(s.file, functools.partial(PackageReference, s.file))
        for s in subjects
        if is_neighbour(s)
    ]
    return [*neighbours, ConfiguredReference(options), InstalledReference(query)]


def opener_for(subject: Subject) -> Opener:
    """Where the files of a package that rpmlint was given are read from."""
    return packed if subject.header is None else Installed(subject.header)
