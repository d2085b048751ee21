# SPDX-License-Identifier: GPL-2.0-or-later
"""One enclave: build it from source, let a test vendor sign it, compare; then
tamper in three ways and see each one refused; then graft.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from demo import vendor
from demo.command import ROOT, sgx_enclaves, title
from demo.release import ENCLAVES

CONFIG = ENCLAVES / "configs" / "pce.config.xml"


def run(folder: Path, built: Path, key: RSAPrivateKey, mallory: RSAPrivateKey) -> int:
    """Show it.

    Args:
        folder: receives files and reports.
        built: the unsigned pce.
        key: the vendor's; its PEM file is `vendor.pem` in the folder.
        mallory: somebody else's.

    Returns:
        How many results were not as they must be.
    """
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
        title(f"{name}: {story}")
        status = _compare(built, target, folder / "vendor.pem", target.parent / "report")
        wrong += status != expected
    wrong += _graft(built, folder)
    return wrong


def _compare(built: Path, signed: Path, signer: Path, report: Path) -> int:
    return sgx_enclaves(
        "compare",
        str(built),
        str(signed),
        *("--config", str(CONFIG.relative_to(ROOT))),
        *("--signer", str(signer)),
        *("--report", str(report)),
    )


def _graft(built: Path, folder: Path) -> int:
    """Our bytes and the vendor's signature give the vendor's file; returns what went wrong."""
    title("graft: our own bytes, and 2.5 KB of the vendor's")
    honest = folder / "honest" / "libsgx_pce.signed.so"
    signatures = folder / "signatures.bin"
    grafted = folder / "grafted.signed.so"
    sgx_enclaves("extract-signature", str(honest), "-o", str(signatures))
    sgx_enclaves(
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
