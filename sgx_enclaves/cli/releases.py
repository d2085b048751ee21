# SPDX-License-Identifier: GPL-2.0-or-later
"""Draft a release of the catalogue from source trees, pin its files, and check it.

new    read two git repositories, the SDK's and the attestation primitives', each at its
       reproducible tag, and write the release's TOML. What only a person can know is listed
       in its notes.
pin    fetch the release's files whose digest is not pinned, and write the TOML again with
       their sha256, sha512 and, for a source, the digest of its contents. That pins what the
       servers give today: compare it with what others have published.
check  lay the sources out and say whether every file, patch, step and configuration that the
       release names is there, and every patch applies. The exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sgx_enclaves.catalogue.draft import SourceTree, Trees, draft_release
from sgx_enclaves.catalogue.pins import check_tree, toml_of, write_pins
from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli.arguments import (
    add_catalogue,
    add_fetching,
    chosen_catalogue,
    chosen_fetcher,
)
from sgx_enclaves.cli.output import out, out_report
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import digest_file, read_file, write_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.build import lay_out
from sgx_enclaves.release.vendor import fetch_sources

EXIT_WRONG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("new", "pin", "check"))
    parser.add_argument("release", metavar="RELEASE", nargs="?", help="for pin and check")
    parser.add_argument("--sgx", metavar="DIR@TAG", help="new: the SDK's git repository")
    parser.add_argument(
        "--dcap", metavar="DIR@TAG", help="new: the attestation primitives' git repository"
    )
    parser.add_argument(
        "--sgx-release",
        metavar="TAG",
        help="new: the tag with the versions in file names; by default sgx_VERSION",
    )
    parser.add_argument(
        "--dcap-release", metavar="TAG", help="new: likewise; by default DCAP_VERSION"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write here, not to standard output")
    parser.add_argument(
        "--allow-unpinned", action="store_true", help="check: accept sources without a pin"
    )
    add_catalogue(parser)
    add_fetching(parser)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    if args.action == "new":
        _write(args, toml_of(_draft(args)))
        return 0
    if args.release is None:
        raise InputError("no release is named", hint=f"releases {args.action} RELEASE")
    release = chosen_catalogue(args).release(args.release)
    return _pin(args, release) if args.action == "pin" else _check(args, release)


def _write(args: argparse.Namespace, text: str) -> None:
    if args.output is None:
        out_report(text.rstrip("\n"))
    else:
        write_file(args.output, text.encode())


def _draft(args: argparse.Namespace) -> dict[str, object]:
    if args.sgx is None or args.dcap is None:
        raise InputError("two source trees are needed", hint="name them with --sgx and --dcap")
    sgx, dcap = SourceTree(args.sgx), SourceTree(args.dcap)
    trees = Trees(
        sgx,
        dcap,
        args.sgx_release or sgx.tag.replace("_reproducible", ""),
        args.dcap_release or dcap.tag.replace("_reproducible", "").replace("dcap", "DCAP"),
    )
    return draft_release(trees, chosen_catalogue(args))


def _pin(args: argparse.Namespace, release: Release) -> int:
    fetcher = chosen_fetcher(args)
    sources = release.build.sources if release.build is not None else ()
    files = {f"source.{item.id}": (item.artifact, item.unpack) for item in sources}
    files |= {f"vendor.{item.id}": (item.artifact, False) for item in release.vendor}
    pins = {
        name: _digests(fetcher.fetch(artifact, allow_unpinned=True).path, contents)
        for name, (artifact, contents) in files.items()
        if not artifact.pinned
    }
    text = read_file(release.file, MIB).decode()
    _write(args, write_pins(text, pins))
    return 0


def _digests(path: Path, contents: bool) -> dict[str, str]:
    pins = {kind: digest_file(path, kind) for kind in ("sha256", "sha512")}
    return {**pins, "contents_sha256": read_contents(path).sha256} if contents else pins


def _check(args: argparse.Namespace, release: Release) -> int:
    if release.build is None:
        raise InputError(
            f"{release.name} has no sources of its own", hint="check the releases it is built in"
        )
    archives = fetch_sources(release, chosen_fetcher(args), allow_unpinned=args.allow_unpinned)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="sgx-enclaves-") as scratch:
        tree = Path(scratch) / "tree"
        lay_out(tree, release.build, archives)
        for what, problem in check_tree(release, release.build, tree):
            wrong += bool(problem)
            out(f"{what}: {problem or 'as it says'}")
    out(f"{release.name}: {wrong or 'nothing'} of that is wrong")
    return EXIT_WRONG if wrong else 0
