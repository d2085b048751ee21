# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb compare, and the reports that it writes for verify-release too."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TextIO

from sgx_enclaves.cli import output
from sgx_enclaves.cli.arguments import chosen_generation, chosen_policy, today
from sgx_enclaves.enclave.compare import compare as compare_files
from sgx_enclaves.enclave.elf_headers import RPM_MAGIC
from sgx_enclaves.enclave.verdict import Verdict
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import make_folder, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.progress import elapsed

if TYPE_CHECKING:
    from sgx_enclaves.explain.picture import Picture

# diffoscope takes about 11 s for a 2 MB enclave; a debug build takes minutes.
DIFFOSCOPE_SECONDS = 600.0


def compare(args: argparse.Namespace) -> int:
    output.check_open(args, "report")
    check_report(args)
    built = read_file(args.built, DEFAULT_LIMITS.file_size)
    signed = read_file(args.signed, DEFAULT_LIMITS.file_size)
    config = read_file(args.config, DEFAULT_LIMITS.config_size)
    for path, data in ((args.built, built), (args.signed, signed)):
        if data.startswith(RPM_MAGIC):
            raise InputError(
                "an RPM package, and no enclave",
                file=path,
                hint=f"`sgx-enclaves check-rpm` looks into it: check-rpm {path} --reference DIR",
            )
    symbols = read_file(args.symbols, DEFAULT_LIMITS.file_size) if args.symbols else None
    with elapsed(output.progress(), f"comparing {args.signed}"):
        verdict = compare_files(
            built,
            signed,
            config,
            chosen_policy(args, args.signed),
            names=(args.built, args.signed, args.config),
            generation=chosen_generation(args),
        )
        if verdict.exit_status:
            # Costs start-up time, and is needed only when something is wrong.
            from sgx_enclaves.explain.explain import explained

            verdict = explained(verdict, built, signed, config, symbols=symbols)
    if args.json:
        from sgx_enclaves.report.as_json import verdict_dict

        output.out_json(verdict_dict(verdict))
    else:
        from sgx_enclaves.report.text import verdict_text

        output.out_report(verdict_text(verdict, width=output.width(), full=output.is_verbose()))
    if args.report is not None:
        from sgx_enclaves.evidence.report import of_comparison, write_report

        write_reports(verdict, args.report, built, signed)
        write_report(args.report, of_comparison(verdict))
        output.open_page(args, args.report / "verdict.html")
    if args.diffoscope and verdict.exit_status:
        output.flush()
        problem = run_diffoscope(args.built, args.signed, sys.stderr if args.json else None)
        if problem is not None:
            output.message(problem)
    return verdict.exit_status


def check_report(args: argparse.Namespace) -> None:
    """Refuse, before the work, a `--report` where nothing can be written after it."""
    if args.report is not None and os.path.lexists(args.report) and not args.report.is_dir():
        raise InputError(
            "reports are written into a directory, and this is none",
            file=str(args.report),
            hint="name another one for --report",
        )


def write_reports(verdict: Verdict, folder: Path, built: bytes, signed: bytes) -> Picture:
    """Write the verdict on two files as text, JSON and HTML; returns what the page draws."""
    import json

    from sgx_enclaves.explain.picture import picture_of
    from sgx_enclaves.report.as_json import verdict_dict
    from sgx_enclaves.report.templated import verdict_html
    from sgx_enclaves.report.text import verdict_text

    make_folder(folder)
    picture = picture_of(verdict, built, signed)
    for name, text in (
        ("verdict.txt", verdict_text(verdict, full=True)),
        ("verdict.json", json.dumps(verdict_dict(verdict), indent=2)),
        ("verdict.html", verdict_html(verdict, picture, today().isoformat())),
    ):
        write_file(str(folder / name), f"{text}\n".encode())
    return picture


def run_diffoscope(built: str, signed: str, output: Optional[TextIO] = None) -> Optional[str]:
    """Let diffoscope print its comparison of two files; returns why it showed nothing, if so."""
    import shutil
    import subprocess

    program = shutil.which("diffoscope")
    if program is None:
        return "diffoscope is not installed; install the package diffoscope to see its comparison"
    # file names are never taken for options
    command = [program, "--text=-", "--", built, signed]
    try:
        done = subprocess.run(command, check=False, timeout=DIFFOSCOPE_SECONDS, stdout=output)  # noqa: S603
    except subprocess.TimeoutExpired:
        most = f"{DIFFOSCOPE_SECONDS:g} seconds"
        return f"diffoscope was stopped after {most}; run it by hand to wait longer"
    except OSError as error:
        return f"diffoscope could not be started: {error.strerror or error}"
    failed = f"diffoscope failed with exit status {done.returncode}"
    return failed if done.returncode not in (0, 1) else None
