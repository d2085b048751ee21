# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a release as one HTML file, with links to each enclave's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sgx_enclaves.releases.outcome import EnclaveResult, ReleaseVerdict
from sgx_enclaves.report.page import code, document, table, text
from sgx_enclaves.report.release_text import build_words, headline, reproducible_words
from sgx_enclaves.verdict.model import Finding, Outcome, Severity


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
                        text(stage.detail) + _findings(stage.findings),
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


def _enclave(enclave: EnclaveResult) -> Sequence[str]:
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
        + _findings(verdict.findings if verdict else enclave.findings),
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


def _findings(findings: Iterable[Finding]) -> str:
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
