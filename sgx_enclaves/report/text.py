# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for people, as lines of text: verdicts on enclaves, releases and packages.

Decides nothing, and leaves nothing that matters out: what is cut is counted, and what
weakens a verdict is as visible as the verdict itself. Every text is made printable, so
that nothing out of a file can steer a terminal.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

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

if TYPE_CHECKING:
    # A comparison, which prints a verdict only, does without them.
    from sgx_enclaves.release.outcome import BuildFacts, EnclaveOutcome, ReleaseVerdict, Stage
    from sgx_enclaves.rpm.check import EnclaveResult, PackageResult
    from sgx_enclaves.rpm.scan import Survey

# How long a digest is shown where it only distinguishes files on a screen.
_DIGITS = 16


# --- layout ---


class Row(NamedTuple):
    """A label in a column of its own, and a text of any length that hangs behind it.

    The label is empty where the row continues the one above it; `mark` stands before the text, and
    its later lines begin `hang` characters further to the right.
    """

    label: str
    text: str
    mark: str = ""
    hang: int = 0


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


def laid_out(head: str, rows: Iterable[Row], width: int, column: int) -> list[str]:
    """A headline, and rows whose labels have a column of this many characters."""
    lines = paragraph(head, width, indent=column)
    for row in rows:
        start = f"{row.label:<{column}}{row.mark}"
        lines += paragraph(row.text, width, start, max(len(start), column) + row.hang)
    return lines


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
        lines = laid_out(head, _verdict_rows(verdict, *amounts), width, 9)
        if len(lines) <= _SCREEN:
            break
    return "\n".join([*lines, ""])


def _verdict_rows(
    verdict: Verdict, most_findings: int, most_causes: int, most_differences: int, whole: bool
) -> Iterator[Row]:
    yield Row("built", _file(verdict.built, whole))
    yield Row("signed", _file(verdict.signed, whole))
    # our own build chooses it, unless the line says who else did
    chosen = "" if verdict.sdk_from == "our build" else f", chosen by {verdict.sdk_from}"
    sdk = f", SDK {verdict.sdk}{chosen}" if verdict.sdk else ""
    yield Row("config", _file(verdict.config, whole) + sdk)
    for check in verdict.checks:
        yield Row(check.state.value, f"{check.name}: {_CLAIMS.get(check.name, check.claim)}")
    # in full where somebody might rely on the verdict, last of all where a screen is full
    if verdict.outcome is Outcome.IDENTICAL:
        yield Row("unproved", "; ".join(verdict.not_proved))
    elif most_differences > 1:
        yield Row("unproved", "; ".join(c.partition(":")[0] for c in verdict.not_proved))
    if verdict.mrenclave is not None:
        yield Row("measured", verdict.mrenclave)
    for block in verdict.blocks:
        yield Row(f"block {block.index}", _block_words(block, verdict.mrenclave, whole))
    origins = [o for o in Origin if o is not Origin.SECOND_SIGNATURE or verdict.bytes_of(o)]
    yield Row("bytes", ", ".join(f"{o.value} {verdict.bytes_of(o)}" for o in origins))
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
        yield Row("" if index else label, text)
    more = max(0, len(texts) - most) + omitted
    if more:
        # Ranges beyond those that were kept are counted, nowhere listed.
        has = "--json has them" if not omitted else "--json has more"
        yield Row("", f"... and {more} more; {has}")


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


# --- the verdict on a release ---

_HANG = 19
_REASONS, _UNPINNED, _MISMATCHES = 3, 6, 3
_LONGEST_VALUE = 120

_BUILD_WORDS = {
    "DESIGNATED": "built here with the designated toolchain",
    "OPEN": "built here with the designated toolchain, NOT SEPARATED from the machine",
    "HOST": "built here with ANOTHER toolchain than the designated one",
    "GIVEN": "a build that was given; how it was made is not proved here",
    "NONE": "nothing was built",
}


def release_text(verdict: ReleaseVerdict, *, width: int = 80) -> str:
    """The whole report on a release, in lines of `width`."""
    return "\n".join([*laid_out(headline(verdict), _release_rows(verdict), width, 10), ""])


def headline(verdict: ReleaseVerdict) -> str:
    """The verdict as one precise sentence."""
    weaker = verdict.outcome is Outcome.IDENTICAL and not verdict.reproducible
    word = verdict.outcome.value.upper() + (", NOT REPRODUCIBLE" if weaker else "")
    return f"{word}: {verdict.release}: {verdict.claim}"


def reproducible_words(verdict: ReleaseVerdict) -> str:
    """Whether an identical release is the reproducible verdict, in words."""
    if verdict.reproducible:
        return "reproducible: our own build, pinned sources, designated toolchain"
    return "the bytes are identical, but this is NOT the reproducible verdict"


def build_words(build: BuildFacts) -> str:
    """Whose build it is, by which route if not the maker's, and what a given one says of itself."""
    from sgx_enclaves.catalogue.records import MAKERS  # noqa: PLC0415  (see TYPE_CHECKING)

    text = f"{build.tree}: {_BUILD_WORDS[build.kind.name]}"
    text += f", by the route {build.route!r}" if build.route not in ("", MAKERS) else ""
    return text + (f"; {build.says}" if build.says else "")


def _release_rows(verdict: ReleaseVerdict) -> Iterator[Row]:
    yield Row("release", verdict.title)
    if verdict.outcome is Outcome.IDENTICAL:
        yield Row("verdict", reproducible_words(verdict))
    for build in verdict.builds:
        yield Row("build", build_words(build))
        if build.mismatches:
            yield Row("TOOLCHAIN", _first(build.mismatches, _MISMATCHES, "; ", "; and"))
    if verdict.unpinned:
        said = "accepted by --allow-unpinned" if verdict.unpinned_allowed else "not accepted"
        yield Row("UNPINNED", f"{said}: {_first(verdict.unpinned, _UNPINNED, ', ', ' and')}")
    shown: set[Finding] = set()
    for index, stage in enumerate(verdict.stages):
        # so little that the archive's whole digest fits in a line
        yield Row("" if index else "stages", _stage_words(stage), hang=4)
        if stage.state.name == "REFUSED":
            # what is wrong with the toolchain stands with the build
            if stage.name != "toolchain":
                yield from _reasons(stage.findings)
            hints = dict.fromkeys(f.hint for f in _against(stage.findings) if f.hint)
            yield from (Row("", f"-> {hint}", "    ") for hint in hints)
            shown |= set(stage.findings)
    for index, enclave in enumerate(verdict.enclaves):
        yield Row("" if index else "enclaves", _enclave_words(enclave), hang=_HANG)
        findings = enclave.verdict.findings if enclave.verdict is not None else enclave.findings
        yield from _reasons(f for f in findings if f not in shown)
    for enclave in verdict.enclaves:
        if not enclave.may_ship:
            yield Row("MAY NOT", f"be shipped: {enclave.name}: {enclave.reason}")
    yield Row("unproved", "; ".join(verdict.not_proved))
    found = [f for stage in verdict.stages for f in stage.findings if f.severity is Severity.NOTE]
    # those on the toolchain stand with the build
    notes = [f.message for f in found if f.code != "toolchain-not-designated"]
    for notice in (*verdict.notices, *notes):
        yield Row("note", notice)


def _first(texts: Sequence[str], most: int, comma: str, last: str) -> str:
    more = len(texts) - most
    return comma.join(texts[:most]) + (f"{last} {more} more" if more > 0 else "")


def _stage_words(stage: Stage) -> str:
    seconds = f" ({stage.seconds:.1f} s)" if stage.seconds >= 0.05 else ""
    detail = f" {stage.detail}" if stage.detail else ""
    return f"{stage.name:<9} {stage.state.value:<8}{detail}{seconds}"


def _enclave_words(enclave: EnclaveOutcome) -> str:
    parts = []
    if enclave.verdict is None:
        parts.append(f"stopped at {enclave.refused_by}")
    elif enclave.refused_checks:
        parts.append("compare refuses: " + ", ".join(enclave.refused_checks))
    elif enclave.verdict.mrenclave is not None:
        parts.append(f"MRENCLAVE {enclave.verdict.mrenclave[:_DIGITS]}...")
    if enclave.unpinned:
        parts.append(f"NOT PINNED: {', '.join(enclave.unpinned)}")
    if not enclave.required:
        parts.append("not required")
    return f"{enclave.name:<9} {enclave.bytes_outcome.value:<12} {', '.join(parts)}"


def reasons(findings: Iterable[Finding]) -> list[str]:
    """What speaks against it, each reason once: an enclave's blocks often have the same."""
    return list(dict.fromkeys(f.message + _details(f, _LONGEST_VALUE) for f in _against(findings)))


def _reasons(findings: Iterable[Finding]) -> Iterator[Row]:
    texts = reasons(findings)
    for text in texts[:_REASONS]:
        yield Row("", text, "  - ")
    if len(texts) > _REASONS:
        yield Row("", f"and {len(texts) - _REASONS} more, see the JSON report", "  - ")


# --- packages ---

_MOST_LINKS = 20


def result_text(result: PackageResult, *, width: int = 80) -> str:
    """A package's result: much about what is wrong, little about what is right."""
    name = f" ({result.nevra})" if result.nevra else ""
    lines = [f"{result.file}{name}: {_summary(result)}"]
    lines += [f"  {line}" for finding in result.findings for line in finding_lines(finding)]
    for enclave in result.enclaves:
        lines += ["", *_enclave_lines(enclave, width)]
    return "\n".join(map(printable, lines))


def _summary(result: PackageResult) -> str:
    if result.outcome is not None:
        enclaves = _counted(e.outcome.value for e in result.enclaves if e.outcome is not None)
        # The whole may be worse than each part: say what the parts are.
        return result.outcome.value.upper() + (f" (enclaves: {enclaves})" if enclaves else "")
    unsigned = f"{len(result.enclaves)} unsigned enclave(s), nothing to verify"
    return unsigned if result.enclaves else "no enclave"


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(Counter(words).items()))


def _enclave_lines(enclave: EnclaveResult, width: int) -> list[str]:
    name = f", enclave {enclave.name}" if enclave.name else ""
    state = "signed" if enclave.signed else "unsigned"
    if any(f.code == "enclave-malformed" for f in enclave.findings):
        state = "malformed"
    lines = [f"sha256    {enclave.sha256}"]
    lines += [f"link      {link}" for link in enclave.links[:_MOST_LINKS]]
    if len(enclave.links) > _MOST_LINKS:
        lines.append(f"link      and {len(enclave.links) - _MOST_LINKS} more")
    if enclave.reference is not None:
        lines.append(f"reference {enclave.reference}")
    for finding in enclave.findings:
        lines += finding_lines(finding)
    verdict = enclave.verdict
    if verdict is not None and verdict.outcome is Outcome.IDENTICAL:
        lines.append(f"IDENTICAL {verdict.headline}")
        lines.append(f"MRENCLAVE {verdict.mrenclave}")
        seconds = (f.found for f in verdict.findings if f.code == "second-signature")
        lines += [
            f"second signature by {key}, which nothing binds to the vendor" for key in seconds
        ]
    elif verdict is not None:
        lines += verdict_text(verdict, width=width - 2).rstrip("\n").split("\n")
    head = f"{enclave.path}: {state}{name}, {enclave.size} bytes"
    return [head, *(f"  {line}" for line in lines)]


_SAID = ("reference-unauthenticated",)


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report as `result_dict` gives it, in a line for the package and one for each enclave."""
    word = (report["outcome"] or "unsigned").upper()
    lines = [f"{report['file']}: {word}"]
    lines += [f"  {finding['message']}" for finding in report["findings"]]
    for enclave in report["enclaves"]:
        verdict = enclave["verdict"]
        findings = enclave["findings"] + (verdict["findings"] if verdict else [])
        # Conventions are for the packager, who asks of one package.
        findings = [f for f in findings if f["severity"] != "note" or f["code"] in _SAID]
        said = enclave["outcome"] or "unsigned"
        if findings:
            # What speaks against it comes before what is only said.
            said += f": {min(findings, key=_is_note)['message']}"
        elif verdict:
            said += f", MRENCLAVE {verdict['mrenclave']}"
        lines.append(f"  {enclave['path']}: {said}")
    return [printable(line) for line in lines]


def _is_note(finding: Mapping[str, Any]) -> bool:
    return bool(finding["severity"] == "note")


def scan_summary(survey: Survey, reports: Sequence[Mapping[str, Any]]) -> str:
    """One line about a whole scan, and about the packages that were worth a report."""
    enclaves = [enclave for report in reports for enclave in report["enclaves"]]
    carrying = sum(bool(report["enclaves"]) for report in reports)
    broken = sum(not all(map(_is_note, report["findings"])) for report in reports)
    words = _counted(enclave["outcome"] or "unsigned" for enclave in enclaves)
    scanned = f"{len(survey.targets) + survey.passed} packages"
    if survey.passed:
        scanned += f" ({survey.passed} by repodata alone)"
    if survey.absent:
        scanned += f", {survey.absent} more listed but not there"
    return (
        f"{scanned}, {carrying} with enclaves, {broken} with something wrong; "
        f"enclaves: {words or 'none'}"
    )
