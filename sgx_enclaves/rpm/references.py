# SPDX-License-Identifier: GPL-2.0-or-later
"""References: packages, folders and built directories with unsigned enclaves and config.xml."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional, Protocol

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.policy import pin_for_file
from sgx_enclaves.errors import InputError, PackageError, SgxEnclavesError
from sgx_enclaves.files import read_file, walk
from sgx_enclaves.limits import DEFAULT_LIMITS, at_most
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.enclaves import (
    CONFIG_SUFFIX,
    ConfigFile,
    EmbeddedEnclaves,
    Item,
    PackedEnclave,
    enclaves_among,
)
from sgx_enclaves.rpm.librpm import is_signed_by_known_key
from sgx_enclaves.rpm.payload import Opener, packed
from sgx_enclaves.rpm.presence import SIGNED_SUFFIX, enclave_name, stem_of, version_of
from sgx_enclaves.rpm.reader import Package


@record
class Counterpart:
    """An unsigned enclave that a signed one may be compared with.

    Attributes:
        config: the bytes of that; None when the reference has none for it.
        sha256: of the data, hexadecimal, where it is known.
        label: the version of its release that packages have, such as 2.25; empty when unknown.
        version: of the file, such as 1.25.100.1; None when unknown.
    """

    name: str
    data: bytes
    config_name: str
    config: Optional[bytes]
    sha256: Optional[str] = None
    package: Optional[PackageReference] = None
    label: str = ""
    version: Optional[str] = None


class Reference(Protocol):
    """A source of counterparts."""

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """The unsigned enclaves whose name fits a signed one's, those of its version first."""


@record
class Neighbours:
    """Packages beside the judged one that may hold its counterpart, and what they are worth.

    What is trusted decides alone; a neighbour decides only where nothing trusted knows the
    enclave, never if it was built from the same source package, and with a note unless a key
    of rpm's keyring has signed it.

    Attributes:
        trusted: take them without a signature.
        signed: refuse them without a signature.
        attested: SHA-256 of what signers whom the user trusts vouch for: a neighbour that is one
            counts as signed, any other counterpart, a reference's too, is refused; None: not asked.
    """

    references: tuple[Reference, ...] = ()
    trusted: bool = False
    signed: bool = False
    attested: Optional[frozenset[str]] = None


MANIFEST = "manifest.json"  # what `sgx-enclaves build` leaves
REPRODUCIBLE = ":unsigned:reproducible)"
_CONFIGS = 256
_FOLDER_ENTRIES = 20_000
_FITTING = 4  # of one name, in one reference: each costs a comparison
_NEVER = re.compile(r"sgx-enclave\([^()]*:(?:signed|unsigned:latest)[:)]")
_NEVER_WHY = "built with the distribution's newest toolchain, or with a signed enclave in it"


def config_for(path: str, configs: Iterable[str], *, only_enclave: bool) -> Optional[str]:
    """Which of several config.xml files belongs to an enclave.

    For `libsgx_id_enclave.so`: `libsgx_id_enclave.config.xml`, `id_enclave.config.xml`,
    `ide.config.xml`, or a `config.xml` in a folder of one of these names; otherwise the only
    one there is, if it is the only enclave.
    """
    stem, pin = stem_of(path), pin_for_file(path)
    names = [stem, f"{stem}.so", *((pin.file, pin.enclave) if pin else ())]
    known = sorted(configs)
    for name in names:
        for config in known:
            if f"/{config}".endswith((f"/{name}.{CONFIG_SUFFIX}", f"/{name}/{CONFIG_SUFFIX}")):
                return config
    return known[0] if only_enclave and len(known) == 1 else None


def _ordered(path: str, candidates: Iterable[str]) -> list[str]:
    fitting = [c for c in candidates if stem_of(c) == stem_of(path)]
    return sorted(fitting, key=lambda c: (version_of(c) not in (version_of(path), None), c))


def _may_be_unsigned(path: str) -> bool:
    base = path.rpartition("/")[2]
    return ".so" in base and SIGNED_SUFFIX not in base


def never_a_reference(provide: str) -> bool:
    """Whether a package with this Provides proves nothing: it may be its own witness."""
    return bool(_NEVER.match(provide))


class PackageReference:
    """A package of unsigned enclaves, for example `sgx-enclave-reproducible-pce-unsigned`.

    Its header is read at once, its files when an enclave asks for one of a fitting name, and then
    all of them: a package that holds a signed enclave, whatever its name, is its own witness.
    """

    def __init__(self, path: str, opener: Opener = packed) -> None:
        self.name = path
        self._opener = opener
        with opener(path) as (package, _members):
            self.source = package.header.one("SOURCERPM", str)
            self._package = package
            for provide in package.provides:
                if never_a_reference(provide.name):
                    raise _no_reference(path, _NEVER_WHY, f"Provides {provide.name}")
            files = [file.path for file in package.files if file.is_regular]
        self._enclaves = [f for f in files if _may_be_unsigned(f)]
        configs = sum(f.endswith(CONFIG_SUFFIX) for f in files)
        at_most(_CONFIGS, configs, "too many config.xml files", file=path)
        if not self._enclaves:
            raise _no_reference(path, "no unsigned enclave is in it", "none")

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        fitting = _ordered(path, self._enclaves)[:_FITTING]
        enclaves: dict[str, PackedEnclave] = {}
        configs: dict[str, bytes] = {}
        for item in self.items() if fitting else ():
            if isinstance(item, ConfigFile):
                configs[item.path] = item.data
            elif isinstance(item, PackedEnclave):
                enclaves.update(dict.fromkeys(item.names, item))
        provide = f"sgx-enclave({enclave_name(path) or ''}:unsigned)"
        label = next((p.version for p in self._package.provides if p.name == provide), "")
        for wanted in filter(enclaves.__contains__, fitting):
            found = enclaves[wanted]
            if found.problem is not None:
                raise found.problem
            config = config_for(wanted, configs, only_enclave=len(self._enclaves) == 1)
            yield Counterpart(
                f"{self.name}:{wanted}",
                found.data,
                f"{self.name}:{config or CONFIG_SUFFIX}",
                None if config is None else configs[config],
                found.sha256,
                self,
                label,
                version_of(wanted),
            )

    @functools.cached_property
    def is_authenticated(self) -> bool:
        """Whether a key of rpm's keyring has signed the package, be it a file or installed."""
        return is_signed_by_known_key(self._package.header, self._package.signatures)

    def is_of(self, package: Package) -> bool:
        """Whether it was read from this package file: from these headers, which pin the payload."""
        own, other = (p.header.digest("sha256") for p in (self._package, package))
        return self.name == package.file and own == other

    def is_neighbour(self) -> bool:
        """Whether its name or a Provides says that it is for others to be compared with."""
        return not self._package.is_source and (
            self._package.name.endswith("-unsigned")
            or any(p.name.endswith(REPRODUCIBLE) for p in self._package.provides)
        )

    @functools.lru_cache(maxsize=4)  # noqa: B019  (of the last few references)
    def items(self) -> tuple[Item, ...]:
        """Every enclave of the package and its config.xml files; held for the next who asks."""
        found: list[Item] = []
        too_large, total = "the enclaves of the package are too large for a reference", 0
        with self._opener(self.name) as (package, members):
            # Whoever signed the package, signed the header that was read first.
            if package.header.blob != self._package.header.blob:
                message = "the package has changed while it was read"
                raise InputError(message, file=self.name, hint="check it again")
            for item in enclaves_among(package, members, configs=True):
                total += 0 if isinstance(item, EmbeddedEnclaves) else len(item.data)
                at_most(package.limits.reference, total, too_large, "bytes", file=self.name)
                if isinstance(item, PackedEnclave) and item.signed:
                    raise _no_reference(self.name, _NEVER_WHY, f"{item.path} is signed")
                found.append(item)
        return tuple(found)


def _no_reference(path: str, why: str, found: str) -> InputError:
    return InputError(
        f"not a reference: {why}",
        file=path,
        found=found,
        hint="take the package of unsigned enclaves that was built with the designated toolchain",
    )


def neighbours_among(paths: Iterable[str], opener: Opener = packed) -> tuple[PackageReference, ...]:
    """The packages that may be references; what is wrong with another, its own result says."""
    found = []
    for path in paths:
        with contextlib.suppress(SgxEnclavesError):
            found.append(PackageReference(path, opener))
    return tuple(reference for reference in found if reference.is_neighbour())


class FolderReference:
    """A folder with unsigned enclaves and their config.xml files, at any depth.

    A built directory in it is what its manifest says. `labels`: label and version of all, if known.
    """

    def __init__(self, path: str, labels: Optional[tuple[str, Optional[str]]] = None) -> None:
        self.name = path
        self._labels = labels
        files = list(_files_below(path))
        self._configs = [file for file in files if file.endswith(CONFIG_SUFFIX)]
        others = (file for file in files if not file.endswith(CONFIG_SUFFIX))
        self._enclaves = [file for file in others if _may_be_unsigned(file)]

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        for wanted in _ordered(path, self._enclaves)[:_FITTING]:
            built = os.path.dirname(wanted)
            if self._labels is None and os.path.isfile(os.path.join(built, MANIFEST)):
                yield from BuiltReference(built).counterparts(path)
                continue
            data = read_file(wanted, DEFAULT_LIMITS.file_size)
            if _is_signed(data, wanted):
                continue
            config = config_for(wanted, self._configs, only_enclave=len(self._enclaves) == 1)
            label, version = self._labels or ("", version_of(wanted))
            yield Counterpart(
                wanted,
                data,
                config or f"{self.name}/{CONFIG_SUFFIX}",
                None if config is None else read_file(config, DEFAULT_LIMITS.config_size),
                label=label,
                version=version,
            )


def _is_signed(data: bytes, name: str) -> bool:
    """Whether it holds signatures; a file that is no enclave is for the comparison to refuse."""
    try:
        return any(EnclaveImage.parse(data, name).descriptor)
    except SgxEnclavesError:
        return False


def _files_below(path: str) -> Iterator[str]:
    seen = set()
    count = 0
    for folder, folders, files in walk(path):
        folders.sort()
        count += len(files)
        at_most(_FOLDER_ENTRIES, count, "too many files in the reference folder", file=path)
        for name in sorted(files):
            file = os.path.join(folder, name)
            # Of a file and its links, one is enough.
            real = os.path.realpath(file)
            if os.path.isfile(file) and real not in seen:
                seen.add(real)
                yield file


def open_reference(path: str) -> Reference:
    """A built directory or its manifest, another folder, or a package as a reference."""
    place = Path(path)
    if place.name == MANIFEST or (place / MANIFEST).is_file():
        return BuiltReference(path)
    if place.is_dir():
        return FolderReference(path)
    try:
        return PackageReference(path)
    except PackageError as error:
        if error.message == "not an RPM package":
            error.hint = "a reference is a package of unsigned enclaves, or a directory with them"
        raise


class BuiltReference:
    """A built directory: its manifest pins every file, and only the version asked for fits."""

    def __init__(self, path: str) -> None:
        # Takes as long to import as a comparison, and most references are no such directory.
        from sgx_enclaves.release import manifest  # noqa: PLC0415

        self.name = path
        self._folder = Path(path) if Path(path).is_dir() else Path(path).parent
        self._reader = manifest
        self._manifest = manifest.load_manifest(self._folder)

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`; no other enclave is read than the one that is asked for."""
        reader, built = self._reader, self._manifest
        toolchain = "the designated" if built.designated else "another"
        origin = f"{built.release}, built with {toolchain} toolchain"
        for kept in built.enclaves:
            name = reader.unsigned_name(kept.file)
            if stem_of(name) != stem_of(path):
                continue
            label, version = self._labels(kept.name)
            if version is not None and version_of(path) not in (version, None):
                continue
            found = reader.load_enclave(self._folder, kept)
            if found is not None:
                said = f"{version} of {origin}" if version else origin
                yield Counterpart(
                    f"{self._folder / name} ({said})",
                    found.unsigned,
                    str(self._folder / reader.config_name(kept.file)),
                    found.config,
                    label=label,
                    version=version,
                )

    def _labels(self, name: str) -> tuple[str, Optional[str]]:
        """As packages of its release and its own file have them; empty when that is not known."""
        from sgx_enclaves.catalogue.reader import load_catalogue  # noqa: PLC0415

        # None if it was built from a description of one's own.
        release = load_catalogue().releases.get(self._manifest.release)
        for enclave in release.enclaves if release is not None else ():
            if enclave.name == name and enclave.so_version is not None:
                return str(getattr(release, enclave.component)), enclave.so_version.value
        return "", None
