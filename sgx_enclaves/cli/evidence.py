# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs by which others check a verdict: a report again, signed statements, the ledger."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.reader import OWN_FOLDER, USER_FOLDER, read_release_file
from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli import arguments, output, sign
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import RPM_MAGIC
from sgx_enclaves.enclave.sign import Signer, unsigned
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.evidence import ledger as entries, recheck as checking, statements
from sgx_enclaves.evidence.envelope import Key, load_key, load_signing_key
from sgx_enclaves.evidence.report import MAX_REPORT, REPORT, Plain, read_beside, read_report
from sgx_enclaves.files import open_regular, read_file, sha256_of, system_errors, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB


def recheck(args: argparse.Namespace) -> int:
    file = _report_at(args.report)
    report = read_report(read_file(file, MAX_REPORT), file)
    at_hand = _files_at_hand([*args.signed, *args.built, *args.config])
    digest = (report["release"] or {}).get("sha256")
    files = checking.Files(*at_hand, digest and _described(args, digest))
    checked = list(checking.recheck(report, files))
    states = [item["state"] for item in checked]
    status = 1 if checking.FAILS in states else 0 if checking.HOLDS in states else 2
    output.answer(args, {"exit_status": status, "statements": checked}, "recheck.txt")
    return status


def _report_at(path: str) -> str:
    """The report in a directory; what is no directory is the report."""
    return f"{path}/{REPORT}" if os.path.isdir(path) else path


def _described(args: argparse.Namespace, digest: str) -> Optional[Release]:
    """The release whose description has that SHA-256, if it is here."""
    for folder in map(Path, (OWN_FOLDER, USER_FOLDER, *args.catalogue)):
        for file in sorted(folder.glob("*.toml")) if folder.is_dir() else (folder,):
            if file.is_file() and sha256_of(read_file(str(file), MIB)) == digest:
                return read_release_file(file)
    return None


def _files_at_hand(paths: list[str]) -> tuple[dict[str, bytes], dict[str, Plain]]:
    contents: dict[str, bytes] = {}
    packages: dict[str, Plain] = {}
    for path in paths:
        start = b""
        if path != "-":
            reading = system_errors(path, "cannot be read", hint="check path and rights")
            with reading, open_regular(path) as stream:
                start = stream.read(len(RPM_MAGIC))
        if start == RPM_MAGIC:
            packages[Path(path).name], enclaves = checking.files_of_package(path)
            contents.update(enclaves)
        else:
            data = read_file(path, DEFAULT_LIMITS.file_size)
            contents[sha256_of(data)] = data
    return contents, packages


def attest(args: argparse.Namespace) -> int:
    args.report = _report_at(args.report)
    data = read_file(args.report, MAX_REPORT)
    if data[: data.find(b"\n")].endswith(b"}"):
        envelopes = statements.read_bundle(data, args.report, bare=True)
        for envelope in envelopes:
            statements.read_statement(envelope, args.report)
    else:
        report, digest = read_report(data, args.report), sha256_of(data)
        time = read_beside(Path(args.report).parent, report, data)["made_at"]
        builder = args.builder or statements.TOOL
        made = statements.statements_of(report, digest, builder=builder, time=time)
        envelopes = [statements.enveloped(statement) for statement in made]
    key, signer = _signer(args)
    keyid = key.keyid if key is not None else None
    by = f"signed by key {keyid}" if keyid is not None else "not signed"
    says = f"{args.output}: {len(envelopes)} statement{'s'[len(envelopes) == 1 :]}, {by}"
    facts = output.write_output(args, statements.attestation(envelopes, key, signer))
    output.answer(args, {**facts, "statements": len(envelopes), "keyid": keyid}, [says])
    return 0


def _signer(args: argparse.Namespace) -> tuple[Optional[Key], Signer]:
    if args.key is not None:
        pem = arguments.read_small(args.key)
        return load_signing_key(pem, args.key, sign.chosen_passphrase(args, pem))
    if args.sign_with is None:
        return None, bytes
    signer = sign.asking(args)
    return load_key(arguments.read_small(args.public_key), args.public_key), signer


def verify_attestation(args: argparse.Namespace) -> int:
    found = statements.trusted(args.attestations, args.key, args.keyring)
    digests = statements.agreed(found, args.threshold)
    status = int(any(item.verdict not in (None, "identical") for item in found))
    files = []
    for path in args.file:
        data = read_file(path, 512 * MIB)
        signers = sorted(statements.signers_for(found, sha256_of(data)))
        enough = len(signers) >= args.threshold
        status = max(status, not enough)
        about = {"file": path, "vouched_for": enough, "signers": signers, "only_unsigned": False}
        with contextlib.suppress(SgxEnclavesError):
            digest = sha256_of(unsigned(EnclaveImage.parse(data, path)))
            about["only_unsigned"] = not enough and digest in digests.values()
        files.append(about)
    vouched = [
        {"file": v.file, "kind": v.kind, "signers": sorted(v.signers), "statement": v.statement}
        for v in found
    ]
    plain = {"exit_status": status, "statements": vouched, "unsigned": digests, "files": files}
    output.answer(args, plain, "attestation.txt", found=found, unsigned=digests, files=files)
    return status


def ledger(args: argparse.Namespace) -> int:
    data = b""
    if args.action == "lint" or os.path.lexists(args.ledger):
        data = read_file(args.ledger, entries.MAX_LEDGER)
    kept = entries.read_ledger(data, args.ledger)
    if (args.action == "lint") == bool(args.attestation):
        raise InputError("add takes attestations, and lint takes none")
    if args.action == "lint":
        problems = list(entries.lint(kept))
        line = "{line}: {enclave}: {message} (line {earlier}) [{code}]"
        lines = [f"{args.ledger}:{line.format(**problem)}" for problem in problems]
        output.answer(args, {"entries": len(kept), "problems": problems}, lines)
        return 1 if problems else 0
    trusted = statements.trusted(args.attestation, args.key, args.keyring)
    statements.agreed(trusted, args.threshold)
    known = set(map(entries.line_of, kept))
    found = {entries.line_of(entry): entry for entry in entries.entries_of(trusted)}
    new = {line: entry for line, entry in found.items() if line not in known}
    if new:
        write_file(args.ledger, data + "".join(f"{line}\n" for line in new).encode())
    plain = {"entries": len(kept) + len(new), "added": list(new.values())}
    output.answer(args, plain, [f"{args.ledger}: {len(new)} added, {plain['entries']} in all"])
    return 0
