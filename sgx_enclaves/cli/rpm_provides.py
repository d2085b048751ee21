# SPDX-License-Identifier: GPL-2.0-or-later
"""Print what a package provides by the enclaves in it. A dependency generator of
rpm: file names come on standard input, one a line; fileattrs/sgx_enclaves.attr calls it.

Links are passed over: the file that they lead to tells all. A file that is no
enclave, or whose signature does not hold, is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

from sgx_enclaves.cli.output import out
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.rpm.enclaves import provides_of

_VERSION = re.compile(r"(?P<name>[a-z0-9_]+)=(?P<version>[A-Za-z0-9.+~^_:-]+)")


def _version(text: str) -> tuple[str, str]:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("must be ENCLAVE=VERSION")
    return match["name"], match["version"]


ARGUMENTS = "--versions ENCLAVE=VERSION...  the version that an enclave's Provides gets"
TYPES = {"ENCLAVE=VERSION": _version}


def run(args: argparse.Namespace) -> int:
    """Print the Provides, one a line; 0 when all is told."""
    versions = dict(args.versions)
    for line in sys.stdin:
        path = line.rstrip("\n")
        if path and not os.path.islink(path):
            data = read_file(path, DEFAULT_LIMITS.file_size)
            out(*provides_of(path, data, versions))
    return 0
