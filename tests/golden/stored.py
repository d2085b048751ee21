# SPDX-License-Identifier: GPL-2.0-or-later
"""The stored outputs: compare with them, or write them again.

check("verdicts.txt", text)         # fails with a diff
Outcomes("mutants.txt").check(...)  # one character a case
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import string
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
UPDATE = "GOLDEN_UPDATE"
MOST_LINES = 60
PER_LINE = 100
SIGNS = string.ascii_letters + string.digits
# Texts for people in JSON outputs. They may be worded better; the rest are facts.
PROSE = frozenset({"message", "hint", "claim", "expected", "found", "text", "detail"})

_HEX = re.compile(r"\b[0-9a-f]{16,}\b")
_OFFSET = re.compile(r"\b0x[0-9a-f]+\b")
# A report says only of a step that took long how long.
_ELAPSED = re.compile(r"\s+\(\d+\.\d\s+s\)")
_SECONDS = re.compile(r"(?<=\"seconds\": )\d+\.\d+(?:e-\d+)?")
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?")


def updating() -> bool:
    """Whether the outputs are to be written."""
    return bool(os.environ.get(UPDATE))


def stored(name: str) -> str:
    """A stored output; empty if there is none yet."""
    path = DATA / name
    return path.read_text("utf-8") if path.exists() else ""


def check(name: str, text: str) -> None:
    """Fail, with what differs, unless `text` is the stored output of that name."""
    text = text if text.endswith("\n") else f"{text}\n"
    if updating():
        (DATA / name).write_text(text, "utf-8")
        return
    before = stored(name)
    if text == before:
        return
    lines = list(
        difflib.unified_diff(
            before.splitlines(), text.splitlines(), "stored", "now", lineterm="", n=1
        )
    )
    more = f"\n... and {len(lines) - MOST_LINES} lines more" if len(lines) > MOST_LINES else ""
    shown = "\n".join(line[:400] for line in lines[:MOST_LINES])
    pytest.fail(
        f"tests/golden/data/{name} is not what comes out now:\n{shown}{more}\n"
        "if this is meant: python -m tests.golden.update, and say in the commit what changed",
        pytrace=False,
    )


def digest(value: Any, size: int = 12) -> str:
    """A short digest of plain data or of text."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:size]


def facts(value: Any) -> Any:
    """Plain data without the texts for people."""
    if isinstance(value, dict):
        return {key: facts(item) for key, item in value.items() if key not in PROSE}
    if isinstance(value, (list, tuple)):
        return [facts(item) for item in value]
    return value


def check_outcomes(name: str, cases: Sequence[tuple[str, Any]]) -> None:
    """Compare many outcomes with the stored ones: one character a case, and a legend.

    Args:
        name: of the stored output.
        cases: the outcome, one of a few; what more there is to say of it, of which each
            line of the file has a digest.
    """
    legend: dict[str, str] = {}
    for line in stored(name).splitlines():
        sign, _, outcome = line.partition(" = ")
        if len(sign) == 1 and outcome:
            legend[outcome] = sign
    used = {outcome for outcome, _ in cases}
    if updating():
        legend = {outcome: sign for outcome, sign in legend.items() if outcome in used}
    free = iter(sign for sign in SIGNS if sign not in legend.values())
    for outcome, _ in cases:
        if outcome not in legend:
            legend[outcome] = next(free)
    lines = [f"{sign} = {outcome}" for outcome, sign in sorted(legend.items())]
    for start in range(0, len(cases), PER_LINE):
        part = cases[start : start + PER_LINE]
        signs = "".join(legend[outcome] for outcome, _ in part)
        lines.append(f"{start:05} {signs} {digest([more for _, more in part], 8)}")
    check(name, "\n".join(lines))


def normalised(text: str, places: Iterable[tuple[str, str]] = ()) -> str:
    """The text without what differs from run to run and from machine to machine.

    Digests become `<digest N>`, numbered as they come, so that equal ones stay equal.

    Args:
        text: an output.
        places: more strings to replace, longest first, and what to replace them by.
    """
    for old, new in places:
        text = text.replace(old, new)
    seen: dict[str, int] = {}
    text = _HEX.sub(lambda m: f"<digest {seen.setdefault(m[0], len(seen) + 1)}>", text)
    text = _ELAPSED.sub("", text)
    text = _SECONDS.sub("<seconds>", _OFFSET.sub("<offset>", text))
    return _TIME.sub("<time>", text)


class Numbers:
    """Numbers that are the same on every machine and with every Python, from a seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = 0

    def below(self, limit: int) -> int:
        """One number of 0 to `limit` - 1."""
        self._count += 1
        raw = hashlib.sha256(f"{self._seed}/{self._count}".encode()).digest()
        return int.from_bytes(raw[:8], "big") % limit


def mutant(data: bytes, numbers: Numbers, start: int = 0, end: int = 0) -> bytes:
    """The data with one thing done to it somewhere in a range.

    Args:
        data: what to change.
        numbers: decide what, and where.
        start: first offset that may be changed.
        end: offset behind the last one; 0: the end.
    """
    at = start + numbers.below((end or len(data)) - start)
    kind = numbers.below(8)
    if kind < 3:
        return data[:at] + bytes([data[at] ^ 1 << numbers.below(8)]) + data[at + 1 :]
    if kind < 5:
        value = (0, 1, 0x7F, 0x80, 0xFF)[numbers.below(5)]
        size = (1, 2, 4, 8)[numbers.below(4)]
        return data[:at] + bytes([value]) * size + data[at + size :]
    size = 1 + numbers.below(64)
    if kind == 5:
        return data[:at] + data[at + size :]
    if kind == 6:
        return data[:at] + data[at : at + size] + data[at:]
    return data[:at]


def stored_gzip(data: bytes) -> bytes:
    """Packed without packing, and by hand: each zlib packs in its own way."""
    blocks = []
    for start in range(0, max(len(data), 1), 0xFFFF):
        part = data[start : start + 0xFFFF]
        last = start + 0xFFFF >= len(data)
        blocks.append(struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF) + part)
    head = bytes.fromhex("1f8b08000000000000ff")
    return head + b"".join(blocks) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
