# SPDX-License-Identifier: GPL-2.0-or-later
"""Explain why a vendor's file is not our build plus a signature: what differs, and likely causes.

Decides nothing: the verdict stands before anything is explained. The vendor's file may be
hostile; what cannot be read of it is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, Optional

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage, require_unsigned
from sgx_enclaves.enclave.elf_headers import METADATA_SECTION
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import Generation, generation_named, wants_fips_by_argument
from sgx_enclaves.enclave.verdict import (
    Cause,
    Difference,
    Explanation,
    Outcome,
    Range,
    Verdict,
    outside,
)
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.explain.causes import BUILD_ID_SECTION, build_causes, cause, function_causes
from sgx_enclaves.explain.description import describe_file, excerpt, with_symbols
from sgx_enclaves.explain.file_map import Side, scan
from sgx_enclaves.explain.metadata_causes import (
    config_causes,
    fields_by_byte,
    generation_causes,
    hostile_causes,
)
from sgx_enclaves.plain import some

_EXCERPT = 16
# Differences that are listed.
MOST = 50
# A rebuild with other tools changes more bytes than these.
_FEW = 64
# Their differences have causes of their own.
_EXPLAINED_SECTIONS = (".interp", BUILD_ID_SECTION)


def explained(
    verdict: Verdict, built: bytes, signed: bytes, config: bytes, symbols: Optional[bytes] = None
) -> Verdict:
    """The verdict with reasons, if there are any; `symbols` is our build before stripping."""
    if verdict.outcome is Outcome.IDENTICAL:
        return verdict
    generation, options = None, Config({})
    try:
        image = EnclaveImage.parse(built, verdict.built.name)
        require_unsigned(image)
        if verdict.sdk is not None:
            generation = generation_named(verdict.sdk)
            options = Config.parse(config, verdict.config.name)
    except SgxEnclavesError:
        return verdict
    explainer = Explainer(image, signed, generation, options, verdict.signed.name, symbols)
    return replace(verdict, explanation=explainer.explanation())


class Explainer:
    """Explains the differences between our build and the vendor's file."""

    def __init__(
        self,
        built: EnclaveImage,
        signed: bytes,
        generation: Optional[Generation],
        config: Config,
        signed_name: str,
        symbols: Optional[bytes] = None,
    ) -> None:
        self._built, self._signed, self._config = built, signed, config
        self._unreadable: Optional[SgxEnclavesError] = None
        self._theirs: Optional[Side] = None
        # The vendor's metadata area; where our build has it, if it is not to be found.
        image = built
        try:
            image = EnclaveImage.parse(signed, signed_name)
            self._theirs = Side(image, describe_file(signed, signed_name))
        except SgxEnclavesError as error:
            self._unreadable = error
        self._area_offset = start = image.descriptor_offset
        self._area = signed[start : image.descriptor_end]
        self._vendor: Optional[Descriptor] = None
        with contextlib.suppress(SgxEnclavesError):
            self._vendor = Descriptor.parse(self._area)
        self._regenerated: Optional[Regenerated] = None
        patched = None
        if generation is not None:
            # As the comparison has read them, so that this regenerates what it did.
            blocks = self._vendor.blocks if self._vendor and self._theirs else ()
            fips = wants_fips_by_argument(generation, blocks)
            self._regenerated = regenerate(built, config, generation, fips)
            patched = [(p.dst, p.dst + p.size) for p in self._regenerated.measured.patches]
        common = min(len(built.data), len(signed))
        areas = [(built.descriptor_offset, built.descriptor_end), (start, start + len(self._area))]
        self._payload = scan(built.data, signed, outside([(0, common)], sorted(areas)), MOST)
        addresses = (built.address_of(start) for start, _ in self._payload.ranges)
        described = describe_file(built.data, built.name, filter(None, addresses))
        self._has_symbols = symbols is not None
        if symbols is not None:
            described = with_symbols(described, built, symbols)
        self._ours = Side(built, described, patched)

    def explanation(self) -> Explanation:
        """Differences in file order and causes, most certain first."""
        ours, signed, payload = self._ours, self._signed, self._payload
        found = [("payload", r, ours.measured_difference(signed, *r)) for r in payload.ranges]
        shorter, longer = sorted((len(self._built.data), len(signed)))
        if shorter < longer:
            where = "truncated" if len(signed) == shorter else "appended"
            found.append((where, (shorter, longer), ours.measures(shorter, longer)))
        metadata = list(self._metadata_differences())
        differences = [self._in_file(*each) for each in found] + [each for each, _ in metadata]
        differences.sort(key=lambda d: d.start)
        total = payload.differing_bytes + longer - shorter + sum(count for _, count in metadata)
        omitted = payload.omitted + max(0, len(differences) - MOST)
        causes = tuple(self._causes(differences))
        return Explanation(tuple(differences[:MOST]), omitted, total, causes)

    def _in_file(self, where: str, bounds: Range, measured: bool) -> Difference:
        ours, start = self._ours, bounds[0]
        names = ours.section(start), ours.symbol(start), ours.header_field(start)
        place = (where, ours.segment(start), *names, measured)
        return _difference(bounds, place, self._built.data, self._signed)

    def _metadata_differences(self) -> Iterator[tuple[Difference, int]]:
        """What does not follow from our build and the config, field by field, and its bytes."""
        if self._regenerated is None:
            return
        ours, theirs, base = self._regenerated.descriptor, self._area, self._area_offset

        def differing(start: int, end: int, field: str, measured: bool) -> Difference:
            where = ("metadata", None, METADATA_SECTION, None, field, measured)
            return _difference((start, end), where, ours, theirs, base)

        common, longest = sorted((len(ours), len(theirs)))
        both = (self._vendor, self._regenerated)
        blocks = next((side.blocks for side in both if side is not None and side.blocks), ())
        fields = fields_by_byte(blocks, len(theirs))
        areas = outside([(0, common)], self._regenerated.signature_ranges)
        for bounds in scan(ours, theirs, areas, common).ranges:
            changed = (at for at in range(*bounds) if ours[at] != theirs[at])
            for field, group in groupby(changed, key=fields.__getitem__):
                at = list(group)
                yield differing(at[0], at[-1] + 1, field.label(at[0]), field.measured), len(at)
        if common < longest and base + common < len(self._signed):
            yield differing(common, longest, "tail", False), longest - common

    def _causes(self, differences: list[Difference]) -> Iterator[Cause]:
        ours, theirs, payload = self._ours, self._theirs, self._payload
        longer = len(self._signed) - len(self._built.data)
        # Only when the size is the whole story: what both have is equal.
        if longer < 0 and not payload.ranges:
            yield cause("truncated", size=len(self._signed), missing=-longer)
        elif longer > 0 and not payload.ranges:
            yield cause("appended-data", bytes=_counted(longer, "is", "are"))
        if self._unreadable is not None:
            problem = excerpt(self._unreadable.message)
            words = f"the vendor's file cannot be read as an enclave: {problem}"
            yield Cause("signed-malformed", words, self._unreadable.hint)
        regenerated, vendor = self._regenerated, self._vendor
        if vendor is not None and not vendor.is_signed:
            # That is the one cause, and the verdict names it.
            regenerated = None
        hostile, options = list[Cause](), list[Cause]()
        if regenerated is not None and vendor is not None:
            hostile += hostile_causes(regenerated, vendor, ours, theirs)
            options += config_causes(regenerated, vendor, self._config)
        yield from hostile
        changed = [d for d in differences if d.where == "payload"]
        only_build_id = {d.section for d in changed} == {BUILD_ID_SECTION}
        only_build_id = only_build_id and not (payload.omitted or longer)
        builds = list(build_causes(ours, theirs, only_build_id)) if theirs is not None else []
        yield from self._few_bytes(changed, alone=not builds)
        generation = list(generation_causes(regenerated, vendor, ours, theirs))
        yield from generation
        named = list(function_causes(ours, theirs)) if self._has_symbols and theirs else []
        # a build id follows from other code
        builds += named
        yield from sorted(builds, key=lambda cause: bool(named) and cause.code == "build-id")
        yield from options
        in_metadata = [d.field or "" for d in differences if d.where == "metadata"]
        # Fields that differ though the builds are equal, and no option says why.
        fields = [field for field in in_metadata if not field.endswith("SIGSTRUCT.enclavehash")]
        named_already = hostile or options or (vendor is not None and generation)
        if regenerated is not None and not payload.ranges and not named_already and fields:
            yield cause("metadata-fields", fields=some(fields, 4))
        # Who lacks the end of a file cannot load it, measured or not.
        known = regenerated is not None and vendor is not None and (payload.ranges or longer >= 0)
        # The metadata can change MRENCLAVE, but for what is behind the last block.
        seen = any(d.measured for d in differences) or set(in_metadata) - {"tail"}
        if known and differences and not (payload.omitted or seen):
            yield cause("not-measured")
        for side in filter(None, (ours, theirs)):
            for problem in side.description.problems:
                yield cause("not-described", file=side.image.name, problem=problem)

    def _few_bytes(self, changed: list[Difference], alone: bool) -> Iterator[Cause]:
        """A handful of bytes where a rebuild with other tools would change many."""
        if not 0 < self._payload.differing_bytes <= _FEW or self._payload.omitted:
            return
        found = [d for d in changed if d.measured and d.section not in _EXPLAINED_SECTIONS]
        if not found or any(d.field for d in found):
            return
        ours = self._ours
        in_code = any(ours.section_of(d.start) in ours.instructions for d in found)
        ranges = [(d.start, d.end) for d in found]
        count = scan(self._built.data, self._signed, ranges, 0).differing_bytes
        pairs = (filter(None, (d.section, d.symbol)) for d in found)
        names = [" ".join(map(excerpt, pair)) or "a segment" for pair in pairs]
        places = ", ".join(list(dict.fromkeys(names))[:4])
        yield cause(
            "code-patch" if in_code else "data-patch",
            bytes=_counted(count, "differs", "differ"),
            places=f"{places}{', and nothing else in the build' if alone else ''}",
        )


def _difference(
    bounds: Range, place: tuple[Any, ...], ours: bytes, theirs: bytes, base: int = 0
) -> Difference:
    """One in a part of both files that begins at `base`."""
    start, end = bounds
    excerpts = (data[start : min(end, start + _EXCERPT)].hex() for data in (ours, theirs))
    return Difference(base + start, base + end, *place, *excerpts)


def _counted(count: int, does: str, do: str) -> str:
    return f"{count} {f'byte {does}' if count == 1 else f'bytes {do}'}"
