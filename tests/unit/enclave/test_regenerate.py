# SPDX-License-Identifier: GPL-2.0-or-later
"""Regeneration: what it says when it refuses, and what golden values cannot show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.enclave.config import OPTIONS, RENAMED, Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor, LayoutId, Version
from sgx_enclaves.enclave.regenerate import patched, regenerate
from sgx_enclaves.enclave.sdk import GENERATIONS, Generation, generation_named
from sgx_enclaves.errors import (
    ConfigError,
    FormatError,
    LimitError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import Limits
from tests.enclaves.sdk import sdk_releases, sdk_shape, sdk_version
from tests.enclaves.synthetic import Tls, small_enclave

SMALL = {"HeapMaxSize": 0x4000, "StackMaxSize": 0x3000}
ELRANGE = 0x8000000


def attempt(sdk: str, config: dict[str, int], **overrides: Any) -> Descriptor:
    image = EnclaveImage.parse(small_enclave(sdk=sdk, **overrides), "e.so")
    return Descriptor.parse(
        regenerate(image, Config(config, "c.xml"), generation_named(sdk)).descriptor
    )


def test_every_release_is_in_one_generation() -> None:
    releases = [release for g in GENERATIONS for release in g.releases]
    assert sorted(releases) == sorted(set(releases)) == sorted(sdk_releases())
    for generation in GENERATIONS:
        assert generation.name == generation.releases[0]
        shapes = [sdk_shape(r) for r in generation.releases]
        assert {shape.descriptor_size for shape in shapes} == {generation.metadata_size}
        if generation.checks_sdk_version:
            words = {shape.version >> 16 for shape in shapes}
            assert words == generation.version_prefixes
    for release in releases:
        assert release in generation_named(release).releases


@pytest.mark.parametrize("name", ["2.30", "3.0", "", "2", "2.25.1", "1.4"])
def test_an_unknown_release_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="is unknown") as caught:
        generation_named(name)
    assert "2.25" in str(caught.value)


def versions(release: str) -> tuple[Optional[Version], ...]:
    generation = generation_named(release)
    return (generation.newest, *generation.copies, generation.compatible)


def test_metadata_versions_of_a_generation() -> None:
    assert versions("2.17") == (Version(2, 4), Version(2, 1), Version(1, 4))
    assert versions("2.26") == (Version(3, 3), Version(1, 5))
    assert versions("1.9") == (Version(1, 4), None)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
def test_an_option_that_an_sdk_lacks_is_refused_by_name(generation: Generation) -> None:
    sdk = generation.releases[0]
    lacking = set(OPTIONS) - generation.options
    assert lacking
    for name in lacking:
        with pytest.raises(UnsupportedError, match=f"c.xml: SDK {sdk} has no option {name}"):
            attempt(sdk, {name: OPTIONS[name].minimum})


def test_reserved_memory_under_its_old_name() -> None:
    old = attempt("2.7", {**SMALL, "RsrvMaxSize": 0x3000})
    assert [b.layout_name(i) for b in old.blocks[:1] for i in b.layout].count("RSRV_INIT") == 1
    new = attempt("2.8", {**SMALL, "ReservedMemMaxSize": 0x3000})
    assert old.blocks[0].layout == new.blocks[0].layout
    assert set(RENAMED) <= generation_named("2.6").options
    with pytest.raises(ConfigError, match="ReservedMemMaxSize is not a multiple"):
        attempt("2.7", {"RsrvMaxSize": 0x800})


def test_an_embedded_fips_module_is_refused_by_name() -> None:
    assert attempt("2.26", {**SMALL, "EnableOSSLFIPS": 0}).blocks
    with pytest.raises(UnsupportedError) as caught:
        attempt("2.26", {**SMALL, "EnableOSSLFIPS": 1})
    text = str(caught.value)
    assert text.startswith("c.xml: the option EnableOSSLFIPS is not supported")
    assert "module" in text
    assert "not in the unsigned file" in text
    with pytest.raises(ConfigError, match="exclude each other"):
        attempt("2.26", {"EnableOSSLFIPS": 1, "EnableIPPFIPS": 1})


# Least, most and default in the table of sdk/sign_tool/SignTool/sign_tool.cpp at the release's tag.
STACK, HEAP, HEAP_START = "StackMaxSize", "HeapMaxSize", "HeapMinSize"
RANGES = [
    (("1.5", "1.6"), STACK, 0x1000, 0xFFFF_FFFF, 0x40000),
    (("1.5", "1.6"), HEAP, 0, 0xFFFF_FFFF, 0x100000),
    (("1.7", "1.8", "1.9"), STACK, 0x1000, 0x1F_FFFF_FFFF, 0x40000),
    (("1.7", "1.8", "1.9"), HEAP, 0, 0x1F_FFFF_FFFF, 0x100000),
    (("2.0", "2.1", "2.3.1"), STACK, 0x1000, 0x1F_FFFF_FFFF, 0x40000),
    (("2.0", "2.1", "2.3.1"), HEAP, 0, 0x1F_FFFF_FFFF, 0x1000000),
    (("2.0", "2.1", "2.3.1"), "StackMinSize", 0x1000, 0x1F_FFFF_FFFF, 0x1000),
    (("2.4", "2.9.1", "2.10"), STACK, 0x2000, 0x1F_FFFF_FFFF, 0x40000),
    (("2.0", "2.4", "2.9.1", "2.10"), HEAP_START, 0, 0x1F_FFFF_FFFF, 0x1000),
    (("2.4", "2.9.1", "2.10"), "StackMinSize", 0x2000, 0x1F_FFFF_FFFF, 0x2000),
    (("2.13", "2.14", "2.29"), STACK, 0x2000, (1 << 63) - 1, 0x40000),
]


@pytest.mark.parametrize(("releases", "name", "least", "most", "default"), RANGES)
def test_the_sizes_that_each_tool_takes(
    releases: tuple[str, ...], name: str, least: int, most: int, default: int
) -> None:
    for release in releases:
        generation = generation_named(release)
        assert generation.values(Config({}))[name] == default
        for value in (least, most):
            assert generation.values(Config({name: value}))[name] == value
        for value in (least - 1, most + 1):
            with pytest.raises(ConfigError, match=f"{name} is out of range"):
                generation.values(Config({name: value}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ProdID": 0x10000}, "ProdID is out of range .expected 0x0 to 0xffff, found 0x10000"),
        ({"TCSNum": 0}, "TCSNum is out of range"),
        ({"StackMaxSize": 0x1000}, "StackMaxSize is out of range"),
        ({"StackMaxSize": 0x2800}, "StackMaxSize is not a multiple"),
        ({"StackMaxSize": 0x2000, "StackMinSize": 0x3000}, "StackMinSize is larger than Stack"),
        ({"HeapMaxSize": 0x1001}, "HeapMaxSize is not a multiple"),
        ({"HeapMaxSize": 0x1000, "HeapMinSize": 0x2000}, "HeapMinSize is larger than HeapMax"),
        (
            {"HeapMaxSize": 0x3000, "HeapMinSize": 0x2000, "HeapInitSize": 0x1000},
            "HeapMinSize is larger than HeapInit",
        ),
        ({"HeapMaxSize": 0x3000, "HeapInitSize": 0x4000}, "HeapInitSize is larger than HeapMax"),
        ({"ReservedMemMinSize": 0x1000}, "ReservedMemMinSize is larger"),
        ({"UserRegionSize": 0x800}, "UserRegionSize is not a multiple"),
        ({"UserRegionSize": 0x1000}, "UserRegionSize needs bit 0"),
        ({"HW": 1}, "HW and LaunchKey"),
        ({"LaunchKey": 1}, "HW and LaunchKey"),
        ({"TCSNum": 3, "TCSMaxNum": 2}, "TCSMaxNum is smaller than TCSNum"),
        ({"TCSNum": 3, "TCSMaxNum": 4, "TCSMinPool": 5}, "TCSMinPool is larger than TCSMaxNum"),
        ({"TCSNum": 3, "TCSMinPool": 4}, "TCSMinPool is larger than TCSNum"),
        ({"ISVFAMILYID_H": 1}, "need EnableKSS"),
        ({"ISVEXTPRODID_L": 1}, "need EnableKSS"),
        ({"EnclaveImageAddress": 0x1000}, "EnclaveImageAddress needs ELRangeSize"),
        ({"ELRangeStartAddress": 0}, "ELRangeStartAddress needs ELRangeSize"),
        ({"ELRangeSize": ELRANGE, "EnclaveImageAddress": 0x1800}, "not whole pages"),
        ({"ELRangeSize": 0x6000000, "EnclaveImageAddress": 0x1000}, "not a power of two"),
        (
            {"ELRangeSize": ELRANGE, "ELRangeStartAddress": 0x1000},
            "not a multiple of ELRangeSize",
        ),
        ({"ELRangeSize": 0x1000, "EnclaveImageAddress": 0x1000}, "does not fit its ELRANGE"),
        ({"TCSNum": 5, "TCSMaxNum": 1 << 31, "StackMaxSize": 1 << 42}, "address space"),
    ],
)
def test_values_that_the_tool_refuses(config: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attempt("2.25", config)


def test_the_second_signature_of_sdk_2_24_is_asked_for_by_argument() -> None:
    image = EnclaveImage.parse(small_enclave(sdk="2.24"))
    plain = regenerate(image, Config(SMALL), generation_named("2.24"))
    with_fips = regenerate(image, Config(SMALL), generation_named("2.24"), fips=True)
    assert plain.blocks[0].fips_offset is None
    assert with_fips.blocks[0].fips_offset is not None
    other = EnclaveImage.parse(small_enclave(sdk="2.25"))
    with pytest.raises(UnsupportedError, match="from its configuration"):
        regenerate(other, Config(SMALL), generation_named("2.25"), fips=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"descriptor_size": 0x5000}, "not of the size that SDK 2.25 has"),
        ({"sdk_version": sdk_version(2, 24)}, "built with another SDK"),
        ({"sdk_version": 0}, "found SDK 0.0"),
        ({"global_data_symbol": False}, "g_global_data is missing"),
        ({"entry_symbol": False, "header_fields": {"e_entry": 0}}, "enclave_entry is missing"),
        ({"dynamic": False}, "no section holds"),
    ],
)
def test_enclaves_that_the_tool_refuses(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        attempt("2.25", SMALL, **overrides)


def test_global_data_outside_the_file() -> None:
    image = EnclaveImage.parse(small_enclave())
    symbol = image.dynamic_symbols["g_global_data"]
    for address in (symbol.st_value + 0x3000, 1 << 40):
        moved = replace(image)
        moved.dynamic_symbols["g_global_data"] = replace(symbol, st_value=address)
        with pytest.raises(FormatError, match="g_global_data is not in the file"):
            regenerate(moved, Config(SMALL), generation_named("2.25"))


def test_another_revision_of_the_same_sdk_is_accepted() -> None:
    usual = attempt("2.25", SMALL)
    assert attempt("2.25", SMALL, sdk_version=sdk_version(2, 25, 101)).blocks == usual.blocks


def test_too_many_layout_entries_and_a_full_area() -> None:
    generation = replace(generation_named("2.25"), layout_entries=5)
    image = EnclaveImage.parse(small_enclave())
    with pytest.raises(ConfigError, match="too many layout entries"):
        regenerate(image, Config(SMALL), generation)
    cramped = replace(generation_named("2.25"), metadata_size=0x1000)
    small = EnclaveImage.parse(small_enclave(descriptor_size=0x1000))
    with pytest.raises(ConfigError, match="does not fit its area"):
        regenerate(small, Config(SMALL), cramped)


def test_an_area_that_is_full_to_the_last_byte() -> None:
    generation = generation_named("2.25")
    image = EnclaveImage.parse(small_enclave())
    used = sum(b.header.size for b in regenerate(image, Config(SMALL), generation).blocks)
    full = EnclaveImage.parse(small_enclave(descriptor_size=used))
    made = regenerate(full, Config(SMALL), replace(generation, metadata_size=used))
    assert len(made.descriptor) == used


@pytest.mark.parametrize("sdk", ["2.16", "2.17", "2.18", "2.25"])
@pytest.mark.parametrize(("threads", "heap"), [(1, 0x7000), (2, 0x10000)])
def test_an_enclave_without_pages_to_spare(sdk: str, threads: int, heap: int) -> None:
    """Its layout ends with a thread, not with a guard; as each SDK's own sgx_sign writes it."""
    stack = {"StackMinSize": 0x2000, "StackMaxSize": 0x2000}
    sizes = dict.fromkeys(("HeapMinSize", "HeapInitSize", "HeapMaxSize"), heap)
    block = attempt(sdk, {**stack, **sizes, "TCSNum": threads}).blocks[-1]
    assert block.header.enclave_size == {1: 0x40000, 2: 0x80000}[threads]
    ids = [item.id for item in block.layout]
    one = ["HEAP_MIN", "GUARD", "STACK_MIN", "GUARD", "TCS", "SSA", "GUARD", "TD"]
    assert ids == [*(LayoutId[name] for name in one), *([0x1009] if threads > 1 else [])]


def test_global_data_up_to_the_end_of_the_file() -> None:
    image = EnclaveImage.parse(small_enclave())
    target, _ = image.global_data
    assert target is not None
    room = len(image.data) - target
    data, _ = patched(image, generation_named("2.25"), 0, bytes(room))
    assert data.startswith(bytes(room))
    with pytest.raises(FormatError, match="g_global_data is not in the file"):
        patched(image, generation_named("2.25"), 0, bytes(room + 1))


def test_the_first_byte_of_the_metadata_is_compared() -> None:
    image = EnclaveImage.parse(small_enclave())
    made = regenerate(image, Config(SMALL), generation_named("2.25"))
    assert made.differences(b"\xff" + made.descriptor[1:]) == [(0, 1)]


def test_the_measurement_is_bounded() -> None:
    with pytest.raises(LimitError, match="too many pages"):
        attempt("2.25", {"HeapMaxSize": 1 << 45})
    with pytest.raises(LimitError, match="too often"):
        attempt("2.25", {"TCSNum": (1 << 32) - 1, "TCSMinPool": (1 << 32) - 1})


def test_a_huge_tls_is_laid_out_as_the_tool_counts() -> None:
    for sdk in ("1.8", "2.25"):
        with pytest.raises(SgxEnclavesError):
            attempt(sdk, SMALL, tls=Tls(memsz=(1 << 64) - 0x2000, align=1))


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_values_are_regenerated_or_refused(generation: Generation, data: Any) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(generation.options)), max_size=8))
    value = st.one_of(
        st.integers(0, 3),
        st.integers(0, 64).map(lambda pages: pages * 0x1000),
        st.integers(12, 64).map(lambda bits: (1 << bits) - 0x1000),
        st.integers(0, (1 << 64) - 1),
    )
    config = Config({name: data.draw(value) for name in names})
    limits = Limits(hashed_bytes=1 << 22, layout_entries=1 << 10)
    image = EnclaveImage.parse(small_enclave(sdk=generation.name))
    try:
        made = regenerate(image, config, generation, limits=limits)
    except SgxEnclavesError as error:
        assert str(error)
        return
    assert len(made.descriptor) == generation.metadata_size
    parsed = Descriptor.parse(made.descriptor)
    assert parsed.blocks == made.blocks
    assert not any(parsed.tail)
