# SPDX-License-Identifier: GPL-2.0-or-later
"""One enclave, and the signed files that claim to be it: the vendor's own and those in packages.

Joins the verdict on a release's enclave with those on packages, so that one answer
can be given for all files. Reads packages; decides nothing about bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.enclave.verdict import Finding, Outcome, Severity, Verdict
from sgx_enclaves.plain import printable
from sgx_enclaves.release import outcome as of_release
from sgx_enclaves.release.catalogue import Catalogue, Enclave, Release, policy_of
from sgx_enclaves.rpm.check import EnclaveResult, check_package
from sgx_enclaves.rpm.presence import stem_of, version_of
from sgx_enclaves.rpm.references import FolderReference

VENDOR, RPM = "vendor", "rpm"
_STEM = "libsgx_"
_LONGEST = 1000
_WEIGHT = {Severity.DIFFERS: 2, Severity.UNVERIFIABLE: 1, Severity.NOTE: 0}
# the version's way into a distribution's file name
_DIGITS = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


@dataclass(frozen=True)
class Subject:
    """One signed file, and what came of it.

    Attributes:
        origin: `VENDOR` or `RPM`.
        file: the vendor's file, or the last part of `path`.
        rpm: name of the package file; None for the vendor's.
        path: in the package; None for the vendor's.
        sha256: None when there is no such file.
        verdict: identical, differs or unverifiable.
        mrenclave, mrsigner, isvprodid, isvsvn: None when nobody knows.
        version: from the file's name; None when it has none.
        built_sha256: of our enclave that it was held against.
        cause: why it is not identical; None when it is.
    """

    origin: str
    file: str
    rpm: Optional[str]
    path: Optional[str]
    sha256: Optional[str]
    verdict: str
    mrenclave: Optional[str]
    mrsigner: Optional[str]
    isvprodid: Optional[int]
    isvsvn: Optional[int]
    version: Optional[str]
    built_sha256: Optional[str]
    cause: Optional[str]

    def as_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """A subject with the comparison that it rests on; None if there was none."""

    subject: Subject
    verdict: Optional[Verdict]


def overall(subjects: Iterable[Subject]) -> Outcome:
    """The verdict on all files: one that differs is enough, and none proves nothing."""
    verdicts = {subject.verdict for subject in subjects}
    if Outcome.DIFFERS.value in verdicts:
        return Outcome.DIFFERS
    return Outcome.IDENTICAL if verdicts == {Outcome.IDENTICAL.value} else Outcome.UNVERIFIABLE


def enclave_at(release: Release, path: str) -> Optional[Enclave]:
    """The release's enclave that a path of a package is named after."""
    stem = stem_of(path)
    file = stem[len(_STEM) :] if stem.startswith(_STEM) else None
    return next((enclave for enclave in release.enclaves if enclave.file == file), None)


def releases_with(catalogue: Catalogue, paths: Sequence[str]) -> tuple[Release, ...]:
    """The releases that have the enclave and the version of each of these paths.

    Args:
        catalogue: where to look.
        paths: of signed enclaves, with a version such as
            `libsgx_pce.signed.so.1.25.100.1`; a path without one fits no release.
    """

    def fits(release: Release, path: str) -> bool:
        enclave, version = enclave_at(release, path), version_of(path)
        known = enclave.so_version if enclave is not None else None
        return known is not None and known.value == version

    return tuple(
        release
        for release in catalogue.releases.values()
        if paths and all(fits(release, path) for path in paths)
    )


def vendor_subject(result: of_release.EnclaveOutcome, outcome: Outcome) -> Judged:
    """The vendor's file, as the verdict on its release has it.

    Args:
        result: of the enclave.
        outcome: of the release, cut down to that enclave.
    """
    verdict = result.verdict
    findings = verdict.findings if verdict is not None else result.findings
    return Judged(
        _subject(VENDOR, result.signed_file, None, None, verdict, outcome, findings, None), verdict
    )


def package_subjects(
    package: Path, name: str, release: Release, enclave: Enclave, built: Path
) -> list[Judged]:
    """Every signed file of a package that is named after an enclave.

    Args:
        package: the package file.
        name: what to call it.
        release: whose enclave.
        enclave: the one to look for.
        built: folder with our unsigned enclave and its config.xml.

    Returns:
        One for each; a package that is not whole gives one that is unverifiable,
        since nobody can say what is in it.
    """
    permitted = [enclave.name] if enclave.may_ship else []
    result = check_package(
        str(package),
        [FolderReference(str(built))],
        lambda _path: policy_of(enclave),
        permitted=permitted,
    )
    found = [
        _from_package(name, item)
        for item in result.enclaves
        if enclave_at(release, item.path) == enclave and (item.signed or item.findings)
    ]
    if result.findings:
        broken = _subject(RPM, name, name, None, None, Outcome.UNVERIFIABLE, result.findings, None)
        found.append(Judged(broken, None))
    return found


def without_ours(judged: Judged, vendor: Judged) -> Judged:
    """The same, with the reason why there is nothing of ours to hold it against."""
    if judged.subject.verdict == Outcome.IDENTICAL.value or vendor.subject.cause is None:
        return judged
    return replace(judged, subject=replace(judged.subject, cause=vendor.subject.cause))


def _from_package(rpm: str, item: EnclaveResult) -> Judged:
    verdict = item.verdict
    findings = (*item.findings, *(verdict.findings if verdict is not None else ()))
    outcome = item.outcome if item.outcome is not None else Outcome.UNVERIFIABLE
    file = item.path.rpartition("/")[2]
    return Judged(
        _subject(RPM, file, rpm, item.path, verdict, outcome, findings, item.sha256), verdict
    )


def _subject(
    origin: str,
    file: str,
    rpm: Optional[str],
    path: Optional[str],
    verdict: Optional[Verdict],
    outcome: Outcome,
    findings: Sequence[Finding],
    sha256: Optional[str],
) -> Subject:
    block = verdict.blocks[0] if verdict is not None and verdict.blocks else None
    identical = outcome is Outcome.IDENTICAL
    return Subject(
        origin=origin,
        file=file,
        rpm=rpm,
        path=path,
        sha256=verdict.signed.sha256 if verdict is not None else sha256,
        verdict=outcome.value,
        mrenclave=block.mrenclave if block is not None else None,
        mrsigner=block.mrsigner if block is not None else None,
        isvprodid=block.isvprodid if block is not None else None,
        isvsvn=block.isvsvn if block is not None else None,
        version=_version(path),
        built_sha256=verdict.built.sha256 if verdict is not None else None,
        cause=None if identical else cause_of(verdict, findings),
    )


def _version(path: Optional[str]) -> Optional[str]:
    version = version_of(path) if path is not None else None
    return version if version is not None and _DIGITS.match(version) else None


def cause_of(verdict: Optional[Verdict], findings: Sequence[Finding]) -> str:
    """Why something is not identical, in one line: what weighs most, and the likely reason."""
    against = sorted(
        (f for f in findings if f.severity is not Severity.NOTE),
        key=lambda f: -_WEIGHT[f.severity],
    )
    words = [_words(against[0])] if against else []
    if verdict is not None and verdict.explanation is not None and verdict.explanation.causes:
        words.append(f"likely cause: {verdict.explanation.causes[0].message}")
    return _line("; ".join(words) or "nothing was compared")


def _words(finding: Finding) -> str:
    parts = [
        f"{word} {value}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value
    ]
    return finding.message + (f" ({', '.join(parts)})" if parts else "")


def _line(text: str) -> str:
    """One line of printable characters, as records have it."""
    plain = printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
