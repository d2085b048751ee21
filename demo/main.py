# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job on our own test enclaves: first on one, then on a whole release, then
on packages of it.

What a user would type is what runs: the command `sgx-enclaves`. Everything is
local: the vendor is a server on 127.0.0.1, its keys are made here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo import as_packages, one_enclave, vendor, whole_release
from demo.command import shown, table, title

_PURPOSE = """\
sgx-enclaves proves that a vendor's signed enclave is the enclave that you built, plus
the vendor's signature, and nothing else. This demo plays vendor and builder: it builds
test enclaves, signs them, and compares. Then it tampers with one thing after the other
and shows who refuses it. It takes about half a minute."""


def main() -> int:
    """Run everything; 0 only if each verdict is the one that it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rpmlint", type=Path, metavar="DIR", help="made by install-rpmlint")
    args = parser.parse_args()
    folder: Path = args.into
    folder.mkdir(parents=True, exist_ok=True)
    print(_PURPOSE, flush=True)
    title("build the test enclaves from source")
    built = vendor.build_enclaves(folder / "built")
    key = vendor.make_key(folder / "vendor.pem")
    mallory = vendor.make_key(folder / "mallory.pem")
    results = one_enclave.run(folder, built / "libsgx_pce.so", key, mallory)
    results += whole_release.run(folder / "release", built, key, mallory)
    there = args.rpmlint is not None and (args.rpmlint / "bin" / "rpmlint").is_file()
    results += as_packages.run(folder / "packages", args.rpmlint if there else None, built)
    title("what was tried, and who refused it")
    print("\n".join(table(results)))
    wrong = sum(not result.good for result in results)
    title("done: everything as it must be" if not wrong else f"{wrong} NOT AS EXPECTED")
    report = shown(folder / "tampered-patch-table" / "report" / "verdict.html")
    print(f"Open this report: {report}")
    print("It shows a validly signed enclave whose metadata overwrite its code: refused, and why.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
