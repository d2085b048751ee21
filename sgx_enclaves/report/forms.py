# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts for people, as lines of text, and for programs, as plain data.

Decides nothing, and leaves nothing that matters out: what is cut is counted, and what
weakens a verdict is as visible as the verdict itself. Every text is made printable.

The schemas beside this module describe the plain data. Field names are those of the records.
Offsets and sizes are integers in bytes, digests and excerpts lower-case hexadecimal. Of a release
or a scan there is of each enclave what its verdict comes to.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import TABLES, Block, Descriptor
from sgx_enclaves.enclave.policy import known_signer
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.enclave.verdict import Explanation, Finding, Origin, Outcome, Severity, Verdict
from sgx_enclaves.plain import as_plain, printable

if TYPE_CHECKING:
    # A comparison does without them.
    from sgx_enclaves.enclave.verdict import BlockFacts, Difference, FileFacts
    from sgx_enclaves.explain.description import Description
    from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict
    from sgx_enclaves.rpm.check import PackageResult
    from sgx_enclaves.rpm.scan import Survey

# How long a digest is shown where it only distinguishes files on a screen.
_DIGITS = 16

Row = tuple[str, str]


def paragraph(text: str, width: int, start: str = "", indent: Optional[int] = None) -> list[str]:
    """Lines of at most `width`, where words allow it: behind `start`, later behind blanks,
    `indent` or as many as `start` has characters.
    """
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * (len(start) if indent is None else indent),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with each column as wide as its widest cell, the last one as it comes."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]


def finding_lines(finding: Finding) -> list[str]:
    """A finding in full: what, where, expected and found, what to do."""
    where = ", ".join(filter(None, _place(finding)))
    values = {word: getattr(finding, word) for word in ("expected", "found", "hint")}
    lines = [finding.message + (f" ({where})" if where else "")]
    lines += [f"  {word:<9} {value}" for word, value in values.items() if value is not None]
    return [printable(line) for line in lines]


def _place(finding: Finding) -> tuple[str, str]:
    """Which block it is about, unless its message says so, and where in the file."""
    name = f"block {finding.block}"
    said = finding.block is None or f"{name} " in f"{finding.message} "
    return "" if said else name, "" if finding.offset is None else f"at 0x{finding.offset:x}"


def _details(finding: Finding, most: int) -> str:
    """Expected and found, each cut to `most` characters."""
    details = [
        f"{word} {value if len(value) <= most else value[:most] + '...'}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    return f": {', '.join(details)}" if details else ""


# Lines of a terminal, and how many findings, causes and ranges to show, and whether whole
# digests: fewer when the report would not fit.
_SCREEN = 24
_FULL = (sys.maxsize, sys.maxsize, sys.maxsize, True)
_AMOUNTS = ((6, 4, 3, False), (3, 3, 2, False), (2, 2, 1, False))
ROLES = ("built", "signed", "config")
# Characters of a value in a finding, and of the bytes in a difference.
_VALUE, _EXCERPT = 32, 12

# The claims in words that fit a line; JSON and HTML have the full ones.
_CLAIMS = {
    "payload": "every byte outside the metadata equals our build",
    "metadata": "it follows from our build and the config, but for signatures",
    "measurement": "what was signed is the MRENCLAVE of our build",
    "signature": "every signature is valid",
}

# They say again what the checks, "block", "cause" and "where" say.
_SHOWN_ELSEWHERE = frozenset({"payload-differs", "metadata-differs", "measurement-differs"})
_UNEXPLAINED = Explanation((), omitted=0, differing_bytes=0, causes=())


def verdict_text(verdict: Verdict, *, width: int = 80, full: bool = False) -> str:
    """The whole report in lines of `width`; on a screen in the usual cases, unless in full."""
    head = f"{verdict.outcome.value.upper()}: {verdict.headline}"
    lines: list[str] = []
    for amounts in (_FULL,) if full else _AMOUNTS:
        lines = paragraph(head, width, indent=9)
        for label, text in _verdict_rows(verdict, *amounts):
            lines += paragraph(text, width, f"{label:<9}")
        if len(lines) <= _SCREEN:
            break
    return "\n".join([*lines, ""])


def _verdict_rows(
    verdict: Verdict, most_findings: int, most_causes: int, most_differences: int, whole: bool
) -> Iterator[Row]:
    # our own build chooses it, unless the line says who else did
    by = "" if verdict.sdk_from == "our build" else f", chosen by {verdict.sdk_from}"
    sdk = f", SDK {verdict.sdk}{by}" if verdict.sdk else ""
    for role in ROLES:
        facts: FileFacts = getattr(verdict, role)
        digest = facts.sha256 if whole else facts.sha256[:_DIGITS]
        chosen = sdk if role == "config" else ""
        yield role, f"{facts.name}, {facts.size} bytes, sha256 {digest}{chosen}"
    for check in verdict.checks:
        yield check.state.value, f"{check.name}: {_CLAIMS.get(check.name, check.claim)}"
    # in full where somebody might rely on the verdict, last of all where a screen is full
    if verdict.outcome is Outcome.IDENTICAL:
        yield "unproved", "; ".join(verdict.not_proved)
    elif most_differences > 1:
        yield "unproved", "; ".join(c.partition(":")[0] for c in verdict.not_proved)
    if verdict.mrenclave is not None:
        yield "measured", verdict.mrenclave
    for block in verdict.blocks:
        yield f"block {block.index}", _block_words(block, verdict.mrenclave, whole)
    origins = [o for o in Origin if o is not Origin.SECOND_SIGNATURE or verdict.bytes_of(o)]
    yield "bytes", ", ".join(f"{o.value} {verdict.bytes_of(o)}" for o in origins)
    explanation = verdict.explanation or _UNEXPLAINED
    causes = explanation.causes
    elsewhere = _SHOWN_ELSEWHERE if causes and explanation.differences else ()
    against = (f for f in verdict.findings if f.severity is not Severity.NOTE)
    why = [_finding_words(f) for f in against if f.code not in elsewhere]
    notes = [_finding_words(f) for f in verdict.findings if f.severity is Severity.NOTE]
    yield from _some("why", why, most_findings)
    yield from _some("note", notes, most_findings)
    hint = f" -> {causes[0].hint}" if causes and causes[0].hint else ""
    texts = [cause.message + (hint if cause is causes[0] else "") for cause in causes]
    yield from _some("cause", texts, most_causes)
    listed = [_difference_words(difference) for difference in explanation.differences]
    yield from _some("where", listed, most_differences, explanation.omitted)


def _some(label: str, texts: Sequence[str], most: int, omitted: int = 0) -> Iterator[Row]:
    for index, text in enumerate(texts[:most]):
        yield "" if index else label, text
    more = max(0, len(texts) - most) + omitted
    if more:
        # Ranges beyond those that were kept are counted, nowhere listed.
        has = "--json has them" if not omitted else "--json has more"
        yield "", f"... and {more} more; {has}"


def _block_words(block: BlockFacts, ours: Optional[str], whole: bool) -> str:
    mrsigner, mrenclave = block.mrsigner, block.mrenclave
    if not whole:
        mrsigner, mrenclave = f"{mrsigner[:_DIGITS]}...", f"{mrenclave[:8]}..."
    signer = block.signer or f"unknown signer {mrsigner}"
    same = "same MRENCLAVE" if block.mrenclave == ours else f"MRENCLAVE {mrenclave}"
    return (
        f"{same}, {signer}, ISVPRODID {block.isvprodid}, ISVSVN {block.isvsvn}, "
        f"{block.date}, {'DEBUG' if block.debug else 'not debug'}"
    )


def _finding_words(finding: Finding) -> str:
    # a note is not one of many, and may name a digest
    most = _LONGEST_VALUE if finding.severity is Severity.NOTE else _VALUE
    block, at = _place(finding)
    text = (f"{block}: " if block else "") + finding.message + (f" ({at})" if at else "")
    return text + _details(finding, most) + (f"; {finding.hint}" if finding.hint else "")


def _difference_words(difference: Difference) -> str:
    size = difference.end - difference.start
    # All metadata are in one section.
    section = None if difference.field and difference.where == "metadata" else difference.section
    name = " ".join(n for n in (section, difference.symbol, difference.field) if n)
    measured = "measured" if difference.measured else "not measured"
    more = "..." if 2 * size > _EXCERPT else ""
    expected, found = (
        digits[:_EXCERPT] + more if digits else "nothing"
        for digits in (difference.expected, difference.found)
    )
    what = "" if difference.where == "payload" else f" {difference.where}"
    place = f"0x{difference.start:x}+{size}{what} {name or '(no section)'}"
    return f"{place}, {measured}, {expected} -> {found}"


# How many reasons a report of several enclaves gives of each, and how long their values are.
_REASONS, _LONGEST_VALUE = 3, 120


def reasons(findings: Iterable[Finding]) -> list[str]:
    """What speaks against it, each reason once: an enclave's blocks often have the same."""
    against = (finding for finding in findings if finding.severity is not Severity.NOTE)
    texts = list(dict.fromkeys(f.message + _details(f, _LONGEST_VALUE) for f in against))
    more = len(texts) - _REASONS
    return texts[:_REASONS] + ([f"and {more} more, see the JSON report"] if more > 0 else [])


# Changes whenever a reader of an old form could misread the new one.
SCHEMA_VERSION = 1


def _fields(source: object, names: str) -> dict[str, object]:
    """Some attributes of a record as plain data, in this order."""
    return {name: as_plain(getattr(source, name)) for name in names.split()}


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """The verdict in full, as verdict.schema.json describes it."""
    return {
        "schema_version": SCHEMA_VERSION,
        **_fields(verdict, "outcome exit_status headline"),
        "bytes": {origin.value: verdict.bytes_of(origin) for origin in Origin},
        **as_plain(verdict),
    }


def release_dict(verdict: ReleaseVerdict) -> dict[str, object]:
    """The verdict on a release, as release.schema.json describes it."""
    return {
        "schema_version": SCHEMA_VERSION,
        **_fields(verdict, "release title outcome exit_status reproducible claim not_proved"),
        **_fields(verdict, "unpinned unpinned_allowed builds stages"),
        "enclaves": [_enclave(enclave) for enclave in verdict.enclaves],
        "notices": list(verdict.notices),
    }


def _enclave(enclave: EnclaveOutcome) -> dict[str, object]:
    verdict = enclave.verdict
    return {
        **_fields(enclave.enclave, "name signed_file required may_ship reason"),
        "unpinned": list(enclave.unpinned),
        "outcome": enclave.bytes_outcome.value,
        "refused_by": enclave.refused_by or None,
        "refused_checks": list(enclave.refused_checks),
        "findings": as_plain((verdict or enclave).findings),
        **{f"{role}_sha256": verdict and getattr(verdict, role).sha256 for role in ROLES},
        "mrenclave": verdict and verdict.mrenclave,
        "report": verdict and f"{enclave.name}/verdict.json",
    }


def result_dict(result: PackageResult) -> dict[str, object]:
    """What was found out about a package; see `PackageResult`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "file": result.file,
        "package": result.nevra,
        **_fields(result, "outcome exit_status findings"),
        "enclaves": [
            {
                **_fields(enclave, "path links name signed size sha256 reference"),
                **_fields(enclave, "outcome exit_status findings"),
                "verdict": enclave.verdict and verdict_dict(enclave.verdict),
            }
            for enclave in result.enclaves
        ],
    }


def survey_dict(survey: Survey) -> dict[str, object]:
    """What a scan rests on."""
    return {
        "scanned": len(survey.targets) + survey.passed,
        "by_repodata_alone": survey.passed,
        "listed_but_absent": survey.absent,
        "repodata_problems": [problem.as_dict() for problem in survey.problems],
    }


# What a section's fields are called.
_SECTION = {"flags": "sh_flags", "address": "sh_addr", "offset": "sh_offset", "size": "sh_size"}


def show_dict(
    image: EnclaveImage, descriptor: Descriptor, description: Description
) -> dict[str, object]:
    """All that was read of an enclave; numbers are integers, bytes hexadecimal."""
    return {
        "file": image.name,
        "size": len(image.data),
        **_fields(description, "interpreter build_id comments producers features"),
        "sections": [
            {"name": s.name, "type": kind, **{k: getattr(s.header, f) for k, f in _SECTION.items()}}
            for s, kind in zip(image.sections, description.section_types)
        ],
        "symbols": len(description.symbols),
        "not_described": as_plain(description.problems),
        "segments": as_plain(image.load_segments),
        "tls_size": image.tls_size,
        "descriptor": {
            "offset": image.descriptor_offset,
            "size": image.descriptor_size,
            "note_type": image.note_type,
            "tail_is_zero": not any(descriptor.tail),
        },
        "blocks": [_block(block) for block in descriptor.blocks],
    }


def sigstruct_dict(sigstruct: Sigstruct) -> dict[str, object]:
    """All fields of a SIGSTRUCT, and what follows from them."""
    mrsigner = sigstruct.mrsigner.hex()
    return {
        **as_plain(sigstruct),
        "mrsigner": mrsigner,
        "signer": known_signer(mrsigner),
        "debug": sigstruct.is_debug,
    }


def _block(block: Block) -> dict[str, object]:
    return {
        "offset": block.offset,
        "version": str(block.version),
        "header": as_plain(block.header),
        "sigstruct": sigstruct_dict(block.sigstruct),
        "directories": as_plain(dict(zip(TABLES, block.directories))),
        "patches": as_plain(block.patches),
        "layout": [{"name": block.layout_name(item), **as_plain(item)} for item in block.layout],
        **_fields(block, "elrange extensions"),
    }
