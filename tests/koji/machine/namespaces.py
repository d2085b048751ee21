# SPDX-License-Identifier: GPL-2.0-or-later
"""Namespaces and mounts of Linux, as far as the harness needs them; needs root.

Knows system calls and nothing of Koji. Python has `os.unshare` only from 3.12 on.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

# linux/sched.h
NEW_MOUNTS = 0x00020000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000
# linux/mount.h
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
# linux/prctl.h
_PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def die_with_parent() -> None:
    """Be killed when the process that forked this one ends, by whatever it ends."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name; mounts made from now on stay inside."""
    _check(_LIBC.unshare(flags), "unshare")
    if flags & NEW_MOUNTS:
        _mount("none", Path("/"), "", _RECURSIVE | _PRIVATE)


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    _check(
        _LIBC.mount(
            source.encode(),
            os.fsencode(target),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        f"mount {source} on {target}",
    )


def bind(source: Path, target: Path, *, read_only: bool = False, deep: bool = False) -> None:
    """Show `source` at `target`, which must exist; `deep` with the mounts below it."""
    _mount(str(source), target, "", _BIND | (_RECURSIVE if deep else 0))
    if read_only:
        _mount("none", target, "", _BIND | _REMOUNT | _READ_ONLY)


def lay_over(upper: Path, lower: Path, target: Path) -> None:
    """Show both folders' files at `target`, read-only; those of `upper` win."""
    _mount("overlay", target, "overlay", _READ_ONLY, f"lowerdir={upper}:{lower}")


def mount_proc(target: Path) -> None:
    """Mount the process table of this process's own namespace."""
    _mount("proc", target, "proc", 0)
