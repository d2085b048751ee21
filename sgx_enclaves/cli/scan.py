# SPDX-License-Identifier: GPL-2.0-or-later
"""Scan a folder of RPM packages: which of them carry enclaves, and is each signed
enclave our build plus a signature? See check-rpm for the references.

Of a package whose header gives no reason to look further, only the header is
read: neither Provides nor paths nor names like those of enclaves. With --deep
every payload is read, and an enclave is found under any name.

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
import time
from typing import TextIO

from sgx_enclaves import __version__
from sgx_enclaves.cli.arguments import (
    add_json,
    add_policy,
    add_sdk,
    chosen_generation,
    chosen_policy,
)
from sgx_enclaves.cli.package_arguments import add_references
from sgx_enclaves.cli.package_words import report_lines, result_dict, scan_summary
from sgx_enclaves.errors import InputError
from sgx_enclaves.packages.scan import (
    Scanned,
    ScanSettings,
    State,
    find_packages,
    scan,
    stamps_below,
)

_REFRESH = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", metavar="DIR", help="where the packages are, at any depth")
    add_references(parser)
    parser.add_argument("--deep", action="store_true", help="read the payload of every package")
    parser.add_argument("--state", metavar="FILE", help="keep results here, to go on later")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; by default as many as there are processors",
    )
    add_json(parser)
    add_sdk(parser)
    add_policy(parser)


def run(args: argparse.Namespace) -> int:
    """Print what was found; the highest exit status of all packages."""
    if args.jobs < 1:
        raise InputError("a scan needs a process at least", found=f"--jobs {args.jobs}")
    settings = ScanSettings(
        tuple(args.reference),
        functools.partial(chosen_policy, args),
        result_dict,
        tuple(args.permit),
        chosen_generation(args),
        args.deep,
    )
    chosen_policy(args, "")  # a bad --signer is an error now, and not in every package
    paths = find_packages(args.folder)
    state = State(args.state, _key(args)) if args.state is not None else None
    counter = _Counter(sys.stderr)
    found: list[Scanned] = []
    try:
        for scanned in scan(paths, settings, jobs=args.jobs, state=state, progress=counter):
            if scanned.report is not None:
                found.append(scanned)
    finally:
        counter.close()
        if state is not None:
            state.close()
    found.sort(key=lambda scanned: scanned.file)
    reports = [scanned.report for scanned in found if scanned.report is not None]
    status = max((scanned.exit_status for scanned in found), default=0)
    if args.json:
        document = {"exit_status": status, "scanned": len(paths), "packages": reports}
        print(json.dumps(document, indent=2))
    else:
        for report in reports:
            print("\n".join(report_lines(report)))
        print(scan_summary(len(paths), reports))
    return status


def _key(args: argparse.Namespace) -> str:
    """All that the results depend on beside the packages."""
    chosen = {
        name: getattr(args, name)
        for name in ("reference", "permit", "deep", "sdk", "enclave", "signer")
    }
    chosen |= {name: getattr(args, name) for name in ("isvprodid", "min_isvsvn", "allow_debug")}
    stamps = [stamps_below(path) for path in (*args.reference, *args.signer)]
    return json.dumps([__version__, chosen, stamps])


class _Counter:
    """How far a scan is: a line that is written over on a terminal, nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._next = 0.0
        self._begun = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._shown and (now >= self._next or done == total):
            self._next = now + _REFRESH
            self._begun = True
            bar = "#" * (30 * done // total)
            self._stream.write(f"\r[{bar:<30}] {done}/{total} packages")
            self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._begun:
            self._stream.write("\n")
