# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of rpmlint: packages are noted as they come and judged when all have been seen.

A signed enclave's counterpart may be in a package that comes later, and each
package's extracted files are gone by then: so the package files are read at the
end, one at a time. Never raises: what goes wrong is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sgx_enclaves.packages.check import PackageResult, check_package
from sgx_enclaves.packages.references import Reference
from sgx_enclaves.verdict.model import Severity
from sgx_enclaves_rpmlint.boundary import LintPackage, Output, Subject
from sgx_enclaves_rpmlint.candidates import subject_of
from sgx_enclaves_rpmlint.findings import ERROR, KINDS, Report, report
from sgx_enclaves_rpmlint.installed import InstalledFile, installed_files
from sgx_enclaves_rpmlint.judge import Judge, failed, is_verified
from sgx_enclaves_rpmlint.options import read_options
from sgx_enclaves_rpmlint.quiet import withdraw
from sgx_enclaves_rpmlint.references import references_for

# More than any threshold: a package with one of our errors is never acceptable.
BADNESS = 10_000


def defend(output: Output) -> None:
    """Describe our findings, and put the errors out of reach of a package's rpmlintrc.

    `addFilter` does not apply to blocked ids, and `setBadness`, which rpmlint has
    read by now, is overwritten.
    """
    for kind in KINDS:
        output.error_details[kind.id] = kind.description
        if kind.level == ERROR:
            output.blocked_filters.add(kind.id)
            output.badness[kind.id] = BADNESS


class Session:
    """The check, apart from rpmlint.

    Args:
        table: the table [SgxEnclave] of the configuration.
        output: where findings go.
        query: the files of installed packages that provide something.
    """

    def __init__(
        self,
        table: object,
        output: Output,
        query: Callable[[str], list[InstalledFile]] = installed_files,
    ) -> None:
        self._output = output
        self._options = read_options(table)
        self._query = query
        self._subjects: list[Subject] = []
        self._configuration_told = False
        defend(output)

    def note(self, package: LintPackage) -> None:
        """Look at a package that rpmlint has just extracted."""
        try:
            self._subjects.append(subject_of(package))
        except Exception as error:
            self._tell(package, failed(_of(error)))

    def conclude(self) -> None:
        """Judge every package that was noted."""
        subjects, self._subjects = self._subjects, []
        references = references_for(subjects, self._options, self._query)
        for subject in subjects:
            if not subject.suspect:
                continue
            try:
                for found in self._judged(subject, references):
                    self._tell(subject, found)
            except Exception as error:
                self._tell(subject, failed(_of(error)))

    def _judged(self, subject: Subject, references: list[Reference]) -> Iterator[Report]:
        if not self._configuration_told:
            self._configuration_told = True
            for problem in self._options.problems:
                yield report("sgx-enclave-configuration", problem)
        if subject.installed and not Path(subject.file).is_file():
            yield report(
                "sgx-enclave-not-reproduced",
                "an installed package cannot be verified: name its package file instead",
            )
            return
        result = check_package(
            subject.file, references, self._options.policy_for, permitted=self._options.permit
        )
        yield from Judge(subject, result).reports()
        self._quieten(subject, result)

    def _quieten(self, subject: Subject, result: PackageResult) -> None:
        paths = {path for e in result.enclaves if is_verified(e) for path in (e.path, *e.links)}
        # A damaged package has proved nothing, whatever its enclaves look like.
        if paths and not any(f.severity is not Severity.NOTE for f in result.findings):
            withdraw(self._output, subject, paths, self._options.quiet)

    def _tell(self, subject: object, found: Report) -> None:
        self._output.add_info(found.kind.level, subject, found.kind.id, *found.details)


def _of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
