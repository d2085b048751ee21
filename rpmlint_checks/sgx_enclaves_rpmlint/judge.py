# SPDX-License-Identifier: GPL-2.0-or-later
"""What was found out about a package, as rpmlint findings: one method a verdict.

Pure: takes the core's result and words it; decides nothing but which finding
words what.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from sgx_enclaves.packages.check import EnclaveResult, PackageResult
from sgx_enclaves.verdict.model import Difference, Finding, Outcome, Severity, Verdict
from sgx_enclaves_rpmlint.boundary import Subject
from sgx_enclaves_rpmlint.conventions import check_conventions
from sgx_enclaves_rpmlint.findings import Report, kind_of_code, printable, report

_PAYLOAD = ("payload-differs", "size-differs")
_METADATA = ("metadata-differs",)
_MOST_CAUSES = 3


class Judge:
    """Words the result of one package.

    Args:
        subject: the package.
        result: what the core found out about it.
    """

    def __init__(self, subject: Subject, result: PackageResult) -> None:
        self._subject = subject
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
                yield from self._lower_than_reference(enclave, enclave.verdict)
        if not self._subject.is_source:
            yield from check_conventions(self._subject, readable(self._result.enclaves))
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

    def _lower_than_reference(self, enclave: EnclaveResult, verdict: Verdict) -> Iterator[Report]:
        """The release's config.xml demands a higher ISVSVN than the vendor signed."""
        if any(f.code == "isvsvn-too-low" for f in verdict.findings):
            return
        for difference in verdict.explanation.differences if verdict.explanation else ():
            if _is_lower_isvsvn(difference):
                yield report(
                    "sgx-enclave-svn-too-low",
                    enclave.path,
                    f"ISVSVN is lower than {verdict.config.name} says",
                    f"offset 0x{difference.start:x}",
                )

    def _verified(self, enclave: EnclaveResult) -> Iterator[Report]:
        """The one good message; nothing else may speak against the enclave."""
        if is_verified(enclave) and enclave.verdict is not None:
            yield report(
                "sgx-enclave-verified",
                enclave.path,
                f"MRENCLAVE {enclave.verdict.mrenclave}",
                f"reference {enclave.reference}",
            )


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


def readable(enclaves: Sequence[EnclaveResult]) -> list[EnclaveResult]:
    """The enclaves of which is known whether they are signed."""
    return [e for e in enclaves if all(f.code != "enclave-malformed" for f in e.findings)]


def _worded(finding: Finding, path: str, extra: tuple[str, ...]) -> Report:
    kind = kind_of_code(finding.code)
    message = finding.message if kind.codes else f"{finding.code}: {finding.message}"
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
    return Report(kind, tuple(printable(detail) for detail in details))


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


def _is_lower_isvsvn(difference: Difference) -> bool:
    if difference.field is None or not difference.field.endswith("isvsvn"):
        return False
    try:
        expected, found = (
            int.from_bytes(bytes.fromhex(text), "little")
            for text in (difference.expected, difference.found)
        )
    except ValueError:
        return False
    return found < expected
