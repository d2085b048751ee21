# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb verify-release."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli import arguments, compare, output
from sgx_enclaves.errors import InputError
from sgx_enclaves.evidence.report import of_release, write_report
from sgx_enclaves.files import write_files
from sgx_enclaves.release import verify
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.report.forms import release_dict
from sgx_enclaves.report.templated import release_html, release_text


def verify_release(args: argparse.Namespace) -> int:
    output.check_open(args, "report")
    output.check_report(args)
    catalogue = arguments.chosen_catalogue(args)
    release = catalogue.release(args.release)
    release = release.only(args.enclaves) if args.enclaves else release
    request = verify.Request(
        catalogue,
        release,
        built=args.built,
        signed=args.signed,
        repacked=_repacked(args.repacked, release),
        allow_unpinned=args.allow_unpinned,
        everything=args.all,
        resume=True,
        **arguments.chosen_build(args),
    )
    verified = verify.verify_release(
        request,
        place=arguments.chosen_place(args, builds=args.built is None),
        fetcher=arguments.chosen_fetcher(args),
        store=BuildStore(arguments.chosen_work_dir(args), say=output.message),
        say=output.note,
    )
    verdict = verified.verdict
    weaker = args.require_reproducible and not verdict.exit_status and not verdict.reproducible
    status = 2 if weaker else verdict.exit_status
    plain = {**release_dict(verdict), "exit_status": status}
    if args.json:
        output.out_json(plain)
    else:
        output.out_report(release_text(verdict, width=output.width()))
    if args.report is not None:
        folders = [arguments.chosen_work_dir(args), arguments.chosen_cache_dir(args), args.local]
        folders += [args.built, args.signed, *(path.parent for path in request.repacked.values())]
        report = of_release(verified, release, catalogue, folders=folders)
        _write_reports(verified, plain, report, args.report)
        output.open_page(args, args.report / "release.html")
    if weaker:
        output.message("identical, but not the reproducible verdict, which was required")
    return status


def _repacked(values: list[str], release: Release) -> dict[str, Path]:
    """Archive id to file."""
    ids = [archive.id for archive in release.vendor]
    chosen: dict[str, Path] = {}
    for value in values:
        vendor, equals, file = value.partition("=")
        if not equals or vendor not in ids:
            if len(ids) != 1:
                raise InputError(
                    "the release has several vendor archives",
                    expected=" or ".join(f"{name}=FILE" for name in ids),
                    found=value,
                )
            vendor, file = ids[0], value
        if vendor in chosen:
            raise InputError(f"{vendor} is given twice", found=value)
        chosen[vendor] = Path(file)
    return chosen


def _write_reports(
    verified: verify.Verified, plain: dict[str, Any], report: dict[str, Any], folder: Path
) -> None:
    """Write the verdict in every form into `folder`, and each enclave's beside."""
    pictures = {
        name: compare.write_reports(verdict, folder / name, *files)
        for name, verdict, *files in verified.compared()
    }
    write_report(folder, report, manifest=verified.manifest)
    page = release_html(verified.verdict, pictures, report, arguments.today().isoformat())
    texts = {
        "release.txt": release_text(verified.verdict),
        "release.json": json.dumps(plain, indent=2) + "\n",
        "release.html": page,
    }
    write_files(folder, {name: text.encode() for name, text in texts.items()})
