# SPDX-License-Identifier: GPL-2.0-or-later
"""Put the vendor's signatures on our build, and hand it out only if it verifies.

A signature file holds, for each metadata block in order, the SIGSTRUCT (1808
bytes) and, if the block has one, the FIPS signature (772 bytes); nothing else.
How many there must be follows from the build they are put on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.detect import detect_generation, require_unsigned
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import ELF_MAGIC
from sgx_enclaves.enclave.metadata import Block, Descriptor, FipsSignature
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.enclave.sigstruct import SIGNATURE_FIELDS, Sigstruct
from sgx_enclaves.enclave.verdict import Outcome, Severity, Verdict
from sgx_enclaves.errors import GraftError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record


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
    """The signatures for `regenerated`'s blocks.

    Args:
        data: a signature file; one SIGSTRUCT, where all blocks have the same one; or a
            signed enclave.
        regenerated: the metadata of our build.

    Raises:
        GraftError: it is longer or shorter than these blocks need.
        FormatError: a malformed enclave.
    """
    if data[:4] == ELF_MAGIC:
        return extract(Descriptor.parse(EnclaveImage.parse(data, "signatures").descriptor))
    blocks = regenerated.blocks
    if (
        len(data) == Sigstruct.SIZE
        and len({block.sigstruct for block in blocks}) == 1
        and all(block.fips_offset is None for block in blocks)
    ):
        data = data * len(blocks)
    wanted = sum(_signature_size(block) for block in blocks)
    if len(data) != wanted:
        raise GraftError(
            "the signature file does not fit this build's metadata",
            expected=f"{wanted} bytes for {len(regenerated.blocks)} block(s)",
            found=f"{len(data)} bytes",
            hint="extract it again, or name the right SDK and config",
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
            raise GraftError(f"block {index} needs a FIPS signature", hint="extract it again")
        at = block.fips_offset - block.data_offset
        data = data[:at] + signature.fips.serialise() + data[at + FipsSignature.SIZE :]
    return replace(block, sigstruct=signature.sigstruct, data=data)


def _text(value: object) -> str:
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
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[bytes, Verdict]:
    """The signed enclave made of our bytes and the vendor's signatures.

    Args:
        built: the unsigned enclave that we made.
        signatures: see `parse_signatures`.
        config: the enclave's config.xml.
        policy: what must hold of each signature.
        names: what to call the three files.
        generation: the SDK to follow; None chooses it from the build.
        fips: see `regenerate`.
        limits: bounds on memory and time.

    Returns:
        The file, and its verdict, which is always *identical*.

    Raises:
        GraftError: the signatures are not for this build, or do not satisfy the
            policy. Nothing may be written then.
        FormatError, ConfigError, UnsupportedError, LimitError: bad input.
    """
    image = EnclaveImage.parse(built, names[0], limits)
    require_unsigned(image)
    chosen = generation or detect_generation(image)
    regenerated = regenerate(image, Config.parse(config, names[2], limits), chosen, fips, limits)
    descriptor = put_on(regenerated, parse_signatures(signatures, regenerated))
    result = built[: image.descriptor_offset] + descriptor + built[image.descriptor_end :]
    verdict = compare(
        built,
        result,
        config,
        policy,
        names=(names[0], names[1], names[2]),
        generation=chosen,
        limits=limits,
    )
    if verdict.outcome is not Outcome.IDENTICAL:
        worst = next(f for f in verdict.findings if f.severity is not Severity.NOTE)
        raise GraftError(
            f"the graft does not verify: {worst.message}",
            file=names[1],
            expected=worst.expected,
            found=worst.found,
            hint=worst.hint or "nothing was written",
        )
    return result, verdict
