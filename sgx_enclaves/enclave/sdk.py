# SPDX-License-Identifier: GPL-2.0-or-later
"""The SDK generations: what each one's signing tool does differently.

A generation is a row of facts; the row of an older one says only what changed.
They were read from sdk/sign_tool/SignTool, common/inc/internal/metadata.h and
global_data.h of the SDK's releases, and each is held against that release's
own tool by golden values (tests/data).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from enum import Enum
from typing import Optional

from sgx_enclaves.enclave.config import OPTIONS, RENAMED, Config
from sgx_enclaves.enclave.metadata import Version
from sgx_enclaves.enclave.sigstruct import (
    FLAG_DEBUG,
    FLAGS_NOT_CHECKED,
    XFRM_AMX,
    XFRM_AVX,
    XFRM_AVX512,
    XFRM_LEGACY,
    XFRM_MPX,
    XFRM_PKRU,
)
from sgx_enclaves.errors import ConfigError, UnsupportedError
from sgx_enclaves.plain import record

_U64 = (1 << 64) - 1


class Overhead(Enum):
    """How the space for the runtime's own page bookkeeping (EDMM) is computed."""

    NONE = "none"
    SDK_2_18 = "2.18"
    SDK_2_19 = "2.19"
    SDK_2_20 = "2.20"


class Padding(Enum):
    """What fills the enclave up to a power of two when reserved memory is last."""

    GUARD = "a guard entry"
    GROW_RESERVED = "the reserved memory entry grows"


class Rules(Enum):
    """Which rules the layout table follows; named after the first SDK that has them."""

    SDK_2_3 = "2.3"
    # The compatible block was derived otherwise.
    SDK_2_1_3 = "2.1.3"
    # So were the threads laid out.
    SDK_2_0 = "2.0"
    # No SGX2: one block, other layout ids (see `sgx_enclaves.enclave.blocks`).
    SDK_1_5 = "1.5"


# Bytes of the XSAVE area by XFRM; the last row whose bits are all set counts.
XSAVE_SIZES = (
    (XFRM_LEGACY, 576),
    (XFRM_AVX, 832),
    (XFRM_MPX, 1088),
    (XFRM_AVX512, 2688),
    (XFRM_PKRU, 2752),
    (XFRM_AMX, 11008),
)

_ALL_OPTIONS = frozenset(OPTIONS) - frozenset(RENAMED)


@record
class Generation:
    """What one SDK's signing tool does.

    Attributes:
        name: SDK version, the first of `releases`.
        releases: the SDK versions that behave like this.
        metadata_size: bytes of the descriptor.
        newest: version of the block for SGX2 platforms.
        copies: versions in which that block is repeated unchanged.
        compatible: version of the block for SGX1 platforms; None where the
            newest is for them.
        chooses_blocks: whether only the blocks that the config needs are written.
        options: names of the config options that exist.
        lacks: fields that this generation's global_data_t does not have yet.
        layout_entries: entries of the layout table in global_data_t.
        thread_data_size: bytes of thread_data_t in it.
        checks_sdk_version: whether the enclave must carry the tool's version word.
        xfrm: XFRM bits that the SDK knows.
        fixed_save_buffer: bytes of the XSAVE area when not computed from XFRM.
        flags_mask: ATTRIBUTES bits that are always checked.
        passes_misc_select: whether the loader is told the unmasked MISCSELECT.
        elrange_fallback: whether global data name the enclave size without ELRANGE.
        overhead: see `Overhead`.
        padding: see `Padding`.
        rules: see `Rules`.
        ranges: option ranges that differ from the newest SDK's:
            name to (maximum, minimum, default).
        follows: name of the known generation that an unknown, newer one is taken for.
        fips_by_argument: whether the IPP FIPS signature is asked for on the tool's
            command line and not in the config.
    """

    name: str
    releases: tuple[str, ...]
    metadata_size: int
    newest: Version
    copies: tuple[Version, ...]
    compatible: Optional[Version]
    chooses_blocks: bool = True
    options: frozenset[str] = _ALL_OPTIONS
    lacks: frozenset[str] = frozenset()
    layout_entries: int = 43
    thread_data_size: int = 192
    checks_sdk_version: bool = True
    xfrm: int = XFRM_LEGACY | XFRM_AVX | XFRM_AVX512 | XFRM_PKRU | XFRM_AMX
    fixed_save_buffer: Optional[int] = None
    flags_mask: int = _U64 & ~(FLAG_DEBUG | FLAGS_NOT_CHECKED)
    passes_misc_select: bool = True
    elrange_fallback: bool = False
    overhead: Overhead = Overhead.SDK_2_20
    padding: Padding = Padding.GUARD
    rules: Rules = Rules.SDK_2_3
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    fips_by_argument: bool = False
    follows: Optional[str] = None

    def understand(self, config: Config) -> Config:
        """The same options under the names that the newest SDK has for them.

        Raises:
            UnsupportedError: an option that this SDK does not have.
        """
        for name in config.given:
            if name not in self.options:
                raise UnsupportedError(
                    f"SDK {self.name} has no option {name}",
                    file=config.name,
                    hint="name the right SDK generation, or drop the option",
                )
        given = {RENAMED.get(name, name): value for name, value in config.given.items()}
        return replace(config, given=given)

    def values(self, config: Config) -> dict[str, int]:
        """Every option's value under this SDK, defaults filled in.

        Args:
            config: options that `understand` gave.

        Raises:
            ConfigError: a value out of range.
        """
        values: dict[str, int] = {}
        for name, option in OPTIONS.items():
            maximum, minimum, default = self.ranges.get(
                name, (option.maximum, option.minimum, option.default)
            )
            value = config.given.get(name, default)
            if name in config.given and not minimum <= value <= maximum:
                raise ConfigError(
                    f"{name} is out of range",
                    file=config.name,
                    expected=f"0x{minimum:x} to 0x{maximum:x}",
                    found=f"0x{value:x}",
                )
            values[name] = value
        return values

    @property
    def versions(self) -> frozenset[Version]:
        """All metadata versions that it writes, those without ELRANGE."""
        compatible = () if self.compatible is None else (self.compatible,)
        return frozenset({self.newest, *self.copies, *compatible})

    @property
    def version_prefixes(self) -> frozenset[int]:
        """Version words that g_global_data of an enclave may start with, revision cut off.

        Source: MAKE_VERSION_UINT in common/inc/internal/se_version.h. The tool
        also wants its own revision; enclaves of another revision of the same
        SDK are laid out alike.
        """
        words = set()
        for release in self.releases:
            major, minor = (int(part) for part in release.split(".")[:2])
            words.add(major << 16 | minor)
        return frozenset(words)


def _without(generation: Generation, *names: str) -> frozenset[str]:
    return generation.options - set(names)


_V = Version

_SDK_2_26 = Generation(
    "2.26", ("2.26", "2.26.1", "2.27", "2.28", "2.29"), 0x6000, _V(3, 3), (), _V(1, 5)
)
_SDK_2_25 = replace(
    _SDK_2_26,
    name="2.25",
    releases=("2.25",),
    newest=_V(3, 2),
    options=_without(_SDK_2_26, "EnableOSSLFIPS"),
)
_SDK_2_24 = replace(
    _SDK_2_25,
    name="2.24",
    releases=("2.24",),
    options=_without(_SDK_2_25, "EnableIPPFIPS"),
    lacks=frozenset({"fips_on"}),
    elrange_fallback=True,
    fips_by_argument=True,
)
_SDK_2_22 = replace(
    _SDK_2_24,
    name="2.22",
    releases=("2.22", "2.23"),
    metadata_size=0x5000,
    newest=_V(3, 1),
    compatible=_V(1, 4),
    fips_by_argument=False,
)
_SDK_2_20 = replace(
    _SDK_2_22,
    name="2.20",
    releases=("2.20", "2.21"),
    newest=_V(3, 0),
    passes_misc_select=False,
)
_SDK_2_19 = replace(
    _SDK_2_20,
    name="2.19",
    releases=("2.19",),
    options=_without(_SDK_2_20, "EnableAEXNotify"),
    lacks=_SDK_2_20.lacks | {"edmm_bk_overhead"},
    thread_data_size=160,
    overhead=Overhead.SDK_2_19,
)
_SDK_2_18 = replace(
    _SDK_2_19,
    name="2.18",
    releases=("2.18", "2.18.1"),
    layout_entries=42,
    overhead=Overhead.SDK_2_18,
)
_SDK_2_17 = replace(
    _SDK_2_18,
    name="2.17",
    releases=("2.17", "2.17.1"),
    newest=_V(2, 4),
    copies=(_V(2, 1),),
    chooses_blocks=False,
    options=_without(_SDK_2_18, "AMX", "UserRegionSize"),
    xfrm=_SDK_2_18.xfrm & ~XFRM_AMX,
    fixed_save_buffer=2632,
    flags_mask=_U64 & ~FLAG_DEBUG,
    overhead=Overhead.NONE,
)
# Trees between April 2022 and 2.17 still call themselves 2.16.100; by the size of
# g_global_data they are told from the release.
_SDK_2_16_100 = replace(_SDK_2_17, name="2.16.100", releases=("2.16.100",))
_SDK_2_16 = replace(_SDK_2_17, name="2.16", releases=("2.16",), lacks=_SDK_2_17.lacks | {"tcs_num"})
_SDK_2_14 = replace(
    _SDK_2_16,
    name="2.14",
    releases=("2.14", "2.15", "2.15.1"),
    options=_without(_SDK_2_16, "PKRU"),
    xfrm=_SDK_2_16.xfrm & ~XFRM_PKRU,
)
_SDK_2_13 = replace(
    _SDK_2_14,
    name="2.13",
    releases=("2.13", "2.13.3"),
    options=_without(_SDK_2_14, "EnclaveImageAddress", "ELRangeStartAddress", "ELRangeSize"),
    lacks=_SDK_2_14.lacks | {"elrange"},
    elrange_fallback=False,
)

_SIZES = (
    "StackMaxSize",
    "StackMinSize",
    "HeapMaxSize",
    "HeapMinSize",
    "HeapInitSize",
    "ReservedMemMaxSize",
    "ReservedMemMinSize",
    "ReservedMemInitSize",
)


def _size_ranges(maximum: int, stack_minimum: int) -> dict[str, tuple[int, int, int]]:
    ranges = {}
    for name in _SIZES:
        option = OPTIONS[name]
        minimum, default = option.minimum, option.default
        if name.startswith("Stack"):
            minimum = stack_minimum
        if name == "StackMinSize":
            default = stack_minimum
        ranges[name] = (maximum, minimum, default)
    return ranges


_OLD_SIZE_MAX = 0x1F_FFFF_FFFF

_SDK_2_10 = replace(
    _SDK_2_13,
    name="2.10",
    releases=("2.10", "2.11", "2.12"),
    ranges=_size_ranges(_OLD_SIZE_MAX, 0x2000),
)
_SDK_2_9_1 = replace(
    _SDK_2_10,
    name="2.9.1",
    releases=("2.9.1",),
    padding=Padding.GROW_RESERVED,
)
_SDK_2_8 = replace(
    _SDK_2_9_1,
    name="2.8",
    releases=("2.8", "2.9"),
    lacks=_SDK_2_9_1.lacks | {"sdk_version"},
    checks_sdk_version=False,
)
_SDK_2_6 = replace(
    _SDK_2_8,
    name="2.6",
    releases=("2.6", "2.7", "2.7.1"),
    options=_without(_SDK_2_8, "ReservedMemExecutable", *RENAMED.values()) | set(RENAMED),
    lacks=_SDK_2_8.lacks | {"rsrv_executable", "tcs_max_num"},
)
_SDK_2_5 = replace(
    _SDK_2_6,
    name="2.5",
    releases=("2.5",),
    options=_without(_SDK_2_6, *RENAMED),
    lacks=_SDK_2_6.lacks | {"rsrv"},
    layout_entries=38,
    padding=Padding.GUARD,
)
_SDK_2_4 = replace(_SDK_2_5, name="2.4", releases=("2.4",), xfrm=XFRM_LEGACY | XFRM_AVX)
_SDK_2_3 = replace(
    _SDK_2_4,
    name="2.3",
    releases=("2.3", "2.3.1"),
    newest=_V(2, 3),
    options=_without(
        _SDK_2_4,
        "EnableKSS",
        "ISVFAMILYID_H",
        "ISVFAMILYID_L",
        "ISVEXTPRODID_H",
        "ISVEXTPRODID_L",
    ),
    ranges=_size_ranges(_OLD_SIZE_MAX, 0x1000),
)
_SDK_2_1_3 = replace(_SDK_2_3, name="2.1.3", releases=("2.1.3", "2.2"), rules=Rules.SDK_2_1_3)
_SDK_2_1 = replace(
    _SDK_2_1_3,
    name="2.1",
    releases=("2.1", "2.1.1", "2.1.2"),
    newest=_V(2, 2),
    rules=Rules.SDK_2_0,
)
_SDK_2_0 = replace(
    _SDK_2_1,
    name="2.0",
    releases=("2.0",),
    metadata_size=0x3000,
    newest=_V(2, 1),
    copies=(),
)


def _legacy_ranges(maximum: int) -> dict[str, tuple[int, int, int]]:
    ranges = _size_ranges(maximum, 0x1000)
    ranges["HeapMaxSize"] = (maximum, 0, 0x100000)
    # Not an option yet: the heap is all there from the start.
    ranges["HeapMinSize"] = (maximum, 0, 0)
    return ranges


_SDK_1_9 = replace(
    _SDK_2_0,
    name="1.9",
    releases=("1.9",),
    metadata_size=0x1000,
    newest=_V(1, 4),
    compatible=None,
    options=_without(
        _SDK_2_0, "TCSMaxNum", "TCSMinPool", "StackMinSize", "HeapMinSize", "HeapInitSize"
    ),
    rules=Rules.SDK_1_5,
    ranges=_legacy_ranges(_OLD_SIZE_MAX),
)
_SDK_1_7 = replace(_SDK_1_9, name="1.7", releases=("1.7", "1.8"), newest=_V(1, 3))
_SDK_1_5 = replace(
    _SDK_1_7, name="1.5", releases=("1.5", "1.6"), ranges=_legacy_ranges(0xFFFF_FFFF)
)

GENERATIONS: tuple[Generation, ...] = (
    _SDK_2_26,
    _SDK_2_25,
    _SDK_2_24,
    _SDK_2_22,
    _SDK_2_20,
    _SDK_2_19,
    _SDK_2_18,
    _SDK_2_17,
    _SDK_2_16_100,
    _SDK_2_16,
    _SDK_2_14,
    _SDK_2_13,
    _SDK_2_10,
    _SDK_2_9_1,
    _SDK_2_8,
    _SDK_2_6,
    _SDK_2_5,
    _SDK_2_4,
    _SDK_2_3,
    _SDK_2_1_3,
    _SDK_2_1,
    _SDK_2_0,
    _SDK_1_9,
    _SDK_1_7,
    _SDK_1_5,
)


def generation_named(name: str) -> Generation:
    """The generation of an SDK release such as "2.17" or "2.9.1".

    Raises:
        UnsupportedError: no such SDK is known.
    """
    for generation in GENERATIONS:
        if name in generation.releases:
            return generation
    raise UnsupportedError(
        f"SDK {name} is unknown",
        expected="one of " + ", ".join(r for g in GENERATIONS for r in g.releases),
        found=name,
    )
