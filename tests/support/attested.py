# SPDX-License-Identifier: GPL-2.0-or-later
"""Attestations of rebuilders, each with a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        """Write an attestation of unsigned enclaves: name to SHA-256."""
        signed = {"sha256": "5" * 64}
        enclaves: list[dict[str, Any]] = [
            {"name": n, "verdict": "identical", "unsigned": {"sha256": d}, "signed": signed}
            for n, d in unsigned.items()
        ]
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "x", "digest": signed}],
            "predicateType": "urn:sgx-enclaves:equivalence:v1",
            "predicate": {
                "verdict": "identical",
                "release": {"name": release} if release else None,
                "enclaves": enclaves,
            },
        }
        path.write_bytes(attestation([enveloped(statement)], *self._signing))
