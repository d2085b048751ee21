# SPDX-License-Identifier: GPL-2.0-or-later
"""Take the signature and all other metadata off a signed enclave: the file that its maker
signed, which an independent build must give. Every other byte stays.
"""

from __future__ import annotations

import argparse
import hashlib

from sgx_enclaves.cli.arguments import load_signed
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.sign import unsigned

ARGUMENTS = """\
enclave:SIGNED  a signed enclave
@output"""
MODE = 0o777


def run(args: argparse.Namespace) -> int:
    """Write the unsigned enclave; 0 when done."""
    image, _ = load_signed(args.enclave)
    data = unsigned(image)
    write_output(args, data, args.enclave, mode=MODE)
    out(f"{args.output}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0
