# SPDX-License-Identifier: GPL-2.0-or-later
"""Where two long byte strings differ, for little memory and time however they differ.

Bytes are compared in chunks, as large integers: the cost of a byte does not
depend on whether it differs, and no list grows with the file. Only the first
ranges are kept; the rest are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sgx_enclaves.records import record
from sgx_enclaves.verdict.bytemap import Range

# Equal bytes between two differences that are still shown as one range.
GAP = 16
_CHUNK = 1 << 16
_QUIET = bytes(GAP)
_DIFFERENT = re.compile(rb"[^\0]")
_MARK = bytes([0] + [1] * 255)


@record
class Scan:
    """What a scan found.

    Attributes:
        ranges: the first differing ranges, in order.
        omitted: how many more there are.
        differing_bytes: how many bytes differ in all.
    """

    ranges: tuple[Range, ...]
    omitted: int
    differing_bytes: int


def scan(left: bytes, right: bytes, areas: Iterable[Range], most: int) -> Scan:
    """Find the differing ranges; those less than `GAP` bytes apart are one.

    Args:
        left: one byte string.
        right: the other.
        areas: where to look, within both; a range never crosses their ends.
        most: how many ranges to keep.
    """
    ranges: list[Range] = []
    omitted = differing = 0
    for start, end in areas:
        part = _Area(left, right, most - len(ranges))
        for base in range(start, end, _CHUNK):
            part.chunk(base, min(base + _CHUNK, end))
        ranges += part.ranges
        omitted += part.omitted
        differing += part.differing
    return Scan(tuple(ranges), omitted, differing)


def differ(left: bytes, right: bytes, start: int, end: int) -> bool:
    """Whether any byte from `start` to `end` differs; never copies more than a chunk."""
    for base in range(start, end, _CHUNK):
        stop = min(base + _CHUNK, end)
        if left[base:stop] != right[base:stop]:
            return True
    return False


class _Area:
    """The scan of one area, chunk by chunk."""

    def __init__(self, left: bytes, right: bytes, most: int) -> None:
        self._left = left
        self._right = right
        self._most = most
        # The differences of the last bytes of the chunk before.
        self._before = _QUIET
        self.ranges: list[Range] = []
        self.omitted = 0
        self.differing = 0

    def chunk(self, start: int, end: int) -> None:
        left, right = self._left[start:end], self._right[start:end]
        if left == right:
            self._before = (self._before + bytes(end - start))[-GAP:]
            return
        number = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
        changes = number.to_bytes(end - start, "little")
        self.differing += len(changes) - changes.count(0)
        if self.omitted:
            self.omitted += self._count(changes)
        else:
            self._collect(start, changes)
        self._before = (self._before + changes)[-GAP:]

    def _collect(self, base: int, changes: bytes) -> None:
        """Add the ranges of a chunk one by one, until there are enough."""
        last = len(changes.rstrip(b"\0"))
        started = position = 0
        while position < last:
            match = _DIFFERENT.search(changes, position)
            if match is None:
                return
            start = match.start()
            gap = changes.find(_QUIET, start)
            end = last if gap < 0 else gap
            if self.ranges and base + start - self.ranges[-1][1] < GAP:
                self.ranges[-1] = (self.ranges[-1][0], base + end)
            elif len(self.ranges) < self._most:
                self.ranges.append((base + start, base + end))
                started += 1
            else:
                self.omitted = self._count(changes) - started
                return
            position = end

    def _count(self, changes: bytes) -> int:
        """How many ranges start in a chunk: a difference with `GAP` equal bytes before it."""
        marks = int.from_bytes((self._before + changes).translate(_MARK), "little")
        near = marks | marks << 8
        for bits in (16, 32, 64):
            near |= near << bits
        starts = (marks & ~(near << 8)) >> 8 * GAP
        return starts.to_bytes(len(changes), "little").count(1)
