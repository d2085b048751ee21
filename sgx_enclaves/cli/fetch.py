# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring a release's source archives and the vendor's signed enclaves into the cache.

Every file is held against the SHA-256 that the release pins, the vendor's archives
against the vendor's own checksums file too. A file that is here already is digested
again, not fetched. A fetch that was ended goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json

from sgx_enclaves.cli.arguments import add_json
from sgx_enclaves.cli.release_arguments import (
    add_fetching,
    add_release,
    chosen_catalogue,
    chosen_fetcher,
)
from sgx_enclaves.releases.acquire import fetch_signed, fetch_sources
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.download import Fetched
from sgx_enclaves.releases.release import Release

_WHAT = ("all", "sources", "signed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_release(parser)
    parser.add_argument(
        "--what", choices=_WHAT, default=_WHAT[0], help="by default both, sources and signed"
    )
    parser.add_argument(
        "--allow-unpinned", action="store_true", help="accept files whose digest nobody pinned"
    )
    add_fetching(parser)
    add_json(parser)


def source_trees(catalogue: Catalogue, release: Release) -> list[Release]:
    """The releases whose sources the enclaves of this one are built from."""
    trees: dict[str, Release] = {}
    for enclave in release.enclaves:
        if enclave.not_reproducible is None:
            tree, _own = catalogue.build_of(release, enclave)
            trees.setdefault(tree.name, tree)
    return list(trees.values())


def run(args: argparse.Namespace) -> int:
    """Fetch, and say where each file is."""
    catalogue = chosen_catalogue(args)
    release = catalogue.release(args.release)
    fetcher = chosen_fetcher(args)
    files: list[dict[str, object]] = []
    if args.what != "signed":
        for tree in source_trees(catalogue, release):
            fetched = fetch_sources(tree, fetcher, allow_unpinned=args.allow_unpinned)
            files += [_entry("source", tree, name, file) for name, file in fetched.items()]
    if args.what != "sources":
        signed = fetch_signed(release, fetcher, allow_unpinned=args.allow_unpinned)
        for name, archive in signed.items():
            entry = _entry("signed", release, name, archive.fetched)
            files.append({**entry, "cross_checked": archive.cross_checked, "note": archive.note})
    if args.json:
        print(json.dumps({"release": release.name, "files": files}, indent=2))
        return 0
    for entry in files:
        pinned = "as pinned" if entry["pinned"] else "NOT PINNED"
        print(f"{entry['kind']} {entry['id']}: {entry['path']}, sha256 {entry['sha256']}, {pinned}")
        if entry.get("note"):
            print(f"  {entry['note']}")
    return 0


def _entry(kind: str, release: Release, name: str, file: Fetched) -> dict[str, object]:
    return {
        "kind": kind,
        "release": release.name,
        "id": name,
        "path": str(file.path),
        "sha256": file.sha256,
        "size": file.size,
        "url": file.url,
        "pinned": file.pinned,
        "rejected": list(file.rejected),
    }
