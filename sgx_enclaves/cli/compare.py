# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that read enclave files, and the reports on a comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional, TextIO

from sgx_enclaves.cli import arguments, output
from sgx_enclaves.enclave.elf_headers import RPM_MAGIC
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.enclave.policy import signer_name
from sgx_enclaves.enclave.sigstruct import Sigstruct, check_fips_signature, check_sigstruct, placed
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import read_file, write_files
from sgx_enclaves.limits import DEFAULT_LIMITS, NO_LIMITS, measuring_limits
from sgx_enclaves.plain import as_plain
from sgx_enclaves.progress import Event, elapsed
from sgx_enclaves.report import forms

if TYPE_CHECKING:
    from sgx_enclaves.enclave.sigstruct import FipsSignature
    from sgx_enclaves.enclave.verdict import Verdict
    from sgx_enclaves.explain.picture import Picture

# diffoscope takes about 11 s for a 2 MB enclave; a debug build takes minutes.
DIFFOSCOPE_SECONDS = 600.0


def compare(args: argparse.Namespace) -> int:
    from sgx_enclaves.enclave.compare import compare as compare_files

    output.check_report(args)
    built = read_file(args.built, DEFAULT_LIMITS.file_size)
    signed = read_file(args.signed, DEFAULT_LIMITS.file_size)
    config = read_file(args.config, DEFAULT_LIMITS.config_size)
    for path, data in ((args.built, built), (args.signed, signed)):
        if data.startswith(RPM_MAGIC):
            hint = f"`sgx-enclaves check-rpm` looks into it: check-rpm {path} --reference DIR"
            raise InputError("an RPM package, and no enclave", file=path, hint=hint)
    symbols = read_file(args.symbols, DEFAULT_LIMITS.file_size) if args.symbols else None
    with elapsed(output.progress(), f"comparing {args.signed}"):
        verdict = compare_files(
            built,
            signed,
            config,
            arguments.chosen_policy(args, args.signed),
            names=(args.built, args.signed, args.config),
            generation=args.sdk,
        )
        if verdict.exit_status:
            # Costs start-up time, and is needed only when something is wrong.
            from sgx_enclaves.explain.explain import explained

            verdict = explained(verdict, built, signed, config, symbols=symbols)
    if args.json:
        output.out_json(forms.verdict_dict(verdict))
    else:
        output.out_report(forms.verdict_text(verdict, width=output.width(), full=args.verbose))
    if args.report is not None:
        from sgx_enclaves.evidence.report import of_comparison, write_report

        write_reports(verdict, args.report, built, signed)
        write_report(args.report, of_comparison(verdict))
        output.open_page(args, args.report / "verdict.html")
    if args.diffoscope and verdict.exit_status:
        output.flush()
        problem = run_diffoscope(args.built, args.signed, sys.stderr if args.json else None)
        if problem:
            output.message(problem)
    return verdict.exit_status


def run_diffoscope(built: str, signed: str, out: Optional[TextIO] = None) -> str:
    """Let diffoscope print its comparison of two files; returns why it has not, if so."""
    import subprocess

    # file names are never taken for options
    command = ["diffoscope", "--text=-", "--", built, signed]
    most = DIFFOSCOPE_SECONDS
    try:
        status = subprocess.run(command, check=False, timeout=most, stdout=out).returncode  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"diffoscope was stopped after {most:g} seconds; run it by hand to wait longer"
    except OSError as error:
        return f"diffoscope cannot be started: {error.strerror}; install the package diffoscope"
    return "" if status in (0, 1) else f"diffoscope failed with exit status {status}"


def write_reports(verdict: Verdict, folder: Path, built: bytes, signed: bytes) -> Picture:
    """Write the verdict on two files as text, JSON and HTML; returns what the page draws."""
    import json

    from sgx_enclaves.explain.picture import picture_of
    from sgx_enclaves.report.templated import verdict_html

    picture = picture_of(verdict, built, signed)
    texts = {
        "verdict.txt": forms.verdict_text(verdict, full=True),
        "verdict.json": json.dumps(forms.verdict_dict(verdict), indent=2),
        "verdict.html": verdict_html(verdict, picture, arguments.today().isoformat()),
    }
    write_files(folder, {name: f"{text}\n".encode() for name, text in texts.items()})
    return picture


def show(args: argparse.Namespace) -> int:
    from sgx_enclaves.explain.description import describe_file
    from sgx_enclaves.report.templated import show_html

    output.check_open(args, "html")
    file = args.enclave
    image = arguments.load_enclave_or_sigstruct(file)
    if isinstance(image, Sigstruct):
        if args.html is not None:
            raise InputError("a SIGSTRUCT alone has no picture", file=file, hint="name the enclave")
        plain = {"file": file, "sigstruct": forms.sigstruct_dict(image)}
        output.answer(args, plain, "show.txt", file=file, image=image)
        return 0
    parts = (image, arguments.load_descriptor(image), describe_file(image.data, image.name))
    page = None if args.html is None else show_html(*parts)
    values = dict(zip(("image", "descriptor", "description"), parts))
    output.answer(args, forms.show_dict(*parts), "show.txt", **values)
    if page is not None:
        args.output = args.html
        output.write_output(args, page.encode())
        output.open_page(args, Path(args.html))
    return 0


def measure(args: argparse.Namespace) -> int:
    image = arguments.load_enclave(args.enclave)
    descriptor = arguments.load_descriptor(image)
    if descriptor.is_signed == (args.config is not None):
        mistake = "an unsigned enclave is measured with its config.xml"
        hint = "name it with --config"
        if descriptor.is_signed:
            mistake = "the enclave is signed, its own metadata say how it is loaded"
            hint = "drop --config"
        raise InputError(mistake, file=args.enclave, hint=hint)
    blocks = descriptor.blocks
    limits = NO_LIMITS if args.no_limit else measuring_limits(len(image.data), len(blocks))
    if args.config is not None:
        from sgx_enclaves.cli.sign import regenerated

        would = regenerated(args, image, limits=limits)
        sdk, ours = would.generation.name, would.mrenclave.hex()
        plain = {"file": args.enclave, "sdk": sdk, "mrenclave": ours}
        output.answer(args, plain, [f"{ours}  as SDK {sdk} would sign it"])
        return 0
    bar = output.progress()
    results, lines = [], []
    for index, block in enumerate(blocks):
        ours = mrenclave(image, block, limits, lambda *at: bar(Event("measure", *at))).hex()
        signed = block.sigstruct.enclavehash.hex()
        about = {"metadata": str(block.version), "mrenclave": ours, "enclavehash": signed}
        results.append({**about, "match": ours == signed})
        said = "as signed" if ours == signed else f"but signed for {signed}"
        lines.append(f"{ours}  block {index}, metadata {block.version}, {said}")
    output.answer(args, {"file": args.enclave, "blocks": results}, lines)
    return 0 if all(result["match"] for result in results) else 1


def verify_signature(args: argparse.Namespace) -> int:
    policy = arguments.chosen_policy(args, args.file)
    signatures: list[dict[str, object]] = []
    lines = []
    for index, (sigstruct, fips, at, fips_at) in enumerate(_signatures(args.file)):
        findings = list(check_sigstruct(sigstruct, index, at))
        if fips is not None:
            findings += check_fips_signature(fips, sigstruct, index, fips_at)
        findings = findings or [placed(f, index, at) for f in policy.check(sigstruct)]
        mrsigner = sigstruct.mrsigner.hex()
        facts = {
            "valid": not findings,
            "mrsigner": mrsigner,
            "mrenclave": sigstruct.enclavehash.hex(),
            "isvprodid": sigstruct.isvprodid,
            "isvsvn": sigstruct.isvsvn,
            "date": sigstruct.date_text,
            "debug": sigstruct.is_debug,
        }
        signatures.append({**facts, "findings": as_plain(findings)})
        lines.append(
            f"signature {index}: {'refused' if findings else 'valid'}, by {signer_name(mrsigner)}, "
            f"{sigstruct.date_text}, ISVPRODID {sigstruct.isvprodid}, ISVSVN {sigstruct.isvsvn}, "
            f"{'debug' if sigstruct.is_debug else 'production'}"
        )
        notes = policy.identity.notes(sigstruct) if policy.identity is not None else ()
        lines += [f"  {line}" for f in (*findings, *notes) for line in forms.finding_lines(f)]
    refused = any(not facts["valid"] for facts in signatures)
    if policy.enclave == "le" and refused:
        lines.append(
            "note: the LE's production SIGSTRUCT is a file of its own, le_prod_css.bin; "
            "the one in its enclave is for tests"
        )
    output.answer(args, {"file": args.file, "signatures": signatures}, lines)
    return int(refused)


def _signatures(path: str) -> Iterator[tuple[Sigstruct, Optional[FipsSignature], int, int]]:
    """SIGSTRUCT, FIPS signature, and where each stands in the file."""
    image = arguments.load_enclave_or_sigstruct(path)
    if isinstance(image, Sigstruct):
        yield image, None, 0, 0
        return
    for block in arguments.load_descriptor(image, signed=True).blocks:
        base = image.descriptor_offset + block.offset
        fips_at = base + (block.fips_offset or 0)
        yield block.sigstruct, block.fips_signature, base + Block.SIGSTRUCT_OFFSET, fips_at
