# SPDX-License-Identifier: GPL-2.0-or-later
"""Sign an enclave with a PEM key, as the SDK's tool does, without the SDK.

For tests and private vendors. The result equals the tool's for the same key,
date and config, but for the FIPS signature, whose key is random by design.

Take signatures out of signed metadata, and put them on regenerated metadata.

A signature file holds, for each metadata block in order, the SIGSTRUCT (1808
bytes) and, if the block has one, the FIPS signature (772 bytes); nothing else.
How many there must be follows from the build they are put on.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Optional

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Block, Descriptor, FipsSignature
from sgx_enclaves.enclave.regenerate import Regenerated
from sgx_enclaves.enclave.sigstruct import KEY_SIZE, RSA_EXPONENT, SIGNATURE_FIELDS, Sigstruct
from sgx_enclaves.errors import GraftError, SigningError
from sgx_enclaves.plain import record

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
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

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
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415

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
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        public: object = load_pem_public_key(pem)
    except (ValueError, TypeError):
        public = load_key(pem, name).public_key()
    if not isinstance(public, RSAPublicKey) or public.key_size != 8 * KEY_SIZE:
        raise SigningError("not a key for enclaves", file=name, expected="RSA, 3072 bits")
    return hashlib.sha256(public.public_numbers().n.to_bytes(KEY_SIZE, "little")).digest()


@record
class BlockSignature:
    """What the signer made for one block."""

    sigstruct: Sigstruct
    fips: Optional[FipsSignature]

    def serialise(self) -> bytes:
        """1808 bytes, or 2580 with a FIPS signature."""
        fips = b"" if self.fips is None else self.fips.serialise()
        return self.sigstruct.serialise() + fips


def extract(descriptor: Descriptor) -> tuple[BlockSignature, ...]:
    """The signatures of all blocks.

    Raises:
        GraftError: the metadata is not signed.
    """
    if not descriptor.is_signed:
        raise GraftError("the enclave is not signed", hint="take the vendor's signed file")
    return tuple(BlockSignature(b.sigstruct, b.fips_signature) for b in descriptor.blocks)


def parse_signatures(data: bytes, regenerated: Regenerated) -> tuple[BlockSignature, ...]:
    """Read a signature file that was made for `regenerated`'s blocks.

    Raises:
        GraftError: it is longer or shorter than these blocks need.
    """
    wanted = sum(_signature_size(block) for block in regenerated.blocks)
    if len(data) != wanted:
        raise GraftError(
            "the signature file does not fit this build's metadata",
            expected=f"{wanted} bytes for {len(regenerated.blocks)} block(s)",
            found=f"{len(data)} bytes",
            hint="extract it anew, or name the right SDK and config",
        )
    signatures = []
    position = 0
    for block in regenerated.blocks:
        fips = None
        if block.fips_offset is not None:
            fips = FipsSignature.parse(data, position + Sigstruct.SIZE)
        signatures.append(BlockSignature(Sigstruct.parse(data, position), fips))
        position += _signature_size(block)
    return tuple(signatures)


def _signature_size(block: Block) -> int:
    return Sigstruct.SIZE + (0 if block.fips_offset is None else FipsSignature.SIZE)


def put_on(regenerated: Regenerated, signatures: Sequence[BlockSignature]) -> bytes:
    """The descriptor with signatures in their places.

    Raises:
        GraftError: a signature is for other metadata: the message names the fields.
    """
    if len(signatures) != len(regenerated.blocks):
        raise GraftError(
            "not as many signatures as metadata blocks",
            expected=str(len(regenerated.blocks)),
            found=str(len(signatures)),
        )
    blocks = [
        signed_block(block, signature, index)
        for index, (block, signature) in enumerate(zip(regenerated.blocks, signatures))
    ]
    return b"".join(b.serialise() for b in blocks).ljust(regenerated.size, b"\0")


def signed_block(block: Block, signature: BlockSignature, index: int = 0) -> Block:
    """A regenerated block with its signature.

    Raises:
        GraftError: see `put_on`.
    """
    wrong = [
        spec.name
        for spec in Sigstruct.table()
        if spec.name not in SIGNATURE_FIELDS
        and getattr(block.sigstruct, spec.name) != getattr(signature.sigstruct, spec.name)
    ]
    if wrong:
        first = wrong[0]
        raise GraftError(
            f"the signature of block {index} is for another enclave: "
            f"{', '.join(wrong)} of its SIGSTRUCT differ",
            expected=f"{first} {_text(getattr(block.sigstruct, first))}",
            found=_text(getattr(signature.sigstruct, first)),
            hint="compare the build with the vendor's file to see why",
        )
    data = block.data
    if block.fips_offset is not None:
        if signature.fips is None:
            raise GraftError(f"block {index} needs a FIPS signature", hint="extract it anew")
        at = block.fips_offset - block.data_offset
        data = data[:at] + signature.fips.serialise() + data[at + FipsSignature.SIZE :]
    return replace(block, sigstruct=signature.sigstruct, data=data)


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else f"0x{value:x}"
