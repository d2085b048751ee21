# SPDX-License-Identifier: GPL-2.0-or-later
"""A built enclave and its signed counterpart, and what an attacker makes of it.

case = signed_enclave()                     # good: compares identical
case.compare()                              # its verdict
case.compare(case.hostile(change))          # one metadata block changed and signed again
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Block, Descriptor, Directory
from sgx_enclaves.enclave.policy import Policy, policy_for
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import sign
from sgx_enclaves.enclave.sigstruct import KEY_SIZE, FipsSignature
from sgx_enclaves.enclave.verdict import Verdict
from sgx_enclaves.explain.explain import explained
from tests.enclaves.synthetic import Enclave, build
from tests.support.keys import fips_key, mrsigner, sign_sigstruct, vendor_key

DATE = datetime.date(2024, 2, 29)

# Little memory, so that measuring is quick; a production signature.
SMALL_OPTIONS = {
    "ProdID": 3,
    "ISVSVN": 7,
    "TCSNum": 1,
    "TCSMinPool": 0,
    "StackMinSize": 0x2000,
    "StackMaxSize": 0x2000,
    "HeapMinSize": 0x1000,
    "HeapMaxSize": 0x1000,
    "DisableDebug": 1,
}

Change = Callable[[Block], Block]


def config_xml(**options: int) -> bytes:
    """A config.xml with `SMALL_OPTIONS` and these on top."""
    lines = "".join(f"  <{k}>0x{v:x}</{k}>\n" for k, v in {**SMALL_OPTIONS, **options}.items())
    return f"<EnclaveConfiguration>\n{lines}</EnclaveConfiguration>\n".encode()


@dataclass(frozen=True)
class Case:
    """A built enclave, its config, and what the test vendor signed.

    Attributes:
        image: the built enclave, parsed.
        config: its config.xml.
        signed: the vendor's file.
        regenerated: the metadata before it was signed.
    """

    image: EnclaveImage
    config: bytes
    signed: bytes
    regenerated: Regenerated

    @property
    def built(self) -> bytes:
        """The unsigned file."""
        return self.image.data

    @property
    def area(self) -> slice:
        """Where the metadata area is in both files."""
        return slice(self.image.descriptor_offset, self.image.descriptor_end)

    @property
    def descriptor(self) -> bytes:
        """The vendor's metadata area."""
        return self.signed[self.area]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The vendor's metadata blocks."""
        return Descriptor.parse(self.descriptor).blocks

    @functools.cached_property
    def policy(self) -> Policy:
        """Trusts the test vendor and nobody else."""
        return policy_for(None, mrsigners=[mrsigner(vendor_key())])

    def compare(
        self, signed: Optional[bytes] = None, policy: Optional[Policy] = None, **options: Any
    ) -> Verdict:
        """The verdict on `signed`, the vendor's file by default, with its reasons."""
        files = (
            options.pop("built", self.built),
            self.signed if signed is None else signed,
            options.pop("config", self.config),
        )
        explaining = options.pop("explaining", True)
        verdict = compare(*files, policy or self.policy, **options)
        return explained(verdict, *files) if explaining else verdict

    def with_descriptor(self, descriptor: bytes) -> bytes:
        """The vendor's file with another metadata area, padded with zeros."""
        size = self.image.descriptor_size
        assert len(descriptor) <= size
        start = self.area.start
        return self.signed[:start] + descriptor.ljust(size, b"\0") + self.signed[start + size :]

    def with_blocks(self, blocks: Sequence[Block]) -> bytes:
        """The vendor's file with these blocks back to back."""
        return self.with_descriptor(b"".join(block.serialise() for block in blocks))

    def hostile(
        self,
        change: Change,
        index: int = 0,
        *,
        key: Optional[RSAPrivateKey] = None,
        measured: bool = True,
    ) -> bytes:
        """The file after one block was changed, and signed again so that it holds together.

        Args:
            change: makes the hostile block.
            index: which block.
            key: who signs; the test vendor by default.
            measured: put the hostile block's own MRENCLAVE into its SIGSTRUCT,
                so that a CPU would take it; otherwise the honest one stays.
        """
        blocks = list(self.blocks)
        blocks[index] = self.signed_block(change(blocks[index]), key, measured)
        return self.with_blocks(blocks)

    def signed_block(
        self, block: Block, key: Optional[RSAPrivateKey] = None, measured: bool = True
    ) -> Block:
        """The block with a SIGSTRUCT that `key` signed for it."""
        block = reread(block)
        sigstruct = block.sigstruct
        if measured:
            sigstruct = replace(sigstruct, enclavehash=mrenclave(self.image, block))
        sigstruct = sign_sigstruct(sigstruct, key or vendor_key(), DATE)
        return with_fips_signature(replace(block, sigstruct=sigstruct))


def reread(block: Block) -> Block:
    """The block as a reader sees it; drops what was cached of its tables."""
    return Block.parse(block.serialise())


def with_fips_signature(block: Block) -> Block:
    """The block with its second signature, where it has one, made for its SIGSTRUCT."""
    if block.fips_offset is None:
        return block
    numbers = fips_key().public_key().public_numbers()
    signature = fips_key().sign(block.sigstruct.serialise(), PKCS1v15(), SHA256())
    fips = FipsSignature(numbers.n.to_bytes(KEY_SIZE, "little"), numbers.e, signature)
    return with_bytes(block, block.fips_offset, fips.serialise())


def with_bytes(block: Block, offset: int, data: bytes) -> Block:
    """The block with other bytes at `offset` of its data area."""
    at = offset - block.data_offset
    assert 0 <= at <= at + len(data) <= len(block.data)
    return replace(block, data=block.data[:at] + data + block.data[at + len(data) :])


def with_table(block: Block, which: int, table: bytes, tail: bytes = b"") -> Block:
    """The block with a table moved to its end and replaced, and `tail` behind it.

    Args:
        block: the block.
        which: DIR_PATCH, DIR_LAYOUT, ...
        table: the new table's bytes.
        tail: bytes that entries may refer to; they start at the block's old size.
    """
    directories = list(block.directories)
    start = block.header.size + len(tail)
    directories[which] = Directory(start, len(table))
    return replace(
        block,
        header=replace(block.header, size=start + len(table)),
        directories=tuple(directories),
        data=block.data + tail + table,
    )


def table_bytes(block: Block, which: int) -> bytes:
    """The bytes of a table of the block."""
    directory = block.directories[which]
    return block.content(directory.offset, directory.size)


@functools.cache
def _signed_enclave(
    sdk: str, options: tuple[tuple[str, int], ...], overrides: tuple[tuple[str, Any], ...]
) -> Case:
    image = EnclaveImage.parse(build(Enclave(sdk=sdk, **dict(overrides))).data, "built")
    config = config_xml(**dict(options))
    regenerated = regenerate(image, Config.parse(config), generation_named(sdk))
    signed = sign(image, regenerated, vendor_key(), DATE, fips_key())
    return Case(image, config, signed, regenerated)


def signed_enclave(
    sdk: str = "2.17", options: Optional[dict[str, int]] = None, **overrides: Any
) -> Case:
    """A small enclave, signed by the test vendor.

    Args:
        sdk: SDK release. "2.17" gives three blocks, "2.25" one.
        options: options of config.xml beside `SMALL_OPTIONS`.
        **overrides: fields of `Enclave`; hashable values only.
    """
    chosen = tuple(sorted((options or {}).items()))
    return _signed_enclave(sdk, chosen, tuple(sorted(overrides.items())))


def fips_enclave() -> Case:
    """A small enclave whose one block has a second signature."""
    return signed_enclave("2.25", {"EnableIPPFIPS": 1})
