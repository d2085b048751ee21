# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found out about the packages of one run of rpmlint, as its findings.

Withdraws other checks' findings that mean nothing on a verified enclave, since a filter in TOML
cannot know the verdict: lines such as `NAME.ARCH: E: statically-linked-binary (Badness: 2) PATH`,
perhaps with colours, about exactly this package, this finding and this path.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Optional

from sgx_enclaves.enclave.verdict import NOT_PROVED, Difference, Finding, Outcome, Severity, Verdict
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.rpm.check import EnclaveResult, PackageResult, check_package
from sgx_enclaves.rpm.payload import SharedOpener, installed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import PackageReference, neighbours_among
from sgx_enclaves_rpmlint.options import Options, references_for
from sgx_enclaves_rpmlint.session import (
    FAILED,
    NotedPackage,
    Output,
    Report,
    failed,
    id_of,
    report,
    room_for,
)

# So many references are held in memory, see `PackageReference.items`.
_HELD = 4


def judged(
    waiting: Sequence[NotedPackage],
    subjects: Sequence[NotedPackage],
    table: object,
    output: Output,
) -> Iterator[Report]:
    """All findings about some of the packages, whose enclaves' are then withdrawn if verified."""
    options = Options(table)
    namesakes = Counter((subject.name, subject.arch) for subject in subjects)
    with SharedOpener() as opener:
        beside = _read_first([s.file for s in subjects if s.suspect and not s.installed], opener)
        references, neighbours = references_for(beside, options)
        for problem in options.problems:
            yield report(waiting[0], "sgx-enclave-configuration", problem)
        for subject in waiting:
            try:
                result = check_package(
                    subject.file,
                    references,
                    options.policy_for,
                    neighbours=neighbours,
                    permitted=options.permit,
                    opener=opener if subject.header is None else partial(installed, subject.header),
                )
                yield from reports_of(subject, result)
                # rpmlint's lines name a package by name and architecture, and set a path off by
                # blanks: where that is ambiguous, nothing is withdrawn.
                if not subject.blanks and namesakes[subject.name, subject.arch] == 1:
                    withdraw(output, subject, _good_paths(result), options.quiet)
            except Exception as error:
                yield failed(subject, error)


def _read_first(files: Sequence[str], opener: SharedOpener) -> tuple[PackageReference, ...]:
    """The packages that others may be compared with, of which the first are read before all."""
    beside = neighbours_among(files, opener)
    opener.plan(dict.fromkeys([*(reference.name for reference in beside), *files]))
    for reference in beside[:_HELD] if len(files) > 1 else ():
        # What is wrong with it, its own result says.
        with contextlib.suppress(SgxEnclavesError):
            reference.items()
    return beside


def _good_paths(result: PackageResult) -> set[str]:
    """Of the enclaves that were verified, or are unsigned: there is nothing else to prove."""
    # A damaged package has proved nothing, whatever its enclaves look like.
    if any(f.severity is not Severity.NOTE for f in result.findings):
        return set()
    good = [
        enclave
        for enclave in result.enclaves
        if enclave.outcome is Outcome.IDENTICAL or not (enclave.signed or enclave.exit_status)
    ]
    return {path for e in good for path in (e.path, *e.links)}


# Findings for which an explanation is made.
_EXPLAINED = ("payload-differs", "size-differs", "metadata-differs")


def reports_of(subject: NotedPackage, result: PackageResult) -> Iterator[Report]:
    """All findings about one package, errors first: one line a verdict."""
    for finding in result.findings:
        yield _worded(subject, finding, "")
    for enclave in result.enclaves:
        for finding in enclave.findings:
            yield _worded(subject, finding, enclave.path)
        if enclave.verdict is not None:
            yield from _refused(subject, enclave, enclave.verdict)
    # What is wrong with the package itself, spoils what is good in it.
    if not any(f.code.startswith("package-") for f in result.findings):
        for enclave in result.enclaves:
            if enclave.verdict is not None and enclave.outcome is Outcome.IDENTICAL:
                yield _verified(subject, enclave, enclave.verdict)


def _refused(subject: NotedPackage, enclave: EnclaveResult, verdict: Verdict) -> Iterator[Report]:
    """Everything that speaks against *identical*, with the causes and the place."""
    for finding in verdict.findings:
        if finding.severity is not Severity.NOTE:
            explained = finding.code in _EXPLAINED and verdict.explanation is not None
            yield _worded(subject, finding, enclave.path, verdict if explained else None)
    # An explanation of its own: it is the packager's mistake, not the vendor's.
    for cause in verdict.explanation.causes if verdict.explanation else ():
        if cause.code == "stripped-differently":
            id_ = "sgx-enclave-stripped-differently"
            yield report(subject, id_, cause.message, enclave.path)


def _verified(subject: NotedPackage, enclave: EnclaveResult, verdict: Verdict) -> Report:
    """The one good message; nothing else may speak against the enclave."""
    id_, path = "sgx-enclave-verified", enclave.path
    loose = any(finding.code == "reference-unauthenticated" for finding in enclave.findings)
    said = "reference unauthenticated" if loose else "reference"
    version = "version not checked" if set(verdict.not_proved) - set(NOT_PROVED) else ""
    brief, whole, reference = verdict.policy.brief, str(verdict.mrenclave), str(enclave.reference)
    policy, asked = f"policy of {brief}", f"policy: {brief.partition(': ')[2]}"
    # The longest that fits. What limits the good news comes before what identifies the enclave.
    end, name = (f"…/{text.rpartition('/')[2]}" for text in (reference, path))
    digits = [f"MRENCLAVE {whole}", *(f"MRENCLAVE {whole[:some]}…" for some in (16, 8))]
    lines = (
        (path, digits[0], f"{said} {reference}", version, policy),
        (path, digits[1], f"{said} {end}", version, policy),
        (path, digits[2], f"{said} {end}", version, asked),
        (name, digits[2], f"{said} {end}", version, asked),
        (name, said if loose else "", version, asked, digits[2]),
    )
    room = room_for(subject, id_)
    parts = next((some for some in lines if len("; ".join(filter(None, some))) <= room), lines[-1])
    return report(subject, id_, parts[0], "", *parts[1:])


def _worded(
    subject: NotedPackage, finding: Finding, path: str, verdict: Optional[Verdict] = None
) -> Report:
    """The line of a finding: the cause, the file and the place in it, the rest; no path twice."""
    id_ = id_of(finding.code)
    message = finding.message if id_ != FAILED else f"{finding.code}: {finding.message}"
    explanation = verdict.explanation if verdict is not None else None
    block = f"block {finding.block}"
    where = [] if finding.block is None or f"{block} " in message else [block]
    if finding.offset is not None:
        where += [f"offset 0x{finding.offset:x}"]
        where += _place(explanation.differences if explanation else (), finding.offset)
    # Quoted, a name with odd characters is spelled otherwise.
    file = "" if path in message or repr(path)[1:-1] in message else path
    causes = explanation.causes if explanation else ()
    if causes:
        # Of the place, the first word stays as the file's name does.
        file = "; ".join(filter(None, (file, *where[:1])))
        cause = f"cause {causes[0].code}: {causes[0].message}"
        parts = [cause, file, ", ".join(where[1:]), message]
    else:
        parts = [message, file, ", ".join(where)]
    base = path.rpartition("/")[2]
    for word, text in (("expected", finding.expected), ("found", finding.found)):
        if text is not None:
            parts.append(f"{word} {text.replace(path, base) if path else text}")
    return report(subject, id_, *parts)


def _place(differences: Iterable[Difference], offset: int) -> Iterator[str]:
    """What is known of the place of the first difference there."""
    there = (d for d in differences if d.start <= offset < max(d.end, d.start + 1))
    for place in islice(there, 1):
        for name in ("segment", "section", "symbol", "field"):
            value = getattr(place, name)
            if value is not None:
                yield f"{name} {value}"
        yield "measured" if place.measured else "not measured"


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Package, level, id, badness, path.
_LINE = re.compile(r"(\S+): ([EWI]): (\S+)(?: \(Badness: (\d+)\))? (/\S+)(?: .*)?\Z")


def withdraw(
    output: Output, subject: NotedPackage, paths: Collection[str], quiet: Collection[str]
) -> None:
    """Take findings about verified enclaves back."""
    there = {path for path in paths if path.startswith(ENCLAVE_FOLDER)}
    name = f"{subject.name}.{subject.arch}" if subject.arch else subject.name
    kept = []
    for line in output.results:
        match = _LINE.match(_COLOUR.sub("", line))
        package, level, id_, badness, path = match.groups() if match else (None,) * 5
        if package != name or id_ not in quiet or path not in there:
            kept.append(line)
            continue
        output.printed_messages[level] -= 1
        # A badness is printed only from 2 up.
        output.score -= int(badness or output.badness.get(id_, level == "E"))
        # From rpmlint 2.5 or so.
        if hasattr(output, "filtered_out"):
            output.filtered_out += 1
    output.results[:] = kept
