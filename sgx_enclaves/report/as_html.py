# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict as one HTML file: no scripts, nothing to load, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sgx_enclaves.report.page import code, document, table, text
from sgx_enclaves.report.text import sentence
from sgx_enclaves.verdict.model import (
    Cause,
    Difference,
    Explanation,
    FileFacts,
    Finding,
    Origin,
    Verdict,
)

# Rows of the byte map; a file that differs everywhere has as many as bytes.
_MAP_ROWS = 200


def verdict_html(verdict: Verdict) -> str:
    """The whole report as one HTML document."""
    outcome = verdict.outcome.value
    title = f"{outcome.upper()}: {sentence(verdict)}"
    parts = [
        f'<h1 class="{outcome}">{text(title)}</h1>',
        _inputs(verdict),
        _checks(verdict),
        _findings(verdict.findings),
    ]
    if verdict.explanation is not None:
        parts.append(_explanation(verdict.explanation))
    parts += [_blocks(verdict), _byte_map(verdict)]
    return document(title, parts)


def _offset(value: int) -> str:
    return f'<code class="whole">0x{value:x}</code>'


def _inputs(verdict: Verdict) -> str:
    def row(role: str, facts: FileFacts) -> Sequence[str]:
        return text(role), code(facts.name), text(facts.size), code(facts.sha256)

    inputs = table(
        ("input", "name", "bytes", "SHA-256"),
        (
            row("built", verdict.built),
            row("signed", verdict.signed),
            row("config", verdict.config),
        ),
    )
    measured = f"<p>MRENCLAVE of our build: {code(verdict.mrenclave or 'not measured')}"
    sdk = f"; SDK followed: {text(verdict.sdk or 'none')}</p>"
    return f"<h2>Compared</h2>\n{inputs}\n{measured}{sdk}"


def _checks(verdict: Verdict) -> str:
    rows = (
        (
            f'<span class="{text(check.state.value).replace(" ", "-")}">'
            f"{text(check.state.value)}</span>",
            text(check.name),
            text(check.claim),
        )
        for check in verdict.checks
    )
    return "<h2>What was proved</h2>\n" + table(("state", "check", "claim"), rows)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = (
        (
            text(finding.code),
            text("" if finding.block is None else finding.block),
            "" if finding.offset is None else _offset(finding.offset),
            text(finding.message) + _hint(finding.hint),
            code(finding.expected or ""),
            code(finding.found or ""),
        )
        for finding in findings
    )
    heads = ("finding", "block", "at", "what", "expected", "found")
    return "<h2>Findings</h2>\n" + table(heads, rows)


def _hint(hint: str | None) -> str:
    return f'<br><span class="hint">{text(hint)}</span>' if hint else ""


def _explanation(explanation: Explanation) -> str:
    parts = []
    if explanation.causes:
        parts.append("<h2>Likely causes</h2>\n" + table(("cause", "what"), _causes(explanation)))
    if explanation.differences:
        more = f", {explanation.omitted} more not listed" if explanation.omitted else ""
        parts.append(
            f"<h2>Differences: {explanation.differing_bytes} bytes{more}</h2>\n"
            + table(
                ("at", "bytes", "where", "section, symbol, field", "measured", "expected", "found"),
                (_difference(d) for d in explanation.differences),
            )
        )
    return "\n".join(parts)


def _causes(explanation: Explanation) -> Iterable[Sequence[str]]:
    def row(cause: Cause) -> Sequence[str]:
        return text(cause.code), text(cause.message) + _hint(cause.hint)

    return (row(cause) for cause in explanation.causes)


def _difference(difference: Difference) -> Sequence[str]:
    names = (difference.section, difference.symbol, difference.field)
    return (
        _offset(difference.start),
        text(difference.end - difference.start),
        text(difference.where),
        code(" ".join(n for n in names if n)),
        "yes" if difference.measured else "no",
        code(difference.expected),
        code(difference.found),
    )


def _blocks(verdict: Verdict) -> str:
    if not verdict.blocks:
        return ""
    rows = (
        (
            text(block.index),
            text(block.version),
            code(block.mrenclave),
            f"{text(block.signer or 'unknown')}<br>{code(block.mrsigner)}",
            text(block.isvprodid),
            text(block.isvsvn),
            text(block.date),
            '<span class="refuted">yes</span>' if block.debug else "no",
        )
        for block in verdict.blocks
    )
    heads = (
        "block",
        "version",
        "MRENCLAVE",
        "signer, MRSIGNER",
        "ISVPRODID",
        "ISVSVN",
        "date",
        "debug",
    )
    return "<h2>The vendor's metadata blocks</h2>\n" + table(heads, rows)


def _byte_map(verdict: Verdict) -> str:
    size = max(1, verdict.signed.size)
    shown = verdict.byte_map[:_MAP_ROWS]
    bar = "".join(
        f'<span class="{r.origin.value}" style="flex: {r.size / size:.6f}" '
        f'title="0x{r.start:x} to 0x{r.end:x}: {r.origin.value}"></span>'
        for r in shown
    )
    rows: list[Sequence[str]] = [
        (
            f'<span class="key {origin.value}"></span>{origin.value}',
            text(verdict.bytes_of(origin)),
            f"{100 * verdict.bytes_of(origin) / size:.4g} %",
        )
        for origin in Origin
    ]
    more = len(verdict.byte_map) - len(shown)
    note = f"<p>{more} more ranges are not drawn.</p>" if more else ""
    return (
        f'<h2>Every byte of the vendor\'s file</h2>\n<div class="bar">{bar}</div>\n{note}'
        + table(("origin", "bytes", "share"), rows)
    )
