# SPDX-License-Identifier: GPL-2.0-or-later
"""One comparison with its report, keys of several kinds, and the command run in this process."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sgx_enclaves.evidence.report import read_report, write_report
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import Case, signed_enclave
from tests.unit.conftest import Run

Private = Union[ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey]

KINDS: dict[str, Callable[[], Private]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
}


def write_key(folder: Path, name: str, private: Private) -> None:
    """NAME.pem and NAME.pub."""
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(pem)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture(scope="session")
def case() -> Case:
    return signed_enclave()


@pytest.fixture
def folder(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """The files of a comparison, its report in `report/`, and a key of each kind.

    In `built/` is the report of a run that has built the enclave besides.
    """
    for name, data in {"b.so": case.built, "s.so": case.signed, "c.xml": case.config}.items():
        (tmp_path / name).write_bytes(data)
    for name, make in KINDS.items():
        write_key(tmp_path, name, make())
    monkeypatch.chdir(tmp_path)
    signer = ("--signer", mrsigner(vendor_key()))
    status, _, err = run(
        "compare", "b.so", "s.so", "--config", "c.xml", *signer, "--report", "report"
    )
    assert (status, err) == (0, "")
    edited(tmp_path, as_built_here, "built")
    return tmp_path


def edited(folder: Path, change: Callable[[dict[str, Any]], object], into: str = "report") -> Path:
    """The report with a change, and a head that fits, in a directory that is made."""
    report = read_report((folder / "report/report.json").read_bytes(), "report.json")
    change(report)
    (folder / into).mkdir(exist_ok=True)
    write_report(folder / into, report)
    return folder / into / "report.json"


def as_built_here(report: dict[str, Any]) -> None:
    """What the report of a run says that has built the enclave itself."""
    report["kind"], report["build"], report["reproducible"] = "release", "here", True
    report["release"] = {"name": "demo", "sha256": "1" * 64, "origin": "catalogue"}
    report["sources"] = [
        {
            "tree": "demo",
            "name": "demo.tar.gz",
            "url": "https://download.example/demo.tar.gz",
            "sha256": "2" * 64,
            "pinned_by": "sha256",
        }
    ]
    report["toolchain"] = [
        {"tree": "demo", "name": "gcc", "designated": "9.5.0", "found": "9.5.0", "state": "match"}
    ]


def statements(path: Path) -> list[dict[str, Any]]:
    """The payloads of an attestation, unchecked."""
    envelopes = [json.loads(line) for line in path.read_text().splitlines()]
    return [json.loads(base64.b64decode(envelope["payload"])) for envelope in envelopes]
