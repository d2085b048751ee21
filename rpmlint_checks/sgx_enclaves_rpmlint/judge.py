# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found out about a package, as rpmlint findings: one method a verdict.

Pure: takes the core's result and words it; decides nothing but which finding
words what.

Judges the packages of one run of rpmlint, each against the others and the configuration.

Withdraws other checks' findings that mean nothing on a verified enclave.

A filter in TOML cannot know the verdict, so this looks through what rpmlint has
collected: lines such as `NAME.ARCH: E: statically-linked-binary (Badness: 2) PATH`,
with colours. Only a line about exactly this package, this finding and this path
goes, and rpmlint's counts with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Optional

from sgx_enclaves.enclave.verdict import NOT_PROVED, Difference, Finding, Outcome, Severity, Verdict
from sgx_enclaves.rpm.check import EnclaveResult, PackageResult, check_package
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves_rpmlint.options import read_options
from sgx_enclaves_rpmlint.packages import Output, Subject
from sgx_enclaves_rpmlint.references import Files, Query, references_for
from sgx_enclaves_rpmlint.session import FAILED, Report, id_of, report


class Judgement:
    """Judges packages one by one.

    Args:
        table: the table [SgxEnclave] of the configuration.
        subjects: all packages that were seen.
        query: the installed packages that provide something.
    """

    def __init__(self, table: object, subjects: Sequence[Subject], query: Query) -> None:
        self._options = read_options(table)
        self._files = Files(subjects)
        neighbours = self._files.neighbours
        self._references, self._neighbours = references_for(neighbours, self._options, query)
        self._namesakes = Counter((s.name, s.arch) for s in subjects)
        self._configuration_reported = False
        self._last: Optional[PackageResult] = None

    def of(self, subject: Subject) -> Iterator[Report]:
        """All findings about a package."""
        self._last = None
        if not self._configuration_reported:
            self._configuration_reported = True
            for problem in self._options.problems:
                yield report("sgx-enclave-configuration", problem)
        result = check_package(
            subject.file,
            self._references,
            self._options.policy_for,
            neighbours=self._neighbours,
            permitted=self._options.permit,
            opener=self._files.opener_for(subject),
        )
        yield from Judge(result).reports()
        self._last = result

    def close(self) -> None:
        """Close the packages."""
        self._files.close()

    def quieten(self, subject: Subject, output: Output) -> None:
        """Withdraw other checks' findings about the enclaves that `of` has just verified."""
        result = self._last
        # rpmlint's lines name a package by name and architecture, and set a path off by
        # blanks: where that is ambiguous, nothing is withdrawn.
        if result is None or subject.blanks or self._namesakes[subject.name, subject.arch] > 1:
            return
        good = [e for e in result.enclaves if is_verified(e) or is_sound_unsigned(e)]
        paths = {path for e in good for path in (e.path, *e.links)}
        # A damaged package has proved nothing, whatever its enclaves look like.
        if paths and not any(f.severity is not Severity.NOTE for f in result.findings):
            withdraw(output, subject, paths, self._options.quiet)


_PAYLOAD = ("payload-differs", "size-differs")
_METADATA = ("metadata-differs",)
_MOST_CAUSES = 3


class Judge:
    """Words the result of one package.

    Args:
        result: what the core found out about it.
    """

    def __init__(self, result: PackageResult) -> None:
        self._result = result

    def reports(self) -> Iterator[Report]:
        """All findings, errors first."""
        for finding in self._result.findings:
            yield _worded(finding, "", ())
        for enclave in self._result.enclaves:
            for finding in enclave.findings:
                yield _worded(finding, enclave.path, ())
            if enclave.verdict is not None:
                yield from self._refused(enclave, enclave.verdict)
                yield from self._stripped_differently(enclave, enclave.verdict)
        # What is wrong with the package itself, spoils what is good in it.
        if not any(f.code.startswith("package-") for f in self._result.findings):
            for enclave in self._result.enclaves:
                yield from self._verified(enclave)

    def _refused(self, enclave: EnclaveResult, verdict: Verdict) -> Iterator[Report]:
        """Everything that speaks against *identical*, with the place and the causes."""
        for finding in verdict.findings:
            if finding.severity is Severity.NOTE:
                continue
            yield _worded(finding, enclave.path, tuple(_explained(verdict, finding)))

    def _stripped_differently(self, enclave: EnclaveResult, verdict: Verdict) -> Iterator[Report]:
        """An explanation of its own: it is the packager's mistake, not the vendor's."""
        for cause in verdict.explanation.causes if verdict.explanation else ():
            if cause.code == "stripped-differently":
                yield report("sgx-enclave-stripped-differently", enclave.path, cause.message)

    def _verified(self, enclave: EnclaveResult) -> Iterator[Report]:
        """The one good message; nothing else may speak against the enclave."""
        if is_verified(enclave) and enclave.verdict is not None:
            details = [f"MRENCLAVE {enclave.verdict.mrenclave}", f"reference {enclave.reference}"]
            if set(enclave.verdict.not_proved) - set(NOT_PROVED):
                details.append("version not checked")
            yield report("sgx-enclave-verified", enclave.path, *details)


def is_verified(enclave: EnclaveResult) -> bool:
    """Whether a signed enclave is proved, with nothing against it."""
    return (
        enclave.verdict is not None
        and enclave.verdict.outcome is Outcome.IDENTICAL
        and not enclave.exit_status
    )


def is_sound_unsigned(enclave: EnclaveResult) -> bool:
    """Whether it is an unsigned enclave that can be read: there is nothing else to prove."""
    return not enclave.signed and not enclave.exit_status


def _worded(finding: Finding, path: str, extra: tuple[str, ...]) -> Report:
    id_ = id_of(finding.code)
    message = finding.message if id_ != FAILED else f"{finding.code}: {finding.message}"
    details = [path, message] if path else [message]
    if finding.block is not None:
        details.append(f"block {finding.block}")
    if finding.offset is not None:
        details.append(f"offset 0x{finding.offset:x}")
    details += extra
    if finding.expected is not None:
        details.append(f"expected {finding.expected}")
    if finding.found is not None:
        details.append(f"found {finding.found}")
    return report(id_, *details)


def _explained(verdict: Verdict, finding: Finding) -> Iterator[str]:
    """Where the first differing byte is, and why it may differ."""
    explanation = verdict.explanation
    if explanation is None or finding.code not in (*_PAYLOAD, *_METADATA):
        return
    place = _place(explanation.differences, finding.offset)
    if place is not None:
        if place.segment is not None:
            yield f"segment {place.segment}"
        if place.section is not None:
            yield f"section {place.section}"
        if place.symbol is not None:
            yield f"symbol {place.symbol}"
        if place.field is not None:
            yield f"field {place.field}"
        yield "measured" if place.measured else "not measured"
    for cause in explanation.causes[:_MOST_CAUSES]:
        yield f"cause {cause.code}: {cause.message}"


def _place(differences: Sequence[Difference], offset: Optional[int]) -> Optional[Difference]:
    if offset is None:
        return None
    return next((d for d in differences if d.start <= offset < max(d.end, d.start + 1)), None)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(
    r"(?P<package>\S+): (?P<level>[EWI]): (?P<id>\S+)(?: \(Badness: (?P<badness>\d+)\))? "
    r"(?P<path>/\S+)(?: .*)?\Z"
)


def withdraw(
    output: Output, subject: Subject, paths: Collection[str], quiet: Collection[str]
) -> None:
    """Take findings about verified enclaves back.

    Args:
        output: what rpmlint has collected.
        subject: the package.
        paths: the verified enclaves in it and the links to them.
        quiet: ids of the findings to take back.
    """
    there = {path for path in paths if path.startswith(ENCLAVE_FOLDER)}
    name = f"{subject.name}.{subject.arch}" if subject.arch else subject.name
    kept = []
    for line in output.results:
        match = _LINE.match(_COLOUR.sub("", line))
        if (
            match is None
            or match["package"] != name
            or match["id"] not in quiet
            or match["path"] not in there
        ):
            kept.append(line)
            continue
        level = match["level"]
        output.printed_messages[level] -= 1
        output.score -= int(match["badness"] or _own_badness(output, match["id"], level))
        _count_as_filtered(output)
    output.results[:] = kept


def _own_badness(output: Output, issue: str, level: str) -> int:
    """What a line without a badness has cost; it is printed only from 2 up."""
    if issue in output.badness:
        return int(output.badness[issue])
    return 1 if level == "E" else 0


def _count_as_filtered(output: Any) -> None:
    # From rpmlint 2.5 or so.
    if hasattr(output, "filtered_out"):
        output.filtered_out += 1
