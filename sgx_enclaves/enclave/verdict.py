# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict and what it rests on: one object that every front end only words.

And ranges of bytes, with which it accounts for every byte of a file: where two byte strings
differ, and where each byte comes from. Bytes are compared in chunks, as large integers, so
that equal files cost next to nothing and different ones little, however they differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.plain import record

if TYPE_CHECKING:  # it makes findings
    from sgx_enclaves.enclave.policy import Policy


class Outcome(str, Enum):
    """The only verdicts there are."""

    IDENTICAL = "identical"
    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"

    @classmethod
    def of(cls, parts: Iterable[Outcome]) -> Outcome:
        """The verdict on all: one part that differs is enough, and none proves nothing."""
        found = set(parts)
        if cls.DIFFERS in found:
            return cls.DIFFERS
        return cls.IDENTICAL if found == {cls.IDENTICAL} else cls.UNVERIFIABLE

    @property
    def exit_status(self) -> int:
        """0, 1 or 2: the exit status of every command that gives a verdict."""
        return {"identical": 0, "differs": 1, "unverifiable": 2}[self.value]


class Severity(str, Enum):
    """What a finding means for the verdict."""

    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"
    NOTE = "note"


class Origin(str, Enum):
    """Where a byte of the vendor's file comes from."""

    BUILT = "built"
    REGENERATED = "regenerated"
    SIGNATURE = "signature"
    # By a throw-away key that nothing binds to the vendor (EnableIPPFIPS).
    SECOND_SIGNATURE = "second signature"
    UNEXPLAINED = "unexplained"


@record
class Finding:
    """One thing that was found out, for people and programs.

    Attributes:
        code: a stable name, for example `signature-invalid`; the message is one sentence.
        block: index of the metadata block it is about.
        offset: byte offset in the vendor's file.
        hint: the next step for the user.
    """

    code: str
    severity: Severity
    message: str
    block: Optional[int] = None
    offset: Optional[int] = None
    expected: Optional[str] = None
    found: Optional[str] = None
    hint: Optional[str] = None


class CheckState(str, Enum):
    """How one of the checks of a comparison ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    NOT_DONE = "not done"


@record
class Check:
    """One of the claims that make up the verdict *identical*."""

    name: str
    claim: str
    state: CheckState


@record
class ByteRange:
    """Bytes `start` to `end` (exclusive) of the vendor's file have one origin."""

    start: int
    end: int
    origin: Origin


@record
class FileFacts:
    """What identifies an input file: name, size in bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@record
class BlockFacts:
    """What a metadata block of the vendor's file says about the enclave."""

    index: int
    version: str
    mrenclave: str
    mrsigner: str
    signer: Optional[str]
    isvprodid: int
    isvsvn: int
    date: str
    debug: bool


@record
class Difference:
    """A range of bytes that is not as it should be.

    Attributes:
        where: `payload`, `metadata`, `appended` or `truncated`.
        segment: index of the PT_LOAD segment, None when not loaded.
        expected: the bytes as they should be, a short hexadecimal excerpt.
    """

    start: int
    end: int
    where: str
    segment: Optional[int]
    section: Optional[str]
    symbol: Optional[str]
    field: Optional[str]
    measured: bool
    expected: str
    found: str


@record
class Cause:
    """A likely reason for differences, in a sentence that names both sides."""

    code: str
    message: str
    hint: Optional[str] = None


@record
class Explanation:
    """Why the files differ: the first ranges, how many are omitted, likely causes, best first."""

    differences: tuple[Difference, ...]
    omitted: int
    differing_bytes: int
    causes: tuple[Cause, ...]


# What no comparison of three files can show. Who also made the built file says that itself.
NOT_PROVED = (
    "that the built file came from the enclave's sources: a vendor's file with its metadata "
    "area zeroed, given as the built one, is identical by nature",
    "which toolchain made the built file",
    "that this config.xml is the one of the enclave's release",
)


@record
class Verdict:
    """The result of a comparison.

    Attributes:
        sdk: the SDK generation that was followed, None when none could be.
        sdk_from: who chose it: `our build`, `option`, `the vendor's metadata` or `nothing`.
        mrenclave: measured from our file, hexadecimal; None when it was not.
        byte_map: the vendor's whole file, range by range.
        not_proved: what the verdict takes on trust, a clause each.
        explanation: why the files differ; None until somebody asked for it.
    """

    outcome: Outcome
    built: FileFacts
    signed: FileFacts
    config: FileFacts
    policy: Policy
    sdk: Optional[str]
    sdk_from: str
    mrenclave: Optional[str]
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    blocks: tuple[BlockFacts, ...]
    byte_map: tuple[ByteRange, ...]
    not_proved: tuple[str, ...]
    explanation: Optional[Explanation] = None

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return self.outcome.exit_status

    @property
    def headline(self) -> str:
        """The verdict as one precise sentence, the file named without its directory."""
        name = self.signed.name.rpartition("/")[2]
        states = {check.state for check in self.checks if check.name != "policy"}
        if self.outcome is Outcome.IDENTICAL:
            return f"{name} is our build plus a signature, and nothing else"
        if states == {CheckState.PROVED}:
            reasons = dict.fromkeys(
                f.message for f in self.findings if f.severity is not Severity.NOTE
            )
            return f"{name} is our build plus a signature, but is refused: {'; '.join(reasons)}"
        if self.outcome is Outcome.DIFFERS:
            return f"{name} is not our build plus a signature"
        return f"it is undecided whether {name} is our build plus a signature"

    def bytes_of(self, origin: Origin) -> int:
        """How many bytes of the vendor's file have this origin."""
        return sum(r.end - r.start for r in self.byte_map if r.origin is origin)


Range = tuple[int, int]

# Equal bytes between two differences that are still shown as one range.
GAP = 16
_CHUNK = 1 << 16


def changes(left: bytes, right: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Each chunk between two offsets that differs: where it starts, and its bytes XORed."""
    for base in range(start, end, _CHUNK):
        stop = min(base + _CHUNK, end)
        ours, theirs = left[base:stop], right[base:stop]
        if ours != theirs:
            mixed = int.from_bytes(ours, "big") ^ int.from_bytes(theirs, "big")
            yield base, mixed.to_bytes(stop - base, "big")


def differing_ranges(
    left: bytes, right: bytes, areas: Iterable[Range], gap: int = 1
) -> Iterator[Range]:
    """Where they differ in each of `areas`; what is less than `gap` bytes apart is one range."""
    nearby = rb"(?:\0{1,%d}[^\0]+)*" % (gap - 1) if gap > 1 else b""
    pattern = re.compile(rb"[^\0]+" + nearby)
    for start, end in areas:
        # Nothing yet: an empty range too far off to be continued.
        last = (-gap, -gap)
        for base, mixed in changes(left, right, start, end):
            for match in pattern.finditer(mixed):
                found = (base + match.start(), base + match.end())
                if found[0] - last[1] < gap:
                    last = (last[0], found[1])
                    continue
                if last[1] > 0:
                    yield last
                last = found
        if last[1] > 0:
            yield last


def outside(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """The parts of sorted `ranges` that are not in sorted `holes`."""
    result = []
    for start, end in ranges:
        position = start
        for hole_start, hole_end in holes:
            if position < min(hole_start, end):
                result.append((position, min(hole_start, end)))
            position = max(position, hole_end)
        if position < end:
            result.append((position, end))
    return result


def shifted(ranges: Iterable[Range], by: int) -> list[Range]:
    """The ranges, `by` bytes further on."""
    return [(start + by, end + by) for start, end in ranges]


def paint(size: int, layers: Iterable[tuple[Origin, Iterable[Range]]]) -> tuple[ByteRange, ...]:
    """Ranges that cover 0 to `size` without gap or overlap; of the layers, the later ones win."""
    flat = [
        (start, end, origin)
        for origin, ranges in layers
        for start, end in ((max(0, first), min(size, last)) for first, last in ranges)
        if start < end
    ]
    points = sorted({0, size, *(edge for start, end, _ in flat for edge in (start, end))})
    index = {point: i for i, point in enumerate(points)}
    origins = [Origin.UNEXPLAINED] * (len(points) - 1)
    for start, end, origin in flat:
        origins[index[start] : index[end]] = [origin] * (index[end] - index[start])
    starts = [i for i, origin in enumerate(origins) if i == 0 or origin is not origins[i - 1]]
    ends = [*starts[1:], len(origins)]
    return tuple(ByteRange(points[i], points[j], origins[i]) for i, j in zip(starts, ends))


def finding_of(error: SgxEnclavesError, code: str) -> Finding:
    """An error as a finding that makes a verdict *unverifiable*."""
    where = f"{error.file}: " if error.file else ""
    return Finding(
        code,
        Severity.UNVERIFIABLE,
        where + error.message,
        offset=error.offset,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )
