# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign an enclave as the SDK's tool does, without the SDK: with a key, or with a signature
that was made where the key is.

For tests and private vendors. The result equals the tool's for the same key,
date and config, but for the FIPS signature, whose key is random by design.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.graft import BlockSignature, put_on
from sgx_enclaves.enclave.metadata import EXTEND_SHARED_OBJECT, Descriptor, FipsSignature
from sgx_enclaves.enclave.policy import quotients, rsa_defects
from sgx_enclaves.enclave.regenerate import Regenerated
from sgx_enclaves.enclave.sigstruct import KEY_SIZE, RSA_EXPONENT, Sigstruct
from sgx_enclaves.errors import SigningError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey


FIPS_EXPONENT = 65537
_MAKE_KEY = "`openssl genrsa -3 -out key.pem 3072` makes such a key"
_KEY_WANTED = "RSA, 3072 bits, exponent 3"


def bcd_date(date: datetime.date) -> int:
    """The date as SIGSTRUCT holds it: 2024-02-29 is 0x20240229."""
    return int(date.strftime("%Y%m%d"), 16)


def load_key(pem: bytes, name: str = "key", passphrase: Optional[bytes] = None) -> RSAPrivateKey:
    """A private key that can sign enclaves.

    Raises:
        SigningError: not a PEM RSA key of 3072 bits with exponent 3, or its passphrase is
            missing (`needs_passphrase` tells) or wrong.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415

    key = read_private_key(pem, name, passphrase)
    if not isinstance(key, RSAPrivateKey):
        raise SigningError("not an RSA key", file=name, expected=_KEY_WANTED, hint=_MAKE_KEY)
    _check_key(key.public_key(), name)
    return key


def read_private_key(pem: bytes, name: str = "key", passphrase: Optional[bytes] = None) -> object:
    """A private key in PEM, of whatever kind.

    Raises:
        SigningError: no such key, or its passphrase is missing (`needs_passphrase`) or wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if b"PUBLIC KEY" in pem or b"CERTIFICATE" in pem:
        raise SigningError(
            "a public key cannot sign",
            file=name,
            expected="a private key in PEM",
            hint="name the private key, or sign elsewhere: sign-data and attach",
        )
    if needs_passphrase(pem) and passphrase is None:
        raise SigningError(
            "the key is encrypted", file=name, hint="name the file with its --passphrase-file"
        )
    try:
        return load_pem_private_key(pem, passphrase if needs_passphrase(pem) else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(
            "no usable private key" if passphrase is None else "the passphrase is wrong",
            file=name,
            expected="a private key in PEM",
            found=str(error)[:120],
        ) from None


def needs_passphrase(pem: bytes) -> bool:
    """Whether a private key in PEM is encrypted."""
    return b"ENCRYPTED" in pem


def load_public_key(data: bytes, name: str = "key") -> RSAPublicKey:
    """The public key of enclaves out of a public or private key or a certificate, PEM or DER.

    Raises:
        SigningError: none of these, or not RSA with 3072 bits and exponent 3.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    key = read_public_key(data, name)
    if not isinstance(key, RSAPublicKey):
        raise SigningError("not an RSA key", file=name, expected=_KEY_WANTED)
    _check_key(key, name)
    return key


def read_public_key(data: bytes, name: str = "key") -> object:
    """The public key, of whatever kind, out of a key or a certificate, PEM or DER.

    Raises:
        SigningError: none of these.
    """
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    def from_certificate(read: Callable[[bytes], x509.Certificate]) -> object:
        return read(data).public_key()

    readers: tuple[Callable[[], object], ...] = (
        lambda: serialization.load_pem_public_key(data),
        lambda: serialization.load_der_public_key(data),
        lambda: from_certificate(x509.load_pem_x509_certificate),
        lambda: from_certificate(x509.load_der_x509_certificate),
        lambda: serialization.load_pem_private_key(data, None).public_key(),
        lambda: serialization.load_der_private_key(data, None).public_key(),
    )
    for read in readers:
        try:
            return read()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
    raise SigningError(
        "neither a key nor a certificate",
        file=name,
        expected="a public or private key or a certificate, in PEM or DER",
        hint="an encrypted private key is not read for this: name its public key",
    )


def _check_key(key: RSAPublicKey, name: str) -> None:
    exponent = key.public_numbers().e
    if key.key_size != 8 * KEY_SIZE or exponent != RSA_EXPONENT:
        raise SigningError(
            "not a key for enclaves",
            file=name,
            expected="3072 bits, exponent 3",
            found=f"{key.key_size} bits, exponent {exponent}",
            hint="openssl genrsa -3 3072 makes one",
        )


def mrsigner_of(data: bytes, name: str = "key") -> bytes:
    """MRSIGNER of a key, a certificate, a SIGSTRUCT or a signed enclave.

    Raises:
        SigningError: none of these, or an enclave with several signers.
        FormatError: a malformed enclave.
    """
    if data[:4] == ELF_MAGIC:
        blocks = Descriptor.parse(EnclaveImage.parse(data, name).descriptor).blocks
        signers = {block.sigstruct.mrsigner for block in blocks}
        if len(signers) != 1:
            raise SigningError(
                "the enclave does not have one signer", file=name, found=f"{len(signers)} signers"
            )
        return signers.pop()
    if len(data) == Sigstruct.SIZE:
        return Sigstruct.parse(data).mrsigner
    modulus = load_public_key(data, name).public_numbers().n
    return hashlib.sha256(modulus.to_bytes(KEY_SIZE, "little")).digest()


# Makes the raw signature (384 bytes, big endian) of a message: PKCS#1 v1.5 with SHA-256.
Signer = Callable[[bytes], bytes]


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
    signer = _signer_of(key)
    return sign_with(image, regenerated, key.public_key(), signer, bcd_date(date), fips_key)


def sign_with(
    image: EnclaveImage,
    regenerated: Regenerated,
    public: RSAPublicKey,
    signer: Signer,
    date: int,
    fips_key: Optional[RSAPrivateKey] = None,
) -> bytes:
    """The same by a signer that has the key elsewhere.

    Args:
        image: the unsigned enclave.
        regenerated: its metadata.
        public: the signer's public key.
        signer: signs the message of each SIGSTRUCT.
        date: goes into SIGSTRUCT, as `bcd_date` gives it.
        fips_key: see `sign`.

    Raises:
        SigningError: the signature does not fit the key or the message.
    """
    signatures = []
    signed: dict[Sigstruct, BlockSignature] = {}
    for block in regenerated.blocks:
        if block.sigstruct not in signed:
            sigstruct = _signed(replace(block.sigstruct, date=date), public, signer)
            fips = None
            if block.fips_offset is not None:
                fips = _fips_signature(sigstruct, fips_key or _throw_away_key())
            signed[block.sigstruct] = BlockSignature(sigstruct, fips)
        signatures.append(signed[block.sigstruct])
    descriptor = put_on(regenerated, signatures)
    return image.data[: image.descriptor_offset] + descriptor + image.data[image.descriptor_end :]


def signing_data(regenerated: Regenerated, date: int) -> bytes:
    """The 256 bytes that a signer elsewhere must sign, as `sgx_sign gendata` writes them.

    Args:
        regenerated: the enclave's metadata.
        date: see `sign_with`.

    Raises:
        SigningError: the blocks need more than one signature.
    """
    messages = {replace(b.sigstruct, date=date).signed_message for b in regenerated.blocks}
    if len(messages) != 1:
        raise SigningError(
            "the metadata blocks need different signatures",
            expected="one SIGSTRUCT for all blocks",
            found=f"{len(messages)} SIGSTRUCTs",
        )
    return messages.pop()


def date_of_signing_data(data: bytes, name: str = "data") -> int:
    """The date in what `signing_data` gave, as SIGSTRUCT holds it.

    Raises:
        SigningError: it is of another size.
    """
    start, end = Sigstruct.range_of("date")
    if len(data) != SIGNING_DATA_SIZE:
        raise SigningError(
            "not the data that sign-data writes",
            file=name,
            expected=f"{SIGNING_DATA_SIZE} bytes",
            found=f"{len(data)} bytes",
        )
    return int.from_bytes(data[start:end], "little")


SIGNING_DATA_SIZE = 256


def sign_sigstruct(sigstruct: Sigstruct, key: RSAPrivateKey, date: datetime.date) -> Sigstruct:
    """A SIGSTRUCT with date, key, signature and quotients filled in."""
    dated = replace(sigstruct, date=bcd_date(date))
    return _signed(dated, key.public_key(), _signer_of(key))


def _signed(sigstruct: Sigstruct, public: RSAPublicKey, signer: Signer) -> Sigstruct:
    raw = signer(sigstruct.signed_message)
    modulus = public.public_numbers().n
    signature = int.from_bytes(raw, "big")
    if len(raw) != KEY_SIZE or signature >= modulus:
        raise SigningError(
            "no RSA signature of 3072 bits by this key",
            expected=f"{KEY_SIZE} bytes, big endian, as openssl and PKCS#11 write them",
            found=f"{len(raw)} bytes",
        )
    q1, q2 = quotients(modulus, signature)
    result = replace(
        sigstruct,
        modulus=modulus.to_bytes(KEY_SIZE, "little"),
        exponent=RSA_EXPONENT,
        signature=signature.to_bytes(KEY_SIZE, "little"),
        q1=q1.to_bytes(KEY_SIZE, "little"),
        q2=q2.to_bytes(KEY_SIZE, "little"),
    )
    if any(rsa_defects(result)):
        raise SigningError(
            "the signature does not fit: another key, another message or another date",
            expected="PKCS#1 v1.5 with SHA-256 over what sign-data writes",
            hint="name the data that were signed with --data, and the signer's own public key",
        )
    return result


def _signer_of(key: RSAPrivateKey) -> Signer:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return lambda message: key.sign(message, PKCS1v15(), SHA256())


def _throw_away_key() -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415

    return generate_private_key(FIPS_EXPONENT, 8 * KEY_SIZE)


def _fips_signature(sigstruct: Sigstruct, key: RSAPrivateKey) -> FipsSignature:
    numbers = key.public_key().public_numbers()
    return FipsSignature(
        modulus=numbers.n.to_bytes(KEY_SIZE, "little"),
        exponent=numbers.e,
        signature=_signer_of(key)(sigstruct.serialise()),
    )


def unsigned(image: EnclaveImage) -> bytes:
    """A signed enclave with its metadata area zeroed: what a reproduced build must be.

    Raises:
        SigningError: it is not signed, or what was appended to it would stay.
    """
    blocks = Descriptor.parse(image.descriptor).blocks
    if not blocks:
        raise SigningError("the enclave is not signed", file=image.name, hint="nothing to take off")
    if any(e.entry_id == EXTEND_SHARED_OBJECT for b in blocks for e in b.extensions):
        raise SigningError(
            "the tool appended the OpenSSL FIPS provider to this enclave (EnableOSSLFIPS)",
            file=image.name,
            hint="such an enclave cannot be unsigned yet",
        )
    zeros = bytes(image.descriptor_size)
    return image.data[: image.descriptor_offset] + zeros + image.data[image.descriptor_end :]
