# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign an enclave as the SDK's signing tool does, without the SDK: with a PEM key of 3072
bits and exponent 3, or with a command that asks the token or service that has the key.
For tests and private vendors. See also sign-data and attach.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import (
    SIGNING_TYPES,
    asking,
    chosen_date,
    chosen_passphrase,
    prepared_for_signing,
)
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.sign import (
    bcd_date,
    load_key,
    load_public_key,
    sign,
    sign_with,
)
from sgx_enclaves.errors import SigningError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

ARGUMENTS = """\
@signing
^--key PEM!  private key
^--sign-with COMMAND!  run this command: it gets the 256 bytes to sign on standard input, and
  writes the raw RSA signature (PKCS#1 v1.5, SHA-256) to standard output; no shell sees it
--public-key FILE  with --sign-with: whose key it is
--sign-digest  give the command the SHA-256 digest (32 bytes) in place of the data
--passphrase-file FILE  the passphrase of an encrypted key, in its first line; asked for by
  default
@output"""
TYPES = SIGNING_TYPES
MODE = 0o777


def run(args: argparse.Namespace) -> int:
    """Write the signed enclave; 0 when done."""
    image, regenerated = prepared_for_signing(args)
    date = chosen_date(args)
    if args.sign_with is None:
        pem = read_file(args.key, DEFAULT_LIMITS.config_size)
        signed = sign(
            image, regenerated, load_key(pem, args.key, chosen_passphrase(args, pem)), date
        )
    else:
        if args.public_key is None:
            raise SigningError("--sign-with needs --public-key", hint="name the signer's own key")
        public = load_public_key(
            read_file(args.public_key, DEFAULT_LIMITS.config_size), args.public_key
        )
        signer = asking(args.sign_with, digest=args.sign_digest)
        signed = sign_with(image, regenerated, public, signer, bcd_date(date))
    inputs = [args.enclave, args.config, args.key, args.public_key, args.passphrase_file]
    write_output(args, signed, *filter(None, inputs), mode=MODE)
    out(
        f"{args.output}: signed as SDK {regenerated.generation.name} would, "
        f"MRENCLAVE {regenerated.mrenclave.hex()}"
    )
    return 0
