# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a package need a closer look? Decided on the files that rpmlint has extracted.

Says yes to every package that claims or carries an enclave, whatever it is
called, and to one whose files were not all extracted: rpmlint itself does not
notice that. The closer look reads the package file, never what was extracted.
"""

from __future__ import annotations

import os
import stat

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.packages.enclaves import has_metadata_section
from sgx_enclaves.packages.presence import ENCLAVE_FOLDER, PROVIDE_PREFIX
from sgx_enclaves.verdict.known import pin_for_file
from sgx_enclaves_rpmlint.boundary import LintPackage, PackedFile, Subject, provides_of

_ELF_MAGIC = b"\x7fELF"


def subject_of(package: LintPackage) -> Subject:
    """What must be kept of a package."""
    provides = provides_of(package)
    installed = package.dir_name() in (None, "/")
    claims = any(name.startswith(PROVIDE_PREFIX) for name, _version in provides)
    suspect = claims or any(_is_suspect(path, file) for path, file in _files(package))
    return Subject(
        package.name,
        package.arch,
        str(package.filename),
        bool(package.is_source),
        installed,
        provides,
        suspect,
    )


def _files(package: LintPackage) -> list[tuple[str, PackedFile]]:
    ghosts = set(package.ghost_files)
    return [
        (path, file)
        for path, file in package.files.items()
        # rpm hands 16-bit modes out as signed or unsigned, depending on its release.
        if path not in ghosts and stat.S_ISREG(file.mode & 0xFFFF)
    ]


def _is_suspect(path: str, file: PackedFile) -> bool:
    if path.startswith(ENCLAVE_FOLDER) or ".signed.so" in path or pin_for_file(path):
        return True
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
    return _is_enclave(file.path)


def _is_enclave(path: str) -> bool:
    """Whether an ELF file may be an enclave; yes when it cannot be told."""
    try:
        return has_metadata_section(read_file(path, DEFAULT_LIMITS.file_size))
    except SgxEnclavesError:
        return True
