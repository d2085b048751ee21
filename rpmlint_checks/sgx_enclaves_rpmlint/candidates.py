# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a package need a closer look? Decided on its file list and what rpmlint has unpacked.

Says yes to every package that claims or carries an enclave, whatever it is
called, and to one whose files were not all unpacked: rpmlint itself does not
notice that. The closer look holds every file against the package's header.
"""

from __future__ import annotations

import mmap
import os
import stat

from sgx_enclaves.packages.presence import ENCLAVE_FOLDER, ENCLAVE_FOLDERS, contains_enclaves
from sgx_enclaves_rpmlint.boundary import LintPackage, PackedFile, Subject, provides_of
from sgx_enclaves_rpmlint.kept import Kept, regular_files

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
    from sgx_enclaves.packages.enclaves import is_enclave  # noqa: PLC0415

    return is_enclave(data)
