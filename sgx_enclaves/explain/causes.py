# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of a difference between two builds, from the traces in them.

A trace shows that something was done otherwise, not that nothing else was:
each cause says what was seen, and guesses are worded as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Optional

from sgx_enclaves.enclave.elf_headers import PT_GNU_RELRO, PT_GNU_STACK, SHF_ALLOC, Symbol
from sgx_enclaves.enclave.verdict import Cause
from sgx_enclaves.explain.description import excerpt
from sgx_enclaves.explain.file_map import Side, place_of
from sgx_enclaves.findings import kinds
from sgx_enclaves.plain import some

_PATH = re.compile(r"(?:/[\w.+@~-]+){2,}")
_DATE = re.compile(
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d [12]\d{3}"
    r"|[12]\d{3}-[01]\d-[0-3]\d|[0-2]\d:[0-5]\d:[0-5]\d"
)

# The symbol hash tables that a linker writes by its --hash-style.
_HASHES = (".hash", ".gnu.hash")
_DEBUG = (".debug", ".zdebug")

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
_DF_BIND_NOW, _DF_1_NOW = 8, 1
BUILD_ID_SECTION = ".note.gnu.build-id"
# Of a build id where nothing else differs: what to do, and what is said besides.
_NOTHING_ELSE = (
    "build with the toolchain of the enclave's release, in the same place",
    ", and everything else is equal: the compiler's version text, symbol names or the path "
    "differed before strip",
)


def cause(code: str, hint: str = "", **facts: object) -> Cause:
    """A cause in the words of the table of findings, with these facts; its hint, or this one."""
    kind = kinds()[code]
    do = kind.do[0].lower() + kind.do[1:].rstrip(".")
    return Cause(code, kind.says.format(**facts), hint or do)


def _only_in(
    code: str, ours: bool, theirs: bool, what: str = "", hint: str = ""
) -> Iterator[Cause]:
    """The cause for what only our build has, or only the vendor's file."""
    sides = ("our build", "the vendor's file")
    has, lacks = sides if ours else sides[::-1]
    if ours != theirs:
        yield cause(code, hint, has=has, lacks=lacks, what=what)


def _differing(
    code: str, expected: Optional[str], found: Optional[str], hint: str = "", **facts: str
) -> Iterator[Cause]:
    """The cause for a trace that our build and the vendor's file both have, each another one."""
    if None not in (expected, found) and expected != found:
        yield cause(code, hint, theirs=found, ours=expected, **facts)


def _symtab(side: Side) -> str:
    table = side.image.section(".symtab")
    entries = table.header.sh_size // Symbol.SIZE if table is not None else 0
    return "no .symtab" if table is None else f"a .symtab of {entries} entries"


def _traces(side: Side) -> tuple[Optional[str], ...]:
    """Compilers by debugging information and by name, interpreter, build id, hash tables."""
    described = side.description
    comments = described.comments
    return (
        ", ".join(described.producers) or None,
        None if comments is None else ", ".join(comments) or "nothing",
        described.interpreter or "absent",
        described.build_id or "absent",
        " and ".join(filter(side.image.section, _HASHES)) or "neither",
    )


def _link_options(side: Side) -> dict[str, str]:
    """Options of the linker that program headers and dynamic flags show, and what they show."""
    flags = {s.p_type: s.p_flags for s in side.image.segments}
    tags = side.description.dynamic
    executable = flags.get(PT_GNU_STACK, 0) & 1
    stack = "PT_GNU_STACK executable" if executable else "not executable"
    now = tags.get("DT_FLAGS", 0) & _DF_BIND_NOW or tags.get("DT_FLAGS_1", 0) & _DF_1_NOW
    return {
        "-z execstack (PT_GNU_STACK)": stack if PT_GNU_STACK in flags else "none",
        "-z relro (PT_GNU_RELRO)": _yes(PT_GNU_RELRO in flags),
        "-z now (BIND_NOW)": _yes(now or "DT_BIND_NOW" in tags),
        "-z separate-code (number of PT_LOAD)": str(len(side.image.load_segments)),
        "-z pack-relative-relocs (DT_RELR)": _yes({"DT_RELR", "DT_RELRSZ", "36"} & tags.keys()),
        "-z ibt, -z shstk (.note.gnu.property)": " and ".join(side.description.features) or "none",
    }


def _yes(it_is: object) -> str:
    return "yes" if it_is else "no"


def build_causes(ours: Side, theirs: Side, only_build_id: bool) -> Iterator[Cause]:
    """The causes that traces show, most certain first, where perhaps only the build id differs."""
    producers, comments, interpreters, build_ids, hashes = zip(_traces(ours), _traces(theirs))
    # Other compilers have other link steps too.
    by_debugging = "debugging information names the compilers"
    yield from _differing("compiler-comment", *producers, names=by_debugging)
    yield from _differing("compiler-comment", *comments, names="the compilers name themselves")
    yield from _differing("interpreter-path", *interpreters)
    # Where both have one, it differs because something else does.
    follows = "absent" not in build_ids
    hint, alone = _NOTHING_ELSE if only_build_id and follows else ("", "")
    build_id = list(_differing("build-id", *build_ids, hint, alone=alone))
    if not follows:
        yield from build_id
    yield from _differing("hash-style", *hashes)
    linker = list(_linker(ours, theirs))
    yield from linker
    yield from _only_sections(ours, theirs, bool(linker))
    options: list[Cause] = []
    their_options = _link_options(theirs)
    for option, value in _link_options(ours).items() if not linker else ():
        options += _differing("link-option", value, their_options[option], option=option)
    yield from options
    we_have, they_have = (text is not None for text in comments)
    yield from _only_in("comment-section", we_have, they_have, comments[0] or comments[1] or "")
    mitigations = list(_mitigation(ours, theirs))
    yield from mitigations
    we_have, they_have = ("DT_TEXTREL" in side.description.dynamic for side in (ours, theirs))
    yield from _only_in("text-relocations", we_have, they_have)
    yield from _strings(ours, theirs)
    yield from _code(ours, theirs, bool(mitigations or options or linker))
    if _symtab(ours) != _symtab(theirs):
        how = f"the vendor's file has {_symtab(theirs)}, our build has {_symtab(ours)}"
        yield cause("stripped-differently", how=how)
    expected, found = (
        [excerpt(s.name) for s in side.image.sections if s.name.startswith(_DEBUG)]
        for side in (ours, theirs)
    )
    if expected != found:
        different = sorted(set(expected) ^ set(found)) or sorted(expected)
        names = ", ".join(different[:4])
        yield cause("debug-sections", ours=len(expected), theirs=len(found), names=names)
    yield from _restripped(ours, theirs)
    if follows:
        yield from build_id


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
            yield cause("other-linker", theirs=excerpt(their_name), ours=excerpt(our_name))
            return


def _only_sections(ours: Side, theirs: Side, other_linker: bool) -> Iterator[Cause]:
    """Sections that only one side has, each kind with what adds it."""
    expected, found = ({s.name: s for s in side.image.sections} for side in (ours, theirs))
    for name, section in (expected | found).items():
        # Another linker names its sections as it likes.
        is_linkers = other_linker and name not in _ADDED_BY
        if name in _HAVE_CAUSES or name.startswith(_DEBUG) or is_linkers:
            continue
        loaded = "a loaded section" if section.header.sh_flags & SHF_ALLOC else "a section"
        what, hint = f"{loaded} {excerpt(name)}", _ADDED_BY.get(name, "")
        yield from _only_in("section-only-in-one", name in expected, name in found, what, hint)


def _mitigation(ours: Side, theirs: Side) -> Iterator[Cause]:
    seen = []
    for name, found in theirs.mitigations.items():
        fewer, more = sorted((found, ours.mitigations[name]))
        if more - fewer >= _LEAST_FENCES and more > 2 * fewer:
            seen.append(f"{found} {name}, our build {ours.mitigations[name]}")
    if seen:
        yield cause("mitigation", seen="; ".join(seen))


def _strings(ours: Side, theirs: Side) -> Iterator[Cause]:
    # A linker may put other bytes before a string, so that it looks like another one.
    only_theirs, only_ours = (
        sorted(s for s in side.strings - other.strings if not other.holds(s))
        for side, other in ((theirs, ours), (ours, theirs))
    )
    for code, pattern in (("build-path", _PATH), ("build-date", _DATE)):
        found, expected = (
            next((_quote([s]) for s in strings if pattern.search(s)), "none")
            for strings in (only_theirs, only_ours)
        )
        if (found, expected) != ("none", "none"):
            yield cause(code, theirs=found, ours=expected)
    rest_theirs, rest_ours = _words(only_theirs), _words(only_ours)
    if rest_theirs or rest_ours:
        yield cause("other-strings", theirs=_quote(rest_theirs), ours=_quote(rest_ours))


def _words(strings: list[str]) -> list[str]:
    """Those that are neither a path nor a date, nor numbers that happen to be printable."""
    return [
        s
        for s in strings
        if sum(map(str.isalpha, s)) >= _LETTERS and not _PATH.search(s) and not _DATE.search(s)
    ]


def _quote(strings: list[str]) -> str:
    if not strings:
        return "nothing"
    more = f" and {len(strings) - 1} more" if len(strings) > 1 else ""
    return f'"{excerpt(strings[0])}"{more}'


def _code(ours: Side, theirs: Side, explained: bool) -> Iterator[Cause]:
    if ours.code == theirs.code or min(len(ours.code), len(theirs.code)) < _LEAST_CODE:
        return
    found, total, runs = _similarity(ours.code, theirs.code)
    if found < _OTHER_CODE * total and not explained:
        same = ", as the constant strings are equal" if ours.strings == theirs.strings else ""
        yield cause("other-compiler", total=total, found=found, same=same)
    elif runs > 1:
        yield cause("link-order", found=found, total=total, blocks=runs)


def _similarity(ours: bytes, theirs: bytes) -> tuple[int, int, int]:
    """How many sampled pieces of one code are in the other, of how many, in how many blocks."""
    step = max(_SAMPLE_SIZE // 2, len(ours) // _SAMPLES)
    starts = range(0, len(ours) - _SAMPLE_SIZE + 1, step)
    pieces = ((start, ours[start : start + _SAMPLE_SIZE]) for start in starts)
    # Padding and the like: found anywhere, says nothing.
    telling = [(start, piece) for start, piece in pieces if len(set(piece)) >= _SAMPLE_SIZE // 2]
    found = [(*piece, theirs.find(piece[1])) for piece in telling if piece[1] in theirs]
    places = [
        at
        for start, piece, at in found
        if theirs.find(piece, at + 1) < 0 and ours.find(piece) == start
    ]
    # Ascending runs that are long enough to be no coincidence are blocks.
    lengths = [0]
    for before, place in zip([-1, *places], places):
        if place < before:
            lengths.append(0)
        lengths[-1] += 1
    return len(found), len(telling), sum(length >= _LEAST_RUN for length in lengths)


def function_causes(ours: Side, theirs: Side) -> Iterator[Cause]:
    """Which functions differ, where the code stands at the same place."""
    if list(map(place_of, ours.instructions)) != list(map(place_of, theirs.instructions)):
        return
    code = [(start, start + size) for _, start, size in map(place_of, ours.instructions)]
    # By address and bytes; of several names the first counts.
    named: dict[tuple[int, int], str] = {}
    for name, address, size in ours.description.symbols:
        if size and any(start <= address < end for start, end in code):
            named.setdefault((address, size), name)
    differing = [named[at] for at in named if ours.bytes_at(*at) != theirs.bytes_at(*at)]
    if differing:
        names = some(map(excerpt, differing), _NAMED)
        yield cause("functions-differ", found=len(differing), total=len(named), names=names)


def _restripped(ours: Side, theirs: Side) -> Iterator[Cause]:
    """The same sections, named in another order: what a strip tool decides."""
    names = [side.section_names.split(b"\0") for side in (ours, theirs)]
    places = [list(map(place_of, side.loaded)) for side in (ours, theirs)]
    reordered = names[0] != names[1] and sorted(names[0]) == sorted(names[1])
    if reordered and places[0] == places[1]:
        how = "the section names (.shstrtab) stand in another order, as another tool, or another "
        how += "version of it, puts them"
        do = "strip with the binutils of the enclave's release, once, as its makefile does"
        yield cause("stripped-differently", do, how=how)
