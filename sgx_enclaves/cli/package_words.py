# SPDX-License-Identifier: GPL-2.0-or-later
"""The result of a package check for programs and for people; decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from sgx_enclaves.packages.check import EnclaveResult, PackageResult
from sgx_enclaves.packages.survey import Survey
from sgx_enclaves.report.as_json import verdict_dict
from sgx_enclaves.report.findings import finding_dict, finding_lines
from sgx_enclaves.report.text import sentence, verdict_text
from sgx_enclaves.verdict.model import Outcome

# Changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
# In words; JSON has all.
_MOST_LINKS = 20


def result_dict(result: PackageResult) -> dict[str, object]:
    """A package's result as a plain mapping; see `PackageResult`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "file": result.file,
        "package": result.nevra,
        "outcome": _word(result.outcome),
        "exit_status": result.exit_status,
        "findings": [finding_dict(f) for f in result.findings],
        "enclaves": [_enclave_dict(e) for e in result.enclaves],
    }


def _enclave_dict(enclave: EnclaveResult) -> dict[str, object]:
    return {
        "path": enclave.path,
        "links": list(enclave.links),
        "name": enclave.name,
        "signed": enclave.signed,
        "size": enclave.size,
        "sha256": enclave.sha256,
        "reference": enclave.reference,
        "outcome": _word(enclave.outcome),
        "exit_status": enclave.exit_status,
        "findings": [finding_dict(f) for f in enclave.findings],
        "verdict": None if enclave.verdict is None else verdict_dict(enclave.verdict),
    }


def _word(outcome: Optional[Outcome]) -> Optional[str]:
    return None if outcome is None else outcome.value


def result_text(result: PackageResult, *, colour: bool = False) -> str:
    """A package's result for people: much about what is wrong, little about what is right.

    Args:
        result: what to report.
        colour: mark the important words of verdicts with ANSI colours.
    """
    name = f" ({result.nevra})" if result.nevra else ""
    lines = [_printable(f"{result.file}{name}: {_summary(result)}")]
    for finding in result.findings:
        lines += _indented(finding_lines(finding))
    for enclave in result.enclaves:
        lines += ["", *_enclave_lines(enclave, colour)]
    return "\n".join(lines)


def _summary(result: PackageResult) -> str:
    if result.outcome is not None:
        counts = Counter(e.outcome.value for e in result.enclaves if e.outcome is not None)
        enclaves = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        # The whole may be worse than each part: say what the parts are.
        return result.outcome.value.upper() + (f" (enclaves: {enclaves})" if enclaves else "")
    if result.enclaves:
        return f"{len(result.enclaves)} unsigned enclave(s), nothing to verify"
    return "no enclave"


def _enclave_lines(enclave: EnclaveResult, colour: bool) -> list[str]:
    name = f", enclave {enclave.name}" if enclave.name else ""
    state = "signed" if enclave.signed else "unsigned"
    if any(f.code == "enclave-malformed" for f in enclave.findings):
        state = "malformed"
    lines = [
        _printable(f"{enclave.path}: {state}{name}, {enclave.size} bytes"),
        f"  sha256    {enclave.sha256}",
    ]
    lines += [_printable(f"  link      {link}") for link in enclave.links[:_MOST_LINKS]]
    if len(enclave.links) > _MOST_LINKS:
        lines.append(f"  link      and {len(enclave.links) - _MOST_LINKS} more")
    if enclave.reference is not None:
        lines.append(_printable(f"  reference {enclave.reference}"))
    for finding in enclave.findings:
        lines += _indented(finding_lines(finding))
    verdict = enclave.verdict
    if verdict is not None and verdict.outcome is Outcome.IDENTICAL:
        lines.append(_printable(f"  IDENTICAL {sentence(verdict)}"))
        lines.append(f"  MRENCLAVE {verdict.mrenclave}")
    elif verdict is not None:
        text = verdict_text(verdict, colour=colour, width=78)
        lines += [f"  {line}" for line in text.rstrip("\n").split("\n")]
    return lines


def _indented(lines: list[str]) -> list[str]:
    return [_printable(f"  {line}") for line in lines]


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """A report as `result_dict` gives it, in a line for the package and one for each enclave."""
    word = (report["outcome"] or "unsigned").upper()
    lines = [f"{report['file']}: {word}"]
    lines += [f"  {finding['message']}" for finding in report["findings"]]
    for enclave in report["enclaves"]:
        verdict = enclave["verdict"]
        findings = enclave["findings"] + (verdict["findings"] if verdict else [])
        said = enclave["outcome"] or "unsigned"
        if findings:
            said += f": {findings[0]['message']}"
        elif verdict:
            said += f", MRENCLAVE {verdict['mrenclave']}"
        lines.append(f"  {enclave['path']}: {said}")
    return [_printable(line) for line in lines]


def survey_dict(survey: Survey) -> dict[str, object]:
    """What a scan rests on, as a plain mapping."""
    return {
        "scanned": len(survey.targets) + survey.passed,
        "by_repodata_alone": survey.passed,
        "listed_but_absent": survey.absent,
        "repodata_problems": [problem.as_dict() for problem in survey.problems],
    }


def scan_summary(survey: Survey, reports: Sequence[Mapping[str, Any]]) -> str:
    """One line about a whole scan.

    Args:
        survey: what it was about.
        reports: those that were worth a report.
    """
    enclaves = [enclave for report in reports for enclave in report["enclaves"]]
    carrying = sum(bool(report["enclaves"]) for report in reports)
    broken = sum(bool(report["findings"]) for report in reports)
    counts = Counter(enclave["outcome"] or "unsigned" for enclave in enclaves)
    words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    scanned = f"{len(survey.targets) + survey.passed} packages"
    if survey.passed:
        scanned += f" ({survey.passed} by repodata alone)"
    if survey.absent:
        scanned += f", {survey.absent} more listed but not there"
    return (
        f"{scanned}, {carrying} with enclaves, {broken} with something wrong; "
        f"enclaves: {words or 'none'}"
    )


def _printable(line: str) -> str:
    """Names come out of the package: they must not steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
