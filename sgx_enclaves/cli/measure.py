# SPDX-License-Identifier: GPL-2.0-or-later
"""Recompute MRENCLAVE: of each metadata block of a signed enclave, or of an
unsigned enclave with its config.xml.

Exit status 1 when a block of a signed enclave was signed for another MRENCLAVE.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import (
    chosen_generation,
    load_config,
    load_descriptor,
    load_enclave,
)
from sgx_enclaves.cli.output import out, out_json
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.errors import InputError

ARGUMENTS = """\
enclave:FILE  the enclave
--config XML  config.xml of an unsigned enclave
@sdk
@json"""


def run(args: argparse.Namespace) -> int:
    """Print one line a block; 0 if every signature is for what was measured."""
    image = load_enclave(args.enclave)
    descriptor = load_descriptor(image)
    if args.config is not None:
        return _measure_unsigned(args, image, descriptor)
    if not descriptor.is_signed:
        raise InputError(
            "an unsigned enclave is measured with its config.xml",
            file=args.enclave,
            hint="name it with --config",
        )
    results = []
    for block in descriptor.blocks:
        measured = mrenclave(image, block)
        results.append(
            {
                "metadata": str(block.version),
                "mrenclave": measured.hex(),
                "enclavehash": block.sigstruct.enclavehash.hex(),
                "match": measured == block.sigstruct.enclavehash,
            }
        )
    if args.json:
        out_json({"file": args.enclave, "blocks": results})
    else:
        for index, result in enumerate(results):
            said = "as signed" if result["match"] else f"but signed for {result['enclavehash']}"
            out(f"{result['mrenclave']}  block {index}, metadata {result['metadata']}, {said}")
    return 0 if all(result["match"] for result in results) else 1


def _measure_unsigned(args: argparse.Namespace, image: EnclaveImage, descriptor: Descriptor) -> int:
    from sgx_enclaves.enclave.detect import detect_generation  # noqa: PLC0415
    from sgx_enclaves.enclave.regenerate import regenerate  # noqa: PLC0415

    if descriptor.is_signed:
        raise InputError(
            "the enclave is signed, its own metadata say how it is loaded",
            file=args.enclave,
            hint="drop --config",
        )
    generation = chosen_generation(args) or detect_generation(image)
    result = regenerate(image, load_config(args.config), generation)
    if args.json:
        facts = {"file": args.enclave, "sdk": generation.name, "mrenclave": result.mrenclave.hex()}
        out_json(facts)
    else:
        out(f"{result.mrenclave.hex()}  as SDK {generation.name} would sign it")
    return 0
