# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of rpmlint: packages are noted as they come and judged when all have been seen.

A signed enclave's counterpart may be in a package that comes later. File list and what rpmlint has
unpacked decide whether a package needs a closer look, which reads the package file itself: what
claims or carries an enclave, and what was not all unpacked, which rpmlint does not notice. Never
raises: what goes wrong is a finding. What judges is imported only when there is something to judge.

What we use of rpmlint 2.0 to 2.10, which has no types, stands here.
"""

from __future__ import annotations

import gc
import mmap
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from sgx_enclaves import findings
from sgx_enclaves.findings import FindingKind
from sgx_enclaves.plain import printable, record
from sgx_enclaves.rpm.presence import is_suspect

# rpmlint's `Pkg`, of which are used: name, arch, filename, header, ghost_files, provides,
# files (path, size and mode of each) and dir_name(), the folder it is extracted in, which is
# `/` for an installed package.
LintPackage = Any
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
    installed: bool
    suspect: bool
    blanks: bool = False
    header: Optional[bytes] = None
    current_linenum: None = None


_ELF_MAGIC = b"\x7fELF"


def subject_of(package: LintPackage) -> NotedPackage:
    """What must be kept of a package."""
    installed = package.dir_name() in (None, "/")
    ghosts = set(package.ghost_files)
    # rpm hands 16-bit modes out as signed or unsigned, depending on its release.
    kinds_of = {path: stat.S_IFMT(file.mode & 0xFFFF) for path, file in package.files.items()}
    paths = (path for path, kind in kinds_of.items() if kind != stat.S_IFDIR)
    suspect = is_suspect((str(provide[0]) for provide in package.provides), paths) or any(
        _may_be_enclave(package.files[path])
        for path, kind in kinds_of.items()
        if kind == stat.S_IFREG and path not in ghosts
    )
    return NotedPackage(
        name=package.name,
        arch=package.arch,
        file=str(package.filename),
        installed=installed,
        suspect=suspect,
        blanks=any(" " in path for path in package.files),
        header=bytes(package.header.unload()) if suspect and installed else None,
    )


def _may_be_enclave(file: Any) -> bool:
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


# More than any threshold: a package with one of our errors is never acceptable.
BADNESS = 10_000
LEVELS = {"error": "E", "warning": "W", "info": "I"}
FAILED = "sgx-enclave-check-failed"
# Characters of a whole line, and of what is behind an id where names leave less.
_LINE = 200
_LEAST = 90
# Of the cause, where not all of a line fits.
_LEAST_CAUSE, _MOST_CAUSE = 24, 72
_REST = "… see check-rpm --report"
# Not compiled before a line is too long.
_FOLDERS = r"(?<![\w.…])/[^\s;']*/(?=[^\s;'])"


def kinds() -> Mapping[str, FindingKind]:
    """The findings that the check reports, out of the product's one table, by rpmlint's id."""
    return {id_: kind for id_, kind in findings.kinds().items() if kind.severity in LEVELS}


def id_of(code: str) -> str:
    """What words a finding of the core; one that is in no table is a failure of the check."""
    kind = findings.kinds().get(code)
    return (kind.rpmlint if kind else "") or FAILED


class Report(NamedTuple):
    """One line for rpmlint: which package it is about, its id and what is behind it."""

    package: Any
    code: str
    text: str


def room_for(package: Any, code: str) -> int:
    """How many characters may follow an id, so that what rpmlint prints is short enough."""
    start = f"{package.name}.{package.arch}: E: {code} "
    badness = f"(Badness: {BADNESS}) " if kinds()[code].severity == "error" else ""
    return max(_LEAST, _LINE - len(start + badness))


def report(package: Any, code: str, cause: str, file: str = "", *rest: str) -> Report:
    """A report of parts in the order of their weight, which must not steer a terminal.

    Of one that is too long, folders are left out first, then the end. The file's name stays.
    """
    room = room_for(package, code)
    parts = [printable(part) for part in (cause, file, *rest) if part]
    if len("; ".join(parts)) > room:
        last = 2 if file else 1
        parts[:last] = [re.sub(_FOLDERS, "…/", part) for part in parts[:last]]
    if len("; ".join(parts)) > room:
        room -= len(_REST)
        left = max(_LEAST_CAUSE, min(_MOST_CAUSE, room - len("".join(parts[1:2]) + "; ")))
        if file and len(parts[0]) > left:
            parts[0] = f"{parts[0][: left - 1]}…"
        parts = ["; ".join(parts)[:room] + _REST]
    return Report(package, code, "; ".join(parts))


class Session:
    """The check, apart from rpmlint.

    Describes our findings, and puts the errors out of reach of a package's rpmlintrc.
    """

    def __init__(self, table: object, output: Output) -> None:
        self._table = table
        self._output = output
        self._subjects: dict[tuple[str, bool], NotedPackage] = {}
        self._judged = 0
        for id_, kind in kinds().items():
            output.error_details[id_] = f"{kind.meaning} {kind.do}"
            if kind.severity == "error":
                # `addFilter` does not apply to these, and `setBadness` was read before.
                output.blocked_filters.add(id_)
                output.badness[id_] = BADNESS

    def note(self, package: LintPackage) -> None:
        """Look at a package that rpmlint has just unpacked."""
        try:
            subject = subject_of(package)
            # Named twice, for example by its path and by its folder's, it is one package.
            self._subjects.setdefault((subject.file, subject.installed), subject)
        except Exception as error:
            self._emit(failed(package, error))

    def conclude(self) -> None:
        """Judge every package that was noted since the last time."""
        subjects = list(self._subjects.values())
        suspects = [subject for subject in subjects[self._judged :] if subject.suspect]
        self._judged = len(subjects)
        if not suspects:
            return
        # Nothing of ours is garbage in circles; to look for it, here and in children, takes time.
        gc.disable()
        try:
            # Takes as long as all the rest of our start, and most packages have no enclave.
            from sgx_enclaves_rpmlint.judge import judged  # noqa: PLC0415

            for found in judged(suspects, subjects, self._table, self._output):
                self._emit(found)
        except Exception as error:
            for subject in suspects:
                self._emit(failed(subject, error))
        finally:
            # Python looks for garbage in all that is there once more at its end. That takes half as
            # long as all of this, for a child process has shared each page that it writes to.
            gc.freeze()
            gc.enable()

    def _emit(self, found: Report) -> None:
        level = LEVELS[kinds()[found.code].severity]
        self._output.add_info(level, *found)


def failed(package: Any, error: Exception) -> Report:
    """The finding for what nobody expected."""
    return report(package, "sgx-enclave-check-failed", f"{type(error).__name__}: {error}")
