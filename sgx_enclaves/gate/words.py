# SPDX-License-Identifier: GPL-2.0-or-later
"""The one answer on a build, for people: as text and as an HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from sgx_enclaves.gate.collect import Combined
from sgx_enclaves.packages.subjects import Subject
from sgx_enclaves.report.page import code, document, table, text

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
