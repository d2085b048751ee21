# SPDX-License-Identifier: GPL-2.0-or-later
"""Put the vendor's signatures on our build, with metadata regenerated from the
build and its config.xml. The result is verified before it is written; when
anything is wrong, nothing is written.
"""

from __future__ import annotations

import argparse
import os

from sgx_enclaves.cli.arguments import (
    POLICY_TYPES,
    chosen_catalogue,
    chosen_generation,
    chosen_policy,
)
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.enclave.graft import graft
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

ARGUMENTS = """\
built:BUILT  the unsigned enclave that we built
signatures:SIGNATURES  made by extract-signature
@config
@output
--fips  the vendor asked for the FIPS signature on the command line (SDK 2.24 only)
--release RELEASE  take signer, product id and least ISVSVN from this release of the catalogue
@catalogue
@sdk
@policy"""
TYPES = POLICY_TYPES
# Fedora ships enclaves executable; the umask takes the rest.
MODE = 0o777


def run(args: argparse.Namespace) -> int:
    """Write the signed enclave; 0 when it is identical to what the vendor signed."""
    limits = DEFAULT_LIMITS
    result, verdict = graft(
        read_file(args.built, limits.file_size),
        read_file(args.signatures, limits.file_size),
        read_file(args.config, limits.config_size),
        _policy(args),
        names=(args.built, args.signatures, args.config),
        generation=chosen_generation(args),
        fips=args.fips,
    )
    inputs = (args.built, args.signatures, args.config, *args.signer, *args.catalogue)
    write_output(args, result, *inputs, mode=MODE)
    out(f"{args.output}: verified, {len(result)} bytes, MRENCLAVE {verdict.mrenclave}")
    return 0


def _policy(args: argparse.Namespace) -> Policy:
    """What the release demands of the enclave that the output is named after, or the arguments."""
    if args.release is None:
        return chosen_policy(args, args.output)
    numbers = (args.isvprodid, args.min_isvsvn)
    if args.signer or args.enclave or args.allow_debug or any(n is not None for n in numbers):
        raise InputError("a release decides who must have signed", hint="drop --release, or those")
    from sgx_enclaves.catalogue.records import policy_of  # noqa: PLC0415

    release = chosen_catalogue(args).release(args.release)
    name = os.path.basename(args.output)
    for enclave in release.enclaves:
        if enclave.signed_file == name:
            return policy_of(enclave)
    raise InputError(
        f"{release.name} has no enclave of this name",
        file=args.output,
        expected=" or ".join(enclave.signed_file for enclave in release.enclaves),
    )
