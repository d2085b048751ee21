# SPDX-License-Identifier: GPL-2.0-or-later
"""Throw-away keys for tests, always the same; read once a process."""

from __future__ import annotations

import datetime
import functools
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from sgx_enclaves.enclave.sign import bcd_date, load_key, mrsigner_of, signed_sigstruct, signer_of
from sgx_enclaves.enclave.sigstruct import Sigstruct

KEYS = Path(__file__).parents[1] / "data" / "golden"
VENDOR_PEM = KEYS / "throw-away-test-key.pem"
FOREIGN_PEM = KEYS / "throw-away-foreign-key.pem"
FIPS_PEM = KEYS / "throw-away-fips-key.pem"


@functools.cache
def vendor_key() -> RSAPrivateKey:
    """The key of the test vendor, whom the tests' policies trust."""
    return load_key(VENDOR_PEM.read_bytes())


@functools.cache
def foreign_key() -> RSAPrivateKey:
    """A key that can sign enclaves, of somebody whom nobody trusts."""
    return load_key(FOREIGN_PEM.read_bytes())


@functools.cache
def fips_key() -> RSAPrivateKey:
    """A key for the second signature; the SDK's tool makes a new one each time."""
    key = load_pem_private_key(FIPS_PEM.read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    return key


def private_pem(key: RSAPrivateKey) -> bytes:
    """The key as `openssl genrsa` writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public_pem(key: RSAPrivateKey) -> bytes:
    """Its public half as `openssl rsa -pubout` writes it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@functools.cache
def mrsigner(key: RSAPrivateKey) -> str:
    """MRSIGNER of a key, hexadecimal."""
    return mrsigner_of(public_pem(key)).hex()


def sign_sigstruct(sigstruct: Sigstruct, key: RSAPrivateKey, date: datetime.date) -> Sigstruct:
    """A SIGSTRUCT of that date, signed."""
    dated = replace(sigstruct, date=bcd_date(date))
    return signed_sigstruct(dated, key.public_key(), signer_of(key))
