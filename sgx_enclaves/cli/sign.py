# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign an enclave with a PEM key of 3072 bits and exponent 3, as the SDK's
signing tool does, without the SDK. For tests and private vendors.
"""

from __future__ import annotations

import argparse
import datetime

from sgx_enclaves.cli.arguments import (
    add_output,
    add_sdk,
    chosen_generation,
    load_config,
    load_enclave,
)
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.compare import detect_generation, require_unsigned
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sign import load_key, sign
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

MODE = 0o777


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("enclave", metavar="UNSIGNED", help="the unsigned enclave")
    parser.add_argument("--config", metavar="XML", required=True, help="its config.xml")
    parser.add_argument("--key", metavar="PEM", required=True, help="private key")
    add_output(parser)
    parser.add_argument(
        "--date",
        type=datetime.date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="date in the signature; today (UTC) by default",
    )
    parser.add_argument(
        "--fips",
        action="store_true",
        help="add the FIPS signature that the config of SDK 2.24 cannot ask for",
    )
    add_sdk(parser)


def run(args: argparse.Namespace) -> int:
    """Write the signed enclave; 0 when done."""
    image = load_enclave(args.enclave)
    require_unsigned(image)
    key = load_key(read_file(args.key, DEFAULT_LIMITS.config_size), args.key)
    generation = chosen_generation(args) or detect_generation(image)
    regenerated = regenerate(image, load_config(args.config), generation, args.fips)
    date = args.date or datetime.datetime.now(datetime.timezone.utc).date()
    inputs = (args.enclave, args.config, args.key)
    write_output(args, sign(image, regenerated, key, date), *inputs, mode=MODE)
    out(
        f"{args.output}: signed as SDK {generation.name} would, "
        f"MRENCLAVE {regenerated.mrenclave.hex()}"
    )
    return 0
