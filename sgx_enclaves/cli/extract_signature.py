# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the signatures out of a signed enclave: for each metadata block its
SIGSTRUCT (1808 bytes) and its FIPS signature (772 bytes), if it has one.

With graft, this is all that a distribution needs of the vendor's file.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import load_signed
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.graft import extract

ARGUMENTS = """\
enclave:SIGNED  the vendor's signed enclave
@output"""


def run(args: argparse.Namespace) -> int:
    """Write the signature file; 0 when done."""
    _, descriptor = load_signed(args.enclave)
    signatures = extract(descriptor)
    data = b"".join(s.serialise() for s in signatures)
    write_output(args, data, args.enclave)
    out(f"{args.output}: {len(signatures)} signature(s), {len(data)} bytes")
    return 0
