# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges the packages of one run of rpmlint, each against the others and the configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Optional

from sgx_enclaves.packages.check import Bystander, PackageResult, check_package
from sgx_enclaves.verdict.model import Severity
from sgx_enclaves_rpmlint.boundary import Output, Subject
from sgx_enclaves_rpmlint.findings import Report, report
from sgx_enclaves_rpmlint.judge import Judge, is_sound_unsigned, is_verified
from sgx_enclaves_rpmlint.options import read_options
from sgx_enclaves_rpmlint.quiet import withdraw
from sgx_enclaves_rpmlint.references import Query, is_neighbour, opener_for, references_for


class Judgement:
    """Judges packages one by one; counterparts last, for then they may have been read.

    Args:
        table: the table [SgxEnclave] of the configuration.
        subjects: all packages that were seen.
        query: the installed packages that provide something.
    """

    def __init__(self, table: object, subjects: Sequence[Subject], query: Query) -> None:
        self._options = read_options(table)
        # One of each, so that a package is held against its header once, and read once
        # where it is a subject and a counterpart.
        ours = [s for s in subjects if s.suspect or is_neighbour(s)]
        self._openers = {id(s): opener_for(s) for s in ours}
        self._bystanders = {id(s): Bystander() for s in ours}
        self._references = references_for(
            subjects,
            self._options,
            query,
            lambda subject: self._openers[id(subject)],
            lambda subject: self._bystanders[id(subject)].watch,
        )
        self._namesakes = Counter((s.name, s.arch) for s in subjects)
        self._configuration_told = False
        self._last: Optional[PackageResult] = None

    @staticmethod
    def order(subjects: Sequence[Subject]) -> list[Subject]:
        """The order in which to ask for them."""
        return sorted(subjects, key=is_neighbour)

    def of(self, subject: Subject) -> Iterator[Report]:
        """All findings about a package."""
        self._last = None
        if not self._configuration_told:
            self._configuration_told = True
            for problem in self._options.problems:
                yield report("sgx-enclave-configuration", problem)
        result = self._bystanders[id(subject)].result or check_package(
            subject.file,
            self._references,
            self._options.policy_for,
            permitted=self._options.permit,
            opener=self._openers[id(subject)],
        )
        yield from Judge(subject, result).reports()
        self._last = result

    def quieten(self, subject: Subject, output: Output) -> None:
        """Withdraw other checks' findings about the enclaves that `of` has just verified."""
        result = self._last
        # rpmlint's lines name a package by name and architecture, and set a path off by
        # blanks: where that is ambiguous, nothing is withdrawn.
        if result is None or subject.blanks or self._namesakes[subject.name, subject.arch] > 1:
            return
        good = [e for e in result.enclaves if is_verified(e) or is_sound_unsigned(e)]
        paths = {path for e in good for path in (e.path, *e.links)}
        # A damaged package has proved nothing, whatever its enclaves look like.
        if paths and not any(f.severity is not Severity.NOTE for f in result.findings):
            withdraw(output, subject, paths, self._options.quiet)
