# SPDX-License-Identifier: GPL-2.0-or-later
"""Any bytes as an enclave: an answer or a refusal, in bounded time and memory."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.errors import LimitError, SgxEnclavesError
from sgx_enclaves.limits import Limits
from tests.enclaves.synthetic import Enclave, Image, Symbol, build

U64 = (1 << 64) - 1
LIMITS = Limits(hashed_bytes=1 << 23, layout_entries=1 << 12)
CONFIG = Config({"HeapMaxSize": 0x4000, "StackMaxSize": 0x3000})


def signed(**overrides: Any) -> Image:
    """A signed enclave with everything that a reader follows."""
    fields: dict[str, Any] = {"interpreter": "/lib/ld.so", "symtab": True, "textrel": True}
    plain = build(Enclave(**{**fields, **overrides}))
    image = EnclaveImage.parse(plain.data)
    descriptor = regenerate(image, CONFIG, generation_named("2.25")).descriptor
    return build(Enclave(**{**fields, **overrides}, patches={plain.descriptor_offset: descriptor}))


SIGNED = signed()


def read_everything(data: bytes) -> None:
    """Whatever a verb may ask of an enclave file."""
    image = EnclaveImage.parse(data, limits=LIMITS)
    assert image.data is data
    _ = (image.tls_size, image.image_size)
    for descriptor in (image.descriptor,):
        parsed = Descriptor.parse(descriptor, LIMITS)
        assert parsed.serialise() == descriptor
        for block in parsed.blocks:
            _ = (block.elrange, block.fips_signature, block.layout)
            assert len(mrenclave(image, block, LIMITS)) == 32
    assert image.symbol_address("enclave_entry")
    regenerate(image, CONFIG, generation_named("2.25"), limits=LIMITS)


@contextmanager
def bounded(
    size: int, factor: float = 6, constant: int = 4 << 20, seconds: float = 5
) -> Iterator[None]:
    """No more memory than a small multiple of the file and a constant; no hang."""
    start = time.perf_counter()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= factor * size + constant
    assert time.perf_counter() - start < seconds


def try_reading(data: bytes) -> None:
    try:
        read_everything(data)
    except SgxEnclavesError as error:
        assert str(error)
        assert error.as_dict()["message"] == error.message


def test_the_good_file_is_read_whole() -> None:
    with bounded(len(SIGNED.data)):
        read_everything(SIGNED.data)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"\x7fELF" + b)))
def test_any_bytes(data: bytes) -> None:
    with bounded(len(data)):
        try_reading(data)


def headers() -> list[tuple[int, int]]:
    """Offset and size of every header field, and of the note's and the tables' numbers."""
    data = SIGNED.data
    fields = [(at, 2) for at in range(16, 20, 2)] + [(24, 8), (32, 8), (40, 8)]
    fields += [(at, 2) for at in range(52, 64, 2)]
    for index in range(len(SIGNED.segments)):
        at = 64 + 56 * index
        fields += [(at, 4), (at + 4, 4)] + [(at + k, 8) for k in range(8, 56, 8)]
    shoff = struct.unpack_from("<Q", data, 40)[0]
    for index in range(len(SIGNED.sections)):
        at = shoff + 64 * index
        fields += [(at, 4), (at + 4, 4)] + [(at + k, 8) for k in (8, 16, 24, 32, 48, 56)]
    for name in (".dynamic", ".dynsym", ".rela.dyn", ".rela.plt"):
        section = SIGNED.section(name)
        fields += [(section.sh_offset + k, 8) for k in range(0, section.sh_size - 7, 8)]
    note = SIGNED.descriptor_offset - 25
    fields += [(note, 4), (note + 4, 4)]
    fields += [(SIGNED.descriptor_offset + k, 4) for k in range(0, 64, 4)]
    fields += [(SIGNED.descriptor_offset + k, 4) for k in range(0x750, 0x770, 4)]
    tables = SIGNED.descriptor_offset + 0x770
    return fields + [(tables + k, 4) for k in range(0, 2400, 4)]


values = st.one_of(
    st.integers(0, 16),
    st.sampled_from([U64, U64 - 0xFFF, 1 << 63, 1 << 32, (1 << 32) - 1, 0xFFF, 0x1000, 0x7FFF]),
    st.integers(0, len(SIGNED.data)),
    st.integers(0, U64),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(headers()), values), min_size=1, max_size=4))
def test_any_header(changes: list[tuple[tuple[int, int], int]]) -> None:
    data = bytearray(SIGNED.data)
    for (at, size), value in changes:
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    with bounded(len(data)):
        try_reading(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SIGNED.data)))
def test_any_truncation(size: int) -> None:
    with bounded(size):
        try_reading(SIGNED.data[:size])


def long_names(count: int) -> bytes:
    """Many symbols whose names share their bytes."""
    name = "n" * 200_000
    symbols = [Symbol("enclave_x", 1, st_shndx=1) for _ in range(count)]
    built = build(Enclave(extra_symbols=[Symbol(name, 1, st_shndx=1), *symbols]))
    data = bytearray(built.data)
    strings = built.section(".dynstr")
    at = data.index(name.encode(), strings.sh_offset) - strings.sh_offset
    table = built.section(".dynsym")
    for index in range(3, table.sh_size // 24):
        offset = at + 200_000 - 16_000
        data[table.sh_offset + 24 * index : table.sh_offset + 24 * index + 4] = offset.to_bytes(
            4, "little"
        )
    return bytes(data)


def test_names_that_share_their_bytes_do_not_exhaust_memory() -> None:
    data = long_names(3000)
    image = EnclaveImage.parse(data)
    with bounded(len(data)), pytest.raises(SgxEnclavesError):
        image.symbol_address("g_global_data")


def test_section_names_that_share_their_bytes_do_not_exhaust_memory() -> None:
    built = build(Enclave(trailing=b"n" * 3_000_000 + b"\0"))
    data = bytearray(built.data)
    at = built.header.e_shoff + 64 * (len(built.sections) - 1)
    data[at + 24 : at + 40] = struct.pack("<QQ", len(data) - 3_000_001, 3_000_001)
    with bounded(len(data)), pytest.raises(SgxEnclavesError):
        EnclaveImage.parse(bytes(data))


def test_patches_that_share_their_bytes_are_bounded() -> None:
    """Many patches of many bytes: the metadata area is small, whatever the file says."""
    area = bytearray(1 << 20)
    with pytest.raises(LimitError, match="metadata area is too large"):
        EnclaveImage.parse(build(Enclave(descriptor_size=len(area))).data)
