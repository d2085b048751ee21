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
from sgx_enclaves.report.templated import filled

ARGUMENTS = """\
enclave:FILE  a signed or an unsigned enclave, or one bare SIGSTRUCT
@json"""


def run(args: argparse.Namespace) -> int:
    """Print the file's structures; 0 when it could be read."""
    image = load_enclave_or_sigstruct(args.enclave)
    if isinstance(image, Sigstruct):
        plain: dict[str, object] = {"file": args.enclave, "sigstruct": sigstruct_dict(image)}
        values: dict[str, object] = {"file": args.enclave, "image": image}
    else:
        descriptor = load_descriptor(image)
        description = describe_file(image.data, image.name)
        plain = show_dict(image, descriptor, description)
        values = {"image": image, "descriptor": descriptor, "description": description}
    if args.json:
        out_json(plain)
    else:
        out_report(filled("show.txt", **values).rstrip("\n"))
    return 0
