# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a whole release: data, and the rules that decide it.

1. *identical* needs every required enclave to be identical, and at least one.
2. One required enclave that differs makes the release differ.
3. Anything else is unverifiable: a stage that failed says nothing about bytes.
4. Without a pinned digest, *identical* needs the user's word.
5. *reproducible* is more: this program built the enclaves itself, from pinned
   sources, with the designated toolchain, separated from the machine. Identical bytes
   from another build are identical all the same; who made that build is then not part of
   what was proved.

An error ends its stage and nothing else: what comes after says for itself what it lacks, so
that one run reports everything that is wrong. Nothing here reads a file or runs anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, TypeVar

from sgx_enclaves.enclave.verdict import CheckState, Finding, Outcome, Severity, Verdict, finding_of
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.plain import record

if TYPE_CHECKING:
    from sgx_enclaves.catalogue.records import Enclave

T = TypeVar("T")
Say = Callable[[str], None]


class StageState(str, Enum):
    """How a stage ended."""

    DONE = "done"
    KEPT = "kept"
    GIVEN = "given"
    REFUSED = "refused"
    SKIPPED = "not done"


@dataclass
class Stage:
    """One stage of the job: sources, toolchain, build, signed, repack or compare.

    While it runs, `detail` gets in a few words what was done, `findings` why it was refused, and
    notes.
    """

    name: str
    state: StageState = StageState.DONE
    detail: str = ""
    seconds: float = 0.0
    findings: tuple[Finding, ...] = ()

    def refuse(self, *findings: Finding) -> None:
        """It is refused, for these reasons."""
        self.state = StageState.REFUSED
        self.findings += findings


class StageLog:
    """The stages so far; `say` gets the name of each as it begins, for people who wait."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Take a stage's time, and write down how it ended; an error of ours refuses it."""
        self.say(name)
        stage, started = Stage(name), time.monotonic()
        try:
            yield stage
        except SgxEnclavesError as error:
            stage.detail, stage.findings = "", ()
            stage.refuse(finding_of(error, f"{name}-failed"))
        stage.seconds = round(time.monotonic() - started, 3)
        self.stages.append(stage)

    def skip(self, name: str, why: str) -> None:
        """Write down that a stage had to be left out."""
        self.stages.append(Stage(name, StageState.SKIPPED, why))


@dataclass
class Files(Generic[T]):
    """Files of one kind by enclave, and by enclave the stage and the reasons why there is none."""

    files: dict[str, T] = field(default_factory=dict)
    refused: dict[str, tuple[str, tuple[Finding, ...]]] = field(default_factory=dict)

    def refuse(self, enclave: str, stage_name: str, *findings: Finding) -> None:
        """There is no file, for these reasons."""
        self.refused[enclave] = (stage_name, findings)

    def refuse_rest(self, enclaves: Sequence[Enclave], *stages: Stage) -> None:
        """Give the reasons of a refused stage to each enclave with neither a file nor reasons."""
        for stage in stages:
            reasons = tuple(f for f in stage.findings if f.severity is not Severity.NOTE)
            for enclave in enclaves if stage.state is StageState.REFUSED else ():
                if enclave.name not in self.files:
                    self.refused.setdefault(enclave.name, (stage.name, reasons))


class BuildKind(str, Enum):
    """Whose build the vendor's files were compared with.

    `OPEN` is a build with the designated toolchain whose steps were not separated from the
    machine: what earlier ones left there may be in it.
    """

    DESIGNATED = "designated"
    OPEN = "open"
    HOST = "host"
    GIVEN = "given"
    NONE = "none"


@record
class BuildFacts:
    """A build of one tree, which is named after the release whose sources these are.

    It has the designated toolchain's name, and the parts that are not as designated or were not
    seen; what a given build says of itself; by which route it was made, if it was made here.
    """

    tree: str
    kind: BuildKind
    toolchain: str
    mismatches: tuple[str, ...]
    says: str = ""
    route: str = ""


@record
class EnclaveOutcome:
    """One enclave of the release, and the verdict; or the stage that prevented it, and why."""

    enclave: Enclave
    refused_by: str
    findings: tuple[Finding, ...]
    verdict: Optional[Verdict]

    @property
    def name(self) -> str:
        """The enclave's."""
        return self.enclave.name

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Which of its policies are not pinned."""
        policies = ("isvprodid", "least_isvsvn")
        return tuple(name for name in policies if getattr(self.enclave, name) is None)

    @property
    def bytes_outcome(self) -> Outcome:
        """What the comparison alone says."""
        return self.verdict.outcome if self.verdict is not None else Outcome.UNVERIFIABLE

    @property
    def refused_checks(self) -> tuple[str, ...]:
        """The claims of the comparison that were refuted or left open, in order."""
        checks = self.verdict.checks if self.verdict is not None else ()
        states = (CheckState.REFUTED, CheckState.NOT_DONE)
        return tuple(check.name for state in states for check in checks if check.state is state)


# What a verdict takes on trust.
HARMLESS = "that the sources do no harm: their digests were checked, nobody read them"
FROM_SOURCES = "that our build came from the release's sources, and by which toolchain"
HONEST_TOOLS = "that the tools of the designated toolchain are honest"
_ON_TRUST = {
    BuildKind.HOST: "that the designated toolchain makes the same bytes",
    BuildKind.OPEN: "that nothing but the sources went into the build",
    BuildKind.DESIGNATED: HONEST_TOOLS,
}


@record
class ReleaseVerdict:
    """The result of the whole job: its facts, with a build for each tree, and what the rules above
    make of them (`decide`).

    `unpinned` are the digests and policies that are not pinned, which the user may accept; the
    notices are what there is to know besides. The claim says what was proved, in precise words, or
    why nothing was.
    """

    release: str
    title: str
    unpinned: tuple[str, ...]
    unpinned_allowed: bool
    builds: tuple[BuildFacts, ...]
    stages: tuple[Stage, ...]
    enclaves: tuple[EnclaveOutcome, ...]
    notices: tuple[str, ...]
    outcome: Outcome = Outcome.UNVERIFIABLE
    reproducible: bool = False
    claim: str = ""

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return self.outcome.exit_status

    @property
    def not_proved(self) -> tuple[str, ...]:
        """What the verdict takes on trust, a clause each."""
        kinds = {build.kind for build in self.builds} or {BuildKind.NONE}
        ours = not kinds & {BuildKind.GIVEN, BuildKind.NONE}
        clauses = [HARMLESS if ours else FROM_SOURCES]
        clauses += [clause for kind, clause in _ON_TRUST.items() if kind in kinds]
        if self.unpinned:
            clauses.append("that what is not pinned is what the vendor published")
        return tuple(clauses)


def decide(facts: ReleaseVerdict) -> ReleaseVerdict:
    """Apply the rules to the facts, of which `unpinned` has only the digests yet."""
    builds, enclaves = facts.builds, facts.enclaves
    policies = tuple(f"enclave.{e.name}.{fact}" for e in enclaves for fact in e.unpinned)
    unpinned = facts.unpinned + policies
    # what was refused outright speaks against the whole, as a repack's foreign member does
    blocked = any(s.name == "repack" and s.state is StageState.REFUSED for s in facts.stages)
    outcome = Outcome.of(item.bytes_outcome for item in enclaves if item.enclave.required)
    if outcome is Outcome.IDENTICAL and (blocked or (unpinned and not facts.unpinned_allowed)):
        outcome = Outcome.UNVERIFIABLE
    designated = bool(builds) and all(b.kind is BuildKind.DESIGNATED for b in builds)
    made = replace(
        facts,
        unpinned=unpinned,
        outcome=outcome,
        reproducible=outcome is Outcome.IDENTICAL and not unpinned and designated,
    )
    # This run knows where its builds came from; a comparison of files alone does not.
    known = (
        replace(e, verdict=replace(e.verdict, not_proved=made.not_proved)) if e.verdict else e
        for e in enclaves
    )
    return replace(made, claim=_claim(made, blocked), enclaves=tuple(known))


def _claim(made: ReleaseVerdict, blocked: bool) -> str:
    required = [item for item in made.enclaves if item.enclave.required]
    if made.outcome is Outcome.UNVERIFIABLE:
        return _open(required, blocked)
    if made.outcome is Outcome.IDENTICAL:
        one = len(required) == 1
        what = required[0].name if one else f"each of {len(required)} required enclaves"
        claim = f"{what} is {_whose(made.builds)} plus a signature of the pinned signer"
        if made.unpinned:
            claim += "; files without a pinned digest were accepted, so their origin is not proved"
        return claim
    differing = [e for e in required if e.bytes_outcome is Outcome.DIFFERS]
    refused = [e.name for e in differing if e.refused_checks == ("policy",)]
    others = [e.name for e in differing if e.name not in refused]
    parts = [f"not our build plus a signature: {', '.join(others)}"] if others else []
    if refused:
        words = "our build plus a signature that the policy refuses"
        parts.append(f"{words}: {', '.join(refused)}")
    if others and any(build.kind is not BuildKind.DESIGNATED for build in made.builds):
        parts.append("our build is not one by the designated toolchain, which may be all there is")
    return "; ".join(parts)


def _whose(builds: Sequence[BuildFacts]) -> str:
    kinds = {build.kind for build in builds}
    if kinds == {BuildKind.DESIGNATED}:
        return "our own build, made from the sources with the designated toolchain,"
    if BuildKind.GIVEN in kinds:
        return "the build that was given (how that was made is not proved here)"
    if kinds <= {BuildKind.DESIGNATED, BuildKind.OPEN}:
        return (
            "our own build from the sources with the designated toolchain (its steps were not "
            "separated from this machine, so this is not the reproducible verdict)"
        )
    return (
        "our own build from the sources (made with this machine's toolchain and not the "
        "designated one, so this is not the reproducible verdict)"
    )


def _open(required: Sequence[EnclaveOutcome], blocked: bool) -> str:
    if not required:
        return "the release requires no enclave, so there is nothing to prove"
    undecided = [e.name for e in required if e.bytes_outcome is Outcome.UNVERIFIABLE]
    if undecided:
        stages = sorted({e.refused_by or "compare" for e in required if e.name in undecided})
        return f"undecided: {', '.join(undecided)}; stopped at {', '.join(stages)}"
    if blocked:
        return "identical, but the repacked archive holds what is not shown to be the vendor's"
    return (
        "the enclaves are identical, but the release has facts that are not pinned; "
        "--allow-unpinned accepts that on purpose"
    )


def note(code: str, message: str) -> Finding:
    """A finding that speaks neither for nor against."""
    return Finding(code, Severity.NOTE, message)


def unverifiable(code: str, message: str, **texts: Any) -> Finding:
    """A finding that leaves open what the bytes are; the rest as in `Finding`."""
    return Finding(code, Severity.UNVERIFIABLE, message, **texts)
