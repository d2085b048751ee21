# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the 256 bytes that a signer with the key must sign (RSA, PKCS#1 v1.5, SHA-256), as
`sgx_sign gendata` does. Give the raw signature to attach, with the same file as --data.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import SIGNING_TYPES, chosen_date, prepared_for_signing
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.sign import bcd_date, signing_data

ARGUMENTS = """\
@signing
@output"""
TYPES = SIGNING_TYPES


def run(args: argparse.Namespace) -> int:
    """Write the data; 0 when done."""
    _, regenerated = prepared_for_signing(args)
    date = chosen_date(args)
    data = signing_data(regenerated, bcd_date(date))
    write_output(args, data, args.enclave, args.config)
    first = regenerated.blocks[0].sigstruct
    out(
        f"{args.output}: {len(data)} bytes to sign, dated {date.isoformat()}",
        f"  MRENCLAVE {regenerated.mrenclave.hex()}",
        f"  ISVPRODID {first.isvprodid}, ISVSVN {first.isvsvn}, "
        f"{'debug' if first.is_debug else 'production'}, as SDK {regenerated.generation.name}",
        f"  then: sgx-enclaves attach {args.enclave} --data {args.output} --signature RAW ...",
    )
    return 0
