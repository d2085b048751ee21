# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the test enclave from source, let a test vendor sign it, compare; then
tamper in three ways and see each one refused.

What a user would type is what runs: the command `sgx-enclaves`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from demo import vendor

ROOT = Path(__file__).resolve().parent.parent
ENCLAVES = ROOT / "tests" / "enclaves"
CONFIG = ENCLAVES / "configs" / "pce.config.xml"
# An unsigned build, a signature and a comparison take seconds, not minutes.
DEADLINE = 120


def main() -> int:
    """Run everything; 0 only if each verdict is the one that it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    folder: Path = parser.parse_args().into
    folder.mkdir(parents=True, exist_ok=True)
    built = _build(folder / "built")
    key = vendor.make_key(folder / "vendor.pem")
    mallory = vendor.make_key(folder / "mallory.pem")

    honest = vendor.sign_enclave(built, CONFIG, key)
    files = {
        "honest": (honest, 0, "what an honest vendor delivers"),
        "tampered-code": (
            vendor.with_other_code(honest, built),
            1,
            "one byte of code changed after signing",
        ),
        "tampered-patch-table": (
            vendor.with_hostile_patch(built, CONFIG, key),
            1,
            "validly signed, but the metadata overwrite code at load time",
        ),
        "foreign-signer": (
            vendor.sign_enclave(built, CONFIG, mallory),
            1,
            "the same enclave, validly signed by somebody else",
        ),
    }
    wrong = 0
    for name, (data, expected, story) in files.items():
        target = folder / name / "libsgx_pce.signed.so"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        _title(f"{name}: {story}")
        status = _compare(built, target, folder / "vendor.pem", target.parent / "report")
        wrong += status != expected
    wrong += _graft(built, folder)
    _title("done" if not wrong else f"{wrong} result(s) were NOT as expected")
    print(f"reports: {folder}/*/report/verdict.{{txt,json,html}}")
    return 1 if wrong else 0


def _title(text: str) -> None:
    print(f"\n== {text}\n", flush=True)


def _build(into: Path) -> Path:
    _title("build the test enclaves from source")
    into.mkdir(parents=True, exist_ok=True)
    command = ["make", "--no-print-directory", "-C", str(ENCLAVES), f"OUT={into.resolve()}"]
    subprocess.run(command, check=True, timeout=DEADLINE)
    return into / "libsgx_pce.so"


def _sgx_enclaves(*arguments: str) -> int:
    print("$ sgx-enclaves " + " ".join(arguments), flush=True)
    command = [sys.executable, "-m", "sgx_enclaves", *arguments]
    return subprocess.run(command, check=False, timeout=DEADLINE).returncode


def _compare(built: Path, signed: Path, signer: Path, report: Path) -> int:
    return _sgx_enclaves(
        "compare",
        str(built),
        str(signed),
        *("--config", str(CONFIG.relative_to(ROOT))),
        *("--signer", str(signer)),
        *("--report", str(report)),
    )


def _graft(built: Path, folder: Path) -> int:
    """Our bytes and the vendor's signature give the vendor's file; returns what went wrong."""
    _title("graft: our own bytes, and 2.5 KB of the vendor's")
    honest = folder / "honest" / "libsgx_pce.signed.so"
    signatures = folder / "signatures.bin"
    grafted = folder / "grafted.signed.so"
    _sgx_enclaves("extract-signature", str(honest), "-o", str(signatures))
    _sgx_enclaves(
        "graft",
        str(built),
        str(signatures),
        *("--config", str(CONFIG.relative_to(ROOT))),
        *("--signer", str(folder / "vendor.pem")),
        *("-o", str(grafted)),
    )
    same = grafted.exists() and grafted.read_bytes() == honest.read_bytes()
    print(f"the graft is {'' if same else 'NOT '}the vendor's file, byte for byte")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
