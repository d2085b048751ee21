# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a built directory: its manifest, and each file held against it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import ManifestError
from sgx_enclaves.files import make_folder, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB, Limits
from sgx_enclaves.releases.manifest import (
    MANIFEST,
    EnclaveRecord,
    FileRecord,
    Manifest,
    write_manifest,
)
from sgx_enclaves.releases.manifest_reader import read_manifest

_MAX_MANIFEST = 16 * MIB


@dataclass(frozen=True)
class BuiltEnclave:
    """An enclave that was built.

    Attributes:
        name: such as `ide`.
        file: such as `id_enclave`.
        unsigned: the enclave file.
        config: its `config.xml`.
    """

    name: str
    file: str
    unsigned: bytes
    config: bytes


@dataclass(frozen=True)
class Built:
    """A built directory, checked.

    Attributes:
        directory: where it is.
        manifest: its record, which also tells of the enclaves that were not built.
        enclaves: those that were, in the order of the manifest.
    """

    directory: Path
    manifest: Manifest
    enclaves: tuple[BuiltEnclave, ...]

    def enclave(self, name: str) -> Optional[BuiltEnclave]:
        """The enclave of that name; None if it was not built."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)


def load_manifest(directory: Path) -> Manifest:
    """Read the manifest of a built directory.

    Raises:
        ManifestError: there is none, or it is wrong.
        InputError: it cannot be read.
        LimitError: it is too large.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ManifestError(
            "holds no manifest, so no build ended here",
            file=str(directory),
            hint="build into a new directory with `sgx-enclaves build`",
        )
    return read_manifest(read_file(str(path), _MAX_MANIFEST), str(path))


def load_built(directory: Path, limits: Limits = DEFAULT_LIMITS) -> Built:
    """Read a built directory; each file must have the digest that the manifest gives.

    Raises:
        ManifestError: no manifest, a wrong one, or a file that is not what it says.
        InputError: a file cannot be read.
        LimitError: a file is too large.
    """
    manifest = load_manifest(directory)
    enclaves = (load_enclave(directory, record, limits) for record in manifest.enclaves)
    return Built(directory, manifest, tuple(enclave for enclave in enclaves if enclave))


def load_enclave(
    directory: Path, record: EnclaveRecord, limits: Limits = DEFAULT_LIMITS
) -> Optional[BuiltEnclave]:
    """Read one enclave of a built directory; None if it was not built.

    Raises:
        ManifestError, InputError, LimitError: as `load_built`.
    """
    if record.unsigned is None or record.config is None:
        return None
    return BuiltEnclave(
        record.name,
        record.file,
        _read(directory, record.unsigned, limits.file_size),
        _read(directory, record.config, limits.config_size),
    )


def set_apart(directory: Path, manifest: Manifest, name: str) -> Path:
    """Make a built directory of one enclave alone, within the one that it was built in.

    Args:
        directory: what `build_release` made.
        manifest: its record.
        name: of an enclave that was built.

    Returns:
        The new directory, called after the enclave.

    Raises:
        SgxEnclavesError: a file cannot be read or written, or is not what was built.
    """
    own = manifest.only(name)
    into = directory / name
    make_folder(into)
    for enclave in own.enclaves:
        for record in (enclave.unsigned, enclave.config):
            if record is not None:
                write_file(str(into / record.file), _read(directory, record, record.size))
    write_manifest(into, own)
    return into


def _read(directory: Path, record: FileRecord, limit: int) -> bytes:
    path = str(directory / record.file)
    data = read_file(path, limit)
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256 or len(data) != record.size:
        raise ManifestError(
            "is not the file that the manifest describes",
            file=path,
            expected=f"{record.size} bytes, sha256 {record.sha256}",
            found=f"{len(data)} bytes, sha256 {found}",
            hint="it was changed after the build; build anew",
        )
    return data
