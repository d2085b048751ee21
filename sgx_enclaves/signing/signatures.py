# SPDX-License-Identifier: GPL-2.0-or-later
"""Take signatures out of signed metadata, and put them on regenerated metadata.

A signature file holds, for each metadata block in order, the SIGSTRUCT (1808
bytes) and, if the block has one, the FIPS signature (772 bytes); nothing else.
How many there must be follows from the build they are put on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

from sgx_enclaves.errors import GraftError
from sgx_enclaves.format.metadata import Block, Descriptor, FipsSignature
from sgx_enclaves.format.sigstruct import SIGNATURE_FIELDS, Sigstruct
from sgx_enclaves.records import record
from sgx_enclaves.signing.regenerate import Regenerated


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
