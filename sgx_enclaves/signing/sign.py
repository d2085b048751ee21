# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign an enclave with a PEM key, as the SDK's tool does, without the SDK.

For tests and private vendors. The result equals the tool's for the same key,
date and config, but for the FIPS signature, whose key is random by design.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.errors import SigningError
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import FipsSignature
from sgx_enclaves.format.sigstruct import KEY_SIZE, RSA_EXPONENT, Sigstruct
from sgx_enclaves.signing.regenerate import Regenerated
from sgx_enclaves.signing.signatures import BlockSignature, put_on

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

FIPS_EXPONENT = 65537


def bcd_date(date: datetime.date) -> int:
    """The date as SIGSTRUCT holds it: 2024-02-29 is 0x20240229."""
    return int(date.strftime("%Y%m%d"), 16)


def load_key(pem: bytes, name: str = "key") -> RSAPrivateKey:
    """A private key that can sign enclaves.

    Raises:
        SigningError: not an unencrypted PEM RSA key of 3072 bits with exponent 3.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise SigningError("no usable private key", file=name, found=str(error)[:120]) from None
    if not isinstance(key, RSAPrivateKey):
        raise SigningError("not an RSA key", file=name, expected="RSA, 3072 bits, exponent 3")
    exponent = key.public_key().public_numbers().e
    if key.key_size != 8 * KEY_SIZE or exponent != RSA_EXPONENT:
        raise SigningError(
            "not a key for enclaves",
            file=name,
            expected="3072 bits, exponent 3",
            found=f"{key.key_size} bits, exponent {exponent}",
            hint="openssl genrsa -3 3072 makes one",
        )
    return key


def sign(
    image: EnclaveImage,
    regenerated: Regenerated,
    key: RSAPrivateKey,
    date: datetime.date,
    fips_key: Optional[RSAPrivateKey] = None,
) -> bytes:
    """The signed enclave file.

    Args:
        image: the unsigned enclave.
        regenerated: its metadata.
        key: see `load_key`.
        date: goes into SIGSTRUCT.
        fips_key: key of the FIPS signature where there is one; None makes a
            throw-away one, as the SDK does.
    """
    signatures = []
    signed: dict[Sigstruct, BlockSignature] = {}
    for block in regenerated.blocks:
        if block.sigstruct not in signed:
            sigstruct = sign_sigstruct(block.sigstruct, key, date)
            fips = None
            if block.fips_offset is not None:
                fips = _fips_signature(sigstruct, fips_key or _throw_away_key())
            signed[block.sigstruct] = BlockSignature(sigstruct, fips)
        signatures.append(signed[block.sigstruct])
    descriptor = put_on(regenerated, signatures)
    return image.data[: image.descriptor_offset] + descriptor + image.data[image.descriptor_end :]


def sign_sigstruct(sigstruct: Sigstruct, key: RSAPrivateKey, date: datetime.date) -> Sigstruct:
    """A SIGSTRUCT with date, key, signature and quotients filled in."""
    modulus = key.public_key().public_numbers().n
    dated = replace(
        sigstruct,
        date=bcd_date(date),
        modulus=modulus.to_bytes(KEY_SIZE, "little"),
        exponent=RSA_EXPONENT,
    )
    signature = int.from_bytes(_pkcs1_sign(key, dated.signed_message), "big")
    square, rest = divmod(signature * signature, modulus)
    return replace(
        dated,
        signature=signature.to_bytes(KEY_SIZE, "little"),
        q1=square.to_bytes(KEY_SIZE, "little"),
        q2=(signature * rest // modulus).to_bytes(KEY_SIZE, "little"),
    )


def _pkcs1_sign(key: RSAPrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return key.sign(message, PKCS1v15(), SHA256())


def _throw_away_key() -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import (  # noqa: PLC0415
        generate_private_key,
    )

    return generate_private_key(FIPS_EXPONENT, 8 * KEY_SIZE)


def _fips_signature(sigstruct: Sigstruct, key: RSAPrivateKey) -> FipsSignature:
    numbers = key.public_key().public_numbers()
    return FipsSignature(
        modulus=numbers.n.to_bytes(KEY_SIZE, "little"),
        exponent=numbers.e,
        signature=_pkcs1_sign(key, sigstruct.serialise()),
    )


def mrsigner_of_pem(pem: bytes, name: str = "key") -> bytes:
    """MRSIGNER of a public or private key.

    Raises:
        SigningError: not an RSA key of 3072 bits in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        public: object = load_pem_public_key(pem)
    except (ValueError, TypeError):
        public = load_key(pem, name).public_key()
    if not isinstance(public, RSAPublicKey) or public.key_size != 8 * KEY_SIZE:
        raise SigningError("not a key for enclaves", file=name, expected="RSA, 3072 bits")
    return hashlib.sha256(public.public_numbers().n.to_bytes(KEY_SIZE, "little")).digest()
