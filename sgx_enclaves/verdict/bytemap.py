# SPDX-License-Identifier: GPL-2.0-or-later
"""Account for every byte of a file: split it into ranges by origin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sgx_enclaves.format.metadata import Block, FipsSignature
from sgx_enclaves.format.sigstruct import SIGNATURE_FIELDS, Sigstruct
from sgx_enclaves.verdict.model import ByteRange, Origin

Range = tuple[int, int]

_CHUNK = 4096
_MOST_RANGES = 1 << 15
_NOT_ZERO = re.compile(rb"[^\0]+")


def signature_ranges(blocks: Iterable[Block]) -> list[Range]:
    """Offsets in the descriptor of what only the signer can make, in order."""
    ranges = []
    for block in blocks:
        base = block.offset + Block.SIGSTRUCT_OFFSET
        for field in SIGNATURE_FIELDS:
            start, end = Sigstruct.range_of(field)
            ranges.append((base + start, base + end))
        if block.fips_offset is not None:
            start = block.offset + block.fips_offset
            ranges.append((start, start + FipsSignature.SIZE))
    return ranges


def differing_ranges(left: bytes, right: bytes) -> list[Range]:
    """Where two byte strings of the same length differ.

    Equal chunks are skipped at the speed of a memory comparison, so equal
    inputs cost next to nothing. After `_MOST_RANGES` ranges the rest is told
    by whole chunks, which claims too much and never too little.
    """
    if left == right:
        return []
    ranges: list[Range] = []
    for base in range(0, len(left), _CHUNK):
        a, b = left[base : base + _CHUNK], right[base : base + _CHUNK]
        if a == b:
            continue
        if len(ranges) >= _MOST_RANGES:
            found = [(base, base + len(a))]
        else:
            mixed = int.from_bytes(a, "big") ^ int.from_bytes(b, "big")
            runs = _NOT_ZERO.finditer(mixed.to_bytes(len(a), "big"))
            found = [(base + run.start(), base + run.end()) for run in runs]
        if ranges and ranges[-1][1] == found[0][0]:
            found[0] = (ranges.pop()[0], found[0][1])
        ranges += found
    return ranges


def outside(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """The parts of sorted `ranges` that are not in sorted `holes`."""
    result = []
    for start, end in ranges:
        position = start
        for hole_start, hole_end in holes:
            if hole_end <= position or hole_start >= end:
                continue
            if hole_start > position:
                result.append((position, hole_start))
            position = max(position, hole_end)
        if position < end:
            result.append((position, end))
    return result


def paint(size: int, layers: Iterable[tuple[Origin, Iterable[Range]]]) -> tuple[ByteRange, ...]:
    """Ranges that cover 0 to `size` without gap or overlap; later layers win.

    Args:
        size: bytes of the file.
        layers: an origin and the ranges that have it, the background first.
    """
    edges = {0, size}
    flat: list[tuple[Origin, list[Range]]] = []
    for origin, ranges in layers:
        clipped = [(max(0, s), min(size, e)) for s, e in ranges if s < size and e > 0 and s < e]
        edges.update(edge for item in clipped for edge in item)
        flat.append((origin, clipped))
    points = sorted(edges)
    origins = [Origin.UNEXPLAINED] * max(0, len(points) - 1)
    index = {point: i for i, point in enumerate(points)}
    for origin, clipped in flat:
        for start, end in clipped:
            origins[index[start] : index[end]] = [origin] * (index[end] - index[start])
    merged: list[ByteRange] = []
    for i, origin in enumerate(origins):
        if merged and merged[-1].origin is origin:
            merged[-1] = ByteRange(merged[-1].start, points[i + 1], origin)
        else:
            merged.append(ByteRange(points[i], points[i + 1], origin))
    return tuple(merged)
