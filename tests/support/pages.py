# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process of tests holds, in pages of 2 MiB: a fork copies one entry for each, not 512."""

from __future__ import annotations

import ctypes
from pathlib import Path

_HUGE = 2 << 20
# Of Linux 6.1: at once, and whatever the machine's setting is.
_MADV_COLLAPSE = 25


def in_huge_pages() -> None:
    """Put this process's memory into huge pages, where there are any; elsewhere nothing changes."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        bounds, access, _, _, inode, *name = line.split()
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in bounds.split("-"))
            first, last = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if first < last:
                madvise(first, last - first, _MADV_COLLAPSE)
