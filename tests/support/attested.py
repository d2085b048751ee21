# SPDX-License-Identifier: GPL-2.0-or-later
"""Attestations of rebuilders, each with a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sgx_enclaves.evidence.envelope import load_signing_key
from sgx_enclaves.evidence.statements import attestation, enveloped


class Rebuilder:
    """Signs what it has found; its public key is in `key`."""

    def __init__(self, folder: Path, name: str) -> None:
        private = Ed25519PrivateKey.generate()
        public = private.public_key()
        self.key = folder / f"{name}.pub"
        self.key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._signing = load_signing_key(pem, name, None)

    def attest(self, path: Path, unsigned: Mapping[str, str], release: str = "demo") -> None:
        """Write an attestation that he built unsigned enclaves: name to SHA-256."""
        subject = [
            {"name": f"sgx-enclave({name}:unsigned)", "digest": {"sha256": digest}}
            for name, digest in unsigned.items()
        ]
        outside = {"release": _named(release)}
        predicate = {"buildDefinition": {"externalParameters": outside}}
        self._write(path, "https://slsa.dev/provenance/v1", subject, predicate)

    def compare(
        self, path: Path, unsigned: Mapping[str, str], release: str = "demo", signed: str = "5" * 64
    ) -> None:
        """Write an attestation that a file is such an enclave plus a signature; he built none."""
        file = {"sha256": signed}
        enclaves = [
            {"name": n, "verdict": "identical", "unsigned": {"sha256": d}, "signed": file}
            for n, d in unsigned.items()
        ]
        predicate = {"verdict": "identical", "release": _named(release), "enclaves": enclaves}
        subject = [{"name": "x", "digest": file}]
        self._write(path, "urn:sgx-enclaves:equivalence:v1", subject, predicate)

    def _write(
        self, path: Path, kind: str, subject: list[dict[str, Any]], predicate: dict[str, Any]
    ) -> None:
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subject,
            "predicateType": kind,
            "predicate": predicate,
        }
        path.write_bytes(attestation([enveloped(statement)], *self._signing))


def _named(release: str) -> Optional[dict[str, str]]:
    return {"name": release} if release else None
