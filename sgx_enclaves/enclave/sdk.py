# SPDX-License-Identifier: GPL-2.0-or-later
"""The SDK generations: what each one's signing tool does differently, and which made an enclave.

A generation is a row of facts; the row of an older one says only what changed. They were read from
sdk/sign_tool/SignTool, common/inc/internal/metadata.h, global_data.h and thread_data.h of the SDK's
releases, and each is compared with that release's own tool by golden values (tests/data).

The unsigned enclave decides which to follow, by the size of its metadata area, its version word and
the size of its `g_global_data`. What that leaves open nobody else may decide in a comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import field, replace
from enum import Enum
from itertools import accumulate
from typing import Any, Optional

from sgx_enclaves.enclave.config import KSS_IDENTITIES, OPTIONS, RENAMED, SIZES, Config, Option
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import U64_MAX
from sgx_enclaves.enclave.metadata import TCS_TEMPLATE_SIZE, Block, LayoutEntry, Version
from sgx_enclaves.enclave.sigstruct import (
    ATTRIBUTES_NOT_CHECKED,
    XFRM_AMX,
    XFRM_AVX,
    XFRM_AVX512,
    XFRM_LEGACY,
    XFRM_MPX,
    XFRM_PKRU,
    Attribute,
)
from sgx_enclaves.errors import ConfigError, UnsupportedError
from sgx_enclaves.plain import record

_AS = " as "  # in a generation's name, between an unknown SDK and the known one that is followed
# A version word counts up from 2.9.1; what is far beyond is no version word.
_LAST_MAJOR = 9


# How the space for the runtime's own page bookkeeping (EDMM) is computed.
Overhead = Enum("Overhead", "NONE EDMM_V5 SDK_2_18 SDK_2_19 SDK_2_20")


class Rules(Enum):
    """Which rules the layout table follows; named after the first SDK that has them."""

    SDK_2_3 = "2.3"
    # The compatible block was derived otherwise.
    SDK_2_1_3 = "2.1.3"
    # The threads were laid out otherwise, too.
    SDK_2_0 = "2.0"
    # No SGX2: one block, other layout ids (see `sgx_enclaves.enclave.layout`).
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

# The fields of global_data_t in order.
_GLOBAL_DATA = (
    "sdk_version enclave_size heap_offset heap_size rsrv_offset rsrv_size rsrv_executable "
    "thread_policy tcs_max_num tcs_num td_template tcs_template layout_entry_num layout_table "
    "enclave_image_address elrange_start_address elrange_size edmm_bk_overhead fips_on"
)


@record
class Generation:
    """What one SDK's signing tool does.

    Attributes:
        metadata_size: bytes of the descriptor.
        newest: version of the block for SGX2 platforms.
        copies: versions in which that block is repeated unchanged.
        compatible: version of the block for SGX1 platforms; None where the newest is for them.
        chooses_blocks: whether only the blocks that the config needs are written.
        lacks: fields that global_data_t does not have yet.
        layout_entries: entries of the layout table in global_data_t.
        thread_data_size: bytes of thread_data_t in it.
        checks_sdk_version: whether the enclave must carry the tool's version word.
        xfrm: XFRM bits that the SDK knows.
        fixed_save_buffer: bytes of the XSAVE area when not computed from XFRM.
        flags_mask: ATTRIBUTES bits that are always checked.
        passes_misc_select: whether the loader gets the unmasked MISCSELECT.
        grows_reserved: whether reserved memory that is last, and no guard, fills the enclave.
        elrange_fallback: whether global data name the enclave size without ELRANGE.
        ranges: option ranges that differ from the newest SDK's: name to option.
        follows: newest release of the known one that an unknown, newer one is taken for.
        is_branch: whether it was no release; one of its word and sizes is right without a question.
        fips_by_argument: whether IPP FIPS is asked for on the tool's command line.
    """

    releases: tuple[str, ...]
    metadata_size: int
    newest: Version
    copies: tuple[Version, ...]
    compatible: Optional[Version]
    chooses_blocks: bool = True
    options: frozenset[str] = frozenset(OPTIONS) - frozenset(RENAMED)
    lacks: frozenset[str] = frozenset()
    layout_entries: int = 43
    thread_data_size: int = 192
    checks_sdk_version: bool = True
    xfrm: int = XFRM_LEGACY | XFRM_AVX | XFRM_AVX512 | XFRM_PKRU | XFRM_AMX
    fixed_save_buffer: Optional[int] = None
    flags_mask: int = U64_MAX & ~(Attribute.DEBUG | ATTRIBUTES_NOT_CHECKED)
    passes_misc_select: bool = True
    elrange_fallback: bool = False
    overhead: Overhead = Overhead.SDK_2_20
    grows_reserved: bool = False
    rules: Rules = Rules.SDK_2_3
    ranges: Mapping[str, Option] = field(default_factory=dict)
    fips_by_argument: bool = False
    follows: Optional[str] = None
    is_branch: bool = False

    @property
    def name(self) -> str:
        """The first of its releases; of one newer than known, with what it is taken for."""
        return self.releases[0] + (f"{_AS}{self.follows}" if self.follows else "")

    @property
    def global_data(self) -> dict[str, int]:
        """The fields of global_data_t and their bytes, in order."""
        sizes = {
            "td_template": self.thread_data_size,
            "tcs_template": TCS_TEMPLATE_SIZE,
            "layout_table": self.layout_entries * LayoutEntry.SIZE,
        }
        return {name: sizes.get(name, 8) for name in _GLOBAL_DATA.split() if name not in self.lacks}

    @property
    def global_data_size(self) -> int:
        """Bytes of global_data_t."""
        return sum(self.global_data.values())

    def understand(self, config: Config) -> Config:
        """The same options under the names that the newest SDK has for them."""
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
        """Every option's value under this SDK, defaults filled in; of what `understand` gave."""
        options = {**OPTIONS, **self.ranges}
        for name, option in options.items():
            value = config.given.get(name, option.minimum)
            if not option.minimum <= value <= option.maximum:
                raise ConfigError(
                    f"{name} is out of range",
                    file=config.name,
                    expected=f"0x{option.minimum:x} to 0x{option.maximum:x}",
                    found=f"0x{value:x}",
                )
        given = {name: config.given.get(name, option.default) for name, option in options.items()}
        return {
            name: value if isinstance(value, int) else int(given[value])
            for name, value in given.items()
        }

    @functools.cached_property
    def version_prefixes(self) -> frozenset[int]:
        """Version words, no revision (MAKE_VERSION_UINT in common/inc/internal/se_version.h)."""
        # The tool wants its own revision; enclaves of another one are laid out alike.
        parts = (release.split(".") for release in self.releases)
        return frozenset(int(major) << 16 | int(minor) for major, minor, *_ in parts)


_OLD_SIZE_MAX = 0x1F_FFFF_FFFF


def _size_ranges(maximum: int, least_stack: int) -> dict[str, Option]:
    stack = Option("StackMaxSize", maximum, least_stack, OPTIONS["StackMaxSize"].default)
    return {
        **{name: replace(OPTIONS[name], maximum=maximum) for name in SIZES},
        "StackMaxSize": stack,
        "StackMinSize": Option("StackMinSize", maximum, least_stack, least_stack),
    }


def _legacy_ranges(maximum: int) -> dict[str, Option]:
    heap = Option("HeapMaxSize", maximum, 0, 0x100000)
    # No options yet: stack, heap and threads are all there from the start.
    whole = {"StackMinSize": "StackMaxSize", "HeapMinSize": "HeapMaxSize", "TCSMinPool": "TCSNum"}
    fixed = {name: replace(OPTIONS[name], default=other) for name, other in whole.items()}
    return {**_size_ranges(maximum, 0x1000), **fixed, "HeapMaxSize": heap}


_V = Version

_NEWEST = Generation(("2.26", "2.26.1", "2.27", "2.28", "2.29"), 0x6000, _V(3, 3), (), _V(1, 5))
# What each had otherwise than its successor: options `drops` and `adds`, global_data_t `misses`.
_EARLIER: tuple[Mapping[str, Any], ...] = (
    {"releases": ("2.25",), "newest": _V(3, 2), "drops": {"EnableOSSLFIPS"}},
    {
        "releases": ("2.24",),
        "drops": {"EnableIPPFIPS"},
        "misses": {"fips_on"},
        "elrange_fallback": True,
        "fips_by_argument": True,
    },
    {
        "releases": ("2.22", "2.23"),
        "metadata_size": 0x5000,
        "newest": _V(3, 1),
        "compatible": _V(1, 4),
        "fips_by_argument": False,
    },
    {"releases": ("2.20", "2.21"), "newest": _V(3, 0), "passes_misc_select": False},
    {
        "releases": ("2.19",),
        "drops": {"EnableAEXNotify"},
        "misses": {"edmm_bk_overhead"},
        "thread_data_size": 160,
        "overhead": Overhead.SDK_2_19,
    },
    {"releases": ("2.18", "2.18.1"), "layout_entries": 42, "overhead": Overhead.SDK_2_18},
    # The branch edmm_v5, of the word and the sizes of the trees before 2.17.
    {
        "releases": ("2.16.100-edmm",),
        "is_branch": True,
        "drops": {"AMX"},
        "xfrm": XFRM_LEGACY | XFRM_AVX | XFRM_AVX512 | XFRM_PKRU,
        "fixed_save_buffer": 2632,
        "flags_mask": U64_MAX & ~Attribute.DEBUG,
        "overhead": Overhead.EDMM_V5,
    },
    {
        "releases": ("2.17", "2.17.1"),
        "is_branch": False,
        "newest": _V(2, 4),
        "copies": (_V(2, 1),),
        "chooses_blocks": False,
        "drops": {"UserRegionSize"},
        "overhead": Overhead.NONE,
    },
    # Trees between April 2022 and 2.17 call themselves so; their g_global_data has another size.
    {"releases": ("2.16.100",)},
    {"releases": ("2.16",), "misses": {"tcs_num"}},
    {
        "releases": ("2.14", "2.15", "2.15.1"),
        "drops": {"PKRU"},
        "xfrm": XFRM_LEGACY | XFRM_AVX | XFRM_AVX512,
    },
    {
        "releases": ("2.13", "2.13.3"),
        "drops": {"EnclaveImageAddress", "ELRangeStartAddress", "ELRangeSize"},
        "misses": {"enclave_image_address", "elrange_start_address", "elrange_size"},
    },
    {"releases": ("2.10", "2.11", "2.12"), "ranges": _size_ranges(_OLD_SIZE_MAX, 0x2000)},
    {"releases": ("2.9.1",), "grows_reserved": True},
    {"releases": ("2.8", "2.9"), "misses": {"sdk_version"}, "checks_sdk_version": False},
    {
        "releases": ("2.6", "2.7", "2.7.1"),
        "drops": {"ReservedMemExecutable", *RENAMED.values()},
        "adds": {*RENAMED},
        "misses": {"rsrv_executable", "tcs_max_num"},
    },
    {
        "releases": ("2.5",),
        "drops": {*RENAMED},
        "misses": {"rsrv_offset", "rsrv_size"},
        "layout_entries": 38,
        "grows_reserved": False,
    },
    {"releases": ("2.4",), "xfrm": XFRM_LEGACY | XFRM_AVX},
    {
        "releases": ("2.3", "2.3.1"),
        "newest": _V(2, 3),
        "drops": {"EnableKSS", *KSS_IDENTITIES},
        "ranges": _size_ranges(_OLD_SIZE_MAX, 0x1000),
    },
    {"releases": ("2.1.3", "2.2"), "rules": Rules.SDK_2_1_3},
    {"releases": ("2.1", "2.1.1", "2.1.2"), "newest": _V(2, 2), "rules": Rules.SDK_2_0},
    {"releases": ("2.0",), "metadata_size": 0x3000, "newest": _V(2, 1), "copies": ()},
    {
        "releases": ("1.9",),
        "metadata_size": 0x1000,
        "newest": _V(1, 4),
        "compatible": None,
        "drops": {"TCSMaxNum", "TCSMinPool", "StackMinSize", "HeapMinSize", "HeapInitSize"},
        "misses": {"tcs_template", "layout_entry_num", "layout_table"},
        "thread_data_size": 152,
        "rules": Rules.SDK_1_5,
        "ranges": _legacy_ranges(_OLD_SIZE_MAX),
    },
    {"releases": ("1.7", "1.8"), "newest": _V(1, 3)},
    {"releases": ("1.5", "1.6"), "ranges": _legacy_ranges(0xFFFF_FFFF)},
)


def _earlier(newer: Generation, changes: Mapping[str, Any]) -> Generation:
    values = dict(changes)
    options = newer.options - values.pop("drops", set()) | values.pop("adds", set())
    lacks = newer.lacks | values.pop("misses", set())
    return replace(newer, options=options, lacks=lacks, **values)


GENERATIONS: tuple[Generation, ...] = tuple(accumulate(_EARLIER, _earlier, initial=_NEWEST))


def generation_named(name: str) -> Generation:
    """The generation of a release such as 2.17, or of a verdict's name; else UnsupportedError."""
    release, _, known = name.partition(_AS)
    for generation in GENERATIONS:
        if (known or release) in generation.releases:
            return _taken_for(generation, release) if known else generation
    raise UnsupportedError(
        f"SDK {name} is unknown",
        expected="one of " + ", ".join(r for g in GENERATIONS for r in g.releases),
        found=name,
    )


def release_of(word: int) -> str:
    """The release that a version word names, as `2.25` or `2.26.1`; a hundredth is a revision."""
    major, minor, revision = word >> 32, word >> 16 & 0xFFFF, word & 0xFFFF
    last = "" if revision in (0, 100) else f".{revision - 100 if revision > 100 else revision}"
    return f"{major}.{minor}{last}"


def is_newer_than_known(word: int) -> bool:
    """Whether a version word is that of an SDK after the newest known one."""
    return max(GENERATIONS[0].version_prefixes) < word >> 16 and word >> 32 <= _LAST_MAJOR


def candidate_generations(
    image: EnclaveImage, chosen: Optional[Generation] = None
) -> tuple[Generation, ...]:
    """The generations that can have made an unsigned enclave, newest first, branches last.

    `chosen` is what the user names; of an SDK newer than known, what it is taken for.
    UnsupportedError if no known SDK made the enclave, FormatError if it has no g_global_data.
    """
    word = image.sdk_word
    if is_newer_than_known(word):
        named = [_taken_for(chosen or GENERATIONS[0], release_of(word))]
    elif chosen is not None:
        return (chosen,)
    else:
        checked = (g for g in GENERATIONS if g.checks_sdk_version)
        named = [g for g in checked if word >> 16 in g.version_prefixes]
    old = [g for g in GENERATIONS if not g.checks_sdk_version]
    found = [g for g in named if _fits(g, image)] or [g for g in old if _fits(g, image)]
    if not found:
        raise UnsupportedError(
            "no known SDK makes such an enclave",
            file=image.name,
            found=f"a metadata area of {image.descriptor_size} bytes, version word 0x{word:x}, "
            f"g_global_data of {image.global_data[1]} bytes",
            hint=what_to_follow(image),
        )
    return tuple(sorted(found, key=lambda g: g.is_branch))


def _fits(generation: Generation, image: EnclaveImage) -> bool:
    size = image.global_data[1]
    is_of_size = not size or generation.global_data_size == size
    return is_of_size and generation.metadata_size == image.descriptor_size


def what_to_follow(image: EnclaveImage, followed: Optional[str] = None) -> str:
    """The next step for an unknown SDK, as it can be typed; none as new as `followed` fitted."""
    newest = [g.releases[-1] for g in GENERATIONS]
    older = GENERATIONS[newest.index(followed) + 1 :] if followed is not None else GENERATIONS
    fitting = [g.releases[-1] for g in older if _fits(g, image)]
    follow = f", or take it for an SDK that is known: --follow-sdk {fitting[0]}" if fitting else ""
    return f"update this program{follow}"


def detect_generation(image: EnclaveImage) -> Generation:
    """The likeliest generation; for signing and measuring, where nobody is deceived by it."""
    return candidate_generations(image)[0]


def _taken_for(known: Generation, release: str) -> Generation:
    """A known generation, for an enclave whose version word is a newer SDK's."""
    return replace(known, releases=(release,), follows=known.releases[-1])


def wants_fips_by_argument(generation: Generation, vendor_blocks: tuple[Block, ...]) -> bool:
    """Whether the vendor gave SDK 2.24's tool the argument that its config cannot carry."""
    # Only that the signature is there is taken on trust: it is checked, all around it regenerated.
    return generation.fips_by_argument and any(b.fips_offset is not None for b in vendor_blocks)
