# SPDX-License-Identifier: GPL-2.0-or-later
"""Which SDK generation an unsigned enclave was made for."""

from __future__ import annotations

from typing import Optional

from sgx_enclaves.errors import FormatError, UnsupportedError
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import Block, Version
from sgx_enclaves.signing.generation import GENERATIONS, Generation
from sgx_enclaves.signing.globaldata import global_data_size


def sdk_version_word(image: EnclaveImage) -> Optional[int]:
    """The first 8 bytes of g_global_data in the file: the SDK's version word since 2.9.1."""
    offset = image.file_offset(image.symbol_address("g_global_data"))
    if offset is None or offset + 8 > len(image.data):
        return None
    return int.from_bytes(image.data[offset : offset + 8], "little")


def detect_generation(image: EnclaveImage, vendor_blocks: tuple[Block, ...] = ()) -> Generation:
    """Choose the generation whose tool to follow.

    The unsigned enclave decides: its version word, the size of its metadata
    area and of its g_global_data. Only where that leaves a choice do the
    metadata versions of the vendor's file break the tie. A wrong choice cannot
    make files equal: it makes the regenerated metadata differ.

    Raises:
        UnsupportedError: no known SDK made such an enclave.
    """
    sized = [g for g in GENERATIONS if g.metadata_size == image.descriptor_size]
    word = sdk_version_word(image)
    named = [
        g
        for g in sized
        if g.checks_sdk_version and word is not None and word >> 16 in g.version_prefixes
    ]
    candidates = named or [g for g in sized if not g.checks_sdk_version]
    symbol = image.dynamic_symbols.get("g_global_data")
    if symbol is not None and symbol.st_size:
        candidates = [g for g in candidates if global_data_size(g) == symbol.st_size] or candidates
    if vendor_blocks:
        versions = {_plain(b.version) for b in vendor_blocks}
        candidates = [g for g in candidates if versions <= g.versions] or candidates
        # SDK 2.4 and 2.5 differ in the XFRM bits that they know, and in nothing else.
        told = {b.header.attributes_xfrm for b in vendor_blocks}
        candidates = [g for g in candidates if told == {g.xfrm}] or candidates
    if not candidates:
        raise UnsupportedError(
            "no known SDK makes such an enclave",
            file=image.name,
            found=f"a metadata area of {image.descriptor_size} bytes, version word 0x{word or 0:x}",
            hint="name the SDK generation with --sdk if you know it",
        )
    return candidates[0]


def _plain(version: Version) -> Version:
    return Version(version.major % 10, version.minor)


def wants_fips_by_argument(generation: Generation, vendor_blocks: tuple[Block, ...]) -> bool:
    """Whether the vendor gave SDK 2.24's tool the argument that its config cannot carry.

    Only the presence of the second signature is taken from the vendor's file;
    the signature itself is checked, and every byte around it regenerated.
    """
    return generation.fips_by_argument and any(b.fips_offset is not None for b in vendor_blocks)


def require_unsigned(image: EnclaveImage) -> None:
    """Refuse an enclave that already carries metadata as the reference of a comparison.

    Raises:
        FormatError: the metadata area is not all zero.
    """
    if any(image.descriptor):
        raise FormatError(
            "the built enclave is already signed",
            file=image.name,
            offset=image.descriptor_offset,
            expected=f"{image.descriptor_size} zero bytes",
            hint="compare the unsigned result of the build with the vendor's file",
        )
