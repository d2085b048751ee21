# SPDX-License-Identifier: GPL-2.0-or-later
"""May a build pass the gate? Pure: facts about its packages, its records, the rules.

- A build without a signed enclave passes.
- A record counts only if it speaks of the build's bytes as they are now: it names exactly
  the build's binary packages, each with the digests that the files have; signed copies have
  the recorded content; every signed enclave in the packages is in it, with its bytes.
- Where a site names attestations, each unsigned enclave that a record rests on must be in them.
- Of those, the newest that says *differs* shuts the gate for all that are older. A newer one that
  is *identical* opens it if no rule has an objection. One that proved nothing, because
  the vendor was down or only some enclaves were asked for, hides neither.

A rule in words says what a record must say beyond "identical"; docs/koji.md explains each word.
One that cannot be read is an error, never a weaker rule. Each reason against a build is one
printable line of bounded length, and can be shown alone: names in packages may be anything.
"""

from __future__ import annotations

import datetime
import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sgx_enclaves.enclave.policy import known_signer, pin_named
from sgx_enclaves.errors import RuleError
from sgx_enclaves.gate.inspect import PackageFacts
from sgx_enclaves.gate.record import CATALOGUE, DIFFERS, IDENTICAL, Record, RecordedEnclave
from sgx_enclaves.plain import printable
from sgx_enclaves.rpm.presence import evidence
from sgx_enclaves.rpm.rules import unattested
from sgx_enclaves.settings import NO, YES, yes_or_no

INTEL = "intel"
_AGE = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[dhm])\Z")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_HEX = re.compile(r"[0-9a-f]{64}\Z")
Signers = Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Rule:
    """What must hold of a record whose verdict is identical: the words of a rule.

    None is no bound, or any; `signer` has MRSIGNER values, and `INTEL`.
    """

    max_age: Optional[datetime.timedelta] = None
    release: Optional[str] = None
    origin: str = CATALOGUE
    signer: Optional[frozenset[str]] = None
    reproducible: bool = True
    build_tag: Optional[str] = None
    locked: bool = False
    lock: Optional[str] = None

    def objections(self, record: Record, now: datetime.datetime) -> Iterator[str]:
        """Why this record does not suffice; none when it does."""
        at = record.verified_time()
        if self.max_age is not None and (at is None or now - at > self.max_age):
            yield f"the verification is too old: of {record.verified_at}, not within {self.max_age}"
        for what, found, glob in (
            ("it was verified against release", record.release, self.release),
            (f"the description of release {record.release} is from", record.origin, self.origin),
            ("it was built in tag", record.build_tag, self.build_tag),
            ("its buildroot is pinned by lock", record.lock_sha256, self.lock),
        ):
            if glob is not None and not fnmatch.fnmatchcase(found or "", glob):
                yield f"{what} {found}, not {glob}"
        if self.locked and record.lock_sha256 is None:
            yield "its buildroot is pinned by no lock"
        if self.reproducible and not record.reproducible:
            yield (
                "the verification did not itself build every enclave from pinned sources with the "
                "designated toolchain, in a locked buildroot or one of an allowed tag"
            )
        for enclave in record.enclaves:
            if self.signer is not None and not _is_signed_by(enclave, self.signer):
                who = f"is signed by {enclave.mrsigner}, who is not asked for"
                yield f"{enclave.path} of {enclave.rpm} {who}"


def _is_signed_by(enclave: RecordedEnclave, signers: frozenset[str]) -> bool:
    if enclave.mrsigner is None:
        return False
    if enclave.mrsigner in signers:
        return True
    if INTEL not in signers or known_signer(enclave.mrsigner) is None:
        return False
    # Intel's signer of one enclave does not vouch for another.
    pin = pin_named(enclave.name)
    return pin is None or pin.mrsigner == enclave.mrsigner


def parse_rule(words: Iterable[str], signers: Optional[Signers] = None) -> Rule:
    """A rule from its words; `signers` are names for further signers, with their MRSIGNERs."""
    found: dict[str, Any] = {}
    known: dict[str, Callable[[str], Any]] = dict(_KEYS)
    known["signer"] = functools.partial(_signers, known=signers or {})
    for word in words:
        key, _, value = word.partition("=")
        if key not in known or not value or key in found:
            raise RuleError(
                f"the gate's rule has a word that cannot be read: {word[:80]!r}",
                expected=", ".join(f"{k}=…" for k in _KEYS) + ", each at most once",
            )
        try:
            found[key] = known[key](value)
        except ValueError as error:
            raise RuleError(
                f"{key} cannot be read", expected=str(error), found=repr(value[:80])
            ) from None
    return Rule(**found)


def parse_mark(value: object, signers: Optional[Signers] = None) -> Optional[Rule]:
    """The rule of a tag's mark: true, or a rule's words; None when it asks for none."""
    if value is None:
        return None
    if isinstance(value, (bool, int)):
        value = str(int(value))
    if not isinstance(value, str):
        raise RuleError(
            "the tag's mark cannot be read",
            expected="true, false, or a rule as text",
            found=type(value).__name__,
        )
    plain = value.strip().lower()
    if plain in ("", *NO):
        return None
    return parse_rule(() if plain in YES else value.split(), signers)


def _max_age(value: str) -> datetime.timedelta:
    match = _AGE.match(value)
    if match is None:
        raise ValueError("for example 30d, 12h or 90m")
    return datetime.timedelta(**{_UNITS[match["unit"]]: int(match["number"])})


def _sha256(value: str) -> str:
    if not _HEX.match(value):
        raise ValueError("64 lower-case hexadecimal digits")
    return value


def _signers(value: str, known: Signers) -> frozenset[str]:
    found: set[str] = set()
    for name in value.split(","):
        if name == INTEL or _HEX.match(name):
            found.add(name)
        elif name in known:
            found.update(known[name])
        else:
            raise RuleError(
                f"signer {name[:80]!r} is not known",
                expected=" or ".join([INTEL, *sorted(known), "64 lower-case hexadecimal digits"]),
                hint="names are given to signers in the hub plugin's configuration, [signers]",
            )
    return frozenset(found)


# What reads the value of each field of a rule; a signer needs the site's names besides.
_KEYS: Mapping[str, Callable[[str], Any]] = {
    "max_age": _max_age,
    "release": str,
    "origin": str,
    "signer": str,
    "reproducible": yes_or_no,
    "build_tag": str,
    "locked": yes_or_no,
    "lock": _sha256,
}

_LONGEST = 600


@dataclass(frozen=True)
class Decision:
    """Whether a build may pass.

    Attributes:
        present: whether it holds signed enclaves, or nobody can say that it does not.
        unread: present only because packages cannot be read.
        record: the one that decided; None if there is none.
        notes: what is no reason, but somebody should know.
    """

    present: bool
    allowed: bool
    reasons: tuple[str, ...]
    unread: bool = False
    record: Optional[Record] = None
    notes: tuple[str, ...] = ()


def decide(
    packages: Sequence[PackageFacts],
    records: Sequence[Record],
    rules: Sequence[Rule],
    now: datetime.datetime,
    attested: Optional[frozenset[str]] = None,
) -> Decision:
    """The gate's decision on all binary packages of a build, by its records, the newest first.

    `attested`: SHA-256 of unsigned enclaves that may count; None if the site names no attestations.
    """
    notes = plain(
        f"{path} of {package.name} holds enclaves as data, which were not verified"
        for package in packages
        for path in package.embedded
    )
    bearing = [p for p in packages if p.present]
    if not bearing:
        return Decision(False, True, (), notes=notes)
    unread = all(p.problem is not None for p in bearing)
    problems = [f"nobody can say what is in {p.name}: {p.problem}" for p in bearing if p.problem]
    if not records:
        reasons = [*problems, *(_unverified(p) for p in bearing if not p.problem)]
        return Decision(True, False, plain(reasons), unread, notes=notes)
    refusals = []
    for record in records:
        unlike = [*problems, *mismatches(packages, record)]
        reasons = [*unlike, *_objections(record, rules, now, attested)]
        found = Decision(True, not reasons, plain(reasons), unread, record, notes)
        if found.allowed or (not unlike and record.verdict == DIFFERS):
            return found
        refusals.append(found)
    return refusals[0]


def _objections(
    record: Record,
    rules: Sequence[Rule],
    now: datetime.datetime,
    attested: Optional[frozenset[str]],
) -> list[str]:
    if record.verdict != IDENTICAL:
        part = " of some of its enclaves" if record.partial else ""
        return [
            f"its verification{part} by task {record.task_id}, against release "
            f"{record.release}, ended with the verdict {record.verdict}"
        ]
    return [
        *(reason for rule in rules for reason in rule.objections(record, now)),
        *(
            f"{enclave.path} of {enclave.rpm}: {finding.message}: SHA-256 {enclave.built_sha256}"
            for enclave in record.enclaves
            for finding in unattested(enclave.path, enclave.built_sha256, attested)
        ),
    ]


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
    entry = next((p for p in record.rpms if p.name == facts.name), None)
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
        if copy.digests is None:
            yield f"the copy of {facts.name} signed with {copy.name} cannot be read: {copy.problem}"
        elif copy.digests.content != entry.content_sha256:
            yield (
                f"the copy of {facts.name} signed with {copy.name} has another content than "
                "the package that was verified"
            )
    if record.verdict == IDENTICAL:
        yield from _enclave_mismatches(facts, record)


def _enclave_mismatches(facts: PackageFacts, record: Record) -> Iterator[str]:
    """What an identical record lacks or has otherwise; one with another verdict opens nothing."""
    recorded = {e.path: e for e in record.enclaves if e.rpm == facts.name}
    for path, sha256 in facts.signed.items():
        enclave = recorded.pop(path, None)
        if enclave is None:
            yield f"the signed enclave {path} of {facts.name} was not verified"
        elif sha256 is not None and sha256 != enclave.signed_sha256:
            yield f"the signed enclave {path} of {facts.name} has other bytes than verified"
    if facts.problem is None:
        for path in recorded:
            yield f"verified was {path} of {facts.name}, where no signed enclave is"
    names = {e.name for e in record.enclaves if e.rpm == facts.name}
    for provide in facts.provides:
        for claim in evidence((provide,), ()):
            if claim.name not in names:
                yield f"{facts.name} provides {provide}, and no such enclave of it was verified"


def _unverified(facts: PackageFacts) -> str:
    what = ", ".join([*facts.signed, *facts.provides][:4])
    return f"{facts.name} holds signed enclaves that were never verified: {what}"
