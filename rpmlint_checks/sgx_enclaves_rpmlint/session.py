# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of rpmlint: packages are noted as they come and judged when all have been seen.

A signed enclave's counterpart may be in a package that comes later. Never raises: what
goes wrong is a finding. What judges is imported only when there is something to judge.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Optional

from sgx_enclaves import findings
from sgx_enclaves.findings import FindingKind
from sgx_enclaves.plain import printable
from sgx_enclaves_rpmlint.packages import LintPackage, NotedPackage, Output, subject_of

if TYPE_CHECKING:
    from sgx_enclaves_rpmlint.references import Query

# More than any threshold: a package with one of our errors is never acceptable.
BADNESS = 10_000
LEVELS = {"error": "E", "warning": "W", "info": "I"}
FAILED = "sgx-enclave-check-failed"
# Characters behind an id.
LONGEST = 200
_REST = "… see check-rpm --report"


def kinds() -> Mapping[str, FindingKind]:
    """The findings that the check reports, out of the product's one table, by rpmlint's id."""
    return {id_: kind for id_, kind in findings.kinds().items() if kind.severity in LEVELS}


def id_of(code: str) -> str:
    """What words a finding of the core; one that is in no table is a failure of the check."""
    kind = findings.kinds().get(code)
    return (kind.rpmlint if kind else "") or FAILED


class Report(NamedTuple):
    """One line for rpmlint: its id and what is behind it."""

    code: str
    text: str


def report(code: str, *parts: str) -> Report:
    """A report with that id, of parts in the order of their weight; what is too long is cut.

    Names come out of packages and must not steer a terminal.
    """
    text = "; ".join(map(printable, parts))
    return Report(code, text if len(text) <= LONGEST else text[: LONGEST - len(_REST)] + _REST)


def defend(output: Output) -> None:
    """Describe our findings, and put the errors out of reach of a package's rpmlintrc.

    `addFilter` does not apply to blocked ids, and `setBadness`, which rpmlint has
    read by now, is overwritten.
    """
    for id_, kind in kinds().items():
        output.error_details[id_] = f"{kind.meaning} {kind.do}"
        if kind.severity == "error":
            output.blocked_filters.add(id_)
            output.badness[id_] = BADNESS


class Session:
    """The check, apart from rpmlint; without a `query`, it asks the RPM database."""

    def __init__(
        self,
        table: object,
        output: Output,
        query: Optional[Query] = None,
    ) -> None:
        self._output = output
        self._table = table
        self._query = query
        self._subjects: dict[tuple[str, bool], NotedPackage] = {}
        self._judged: set[tuple[str, bool]] = set()
        defend(output)

    def note(self, package: LintPackage) -> None:
        """Look at a package that rpmlint has just unpacked."""
        try:
            subject = subject_of(package)
            # Named twice, for example by its path and by its folder's, it is one package.
            self._subjects.setdefault((subject.file, subject.installed), subject)
        except Exception as error:
            self._emit(package, _failed(error))

    def conclude(self) -> None:
        """Judge every package that was noted since the last time."""
        waiting = {key: s for key, s in self._subjects.items() if key not in self._judged}
        self._judged |= set(waiting)
        suspects = [subject for subject in waiting.values() if subject.suspect]
        # What rpmlint holds is not looked through for garbage again, here and in our children.
        gc.freeze()
        try:
            if suspects:
                self._judge(suspects)
        except Exception as error:
            for subject in suspects:
                self._emit(subject, _failed(error))
        finally:
            gc.unfreeze()

    def _judge(self, waiting: list[NotedPackage]) -> None:
        # Takes as long as all the rest of our start, and most packages have no enclave.
        from sgx_enclaves_rpmlint.judge import Judgement  # noqa: PLC0415
        from sgx_enclaves_rpmlint.references import installed_packages  # noqa: PLC0415

        query = self._query or installed_packages
        subjects = list(self._subjects.values())
        with contextlib.closing(Judgement(self._table, subjects, query)) as judgement:
            for subject in waiting:
                try:
                    for found in judgement.of(subject):
                        self._emit(subject, found)
                    judgement.quieten(subject, self._output)
                except Exception as error:
                    self._emit(subject, _failed(error))

    def _emit(self, subject: object, found: Report) -> None:
        level = LEVELS[kinds()[found.code].severity]
        self._output.add_info(level, subject, found.code, found.text)


def _failed(error: Exception) -> Report:
    return report("sgx-enclave-check-failed", f"{type(error).__name__}: {error}")
