# SPDX-License-Identifier: GPL-2.0-or-later
"""Make every metadata byte that the SDK's signing tool writes, but the signatures.

Input are the unsigned enclave and its config.xml, never the vendor's metadata:
taking that as input would make the comparison prove nothing.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp, and
generate_compatible_metadata in sign_tool.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sgx_enclaves.errors import ConfigError, FormatError, UnsupportedError
from sgx_enclaves.format.attributes import (
    FLAG_AEXNOTIFY,
    FLAG_DEBUG,
    FLAG_EINITTOKENKEY,
    FLAG_KSS,
    FLAG_MODE64BIT,
    FLAG_PROVISIONKEY,
    XFRM_AMX,
    XFRM_LEGACY,
    XFRM_PKRU,
)
from sgx_enclaves.format.config import Config
from sgx_enclaves.format.elf import PAGE_SIZE, EnclaveImage, page_ceil
from sgx_enclaves.format.metadata import (
    ATTR_POST_ADD,
    DIR_ELRANGE,
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    ELRANGE_MAJOR,
    EXTEND_FIPS_SIGNATURE,
    Block,
    BlockHeader,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    FipsSignature,
    Layout,
    LayoutEntry,
    LayoutGroup,
    PatchEntry,
    Version,
)
from sgx_enclaves.format.sigstruct import (
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    TYPE_DEBUG,
    VENDOR_INTEL,
    Sigstruct,
)
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.measurement.mrenclave import mrenclave
from sgx_enclaves.signing.checks import check_values
from sgx_enclaves.signing.generation import XSAVE_SIZES, Generation
from sgx_enclaves.signing.globaldata import SSA_GPR_SIZE, build_global_data
from sgx_enclaves.signing.layout import (
    GUARD,
    HEAP_INIT,
    HEAP_MAX,
    RSRV_INIT,
    RSRV_MAX,
    RSRV_MIN,
    SSA,
    STACK_MAX,
    TCS,
    TD,
    THREAD_GROUP,
    LayoutPlan,
    Sizes,
    plan_layout,
)

TCS_FLAG_AEXNOTIFY = 2
_U64 = (1 << 64) - 1
# Offsets of the header fields that name the section headers (Elf64_Ehdr), with
# their sizes, in the order in which the tool blanks them.
_SECTION_HEADER_FIELDS = ((60, 2), (40, 8), (62, 2))
_ZEROS = 8


@dataclass(frozen=True)
class Regenerated:
    """What the signing tool would write, with all signature fields zero.

    Attributes:
        blocks: the metadata blocks in file order.
        size: bytes of the descriptor.
        mrenclave: the measurement of the unsigned enclave with them, 32 bytes.
        generation: the SDK generation that was followed.
    """

    blocks: tuple[Block, ...]
    size: int
    mrenclave: bytes
    generation: Generation

    @property
    def descriptor(self) -> bytes:
        """All blocks and the zeros behind them."""
        return b"".join(b.serialise() for b in self.blocks).ljust(self.size, b"\0")


def regenerate(
    image: EnclaveImage,
    config: Config,
    generation: Generation,
    fips: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Regenerated:
    """Regenerate the metadata of `image` as `generation` would.

    Args:
        image: the unsigned enclave.
        config: its config.xml.
        generation: the SDK that signed it.
        fips: ask for the IPP FIPS signature; only for an SDK that takes this
            on its command line (2.24).
        limits: bounds for the measurement.

    Raises:
        ConfigError: the tool would refuse the configuration.
        UnsupportedError: an option that this SDK lacks or that we cannot do.
        FormatError: the tool would refuse the enclave.
        LimitError: the measurement would cost too much.
    """
    config = generation.understand(config)
    values = generation.values(config)
    check_values(values, config)
    if values["EnableOSSLFIPS"]:
        raise UnsupportedError(
            "the option EnableOSSLFIPS is not supported",
            file=config.name,
            hint="such an enclave embeds a module that is not in the unsigned file",
        )
    if fips and not generation.fips_by_argument:
        raise UnsupportedError(
            f"SDK {generation.name} takes the FIPS signature from its configuration",
            hint="drop the argument",
        )
    _check_image(image, generation)
    newest = _newest_block(image, config, values, generation, fips or bool(values["EnableIPPFIPS"]))
    measured = mrenclave(image, newest.block, limits)
    block = replace(newest.block, sigstruct=replace(newest.block.sigstruct, enclavehash=measured))
    blocks = _file_order(block, newest, values, generation)
    size = generation.metadata_size
    if sum(b.header.size for b in blocks) > size:
        raise ConfigError(
            "the metadata does not fit its area",
            file=config.name,
            expected=f"at most {size} bytes",
            found=f"{sum(b.header.size for b in blocks)} bytes",
        )
    return Regenerated(blocks, size, measured, generation)


def _check_image(image: EnclaveImage, generation: Generation) -> None:
    if image.descriptor_size != generation.metadata_size:
        raise FormatError(
            f"the metadata area is not of the size that SDK {generation.name} has",
            file=image.name,
            offset=image.descriptor_offset,
            expected=f"{generation.metadata_size} bytes",
            found=f"{image.descriptor_size} bytes",
            hint="name the SDK generation that built the enclave",
        )


@dataclass(frozen=True)
class _Newest:
    """The block for the newest loader, and what it was made of."""

    block: Block
    plan: LayoutPlan
    sizes: Sizes
    wants_newest: bool
    wants_compatible: bool


def _newest_block(
    image: EnclaveImage,
    config: Config,
    values: Mapping[str, int],
    generation: Generation,
    fips: bool,
) -> _Newest:
    elrange = _elrange(values)
    version = _with_elrange(generation.newest, elrange)
    sigstruct = _sigstruct(values, generation)
    xfrm = ~sigstruct.attributemask_xfrm & _U64 | (
        sigstruct.attributes_xfrm & sigstruct.attributemask_xfrm
    )
    xsave_size = [size for bits, size in XSAVE_SIZES if xfrm & bits == bits][-1]
    fixed = generation.fixed_save_buffer
    frame = 1 if fixed is not None else page_ceil(xsave_size + SSA_GPR_SIZE) // PAGE_SIZE
    sizes = Sizes.of(values, config.given, frame)
    wants_newest, wants_compatible = _wanted(values, sizes, generation, config)

    # The data area grows in this order; tables know their place once they are made.
    start = Block.DIRECTORIES_OFFSET + version.directory_count * Directory.SIZE
    directories = [Directory() for _ in range(version.directory_count)]
    data = b""
    if elrange is not None:
        directories[DIR_ELRANGE] = Directory(start, ElrangeEntry.SIZE)
        data += elrange.serialise()
    if fips:
        at = start + len(data)
        directories[DIR_EXTEND] = Directory(at, ExtendEntry.SIZE)
        entry = ExtendEntry(EXTEND_FIPS_SIGNATURE, FipsSignature.SIZE, at + ExtendEntry.SIZE)
        data += entry.serialise() + bytes(FipsSignature.SIZE)
    tcs_at = start + len(data)
    plan = plan_layout(image, sizes, generation, tcs_at, wants_newest)
    _check_elrange(elrange, plan, config)
    tcs = _tcs_template(image, plan, elrange, bool(values["EnableAEXNotify"]))
    global_data_at = tcs_at + len(tcs)
    global_data = build_global_data(
        image, generation, values, sizes, plan, tcs, xsave_size, elrange, fips
    )
    zeros_at = global_data_at + len(global_data)
    patches = _patches(image, generation, global_data_at, len(global_data), zeros_at)
    patches_at = zeros_at + _ZEROS
    layout_at = patches_at + len(patches)
    layout = b"".join(item.serialise() for item in plan.table)
    directories[DIR_PATCH] = Directory(patches_at, len(patches))
    directories[DIR_LAYOUT] = Directory(layout_at, len(layout))
    data += tcs + global_data + bytes(_ZEROS) + patches + layout
    header = BlockHeader(
        version=version.word,
        size=start + len(data),
        tcs_policy=values["TCSPolicy"],
        ssa_frame_size=frame,
        max_save_buffer_size=xsave_size if fixed is None else fixed,
        desired_misc_select=values["MiscSelect"] if generation.passes_misc_select else 0,
        tcs_min_pool=values["TCSMinPool"],
        enclave_size=plan.enclave_size,
        attributes_flags=sigstruct.attributes_flags,
        attributes_xfrm=xfrm,
    )
    block = Block(0, header, sigstruct, tuple(directories), data)
    return _Newest(block, plan, sizes, wants_newest, wants_compatible)


def _sigstruct(values: Mapping[str, int], generation: Generation) -> Sigstruct:
    """SIGSTRUCT without measurement and signature (CMetadata::fill_enclave_css)."""
    flags, mask = FLAG_MODE64BIT, generation.flags_mask
    for option, bit in (
        ("ProvisionKey", FLAG_PROVISIONKEY),
        ("LaunchKey", FLAG_EINITTOKENKEY),
        ("EnableKSS", FLAG_KSS),
        ("EnableAEXNotify", FLAG_AEXNOTIFY),
    ):
        if values[option]:
            flags |= bit
            mask |= bit
    if values["DisableDebug"]:
        mask |= FLAG_DEBUG
    xfrm = XFRM_LEGACY
    # Legacy state and everything that the SDK does not know must be as signed.
    xfrm_mask = XFRM_LEGACY | (_U64 & ~generation.xfrm)
    for option, bits in (("PKRU", XFRM_PKRU), ("AMX", XFRM_AMX)):
        if values[option] == 1:
            xfrm |= bits
        if values[option] == 2:
            xfrm_mask &= ~bits
        else:
            xfrm_mask |= bits
    select = values["MiscSelect"]
    return Sigstruct(
        header1=HEADER1,
        type=TYPE_DEBUG if values["ReleaseType"] else 0,
        vendor=VENDOR_INTEL if values["IntelSigned"] else 0,
        header2=HEADER2,
        swdefined=values["HW"],
        exponent=RSA_EXPONENT,
        miscselect=select & values["MiscMask"] if generation.passes_misc_select else select,
        miscmask=values["MiscMask"],
        isvfamilyid=struct.pack("<QQ", values["ISVFAMILYID_L"], values["ISVFAMILYID_H"]),
        attributes_flags=flags,
        attributes_xfrm=xfrm,
        attributemask_flags=mask,
        attributemask_xfrm=xfrm_mask,
        isvextprodid=struct.pack("<QQ", values["ISVEXTPRODID_L"], values["ISVEXTPRODID_H"]),
        isvprodid=values["ProdID"],
        isvsvn=values["ISVSVN"],
    )


def _wanted(
    values: Mapping[str, int], sizes: Sizes, generation: Generation, config: Config
) -> tuple[bool, bool]:
    """Whether the newest and the compatible block are written (CMetadata::check_config)."""
    select = bool(values["MiscSelect"] & 1)
    mask = bool(values["MiscMask"] & 1)
    if sizes.user_region and not (select and mask):
        raise ConfigError(
            "UserRegionSize needs bit 0 of MiscSelect and of MiscMask", file=config.name
        )
    if not generation.chooses_blocks:
        return True, True
    if sizes.user_region:
        return True, False
    if not sizes.is_dynamic or not select:
        return False, True
    return True, not mask


def _with_elrange(version: Version, elrange: ElrangeEntry | None) -> Version:
    return version if elrange is None else Version(version.major + ELRANGE_MAJOR, version.minor)


def _elrange(values: Mapping[str, int]) -> ElrangeEntry | None:
    if not values["ELRangeSize"]:
        return None
    return ElrangeEntry(
        values["EnclaveImageAddress"], values["ELRangeStartAddress"], values["ELRangeSize"]
    )


def _check_elrange(elrange: ElrangeEntry | None, plan: LayoutPlan, config: Config) -> None:
    if elrange is None:
        return
    image, start, size = (
        elrange.enclave_image_address,
        elrange.elrange_start_address,
        elrange.elrange_size,
    )
    if image % PAGE_SIZE or start % PAGE_SIZE or size % PAGE_SIZE:
        problem = "the ELRANGE addresses and size are not whole pages"
    elif size & (size - 1):
        problem = "ELRangeSize is not a power of two"
    elif start & (size - 1):
        problem = "ELRangeStartAddress is not a multiple of ELRangeSize"
    elif start > image or image + plan.enclave_size > start + size or start + size > _U64:
        problem = "the enclave does not fit its ELRANGE"
    else:
        return
    raise ConfigError(
        problem,
        file=config.name,
        found=f"image 0x{image:x} of 0x{plan.enclave_size:x} bytes, "
        f"range 0x{start:x} of 0x{size:x} bytes",
    )


def _tcs_template(
    image: EnclaveImage, plan: LayoutPlan, elrange: ElrangeEntry | None, aex_notify: bool
) -> bytes:
    """The first 72 bytes of a TCS; the loader adds the page's address to three of them."""
    delta = 0
    if elrange is not None:
        delta = elrange.enclave_image_address - elrange.elrange_start_address
    tcs = plan.first(TCS).rva
    td = plan.first(TD)
    base = td.rva - tcs + (td.page_count - 1) * PAGE_SIZE + delta & _U64
    return struct.pack(
        "<QQQIIQQQQII",
        0,
        TCS_FLAG_AEXNOTIFY if aex_notify else 0,
        plan.first(SSA).rva - tcs + delta & _U64,
        0,
        2,
        image.symbol_address("enclave_entry") + delta & _U64,
        0,
        base,
        base,
        0xFFFF_FFFF,
        0xFFFF_FFFF,
    )


def _patches(
    image: EnclaveImage, generation: Generation, source: int, size: int, zeros: int
) -> bytes:
    """The patch table: global data, then blanks over what names the section headers."""
    address = image.symbol_address("g_global_data")
    target = image.file_offset(address)
    if target is None or target + size > len(image.data):
        raise FormatError("g_global_data is not in the file", file=image.name)
    if generation.checks_sdk_version:
        found = int.from_bytes(image.data[target : target + 8], "little")
        if found >> 16 not in generation.version_prefixes:
            raise FormatError(
                "the enclave was built with another SDK",
                file=image.name,
                offset=target,
                expected=f"SDK {' or '.join(generation.releases)}",
                found=f"SDK {found >> 32}.{found >> 16 & 0xFFFF} (word 0x{found:x})",
                hint="name the SDK generation that built the enclave",
            )
    patches = [PatchEntry(target, source, size)]
    patches += [PatchEntry(at, zeros, width) for at, width in _SECTION_HEADER_FIELDS]
    return b"".join(p.serialise() for p in patches)


def _file_order(
    block: Block, newest: _Newest, values: Mapping[str, int], generation: Generation
) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if newest.wants_newest:
        blocks.append(block)
        if not block.version.has_elrange:
            blocks += [_reversioned(block, version) for version in generation.copies]
    if newest.wants_compatible:
        blocks.append(_compatible_block(block, newest.plan, values, generation))
    placed = []
    position = 0
    for item in blocks:
        placed.append(replace(item, offset=position))
        position += item.header.size
    return tuple(placed)


def _reversioned(block: Block, version: Version) -> Block:
    return replace(block, header=replace(block.header, version=version.word))


def _compatible_block(
    block: Block, plan: LayoutPlan, values: Mapping[str, int], generation: Generation
) -> Block:
    """The block for SGX1 loaders: the same pages, without what changes at run time."""
    version = generation.compatible
    if block.version.has_elrange:
        version = Version(version.major + ELRANGE_MAJOR, version.minor)
    table = compatible_layout(plan.table, values["TCSNum"])
    layout = b"".join(item.serialise() for item in table)
    old = block.directories[DIR_LAYOUT]
    directories = list(block.directories)
    directories[DIR_LAYOUT] = Directory(old.offset, len(layout))
    # The layout table is the last thing in a block.
    data = block.data[: old.offset - block.data_offset] + layout
    size = old.offset + len(layout)
    return replace(
        block,
        header=replace(block.header, version=version.word, size=size),
        directories=tuple(directories),
        data=data,
    )


def compatible_layout(table: tuple[Layout, ...], tcs_num: int) -> list[Layout]:
    """The layout of the compatible block (generate_compatible_metadata, SDK 2.3 and later)."""
    first = next(i for i, item in enumerate(table) if item.id == GUARD)
    last = next(i for i, item in enumerate(table) if item.id == TD)
    rest = table[last + 1 :]
    reserved = [i for i in rest if i.id in (RSRV_MIN, RSRV_INIT, RSRV_MAX)]
    if not rest:
        return _without_growth(table)
    if rest[0].id == RSRV_MIN:
        return _without_growth(table[: last + 1]) + _reserved_without_growth(rest)
    thread = table[first : last + 1]
    step = sum(e.page_count for e in thread if isinstance(e, LayoutEntry)) * PAGE_SIZE
    group = LayoutGroup(THREAD_GROUP, len(thread), tcs_num - 1, step)
    return [*_without_growth(table[: last + 1]), group, *_reserved_without_growth(reserved)]


def _without_growth(table: tuple[Layout, ...]) -> list[Layout]:
    """Heap and stack that do not grow: what is not there at the start is left out."""
    seen: set[int] = set()
    result: list[Layout] = []
    for item in table:
        if isinstance(item, LayoutEntry) and item.id not in seen:
            seen.add(item.id)
            if item.id in (HEAP_INIT, HEAP_MAX, STACK_MAX):
                item = _fixed(item, HEAP_MAX)  # noqa: PLW2901
        result.append(item)
    return result


def _reserved_without_growth(table: Sequence[Layout]) -> list[Layout]:
    return [
        _fixed(item, RSRV_MAX)
        if isinstance(item, LayoutEntry) and item.id in (RSRV_INIT, RSRV_MAX)
        else item
        for item in table
    ]


def _fixed(entry: LayoutEntry, unmapped_id: int) -> LayoutEntry:
    flags = 0 if entry.id == unmapped_id else entry.si_flags
    return replace(entry, attributes=entry.attributes & ~ATTR_POST_ADD, si_flags=flags)
