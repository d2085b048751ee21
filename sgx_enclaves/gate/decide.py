# SPDX-License-Identifier: GPL-2.0-or-later
"""May a build pass the gate? Pure: facts about its packages, its records, the rules.

- A build without a signed enclave passes.
- A record counts only if it speaks of the build's bytes as they are now: it names exactly
  the build's binary packages, each with the digests that the files have; signed copies have
  the recorded content; every signed enclave in the packages is in it, with its bytes.
- Of those, the newest that says *differs* shuts the gate for all that are older. A newer one that
  is *identical* opens it if no rule has an objection. One that proved nothing, because
  the vendor was down or only some enclaves were asked for, hides neither.

Each reason stands for itself, is one printable line of bounded length, and can be shown
alone: names in packages may be anything.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from sgx_enclaves.gate.inspect import PackageFacts
from sgx_enclaves.gate.record import DIFFERS, IDENTICAL, UNVERIFIABLE, Record
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
        record: the one that decided; None if there is none.
    """

    present: bool
    allowed: bool
    reasons: tuple[str, ...]
    unread: bool = False
    record: Optional[Record] = None


def decide(
    packages: Sequence[PackageFacts],
    records: Sequence[Record],
    rules: Sequence[Rule],
    now: datetime.datetime,
) -> Decision:
    """The gate's decision.

    Args:
        packages: from `inspect_build`: all binary packages of the build, or none.
        records: of the build, the newest first.
        rules: what is asked for; all of them must hold.
        now: with a time zone.
    """
    bearing = [p for p in packages if p.present]
    if not bearing:
        return Decision(False, True, ())
    unread = all(p.problem is not None for p in bearing)
    problems = _problems(bearing)
    if not records:
        reasons = [*problems, *(_unverified(p) for p in bearing if not p.problem)]
        return Decision(True, False, plain(reasons), unread)
    refusals = []
    for record in records:
        unlike = [*problems, *mismatches(packages, record)]
        objections = _objections(record, rules, now)
        refused = Decision(True, False, plain([*unlike, *objections]), unread, record)
        if not refused.reasons:
            return Decision(True, True, (), unread, record)
        counts = not unlike and record.verdict != UNVERIFIABLE
        if counts and record.verdict == DIFFERS:
            return refused
        refusals.append(refused)
    return refusals[0]


def _objections(record: Record, rules: Sequence[Rule], now: datetime.datetime) -> list[str]:
    if record.verdict != IDENTICAL:
        part = " of some of its enclaves" if record.partial else ""
        return [
            f"its verification{part} by task {record.task_id}, against release "
            f"{record.release}, ended with the verdict {record.verdict}"
        ]
    return [reason for rule in rules for reason in rule.objections(record, now)]


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
