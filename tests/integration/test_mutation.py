# SPDX-License-Identifier: GPL-2.0-or-later
"""No mutant of a signed enclave is identical: each byte, each truncation, each field.

Whole small enclaves, one change at a time, without a sample where it matters.
The explanation costs more than the verdict and is tried on every so many mutants.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import pytest

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage, Obstacle, not_loadable, require_unsigned
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import (
    TABLES,
    Block,
    BlockHeader,
    Directory,
    LayoutEntry,
    LayoutGroup,
)
from sgx_enclaves.enclave.regenerate import Regenerated, regenerate
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.enclave.sigstruct import (
    FipsSignature,
    Sigstruct,
    check_fips_signature,
    check_sigstruct,
)
from sgx_enclaves.enclave.verdict import Origin, Outcome, Range
from sgx_enclaves.explain.description import Description, describe_file
from sgx_enclaves.explain.metadata_causes import fields_by_byte
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.structure import Structure
from tests.support.signed import Case, fips_enclave, signed_enclave

# Parametrised, so that the work spreads over processes.
SHARES = 16
# In the second enclave, whose many zeros show nothing new.
TAIL_STEP = 32
EXPLAIN_EVERY = 64

WORD = 8

Field = tuple[str, int, int]


def two_blocks() -> Case:
    """Everything in one: two blocks with ELRANGE, FIPS entry, thread groups and growth."""
    return signed_enclave(
        "2.26",
        {
            "EnableIPPFIPS": 1,
            "MiscSelect": 1,
            "MiscMask": 0xFFFF_FFFE,
            "HeapMaxSize": 0x3000,
            "TCSNum": 2,
            "TCSMaxNum": 3,
            "EnclaveImageAddress": 0x20_0000,
            "ELRangeStartAddress": 0,
            "ELRangeSize": 0x40_0000,
        },
    )


CASES: dict[str, Callable[[], Case]] = {
    "three blocks": signed_enclave,
    "fips": fips_enclave,
    "two blocks": two_blocks,
}


@pytest.fixture(scope="module", autouse=True)
def _computed_once() -> Iterator[None]:
    """What is read, measured, regenerated and described of our own file, which never changes here.

    Of the vendor's file a block that has no change is read, and its signature checked, once; a
    comparison asks three times where its metadata differ.
    """
    ours = frozenset(case().built for case in CASES.values())
    read = Block.parse
    theirs = [(block.serialise(), block) for case in CASES.values() for block in case().blocks]
    parse, parsed = EnclaveImage.parse, functools.cache(EnclaveImage.parse)
    described = functools.cache(describe_file)
    obstacles: dict[bytes, list[Obstacle]] = {}
    unsigned: set[bytes] = set()
    measured: dict[int, tuple[Block, bytes]] = {}
    made: dict[object, Regenerated] = {}
    differences = Regenerated.differences
    differing: dict[tuple[int, bytes], list[Range]] = {}

    def measured_once(
        image: EnclaveImage, block: Block, limits: Limits, known: object = None
    ) -> bytes:
        # The blocks are those of `made`, and so the same objects.
        if id(block) not in measured:
            measured[id(block)] = block, mrenclave(image, block, limits)
        return measured[id(block)][1]

    def made_once(
        image: EnclaveImage, config: Config, sdk: Generation, fips: bool, *limits: Limits
    ) -> Regenerated:
        key = image.data, repr(config), sdk.name, fips
        if key not in made:
            made[key] = regenerate(image, config, sdk, fips, *limits)
        return made[key]

    def differences_once(new: Regenerated, theirs: bytes) -> list[Range]:
        key = id(new), theirs
        if key not in differing:
            differing.clear()
            differing[key] = differences(new, theirs)
        return differing[key]

    def described_once(data: bytes, name: str, addresses: Iterable[int] = ()) -> Description:
        return (described if data in ours else describe_file)(data, name, tuple(addresses))

    def parsed_once(
        data: bytes, name: str = "enclave", limits: Limits = DEFAULT_LIMITS
    ) -> EnclaveImage:
        return (parsed if data in ours else parse)(data, name, limits)

    def looked_at_once(image: EnclaveImage) -> list[Obstacle]:
        if image.data not in obstacles:
            obstacles[image.data] = not_loadable(image)
        return obstacles[image.data]

    def require_once(image: EnclaveImage) -> None:
        if image.data not in unsigned:
            require_unsigned(image)
            unsigned.add(image.data)

    def read_once(descriptor: bytes, offset: int = 0) -> Block:
        for data, block in theirs:
            if block.offset == offset and descriptor.startswith(data, offset):
                return block
        return read(descriptor, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnclaveImage, "parse", parsed_once)
        patch.setattr(Regenerated, "differences", differences_once)
        patch.setattr(Block, "parse", read_once)
        patch.setattr(Config, "parse", functools.cache(Config.parse))
        for check in (check_sigstruct, check_fips_signature):
            checked = functools.lru_cache(maxsize=16)(check)
            patch.setattr(f"sgx_enclaves.enclave.compare.{check.__name__}", checked)
        patch.setattr("sgx_enclaves.enclave.compare.not_loadable", looked_at_once)
        patch.setattr("sgx_enclaves.enclave.compare.require_unsigned", require_once)
        patch.setattr("sgx_enclaves.enclave.compare.mrenclave", measured_once)
        patch.setattr("sgx_enclaves.enclave.regenerate.mrenclave", measured_once)
        patch.setattr("sgx_enclaves.enclave.compare.regenerate", made_once)
        patch.setattr("sgx_enclaves.explain.description.in_child", lambda work, **_: work())
        patch.setattr("sgx_enclaves.explain.explain.describe_file", described_once)
        patch.setattr("sgx_enclaves.explain.explain.regenerate", made_once)
        fields_once = functools.lru_cache(maxsize=4)(fields_by_byte)
        patch.setattr("sgx_enclaves.explain.explain.fields_by_byte", fields_once)
        yield


def assert_distinguished(
    case: Case, mutant: bytes, changed: Iterable[int], explaining: bool = False
) -> None:
    """Not identical, with a finding, a map of the whole file, and no good word for `changed`."""
    verdict = case.compare(mutant, explaining=explaining)
    assert verdict.outcome is not Outcome.IDENTICAL
    assert verdict.findings
    position = 0
    for part in verdict.byte_map:
        assert part.start == position < part.end
        position = part.end
        if part.origin in (Origin.BUILT, Origin.REGENERATED):
            assert not any(part.start <= offset < part.end for offset in changed)
    assert position == len(mutant)
    assert (verdict.explanation is not None) == explaining


def flipped(data: bytes, offset: int) -> bytes:
    """One bit of one byte turned over; which one goes round with the offset."""
    return data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]


def shared(offsets: Iterable[int], share: int) -> list[int]:
    return [offset for index, offset in enumerate(offsets) if index % SHARES == share]


def telling_offsets(case: Case) -> list[int]:
    """All offsets but those of the unused tail of the metadata area, of which some."""
    last = case.blocks[-1]
    tail = case.area.start + last.offset + last.header.size
    return [
        *range(tail),
        *range(tail, case.area.stop, TAIL_STEP),
        *range(case.area.stop, len(case.signed)),
    ]


@pytest.mark.parametrize("name", CASES)
def test_the_enclaves_themselves_are_identical(name: str) -> None:
    """What makes every other test here mean something."""
    verdict = CASES[name]().compare()
    assert verdict.outcome is Outcome.IDENTICAL
    assert verdict.bytes_of(Origin.UNEXPLAINED) == 0


@pytest.mark.parametrize("share", range(SHARES))
def test_no_flipped_byte_is_identical(share: int) -> None:
    case = signed_enclave()
    for offset in shared(range(len(case.signed)), share):
        assert_distinguished(case, flipped(case.signed, offset), [offset])


@pytest.mark.parametrize("share", range(SHARES))
def test_no_flipped_byte_is_identical_with_a_second_signature(share: int) -> None:
    case = fips_enclave()
    for offset in shared(telling_offsets(case), share):
        assert_distinguished(case, flipped(case.signed, offset), [offset])


@pytest.mark.parametrize("name", CASES)
def test_a_flipped_byte_can_be_explained(name: str) -> None:
    case = CASES[name]()
    # The step is odd to the flipped bit, so all eight come up.
    for offset in range(0, len(case.signed), EXPLAIN_EVERY + 1):
        assert_distinguished(case, flipped(case.signed, offset), [offset], explaining=True)


@pytest.mark.parametrize("share", range(SHARES))
def test_no_truncated_file_is_identical(share: int) -> None:
    case = signed_enclave()
    for size in shared(range(len(case.signed)), share):
        explaining = size % (EXPLAIN_EVERY * SHARES) < SHARES
        assert_distinguished(case, case.signed[:size], (), explaining)


def fields_of(block: Block) -> Iterator[Field]:
    """Name, offset in the block and bytes of all that has a name, and each word of the rest."""

    def structure(kind: type[Structure], start: int, name: str) -> Iterator[Field]:
        for spec in kind.table():
            yield f"{name}.{spec.name}", start + spec.offset, spec.size

    yield from structure(BlockHeader, 0, "header")
    yield from structure(Sigstruct, Block.SIGSTRUCT_OFFSET, "SIGSTRUCT")
    named: set[int] = set()
    for index, (directory, (name, kind)) in enumerate(zip(block.directories, TABLES.items())):
        start = Block.DIRECTORIES_OFFSET + index * Directory.SIZE
        yield from structure(Directory, start, f"directory {name}")
        for entry in range(directory.size // kind.SIZE):
            at = directory.offset + entry * kind.SIZE
            is_group = kind is LayoutEntry and isinstance(block.layout[entry], LayoutGroup)
            yield from structure(LayoutGroup if is_group else kind, at, f"{name}[{entry}]")
            named.update(range(at, at + kind.SIZE))
    if block.fips_offset is not None:
        yield from structure(FipsSignature, block.fips_offset, "FIPS signature")
        named.update(range(block.fips_offset, block.fips_offset + FipsSignature.SIZE))
    # TCS template, global data, zeros.
    at = block.data_offset
    while at < block.header.size:
        size = 1 if at in named else min(WORD, block.header.size - at)
        if at not in named:
            yield f"word 0x{at:x}", at, size
        at += size


VALUES: dict[str, Callable[[int], bytes]] = {
    "0": bytes,
    "1": lambda size: (1).to_bytes(size, "little"),
    "max": lambda size: b"\xff" * size,
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("name", "index"),
    [("three blocks", 0), ("three blocks", 2), ("fips", 0), ("two blocks", 0), ("two blocks", 1)],
)
def test_no_field_can_be_set(name: str, index: int, value: str) -> None:
    case = CASES[name]()
    block = case.blocks[index]
    covered: set[int] = set()
    for count, (_, at, size) in enumerate(fields_of(block)):
        covered.update(range(at, at + size))
        start = case.area.start + block.offset + at
        new = VALUES[value](size)
        old = case.signed[start : start + size]
        if new != old:
            mutant = case.signed[:start] + new + case.signed[start + size :]
            changed = [start + i for i in range(size) if new[i] != old[i]]
            assert_distinguished(case, mutant, changed, explaining=count % EXPLAIN_EVERY == 0)
    assert covered == set(range(block.header.size))
