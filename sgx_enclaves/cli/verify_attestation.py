# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb verify-attestation."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Optional

from sgx_enclaves.cli.declare import verb
from sgx_enclaves.cli.output import out, out_json
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.sign import unsigned
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.evidence.envelope import MAX_ENVELOPE, load_key
from sgx_enclaves.evidence.statements import EQUIVALENCE, Vouched, agreed, vouched, vouchers
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB

_MAX_FILE = 512 * MIB


@verb("""\
attestations:ATTESTATION+  what attest wrote, of as many rebuilders as there are
--key FILE*  accept this signer: a public key or a certificate; may be repeated
--keyring FILE  accept OpenPGP signatures by these keys, in ATTESTATION.asc or .sig (needs gpgv)
--threshold N (1)  how many different signers must name the same unsigned enclaves
--file FILE*  an enclave or a package that the attestations must speak of; may be repeated
@json""")
def verify_attestation(args: argparse.Namespace) -> int:
    """Is an attestation signed by somebody whom you trust, and do enough signers name
    the same unsigned enclaves? Rebuilders may have different reports; what they must
    have in common is the SHA-256 of each unsigned enclave.

    With --file, also: do they speak of that file? It may be an unsigned enclave, a
    signed one (then the unsigned one in it counts, too), or a package.

    Exit status: 0 signed as demanded, and every verdict in it is identical; 1 signed,
    but a verdict is another, or nobody speaks of a file; 2 malformed, a bad signature,
    too few signers, or signers who disagree.
    """
    found = trusted(args.attestations, args.key, args.keyring)
    if args.threshold < 1:
        raise InputError("a threshold is at least 1", found=str(args.threshold))
    digests = agreed(found, args.threshold)
    status = 0
    lines, files = [], []
    for item in found:
        verdict = None
        if item.statement["predicateType"] == EQUIVALENCE:
            verdict = item.statement["predicate"]["verdict"]
            status = max(status, verdict != "identical")
        words = f" ({verdict})" if verdict is not None else ""
        lines.append(
            f"{item.file}: {item.kind}{words}, signed by {', '.join(sorted(item.signers))}"
        )
    lines += [f"{name}: unsigned enclave {digest}" for name, digest in digests.items()]
    for path in args.file:
        by = _vouchers(path, found)
        enough = len(by) >= args.threshold
        status = max(status, not enough)
        files.append({"file": path, "vouched_for": enough, "signers": sorted(by)})
        lines.append(
            f"{path}: {'vouched for' if enough else 'NOT vouched for'} by {len(by)} signers"
        )
    if args.json:
        statements = [
            {"file": v.file, "kind": v.kind, "signers": sorted(v.signers), "statement": v.statement}
            for v in found
        ]
        out_json(
            {"exit_status": status, "statements": statements, "unsigned": digests, "files": files}
        )
    else:
        out(*lines)
    return status


def trusted(paths: list[str], keys: list[str], keyring: Optional[str]) -> list[Vouched]:
    """The statements of attestations, each signed by one of the keys.

    Raises:
        SgxEnclavesError: a file cannot be read or is malformed, or a signature is not as demanded.
    """
    loaded = [load_key(read_file(path, DEFAULT_LIMITS.config_size), path) for path in keys]
    if not loaded and keyring is None:
        raise InputError("nobody is trusted", hint="name a key with --key or --keyring")
    ring = read_file(keyring, MIB) if keyring is not None else None
    found = []
    for path in paths:
        beside = [f"{path}{end}" for end in (".asc", ".sig") if Path(f"{path}{end}").exists()]
        signature = read_file(beside[0], MIB) if beside else None
        data = read_file(path, MAX_ENVELOPE)
        found += vouched(data, path, loaded, keyring=ring, signature=signature)
    return found


def _vouchers(path: str, found: list[Vouched]) -> frozenset[str]:
    data = read_file(path, _MAX_FILE)
    by = vouchers(found, hashlib.sha256(data).hexdigest())
    if data[:4] == ELF_MAGIC:
        try:
            bare = unsigned(EnclaveImage.parse(data, path))
        except SgxEnclavesError:
            return by
        by |= vouchers(found, hashlib.sha256(bare).hexdigest())
    return by
