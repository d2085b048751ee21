# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verdict is made of: outcomes, ranges, headlines; each against a slow or written answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave import verdict as verdicts
from sgx_enclaves.enclave.verdict import (
    ByteRange,
    CheckState,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
    changes,
    differing_ranges,
    outside,
    paint,
    shifted,
)
from tests.support.signed import signed_enclave

SAME, OTHER, OPEN = Outcome.IDENTICAL, Outcome.DIFFERS, Outcome.UNVERIFIABLE


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([], OPEN),
        ([SAME], SAME),
        ([SAME, SAME], SAME),
        ([OPEN], OPEN),
        ([SAME, OPEN], OPEN),
        ([OTHER], OTHER),
        ([SAME, OTHER], OTHER),
        ([OPEN, OTHER, SAME], OTHER),
    ],
)
def test_the_verdict_on_all(parts: Sequence[Outcome], whole: Outcome) -> None:
    assert Outcome.of(parts) is whole


def test_exit_statuses() -> None:
    assert [outcome.exit_status for outcome in (SAME, OTHER, OPEN)] == [0, 1, 2]


def judged(outcome: Outcome, **states: CheckState) -> Verdict:
    case = signed_enclave("2.17")
    good = case.compare()
    checks = tuple(replace(c, state=states.get(c.name, c.state)) for c in good.checks)
    findings = (
        Finding("a", Severity.NOTE, "a note"),
        Finding("b", Severity.DIFFERS, "its signer is another"),
        Finding("b", Severity.DIFFERS, "its signer is another"),
    )
    signed = replace(good.signed, name="a/b/pce.so")
    return replace(good, outcome=outcome, checks=checks, findings=findings, signed=signed)


REFUTED = CheckState.REFUTED


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [
        (judged(SAME), "pce.so is our build plus a signature, and nothing else"),
        (
            judged(OTHER, policy=REFUTED),
            "pce.so is our build plus a signature, but is refused: its signer is another",
        ),
        (
            judged(OPEN, policy=CheckState.NOT_DONE),
            "pce.so is our build plus a signature, but is refused: its signer is another",
        ),
        (judged(OTHER, payload=REFUTED), "pce.so is not our build plus a signature"),
        (
            judged(OTHER, payload=REFUTED, policy=REFUTED),
            "pce.so is not our build plus a signature",
        ),
        (
            judged(OPEN, metadata=CheckState.NOT_DONE),
            "it is undecided whether pce.so is our build plus a signature",
        ),
        (
            judged(OPEN, metadata=CheckState.NOT_DONE, policy=REFUTED),
            "it is undecided whether pce.so is our build plus a signature",
        ),
    ],
)
def test_the_headline(verdict: Verdict, headline: str) -> None:
    assert verdict.headline == headline


def test_the_bytes_of_an_origin() -> None:
    assert judged(SAME).bytes_of(Origin.UNEXPLAINED) == 0
    verdict = replace(
        judged(SAME),
        byte_map=(
            ByteRange(0, 3, Origin.BUILT),
            ByteRange(3, 8, Origin.UNEXPLAINED),
            ByteRange(8, 10, Origin.BUILT),
        ),
    )
    assert [verdict.bytes_of(o) for o in (Origin.BUILT, Origin.UNEXPLAINED)] == [5, 5]


BYTES = st.binary(max_size=40).map(lambda data: bytes(byte % 2 for byte in data))


def slow_ranges(left: bytes, right: bytes, start: int, end: int, gap: int) -> list[tuple[int, int]]:
    """Byte by byte."""
    found: list[tuple[int, int]] = []
    for at in range(start, end):
        if left[at] != right[at]:
            if found and at - found[-1][1] < gap:
                found[-1] = (found[-1][0], at + 1)
            else:
                found.append((at, at + 1))
    return found


@settings(deadline=None)
@given(BYTES, BYTES, st.integers(0, 40), st.integers(0, 40), st.integers(1, 5), st.integers(1, 9))
def test_ranges_are_those_found_byte_by_byte(
    left: bytes, right: bytes, start: int, size: int, gap: int, chunk: int
) -> None:
    common = min(len(left), len(right))
    start, end = min(start, common), min(start + size, common)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "_CHUNK", chunk)
        areas = [(start, end), (0, start)]
        found = list(differing_ranges(left, right, areas, gap))
        assert found == [r for area in areas for r in slow_ranges(left, right, *area, gap)]
        mixed = list(changes(left, right, start, end))
    assert all(any(data) for _, data in mixed)
    differs = {at for at in range(start, end) if left[at] != right[at]}
    assert {at + n for at, data in mixed for n, byte in enumerate(data) if byte} == differs


RANGES = st.lists(st.integers(0, 30), max_size=8).map(
    lambda edges: list(zip(sorted(edges)[::2], sorted(edges)[1::2]))
)


def points(ranges: Sequence[tuple[int, int]]) -> set[int]:
    return {at for start, end in ranges for at in range(start, end)}


@settings(deadline=None)
@given(RANGES, RANGES)
def test_what_is_outside(ranges: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    found = outside(ranges, holes)
    assert points(found) == points(ranges) - points(holes)
    assert all(start < end for start, end in found)


def test_ranges_further_on() -> None:
    assert shifted([(1, 2), (5, 9)], 3) == [(4, 5), (8, 12)]


LAYER = st.tuples(
    st.sampled_from([Origin.BUILT, Origin.SECOND_SIGNATURE]),
    st.lists(st.tuples(st.integers(-3, 30), st.integers(-3, 30)), max_size=4),
)


@settings(deadline=None)
@given(st.integers(0, 25), st.lists(LAYER, max_size=4))
def test_a_painted_map(size: int, layers: list[tuple[Origin, list[tuple[int, int]]]]) -> None:
    expected = [Origin.UNEXPLAINED] * size
    for origin, ranges in layers:
        for at in points(ranges) & set(range(size)):
            expected[at] = origin
    found = paint(size, layers)
    assert [r.origin for r in found for _ in range(r.start, r.end)] == expected
    assert [r.start for r in found] == [0, *(r.end for r in found)][: len(found)]
    assert all(one.origin is not other.origin for one, other in zip(found, found[1:]))
    assert all(r.start < r.end for r in found)
