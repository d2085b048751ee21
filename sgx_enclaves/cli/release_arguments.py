# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of the verbs that work on a release: the catalogue, and how to fetch."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Optional

from sgx_enclaves.releases.artifact import Lookaside
from sgx_enclaves.releases.cache import Cache, default_cache_dir
from sgx_enclaves.releases.catalogue import OWN_FOLDER, USER_FOLDER, Catalogue, load_catalogue
from sgx_enclaves.releases.download import FetchSettings
from sgx_enclaves.releases.fetch import Fetcher
from sgx_enclaves.releases.progress import for_stream
from sgx_enclaves.releases.transport import HttpsTransport, TransportSettings

# What Fedora's look-aside cache calls the source of the prebuilt enclaves.
_PACKAGE = "linux-sgx-enclaves-prebuilt"


def add_release(parser: argparse.ArgumentParser) -> None:
    """The release, and where releases are described."""
    parser.add_argument("release", metavar="RELEASE", help="its name in the catalogue")
    add_catalogue(parser)


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """Where releases are described."""
    parser.add_argument(
        "--catalogue",
        metavar="PATH",
        type=Path,
        action="append",
        default=[],
        help="a file or a folder of more releases, besides our own and "
        f"{USER_FOLDER}; may be repeated",
    )


def add_fetching(parser: argparse.ArgumentParser) -> None:
    """Where files come from, and where they are kept."""
    group = parser.add_argument_group("fetching")
    group.add_argument("--cache", metavar="DIR", type=Path, help="where fetched files are kept")
    group.add_argument(
        "--local", metavar="DIR", type=Path, help="take files that lie in this folder from there"
    )
    group.add_argument(
        "--offline", action="store_true", help="take files from the cache and --local only"
    )
    group.add_argument(
        "--lookaside",
        metavar="[PACKAGE=]URL",
        help=f"a look-aside cache to ask first; the package is {_PACKAGE} by default",
    )
    group.add_argument(
        "--ca-file", metavar="PEM", help="trust these certificates instead of the system's"
    )
    group.add_argument(
        "--attempts",
        metavar="N",
        type=int,
        default=FetchSettings().attempts,
        help="requests to one place before the next is tried",
    )


def chosen_catalogue(args: argparse.Namespace) -> Catalogue:
    """Our own releases, the machine's, and those of `--catalogue`.

    Raises:
        CatalogueError: a file in there is wrong.
    """
    return load_catalogue((OWN_FOLDER, USER_FOLDER, *args.catalogue))


def chosen_cache_dir(args: argparse.Namespace) -> Path:
    """The folder of fetched files."""
    return args.cache if args.cache is not None else default_cache_dir(os.environ)


def chosen_fetcher(args: argparse.Namespace) -> Fetcher:
    """A fetcher as the arguments ask for it; it tells on standard error how it goes.

    Raises:
        FetchError: the certificates cannot be used.
        CatalogueError: the look-aside cache's URL is none.
    """
    lookaside: Optional[Lookaside] = None
    if args.lookaside is not None:
        package, _, url = args.lookaside.rpartition("=")
        lookaside = Lookaside(url, package or _PACKAGE)
    transport = None
    if not args.offline:
        transport = HttpsTransport(TransportSettings(ca_file=args.ca_file))
    return Fetcher(
        Cache(chosen_cache_dir(args)),
        transport,
        FetchSettings(attempts=max(1, args.attempts)),
        progress=for_stream(sys.stderr),
        lookaside=lookaside,
        local=args.local,
    )
