# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely causes of a difference between two builds, from the traces in them.

A trace shows that something was done otherwise, not that nothing else was:
each cause says what was seen, and guesses are worded as such.

Read a metadata block backwards: which config.xml would have given it?

The same reading of our regenerated block and of the vendor's block names the
options that differ. It need not be exact where an SDK rounds or pads, because
both sides are read alike.

Likely causes of differences in the metadata, the hostile ones first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Optional

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import PAGE_SIZE
from sgx_enclaves.enclave.layout import (
    DYNAMIC_ID_STEP,
    HEAP_INIT,
    HEAP_MAX,
    HEAP_MIN,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    STACK_MAX,
    STACK_MIN,
    TCS,
    USER_REGION,
)
from sgx_enclaves.enclave.metadata import (
    ATTR_EADD,
    ATTR_EREMOVE,
    LAYOUT_NAMES,
    Block,
    Descriptor,
    Layout,
    LayoutEntry,
    PatchEntry,
)
from sgx_enclaves.enclave.regenerate import Regenerated
from sgx_enclaves.enclave.sigstruct import (
    FLAG_AEXNOTIFY,
    FLAG_DEBUG,
    FLAG_EINITTOKENKEY,
    FLAG_KSS,
    FLAG_PROVISIONKEY,
    SECINFO_TCS,
    SECINFO_X,
    TYPE_DEBUG,
    VENDOR_INTEL,
    XFRM_AMX,
    XFRM_PKRU,
    Sigstruct,
    spell_secinfo,
)
from sgx_enclaves.enclave.verdict import Cause
from sgx_enclaves.errors import FormatError
from sgx_enclaves.explain.description import Side, excerpt
from sgx_enclaves.explain.file_map import FileMap

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
    yield from _code(ours, theirs, bool(mitigations))
    yield from _stripped(ours, theirs)
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


def _comment(ours: Side, theirs: Side) -> Iterator[Cause]:
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


# Options whose default is the value of another one.
FOLLOWS: Mapping[str, str] = {
    "HeapInitSize": "HeapMaxSize",
    "ReservedMemInitSize": "ReservedMemMaxSize",
    "TCSMaxNum": "TCSNum",
}
# The SDK sizes this one after everything else.
LAST = "UserRegionSize"


def options_of(block: Block) -> dict[str, int]:
    """Option name to the value that the block shows."""
    return {**_sigstruct_options(block), **_layout_options(block.layout), **_elrange(block)}


def _sigstruct_options(block: Block) -> dict[str, int]:
    sigstruct, header = block.sigstruct, block.header
    flags = sigstruct.attributes_flags

    def half(data: bytes, index: int) -> int:
        return int.from_bytes(data[8 * index : 8 * index + 8], "little")

    return {
        "ProdID": sigstruct.isvprodid,
        "ISVSVN": sigstruct.isvsvn,
        "ReleaseType": int(bool(sigstruct.type & TYPE_DEBUG)),
        "IntelSigned": int(sigstruct.vendor == VENDOR_INTEL),
        "ProvisionKey": int(bool(flags & FLAG_PROVISIONKEY)),
        "LaunchKey": int(bool(flags & FLAG_EINITTOKENKEY)),
        "EnableKSS": int(bool(flags & FLAG_KSS)),
        "EnableAEXNotify": int(bool(flags & FLAG_AEXNOTIFY)),
        "DisableDebug": int(bool(sigstruct.attributemask_flags & FLAG_DEBUG)),
        "HW": sigstruct.swdefined,
        "TCSPolicy": header.tcs_policy,
        "TCSMinPool": header.tcs_min_pool,
        "MiscSelect": sigstruct.miscselect | header.desired_misc_select,
        "MiscMask": sigstruct.miscmask,
        "PKRU": _xfrm_option(sigstruct, XFRM_PKRU),
        "AMX": _xfrm_option(sigstruct, XFRM_AMX),
        "ISVFAMILYID_L": half(sigstruct.isvfamilyid, 0),
        "ISVFAMILYID_H": half(sigstruct.isvfamilyid, 1),
        "ISVEXTPRODID_L": half(sigstruct.isvextprodid, 0),
        "ISVEXTPRODID_H": half(sigstruct.isvextprodid, 1),
    }


def _xfrm_option(sigstruct: Sigstruct, bits: int) -> int:
    """0: must be off, 1: must be on, 2: as the platform likes."""
    if not sigstruct.attributemask_xfrm & bits:
        return 2
    return int(bool(sigstruct.attributes_xfrm & bits))


def _layout_options(table: tuple[Layout, ...]) -> dict[str, int]:
    pages: dict[int, int] = {}
    for item in table:
        if isinstance(item, LayoutEntry):
            pages.setdefault(item.id, item.page_count)

    def size(*ids: int) -> int:
        return sum(pages.get(i, 0) for i in ids) * PAGE_SIZE

    kept, removed, dynamic = _threads(table)
    executable = any(
        isinstance(item, LayoutEntry) and item.id == RSRV_MIN and item.si_flags & SECINFO_X
        for item in table
    )
    return {
        "HeapMinSize": size(HEAP_MIN),
        "HeapInitSize": size(HEAP_MIN, HEAP_INIT),
        "HeapMaxSize": size(HEAP_MIN, HEAP_INIT, HEAP_MAX),
        "StackMinSize": size(STACK_MIN),
        "StackMaxSize": size(STACK_MIN, STACK_MAX),
        "ReservedMemMinSize": size(RSRV_MIN),
        "ReservedMemInitSize": size(RSRV_MIN, RSRV_INIT),
        "ReservedMemMaxSize": size(RSRV_MIN, RSRV_INIT, RSRV_MAX),
        "ReservedMemExecutable": int(executable),
        "TCSNum": kept + removed,
        # The SDK's table makes one thread more than the option says.
        "TCSMaxNum": kept + (dynamic - 1 if dynamic else removed),
        LAST: size(USER_REGION),
    }


def _threads(table: tuple[Layout, ...]) -> tuple[int, int, int]:
    """Threads that stay, threads that are removed after the start, threads made later."""
    counts = [0, 0, 0]

    def add(item: LayoutEntry, times: int) -> None:
        if item.id == TCS:
            counts[1 if item.attributes & ATTR_EREMOVE else 0] += times
        elif item.id == TCS + DYNAMIC_ID_STEP:
            counts[2] += times

    for index, item in enumerate(table):
        if isinstance(item, LayoutEntry):
            add(item, 1)
            continue
        for member in table[max(0, index - item.entry_count) : index]:
            if isinstance(member, LayoutEntry):
                add(member, item.load_times)
    return counts[0], counts[1], counts[2]


def _elrange(block: Block) -> dict[str, int]:
    values = {"EnclaveImageAddress": 0, "ELRangeStartAddress": 0, "ELRangeSize": 0}
    try:
        elrange = block.elrange
        values["EnableIPPFIPS"] = int(block.fips_offset is not None)
    except FormatError:
        return {}
    if elrange is not None:
        values["EnclaveImageAddress"] = elrange.enclave_image_address
        values["ELRangeStartAddress"] = elrange.elrange_start_address
        values["ELRangeSize"] = elrange.elrange_size
    return values


_HOSTILE = "do not use this file: nothing that the SDK's tool writes looks like this"
_MOST = 8


def hostile_causes(
    regenerated: Regenerated, vendor: Descriptor, places: FileMap, theirs: Optional[Side]
) -> Iterator[Cause]:
    """What no signing tool writes: metadata that changes or adds pages at load time.

    Args:
        regenerated: the metadata as they should be.
        vendor: the vendor's.
        places: of our build, to name what a patch overwrites.
        theirs: where the vendor's own g_global_data is, in a file that differs elsewhere too.
    """
    moved = theirs.global_data if theirs is not None else None
    for index, block in enumerate(vendor.blocks):
        ours = _counterpart(regenerated, index)
        yield from _patches(index, ours, block, places, moved)
        yield from _layout(index, ours, block)
    if any(vendor.tail):
        used = len(vendor.tail) - vendor.tail.count(0)
        yield Cause(
            "metadata-tail",
            f"{used} bytes behind the last metadata block are not zero; neither the measurement "
            "nor a signature covers them",
            "the SDK's tool leaves them zero: ask what put them there",
        )


def _counterpart(regenerated: Regenerated, index: int) -> Block:
    return regenerated.blocks[min(index, len(regenerated.blocks) - 1)]


def _patches(
    index: int, ours: Block, block: Block, places: FileMap, moved: Optional[tuple[int, int]]
) -> Iterator[Cause]:
    targets = {(p.dst, p.size) for p in ours.patches} | {moved}
    strange = [(n, p) for n, p in enumerate(block.patches) if (p.dst, p.size) not in targets]
    for number, patch in strange[:_MOST]:
        measured = places.measures(patch.dst, patch.dst + patch.size)
        effect = "patches measured bytes at load: hostile" if measured else "is not the SDK's"
        yield Cause(
            "metadata-patch",
            f"patch[{number}] of block {index} overwrites {patch.size} bytes of "
            f"{_target(patch, places)} when the enclave is loaded: the metadata {effect}",
            _HOSTILE,
        )
    yield from _more(len(strange), "metadata-patch", "patches")


def _more(count: int, code: str, what: str) -> Iterator[Cause]:
    if count > _MOST:
        yield Cause(code, f"... and {count - _MOST} more such {what}", _HOSTILE)


def _target(patch: PatchEntry, places: FileMap) -> str:
    name = places.section(patch.dst) or places.header_field(patch.dst) or "the file"
    symbol = places.symbol(patch.dst)
    return f"{name} at 0x{patch.dst:x}" + (f" (symbol {symbol})" if symbol else "")


def _layout(index: int, ours: Block, block: Block) -> Iterator[Cause]:
    usual = {_kind(e) for e in ours.layout if isinstance(e, LayoutEntry)}
    strange = [
        (number, item, reason)
        for number, item in enumerate(block.layout)
        if isinstance(item, LayoutEntry) and _kind(item) not in usual
        for reason in (_strangeness(item),)
        if reason
    ]
    for number, item, reason in strange[:_MOST]:
        name = block.layout_name(item)
        yield Cause(
            "metadata-layout",
            f"layout[{number}] of block {index} ({name}) adds {item.page_count} pages "
            f"({spell_secinfo(item.si_flags)}) {reason}: hostile",
            _HOSTILE,
        )
    yield from _more(len(strange), "metadata-layout", "layout entries")


def _kind(item: LayoutEntry) -> tuple[int, int, bool]:
    return item.id, item.si_flags, bool(item.content_offset)


def _strangeness(item: LayoutEntry) -> Optional[str]:
    if item.content_offset and item.si_flags != SECINFO_TCS:
        return "with content out of the metadata"
    if item.attributes & ATTR_EADD and item.si_flags & SECINFO_X:
        return "of code that our build and the config do not ask for"
    if item.id not in LAYOUT_NAMES:
        return "of a kind that no SDK knows"
    return None


def generation_causes(
    regenerated: Optional[Regenerated],
    vendor: Optional[Descriptor],
    ours: Side,
    theirs: Optional[Side],
) -> Iterator[Cause]:
    """Signs of another SDK: version word, size of the metadata area, metadata versions."""
    signs = []
    if theirs is not None and ours.sdk_word != theirs.sdk_word:
        signs.append(
            f"g_global_data names SDK {_release(theirs.sdk_word)}, "
            f"in our build {_release(ours.sdk_word)}"
        )
    sizes = [s.image.descriptor_size for s in (theirs, ours) if s is not None]
    if len(set(sizes)) > 1:
        signs.append(f"its metadata area has {sizes[0]} bytes, ours {sizes[1]}")
    if regenerated is not None and vendor is not None:
        found, expected = _versions(vendor.blocks), _versions(regenerated.blocks)
        if found != expected:
            signs.append(
                f"its metadata blocks are of version {found}, "
                f"SDK {regenerated.generation.name} with this config writes {expected}"
            )
    if signs:
        yield Cause(
            "sdk-generation",
            f"the vendor's file was made with another SDK or kind of config: {'; '.join(signs)}",
            "build with that SDK's sources, and take the config.xml of the same tag",
        )


def _release(word: Optional[int]) -> str:
    if word is None or not 0 < word >> 32 < 100:
        return "none"
    return f"{word >> 32}.{word >> 16 & 0xFFFF}"


def _versions(blocks: tuple[Block, ...]) -> str:
    return ", ".join(str(b.version) for b in blocks) or "none"


def config_causes(regenerated: Regenerated, vendor: Descriptor, config: Config) -> Iterator[Cause]:
    """The options of config.xml whose effect on a block is another one."""
    seen: dict[tuple[str, int, int], list[int]] = {}
    for index, (ours, theirs) in enumerate(zip(regenerated.blocks, vendor.blocks)):
        expected, found = options_of(ours), options_of(theirs)
        different = [n for n in expected if n in found and expected[n] != found[n]]
        for name in different:
            follows = FOLLOWS.get(name)
            if follows in different and name not in config.given:
                continue
            if name == LAST and len(different) > 1:
                continue
            seen.setdefault((name, expected[name], found[name]), []).append(index)
    for (name, expected_value, found_value), indexes in list(seen.items())[: 2 * _MOST]:
        where = "block" if len(indexes) == 1 else "blocks"
        origin = "" if name in config.given else " (its default)"
        yield Cause(
            "config-value",
            f"{name}: {where} {', '.join(map(str, indexes))} of the vendor's file "
            f"{_says(found_value)}, {config.name} {_says(expected_value)}{origin}",
            "take the config.xml of the tag that the enclave was released from",
        )


def _says(value: int) -> str:
    return f"says {value}" if value < 4096 else f"says 0x{value:x}"
