# SPDX-License-Identifier: GPL-2.0-or-later
"""Build a release's unsigned enclaves from source with its designated toolchain.

The folder gets libsgx_FILE.so and libsgx_FILE.config.xml of each enclave, logs/, and
manifest.json, which says how they were made. Steps run in the path that the release
asks for, without a network, each with a log and a deadline.

Exit status: 0 everything was built; 1 with --twice, the second build differs;
2 an enclave could not be built.
"""

from __future__ import annotations

import argparse
import os

from sgx_enclaves.cli.arguments import (
    chosen_catalogue,
    chosen_fetcher,
    chosen_place,
)
from sgx_enclaves.cli.output import message, out_json, out_report
from sgx_enclaves.release.build import BuildRequest, build_release
from sgx_enclaves.release.manifest import set_apart
from sgx_enclaves.release.toolchain import ToolchainKind
from sgx_enclaves.report.templated import filled

ARGUMENTS = """\
@release
enclaves:ENCLAVE*  which of its enclaves; by default those that it requires
--into DIR!  a new or an empty folder
@place
--twice  build again in another path, at another time, with another umask, locale and
  host name, and say where the results differ
--source-dir DIR  build from this tree, laid out already, instead of the pinned sources
--allow-unpinned  accept sources that the release does not pin; the manifest says so
--jobs COUNT  enclaves to make at once; by default as many as there are processors
--make-timeout SECONDS (7200)  for the make of each enclave; steps have theirs in the release
--apart  also make DIR/ENCLAVE, a built directory of that enclave alone, as packages ship it
--keep  keep the trees, in DIR/.work
@fetching
@json"""
EXIT_DIFFERS, EXIT_FAILED = 1, 2


def run(args: argparse.Namespace) -> int:
    """Build, and say what came of it."""
    catalogue = chosen_catalogue(args)
    request = BuildRequest(
        catalogue=catalogue,
        release=catalogue.release(args.release),
        into=args.into,
        enclaves=tuple(args.enclaves),
        route=args.route,
        toolchain=ToolchainKind(args.toolchain),
        tools=tuple(args.tools),
        source_dir=args.source_dir,
        twice=args.twice,
        jobs=args.jobs or len(os.sched_getaffinity(0)),
        make_timeout=args.make_timeout,
        keep=args.keep,
    )

    fetcher = chosen_fetcher(args)
    manifest = build_release(
        request,
        chosen_place(args),
        lambda artifact: fetcher.fetch(artifact, allow_unpinned=args.allow_unpinned),
        message,
    )
    if args.apart:
        for enclave in manifest.enclaves:
            if enclave.built:
                set_apart(args.into, manifest, enclave.name)
    if args.json:
        out_json(manifest.as_dict())
    else:
        out_report(filled("build.txt", manifest=manifest, into=args.into).rstrip("\n"))
    if not manifest.complete:
        return EXIT_FAILED
    return EXIT_DIFFERS if manifest.reproducible is False else 0
