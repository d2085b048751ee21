# SPDX-License-Identifier: GPL-2.0-or-later
"""Which signed files a verification is about, and what came of each.

First the rules: which release a build belongs to, and which of its enclaves are verified. Then the
verdict on each file that claims to be an enclave: the vendor's own and those in packages. Reads
packages; decides nothing about bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release, policy_of
from sgx_enclaves.enclave.verdict import Finding, Outcome, Severity, Verdict
from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.gate.record import RecordedEnclave
from sgx_enclaves.plain import printable
from sgx_enclaves.release import outcome as of_release
from sgx_enclaves.release.manifest import unsigned_name
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.presence import stem_of, version_of
from sgx_enclaves.rpm.references import FolderReference

_LONGEST = 1000


# What came of a file, with the comparison that it rests on, if there was one.
FileVerdict = tuple[RecordedEnclave, Optional[Verdict]]


def enclave_at(release: Release, path: str) -> Optional[Enclave]:
    """The release's enclave that a path of a package is named after."""
    stem = stem_of(path)
    return next((e for e in release.enclaves if stem == f"libsgx_{e.file}"), None)


def release_of(catalogue: Catalogue, paths: Sequence[str]) -> Release:
    """The one release with the version that each path ends with; a CatalogueError if not one."""
    named = {(stem_of(path), version_of(path)) for path in paths}
    found = []
    for release in catalogue.releases.values():
        known = {(f"libsgx_{e.file}", e.so_version.value) for e in release.enclaves if e.so_version}
        if named and named <= known:
            found.append(release)
    if len(found) != 1:
        raise CatalogueError(
            "the build's signed enclaves do not say which release they are of",
            expected="one release that has each of these versions",
            found=", ".join(release.name for release in found) or "none",
            hint="name the release; the build has " + (", ".join(paths) or "no signed enclave"),
        )
    return found[0]


def enclaves_to_verify(
    release: Release, paths: Sequence[str], asked: Optional[Sequence[str]], has_build: bool
) -> list[str]:
    """The names of the enclaves to verify: those that are asked for, or all that matter.

    An InputError if none of the build's enclaves is the release's, a CatalogueError if the release
    has no enclave of a name that is asked for.
    """
    if asked is not None:
        return [enclave.name for enclave in release.only(asked).enclaves]
    if not has_build:
        return [enclave.name for enclave in release.enclaves if enclave.required]
    found = [enclave_at(release, path) for path in paths]
    there = {enclave.name for enclave in found if enclave is not None}
    if not there:
        raise InputError(
            f"the build has no signed enclave of release {release.name}",
            found=", ".join(paths) or "none at all",
            hint="name the release that the build is of",
        )
    return [enclave.name for enclave in release.enclaves if enclave.name in there]


def built_together(
    catalogue: Catalogue, release: Release, names: Sequence[str], split: bool
) -> list[list[str]]:
    """Which enclaves one subtask builds: those of one source tree, which is prepared once.

    With `split` each is alone, for who has more builders than patience.
    """
    groups: dict[str, list[str]] = {}
    for enclave in release.only(names).enclaves:
        try:
            tree = catalogue.build_of(release, enclave)[0].name
        except CatalogueError:
            tree = f"none for {enclave.name}"
        groups.setdefault(enclave.name if split else tree, []).append(enclave.name)
    return list(groups.values())


def outcome_for(
    verdict: of_release.ReleaseVerdict, catalogue: Catalogue, release: Release, name: str
) -> of_release.ReleaseVerdict:
    """The verdict on one enclave, out of that on several of the same source tree."""
    unpinned = catalogue.unpinned_digests(release.only([name]))
    enclaves = tuple(item for item in verdict.enclaves if item.name == name)
    return of_release.decide(replace(verdict, unpinned=unpinned, enclaves=enclaves))


def compared_files(
    enclave: Enclave,
    verdict: of_release.ReleaseVerdict,
    release: Release,
    packages: Sequence[Path],
    built: Path,
) -> list[FileVerdict]:
    """The vendor's file, then every file of the packages that is this enclave; `built` has ours.

    Where it has not, nothing was compared, for the reason that the vendor's file has.
    """
    (result,) = verdict.enclaves
    findings = result.verdict.findings if result.verdict is not None else result.findings
    whole = (result.verdict, verdict.outcome, findings)
    vendor = _file_verdict(result.name, None, enclave.signed_file, *whole)
    files = [vendor]
    for path in packages:
        files += package_subjects(path, release, enclave, built)
    if (built / unsigned_name(enclave.file)).exists():
        return files
    return [(replace(subject, cause=vendor[0].cause), found) for subject, found in files]


def package_subjects(
    package: Path, release: Release, enclave: Enclave, built: Path
) -> list[FileVerdict]:
    """Every signed file of a package that is named after an enclave; `built` has ours.

    A package that is not whole gives one that is unverifiable: nobody can say what is in it.
    """
    permitted = [enclave.name] if enclave.may_ship else []
    version = enclave.so_version.value if enclave.so_version is not None else None
    labels = (str(getattr(release, enclave.component)) if version else "", version)
    result = check_package(
        str(package),
        [FolderReference(str(built), labels)],
        lambda _path: policy_of(enclave),
        permitted=permitted,
    )
    found = [
        _file_verdict(
            enclave.name,
            package.name,
            item.path,
            item.verdict,
            item.outcome or Outcome.UNVERIFIABLE,
            (*item.findings, *(item.verdict.findings if item.verdict is not None else ())),
            item.sha256,
        )
        for item in result.enclaves
        if enclave_at(release, item.path) == enclave and (item.signed or item.findings)
    ]
    if result.findings:
        unread = Outcome.UNVERIFIABLE
        found.append(_file_verdict(enclave.name, package.name, "", None, unread, result.findings))
    return found


def _file_verdict(
    name: str,
    rpm: Optional[str],
    path: str,
    verdict: Optional[Verdict],
    outcome: Outcome,
    findings: Sequence[Finding],
    sha256: Optional[str] = None,
) -> FileVerdict:
    block = verdict.blocks[0] if verdict is not None and verdict.blocks else None
    names = ("mrenclave", "mrsigner", "isvprodid", "isvsvn")
    subject = RecordedEnclave(
        name,
        rpm,
        path,
        verdict.signed.sha256 if verdict is not None else sha256,
        outcome.value,
        version=version_of(path) if rpm is not None else None,
        built_sha256=verdict.built.sha256 if verdict is not None else None,
        cause=None if outcome is Outcome.IDENTICAL else cause_of(verdict, findings),
        policy=verdict.policy.claim[:_LONGEST] if verdict is not None else None,
        **{key: getattr(block, key, None) for key in names},
    )
    return subject, verdict


def cause_of(verdict: Optional[Verdict], findings: Sequence[Finding]) -> str:
    """Why something is not identical, in one line: what weighs most, and the likely reason."""
    against = [finding for finding in findings if finding.severity is not Severity.NOTE]
    words = []
    if against:
        first = max(against, key=lambda finding: finding.severity is Severity.DIFFERS)
        facts = (("expected", first.expected), ("found", first.found))
        parts = ", ".join(f"{word} {value}" for word, value in facts if value)
        words.append(f"{first.message} ({parts})" if parts else first.message)
    if verdict is not None and verdict.explanation is not None and verdict.explanation.causes:
        words.append(f"likely cause: {verdict.explanation.causes[0].message}")
    plain = printable("; ".join(words) or "nothing was compared")
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
