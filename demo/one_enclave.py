# SPDX-License-Identifier: GPL-2.0-or-later
"""One enclave: build it from source, let a test vendor sign it, compare; then
tamper in three ways and see each one refused; then graft.
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from demo import vendor
from demo.command import ROOT, Result, sgx_enclaves, title
from demo.release import ENCLAVES

CONFIG = ENCLAVES / "configs" / "pce.config.xml"


def run(folder: Path, built: Path, key: RSAPrivateKey, mallory: RSAPrivateKey) -> list[Result]:
    """Show it on the unsigned pce, in a folder that has the vendor's key as `vendor.pem`."""
    honest = vendor.sign_enclave(built, CONFIG, key)
    files = {
        "honest": (honest, set(), "what an honest vendor delivers"),
        "tampered-code": (
            vendor.with_other_code(honest, built),
            {"payload"},
            "one byte of code changed after signing",
        ),
        "tampered-patch-table": (
            vendor.with_hostile_patch(built, CONFIG, key),
            {"metadata", "measurement"},
            "validly signed, but the metadata overwrite code at load time",
        ),
        "foreign-signer": (
            vendor.sign_enclave(built, CONFIG, mallory),
            {"policy"},
            "the same enclave, validly signed by somebody else",
        ),
    }
    results = []
    for name, (data, expected, story) in files.items():
        target = folder / name / "libsgx_pce.signed.so"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        title(f"{name}: {story}")
        report = target.parent / "report"
        status = _compare(built, target, folder / "vendor.pem", report)
        refused = _refused_checks(report / "verdict.json")
        answer = f"compare refuses: {', '.join(refused)}" if refused else "identical"
        good = set(refused) == expected and status == bool(expected)
        results.append(Result("one enclave", story, answer, good))
    results.append(_graft(built, folder))
    return results


def _refused_checks(report: Path) -> list[str]:
    if not report.exists():
        return ["no report"]
    verdict = json.loads(report.read_text("utf-8"))
    return [check["name"] for check in verdict["checks"] if check["state"] == "refuted"]


def _compare(built: Path, signed: Path, signer: Path, report: Path) -> int:
    return sgx_enclaves(
        "compare",
        str(built),
        str(signed),
        *("--config", str(CONFIG.relative_to(ROOT))),
        *("--signer", str(signer)),
        *("--report", str(report)),
    )


def _graft(built: Path, folder: Path) -> Result:
    """Our bytes and the vendor's signature give the vendor's file."""
    title("graft: our own bytes, and 2.5 KB of the vendor's")
    honest = folder / "honest" / "libsgx_pce.signed.so"
    signatures = folder / "signatures.bin"
    grafted = folder / "grafted.signed.so"
    for old in (signatures, grafted):
        old.unlink(missing_ok=True)
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
    answer = f"{'' if same else 'NOT '}the vendor's file, byte for byte"
    print(f"the graft is {answer}")
    return Result("one enclave", "the vendor's signature grafted on our own build", answer, same)
