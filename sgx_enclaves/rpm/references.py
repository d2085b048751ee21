# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the unsigned counterpart of a signed enclave and its config.xml come from.

A reference is a package of unsigned enclaves, a folder, or a built directory
(`built_reference.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Optional, Protocol

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.known import pin_for_file
from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.enclaves import CONFIG_SUFFIX, ConfigFile, PackedEnclave, enclaves_among
from sgx_enclaves.rpm.payload import Opener, files_with_content, packed
from sgx_enclaves.rpm.presence import PROVIDE_PREFIX, SIGNED_SUFFIX, stem_of, version_of
from sgx_enclaves.rpm.reader import DEFAULT_PACKAGE_LIMITS, Package, PackageLimits


@record
class Counterpart:
    """An unsigned enclave that a signed one may be held against.

    Attributes:
        name: what to call it in messages.
        data: its bytes.
        config_name: what to call its config.xml.
        config: the bytes of that; None when the reference has none for it.
        sha256: of the data, hexadecimal, where it is known.
    """

    name: str
    data: bytes
    config_name: str
    config: Optional[bytes]
    sha256: Optional[str] = None


class Reference(Protocol):
    """A source of counterparts."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """The unsigned enclaves whose name fits a signed one's, those of its version first.

        Raises:
            SgxEnclavesError: the reference cannot be read.
        """


# What `sgx-enclaves build` leaves in a built directory.
MANIFEST = "manifest.json"
_CONFIGS = 256
_FOLDER_ENTRIES = 20_000
_SHARED_OBJECT = ".so"


def config_for(path: str, configs: Iterable[str], *, only_enclave: bool) -> Optional[str]:
    """Which of several config.xml files belongs to an enclave.

    For `libsgx_id_enclave.so`: `libsgx_id_enclave.config.xml`,
    `id_enclave.config.xml`, `ide.config.xml`, or a `config.xml` in a folder of one
    of these names; otherwise the only one there is, if it is the only enclave.

    Args:
        path: the enclave.
        configs: paths of config.xml files.
        only_enclave: whether the reference has no other enclave.
    """
    stem = stem_of(path)
    names = [stem, f"{stem}.so"]
    pin = pin_for_file(path)
    if pin is not None:
        names += [pin.file, pin.enclave]
    known = sorted(configs)
    for name in names:
        for config in known:
            folder, _, base = config.rpartition("/")
            if base == f"{name}.{CONFIG_SUFFIX}" or (
                base == CONFIG_SUFFIX and folder.rsplit("/", 1)[-1] == name
            ):
                return config
    return known[0] if only_enclave and len(known) == 1 else None


def _ordered(path: str, candidates: Iterable[str]) -> list[str]:
    version = version_of(path)
    fitting = [c for c in candidates if stem_of(c) == stem_of(path)]
    return sorted(fitting, key=lambda c: (version_of(c) not in (version, None), c))


class PackageReference:
    """A package of unsigned enclaves, for example `sgx-enclave-reproducible-pce-unsigned`.

    Its header is read once, its files once for each signed enclave that asks, and
    only if the header lists a file of a fitting name.

    Args:
        path: the package file.
        limits: see `PackageLimits`.
        opener: opens it; its files need not be read from the package file.

    Raises:
        InputError: the package is no reference: built with the distribution's newest
            toolchain, or without an unsigned enclave.
        SgxEnclavesError: it cannot be read.
    """

    def __init__(
        self,
        path: str,
        limits: PackageLimits = DEFAULT_PACKAGE_LIMITS,
        opener: Opener = packed,
    ) -> None:
        self.name = path
        self._limits = limits
        self._opener = opener
        with opener(path, limits) as (package, _members):
            self.nevra = package.nevra
            if is_latest(package):
                raise InputError(
                    "not a reference: built with the distribution's newest toolchain",
                    file=path,
                    found="Provides sgx-enclave(...:unsigned:latest)",
                    hint="take the package built with the designated toolchain",
                )
            files = [file.path for file in files_with_content(package)]
        self._configs = [f for f in files if f.endswith(CONFIG_SUFFIX)]
        self._enclaves = [f for f in files if _may_be_unsigned(f)]
        if len(self._configs) > _CONFIGS:
            raise LimitError("too many config.xml files", file=path, expected=f"at most {_CONFIGS}")
        if not self._enclaves:
            raise InputError(
                "not a reference: no unsigned enclave is in it",
                file=path,
                hint="name the package with the unsigned enclaves, or a folder",
            )

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        fitting = _ordered(path, self._enclaves)
        configs = {f: config_for(f, self._configs, only_enclave=self._is_alone) for f in fitting}
        for wanted in fitting:
            yield from self._read(wanted, configs[wanted])

    @property
    def _is_alone(self) -> bool:
        return len(self._enclaves) == 1

    def _read(self, wanted: str, config: Optional[str]) -> Iterator[Counterpart]:
        """The enclave and its config.xml, in whichever order they come."""
        found: Optional[PackedEnclave] = None
        text: Optional[bytes] = None
        with self._opener(self.name, self._limits) as (package, members):
            for item in enclaves_among(package, members, configs=True):
                if isinstance(item, ConfigFile):
                    if item.path == config:
                        text = item.data
                elif wanted in item.names:
                    found = item
                # The next one is read before this name is bound anew.
                del item
                if found and (config is None or text is not None):
                    break
        if found is None:
            raise InputError("the package has changed while it was read", file=self.name)
        if found.problem is None and not found.signed:
            name = f"{self.name}:{wanted}"
            config_name = f"{self.name}:{config or CONFIG_SUFFIX}"
            yield Counterpart(name, found.data, config_name, text, found.sha256)


def _may_be_unsigned(path: str) -> bool:
    base = path.rsplit("/", 1)[-1]
    return _SHARED_OBJECT in base and SIGNED_SUFFIX not in base


class FolderReference:
    """A folder with unsigned enclaves and their config.xml files, at any depth.

    Args:
        path: the folder.
        limits: see `PackageLimits`.

    Raises:
        InputError: it cannot be read.
        LimitError: there are too many files in it.
    """

    def __init__(self, path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS) -> None:
        self.name = path
        self._limits = limits
        self._enclaves: list[str] = []
        self._configs: list[str] = []
        for file in _files_below(path):
            if file.endswith(CONFIG_SUFFIX):
                self._configs.append(file)
            elif _may_be_unsigned(file):
                self._enclaves.append(file)

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        for wanted in _ordered(path, self._enclaves):
            data = read_file(wanted, self._limits.enclave.file_size)
            if _is_signed(data, wanted, self._limits):
                continue
            config = config_for(wanted, self._configs, only_enclave=len(self._enclaves) == 1)
            yield Counterpart(
                wanted,
                data,
                config or f"{self.name}/{CONFIG_SUFFIX}",
                None if config is None else read_file(config, self._limits.enclave.config_size),
            )


def _is_signed(data: bytes, name: str, limits: PackageLimits) -> bool:
    """Whether it holds signatures; a file that is no enclave is for the comparison to refuse."""
    try:
        return any(EnclaveImage.parse(data, name, limits.enclave).descriptor)
    except SgxEnclavesError:
        return False


def _files_below(path: str) -> Iterator[str]:
    seen = set()
    count = 0

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot be read: {error.strerror}", file=error.filename) from None

    for folder, folders, files in os.walk(path, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            count += 1
            if count > _FOLDER_ENTRIES:
                raise LimitError(
                    "too many files in the reference folder",
                    file=path,
                    expected=f"at most {_FOLDER_ENTRIES}",
                )
            file = Path(folder, name)
            # Of a file and its links, one is enough.
            real = os.path.realpath(file)
            if file.is_file() and real not in seen:
                seen.add(real)
                yield str(file)


def is_latest(package: Package) -> bool:
    """Whether it provides `sgx-enclave(NAME:unsigned:latest)`, which is never a reference."""
    return any(
        p.name.startswith(PROVIDE_PREFIX) and p.name.endswith(":unsigned:latest)")
        for p in package.provides
    )


def open_reference(path: str, limits: PackageLimits = DEFAULT_PACKAGE_LIMITS) -> Reference:
    """A built directory or its manifest, another folder, or a package as a reference.

    Raises:
        SgxEnclavesError: it is none of them, or cannot be read.
    """
    place = Path(path)
    if place.name == MANIFEST or (place / MANIFEST).is_file():
        # Takes as long to import as a comparison, and most references are none.
        from sgx_enclaves.rpm.built_reference import BuiltReference  # noqa: PLC0415

        return BuiltReference(path, limits)
    if place.is_dir():
        return FolderReference(path, limits)
    return PackageReference(path, limits)
