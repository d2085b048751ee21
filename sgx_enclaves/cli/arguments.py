# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import re
from typing import Optional

from sgx_enclaves.errors import InputError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.signing.generation import Generation, generation_named
from sgx_enclaves.verdict.known import PINS, Pin, pin_for_file, pin_named
from sgx_enclaves.verdict.policy import Policy, policy_for

_MRSIGNER = re.compile(r"[0-9a-fA-F]{64}\Z")


def number(text: str) -> int:
    """A decimal or 0x-hexadecimal number for argparse."""
    return int(text, 0)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Who must have signed, as what."""
    group = parser.add_argument_group("who must have signed")
    group.add_argument(
        "--enclave",
        metavar="NAME",
        choices=[pin.enclave for pin in PINS],
        help="which of Intel's enclaves this is: "
        + ", ".join(pin.enclave for pin in PINS)
        + "; by default its file name tells",
    )
    group.add_argument(
        "--signer",
        metavar="MRSIGNER|PEM",
        action="append",
        default=[],
        help="accept this signer instead of Intel: MRSIGNER in hexadecimal, or a file "
        "with its key; may be repeated",
    )
    group.add_argument("--isvprodid", type=number, metavar="N", help="require this product id")
    group.add_argument("--min-isvsvn", type=number, metavar="N", help="accept ISVSVN from N on")
    group.add_argument("--allow-debug", action="store_true", help="accept debug signatures")


def add_sdk(parser: argparse.ArgumentParser) -> None:
    """`--sdk`."""
    parser.add_argument(
        "--sdk",
        metavar="X.Y",
        help="the SDK release whose signing tool was used; by default the enclave tells",
    )


def chosen_generation(args: argparse.Namespace) -> Optional[Generation]:
    """The generation named with `--sdk`, or None.

    Raises:
        UnsupportedError: an unknown SDK.
    """
    return None if args.sdk is None else generation_named(args.sdk)


def chosen_policy(args: argparse.Namespace, signed_path: str) -> Policy:
    """The policy that the arguments and the file's name ask for.

    Raises:
        InputError: a signer that is neither MRSIGNER nor a readable key.
    """
    pin: Optional[Pin] = pin_named(args.enclave) if args.enclave else pin_for_file(signed_path)
    return policy_for(
        pin,
        mrsigners=[_mrsigner(text) for text in args.signer],
        isvprodid=args.isvprodid,
        min_isvsvn=args.min_isvsvn,
        allow_debug=args.allow_debug,
    )


def _mrsigner(text: str) -> str:
    if _MRSIGNER.match(text):
        return text.lower()
    from sgx_enclaves.signing.sign import mrsigner_of_pem  # noqa: PLC0415

    try:
        pem = read_file(text, DEFAULT_LIMITS.config_size)
    except InputError as error:
        raise InputError(
            "neither an MRSIGNER nor a readable key file",
            file=text,
            expected="64 hexadecimal digits, or a PEM file",
            found=error.message,
        ) from None
    return mrsigner_of_pem(pem, text).hex()
