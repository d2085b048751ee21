# SPDX-License-Identifier: GPL-2.0-or-later
"""Scan a folder of RPM packages, or a repository: which packages carry enclaves, and
is each signed enclave our build plus a signature? See check-rpm for the references.

How much is read, and so what "no enclave" rests on:

  repodata   where the folder has repodata, and they list a file of a package's
             size: neither the Provides nor the file names that they list are an
             enclave's. That is the repository's word; packages that it does not
             list, or that it says have enclaves, are looked at all the same.
  --headers  the package's own header says so, and its digest is right. Also
             without repodata, or where they or createrepo_c cannot be read.
  --deep     no file in its payload is an enclave, under any name.

A package that may have enclaves is always judged by its content.

With --state, a scan that was stopped goes on where it was; packages that have
changed since are looked at again.

Exit status: the highest of all packages, as check-rpm gives it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys

from sgx_enclaves import __version__
from sgx_enclaves.cli.arguments import (
    POLICY_TYPES,
    chosen_generation,
    chosen_policy,
    not_shipped_name,
)
from sgx_enclaves.cli.compare import check_folder
from sgx_enclaves.cli.output import message, out, out_json
from sgx_enclaves.errors import InputError
from sgx_enclaves.evidence.report import of_packages, write_report
from sgx_enclaves.progress import Event, TerminalProgress
from sgx_enclaves.report.as_json import result_dict, survey_dict
from sgx_enclaves.report.text import report_lines, scan_summary
from sgx_enclaves.rpm.scan import (
    Scanned,
    ScanSettings,
    State,
    Survey,
    neighbours_in,
    scan,
    stamps_below,
    survey,
)

ARGUMENTS = """\
folder:FOLDER  where the packages are, at any depth
@references
^--headers  read every package's header, despite repodata
^--deep  read the payload of every package
--state FILE  keep results here, to resume later
--jobs COUNT  processes; by default as many as there are processors
@report
@json
@sdk
@policy"""
TYPES = {**POLICY_TYPES, "ENCLAVE": not_shipped_name}


def run(args: argparse.Namespace) -> int:
    """Print what was found; the highest exit status of all packages."""
    if args.report is not None:
        check_folder(args.report)
    jobs = args.jobs or os.cpu_count() or 1
    chosen_policy(args, "")  # a bad --signer is an error now, and not in every package
    found = survey(args.folder, repodata=not (args.headers or args.deep))
    if not (found.targets or found.passed):
        raise InputError(
            "there is no package to scan", file=args.folder, hint="name a folder of RPM packages"
        )
    settings = ScanSettings(
        tuple(args.reference),
        functools.partial(chosen_policy, args),
        result_dict,
        tuple(args.permit),
        chosen_generation(args),
        args.deep,
        neighbours_in(found.targets),
        args.trust_neighbours,
        args.signed_neighbours,
    )
    for problem in found.problems:
        message(f"{problem}; headers are read instead")
    state = State(args.state, _key(args, found)) if args.state is not None else None
    bar = TerminalProgress(sys.stderr)

    def shown(done: int, total: int) -> None:
        if sys.stderr.isatty():
            bar(Event("scan", done + found.passed, total + found.passed, unit="packages"))

    results: list[Scanned] = []
    try:
        for scanned in scan(found.targets, settings, jobs=jobs, state=state, progress=shown):
            if scanned.report is not None:
                results.append(scanned)
    finally:
        bar.close()
        if state is not None:
            state.close()
    results.sort(key=lambda scanned: scanned.file)
    reports = [scanned.report for scanned in results if scanned.report is not None]
    status = max((scanned.exit_status for scanned in results), default=0)
    if args.json:
        out_json({"exit_status": status, **survey_dict(found), "packages": reports})
    else:
        for report in reports:
            out(*report_lines(report))
        out(scan_summary(found, reports))
    if args.report is not None:
        write_report(args.report, of_packages("scan", reports))
    return status


def _key(args: argparse.Namespace, found: Survey) -> str:
    """All that the results depend on beside the packages."""
    chosen = {
        name: getattr(args, name)
        for name in ("reference", "permit", "deep", "sdk", "enclave", "signer")
    }
    chosen |= {name: getattr(args, name) for name in ("isvprodid", "min_isvsvn", "allow_debug")}
    chosen |= {name: getattr(args, name) for name in ("trust_neighbours", "signed_neighbours")}
    beside = neighbours_in(found.targets)
    stamps = [stamps_below(path) for path in (*args.reference, *args.signer, *beside)]
    return json.dumps([__version__, chosen, stamps, found.stamps])
