# SPDX-License-Identifier: GPL-2.0-or-later
"""Put signatures on an unsigned enclave: the vendor's, or those that a key makes.

*Grafting* puts the vendor's signatures on our build and hands it out only if it verifies. A
signature file holds, for each metadata block in order, the SIGSTRUCT (1808 bytes) and, if the
block has one, the FIPS signature (772 bytes); nothing else. The build says how many.

*Signing* is for tests and private vendors, without the SDK: with a key, or with a signature that
was made where the key is. The result equals the SDK's tool's for the same key, date and config,
but for the FIPS signature, whose key is random by design.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage, require_unsigned
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.metadata import EXTEND_SHARED_OBJECT, Block, Descriptor
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import Generation, candidate_generations
from sgx_enclaves.enclave.sigstruct import (
    FIPS_EXPONENT,
    KEY_SIZE,
    RSA_EXPONENT,
    SIGNATURE_FIELDS,
    FipsSignature,
    Sigstruct,
    quotients,
    rsa_defects,
)
from sgx_enclaves.enclave.verdict import Outcome, Severity, Verdict
from sgx_enclaves.errors import GraftError, SigningError
from sgx_enclaves.plain import record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey


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
    """The signatures of all blocks."""
    if not descriptor.is_signed:
        raise GraftError("the enclave is not signed", hint="take the vendor's signed file")
    return tuple(BlockSignature(b.sigstruct, b.fips_signature) for b in descriptor.blocks)


def parse_signatures(data: bytes, regenerated: Regenerated) -> tuple[BlockSignature, ...]:
    """The signatures for `regenerated`'s blocks, out of a signature file or a signed enclave.

    One SIGSTRUCT will do where all blocks have the same. GraftError if the file is longer or
    shorter than these blocks need, FormatError for a malformed enclave.
    """
    if data[:4] == ELF_MAGIC:
        return extract(Descriptor.parse(EnclaveImage.parse(data, "signatures").descriptor))
    blocks = regenerated.blocks
    with_fips = [block.fips_offset is not None for block in blocks]
    if len(data) == Sigstruct.SIZE and len({block.sigstruct for block in blocks}) == 1:
        data = data * len(blocks)
    wanted = Sigstruct.SIZE * len(blocks) + FipsSignature.SIZE * sum(with_fips)
    if len(data) != wanted:
        raise GraftError(
            "the signature file does not fit this build's metadata",
            expected=f"{wanted} bytes for {len(blocks)} block(s)",
            found=f"{len(data)} bytes",
            hint="extract it again, or name the right SDK and config",
        )
    rest = io.BytesIO(data)
    signatures = []
    for has_fips in with_fips:
        sigstruct = Sigstruct.parse(rest.read(Sigstruct.SIZE))
        fips = FipsSignature.parse(rest.read(FipsSignature.SIZE)) if has_fips else None
        signatures.append(BlockSignature(sigstruct, fips))
    return tuple(signatures)


def signed_descriptor(regenerated: Regenerated, signatures: Sequence[BlockSignature]) -> bytes:
    """The descriptor with signatures in their places."""
    if len(signatures) != len(regenerated.blocks):
        raise GraftError(
            "not as many signatures as metadata blocks",
            expected=str(len(regenerated.blocks)),
            found=str(len(signatures)),
        )
    blocks = map(_signed_block, regenerated.blocks, signatures, itertools.count())
    return replace(regenerated, blocks=tuple(blocks)).descriptor


def _signed_block(block: Block, signature: BlockSignature, index: int) -> Block:
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
            expected=f"{first} {_spelled(block.sigstruct, first)}",
            found=_spelled(signature.sigstruct, first),
            hint="compare the build with the vendor's file to see why",
        )
    data = block.data
    if block.fips_offset is not None:
        if signature.fips is None:
            raise GraftError(f"block {index} needs a FIPS signature", hint="extract it again")
        at = block.fips_offset - block.data_offset
        data = data[:at] + signature.fips.serialise() + data[at + FipsSignature.SIZE :]
    return replace(block, sigstruct=signature.sigstruct, data=data)


def _spelled(sigstruct: Sigstruct, field: str) -> str:
    value = getattr(sigstruct, field)
    return value.hex() if isinstance(value, bytes) else f"0x{value:x}"


def graft(
    built: bytes,
    signatures: bytes,
    config: bytes,
    policy: Policy,
    *,
    names: tuple[str, str, str] = ("built", "signatures", "config.xml"),
    generation: Optional[Generation] = None,
    fips: bool = False,
) -> tuple[bytes, Verdict]:
    """Our bytes with the vendor's signatures, and the verdict, which is always *identical*.

    Raises:
        GraftError: the signatures are not for this build, or do not satisfy the policy.
        FormatError, ConfigError, UnsupportedError, LimitError: bad input.
    """
    image = EnclaveImage.parse(built, names[0])
    require_unsigned(image)
    chosen = candidate_generations(image, generation)[0]
    regenerated = regenerate(image, Config.parse(config, names[2]), chosen, fips)
    parsed = parse_signatures(signatures, regenerated)
    result = image.with_descriptor(signed_descriptor(regenerated, parsed))
    verdict = compare(built, result, config, policy, names=names, generation=chosen)
    if verdict.outcome is not Outcome.IDENTICAL:
        worst = next(f for f in verdict.findings if f.severity is not Severity.NOTE)
        raise GraftError(
            f"the graft does not verify: {worst.message}",
            file=names[1],
            expected=worst.expected,
            found=worst.found,
            hint=worst.hint,
        )
    return result, verdict


def bcd_date(date: datetime.date) -> int:
    """The date as SIGSTRUCT holds it: 2024-02-29 is 0x20240229."""
    return int(date.strftime("%Y%m%d"), 16)


def load_key(pem: bytes, name: str = "key", passphrase: Optional[bytes] = None) -> RSAPrivateKey:
    """A private key that can sign enclaves.

    SigningError if it is no PEM RSA key of 3072 bits with exponent 3, or without its passphrase.
    """
    key: RSAPrivateKey = read_private_key(pem, name, passphrase)
    _check_key(key.public_key(), name)
    return key


def read_private_key(pem: bytes, name: str, passphrase: Optional[bytes]) -> Any:
    """A private key in PEM, of whatever kind."""
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
    """The public key of enclaves out of a public or private key or a certificate, PEM or DER."""
    return _check_key(read_public_key(data, name), name)


def read_public_key(data: bytes, name: str) -> object:
    """The public key, of whatever kind, out of a key or a certificate, PEM or DER."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    readers: tuple[Callable[[], object], ...] = (
        lambda: serialization.load_pem_public_key(data),
        lambda: serialization.load_der_public_key(data),
        lambda: x509.load_pem_x509_certificate(data).public_key(),
        lambda: x509.load_der_x509_certificate(data).public_key(),
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


def _check_key(key: object, name: str) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    if not isinstance(key, RSAPublicKey):
        raise SigningError(
            "not an RSA key",
            file=name,
            expected="RSA, 3072 bits, exponent 3",
            hint="`openssl genrsa -3 -out key.pem 3072` makes such a key",
        )
    exponent = key.public_numbers().e
    if key.key_size != 8 * KEY_SIZE or exponent != RSA_EXPONENT:
        raise SigningError(
            "not a key for enclaves",
            file=name,
            expected="3072 bits, exponent 3",
            found=f"{key.key_size} bits, exponent {exponent}",
            hint="openssl genrsa -3 3072 makes one",
        )
    return key


def mrsigner_of(data: bytes, name: str = "key") -> bytes:
    """MRSIGNER of a key, a certificate, a SIGSTRUCT or a signed enclave.

    SigningError for none of these or several signers, FormatError for a malformed enclave.
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
    """The signed enclave file; without a `fips_key`, a throw-away key makes that signature."""
    signer = signer_of(key)
    return sign_with(image, regenerated, key.public_key(), signer, bcd_date(date), fips_key)


def sign_with(
    image: EnclaveImage,
    regenerated: Regenerated,
    public: RSAPublicKey,
    signer: Signer,
    date: int,
    fips_key: Optional[RSAPrivateKey] = None,
) -> bytes:
    """The same by a signer that has the key elsewhere; `date` is as `bcd_date` gives it."""
    signatures = []
    signed: dict[Sigstruct, BlockSignature] = {}
    for block in regenerated.blocks:
        if block.sigstruct not in signed:
            sigstruct = signed_sigstruct(replace(block.sigstruct, date=date), public, signer)
            has_fips = block.fips_offset is not None
            fips = _fips_signature(sigstruct, fips_key) if has_fips else None
            signed[block.sigstruct] = BlockSignature(sigstruct, fips)
        signatures.append(signed[block.sigstruct])
    return image.with_descriptor(signed_descriptor(regenerated, signatures))


def signing_data(regenerated: Regenerated, date: int) -> bytes:
    """The 256 bytes that a signer elsewhere must sign, as `sgx_sign gendata` writes them."""
    messages = {replace(b.sigstruct, date=date).signed_message for b in regenerated.blocks}
    if len(messages) != 1:
        raise SigningError(
            "the metadata blocks need different signatures",
            expected="one SIGSTRUCT for all blocks",
            found=f"{len(messages)} SIGSTRUCTs",
        )
    return messages.pop()


def date_of_signing_data(data: bytes, name: str = "data") -> int:
    """The date in what `signing_data` gave, as SIGSTRUCT holds it."""
    start, end = Sigstruct.range_of("date")
    if len(data) != 256:
        message, found = "not the data that sign-data writes", f"{len(data)} bytes"
        raise SigningError(message, file=name, expected="256 bytes", found=found)
    return int.from_bytes(data[start:end], "little")


def signed_sigstruct(sigstruct: Sigstruct, public: RSAPublicKey, signer: Signer) -> Sigstruct:
    """A SIGSTRUCT with key, signature and quotients filled in."""
    raw = signer(sigstruct.signed_message)
    modulus = public.public_numbers().n
    signature = int.from_bytes(raw, "big")
    if len(raw) != KEY_SIZE or signature >= modulus:
        raise SigningError(
            "no RSA signature of 3072 bits by this key",
            expected=f"{KEY_SIZE} bytes, big endian, as openssl and PKCS#11 write them",
            found=f"{len(raw)} bytes",
            hint="give the bytes as they are, not in Base64 or hexadecimal",
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


def signer_of(key: RSAPrivateKey) -> Signer:
    """A signer that has the key at hand."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return lambda message: key.sign(message, PKCS1v15(), SHA256())


def _fips_signature(sigstruct: Sigstruct, key: Optional[RSAPrivateKey]) -> FipsSignature:
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415

    key = key or generate_private_key(FIPS_EXPONENT, 8 * KEY_SIZE)
    numbers = key.public_key().public_numbers()
    signature = signer_of(key)(sigstruct.serialise())
    return FipsSignature(numbers.n.to_bytes(KEY_SIZE, "little"), numbers.e, signature)


def unsigned(image: EnclaveImage) -> bytes:
    """A signed enclave with its metadata area zeroed: what a reproduced build must be."""
    blocks = Descriptor.parse(image.descriptor).blocks
    if not blocks:
        raise SigningError("the enclave is not signed", file=image.name, hint="nothing to take off")
    if any(e.entry_id == EXTEND_SHARED_OBJECT for b in blocks for e in b.extensions):
        raise SigningError(
            "the tool appended the OpenSSL FIPS provider to this enclave (EnableOSSLFIPS)",
            file=image.name,
            hint="such an enclave cannot be unsigned yet",
        )
    return image.with_descriptor(bytes(image.descriptor_size))
