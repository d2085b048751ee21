# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict as one HTML file: no scripts, nothing to load, everything escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

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

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #c01c28; --unsure: #9a6700; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.35rem; border-left: .5rem solid; padding: .2rem .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
.identical, .proved { color: var(--ok); }
.differs, .refuted { color: var(--bad); }
.unverifiable, .not-done { color: var(--unsure); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
code { font: 13px/1.4 ui-monospace, monospace; }
.whole { white-space: nowrap; }
.bar { display: flex; height: 1.1rem; border-radius: .2rem; overflow: hidden; margin: .5rem 0; }
.bar span { min-width: 2px; }
.built { background: #4c8ed9; } .regenerated { background: #3fa66a; }
.signature { background: #d9a521; } .unexplained { background: #d43c45; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
.hint { opacity: .75; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def verdict_html(verdict: Verdict) -> str:
    """The whole report as one HTML document."""
    outcome = verdict.outcome.value
    title = f"{outcome.upper()}: {sentence(verdict)}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_text(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f'<h1 class="{outcome}">{_text(title)}</h1>',
        _inputs(verdict),
        _checks(verdict),
        _findings(verdict.findings),
    ]
    if verdict.explanation is not None:
        parts.append(_explanation(verdict.explanation))
    parts += [_blocks(verdict), _byte_map(verdict), "</body>\n</html>\n"]
    return "\n".join(part for part in parts if part)


def _text(value: object) -> str:
    """Escaped; control characters, which HTML forbids, as `\\xNN`."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(value))
    return html.escape(shown)


def _code(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _offset(value: int) -> str:
    return f'<code class="whole">0x{value:x}</code>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{_text(h)}</th>" for h in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _inputs(verdict: Verdict) -> str:
    def row(role: str, facts: FileFacts) -> Sequence[str]:
        return _text(role), _code(facts.name), _text(facts.size), _code(facts.sha256)

    table = _table(
        ("input", "name", "bytes", "SHA-256"),
        (
            row("built", verdict.built),
            row("signed", verdict.signed),
            row("config", verdict.config),
        ),
    )
    measured = f"<p>MRENCLAVE of our build: {_code(verdict.mrenclave or 'not measured')}"
    sdk = f"; SDK followed: {_text(verdict.sdk or 'none')}</p>"
    return f"<h2>Compared</h2>\n{table}\n{measured}{sdk}"


def _checks(verdict: Verdict) -> str:
    rows = (
        (
            f'<span class="{_text(check.state.value).replace(" ", "-")}">'
            f"{_text(check.state.value)}</span>",
            _text(check.name),
            _text(check.claim),
        )
        for check in verdict.checks
    )
    return "<h2>What was proved</h2>\n" + _table(("state", "check", "claim"), rows)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = (
        (
            _text(finding.code),
            _text("" if finding.block is None else finding.block),
            "" if finding.offset is None else _offset(finding.offset),
            _text(finding.message) + _hint(finding.hint),
            _code(finding.expected or ""),
            _code(finding.found or ""),
        )
        for finding in findings
    )
    heads = ("finding", "block", "at", "what", "expected", "found")
    return "<h2>Findings</h2>\n" + _table(heads, rows)


def _hint(hint: str | None) -> str:
    return f'<br><span class="hint">{_text(hint)}</span>' if hint else ""


def _explanation(explanation: Explanation) -> str:
    parts = []
    if explanation.causes:
        parts.append("<h2>Likely causes</h2>\n" + _table(("cause", "what"), _causes(explanation)))
    if explanation.differences:
        more = f", {explanation.omitted} more not listed" if explanation.omitted else ""
        parts.append(
            f"<h2>Differences: {explanation.differing_bytes} bytes{more}</h2>\n"
            + _table(
                ("at", "bytes", "where", "section, symbol, field", "measured", "expected", "found"),
                (_difference(d) for d in explanation.differences),
            )
        )
    return "\n".join(parts)


def _causes(explanation: Explanation) -> Iterable[Sequence[str]]:
    def row(cause: Cause) -> Sequence[str]:
        return _text(cause.code), _text(cause.message) + _hint(cause.hint)

    return (row(cause) for cause in explanation.causes)


def _difference(difference: Difference) -> Sequence[str]:
    names = (difference.section, difference.symbol, difference.field)
    return (
        _offset(difference.start),
        _text(difference.end - difference.start),
        _text(difference.where),
        _code(" ".join(n for n in names if n)),
        "yes" if difference.measured else "no",
        _code(difference.expected),
        _code(difference.found),
    )


def _blocks(verdict: Verdict) -> str:
    if not verdict.blocks:
        return ""
    rows = (
        (
            _text(block.index),
            _text(block.version),
            _code(block.mrenclave),
            f"{_text(block.signer or 'unknown')}<br>{_code(block.mrsigner)}",
            _text(block.isvprodid),
            _text(block.isvsvn),
            _text(block.date),
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
    return "<h2>The vendor's metadata blocks</h2>\n" + _table(heads, rows)


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
            _text(verdict.bytes_of(origin)),
            f"{100 * verdict.bytes_of(origin) / size:.4g} %",
        )
        for origin in Origin
    ]
    more = len(verdict.byte_map) - len(shown)
    note = f"<p>{more} more ranges are not drawn.</p>" if more else ""
    return (
        f'<h2>Every byte of the vendor\'s file</h2>\n<div class="bar">{bar}</div>\n{note}'
        + _table(("origin", "bytes", "share"), rows)
    )
