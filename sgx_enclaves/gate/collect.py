# SPDX-License-Identifier: GPL-2.0-or-later
"""Combine the answers of the per-enclave subtasks into one result for the build, and its record.

A subtask that failed proves nothing, and neither does one that worked from another description
of the release than it was given. Knows no Koji, reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.errors import RecordError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.gate.inspect import PackageFacts
from sgx_enclaves.gate.record import (
    DIFFERS,
    IDENTICAL,
    SCHEMA,
    UNVERIFIABLE,
    Record,
    RecordedEnclave,
    RecordedPackage,
    overall,
    read_part,
)
from sgx_enclaves.plain import printable

_MAX_TEXT = 1000
_UNCOMPARED = "it was compared with nothing"


@dataclass(frozen=True)
class Answer:
    """What one subtask says of an enclave, besides its report.

    `subjects` are the files that were compared with our build; none if it did not come to that.
    Digests are of the toolchain's record, the buildroot's packages, the lock that pins those, the
    release's file and the report.
    """

    enclave: str
    task_id: int
    reproducible: bool
    claim: str
    subjects: tuple[RecordedEnclave, ...] = ()
    toolchain_sha256: Optional[str] = None
    buildroot_sha256: Optional[str] = None
    lock_sha256: Optional[str] = None
    release_sha256: Optional[str] = None
    report_sha256: Optional[str] = None

    @property
    def verdict(self) -> str:
        """That of all files."""
        return overall(self.subjects).value

    @property
    def worst(self) -> Optional[RecordedEnclave]:
        """The file that speaks most against identical; of two, the one in a package."""
        weight = (IDENTICAL, UNVERIFIABLE, DIFFERS).index
        last_first = self.subjects[::-1]
        return max(last_first, key=lambda s: (weight(s.verdict), s.rpm is not None), default=None)

    @property
    def cause(self) -> str:
        """Why it is not identical."""
        return (self.worst.cause if self.worst is not None else None) or self.claim


def failed(enclave: str, task_id: int, why: str) -> Answer:
    """The answer of a subtask that did not come to one."""
    return Answer(enclave, task_id, False, printable(why)[:_MAX_TEXT])


def read_answer(mapping: object, enclave: str, task_id: int, release_sha256: str) -> Answer:
    """An answer from plain data; what makes no sense, or is of another thing, is a RecordError."""
    answer: Answer = read_part(Answer, mapping, "answer")
    named = {answer.enclave, *(subject.name for subject in answer.subjects)}
    if (named, answer.task_id, answer.release_sha256) != ({enclave}, task_id, release_sha256):
        raise RecordError(
            "it worked from another description of the release, or on another enclave: "
            "the catalogue has changed meanwhile; start a new verification"
        )
    return answer


@dataclass(frozen=True)
class Combined:
    """The result, with the answers in the order in which they were asked for.

    `nvr` is None if only the release was verified; `enclaves` are every signed file of the
    packages, also those that nobody compared.
    """

    release: str
    nvr: Optional[str]
    verdict: str
    reproducible: bool
    claim: str
    answers: tuple[Answer, ...]
    packages: tuple[PackageFacts, ...]
    enclaves: tuple[RecordedEnclave, ...]

    def digest(self, of: str) -> Optional[str]:
        """What the answers have under that name; if it is not the same, of all their digests."""
        return digest_of(getattr(answer, of) for answer in self.answers)

    @property
    def lock_sha256(self) -> Optional[str]:
        """Of the one lock that pins every buildroot; None if there is none."""
        locks = {a.lock_sha256 for a in self.answers}
        return locks.pop() if len(locks) == 1 else None

    def rows(self) -> list[dict[str, Any]]:
        """One row for each enclave, of the file that speaks most against it."""
        same = ("mrenclave", "mrsigner", "isvprodid", "isvsvn", "built_sha256", "signed_sha256")
        return [
            {
                "name": answer.enclave,
                "verdict": answer.verdict,
                **{name: getattr(answer.worst, name, None) for name in same},
                "cause": None if answer.verdict == IDENTICAL else answer.cause,
                "task_id": answer.task_id,
            }
            for answer in self.answers
        ]


def digest_of(digests: Iterable[Optional[str]]) -> Optional[str]:
    """The one digest; of several, the digest of their sorted list; None if there is none."""
    found = sorted({digest for digest in digests if digest is not None})
    if len(found) < 2:
        return found[0] if found else None
    return sha256_of("\n".join(found).encode())


def combine(
    release: str,
    nvr: Optional[str],
    answers: Sequence[Answer],
    packages: Sequence[PackageFacts] = (),
) -> Combined:
    """Bring the answers together, with every binary package of the build."""
    unread = [f"{p.name} cannot be read: {p.problem}" for p in packages if p.problem]
    enclaves = tuple(_enclaves(packages, answers))
    left_out = [
        f"{enclave.path} of {enclave.rpm} was compared with nothing"
        for enclave in enclaves
        if enclave.cause == _UNCOMPARED
    ]
    verdict = overall([*answers, *enclaves]).value
    if verdict == IDENTICAL and unread:
        verdict = UNVERIFIABLE
    reproducible = verdict == IDENTICAL and all(answer.reproducible for answer in answers)
    what = f"{nvr} against release {release}" if nvr is not None else f"release {release}"
    if verdict == IDENTICAL:
        words = _grouped([(answer.enclave, answer.claim) for answer in answers])
    else:
        found = _grouped([(a.enclave, a.cause) for a in answers if a.verdict != IDENTICAL], ": ")
        reasons = filter(None, [found, *unread, *left_out])
        words = "; ".join(reasons) or "there was nothing to verify"
    parts = (f"{what}: {words}", tuple(answers), tuple(packages), enclaves)
    return Combined(release, nvr, verdict, reproducible, *parts)


def _enclaves(
    packages: Sequence[PackageFacts], answers: Sequence[Answer]
) -> Iterator[RecordedEnclave]:
    judged = {(s.rpm, s.path): s for answer in answers for s in answer.subjects}
    for package in packages:
        for path, sha256 in package.signed.items():
            found = judged.get((package.name, path))
            if found is None or found.signed_sha256 != sha256:
                name = found.name if found is not None else "unknown"
                unproved = (package.name, path, sha256, UNVERIFIABLE)
                found = RecordedEnclave(name, *unproved, cause=_UNCOMPARED)
            yield found


def _grouped(claims: Sequence[tuple[str, str]], between: str = " ") -> str:
    """Name and claim; what is said of several is said once."""
    groups: dict[str, list[str]] = {}
    for name, claim in claims:
        # a claim may begin with the name itself
        rest = claim[len(name) + 1 :] if claim.startswith(f"{name} ") else claim
        groups.setdefault(rest, []).append(name)
    return "; ".join(
        f"{'each of ' if len(names) > 1 else ''}{', '.join(names)}{between}{rest}"
        for rest, names in groups.items()
    )


def record_of(combined: Combined, **around: Any) -> Record:
    """The record of a build's verification, whose packages were all read; `around` is the rest."""
    unread = [f"{p.name}: {p.problem}" for p in combined.packages if p.digests is None]
    if combined.nvr is None or unread:
        words = "there is no record without a build, or of packages that have no digests"
        raise RecordError(words, found="; ".join(unread) or None)
    packages = ((p.name, p.digests) for p in combined.packages if p.digests is not None)
    return Record(
        schema=SCHEMA,
        nvr=combined.nvr,
        release=combined.release,
        verdict=combined.verdict,
        reproducible=combined.reproducible,
        rpms=tuple(RecordedPackage(name, own.file, own.content) for name, own in packages),
        enclaves=tuple(e for e in combined.enclaves if e.signed_sha256 is not None),
        plugin_version=__version__,
        lock_sha256=combined.lock_sha256,
        toolchain_sha256=combined.digest("toolchain_sha256"),
        buildroot_sha256=combined.digest("buildroot_sha256"),
        **around,
    )
