# SPDX-License-Identifier: GPL-2.0-or-later
"""May a build pass the gate? Pure: facts about its packages, its newest record, a rule.

- A build without a signed enclave passes.
- Otherwise its newest record decides, and nothing older: the verdict must be
  identical, and the rule must have no objection.
- The record must name exactly the build's binary packages, each with the digests
  that the files have now. Signed copies must have the recorded content.
- Every signed enclave in the packages must be in the record, with the bytes that
  it has now.

Each reason stands for itself, is one printable line of bounded length, and can be shown
alone: names in packages may be anything.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from sgx_enclaves.gate.inspect import PackageFacts
from sgx_enclaves.gate.record import IDENTICAL, Record
from sgx_enclaves.gate.rule import Rule
from sgx_enclaves.plain import printable
from sgx_enclaves.rpm.presence import evidence

_LONGEST = 600


@dataclass(frozen=True)
class Decision:
    """Whether a build may pass.

    Attributes:
        present: whether it holds signed enclaves, or nobody can say that it does not.
        allowed: whether it may pass.
        reasons: why not; empty when it may.
        unread: present only because packages cannot be read.
    """

    present: bool
    allowed: bool
    reasons: tuple[str, ...]
    unread: bool = False


def decide(
    packages: Sequence[PackageFacts],
    record: Optional[Record],
    rule: Rule,
    now: datetime.datetime,
) -> Decision:
    """The gate's decision.

    Args:
        packages: from `inspect_build`: all binary packages of the build, or none.
        record: the build's newest.
        rule: what is asked for.
        now: with a time zone.
    """
    bearing = [p for p in packages if p.present]
    if not bearing:
        return Decision(False, True, ())
    unread = all(p.problem is not None for p in bearing)
    if record is None:
        reasons = [*_problems(bearing), *(_unverified(p) for p in bearing if not p.problem)]
        return Decision(True, False, plain(reasons), unread)
    reasons = [*_problems(bearing), *mismatches(packages, record)]
    if record.verdict != IDENTICAL:
        reasons.append(
            f"its newest verification, by task {record.task_id} against release "
            f"{record.release}, ended with the verdict {record.verdict}"
        )
    else:
        reasons += rule.objections(record, now)
    return Decision(True, not reasons, plain(reasons), unread)


def mismatches(packages: Sequence[PackageFacts], record: Record) -> tuple[str, ...]:
    """Where a record speaks of other bytes than those of the packages, or leaves some out."""
    here = {p.name for p in packages}
    reasons = [
        f"the verification is of {entry.name}, which is not in the build"
        for entry in record.rpms
        if entry.name not in here
    ]
    for facts in packages:
        reasons += _package_mismatches(facts, record)
    return plain(reasons)


def plain(reasons: Iterable[str]) -> tuple[str, ...]:
    """The reasons as printable lines of bounded length."""
    return tuple(printable(reason[:_LONGEST]) for reason in reasons)


def _package_mismatches(facts: PackageFacts, record: Record) -> Iterator[str]:
    entry = record.package(facts.name)
    if entry is None:
        yield f"{facts.name} was not there when the build was verified"
        return
    if facts.digests is None:
        return
    if (facts.digests.file, facts.digests.content) != (entry.file_sha256, entry.content_sha256):
        yield (
            f"{facts.name} is another file than the one that was verified "
            f"(SHA-256 {facts.digests.file}, verified was {entry.file_sha256})"
        )
    for copy in facts.copies:
        if copy.problem is not None:
            yield f"the copy of {facts.name} signed with {copy.name} cannot be read: {copy.problem}"
        elif copy.content_sha256 != entry.content_sha256:
            yield (
                f"the copy of {facts.name} signed with {copy.name} has another content than "
                "the package that was verified"
            )
    if record.verdict == IDENTICAL:
        yield from _enclave_mismatches(facts, record)


def _enclave_mismatches(facts: PackageFacts, record: Record) -> Iterator[str]:
    """What an identical record leaves out, or has other bytes of.

    In a record with another verdict enclaves may be missing: it opens nothing.
    """
    recorded = record.enclaves_of(facts.name)
    for file in facts.signed:
        enclave = recorded.pop(file.path, None)
        if enclave is None:
            yield f"the signed enclave {file.path} of {facts.name} was not verified"
        elif file.sha256 is not None and file.sha256 != enclave.signed_sha256:
            yield f"the signed enclave {file.path} of {facts.name} has other bytes than verified"
    if facts.problem is None:
        for path in recorded:
            yield f"verified was {path} of {facts.name}, where no signed enclave is"
    names = {e.name for e in record.enclaves if e.rpm == facts.name}
    for provide in facts.provides:
        for claim in evidence((provide,), ()):
            if claim.name not in names:
                yield f"{facts.name} provides {provide}, and no such enclave of it was verified"


def _problems(packages: Sequence[PackageFacts]) -> list[str]:
    return [
        f"nobody can say what is in {p.name}: {p.problem}"
        for p in packages
        if p.problem is not None
    ]


def _unverified(facts: PackageFacts) -> str:
    what = ", ".join([*(f.path for f in facts.signed), *facts.provides][:4])
    return f"{facts.name} holds signed enclaves that were never verified: {what}"
