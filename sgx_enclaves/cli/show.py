# SPDX-License-Identifier: GPL-2.0-or-later
"""Print what an enclave file says about itself: segments, metadata blocks,
signatures, layout and patches. Nothing is verified here.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import load_descriptor, load_enclave_or_sigstruct
from sgx_enclaves.cli.output import out_json, out_report
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.report.as_json import show_dict, sigstruct_dict
from sgx_enclaves.report.templated import show_sigstruct_text, show_text

ARGUMENTS = """\
enclave:FILE  a signed or an unsigned enclave, or one bare SIGSTRUCT
@json"""


def run(args: argparse.Namespace) -> int:
    """Print the file's structures; 0 when it could be read."""
    image = load_enclave_or_sigstruct(args.enclave)
    if isinstance(image, Sigstruct):
        if args.json:
            out_json({"file": args.enclave, "sigstruct": sigstruct_dict(image)})
        else:
            out_report(show_sigstruct_text(args.enclave, image).rstrip("\n"))
        return 0
    descriptor = load_descriptor(image)
    description = describe_file(image.data, image.name)
    if args.json:
        out_json(show_dict(image, descriptor, description))
    else:
        out_report(show_text(image, descriptor, description).rstrip("\n"))
    return 0
