# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of a difference between two builds, from the traces in them.

A trace shows that something was done otherwise, not that nothing else was:
each cause says what was seen, and guesses are worded as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Optional

from sgx_enclaves.enclave.verdict import Cause
from sgx_enclaves.explain.description import SHF_ALLOC, Side, excerpt

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


def build_causes(ours: Side, theirs: Side) -> Iterator[Cause]:
    """The causes that traces show, most certain first."""
    yield from _interpreter(ours, theirs)
    build_id = list(_build_id(ours, theirs))
    # Where both have one, it differs because something else does.
    follows = ours.description.build_id is not None and theirs.description.build_id is not None
    if not follows:
        yield from build_id
    yield from _hash_style(ours, theirs)
    linker = list(_linker(ours, theirs))
    yield from linker
    yield from _only_sections(ours, theirs, bool(linker))
    options = [] if linker else list(_link_options(ours, theirs))
    yield from options
    yield from _comment(ours, theirs)
    mitigations = list(_mitigation(ours, theirs))
    yield from mitigations
    if ours.has_textrel != theirs.has_textrel:
        yield Cause(
            "text-relocations",
            f"{_who(ours.has_textrel)} has text relocations (DT_TEXTREL), "
            f"{_other(ours.has_textrel)} not: code or constants were built without -fPIC there",
            _TOOLCHAIN,
        )
    yield from _strings(ours, theirs)
    yield from _code(ours, theirs, bool(mitigations or options or linker))
    yield from _stripped(ours, theirs)
    yield from _restripped(ours, theirs)
    if follows:
        yield from build_id


def _who(ours: bool) -> str:
    return "our build" if ours else "the vendor's file"


def _other(ours: bool) -> str:
    return "the vendor's file" if ours else "our build"


def _interpreter(ours: Side, theirs: Side) -> Iterator[Cause]:
    if ours.description.interpreter != theirs.description.interpreter:
        yield Cause(
            "interpreter-path",
            f"PT_INTERP is {theirs.description.interpreter or 'absent'} in the vendor's file, "
            f"{ours.description.interpreter or 'absent'} in our build",
            "the linker bakes in the path of its C library, and it is measured: "
            "use the same --dynamic-linker",
        )


def _hash_style(ours: Side, theirs: Side) -> Iterator[Cause]:
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


def _build_id(ours: Side, theirs: Side) -> Iterator[Cause]:
    if ours.description.build_id != theirs.description.build_id:
        yield Cause(
            "build-id",
            f"the build id is {theirs.description.build_id or 'absent'} in the vendor's file, "
            f"{ours.description.build_id or 'absent'} in our build",
            "link with the same --build-id option; where both have one, it only "
            "follows from another difference",
        )


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
    both = set(ours.loaded_order) & set(theirs.loaded_order)
    expected, found = (
        [name for name in side.loaded_order if name in both] for side in (ours, theirs)
    )
    for our_name, their_name in zip(expected, found):
        if our_name != their_name:
            yield Cause(
                "other-linker",
                f"the loaded sections stand in another order: {excerpt(their_name)} in the "
                f"vendor's file where our build has {excerpt(our_name)}: likely another linker "
                "(bfd, gold, lld, mold), or another linker script",
                _TOOLCHAIN,
            )
            return


def _only_sections(ours: Side, theirs: Side, other_linker: bool) -> Iterator[Cause]:
    """Sections that only one side has, each kind with what adds it."""
    for is_ours, side, other in ((True, ours, theirs), (False, theirs, ours)):
        names = {s.name for s in other.description.sections}
        if not names:
            return
        for section in side.description.sections:
            is_debug = section.name.startswith((".debug", ".zdebug"))
            if section.name in names or section.name in _HAVE_CAUSES or is_debug:
                continue
            loaded = "a loaded section" if section.flags & SHF_ALLOC else "a section"
            if other_linker and section.name not in _ADDED_BY:
                # It names its sections as it likes.
                continue
            yield Cause(
                "section-only-in-one",
                f"{_who(is_ours)} has {loaded} {excerpt(section.name)}, {_other(is_ours)} not",
                _ADDED_BY.get(section.name, "link and strip as the enclave's makefile does"),
            )


_DF_BIND_NOW, _DF_1_NOW = 8, 1


def _link_options(ours: Side, theirs: Side) -> Iterator[Cause]:
    """Options of the linker that program headers and dynamic flags show."""
    expected, found = _linked_with(ours), _linked_with(theirs)
    if not ours.description.segments or not theirs.description.segments:
        return
    for option in expected:
        if expected[option] != found[option]:
            yield Cause(
                "link-option",
                f"the linker was given another {option}: {found[option]} in the vendor's file, "
                f"{expected[option]} in our build",
                "link with the options of the enclave's makefile; the distribution may add its own",
            )


def _linked_with(side: Side) -> dict[str, str]:
    """Option to what is seen of it."""
    segments, dynamic = side.description.segments, dict(side.description.dynamic)
    stack = [flags for kind, flags in segments if kind == "PT_GNU_STACK"]
    loads = [flags for kind, flags in segments if kind == "PT_LOAD"]
    now = (
        "DT_BIND_NOW" in dynamic
        or dynamic.get("DT_FLAGS", 0) & _DF_BIND_NOW
        or dynamic.get("DT_FLAGS_1", 0) & _DF_1_NOW
    )
    packed = {"DT_RELR", "DT_RELRSZ", "36"} & set(dynamic)
    rights = ("PT_GNU_STACK executable" if stack[0] & 1 else "not executable") if stack else "none"
    return {
        "-z execstack (PT_GNU_STACK)": rights,
        "-z relro (PT_GNU_RELRO)": "yes" if any(k == "PT_GNU_RELRO" for k, _ in segments) else "no",
        "-z now (BIND_NOW)": "yes" if now else "no",
        "-z separate-code (number of PT_LOAD)": str(len(loads)),
        "-z pack-relative-relocs (DT_RELR)": "yes" if packed else "no",
        "-z ibt, -z shstk (.note.gnu.property)": " and ".join(side.description.features) or "none",
    }


def _comment(ours: Side, theirs: Side) -> Iterator[Cause]:
    producers = ours.description.producers, theirs.description.producers
    if all(producers) and producers[0] != producers[1]:
        yield Cause(
            "compiler-comment",
            f"debugging information names the compilers {', '.join(producers[1])} in the "
            f"vendor's file, {', '.join(producers[0])} in our build",
            _TOOLCHAIN,
        )
    expected, found = ours.description.comments, theirs.description.comments
    if expected == found:
        return
    if expected is None or found is None:
        has = expected is not None
        text = ", ".join(expected or found or ())
        yield Cause(
            "comment-section",
            f"{_who(has)} has a section .comment ({text or 'empty'}), {_other(has)} not",
            "strip both alike: Intel's makefiles use --remove-section=.comment",
        )
        return
    yield Cause(
        "compiler-comment",
        f"the compilers name themselves {', '.join(found) or 'nothing'} in the "
        f"vendor's file, {', '.join(expected) or 'nothing'} in our build",
        _TOOLCHAIN,
    )


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
        yield Cause(
            "mitigation",
            f"the code was built with another mitigation: the vendor's has {'; '.join(seen)}",
            "use the same mitigation options (MITIGATION-CVE-2020-0551, -fcf-protection, ...)",
        )


def _strings(ours: Side, theirs: Side) -> Iterator[Cause]:
    # A linker may put other bytes before a string, so that it looks like another one.
    only_ours = sorted(s for s in ours.strings - theirs.strings if not theirs.holds(s))
    only_theirs = sorted(s for s in theirs.strings - ours.strings if not ours.holds(s))
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
    return f'"{excerpt(strings[0])}"{more}'


def _code(ours: Side, theirs: Side, explained: bool) -> Iterator[Cause]:
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


def _stripped(ours: Side, theirs: Side) -> Iterator[Cause]:
    if ours.description.symtab != theirs.description.symtab:
        sides = " ".join(
            f"{who} has {'no .symtab' if n is None else f'a .symtab of {n} entries'}{end}"
            for who, n, end in (
                ("the vendor's file", theirs.description.symtab, ","),
                ("our build", ours.description.symtab, ""),
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


def _restripped(ours: Side, theirs: Side) -> Iterator[Cause]:
    """The same sections, named in another order: what a strip tool decides."""
    names = [side.section_names for side in (ours, theirs)]
    if ours.loaded_places != theirs.loaded_places or names[0] == names[1]:
        return
    if sorted(names[0].split(b"\0")) == sorted(names[1].split(b"\0")):
        yield Cause(
            "stripped-differently",
            "the section names (.shstrtab) stand in another order: stripped by another tool, or by "
            "another version of it",
            "strip with the binutils of the enclave's release, once, as its makefile does",
        )
