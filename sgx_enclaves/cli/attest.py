# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb attest."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Optional

from sgx_enclaves.cli.arguments import asking, chosen_passphrase
from sgx_enclaves.cli.declare import verb
from sgx_enclaves.cli.output import out, write_output
from sgx_enclaves.errors import SigningError
from sgx_enclaves.evidence.envelope import (
    Envelope,
    Key,
    Signer,
    load_key,
    load_signing_key,
    signed,
)
from sgx_enclaves.evidence.report import MAX_REPORT, read_beside, read_report
from sgx_enclaves.evidence.statements import TOOL, enveloped, read_bundle, statements_of
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS


@verb("""\
report:REPORT  report.json of a directory that --report wrote; or an attestation
^--key PEM  private key: Ed25519, or ECDSA on P-256, P-384 or P-521
^--sign-with COMMAND  run this command: it gets the bytes to sign on standard input, and
  writes the raw signature to standard output; no shell sees it
--public-key FILE  with --sign-with: whose key it is
--passphrase-file FILE  the passphrase of an encrypted key, in its first line
--builder URI  who built and verified, as the statements name it
@output""")
def attest(args: argparse.Namespace) -> int:
    """Sign what a report says, as in-toto statements in DSSE envelopes, one a line:
    how the unsigned enclaves were built (SLSA provenance), that each signed file is
    such a build plus a signature (equivalence), and the same in short for programs
    that know nothing of enclaves (simple verification result).

    A report supports the first one only if its run built the enclaves. An attestation
    in the place of the report gets one signature more in each envelope: read what it
    says before you sign it. Without a key the statements are written bare, for an
    OpenPGP signature beside them:

      sgx-enclaves attest DIR/report.json -o ATTESTATION
      gpg --armor --detach-sign ATTESTATION
    """
    data = read_file(args.report, MAX_REPORT)
    if b'"payloadType"' in data[: data.find(b"\n")]:
        envelopes = read_bundle(data, args.report)
    else:
        envelopes = _of_report(args, data)
    chosen = _signer(args)
    if chosen is not None:
        lines = [signed(envelope, *chosen).as_json() for envelope in envelopes]
    else:
        lines = [envelope.payload.decode() for envelope in envelopes]
    text = "".join(f"{line}\n" for line in lines)
    inputs = (args.report, args.key, args.public_key, args.passphrase_file)
    write_output(args, text.encode(), *filter(None, inputs))
    by = f"signed by key {chosen[0].keyid}" if chosen is not None else "not signed"
    out(f"{args.output}: {len(lines)} statement{'s' if len(lines) != 1 else ''}, {by}")
    return 0


def _of_report(args: argparse.Namespace, data: bytes) -> list[Envelope]:
    report = read_report(data, args.report)
    head = read_beside(Path(args.report).parent, report, data)
    made = statements_of(
        report,
        hashlib.sha256(data).hexdigest(),
        builder=args.builder or TOOL,
        time=str(head["made_at"]),
    )
    return [enveloped(statement) for statement in made]


def _signer(args: argparse.Namespace) -> Optional[tuple[Key, Signer]]:
    if args.key is not None:
        pem = read_file(args.key, DEFAULT_LIMITS.config_size)
        return load_signing_key(pem, args.key, chosen_passphrase(args, pem))
    if args.sign_with is None:
        return None
    if args.public_key is None:
        raise SigningError("--sign-with needs --public-key", hint="name the signer's own key")
    public = read_file(args.public_key, DEFAULT_LIMITS.config_size)
    return load_key(public, args.public_key), asking(args.sign_with)
