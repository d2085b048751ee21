# SPDX-License-Identifier: GPL-2.0-or-later
"""Throw-away keys for tests; made or read once a process."""

from __future__ import annotations

import functools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sgx_enclaves.signing.sign import load_key, mrsigner_of_pem

VENDOR_PEM = Path(__file__).parents[1] / "data" / "golden" / "throw-away-test-key.pem"


@functools.cache
def vendor_key() -> RSAPrivateKey:
    """The key of the test vendor, whom the tests' policies trust."""
    return load_key(VENDOR_PEM.read_bytes())


@functools.cache
def foreign_key() -> RSAPrivateKey:
    """A key that can sign enclaves, of somebody whom nobody trusts."""
    return generate_private_key(3, 3072)


@functools.cache
def fips_key() -> RSAPrivateKey:
    """A key for the second signature, which the SDK's tool makes anew each time."""
    return generate_private_key(65537, 3072)


def private_pem(key: RSAPrivateKey) -> bytes:
    """The key as `openssl genrsa` writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public_pem(key: RSAPrivateKey) -> bytes:
    """Its public half as `openssl rsa -pubout` writes it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@functools.cache
def mrsigner(key: RSAPrivateKey) -> str:
    """MRSIGNER of a key, hexadecimal."""
    return mrsigner_of_pem(public_pem(key)).hex()
