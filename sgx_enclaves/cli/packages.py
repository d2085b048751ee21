# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that read RPM packages, and what rpm itself calls."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sgx_enclaves import __version__
from sgx_enclaves.cli import arguments, output
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS, NO_LIMITS
from sgx_enclaves.plain import as_plain
from sgx_enclaves.progress import Event
from sgx_enclaves.report.forms import result_dict, survey_dict
from sgx_enclaves.report.templated import result_text
from sgx_enclaves.rpm.check import PackageResult, check_package
from sgx_enclaves.rpm.enclaves import provides_of
from sgx_enclaves.rpm.references import Neighbours, neighbours_among, open_reference


def check_rpm(args: argparse.Namespace) -> int:
    output.check_report(args)
    references = [open_reference(path) for path in args.reference]
    beside = neighbours_among(args.packages if len(args.packages) > 1 else ())
    neighbours = replace(_neighbours(args), references=beside)
    check = _check(args)
    status, judged = 0, False
    plain = []
    for number, path in enumerate(args.packages):
        result = check(path, references, neighbours=neighbours)
        status = max(status, result.exit_status)
        judged |= bool(result.enclaves) or not result.is_source
        if args.json or args.report is not None:
            plain.append(result_dict(result))
        if not args.json:
            output.out_report(("\n" if number else "") + result_text(result, width=output.width()))
    if not (judged or status):
        output.message("nothing was judged: name the packages that were built, not their sources")
        status = 2
    if args.json:
        output.out_json({"exit_status": status, "packages": plain})
    if args.report is not None:
        _write_report(args, "packages", plain)
    return status


def _check(args: argparse.Namespace) -> Callable[..., PackageResult]:
    """`check_package` as the arguments want it."""
    policy_of = functools.partial(arguments.chosen_policy, args)
    return functools.partial(
        check_package, policy_of=policy_of, permitted=args.permit, generation=args.sdk
    )


def scan(args: argparse.Namespace) -> int:
    from sgx_enclaves.rpm import scan as scanning

    output.check_report(args)
    arguments.chosen_policy(args, "")  # a bad --signer is an error now, and not in every package
    found = scanning.survey(args.folder, repodata=not (args.headers or args.deep))
    if not (found.targets or found.passed):
        raise InputError(
            "there is no package to scan", file=args.folder, hint="name a folder of RPM packages"
        )
    beside = scanning.neighbours_in(found.targets)
    settings = scanning.ScanSettings(
        tuple(args.reference), _check(args), result_dict, args.deep, beside, _neighbours(args)
    )
    for problem in found.problems:
        output.note(f"{problem}; headers are read instead")
    state = None
    if args.state is not None:
        # all that the results depend on beside the packages
        names = "reference permit deep sdk enclave signer isvprodid any_product min_isvsvn"
        names += " allow_debug any_file trust_neighbours signed_neighbours"
        chosen = {name: getattr(args, name) for name in names.split()}
        stamps = [scanning.stamps_below(p) for p in (*args.reference, *args.signer, *beside)]
        attested = sorted(settings.neighbours.attested or ())
        key = json.dumps([__version__, as_plain(chosen), stamps, found.stamps, attested])
        state = scanning.ScanState(args.state, key)
    bar = output.progress()

    def shown(done: int, total: int) -> None:
        bar(Event("scan", done + found.passed, total + found.passed, unit="packages"))

    jobs = args.jobs or os.cpu_count() or 1
    try:
        scanned = scanning.scan(found.targets, settings, jobs=jobs, state=state, progress=shown)
        reports = [report for _path, report in sorted(scanned) if report is not None]
    finally:
        if state is not None:
            state.close()
    status = max((int(report["exit_status"]) for report in reports), default=0)
    plain = {"exit_status": status, **survey_dict(found), "packages": reports}
    broken = sum(any(f["severity"] != "note" for f in report["findings"]) for report in reports)
    output.answer(args, plain, "scan.txt", broken=broken, **plain)
    if args.report is not None:
        _write_report(args, "scan", reports)
    return status


def _neighbours(args: argparse.Namespace) -> Neighbours:
    """What neighbours are worth, whichever they are."""
    found = None
    if args.attestation:
        from sgx_enclaves.evidence.statements import attested

        found = attested(args.attestation, args.key, args.keyring, args.threshold)
    return Neighbours((), args.trust_neighbours, args.signed_neighbours, found)


def _write_report(args: argparse.Namespace, kind: str, reports: Sequence[dict[str, Any]]) -> None:
    from sgx_enclaves.evidence.report import of_packages, write_report

    write_report(args.report, of_packages(kind, reports))


def rpm_provides(args: argparse.Namespace) -> int:
    versions = dict(args.versions)
    for line in sys.stdin:
        path = line.rstrip("\n")
        if path and not os.path.islink(path):
            data = read_file(path, DEFAULT_LIMITS.file_size)
            output.out(*provides_of(path, data, versions, NO_LIMITS if args.no_limit else None))
    return 0
