# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict for people: a short text that fits a screen in the usual cases.

Decides nothing and leaves nothing that matters out: what is cut is counted.
Text out of the files is made printable, so that it cannot steer a terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Optional

from sgx_enclaves.verdict.model import (
    BlockFacts,
    Cause,
    CheckState,
    Difference,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
)

_LABEL = 9
# Lines of a terminal, and how many findings, causes and ranges to show: fewer
# when the report would not fit.
_SCREEN = 24
_AMOUNTS = ((6, 4, 3), (3, 3, 2), (2, 3, 1))
_DIGITS = 16
# Of a value in a finding, and of the bytes in a difference.
_VALUE = 32
_EXCERPT = 12

# The claims in words that fit a line; JSON and HTML have the full ones.
_CLAIMS = {
    "payload": "every byte outside the metadata equals our build",
    "metadata": "it follows from our build and the config, but for signatures",
    "measurement": "what was signed is the MRENCLAVE of our build",
    "signature": "every signature is valid",
    "policy": "expected signer and product, recent, not for debug",
}

# They say again what the checks, "block", "cause" and "where" say.
_SHOWN_ELSEWHERE = frozenset({"payload-differs", "metadata-differs", "measurement-differs"})

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_OUTCOME_COLOURS = {
    Outcome.IDENTICAL: _GREEN,
    Outcome.DIFFERS: _RED,
    Outcome.UNVERIFIABLE: _YELLOW,
}
_LABEL_COLOURS = {
    CheckState.PROVED.value: _GREEN,
    CheckState.REFUTED.value: _RED,
    CheckState.NOT_DONE.value: _YELLOW,
    "why": _BOLD,
    "cause": _BOLD,
    "where": _BOLD,
}


def sentence(verdict: Verdict) -> str:
    """The verdict as one precise sentence, the file named without its folder."""
    name = verdict.signed.name.rsplit("/", 1)[-1]
    if verdict.outcome is Outcome.IDENTICAL:
        return f"{name} is our build plus a signature, and nothing else"
    if verdict.outcome is Outcome.DIFFERS:
        return f"{name} is not our build plus a signature"
    return f"it is undecided whether {name} is our build plus a signature"


def verdict_text(verdict: Verdict, *, colour: bool = False, width: int = 80) -> str:
    """The whole report, lines of at most `width` where words allow it.

    Args:
        verdict: what to report.
        colour: mark the important words with ANSI colours.
        width: columns.
    """
    lines: list[str] = []
    for amounts in _AMOUNTS:
        lines = _wrapped(f"{verdict.outcome.value.upper()}: {sentence(verdict)}", width)
        for label, text in _rows(verdict, *amounts):
            lines += _wrapped(text, width, label)
        if len(lines) <= _SCREEN:
            break
    cleaned = [_clean(line) for line in lines]
    if colour:
        head, _, rest = cleaned[0].partition(":")
        cleaned[0] = f"{_OUTCOME_COLOURS[verdict.outcome]}{_BOLD}{head}{_PLAIN}:{rest}"
        cleaned[1:] = [_coloured(line) for line in cleaned[1:]]
    return "\n".join(cleaned) + "\n"


def _rows(
    verdict: Verdict, findings: int, most_causes: int, differences: int
) -> Iterator[tuple[str, str]]:
    """Label and text; a repeated label is left out."""
    yield "built", _file(verdict.built)
    yield "signed", _file(verdict.signed)
    yield "config", _file(verdict.config) + (f", SDK {verdict.sdk}" if verdict.sdk else "")
    for check in verdict.checks:
        yield check.state.value, f"{check.name}: {_CLAIMS.get(check.name, check.claim)}"
    if verdict.mrenclave is not None:
        yield "measured", verdict.mrenclave
    for block in verdict.blocks:
        yield f"block {block.index}", _block(block, verdict.mrenclave)
    yield "bytes", _bytes(verdict)
    explanation = verdict.explanation
    causes = explanation.causes if explanation is not None else ()
    explained = explanation is not None and bool(causes and explanation.differences)
    against = [
        f
        for f in verdict.findings
        if f.severity is not Severity.NOTE and not (explained and f.code in _SHOWN_ELSEWHERE)
    ]
    yield from _some("why", [_finding(f) for f in against], findings)
    notes = [f for f in verdict.findings if f.severity is Severity.NOTE]
    yield from _some("note", [_finding(f) for f in notes], findings)
    if explanation is None:
        return
    texts = [_cause(c, hint=index == 0) for index, c in enumerate(causes)]
    yield from _some("cause", texts, most_causes)
    listed = [_difference(d) for d in explanation.differences]
    yield from _some("where", listed, differences, explanation.omitted)


def _some(label: str, texts: list[str], most: int, omitted: int = 0) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(texts[:most]):
        yield label if index == 0 else "", text
    more = max(0, len(texts) - most) + omitted
    if more:
        # Ranges beyond those that were kept are counted, nowhere listed.
        has = "--json has them" if not omitted else "--json has more"
        yield "", f"... and {more} more; {has}"


def _wrapped(text: str, width: int, label: Optional[str] = None) -> list[str]:
    """Lines with an indent that leaves the labels in a column of their own."""
    start = "" if label is None else f"{label:<{_LABEL}}"
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def _clean(line: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


def _coloured(line: str) -> str:
    for label, colour in _LABEL_COLOURS.items():
        if line.startswith(f"{label:<{_LABEL}}"):
            return f"{colour}{label}{_PLAIN}{line[len(label) :]}"
    return line


def _file(facts: FileFacts) -> str:
    return f"{facts.name}, {facts.size} bytes, sha256 {facts.sha256[:_DIGITS]}"


def _block(block: BlockFacts, ours: Optional[str]) -> str:
    signer = block.signer or f"unknown signer {block.mrsigner[:_DIGITS]}..."
    same = "same MRENCLAVE" if block.mrenclave == ours else f"MRENCLAVE {block.mrenclave[:8]}..."
    return (
        f"{same}, {signer}, ISVPRODID {block.isvprodid}, ISVSVN {block.isvsvn}, "
        f"{block.date}, {'DEBUG' if block.debug else 'not debug'}"
    )


def _bytes(verdict: Verdict) -> str:
    parts = [f"{origin.value} {verdict.bytes_of(origin)}" for origin in Origin]
    return ", ".join(parts)


def _finding(finding: Finding) -> str:
    where = f"block {finding.block}: " if finding.block is not None else ""
    at = f" (at 0x{finding.offset:x})" if finding.offset is not None else ""
    details = [
        f"{word} {_short(value)}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    text = f"{where}{finding.message}{at}"
    if details:
        text += f": {', '.join(details)}"
    return text + (f"; {finding.hint}" if finding.hint else "")


def _short(value: str) -> str:
    return value if len(value) <= _VALUE else value[:_VALUE] + "..."


def _cause(cause: Cause, hint: bool) -> str:
    return cause.message + (f" -> {cause.hint}" if hint and cause.hint else "")


def _difference(difference: Difference) -> str:
    size = difference.end - difference.start
    # All metadata are in one section.
    section = None if difference.field and difference.where == "metadata" else difference.section
    name = " ".join(n for n in (section, difference.symbol, difference.field) if n)
    measured = "measured" if difference.measured else "not measured"
    more = "..." if 2 * size > _EXCERPT else ""
    change = f"{_start_of(difference.expected, more)} -> {_start_of(difference.found, more)}"
    what = "" if difference.where == "payload" else f" {difference.where}"
    place = f"0x{difference.start:x}+{size}{what} {name or '(no section)'}"
    return f"{place}, {measured}, {change}"


def _start_of(digits: str, more: str) -> str:
    return digits[:_EXCERPT] + more if digits else "nothing"
