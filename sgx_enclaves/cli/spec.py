# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the spec file of a source package of a release's enclaves.

  reproducible  builds the unsigned enclaves with the designated toolchain
  prebuilt      ships the vendor's files, if each is our build plus a signature
  grafted       ships our build with the vendor's signatures put on

All numbers, names and URLs come from the catalogue. The spec file uses the macros of
macros.sgx-enclaves; `sgx-enclaves fetch` brings the files that it names.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re

from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli.arguments import chosen_catalogue
from sgx_enclaves.cli.output import out_report, write_output
from sgx_enclaves.errors import InputError
from sgx_enclaves.specs import Kind, SpecRequest, render

ARGUMENTS = """\
release:RELEASE  its name in the catalogue
--kind reproducible|prebuilt|grafted!
-o, --output FILE  where to write; standard output by default
--force  replace the output file if there is one already
--packager PACKAGER (sgx-enclaves <sgx-enclaves@localhost>)  NAME <ADDRESS>, for the changelog
--date YYYY-MM-DD  of the changelog; by default $SOURCE_DATE_EPOCH, else the date of the
  release's tag
--toolchain-package PACKAGE*  BuildRequires that brings the designated toolchain; may be
  repeated
--allow-unpinned  let the build accept files that the release does not pin
@catalogue"""
_EPOCH = "SOURCE_DATE_EPOCH"
_PACKAGER_FORM = re.compile(r"[^<>\n%]+ <[^<>\s%]+@[^<>\s%]+>")


def _packager(text: str) -> str:
    if _PACKAGER_FORM.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("must be NAME <ADDRESS>")
    return text


TYPES = {"PACKAGER": _packager}


def run(args: argparse.Namespace) -> int:
    """Write the spec file; 0 when done."""
    catalogue = chosen_catalogue(args)
    release = catalogue.release(args.release)
    request = SpecRequest(
        catalogue,
        release,
        Kind(args.kind),
        args.packager,
        args.date or _default_date(release),
        tuple(args.toolchain_package),
        args.allow_unpinned,
    )
    text = render(request)
    if args.output is None:
        out_report(text.rstrip("\n"))
    else:
        write_output(args, text.encode("utf-8"), *args.catalogue)
    return 0


def _default_date(release: Release) -> datetime.date:
    """One that is the same in each run, where any is known."""
    own = release.toolchain.environment.get(_EPOCH) if release.toolchain is not None else None
    seconds = os.environ.get(_EPOCH, own)
    if seconds is None:
        return datetime.datetime.now(datetime.timezone.utc).date()
    try:
        return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).date()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{_EPOCH} is no date", expected="seconds since 1970", found=repr(seconds)
        ) from None
