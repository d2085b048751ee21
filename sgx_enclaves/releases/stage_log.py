# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs stages one after the other and writes down how each ended.

An error ends its stage and nothing else: what comes after says for itself what
it lacks, so that one run tells everything that is wrong.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Generic, Optional, TypeVar

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.releases.outcome import Stage, StageState
from sgx_enclaves.verdict.compare import finding_of
from sgx_enclaves.verdict.model import Finding

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a stage made.

    Attributes:
        value: the result.
        detail: what was done, in a few words.
        state: done, kept or given; refused if the findings say so.
        findings: why it was refused, or notes.
    """

    value: T
    detail: str
    state: StageState = StageState.DONE
    findings: tuple[Finding, ...] = ()


class StageLog:
    """The stages so far.

    Args:
        say: told what begins, for people who wait.
    """

    def __init__(self, say: Say) -> None:
        self.stages: list[Stage] = []
        self._say = say

    def attempt(self, name: str, work: Callable[[], Done[T]]) -> Optional[T]:
        """Run a stage; None if an error ended it."""
        self._say(name)
        started = time.monotonic()
        try:
            done = work()
        except SgxEnclavesError as error:
            self._add(name, StageState.REFUSED, "", started, (finding_of(error, f"{name}-failed"),))
            return None
        self._add(name, done.state, done.detail, started, done.findings)
        return None if done.state is StageState.REFUSED else done.value

    def skip(self, name: str, why: str) -> None:
        """Write down that a stage had to be left out."""
        self.stages.append(Stage(name, StageState.SKIPPED, why, 0.0))

    def _add(
        self,
        name: str,
        state: StageState,
        detail: str,
        started: float,
        findings: tuple[Finding, ...],
    ) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.stages.append(Stage(name, state, detail, seconds, findings))
