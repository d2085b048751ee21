# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for people, as lines of text: verdicts on enclaves, releases and packages.

Decides nothing, and leaves nothing that matters out: what is cut is counted, and what
weakens a verdict is as visible as the verdict itself. Every text is made printable, so
that nothing out of a file can steer a terminal.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from sgx_enclaves.enclave.verdict import (
    BlockFacts,
    Difference,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
)
from sgx_enclaves.plain import printable

# How long a digest is shown where it only distinguishes files on a screen.
_DIGITS = 16


# --- layout ---


Row = tuple[str, str]


def paragraph(text: str, width: int, start: str = "", indent: Optional[int] = None) -> list[str]:
    """A text in lines of at most `width`, where words allow it, behind `start`.

    Before later lines there are `indent` blanks; by default as many as `start` has characters.
    """
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * (len(start) if indent is None else indent),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def row_lines(
    width: int, column: int, label: str, text: str, mark: str = "", hang: int = 0
) -> list[str]:
    """A label in a column of `column` characters, and a text that hangs behind it.

    The label is empty where the row continues the one above it; `mark` stands before the text, and
    its later lines begin `hang` characters further to the right.
    """
    start = f"{label:<{column}}{mark}"
    return paragraph(text, width, start, max(len(start), column) + hang)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with each column as wide as its widest cell, the last one as it comes."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what is cut off is marked."""
    return text if len(text) <= width else text[: max(width - 3, 1)] + "..."


# --- findings ---


def finding_lines(finding: Finding) -> list[str]:
    """A finding in full: what, where, expected and found, what to do."""
    where = [] if finding.block is None else [f"block {finding.block}"]
    where += [] if finding.offset is None else [f"at 0x{finding.offset:x}"]
    lines = [finding.message + (f" ({', '.join(where)})" if where else "")]
    for word in ("expected", "found", "hint"):
        value = getattr(finding, word)
        if value is not None:
            lines.append(f"  {word:<9} {value}")
    return [printable(line) for line in lines]


def _details(finding: Finding, most: int) -> str:
    """Expected and found, each cut to `most` characters."""
    details = [
        f"{word} {value if len(value) <= most else value[:most] + '...'}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    return f": {', '.join(details)}" if details else ""


def _against(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.NOTE]


# --- the verdict on an enclave ---

# Lines of a terminal, and how many findings, causes and ranges to show, and whether whole
# digests: fewer when the report would not fit.
_SCREEN = 24
_FULL = (sys.maxsize, sys.maxsize, sys.maxsize, True)
_AMOUNTS = ((6, 4, 3, False), (3, 3, 2, False), (2, 2, 1, False))
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


def verdict_text(verdict: Verdict, *, width: int = 80, full: bool = False) -> str:
    """The whole report in lines of `width`; on a screen in the usual cases, unless in full."""
    head = f"{verdict.outcome.value.upper()}: {verdict.headline}"
    lines: list[str] = []
    for amounts in (_FULL,) if full else _AMOUNTS:
        lines = paragraph(head, width, indent=9)
        for row in _verdict_rows(verdict, *amounts):
            lines += row_lines(width, 9, *row)
        if len(lines) <= _SCREEN:
            break
    return "\n".join([*lines, ""])


def _verdict_rows(
    verdict: Verdict, most_findings: int, most_causes: int, most_differences: int, whole: bool
) -> Iterator[Row]:
    yield "built", _file(verdict.built, whole)
    yield "signed", _file(verdict.signed, whole)
    # our own build chooses it, unless the line says who else did
    chosen = "" if verdict.sdk_from == "our build" else f", chosen by {verdict.sdk_from}"
    sdk = f", SDK {verdict.sdk}{chosen}" if verdict.sdk else ""
    yield "config", _file(verdict.config, whole) + sdk
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
    explanation = verdict.explanation
    causes = explanation.causes if explanation is not None else ()
    explained = explanation is not None and bool(causes and explanation.differences)
    against = [
        finding
        for finding in _against(verdict.findings)
        if not (explained and finding.code in _SHOWN_ELSEWHERE)
    ]
    notes = [finding for finding in verdict.findings if finding.severity is Severity.NOTE]
    yield from _some("why", [_finding_words(f) for f in against], most_findings)
    yield from _some("note", [_finding_words(f) for f in notes], most_findings)
    if explanation is None:
        return
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


def _file(facts: FileFacts, whole: bool) -> str:
    digest = facts.sha256 if whole else facts.sha256[:_DIGITS]
    return f"{facts.name}, {facts.size} bytes, sha256 {digest}"


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
    where = f"block {finding.block}: " if finding.block is not None else ""
    at = f" (at 0x{finding.offset:x})" if finding.offset is not None else ""
    hint = f"; {finding.hint}" if finding.hint else ""
    return f"{where}{finding.message}{at}{_details(finding, most)}{hint}"


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
    texts = list(dict.fromkeys(f.message + _details(f, _LONGEST_VALUE) for f in _against(findings)))
    more = len(texts) - _REASONS
    return texts[:_REASONS] + ([f"and {more} more, see the JSON report"] if more > 0 else [])
