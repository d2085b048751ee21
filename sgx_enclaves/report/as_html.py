# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict as one HTML file: no scripts, nothing to load, everything escaped.

What every HTML report is made of: one page, no scripts, nothing to load, all escaped.

The verdict on a release as one HTML file, with links to each enclave's own.

The one answer on a build, for people: as text and as an HTML page.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from sgx_enclaves.enclave.verdict import (
    Cause,
    Difference,
    Explanation,
    FileFacts,
    Finding,
    Origin,
    Outcome,
    Severity,
    Verdict,
)
from sgx_enclaves.gate.collect import Combined
from sgx_enclaves.gate.subjects import Subject
from sgx_enclaves.plain import printable
from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict
from sgx_enclaves.report.text import build_words, headline, reproducible_words, sentence

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


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page; the title is text, the parts are HTML, empty ones are left out."""
    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{text(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    )
    return "\n".join([head, *(part for part in parts if part), "</body>\n</html>\n"])


def text(value: object) -> str:
    """Escaped; control characters, which HTML forbids, as `\\xNN`."""
    return html.escape(printable(str(value)))


def code(value: object) -> str:
    """The value in a fixed-width face."""
    return f"<code>{text(value)}</code>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are HTML already."""
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


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


def release_html(verdict: ReleaseVerdict) -> str:
    """The whole report as one HTML document."""
    title = headline(verdict)
    kind = "identical" if verdict.reproducible else "unverifiable"
    words = reproducible_words(verdict) if verdict.outcome is Outcome.IDENTICAL else ""
    return document(
        title,
        [
            f'<h1 class="{verdict.outcome.value}">{text(title)}</h1>',
            f'<p>{text(verdict.title)} <span class="{kind}">{text(words)}</span></p>',
            _unpinned(verdict),
            "<h2>Enclaves</h2>",
            table(
                ("enclave", "verdict", "required", "may be shipped", "MRENCLAVE", "why"),
                (_enclave(enclave) for enclave in verdict.enclaves),
            ),
            _builds(verdict),
            "<h2>Stages</h2>",
            table(
                ("stage", "state", "seconds", "what"),
                (
                    (
                        text(stage.name),
                        _state(stage.state.value),
                        f"{stage.seconds:.1f}",
                        text(stage.detail) + _release_html_findings(stage.findings),
                    )
                    for stage in verdict.stages
                ),
            ),
            _notices(verdict.notices),
        ],
    )


def _unpinned(verdict: ReleaseVerdict) -> str:
    if not verdict.unpinned:
        return ""
    said = (
        "were accepted by --allow-unpinned"
        if verdict.unpinned_allowed
        else "keep this release from being identical"
    )
    names = ", ".join(code(name) for name in verdict.unpinned)
    return f'<p class="differs"><strong>Facts that nobody pinned {said}:</strong> {names}</p>'


def _enclave(enclave: EnclaveOutcome) -> Sequence[str]:
    verdict = enclave.verdict
    outcome = enclave.bytes_outcome.value
    shown = f'<span class="{outcome}">{text(outcome)}</span>'
    link = f'<br><a href="{text(enclave.name)}/verdict.html">its report</a>' if verdict else ""
    unpinned = ", ".join(enclave.unpinned)
    why = [
        f"not pinned: {text(unpinned)}" if unpinned else "",
        f"refused by the comparison: {text(', '.join(enclave.refused_checks))}"
        if enclave.refused_checks
        else "",
        f"stopped at {text(enclave.refused_by)}" if enclave.refused_by else "",
    ]
    return (
        text(enclave.name),
        shown + link,
        "yes" if enclave.required else "no",
        "yes" if enclave.may_ship else f'<span class="differs">no: {text(enclave.reason)}</span>',
        code(verdict.mrenclave if verdict and verdict.mrenclave else ""),
        "<br>".join(w for w in why if w)
        + _release_html_findings(verdict.findings if verdict else enclave.findings),
    )


def _builds(verdict: ReleaseVerdict) -> str:
    rows = (
        (
            text(build_words(build)),
            text(build.toolchain),
            "<br>".join(text(words) for words in build.mismatches) or "none",
        )
        for build in verdict.builds
    )
    heads = ("build", "designated toolchain", "what is not as designated")
    return "<h2>Our build</h2>\n" + table(heads, rows)


def _state(state: str) -> str:
    kinds = {"refused": "differs", "not done": "unverifiable"}
    return f'<span class="{kinds.get(state, "identical")}">{text(state)}</span>'


def _release_html_findings(findings: Iterable[Finding]) -> str:
    parts = []
    for finding in findings:
        details = [
            f"<br>{word} {code(value)}"
            for word, value in (("expected", finding.expected), ("found", finding.found))
            if value is not None
        ]
        hint = f'<br><span class="hint">{text(finding.hint)}</span>' if finding.hint else ""
        kind = "" if finding.severity is Severity.NOTE else f' class="{finding.severity.value}"'
        parts.append(f"<p><span{kind}>{text(finding.message)}</span>{''.join(details)}{hint}</p>")
    return "".join(parts)


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{text(notice)}</li>" for notice in notices)
    return f"<h2>Notes</h2>\n<ul>{items}</ul>"


_WIDTH = 88
_DIGITS = 16


def combined_text(combined: Combined) -> str:
    """The answer as lines of text."""
    lines = textwrap.wrap(f"{combined.verdict.upper()}: {combined.claim}", _WIDTH)
    lines.append("")
    for answer in combined.answers:
        lines.append(f"{answer.enclave:<8} {answer.verdict:<13} task {answer.task_id}")
        for subject in answer.subjects:
            mrenclave = (subject.mrenclave or "unknown")[:_DIGITS]
            lines.append(f"  {subject.verdict:<13} {_place(subject)}, MRENCLAVE {mrenclave}…")
            if subject.cause:
                lines += textwrap.wrap(
                    subject.cause, _WIDTH, initial_indent="    ", subsequent_indent="    "
                )
    for package in combined.packages:
        digest = package.digests.file if package.digests else "unreadable"
        lines.append(f"package  {package.name}, sha256 {digest}")
    return "\n".join(lines) + "\n"


def _place(subject: Subject) -> str:
    return f"{subject.path} of {subject.rpm}" if subject.rpm else f"the vendor's {subject.file}"


def combined_html(combined: Combined) -> str:
    """The answer as a page of its own."""
    subject = combined.nvr or f"release {combined.release}"
    return document(
        f"{subject}: {combined.verdict}",
        [
            f'<h1 class="{combined.verdict}">{text(subject)}: {combined.verdict}</h1>',
            f"<p>{text(combined.claim)}</p>",
            "<h2>Files</h2>",
            table(
                ("Enclave", "Verdict", "File", "MRENCLAVE", "Signer", "SVN", "SHA-256", "Cause"),
                [_row(a.enclave, s) for a in combined.answers for s in a.subjects],
            ),
            "<h2>Tasks</h2>",
            table(
                ("Enclave", "Verdict", "Task", "Built", "Claim"),
                [
                    (
                        text(a.enclave),
                        _verdict(a.verdict),
                        text(a.task_id),
                        code(a.built_sha256 or ""),
                        text(a.claim),
                    )
                    for a in combined.answers
                ],
            ),
            _packages(combined),
        ],
    )


def _verdict(verdict: str) -> str:
    return f'<span class="{text(verdict)}">{text(verdict)}</span>'


def _row(name: str, subject: Subject) -> Sequence[str]:
    def known(value: Any) -> str:
        return "" if value is None else code(value)

    return (
        text(name),
        _verdict(subject.verdict),
        text(_place(subject)),
        known(subject.mrenclave),
        known(subject.mrsigner),
        known(subject.isvsvn),
        known(subject.sha256),
        text(subject.cause or ""),
    )


def _packages(combined: Combined) -> str:
    if not combined.packages:
        return ""
    rows = [
        (
            text(package.name),
            code(package.digests.file if package.digests else ""),
            text(package.problem or ""),
        )
        for package in combined.packages
    ]
    return "<h2>Packages</h2>\n" + table(("File", "SHA-256", "Problem"), rows)
