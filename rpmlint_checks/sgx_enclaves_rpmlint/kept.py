# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps files that rpmlint has unpacked beyond their package, without copying them.

rpmlint removes what it unpacked before the next package comes; a counterpart may
come later still. A hard link costs nothing, and saves unpacking again. Who
reads the files holds each against the package's header.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from typing import Optional

from sgx_enclaves_rpmlint.boundary import LintPackage, PackedFile

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
