# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of the verbs that work on packages."""

from __future__ import annotations

import argparse

from sgx_enclaves.packages.check import NOT_PERMITTED


def add_references(parser: argparse.ArgumentParser) -> None:
    """What signed enclaves are compared with, and which may be shipped."""
    parser.add_argument(
        "--reference",
        metavar="RPM|DIR|MANIFEST",
        action="append",
        default=[],
        help="where our own unsigned enclaves and their config.xml are: a package, a folder, "
        "or what `sgx-enclaves build` made; may be repeated",
    )
    parser.add_argument(
        "--permit",
        metavar="NAME",
        choices=sorted(NOT_PERMITTED),
        action="append",
        default=[],
        help="accept an enclave that Fedora does not ship: " + ", ".join(sorted(NOT_PERMITTED)),
    )
