# SPDX-License-Identifier: GPL-2.0-or-later
"""Check RPM packages: is each signed enclave in them our build plus a signature,
and nothing else? Needs no root, and unpacks nothing to disk.

The unsigned counterpart and its config.xml are looked for in each --reference,
in their order: a package of unsigned enclaves built with the designated
toolchain; a folder with files such as libsgx_pce.so and libsgx_pce.config.xml;
or what `sgx-enclaves build` made, whose files must still be those of its
manifest, and which serves enclaves of its release's version only. A reference
decides alone. For an enclave that no reference knows, packages named -unsigned
on the command line serve too, with a note unless a key of rpm's keyring has
signed them. Builds with the newest toolchain (latest) never do, nor those with
a signed enclave in them or from the same source package.

The OpenPGP signatures of the packages that are judged are not checked: see rpmkeys.

Exit status: the highest of all. 0 identical, or no signed enclave; 1 differs or
not permitted; 2 unverifiable: no counterpart, or a malformed or damaged package.
"""

from __future__ import annotations

import argparse

from sgx_enclaves.cli.arguments import (
    POLICY_TYPES,
    chosen_generation,
    chosen_policy,
    not_shipped_name,
)
from sgx_enclaves.cli.compare import check_folder
from sgx_enclaves.cli.output import out_json, out_report, width
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.references import Neighbours, neighbours_among, open_reference

ARGUMENTS = """\
packages:RPM+  the packages to check
@references
@report
@json
@sdk
@policy"""
TYPES = {**POLICY_TYPES, "ENCLAVE": not_shipped_name}


def run(args: argparse.Namespace) -> int:
    """Print one result for each package; the highest exit status of them."""
    if args.report is not None:
        check_folder(args.report)
    references = [open_reference(path) for path in args.reference]
    beside = neighbours_among(args.packages if len(args.packages) > 1 else ())
    neighbours = Neighbours(beside, args.trust_neighbours, args.signed_neighbours)
    generation = chosen_generation(args)
    results = (
        check_package(
            path,
            references,
            lambda enclave: chosen_policy(args, enclave),
            neighbours=neighbours,
            permitted=args.permit,
            generation=generation,
        )
        for path in args.packages
    )
    from sgx_enclaves.report.as_json import result_dict  # noqa: PLC0415
    from sgx_enclaves.report.text import result_text  # noqa: PLC0415

    status = 0
    plain = []
    for number, result in enumerate(results):
        status = max(status, result.exit_status)
        if args.json or args.report is not None:
            plain.append(result_dict(result))
        if not args.json:
            out_report(("\n" if number else "") + result_text(result, width=width()))
    if args.json:
        out_json({"exit_status": status, "packages": plain})
    if args.report is not None:
        from sgx_enclaves.evidence.report import of_packages, write_report  # noqa: PLC0415

        write_report(args.report, of_packages("packages", plain))
    return status
