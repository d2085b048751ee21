# SPDX-License-Identifier: GPL-2.0-or-later
"""What we use of rpmlint, which has no types: this is the one place that says so.

Holds for rpmlint 2.0 to 2.10. What is not sure to be there in each of them is
asked for with `getattr` where it is used.

Does a package need a closer look? Decided on its file list and what rpmlint has unpacked.

Says yes to every package that claims or carries an enclave, whatever it is
called, and to one whose files were not all unpacked: rpmlint itself does not
notice that. The closer look holds every file against the package's header.

Keeps files that rpmlint has unpacked beyond their package, without copying them.

rpmlint removes what it unpacked before the next package comes; a counterpart may
come later still. A hard link costs nothing, and saves unpacking again. Who
reads the files holds each against the package's header.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import tempfile
from collections.abc import Mapping
from typing import Any, Optional, Protocol

from sgx_enclaves.plain import record
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER, ENCLAVE_FOLDERS, contains_enclaves


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


_ELF_MAGIC = b"\x7fELF"


def subject_of(package: LintPackage, kept: Kept) -> Subject:
    """What must be kept of a package.

    Args:
        package: as rpmlint hands it over.
        kept: keeps the files of one that needs a closer look.
    """
    provides = provides_of(package)
    installed = package.dir_name() in (None, "/")
    suspect = _claims(package, provides) or any(map(_is_suspect, regular_files(package).values()))
    return Subject(
        name=package.name,
        arch=package.arch,
        file=str(package.filename),
        is_source=bool(package.is_source),
        installed=installed,
        provides=provides if suspect else (),
        suspect=suspect,
        blanks=any(" " in path for path in package.files),
        places=kept.keep(package) if suspect and not installed else None,
        header=bytes(package.header.unload()) if suspect and installed else None,
    )


def _claims(package: LintPackage, provides: tuple[tuple[str, str], ...]) -> bool:
    """Whether Provides or the name of any file, link or ghost speaks of an enclave."""
    if contains_enclaves((name for name, _version in provides), package.files):
        return True
    return any(
        path.startswith(ENCLAVE_FOLDER)
        or (path in ENCLAVE_FOLDERS and stat.S_ISLNK(file.mode & 0xFFFF))
        for path, file in package.files.items()
    )


def _is_suspect(file: PackedFile) -> bool:
    try:
        handle = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        # Of hard links the header may state the size at one of them only.
        if not stat.S_ISREG(status.st_mode) or (file.size and status.st_size != file.size):
            return True
        if stream.read(len(_ELF_MAGIC)) != _ELF_MAGIC:
            return False
        # Any size will do, for nothing of it is held.
        with mmap.mmap(handle, 0, prot=mmap.PROT_READ) as data:
            return _is_enclave(data)


def _is_enclave(data: mmap.mmap) -> bool:
    # Not before an ELF file is there: most packages have none, and this takes time.
    from sgx_enclaves.rpm.enclaves import is_enclave  # noqa: PLC0415

    return is_enclave(data)


# A package with more is read from its file instead: it is not one of enclaves only.
_MOST_FILES = 10_000


class Kept:
    """What is kept, in a folder that goes when this is closed or the process ends."""

    def __init__(self) -> None:
        self._folder: Optional[tempfile.TemporaryDirectory[str]] = None
        self._count = 0

    def keep(self, package: LintPackage) -> Optional[Mapping[str, str]]:
        """Path in the package to path of the kept file, of all of its regular files.

        None when they cannot be kept: not unpacked, not all of them, not in full, too many.
        """
        files = regular_files(package)
        folder = package.dir_name()
        if not folder or len(files) > _MOST_FILES:
            return None
        try:
            return {path: self._link(path, file.path, folder) for path, file in files.items()}
        except OSError:
            return None

    def close(self) -> None:
        """Remove everything that was kept."""
        folder, self._folder = self._folder, None
        if folder is not None:
            # Nobody is helped by an error about what is left behind.
            with contextlib.suppress(OSError):
                folder.cleanup()

    def _link(self, path: str, source: str, unpacked: str) -> str:
        if self._folder is None:
            # Beside rpmlint's own folders: hard links do not reach other file systems.
            beside = os.path.dirname(os.path.abspath(unpacked))
            self._folder = tempfile.TemporaryDirectory(prefix="rpmlint-sgx-enclaves.", dir=beside)
        if not stat.S_ISREG(os.lstat(source).st_mode):
            raise OSError(f"{path} is no regular file")
        self._count += 1
        place = os.path.join(self._folder.name, str(self._count))
        os.link(source, place, follow_symlinks=False)
        return place


def regular_files(package: LintPackage) -> Mapping[str, PackedFile]:
    """The regular files that come with a package, by path."""
    ghosts = set(package.ghost_files)
    return {
        path: file
        for path, file in package.files.items()
        # rpm hands 16-bit modes out as signed or unsigned, depending on its release.
        if path not in ghosts and stat.S_ISREG(file.mode & 0xFFFF)
    }
