# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a release for people: it fits a screen, and what is cut is counted.

Decides nothing. What weakens the verdict (facts that nobody pinned, another
toolchain) is as visible as the verdict itself. Text out of files is made printable.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sgx_enclaves.releases.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveResult,
    ReleaseVerdict,
    Stage,
    StageState,
)
from sgx_enclaves.verdict.model import Finding, Outcome, Severity

_LABEL = 10
_HANG = 19
_REASONS = 3
_UNPINNED = 6
_MISMATCHES = 3
_VALUE = 72

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"
_COLOURS = {
    Outcome.IDENTICAL: _GREEN,
    Outcome.DIFFERS: _RED,
    Outcome.UNVERIFIABLE: _YELLOW,
}
_BUILD_WORDS = {
    BuildKind.DESIGNATED: "built here with the designated toolchain",
    BuildKind.HOST: "built here with ANOTHER toolchain than the designated one",
    BuildKind.GIVEN: "a build that was given; how it was made is not proved here",
    BuildKind.NONE: "nothing was built",
}
_RED_LABELS = ("UNPINNED", "TOOLCHAIN", "MAY NOT")


def release_text(verdict: ReleaseVerdict, *, colour: bool = False, width: int = 80) -> str:
    """The whole report.

    Args:
        verdict: what to report.
        colour: mark the important words with ANSI colours.
        width: columns.
    """
    lines = _wrapped("", headline(verdict), width)
    for row in _rows(verdict):
        lines += _wrapped(f"{row.label:<{_LABEL}}{row.mark}", row.text, width, row.hang)
    lines = ["".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in x) for x in lines]
    if colour:
        first, _, rest = lines[0].partition(":")
        lines[0] = f"{_COLOURS[verdict.outcome]}{_BOLD}{first}{_PLAIN}:{rest}"
        lines[1:] = _coloured(lines[1:])
    return "\n".join(lines) + "\n"


def headline(verdict: ReleaseVerdict) -> str:
    """The verdict as one precise sentence."""
    return f"{verdict.outcome.value.upper()}: {verdict.release}: {verdict.claim}"


class _Row(NamedTuple):
    """A label in the first column, or none; a mark before the text; how far later lines hang."""

    label: str
    text: str
    mark: str = ""
    hang: int = 0


def _rows(verdict: ReleaseVerdict) -> Iterator[_Row]:
    yield _Row("release", verdict.title)
    if verdict.outcome is Outcome.IDENTICAL:
        yield _Row("verdict", reproducible_words(verdict))
    for build in verdict.builds:
        yield from _build(build)
    if verdict.unpinned:
        names = ", ".join(verdict.unpinned[:_UNPINNED])
        more = len(verdict.unpinned) - _UNPINNED
        names += f" and {more} more" if more > 0 else ""
        said = "accepted by --allow-unpinned" if verdict.unpinned_allowed else "not accepted"
        yield _Row("UNPINNED", f"{said}: {names}")
    told: set[Finding] = set()
    for index, stage in enumerate(verdict.stages):
        yield _Row("stages" if index == 0 else "", _stage(stage), hang=_HANG)
        if stage.state is StageState.REFUSED:
            # what is wrong with the toolchain stands with the build
            if stage.name != "toolchain":
                yield from _reasons(stage.findings)
            yield from (_Row("", f"-> {hint}", "    ") for hint in _hints(stage.findings))
            told |= set(stage.findings)
    for index, enclave in enumerate(verdict.enclaves):
        yield _Row("enclaves" if index == 0 else "", _enclave(enclave), hang=_HANG)
        findings = enclave.verdict.findings if enclave.verdict is not None else enclave.findings
        yield from _reasons(f for f in findings if f not in told)
    for enclave in verdict.enclaves:
        if not enclave.may_ship:
            yield _Row("MAY NOT", f"be shipped: {enclave.name}: {enclave.reason}")
    notes = [f.message for s in verdict.stages for f in s.findings if _worth_a_line(f)]
    for notice in (*verdict.notices, *notes):
        yield _Row("note", notice)


def reproducible_words(verdict: ReleaseVerdict) -> str:
    """Whether an identical release is the reproducible verdict, in words."""
    if verdict.reproducible:
        return "reproducible: our own build, pinned sources, designated toolchain"
    return "the bytes are identical, but this is NOT the reproducible verdict"


def _worth_a_line(finding: Finding) -> bool:
    """Notes on the toolchain are told with the build."""
    return finding.severity is Severity.NOTE and finding.code != "toolchain-not-designated"


def build_words(build: BuildFacts) -> str:
    """Whose build it is, and what a given one says of itself."""
    text = f"{build.tree}: {_BUILD_WORDS[build.kind]}"
    return text + (f"; {build.says}" if build.says else "")


def _build(build: BuildFacts) -> Iterator[_Row]:
    yield _Row("build", build_words(build))
    if build.mismatches:
        shown = "; ".join(build.mismatches[:_MISMATCHES])
        more = len(build.mismatches) - _MISMATCHES
        yield _Row("TOOLCHAIN", shown + (f"; and {more} more" if more > 0 else ""))


def _stage(stage: Stage) -> str:
    seconds = f" ({stage.seconds:.1f} s)" if stage.seconds >= 0.05 else ""
    detail = f" {stage.detail}" if stage.detail else ""
    return f"{stage.name:<9} {stage.state.value:<8}{detail}{seconds}"


def _enclave(enclave: EnclaveResult) -> str:
    outcome = enclave.bytes_outcome.value
    parts = []
    if enclave.verdict is not None:
        if enclave.verdict.mrenclave is not None:
            parts.append(f"MRENCLAVE {enclave.verdict.mrenclave[:16]}...")
        if enclave.refused_checks:
            parts = ["compare refuses: " + ", ".join(enclave.refused_checks)]
    else:
        parts.append(f"stopped at {enclave.refused_by}")
    if enclave.unpinned:
        parts.append(f"NOT PINNED: {', '.join(enclave.unpinned)}")
    if not enclave.required:
        parts.append("not required")
    return f"{enclave.name:<9} {outcome:<12} {', '.join(parts)}"


def _reasons(findings: Iterable[Finding]) -> Iterator[_Row]:
    """Each reason once: an enclave's blocks often have the same."""
    against = (reason_words(f) for f in findings if f.severity is not Severity.NOTE)
    texts = list(dict.fromkeys(against))
    for text in texts[:_REASONS]:
        yield _Row("", text, "  - ")
    if len(texts) > _REASONS:
        yield _Row("", f"and {len(texts) - _REASONS} more, see the JSON report", "  - ")


def _hints(findings: Iterable[Finding]) -> list[str]:
    """The next steps, each once."""
    return list(
        dict.fromkeys(f.hint for f in findings if f.hint and f.severity is not Severity.NOTE)
    )


def reason_words(finding: Finding) -> str:
    """A finding in one line."""
    details = [
        f"{word} {value if len(value) <= _VALUE else value[:_VALUE] + '...'}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    return finding.message + (f": {', '.join(details)}" if details else "")


def _wrapped(start: str, text: str, width: int, hang: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * (max(len(start), _LABEL) + hang),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]


def _coloured(lines: list[str]) -> list[str]:
    """A red label makes its whole row red."""
    coloured, red = [], False
    for line in lines:
        if line[:1] != " ":
            red = line.startswith(_RED_LABELS)
        coloured.append(f"{_RED}{line}{_PLAIN}" if red else line)
    return coloured
