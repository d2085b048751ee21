# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that read one enclave file: show, measure, verify-signature."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from sgx_enclaves.cli.arguments import (
    chosen_generation,
    chosen_policy,
    load_config,
    load_descriptor,
    load_enclave,
    load_enclave_or_sigstruct,
    load_signed_descriptor,
)
from sgx_enclaves.cli.declare import verb
from sgx_enclaves.cli.output import (
    answer,
    answer_report,
    check_open,
    open_page,
    out,
    out_json,
    progress,
    write_output,
)
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block
from sgx_enclaves.enclave.policy import Policy, signer_name
from sgx_enclaves.enclave.sigstruct import (
    FipsSignature,
    Sigstruct,
    check_fips_signature,
    check_sigstruct,
    placed,
)
from sgx_enclaves.enclave.verdict import Finding
from sgx_enclaves.errors import InputError
from sgx_enclaves.limits import NO_LIMITS, measuring_limits
from sgx_enclaves.plain import as_plain
from sgx_enclaves.progress import Event


@verb("""\
enclave:FILE  a signed or an unsigned enclave, or one bare SIGSTRUCT
--html PAGE  also write a page with pictures: segments, address space, signature
@open
--force  replace the page if there is one already
@json""")
def show(args: argparse.Namespace) -> int:
    """Print what an enclave file says about itself: segments, metadata blocks,
    signatures, layout and patches. Nothing is verified here.
    """
    from sgx_enclaves.explain.description import describe_file
    from sgx_enclaves.report.as_json import show_dict, sigstruct_dict
    from sgx_enclaves.report.templated import filled, show_html

    check_open(args, "html")
    image = load_enclave_or_sigstruct(args.enclave)
    page = ""
    if isinstance(image, Sigstruct):
        if args.html is not None:
            raise InputError(
                "a SIGSTRUCT alone has no picture", file=args.enclave, hint="name the enclave"
            )
        plain: dict[str, object] = {"file": args.enclave, "sigstruct": sigstruct_dict(image)}
        values: dict[str, object] = {"file": args.enclave, "image": image}
    else:
        descriptor = load_descriptor(image)
        description = describe_file(image.data, image.name)
        plain = show_dict(image, descriptor, description)
        values = {"image": image, "descriptor": descriptor, "description": description}
        if args.html is not None:
            page = show_html(image, descriptor, description)
    answer_report(args, plain, lambda: filled("show.txt", **values))
    if args.html is not None:
        args.output = args.html
        write_output(args, page.encode(), args.enclave)
        open_page(args, Path(args.html))
    return 0


@verb("""\
enclave:FILE  the enclave
--config XML  config.xml of an unsigned enclave
--no-limit  measure it however long that takes
@sdk
@json""")
def measure(args: argparse.Namespace) -> int:
    """Recompute MRENCLAVE: of each metadata block of a signed enclave, or of an
    unsigned enclave with its config.xml.

    Exit status 1 when a block of a signed enclave was signed for another MRENCLAVE.
    """
    image = load_enclave(args.enclave)
    descriptor = load_descriptor(image)
    if descriptor.is_signed == (args.config is not None):
        signed = (
            ("the enclave is signed, its own metadata say how it is loaded", "drop --config")
            if descriptor.is_signed
            else ("an unsigned enclave is measured with its config.xml", "name it with --config")
        )
        raise InputError(signed[0], file=args.enclave, hint=signed[1])
    limits = measuring_limits(len(image.data), len(descriptor.blocks))
    if args.no_limit:
        limits = NO_LIMITS
    if args.config is not None:
        from sgx_enclaves.enclave.regenerate import regenerate
        from sgx_enclaves.enclave.sdk import detect_generation

        generation = chosen_generation(args) or detect_generation(image)
        config = load_config(args.config)
        ours = regenerate(image, config, generation, limits=limits).mrenclave.hex()
        plain = {"file": args.enclave, "sdk": generation.name, "mrenclave": ours}
        answer(args, plain, [f"{ours}  as SDK {generation.name} would sign it"])
        return 0
    bar = progress()

    def watch(done: int, size: int) -> None:
        bar(Event("measure", done, size))

    results = [
        {
            "metadata": str(block.version),
            "mrenclave": (measured := mrenclave(image, block, limits, watch)).hex(),
            "enclavehash": block.sigstruct.enclavehash.hex(),
            "match": measured == block.sigstruct.enclavehash,
        }
        for block in descriptor.blocks
    ]
    lines = []
    for index, result in enumerate(results):
        said = "as signed" if result["match"] else f"but signed for {result['enclavehash']}"
        lines.append(f"{result['mrenclave']}  block {index}, metadata {result['metadata']}, {said}")
    answer(args, {"file": args.enclave, "blocks": results}, lines)
    return 0 if all(result["match"] for result in results) else 1


@verb("""\
FILE  a signed enclave, or a SIGSTRUCT of 1808 bytes
@policy
@identity
@json""")
def verify_signature(args: argparse.Namespace) -> int:
    """Check every signature of a signed enclave, or of a file that is one bare
    SIGSTRUCT: well formed, valid, by the pinned signer, for the pinned product,
    recent, and not for debug.

    This says nothing about the enclave's bytes: see compare and measure.
    """
    policy = chosen_policy(args, args.file)
    results = [
        (sigstruct, _findings(sigstruct, fips, places, index, policy))
        for index, (sigstruct, fips, places) in enumerate(_signatures(args.file))
    ]
    refused = any(findings for _, findings in results)
    if args.json:
        out_json({"file": args.file, "signatures": [_plain(*result) for result in results]})
        return int(refused)
    from sgx_enclaves.report.text import finding_lines

    for index, (sigstruct, findings) in enumerate(results):
        out(
            f"signature {index}: {'refused' if findings else 'valid'}, "
            f"by {signer_name(sigstruct.mrsigner.hex())}, "
            f"{sigstruct.date_text}, ISVPRODID {sigstruct.isvprodid}, ISVSVN {sigstruct.isvsvn}, "
            f"{'debug' if sigstruct.is_debug else 'production'}"
        )
        notes = policy.identity.notes(sigstruct) if policy.identity is not None else ()
        out(*(f"  {line}" for f in (*findings, *notes) for line in finding_lines(f)))
    if policy.enclave == "le" and refused:
        out(
            "note: the LE's production SIGSTRUCT is a file of its own, le_prod_css.bin; "
            "the one in its enclave is for tests"
        )
    return int(refused)


_Places = tuple[int, int]


def _signatures(path: str) -> Iterator[tuple[Sigstruct, Optional[FipsSignature], _Places]]:
    """SIGSTRUCT, FIPS signature, and where both stand in the file."""
    image = load_enclave_or_sigstruct(path)
    if isinstance(image, Sigstruct):
        yield image, None, (0, 0)
        return
    for block in load_signed_descriptor(image).blocks:
        base = image.descriptor_offset + block.offset
        places = (base + Block.SIGSTRUCT_OFFSET, base + (block.fips_offset or 0))
        yield block.sigstruct, block.fips_signature, places


def _findings(
    sigstruct: Sigstruct,
    fips: Optional[FipsSignature],
    places: _Places,
    index: int,
    policy: Policy,
) -> list[Finding]:
    findings = list(check_sigstruct(sigstruct, index, places[0]))
    if fips is not None:
        findings += check_fips_signature(fips, sigstruct, index, places[1])
    return findings or [placed(f, index, places[0]) for f in policy.check(sigstruct)]


def _plain(sigstruct: Sigstruct, findings: list[Finding]) -> dict[str, object]:
    return {
        "valid": not findings,
        "mrsigner": sigstruct.mrsigner.hex(),
        "mrenclave": sigstruct.enclavehash.hex(),
        "isvprodid": sigstruct.isvprodid,
        "isvsvn": sigstruct.isvsvn,
        "date": sigstruct.date_text,
        "debug": sigstruct.is_debug,
        "findings": as_plain(findings),
    }
