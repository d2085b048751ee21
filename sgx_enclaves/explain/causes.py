# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of a difference between two builds, from the traces in them.

A trace shows that something was done otherwise, not that nothing else was:
each cause says what was seen, and guesses are worded as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Optional

from sgx_enclaves.enclave.verdict import Cause
from sgx_enclaves.explain.description import SHF_ALLOC, excerpt
from sgx_enclaves.explain.file_map import Side
from sgx_enclaves.findings import kinds
from sgx_enclaves.plain import some

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
# Functions that are named.
_NAMED = 20
BUILD_ID_SECTION = ".note.gnu.build-id"


def cause(code: str, message: str, hint: str = "") -> Cause:
    """A cause; without a hint, what the table of findings says is what to do about it."""
    do = kinds()[code].do
    return Cause(code, message, hint or do[0].lower() + do[1:].rstrip("."))


class Trace(NamedTuple):
    """A fact of a build that its file shows, in words, and what it means when it differs."""

    code: str
    message: str
    read: Callable[[Side], Optional[str]]
    hint: str = ""


def _only_in(ours: bool, code: str, what: str, why: str = "", hint: str = "") -> Cause:
    """The cause for what only our build has, or only the vendor's file."""
    sides = ("our build", "the vendor's file")
    has, has_not = sides if ours else sides[::-1]
    return cause(code, f"{has} has {what}, {has_not} not{why}", hint)


_IN_BOTH = "{theirs} in the vendor's file, {ours} in our build"

_INTERPRETER = Trace(
    "interpreter-path",
    f"PT_INTERP is {_IN_BOTH}",
    lambda side: side.description.interpreter or "absent",
)
_BUILD_ID = Trace(
    "build-id",
    f"the build id is {_IN_BOTH}",
    lambda side: side.description.build_id or "absent",
)
_ONLY_BUILD_ID = _BUILD_ID._replace(
    message=f"{_BUILD_ID.message}, and everything else is equal: the compiler's version text, "
    "symbol names or the path differed before strip",
    hint="build with the toolchain of the enclave's release, in the same place",
)
_HASH_STYLE = Trace(
    "hash-style",
    "the linker wrote {theirs} for the vendor's file, {ours} for our build",
    lambda side: " and ".join(s for s in _HASHES if side.description.section(s)) or "neither",
)


def _comment(side: Side) -> Optional[str]:
    texts = side.description.comments
    return None if texts is None else ", ".join(texts) or "nothing"


_COMPILERS = (
    Trace(
        "compiler-comment",
        f"debugging information names the compilers {_IN_BOTH}",
        lambda side: ", ".join(side.description.producers) or None,
    ),
    Trace("compiler-comment", f"the compilers name themselves {_IN_BOTH}", _comment),
)
_SYMTAB = Trace(
    "stripped-differently",
    "the files were stripped differently: the vendor's file has {theirs}, our build has {ours}",
    lambda side: (
        "no .symtab"
        if side.description.symtab is None
        else f"a .symtab of {side.description.symtab} entries"
    ),
)


def _stack(side: Side) -> str:
    flags = dict(side.description.segments).get("PT_GNU_STACK")
    if flags is None:
        return "none"
    return "PT_GNU_STACK executable" if flags & 1 else "not executable"


def _binds_now(side: Side) -> str:
    tags = side.description.dynamic
    flags = tags.get("DT_FLAGS", 0) & _DF_BIND_NOW or tags.get("DT_FLAGS_1", 0) & _DF_1_NOW
    return "yes" if flags or "DT_BIND_NOW" in tags else "no"


_DF_BIND_NOW, _DF_1_NOW = 8, 1

# Options of the linker that program headers and dynamic flags show.
_LINK_OPTIONS: Mapping[str, Callable[[Side], str]] = {
    "-z execstack (PT_GNU_STACK)": _stack,
    "-z relro (PT_GNU_RELRO)": lambda side: (
        "yes" if "PT_GNU_RELRO" in dict(side.description.segments) else "no"
    ),
    "-z now (BIND_NOW)": _binds_now,
    "-z separate-code (number of PT_LOAD)": lambda side: str(
        sum(kind == "PT_LOAD" for kind, _ in side.description.segments)
    ),
    "-z pack-relative-relocs (DT_RELR)": lambda side: (
        "yes" if {"DT_RELR", "DT_RELRSZ", "36"} & side.description.dynamic.keys() else "no"
    ),
    "-z ibt, -z shstk (.note.gnu.property)": lambda side: (
        " and ".join(side.description.features) or "none"
    ),
}


def build_causes(ours: Side, theirs: Side, only_build_id: bool = False) -> Iterator[Cause]:
    """The causes that traces show, most certain first, where perhaps only the build id differs."""

    def differing(*traces: Trace) -> Iterator[Cause]:
        for code, message, read, hint in traces:
            expected, found = read(ours), read(theirs)
            if expected is not None and found is not None and expected != found:
                yield cause(code, message.format(theirs=found, ours=expected), hint)

    # Other compilers have other link steps too.
    yield from differing(*_COMPILERS, _INTERPRETER)
    # Where both have one, it differs because something else does.
    follows = ours.description.build_id is not None and theirs.description.build_id is not None
    if not follows:
        yield from differing(_BUILD_ID)
    yield from differing(_HASH_STYLE)
    linker = list(_linker(ours, theirs))
    yield from linker
    yield from _only_sections(ours, theirs, bool(linker))
    given = f"the linker was given another %s: {_IN_BOTH}"
    traces = [Trace("link-option", given % name, read) for name, read in _LINK_OPTIONS.items()]
    known = not linker and ours.description.segments and theirs.description.segments
    options = list(differing(*traces)) if known else []
    yield from options
    comments = _comment(ours), _comment(theirs)
    if comments.count(None) == 1:
        what = f"a section .comment ({comments[0] or comments[1]})"
        yield _only_in(comments[1] is None, "comment-section", what)
    mitigations = list(_mitigation(ours, theirs))
    yield from mitigations
    has = "DT_TEXTREL" in ours.description.dynamic
    if has is not ("DT_TEXTREL" in theirs.description.dynamic):
        why = ": code or constants were built without -fPIC there"
        yield _only_in(has, "text-relocations", "text relocations (DT_TEXTREL)", why)
    yield from _strings(ours, theirs)
    yield from _code(ours, theirs, bool(mitigations or options or linker))
    yield from differing(_SYMTAB)
    yield from _debug_sections(ours, theirs)
    yield from _restripped(ours, theirs)
    if follows:
        yield from differing(_ONLY_BUILD_ID if only_build_id else _BUILD_ID)


# What adds a section that only one of two builds has; others come from other link steps.
_ADDED_BY: Mapping[str, str] = {
    ".note.package": "Fedora's linker adds it: %undefine _package_note_file in the spec file",
    ".gnu_debuglink": "find-debuginfo adds it: keep it away from enclaves, or strip again",
    ".gnu_debugdata": "find-debuginfo adds it: %undefine _include_minidebuginfo in the spec file",
    ".gnu.build.attributes": "annobin adds it: %undefine _annotated_build in the spec file",
    ".annobin.notes": "annobin adds it: %undefine _annotated_build in the spec file",
}
# Those have causes of their own, or come and go with what has.
_HAVE_CAUSES = frozenset(
    {*_HASHES, ".comment", ".symtab", ".strtab", ".interp", ".note.gnu.build-id"}
    | {".note.gnu.property", ".relr.dyn", ".rela.dyn", ".rela.plt", ".got", ".got.plt", ".plt"}
    | {".plt.got", ".plt.sec", ".relro_padding", ".data.rel.ro", "", ".shstrtab", ".note.GNU-stack"}
)


def _linker(ours: Side, theirs: Side) -> Iterator[Cause]:
    """Each linker has an order of its own for the sections that it loads."""
    both = {s.name for s in ours.loaded} & {s.name for s in theirs.loaded}
    expected, found = ([s.name for s in side.loaded if s.name in both] for side in (ours, theirs))
    for our_name, their_name in zip(expected, found):
        if our_name != their_name:
            yield cause(
                "other-linker",
                f"the loaded sections stand in another order: {excerpt(their_name)} in the "
                f"vendor's file where our build has {excerpt(our_name)}: likely another linker "
                "(bfd, gold, lld, mold), or another linker script",
            )
            return


def _only_sections(ours: Side, theirs: Side, other_linker: bool) -> Iterator[Cause]:
    """Sections that only one side has, each kind with what adds it."""
    expected, found = ({s.name: s for s in side.description.sections} for side in (ours, theirs))
    if not expected or not found:
        return
    for name, section in (*expected.items(), *found.items()):
        is_debug = name.startswith((".debug", ".zdebug"))
        # Another linker names its sections as it likes.
        is_linkers = other_linker and name not in _ADDED_BY
        if (name in expected) == (name in found) or name in _HAVE_CAUSES or is_debug or is_linkers:
            continue
        loaded = "a loaded section" if section.flags & SHF_ALLOC else "a section"
        what, hint = f"{loaded} {excerpt(name)}", _ADDED_BY.get(name, "")
        yield _only_in(name in expected, "section-only-in-one", what, hint=hint)


def _mitigation(ours: Side, theirs: Side) -> Iterator[Cause]:
    names = (
        "lfence instructions (load value injection)",
        "return trampolines (retpolines)",
        "endbr64 instructions (CET)",
    )
    seen = [
        f"{found} {name}, our build {expected}"
        for name, expected, found in zip(names, ours.mitigations, theirs.mitigations)
        if abs(found - expected) >= _LEAST_FENCES
        and max(found, expected) > 2 * min(found, expected)
    ]
    if seen:
        words = f"the code was built with another mitigation: the vendor's has {'; '.join(seen)}"
        yield cause("mitigation", words)


def _strings(ours: Side, theirs: Side) -> Iterator[Cause]:
    # A linker may put other bytes before a string, so that it looks like another one.
    only_ours = sorted(s for s in ours.strings - theirs.strings if not theirs.holds(s))
    only_theirs = sorted(s for s in theirs.strings - ours.strings if not ours.holds(s))
    if not only_ours and not only_theirs:
        return
    for code, pattern, what in (
        ("build-path", _PATH, "a path"),
        ("build-date", _DATE, "a date or time"),
    ):
        found, expected = _first(pattern, only_theirs), _first(pattern, only_ours)
        if found or expected:
            yield cause(
                code,
                f"{what} of the build is in the enclave: {found or 'none'} in the vendor's file, "
                f"{expected or 'none'} in our build",
            )
    rest_theirs, rest_ours = _words(only_theirs), _words(only_ours)
    if rest_theirs or rest_ours:
        yield cause(
            "other-strings",
            f"constant strings differ: {_quote(rest_theirs)} only in the vendor's file, "
            f"{_quote(rest_ours)} only in our build",
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
    return f'"{excerpt(strings[0])}"{more}'


def _code(ours: Side, theirs: Side, explained: bool) -> Iterator[Cause]:
    if ours.code == theirs.code or min(len(ours.code), len(theirs.code)) < _LEAST_CODE:
        return
    found, total, runs = _similarity(ours.code, theirs.code)
    if not total:
        return
    if found < _OTHER_CODE * total and not explained:
        same = ours.strings == theirs.strings
        yield cause(
            "other-compiler",
            f"much of the code is other code: of {total} pieces of ours {found} are in the "
            "vendor's; likely another compiler, another version of it or of binutils, or "
            f"other options{', as the constant strings are equal' if same else ''}",
        )
    elif runs > 1:
        yield cause(
            "link-order",
            f"the same code is in another order ({found} of {total} pieces found, "
            f"in {runs} blocks that were moved): likely another link order",
        )


def function_causes(ours: Side, theirs: Side) -> Iterator[Cause]:
    """Which functions differ, where the code stands at the same place."""
    if [s.place for s in ours.instructions] != [s.place for s in theirs.instructions]:
        return
    found = ours.functions.items()
    differing = [name for place, name in found if ours.holds_other(theirs, *place)]
    if differing:
        names = some(map(excerpt, differing), _NAMED)
        words = f"{len(differing):,} of {len(ours.functions):,} functions differ: {names}"
        yield cause("functions-differ", words)


def _similarity(ours: bytes, theirs: bytes) -> tuple[int, int, int]:
    """How many sampled pieces of one code are in the other, of how many, in how many blocks."""
    step = max(_SAMPLE_SIZE // 2, len(ours) // _SAMPLES)
    starts = range(0, len(ours) - _SAMPLE_SIZE + 1, step)
    pieces = [(start, ours[start : start + _SAMPLE_SIZE]) for start in starts]
    # Padding and the like: found anywhere, says nothing.
    telling = [(start, piece) for start, piece in pieces if len(set(piece)) >= _SAMPLE_SIZE // 2]
    found = [(*piece, theirs.find(piece[1])) for piece in telling if piece[1] in theirs]
    places = [
        at
        for start, piece, at in found
        if theirs.find(piece, at + 1) < 0 and ours.find(piece) == start
    ]
    return len(found), len(telling), _blocks(places)


def _blocks(places: list[int]) -> int:
    """The number of ascending runs that are long enough to be no coincidence."""
    lengths = [0]
    for before, place in zip([-1, *places], places):
        if place < before:
            lengths.append(0)
        lengths[-1] += 1
    return sum(length >= _LEAST_RUN for length in lengths)


def _debug_sections(ours: Side, theirs: Side) -> Iterator[Cause]:
    if ours.debug != theirs.debug:
        names = sorted(set(ours.debug) ^ set(theirs.debug)) or sorted(ours.debug)
        words = f"debugging information differs: {len(ours.debug)} sections in our build, "
        words += f"{len(theirs.debug)} in the vendor's file ({', '.join(names[:4])})"
        yield cause("debug-sections", words)


def _restripped(ours: Side, theirs: Side) -> Iterator[Cause]:
    """The same sections, named in another order: what a strip tool decides."""
    names = [side.section_names.split(b"\0") for side in (ours, theirs)]
    places = [[s.place for s in side.loaded] for side in (ours, theirs)]
    reordered = names[0] != names[1] and sorted(names[0]) == sorted(names[1])
    if reordered and places[0] == places[1]:
        yield cause(
            "stripped-differently",
            "the section names (.shstrtab) stand in another order: stripped by another tool, or by "
            "another version of it",
            "strip with the binutils of the enclave's release, once, as its makefile does",
        )
