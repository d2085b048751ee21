# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps 1, 3 and 4: what a vendor could hide in the metadata of an unchanged payload.

In every test the attacker has a key that the policy accepts, and signs again
what he changed; MRENCLAVE is either right for what he made, or ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sgx_enclaves.enclave.elf_headers import PAGE_SIZE
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import (
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    LAYOUT_GROUP_FLAG,
    Block,
    Directory,
    LayoutEntry,
    LayoutGroup,
    PageAttr,
    PatchEntry,
)
from sgx_enclaves.enclave.sigstruct import SECINFO_RWX, FipsSignature
from sgx_enclaves.enclave.verdict import Origin, Outcome
from sgx_enclaves.errors import FormatError
from tests.enclaves.synthetic import Enclave, build
from tests.support.keys import foreign_key, sign_sigstruct, vendor_key
from tests.support.signed import (
    DATE,
    Case,
    fips_enclave,
    signed_enclave,
    table_bytes,
    with_bytes,
    with_fips_signature,
    with_table,
)
from tests.unit.enclave.verdicts import assert_only, assert_unverifiable, codes, refuted

CODE = b"\xcc" * 16


def text_offset(sdk: str = "2.17") -> int:
    return build(Enclave(sdk=sdk)).section(".text").sh_offset


def patching_code(block: Block) -> Block:
    """One more patch, that writes other instructions over enclave_entry."""
    patch = PatchEntry(text_offset(), block.header.size, len(CODE))
    return with_table(block, DIR_PATCH, table_bytes(block, DIR_PATCH) + patch.serialise(), CODE)


def redirected_patch(block: Block) -> Block:
    """A patch that should blank e_shnum blanks the first instructions; nothing grows."""
    patches = list(block.patches)
    patches[1] = replace(patches[1], dst=text_offset())
    table = b"".join(p.serialise() for p in patches)
    return with_bytes(block, block.directories[DIR_PATCH].offset, table)


def other_global_data(block: Block) -> Block:
    """Another heap offset in what is patched over g_global_data."""
    return with_bytes(block, block.patches[0].src + 16, (0x1000).to_bytes(8, "little"))


def code_for_guard(block: Block) -> Block:
    """A guard page becomes a page of code."""
    table = list(block.layout)
    index, guard = next(
        (i, e) for i, e in enumerate(table) if isinstance(e, LayoutEntry) and not e.attributes
    )
    table[index] = replace(
        guard,
        attributes=PageAttr.EADD | PageAttr.EEXTEND,
        page_count=1,
        content_size=len(CODE),
        content_offset=block.header.size,
        si_flags=SECINFO_RWX,
    )
    return with_table(block, DIR_LAYOUT, b"".join(e.serialise() for e in table), CODE)


def extra_layout(block: Block) -> Block:
    """One more layout entry: a page of code at the end of the enclave."""
    entry = LayoutEntry(
        id=20,
        attributes=PageAttr.EADD | PageAttr.EEXTEND,
        page_count=1,
        rva=block.header.enclave_size - PAGE_SIZE,
        content_size=len(CODE),
        content_offset=block.header.size,
        si_flags=SECINFO_RWX,
    )
    table = list(block.layout)
    last = table[-1]
    if isinstance(last, LayoutEntry):
        # A guard that fills the enclave up gives the page away.
        table[-1] = replace(last, page_count=last.page_count - 1)
    return with_table(block, DIR_LAYOUT, b"".join(e.serialise() for e in [*table, entry]), CODE)


MEASURED_CHANGES: dict[str, Callable[[Block], Block]] = {
    f.__name__: f
    for f in (patching_code, redirected_patch, other_global_data, code_for_guard, extra_layout)
}


@pytest.mark.parametrize("change", MEASURED_CHANGES)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_content_through_the_tables(index: int, change: str) -> None:
    """Guards `_metadata_differences` in compare: the SIGSTRUCT is the honest one.

    Nothing else can see it: the payload is equal, ENCLAVEHASH is that of our
    build, and signature and signer are right.
    """
    case = signed_enclave()
    evil = case.hostile(MEASURED_CHANGES[change], index, measured=False)
    verdict = case.compare(evil)
    assert_only(verdict, "metadata")
    assert codes(verdict) == ["metadata-differs"]
    assert verdict.bytes_of(Origin.UNEXPLAINED) > 0


@pytest.mark.parametrize("change", MEASURED_CHANGES)
def test_content_through_the_tables_signed_for_what_it_is(change: str) -> None:
    """Guards `_compare_measurements`: ENCLAVEHASH is compared with *our* MRENCLAVE.

    The file is consistent: a CPU would load it, and measuring the file itself
    would say so.
    """
    case = signed_enclave()
    evil = case.hostile(MEASURED_CHANGES[change], 1)
    start = case.area.start
    block = Block.parse(evil[case.area], case.blocks[1].offset)
    assert mrenclave(replace(case.image, data=evil), block) == block.sigstruct.enclavehash
    verdict = case.compare(evil)
    assert_only(verdict, "metadata", "measurement")
    wrong = next(f for f in verdict.findings if f.code == "measurement-differs")
    assert wrong.block == 1
    assert wrong.offset == start + block.offset + Block.SIGSTRUCT_OFFSET + 960
    assert (wrong.expected, wrong.found) == (verdict.mrenclave, block.sigstruct.enclavehash.hex())


@pytest.mark.parametrize("field", ["tcs_policy", "tcs_min_pool", "desired_misc_select"])
@pytest.mark.parametrize("index", [0, 2])
def test_header_fields_that_nothing_binds(index: int, field: str) -> None:
    """Guards `_metadata_differences`: neither MRENCLAVE nor a signature covers the field."""
    case = signed_enclave()
    header = case.blocks[index].header
    value = getattr(header, field) ^ 1
    evil = case.hostile(
        lambda block: replace(block, header=replace(header, **{field: value})), index
    )
    blocks = list(case.blocks)
    blocks[index] = replace(blocks[index], header=replace(header, **{field: value}))
    assert evil == case.with_blocks(blocks), "not even a new signature was needed"
    verdict = case.compare(evil)
    assert_only(verdict, "metadata")
    assert verdict.explanation is not None
    assert [d.field for d in verdict.explanation.differences] == [f"block {index} header.{field}"]


@pytest.mark.parametrize("at", [0, 1, 100, -1])
def test_something_behind_the_last_block(at: int) -> None:
    """Guards the comparison of the whole descriptor, tail included."""
    case = signed_enclave()
    used = sum(block.header.size for block in case.blocks)
    descriptor = bytearray(case.descriptor)
    descriptor[used:][at]  # the byte exists
    descriptor[used + at if at >= 0 else at] = 1
    verdict = case.compare(case.with_descriptor(bytes(descriptor)))
    assert_only(verdict, "metadata")


def test_an_entry_that_unrolls_beyond_all_bounds() -> None:
    """A group of 2**32-1 repetitions differs at once; see the traps of offsets for measuring."""
    case = signed_enclave()

    def change(block: Block) -> Block:
        group = LayoutGroup(LAYOUT_GROUP_FLAG | 9, 1, 0xFFFF_FFFF, PAGE_SIZE)
        table = table_bytes(block, DIR_LAYOUT) + group.serialise()
        return with_table(block, DIR_LAYOUT, table)

    evil = case.hostile(change, 0, measured=False)
    with pytest.raises(FormatError, match="leaves the enclave"):
        mrenclave(case.image, Block.parse(evil[case.area]))
    assert_only(case.compare(evil), "metadata")


# The FIPS entry.


def test_the_second_signature_is_free_but_must_be_valid() -> None:
    """Its key is a throw-away one: another valid one makes no difference."""
    case = fips_enclave()
    (block,) = case.blocks
    other = case.with_blocks([with_fips_signature(block)])
    assert case.compare(other).outcome is Outcome.IDENTICAL


def test_a_second_signature_of_another_sigstruct() -> None:
    """Guards `check_fips_signature`: replayed from a file that was signed on another day."""
    case = fips_enclave()
    (block,) = case.blocks
    later = sign_sigstruct(block.sigstruct, vendor_key(), DATE.replace(day=1))
    verdict = case.compare(case.with_blocks([replace(block, sigstruct=later)]))
    assert_only_signature(verdict, "fips-signature-invalid")


@pytest.mark.parametrize("field", ["modulus", "exponent", "signature"])
def test_a_damaged_second_signature(field: str) -> None:
    """Guards `check_fips_signature`, each of its parts."""
    case = fips_enclave()
    (block,) = case.blocks
    fips = block.fips_signature
    assert fips is not None and block.fips_offset is not None
    old: Any = getattr(fips, field)
    new: Any = 3 if isinstance(old, int) else bytes([old[0] ^ 1]) + old[1:]
    data = replace(fips, **{field: new}).serialise()
    verdict = case.compare(case.with_blocks([with_bytes(block, block.fips_offset, data)]))
    assert_only_signature(verdict, "fips-signature-invalid")


def assert_only_signature(verdict: Any, code: str) -> None:
    """Policy is not asked about what nobody validly signed."""
    assert refuted(verdict) == ["signature"]
    assert codes(verdict) == [code]
    assert verdict.outcome is Outcome.DIFFERS


def without_fips(block: Block) -> Block:
    directories = list(block.directories)
    directories[DIR_EXTEND] = Directory()
    return replace(block, directories=tuple(directories))


def test_the_second_signature_left_out() -> None:
    """Guards the metadata check: which entries there are follows from the config alone."""
    case = fips_enclave()
    assert_only(case.compare(case.hostile(without_fips, measured=False)), "metadata")


def test_a_second_signature_that_the_config_does_not_ask_for() -> None:
    case, plain = fips_enclave(), signed_enclave("2.25")
    assert case.image.data == plain.image.data
    verdict = plain.compare(case.signed)
    assert "metadata" in refuted(verdict)


@pytest.mark.parametrize("field", ["entry_id", "size", "offset", "reserved"])
def test_the_entry_of_the_second_signature_changed(field: str) -> None:
    """Guards the metadata check around the 772 free bytes."""
    case = fips_enclave()

    def change(block: Block) -> Block:
        (entry,) = block.extensions
        evil = replace(entry, **{field: getattr(entry, field) + 4})
        return with_bytes(block, block.directories[DIR_EXTEND].offset, evil.serialise())

    (block,) = case.blocks
    evil = case.with_blocks([change(block)])
    verdict = case.compare(evil)
    if field == "size":
        assert_unverifiable(verdict, "metadata-malformed")
    else:
        assert "metadata" in refuted(verdict)
        assert verdict.outcome is Outcome.DIFFERS


def test_a_second_signature_moved_over_other_metadata() -> None:
    """Guards that the free bytes are those of *our* block: the vendor's entry points elsewhere.

    He moves his 772 free bytes over the global data, and signs; his own
    block is well formed.
    """
    case = fips_enclave()

    def change(block: Block) -> Block:
        (entry,) = block.extensions
        moved = replace(entry, offset=block.patches[0].src)
        return with_bytes(block, block.directories[DIR_EXTEND].offset, moved.serialise())

    verdict = case.compare(case.hostile(change, measured=False))
    assert_only(verdict, "metadata")


def test_a_second_signature_moved_over_its_own_entry() -> None:
    """Guards that `free` comes from `regenerated.blocks`: were it read from the vendor's, the
    moved range would excuse the very bytes that moved it.
    """
    case = fips_enclave()
    (block,) = case.blocks
    (entry,) = block.extensions
    at = block.directories[DIR_EXTEND].offset
    moved = with_bytes(block, at, replace(entry, offset=at).serialise())
    # What the range no longer covers is as we regenerate it.
    moved = with_bytes(moved, at + FipsSignature.SIZE, bytes(entry.SIZE))
    assert refuted(case.compare(case.with_blocks([moved]))) == ["metadata", "signature"]


# Trap 3: the vendor's metadata as input to the check.

WRONG_CONFIGS: dict[str, int] = {
    "ProdID": 4,
    "ISVSVN": 8,
    "HeapMaxSize": 0x2000,
    "StackMaxSize": 0x3000,
    "TCSNum": 2,
    "TCSMinPool": 1,
    "TCSPolicy": 0,
    "DisableDebug": 0,
    "IntelSigned": 1,
    "ProvisionKey": 1,
    "MiscSelect": 1,
    "MiscMask": 0,
    "EnableKSS": 1,
    "ReservedMemMaxSize": 0x1000,
    "PKRU": 1,
    "ELRangeSize": 0x400000,
}


@pytest.mark.parametrize("option", WRONG_CONFIGS)
def test_a_wrong_config_is_never_identical(option: str) -> None:
    """Guards that `regenerate` sees the open config and never the vendor's metadata.

    The vendor's file is good in itself; only the config is not the one it was
    made with.
    """
    case, other = signed_enclave(), signed_enclave("2.17", {option: WRONG_CONFIGS[option]})
    assert case.built == other.built
    assert case.compare(config=other.config).outcome is Outcome.DIFFERS
    assert "metadata" in refuted(case.compare(other.signed))


def test_our_side_does_not_depend_on_the_vendors_file() -> None:
    """Guards the same: measurement and generation come out alike for any vendor's file."""
    case = signed_enclave()
    evil = case.hostile(patching_code)
    honest, fooled = case.compare(), case.compare(evil)
    assert (fooled.mrenclave, fooled.sdk) == (honest.mrenclave, honest.sdk)
    assert honest.mrenclave == case.regenerated.mrenclave.hex()


def test_metadata_versions_of_the_vendor_choose_nothing_that_helps() -> None:
    """Guards `detect_generation`: the enclave itself says which SDK built it."""
    case, other = signed_enclave("2.17"), signed_enclave("2.22")
    verdict = case.compare(case.with_descriptor(other.descriptor))
    assert verdict.sdk == "2.17"
    assert "metadata" in refuted(verdict)


# Trap 4: more blocks than one.


def test_a_further_block_by_somebody_else() -> None:
    """Guards the loop of `_check_signatures` over all blocks: a loader may pick the third."""
    case = signed_enclave()
    evil = case.hostile(lambda block: block, 2, key=foreign_key())
    verdict = case.compare(evil)
    assert_only(verdict, "policy")
    assert [(f.code, f.block) for f in verdict.findings] == [("signer-unexpected", 2)]


def test_a_further_block_with_a_broken_signature() -> None:
    """Guards the same loop: the second block's signature counts as much as the first's."""
    case = signed_enclave()
    blocks = list(case.blocks)
    signature = bytearray(blocks[1].sigstruct.signature)
    signature[0] ^= 1
    blocks[1] = replace(
        blocks[1], sigstruct=replace(blocks[1].sigstruct, signature=bytes(signature))
    )
    verdict = case.compare(case.with_blocks(blocks))
    assert refuted(verdict) == ["signature"]
    assert {f.block for f in verdict.findings} == {1}


def test_a_further_block_for_another_mrenclave() -> None:
    """Guards `_compare_measurements` over all blocks."""
    case = signed_enclave()

    def change(block: Block) -> Block:
        return replace(block, sigstruct=replace(block.sigstruct, enclavehash=bytes(32)))

    evil = case.hostile(change, 2, measured=False)
    verdict = case.compare(evil)
    assert_only(verdict, "metadata", "measurement")
    assert [f.block for f in verdict.findings if f.code == "measurement-differs"] == [2]


def test_one_block_more() -> None:
    """Guards the metadata check: a fourth block, well formed and validly signed."""
    case = signed_enclave()
    verdict = case.compare(case.with_blocks([*case.blocks, case.blocks[2]]))
    assert_only(verdict, "metadata")


def test_one_block_more_by_somebody_else_where_one_is_right() -> None:
    """Guards metadata and policy: a second block behind the only one."""
    case = fips_enclave()
    evil = case.signed_block(case.blocks[0], foreign_key())
    verdict = case.compare(case.with_blocks([case.blocks[0], evil]))
    assert_only(verdict, "metadata", "policy")


def test_one_block_less() -> None:
    case = signed_enclave()
    assert_only(case.compare(case.with_blocks(case.blocks[:2])), "metadata")


def test_blocks_in_another_order() -> None:
    case = signed_enclave()
    assert_only(case.compare(case.with_blocks(case.blocks[::-1])), "metadata")


def test_a_block_that_is_no_longer_found() -> None:
    """Guards that unread bytes count: the second block loses its magic and is now tail."""
    case = signed_enclave()
    descriptor = bytearray(case.descriptor)
    at = case.blocks[1].offset
    descriptor[at : at + 8] = bytes(8)
    assert_only(case.compare(case.with_descriptor(bytes(descriptor))), "metadata")


def test_more_blocks_than_any_sdk_writes() -> None:
    """Guards `Limits.metadata_blocks`: a descriptor full of tiny blocks is not read to its end."""
    case = signed_enclave()
    block = case.blocks[2]
    size = block.data_offset
    tiny = replace(
        block,
        header=replace(block.header, size=size),
        directories=tuple(Directory() for _ in block.directories),
        data=b"",
    )
    verdict = case.compare(case.with_blocks([tiny] * (case.image.descriptor_size // size)))
    assert_unverifiable(verdict, "metadata-malformed")


@pytest.mark.parametrize("version", [(1, 2), (2, 5), (4, 0), (10, 0), (0xFFFF, 0xFFFF)])
def test_a_metadata_version_that_nobody_knows(version: tuple[int, int]) -> None:
    """Guards KNOWN_VERSIONS: a clear refusal, and no guess."""
    case = signed_enclave()
    word = version[0] << 32 | version[1]
    descriptor = bytearray(case.descriptor)
    struct.pack_into("<Q", descriptor, 8, word)
    verdict = case.compare(case.with_descriptor(bytes(descriptor)))
    assert_unverifiable(verdict, "metadata-malformed")
    assert any(f"version {version[0]}.{version[1]}" in f.message for f in verdict.findings)


def test_another_known_metadata_version() -> None:
    """Guards the metadata check: the version is neither measured nor signed."""
    case = signed_enclave()
    blocks = list(case.blocks)
    blocks[0] = replace(blocks[0], header=replace(blocks[0].header, version=2 << 32 | 3))
    assert_only(case.compare(case.with_blocks(blocks)), "metadata")


def test_the_cases_are_good_where_nothing_was_changed() -> None:
    case: Case = signed_enclave()
    assert case.with_blocks(case.blocks) == case.signed
    assert case.compare(case.hostile(lambda block: block, 1)).outcome is Outcome.IDENTICAL
