# SPDX-License-Identifier: GPL-2.0-or-later
"""Check every signature of a signed enclave, or of a file that is one bare
SIGSTRUCT: well formed, valid, by the pinned signer, for the pinned product,
recent, and not for debug.

This says nothing about the enclave's bytes: see compare and measure.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from sgx_enclaves.cli.arguments import (
    POLICY_TYPES,
    chosen_policy,
    load_descriptor,
    load_enclave_or_sigstruct,
)
from sgx_enclaves.cli.output import out, out_json
from sgx_enclaves.enclave.metadata import Block, FipsSignature
from sgx_enclaves.enclave.policy import Policy, check_fips_signature, check_sigstruct, signer_name
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.enclave.verdict import Finding
from sgx_enclaves.errors import FormatError
from sgx_enclaves.plain import as_plain
from sgx_enclaves.report.text import finding_lines

ARGUMENTS = """\
FILE  a signed enclave, or a SIGSTRUCT of 1808 bytes
@policy
@json"""
TYPES = POLICY_TYPES


def run(args: argparse.Namespace) -> int:
    """Print what holds of each signature; 0 if all do."""
    policy = chosen_policy(args, args.file)
    results = [
        (sigstruct, _findings(sigstruct, fips, places, index, policy))
        for index, (sigstruct, fips, places) in enumerate(_signatures(args.file))
    ]
    if args.json:
        _print_json(args.file, results)
    else:
        for index, (sigstruct, findings) in enumerate(results):
            _print_one(index, sigstruct, findings)
        if policy.enclave == "le" and any(findings for _, findings in results):
            out(
                "note: the LE's production SIGSTRUCT is a file of its own, le_prod_css.bin; "
                "the one in its enclave is for tests"
            )
    return 1 if any(findings for _, findings in results) else 0


_Places = tuple[int, int]


def _signatures(path: str) -> list[tuple[Sigstruct, FipsSignature | None, _Places]]:
    """SIGSTRUCT, FIPS signature, and where both stand in the file."""
    image = load_enclave_or_sigstruct(path)
    if isinstance(image, Sigstruct):
        return [(image, None, (0, 0))]
    descriptor = load_descriptor(image)
    if not descriptor.is_signed:
        raise FormatError("the enclave is not signed", file=path, offset=image.descriptor_offset)
    found = []
    for block in descriptor.blocks:
        base = image.descriptor_offset + block.offset
        places = (base + Block.SIGSTRUCT_OFFSET, base + (block.fips_offset or 0))
        found.append((block.sigstruct, block.fips_signature, places))
    return found


def _findings(
    sigstruct: Sigstruct,
    fips: FipsSignature | None,
    places: _Places,
    index: int,
    policy: Policy,
) -> list[Finding]:
    findings = list(check_sigstruct(sigstruct, index, places[0]))
    if fips is not None:
        findings += check_fips_signature(fips, sigstruct, index, places[1])
    if not findings:
        findings = [
            replace(f, block=index, offset=places[0] + (f.offset or 0))
            for f in policy.check(sigstruct)
        ]
    return findings


def _print_one(index: int, sigstruct: Sigstruct, findings: list[Finding]) -> None:
    verdict = "refused" if findings else "valid"
    out(
        f"signature {index}: {verdict}, by {signer_name(sigstruct.mrsigner.hex())}, "
        f"{sigstruct.date_text}, ISVPRODID {sigstruct.isvprodid}, ISVSVN {sigstruct.isvsvn}, "
        f"{'debug' if sigstruct.is_debug else 'production'}"
    )
    for finding in findings:
        out(*(f"  {line}" for line in finding_lines(finding)))


def _print_json(path: str, results: list[tuple[Sigstruct, list[Finding]]]) -> None:
    signatures = [
        {
            "valid": not findings,
            "mrsigner": sigstruct.mrsigner.hex(),
            "mrenclave": sigstruct.enclavehash.hex(),
            "isvprodid": sigstruct.isvprodid,
            "isvsvn": sigstruct.isvsvn,
            "date": sigstruct.date_text,
            "debug": sigstruct.is_debug,
            "findings": as_plain(findings),
        }
        for sigstruct, findings in results
    ]
    out_json({"file": path, "signatures": signatures})
