# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of a difference between two builds, from the traces in them.

A trace shows that something was done otherwise, not that nothing else was:
each cause says what was seen, and guesses are worded as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.verdict.model import Cause
from sgx_enclaves.verdict.traces import Traces, printable

_TOOLCHAIN = "build with the toolchain of the enclave's release, in the same place"

_PATH = re.compile(r"(?:/[\w.+@~-]+){2,}")
_DATE = re.compile(
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d [12]\d{3}"
    r"|[12]\d{3}-[01]\d-[0-3]\d|[0-2]\d:[0-5]\d:[0-5]\d"
)

# The symbol hash tables that a linker writes by its --hash-style.
_HASHES = (".hash", ".gnu.hash")

# Pieces of our code that are looked for in the other build.
_SAMPLES = 256
_SAMPLE_SIZE = 8
_LEAST_CODE = 256
# Below this share of found pieces, much of the code was generated otherwise: of Intel's
# PCE a build with another compiler has half, one with another link order 19 of 20.
_OTHER_CODE = 0.7
# A moved block has at least so many pieces that follow each other.
_LEAST_RUN = 4
_LETTERS = 4
# Fewer than these are chance or hand-written assembly.
_LEAST_FENCES = 4


def build_causes(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    """The causes that traces show, most certain first."""
    yield from _interpreter(ours, theirs)
    build_id = list(_build_id(ours, theirs))
    # Where both have one, it differs because something else does.
    follows = ours.build_id is not None and theirs.build_id is not None
    if not follows:
        yield from build_id
    yield from _hash_style(ours, theirs)
    yield from _comment(ours, theirs)
    mitigations = list(_mitigation(ours, theirs))
    yield from mitigations
    if ours.textrel != theirs.textrel:
        yield Cause(
            "text-relocations",
            f"{_who(ours.textrel)} has text relocations (DT_TEXTREL), {_other(ours.textrel)} not: "
            "code or constants were built without -fPIC there",
            _TOOLCHAIN,
        )
    yield from _strings(ours, theirs)
    yield from _code(ours, theirs, bool(mitigations))
    yield from _stripped(ours, theirs)
    if follows:
        yield from build_id


def _who(ours: bool) -> str:
    return "our build" if ours else "the vendor's file"


def _other(ours: bool) -> str:
    return "the vendor's file" if ours else "our build"


def _interpreter(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    if ours.interpreter != theirs.interpreter:
        yield Cause(
            "interpreter-path",
            f"PT_INTERP is {theirs.interpreter or 'absent'} in the vendor's file, "
            f"{ours.interpreter or 'absent'} in our build",
            "the linker bakes in the path of its C library, and it is measured: "
            "use the same --dynamic-linker",
        )


def _hash_style(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    styles = [
        " and ".join(name for name in _HASHES if name in side.loaded) or "neither"
        for side in (theirs, ours)
    ]
    if styles[0] != styles[1]:
        yield Cause(
            "hash-style",
            f"the linker wrote {styles[0]} for the vendor's file, {styles[1]} for our build",
            "use the same --hash-style: the sections are measured and move all that follow",
        )


def _build_id(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    if ours.build_id != theirs.build_id:
        yield Cause(
            "build-id",
            f"the build id is {theirs.build_id or 'absent'} in the vendor's file, "
            f"{ours.build_id or 'absent'} in our build",
            "link with the same --build-id option; where both have one, it only "
            "follows from another difference",
        )


def _comment(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    if ours.comments == theirs.comments:
        return
    if ours.comments is None or theirs.comments is None:
        has = ours.comments is not None
        text = ", ".join(ours.comments or theirs.comments or ())
        yield Cause(
            "comment-section",
            f"{_who(has)} has a section .comment ({text or 'empty'}), {_other(has)} not",
            "strip both alike: Intel's makefiles use --remove-section=.comment",
        )
        return
    yield Cause(
        "compiler-comment",
        f"the compilers name themselves {', '.join(theirs.comments) or 'nothing'} in the "
        f"vendor's file, {', '.join(ours.comments) or 'nothing'} in our build",
        _TOOLCHAIN,
    )


def _mitigation(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    kinds = (
        ("lfence instructions (load value injection)", ours.lfences, theirs.lfences),
        ("return trampolines (retpolines)", ours.thunks, theirs.thunks),
        ("endbr64 instructions (CET)", ours.endbranches, theirs.endbranches),
    )
    seen = [
        f"{found} {name}, our build {expected}"
        for name, expected, found in kinds
        if abs(found - expected) >= _LEAST_FENCES
        and max(found, expected) > 2 * min(found, expected)
    ]
    if seen:
        yield Cause(
            "mitigation",
            f"the code was built with another mitigation: the vendor's has {'; '.join(seen)}",
            "use the same mitigation options (MITIGATION-CVE-2020-0551, -fcf-protection, ...)",
        )


def _strings(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    only_ours = sorted(ours.strings - theirs.strings)
    only_theirs = sorted(theirs.strings - ours.strings)
    if not only_ours and not only_theirs:
        return
    for code, pattern, what, hint in (
        ("build-path", _PATH, "a path", "map it away: -ffile-prefix-map=DIR=., or build there"),
        ("build-date", _DATE, "a date or time", "set SOURCE_DATE_EPOCH as the vendor did"),
    ):
        found, expected = _first(pattern, only_theirs), _first(pattern, only_ours)
        if found or expected:
            yield Cause(
                code,
                f"{what} of the build is in the enclave: {found or 'none'} in the vendor's file, "
                f"{expected or 'none'} in our build",
                hint,
            )
    rest_theirs, rest_ours = _words(only_theirs), _words(only_ours)
    if rest_theirs or rest_ours:
        yield Cause(
            "other-strings",
            f"constant strings differ: {_quote(rest_theirs)} only in the vendor's file, "
            f"{_quote(rest_ours)} only in our build",
            "likely other sources or another version of a library: check the release's tag",
        )


def _words(strings: list[str]) -> list[str]:
    """Those that are neither a path nor a date, nor numbers that happen to be printable."""
    return [
        s
        for s in strings
        if sum(map(str.isalpha, s)) >= _LETTERS and not _PATH.search(s) and not _DATE.search(s)
    ]


def _first(pattern: re.Pattern[str], strings: list[str]) -> Optional[str]:
    return next((_quote([s]) for s in strings if pattern.search(s)), None)


def _quote(strings: list[str]) -> str:
    if not strings:
        return "nothing"
    more = f" and {len(strings) - 1} more" if len(strings) > 1 else ""
    return f'"{printable(strings[0])}"{more}'


def _code(ours: Traces, theirs: Traces, explained: bool) -> Iterator[Cause]:
    if ours.code == theirs.code or min(len(ours.code), len(theirs.code)) < _LEAST_CODE:
        return
    found, total, runs = _similarity(ours.code, theirs.code)
    if not total:
        return
    if found < _OTHER_CODE * total and not explained:
        same = ours.strings == theirs.strings
        yield Cause(
            "other-compiler",
            f"much of the code is other code: of {total} pieces of ours {found} are in the "
            "vendor's; likely another compiler, another version of it or of binutils, or "
            f"other options{', as the constant strings are equal' if same else ''}",
            _TOOLCHAIN,
        )
    elif runs > 1:
        yield Cause(
            "link-order",
            f"the same code is in another order ({found} of {total} pieces found, "
            f"in {runs} blocks that were moved): likely another link order",
            "give the objects and libraries to the linker in the vendor's order",
        )


def _similarity(ours: bytes, theirs: bytes) -> tuple[int, int, int]:
    """How many sampled pieces of one code are in the other, of how many, in how many blocks."""
    step = max(_SAMPLE_SIZE // 2, len(ours) // _SAMPLES)
    found = total = 0
    places: list[int] = []
    for start in range(0, len(ours) - _SAMPLE_SIZE + 1, step):
        piece = ours[start : start + _SAMPLE_SIZE]
        # Padding and the like: found anywhere, says nothing.
        if len(set(piece)) < _SAMPLE_SIZE // 2:
            continue
        total += 1
        at = theirs.find(piece)
        if at < 0:
            continue
        found += 1
        if theirs.find(piece, at + 1) < 0 and ours.find(piece) == start:
            places.append(at)
    return found, total, _blocks(places)


def _blocks(places: list[int]) -> int:
    """The number of ascending runs that are long enough to be no coincidence."""
    lengths = [0]
    for before, place in zip([-1, *places], places):
        if place < before:
            lengths.append(0)
        lengths[-1] += 1
    return sum(length >= _LEAST_RUN for length in lengths)


def _stripped(ours: Traces, theirs: Traces) -> Iterator[Cause]:
    if ours.symtab != theirs.symtab:
        sides = " ".join(
            f"{who} has {'no .symtab' if n is None else f'a .symtab of {n} entries'}{end}"
            for who, n, end in (
                ("the vendor's file", theirs.symtab, ","),
                ("our build", ours.symtab, ""),
            )
        )
        yield Cause(
            "stripped-differently",
            f"the files were stripped differently: {sides}",
            "strip as the enclave's makefile does, and keep rpmbuild's brp-strip away from it",
        )
    if ours.debug != theirs.debug:
        names = sorted(set(ours.debug) ^ set(theirs.debug)) or sorted(ours.debug)
        yield Cause(
            "debug-sections",
            f"debugging information differs: {len(ours.debug)} sections in our build, "
            f"{len(theirs.debug)} in the vendor's file ({', '.join(names[:4])})",
            "strip as the enclave's makefile does",
        )
