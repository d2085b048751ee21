# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that put signatures on enclaves and take them off."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import shlex
import subprocess
import sys
from typing import Any, Optional

from sgx_enclaves.cli import arguments, output
from sgx_enclaves.enclave import sign as signing
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage, require_loadable
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import candidate_generations
from sgx_enclaves.errors import FormatError, InputError, SigningError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS

# Fedora ships enclaves executable; the umask takes the rest.
MODE = 0o777
# Defects that are signed on purpose.
_IGNORABLE = ("--ignore-init-section", "--ignore-text-relocations")
# A signing service may ask a person.
_SIGNING_SECONDS = 600


def sign(args: argparse.Namespace) -> int:
    image, regenerated = _prepared(args)
    if args.sign_with is None:
        if args.key.startswith(("pkcs11:", "engine:")):
            hint = "name the command that signs with --sign-with, or use sign-data and attach"
            raise InputError("a key in a token is not read", file=args.key, hint=hint)
        pem = arguments.read_small(args.key)
        key = signing.load_key(pem, args.key, chosen_passphrase(args, pem))
        signed = signing.sign(image, regenerated, key, args.date)
    else:
        signer = asking(args, digest=args.sign_digest)
        public = signing.load_public_key(arguments.read_small(args.public_key), args.public_key)
        signed = signing.sign_with(image, regenerated, public, signer, signing.bcd_date(args.date))
    sdk, ours = regenerated.generation.name, regenerated.mrenclave.hex()
    says = f"{args.output}: signed as SDK {sdk} would, MRENCLAVE {ours}"
    facts = output.write_output(args, signed, MODE)
    output.answer(args, {**facts, "sdk": sdk, "mrenclave": ours}, [says])
    return 0


def sign_data(args: argparse.Namespace) -> int:
    _, regenerated = _prepared(args)
    data = signing.signing_data(regenerated, signing.bcd_date(args.date))
    first = regenerated.blocks[0].sigstruct
    sdk, ours = regenerated.generation.name, regenerated.mrenclave.hex()
    facts = output.write_output(args, data)
    facts |= {"enclave": args.enclave, "date": args.date.isoformat(), "sdk": sdk}
    facts |= {"mrenclave": ours, "isvprodid": first.isvprodid, "isvsvn": first.isvsvn}
    output.answer(args, {**facts, "debug": first.is_debug}, "sign-data.txt")
    return 0


def attach(args: argparse.Namespace) -> int:
    image, regenerated = _prepared(args)
    public = signing.load_public_key(arguments.read_small(args.public_key), args.public_key)
    signature = arguments.read_small(args.signature)
    date = signing.bcd_date(args.date)
    if args.data is not None:
        data = arguments.read_small(args.data)
        date = signing.date_of_signing_data(data, args.data)
        if signing.signing_data(regenerated, date) != data:
            message = "other data than this enclave's were signed"
            hint = "is it the same enclave, config.xml and SDK?"
            raise SigningError(message, file=args.data, hint=hint)
    signed = signing.sign_with(image, regenerated, public, lambda _: signature, date)
    ours = regenerated.mrenclave.hex()
    facts = output.write_output(args, signed, MODE)
    says = f"{args.output}: signed, MRENCLAVE {ours}"
    output.answer(args, {**facts, "mrenclave": ours}, [says])
    return 0


def unsign(args: argparse.Namespace) -> int:
    image = arguments.load_enclave(args.enclave)
    arguments.load_descriptor(image, signed=True)
    facts = output.write_output(args, signing.unsigned(image), MODE)
    says = f"{args.output}: {facts['size']} bytes, sha256 {facts['sha256']}"
    output.answer(args, facts, [says])
    return 0


def extract_signature(args: argparse.Namespace) -> int:
    image = arguments.load_enclave(args.enclave)
    signatures = signing.extract(arguments.load_descriptor(image, signed=True))
    data = b"".join(s.serialise() for s in signatures)
    facts = {**output.write_output(args, data), "signatures": len(signatures)}
    says = f"{args.output}: {len(signatures)} signature(s), {len(data)} bytes"
    output.answer(args, facts, [says])
    return 0


def graft(args: argparse.Namespace) -> int:
    result, verdict = signing.graft(
        read_file(args.built, DEFAULT_LIMITS.file_size),
        read_file(args.signatures, DEFAULT_LIMITS.file_size),
        read_file(args.config, DEFAULT_LIMITS.config_size),
        _policy(args),
        names=(args.built, args.signatures, args.config),
        generation=args.sdk,
        fips=args.fips,
    )
    says = f"{args.output}: verified, {len(result)} bytes, MRENCLAVE {verdict.mrenclave}"
    facts = output.write_output(args, result, MODE)
    output.answer(args, {**facts, "mrenclave": verdict.mrenclave}, [says])
    return 0


def _prepared(args: argparse.Namespace) -> tuple[EnclaveImage, Regenerated]:
    """The unsigned enclave of `@signing`, and the metadata that the tool would write."""
    args.date = args.date or arguments.today()
    image = arguments.load_enclave(args.enclave)
    if any(image.descriptor):
        raise FormatError(
            "the enclave is already signed",
            file=args.enclave,
            offset=image.descriptor_offset,
            hint="`sgx-enclaves unsign` takes its signature off",
        )
    ignored = {o for o in _IGNORABLE if getattr(args, o[2:].replace("-", "_"))}
    require_loadable(image, frozenset(ignored))
    return image, regenerated(args, image, fips=args.fips)


def _policy(args: argparse.Namespace) -> Policy:
    """What the release demands of the enclave, named or the output's name; or the arguments."""
    if args.release is None:
        return arguments.chosen_policy(args, args.output)
    numbers = (args.isvprodid, args.min_isvsvn)
    lifted = args.any_product or args.allow_debug or args.any_file
    if args.signer or lifted or any(n is not None for n in numbers):
        raise InputError("a release decides who must have signed", hint="drop --release, or those")
    from sgx_enclaves.catalogue.records import policy_of
    from sgx_enclaves.cli.releases import chosen_release

    _, release = chosen_release(args)
    name = args.enclave or os.path.basename(args.output)
    enclaves = {e.name if args.enclave else e.signed_file: e for e in release.enclaves}
    if name in enclaves:
        return policy_of(enclaves[name])
    message = f"{release.name} has no enclave of this name"
    expected = " or ".join(enclaves)
    raise InputError(message, file=name, expected=expected, hint="name one with --enclave")


def regenerated(args: argparse.Namespace, image: EnclaveImage, **how: Any) -> Regenerated:
    """The metadata that the signing tool would write, by `--config` and `--sdk`."""
    config = Config.parse(arguments.read_small(args.config), args.config)
    return regenerate(image, config, candidate_generations(image, args.sdk)[0], **how)


def chosen_passphrase(args: argparse.Namespace, pem: bytes) -> Optional[bytes]:
    """Of an encrypted `--key`: from `--passphrase-file`, or asked for on a terminal."""
    if not signing.needs_passphrase(pem):
        return None
    if args.passphrase_file is not None:
        return arguments.read_small(args.passphrase_file).partition(b"\n")[0]
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass(f"passphrase of {args.key}: ").encode()
    return None


def asking(args: argparse.Namespace, *, digest: bool = False) -> signing.Signer:
    """The signer that `--sign-with` names, a command: the message, or its SHA-256, on its standard
    input, a raw signature back. It is split as a shell does, and run without one.
    """
    if args.public_key is None:
        raise SigningError("--sign-with needs --public-key", hint="name the signer's own key")

    def signer(message: bytes) -> bytes:
        given = hashlib.sha256(message).digest() if digest else message
        try:
            ended = subprocess.run(  # noqa: S603 - the user names it, and no shell sees it
                shlex.split(args.sign_with),
                input=given,
                stdout=subprocess.PIPE,
                timeout=_SIGNING_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            problem = f"the signing command cannot be run: {error}"
            raise SigningError(problem, hint="correct --sign-with") from None
        if ended.returncode:
            raise SigningError(
                "the signing command failed",
                expected="status 0",
                found=f"status {ended.returncode}",
                hint="see what it wrote above",
            )
        return ended.stdout

    return signer
