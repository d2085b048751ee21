# SPDX-License-Identifier: GPL-2.0-or-later
"""MRENCLAVE: the fast way against a slow one, and what changes it.

What Intel's tool measures is held in tests/unit/enclave (golden values).
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import PageRun, measure, mrenclave
from sgx_enclaves.enclave.metadata import DIR_PATCH, Block, ElrangeEntry
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.errors import FormatError, SgxEnclavesError
from tests.enclaves.synthetic import PF_R, PF_W, Enclave, Load, build, small_enclave
from tests.unit.enclave.reference import reference_mrenclave

PAGE = 0x1000
SMALL = {"HeapMaxSize": 0x4000, "StackMaxSize": 0x3000}


def signed(config: dict[str, int], **overrides: Any) -> tuple[EnclaveImage, Block]:
    """An enclave and the newest block that SDK 2.25 makes for it."""
    image = EnclaveImage.parse(small_enclave(**overrides))
    return image, regenerate(image, Config(config), generation_named("2.25")).blocks[0]


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ({}, {}),
        (SMALL, {"tls": None}),
        (SMALL, {"bss_size": 0x12345}),
        (SMALL, {"loads": [Load(0x20080, b"abc" * 3000, 0x5000, PF_R | PF_W)]}),
        (SMALL, {"loads": [Load(0x20000, bytes(range(256)) * 99, 0x8000, PF_R)]}),
        (SMALL, {"loads": [Load(0x20000, bytes(range(251)) * 1200)]}),
        (SMALL, {"loads": [Load(0x20800, b"", 0x1900, PF_R | PF_W)]}),
        (SMALL, {"loads": [Load(0x10400, b"", 0, PF_R), Load(0x20000, b"x")]}),
        ({**SMALL, "TCSNum": 9, "TCSMinPool": 8}, {}),
        ({"StackMaxSize": 0x300000, "HeapMaxSize": 0x500000}, {}),
        ({**SMALL, "ELRangeSize": 1 << 28, "EnclaveImageAddress": 0x3000}, {}),
        ({**SMALL, "AMX": 1}, {}),
    ],
)
def test_it_equals_the_slow_way(config: dict[str, int], overrides: dict[str, Any]) -> None:
    image, block = signed(config, **overrides)
    assert mrenclave(image, block) == reference_mrenclave(image, block)
    assert mrenclave(image, block) == block.sigstruct.enclavehash


def test_a_known_block_stands_only_for_those_that_load_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, block = signed(
        {**SMALL, "TCSNum": 3, "ELRangeSize": 1 << 28, "EnclaveImageAddress": 0x3000}
    )
    raw, right = block.serialise(), mrenclave(image, block)
    same = []
    with monkeypatch.context() as patched:
        patched.setattr("sgx_enclaves.enclave.measure.measure", lambda *_: b"hashed")
        for at in (*range(64), *range(block.directories[DIR_PATCH].offset, len(raw))):
            with contextlib.suppress(SgxEnclavesError):
                other = Block.parse(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
                if mrenclave(image, other, known=(block, b"known")) == b"known":
                    same.append(other)
    assert {mrenclave(image, other) for other in same} == {right}
    # What nobody loads: ids, reserved bytes, what is left of the area.
    assert 50 < len(same) < len(raw) / 2


def test_the_compatible_block_loads_what_the_newest_does() -> None:
    image = EnclaveImage.parse(small_enclave())
    new = regenerate(image, Config({}), generation_named("2.25"))
    (other,) = new.unmeasured
    assert mrenclave(image, other, known=(new.measured, b"known")) == b"known"
    assert mrenclave(image, other) == new.mrenclave


def test_every_measured_part_changes_it() -> None:
    image, block = signed(SMALL)
    reference = mrenclave(image, block)
    built = build(Enclave())
    text, data = built.section(".text").sh_offset, built.section(".data").sh_offset
    for offset in (text, data):
        changed = bytearray(image.data)
        changed[offset] ^= 1
        assert mrenclave(EnclaveImage.parse(bytes(changed)), block) != reference
    for field in ("ssa_frame_size", "enclave_size"):
        value = getattr(block.header, field) * 2
        other = replace(block, header=replace(block.header, **{field: value}))
        assert mrenclave(image, other) != reference


def test_an_error_names_the_file() -> None:
    image, block = signed(SMALL)
    other = replace(block, header=replace(block.header, enclave_size=PAGE - 1))
    with pytest.raises(FormatError, match="power of two") as caught:
        mrenclave(replace(image, name="my.so"), other)
    assert caught.value.file == "my.so"


def test_what_is_not_measured_does_not() -> None:
    image, block = signed(SMALL)
    reference = mrenclave(image, block)
    trailing = EnclaveImage.parse(image.data + b"more")
    assert mrenclave(trailing, block) == reference
    other = replace(block, header=replace(block.header, tcs_policy=0, tcs_min_pool=9))
    assert mrenclave(image, other) == reference
    # The patches hide the file's own g_global_data.
    built = build(Enclave())
    changed = bytearray(image.data)
    changed[built.global_data_offset + 100] ^= 0xFF
    assert mrenclave(EnclaveImage.parse(bytes(changed)), block) == reference


def elrange_block(entry: ElrangeEntry) -> tuple[EnclaveImage, Block]:
    image, block = signed({**SMALL, "ELRangeSize": 1 << 28, "EnclaveImageAddress": 0x3000})
    at = block.directories[2].offset - block.data_offset
    data = block.data[:at] + entry.serialise() + block.data[at + ElrangeEntry.SIZE :]
    return image, replace(block, data=data)


@pytest.mark.parametrize(
    "entry",
    [
        ElrangeEntry(0x3000, 0, (1 << 28) + PAGE),
        ElrangeEntry(0x3000, 0, 0),
        ElrangeEntry(0x3000, PAGE, 1 << 28),
        ElrangeEntry(0x3800, 0, 1 << 28),
        ElrangeEntry(0x3000, 1 << 28, 1 << 28),
        ElrangeEntry((1 << 28) - PAGE, 0, 1 << 28),
        ElrangeEntry((1 << 64) - PAGE, (1 << 64) - (1 << 28), 1 << 28),
    ],
)
def test_an_elrange_that_does_not_hold_the_enclave_is_refused(entry: ElrangeEntry) -> None:
    image, block = elrange_block(entry)
    with pytest.raises(FormatError, match="ELRANGE"):
        mrenclave(image, block)


def test_a_good_elrange_is_measured() -> None:
    good = ElrangeEntry((1 << 40) + 0x3000, 1 << 40, 1 << 28)
    image, block = elrange_block(good)
    assert mrenclave(image, block) == reference_mrenclave(image, block)


runs = st.builds(
    lambda offset, count, flags, measured, fill: PageRun(
        offset * PAGE, count, flags, measured, memoryview(bytes([fill]) * PAGE)
    ),
    st.integers(0, 1 << 40),
    st.integers(1, 700),
    st.sampled_from([0x201, 0x203, 0x205, 0x100]),
    st.booleans(),
    st.integers(0, 255),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(runs, max_size=6), st.integers(1, 9), st.integers(0, 1 << 50))
def test_runs_of_any_length_and_place(found: list[PageRun], frame: int, base: int) -> None:
    base = base // PAGE * PAGE
    digest = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", frame, 1 << 60))
    for run in found:
        for index in range(run.count):
            offset = base + run.offset + index * PAGE
            digest.update(struct.pack("<8sQQ40x", b"EADD", offset, run.flags))
            for at in range(0, PAGE if run.measured else 0, 256):
                digest.update(struct.pack("<8sQ48x", b"EEXTEND", offset + at))
                digest.update(run.content[at : at + 256])
    assert measure(frame, 1 << 60, found, base) == digest.digest()


def test_a_large_heap_is_quick() -> None:
    image, block = signed({**SMALL, "HeapMaxSize": 1 << 32})
    start = time.perf_counter()
    assert mrenclave(image, block) == block.sigstruct.enclavehash
    assert time.perf_counter() - start < 5
