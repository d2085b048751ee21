# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the signed enclave of an unsigned one, its config.xml and a raw signature that was
made elsewhere over what sign-data wrote, as `sgx_sign catsig` does. Nothing is written
if the signature does not fit.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import SIGNING_TYPES, chosen_date, prepared_for_signing
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.sign import (
    bcd_date,
    date_of_signing_data,
    load_public_key,
    sign_with,
    signing_data,
)
from sgx_enclaves.errors import SigningError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

ARGUMENTS = """\
@signing
--public-key FILE!  the signer's key or certificate
--signature RAW!  the signature: 384 bytes, big endian
--data FILE  what sign-data wrote; brings its date
@output"""
TYPES = SIGNING_TYPES
MODE = 0o777


def run(args: argparse.Namespace) -> int:
    """Write the signed enclave; 0 when done."""
    limit = DEFAULT_LIMITS.config_size
    image, regenerated = prepared_for_signing(args)
    public = load_public_key(read_file(args.public_key, limit), args.public_key)
    signature = read_file(args.signature, limit)
    date = bcd_date(chosen_date(args))
    if args.data is not None:
        data = read_file(args.data, limit)
        date = date_of_signing_data(data, args.data)
        if signing_data(regenerated, date) != data:
            raise SigningError(
                "other data than this enclave's were signed",
                file=args.data,
                hint="is it the same enclave, config.xml and SDK?",
            )
    signed = sign_with(image, regenerated, public, lambda _: signature, date)
    inputs = [args.enclave, args.config, args.public_key, args.signature, args.data]
    write_output(args, signed, *filter(None, inputs), mode=MODE)
    out(f"{args.output}: signed, MRENCLAVE {regenerated.mrenclave.hex()}")
    return 0
