# SPDX-License-Identifier: GPL-2.0-or-later
"""What we use of rpmlint, which has no types: this is the one place that says so.

Holds for rpmlint 2.0 to 2.10. What is not sure to be there in each of them is
asked for with `getattr` where it is used.

Does a package need a closer look? Decided on its file list and what rpmlint has unpacked.

Says yes to every package that claims or carries an enclave, whatever it is
called, and to one whose files were not all unpacked: rpmlint itself does not
notice that. The closer look reads the package file itself.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from typing import Any, Optional

from sgx_enclaves.plain import record
from sgx_enclaves.rpm.presence import is_suspect

# rpmlint's `Pkg`, of which are used: name, arch, filename, is_source, header, files, ghost_files,
# provides and dir_name(), the folder it is extracted in, which is `/` for an installed package.
LintPackage = Any
# Its `PkgFile`: path, size and mode.
PackedFile = Any
# Its `Filter`: badness, blocked_filters, error_details, printed_messages, results, score and
# add_info().
Output = Any


@record
class NotedPackage:
    """What is kept of a package until all have been seen: `add_info` accepts it as one.

    Suspect is what may carry enclaves, so that its files must be read. Findings about a path
    with blanks are ambiguous. An installed package has no file, but a header in the database.
    """

    name: str
    arch: Optional[str]
    file: str
    is_source: bool
    installed: bool
    suspect: bool
    blanks: bool = False
    header: Optional[bytes] = None
    current_linenum: None = None


_ELF_MAGIC = b"\x7fELF"


def subject_of(package: LintPackage) -> NotedPackage:
    """What must be kept of a package."""
    installed = package.dir_name() in (None, "/")
    # rpm hands 16-bit modes out as signed or unsigned, depending on its release.
    paths = (path for path, file in package.files.items() if not stat.S_ISDIR(file.mode & 0xFFFF))
    suspect = is_suspect((str(provide[0]) for provide in package.provides), paths) or any(
        map(_may_be_enclave, regular_files(package).values())
    )
    return NotedPackage(
        name=package.name,
        arch=package.arch,
        file=str(package.filename),
        is_source=bool(package.is_source),
        installed=installed,
        suspect=suspect,
        blanks=any(" " in path for path in package.files),
        header=bytes(package.header.unload()) if suspect and installed else None,
    )


def _may_be_enclave(file: PackedFile) -> bool:
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
            # Not before an ELF file is there: most packages have none, and this takes time.
            from sgx_enclaves.rpm.enclaves import is_enclave  # noqa: PLC0415

            return is_enclave(data)


def regular_files(package: LintPackage) -> Mapping[str, PackedFile]:
    """The regular files that come with a package, by path."""
    ghosts = set(package.ghost_files)
    return {
        path: file
        for path, file in package.files.items()
        if path not in ghosts and stat.S_ISREG(file.mode & 0xFFFF)
    }
