# SPDX-License-Identifier: GPL-2.0-or-later
"""Say what a built directory holds, if every file in it is as its manifest says.

With --designated it must also say that all of it was built with the release's
designated toolchain from pinned sources. The manifest is the builder's word: this
checks that nothing was changed since, not that the word is true.

Exit status: 0 as it says; 1 not as demanded; 2 a file is missing or another one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sgx_enclaves.cli.output import out_report, write_output
from sgx_enclaves.files import make_folder
from sgx_enclaves.release.manifest import Manifest, load_built
from sgx_enclaves.report.templated import filled

ARGUMENTS = """\
directory:DIR  made by build
--designated  refuse another toolchain than the designated one, and sources without a pin
--allow-unpinned  with --designated: accept such sources
-o, --output FILE  write there what is printed, too
--force  replace the output file if there is one already"""
EXIT_REFUSED = 1


def run(args: argparse.Namespace) -> int:
    """Print it; 0 if it is as demanded."""
    manifest = load_built(args.directory).manifest
    refused = refusals(manifest, args.allow_unpinned) if args.designated else []
    text = filled("built.txt", manifest=manifest, refused=refused)
    out_report(text.rstrip("\n"))
    if args.output is not None and not refused:
        make_folder(Path(args.output).parent)
        write_output(args, text.encode(), *args.directory.rglob("*"))
    return EXIT_REFUSED if refused else 0


def refusals(manifest: Manifest, allow_unpinned: bool) -> list[str]:
    """Why the directory is not what a distribution's reference must be; none if it is."""
    checks = (
        (manifest.complete, "an enclave that was asked for was not built; read its log"),
        (
            manifest.designated,
            "it was not built with the designated toolchain; build it where that is",
        ),
        (
            manifest.pinned or allow_unpinned,
            "it was built from sources without a pinned digest; pin them in the release",
        ),
    )
    return [reason for good, reason in checks if not good]
