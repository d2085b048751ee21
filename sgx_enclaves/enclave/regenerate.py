# SPDX-License-Identifier: GPL-2.0-or-later
"""Make every metadata byte that the SDK's signing tool writes, but the signatures.

Input are the unsigned enclave and its config.xml, never the vendor's metadata:
taking that as input would make the comparison prove nothing.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp, and
generate_compatible_metadata in sign_tool.cpp.

The `g_global_data` that the loader patches into the enclave.

Its fields came one by one over the SDK's releases; a generation says which of
them it lacks. Sources: common/inc/internal/global_data.h and thread_data.h,
psw/urts/parser/update_global_data.hxx.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

from sgx_enclaves.enclave.blocks import (
    LEGACY_GLOBAL_DATA_SIZE,
    ZEROS,
    compatible_block,
    legacy_block,
    loader_xfrm,
    patch_table,
    sigstruct_body,
    tcs_template,
)
from sgx_enclaves.enclave.config import Config, check_values
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, page_ceil
from sgx_enclaves.enclave.layout import (
    HEAP_MIN,
    RSRV_MIN,
    SSA,
    STACK_MIN,
    TCS,
    TD,
    LayoutPlan,
    Sizes,
    plan_layout,
)
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import (
    DIR_ELRANGE,
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    ELRANGE_MAJOR,
    EXTEND_FIPS_SIGNATURE,
    TCS_TEMPLATE_SIZE,
    Block,
    BlockHeader,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    FipsSignature,
    LayoutEntry,
    Version,
)
from sgx_enclaves.enclave.sdk import XSAVE_SIZES, Generation, Rules
from sgx_enclaves.errors import ConfigError, FormatError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record

SSA_GPR_SIZE = 184
_LAYOUT_SIZE = LayoutEntry.SIZE
_GLOBALDATA_U64 = (1 << 64) - 1
# thread_data_t got the AEX-notify fields, and this size, with SDK 2.20.
_THREAD_DATA_WITH_AEX = 192


def global_data_size(generation: Generation) -> int:
    """Bytes of global_data_t."""
    if generation.rules is Rules.SDK_1_5:
        return LEGACY_GLOBAL_DATA_SIZE
    return (
        sum(size for _, size in _fields_before(generation))
        + 8
        + generation.layout_entries * _LAYOUT_SIZE
        + sum(size for _, size in _fields_after(generation))
    )


def _fields_before(generation: Generation) -> list[tuple[str, int]]:
    fields = [
        ("sdk_version", 8),
        ("enclave_size", 8),
        ("heap_offset", 8),
        ("heap_size", 8),
        ("rsrv_offset", 8),
        ("rsrv_size", 8),
        ("rsrv_executable", 8),
        ("thread_policy", 8),
        ("tcs_max_num", 8),
        ("tcs_num", 8),
        ("td_template", generation.thread_data_size),
        ("tcs_template", TCS_TEMPLATE_SIZE),
    ]
    lacks = set(generation.lacks)
    if "rsrv" in lacks:
        lacks |= {"rsrv_offset", "rsrv_size"}
    return [item for item in fields if item[0] not in lacks]


def _fields_after(generation: Generation) -> list[tuple[str, int]]:
    fields: list[tuple[str, int]] = []
    if "elrange" not in generation.lacks:
        fields += [("enclave_image_address", 8), ("elrange_start_address", 8), ("elrange_size", 8)]
    if "edmm_bk_overhead" not in generation.lacks:
        fields.append(("edmm_bk_overhead", 8))
    if "fips_on" not in generation.lacks:
        fields += [("fips_on", 4), ("reserved2", 4)]
    return fields


def build_global_data(
    image: EnclaveImage,
    generation: Generation,
    values: Mapping[str, int],
    sizes: Sizes,
    plan: LayoutPlan,
    tcs_template: bytes,
    xsave_size: int,
    elrange: ElrangeEntry | None,
    fips: bool,
) -> bytes:
    """The bytes that replace g_global_data in the measured image.

    Raises:
        ConfigError: more layout entries than the structure has room for.
    """
    if len(plan.table) > generation.layout_entries:
        raise ConfigError(
            "the configuration needs too many layout entries",
            expected=f"at most {generation.layout_entries}",
            found=str(len(plan.table)),
        )
    by_id = {item.id: item for item in reversed(plan.table)}
    rsrv = by_id.get(RSRV_MIN)
    has_rsrv = isinstance(rsrv, LayoutEntry)
    numbers = {
        # The word that the enclave carries in the file is not measured.
        "sdk_version": 0,
        "enclave_size": plan.enclave_size,
        "heap_offset": plan.first(HEAP_MIN).rva,
        "heap_size": sizes.heap_init,
        "rsrv_offset": rsrv.rva if isinstance(rsrv, LayoutEntry) else 0,
        "rsrv_size": plan.rsrv_size if has_rsrv else 0,
        "rsrv_executable": int(sizes.rsrv_executable) if has_rsrv else 0,
        "thread_policy": values["TCSPolicy"],
        "tcs_max_num": sizes.tcs_max,
        "tcs_num": sizes.tcs_num,
        "enclave_image_address": elrange.enclave_image_address if elrange else 0,
        "elrange_start_address": elrange.elrange_start_address if elrange else 0,
        "elrange_size": elrange.elrange_size
        if elrange
        else (plan.enclave_size if generation.elrange_fallback else 0),
        "edmm_bk_overhead": plan.overhead,
        "fips_on": int(fips),
        "reserved2": 0,
    }
    blobs = {
        "td_template": _thread_data(image, generation, sizes, plan, xsave_size),
        "tcs_template": tcs_template,
    }
    table = b"".join(item.serialise() for item in plan.table)

    def pack(fields: list[tuple[str, int]]) -> bytes:
        return b"".join(
            blobs[name] if name in blobs else numbers[name].to_bytes(size, "little")
            for name, size in fields
        )

    return (
        pack(_fields_before(generation))
        + struct.pack("<II", len(plan.table), 0)
        + table.ljust(generation.layout_entries * _LAYOUT_SIZE, b"\0")
        + pack(_fields_after(generation))
    )


def _thread_data(
    image: EnclaveImage, generation: Generation, sizes: Sizes, plan: LayoutPlan, xsave_size: int
) -> bytes:
    """The template of thread_data_t; addresses are relative to the thread's TCS."""
    tcs = plan.first(TCS).rva
    ssa = plan.first(SSA).rva - tcs
    td_entry = plan.first(TD)
    td = td_entry.rva - tcs + (td_entry.page_count - 1) * PAGE_SIZE
    stack_base = plan.first(STACK_MIN).rva + sizes.stack_min - tcs
    with_aex = generation.thread_data_size == _THREAD_DATA_WITH_AEX
    words = [
        td,  # self_addr
        stack_base,  # last_sp
        stack_base,  # stack_base_addr
        stack_base - sizes.stack_max,  # stack_limit_addr
        ssa + sizes.ssa_frame_size * PAGE_SIZE - SSA_GPR_SIZE,  # first_ssa_gpr
        0,  # stack_guard
        0,  # flags
        xsave_size,
        0,  # last_error
    ]
    if with_aex:
        words += [0, 0, ssa]  # aex_mitigation_list, aex_notify_flag, first_ssa_xsave
    tls_addr_at = 8 * (len(words) + 1)
    words += [
        0,  # m_next
        td - image.tls_size if image.tls_segment is not None else td_entry.rva - tcs,  # tls_addr
        td + tls_addr_at,  # tls_array
    ]
    packed = b"".join((word & _GLOBALDATA_U64).to_bytes(8, "little") for word in words)
    # The rest starts at zero: exception_flag, C++ state, stack_commit_addr, entropy.
    return packed.ljust(generation.thread_data_size, b"\0")


_U64 = (1 << 64) - 1


@record
class Regenerated:
    """What the signing tool would write, with all signature fields zero.

    Attributes:
        blocks: the metadata blocks in file order.
        size: bytes of the descriptor.
        mrenclave: the measurement of the unsigned enclave with them, 32 bytes.
        generation: the SDK generation that was followed.
        measured: the block that `mrenclave` was measured with, whether it is written or not.
    """

    blocks: tuple[Block, ...]
    size: int
    mrenclave: bytes
    generation: Generation
    measured: Block

    @property
    def unmeasured(self) -> tuple[Block, ...]:
        """The blocks that differ from the measured one in more than their place."""
        return tuple(
            b for b in self.blocks if replace(b, offset=self.measured.offset) != self.measured
        )

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
    if generation.rules is Rules.SDK_1_5:
        draft = _Draft(legacy_block(image, values, generation), True, False)
    else:
        fips = fips or bool(values["EnableIPPFIPS"])
        draft = _draft(image, config, values, generation, fips)
    measured = mrenclave(image, draft.block, limits)
    block = replace(draft.block, sigstruct=replace(draft.block.sigstruct, enclavehash=measured))
    blocks = _file_order(replace(draft, block=block), values["TCSNum"], generation)
    size = generation.metadata_size
    if sum(b.header.size for b in blocks) > size:
        raise ConfigError(
            "the metadata does not fit its area",
            file=config.name,
            expected=f"at most {size} bytes",
            found=f"{sum(b.header.size for b in blocks)} bytes",
        )
    return Regenerated(blocks, size, measured, generation, block)


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


@record
class _Draft:
    """The block for the newest loader, and which blocks are written.

    The newest one is what is measured, whether it is written or not.
    """

    block: Block
    wants_newest: bool
    wants_compatible: bool


def _draft(
    image: EnclaveImage,
    config: Config,
    values: Mapping[str, int],
    generation: Generation,
    fips: bool,
) -> _Draft:
    elrange = _elrange(values)
    version = _with_elrange(generation.newest, elrange)
    sigstruct = sigstruct_body(values, generation)
    xfrm = loader_xfrm(sigstruct)
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
    patches = patch_table(image, generation, global_data_at, len(global_data), zeros_at)
    patches_at = zeros_at + len(ZEROS)
    layout_at = patches_at + len(patches)
    layout = b"".join(item.serialise() for item in plan.table)
    directories[DIR_PATCH] = Directory(patches_at, len(patches))
    directories[DIR_LAYOUT] = Directory(layout_at, len(layout))
    data += tcs + global_data + ZEROS + patches + layout
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
    return _Draft(block, wants_newest, wants_compatible)


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
    delta = 0
    if elrange is not None:
        delta = elrange.enclave_image_address - elrange.elrange_start_address
    tcs = plan.first(TCS).rva
    td = plan.first(TD)
    thread_data = td.rva - tcs + (td.page_count - 1) * PAGE_SIZE
    entry = image.symbol_address("enclave_entry")
    return tcs_template(entry, plan.first(SSA).rva - tcs, thread_data, delta, aex_notify)


def _file_order(draft: _Draft, tcs_num: int, generation: Generation) -> tuple[Block, ...]:
    block = draft.block
    blocks: list[Block] = []
    if draft.wants_newest:
        blocks.append(block)
        if not block.version.has_elrange:
            blocks += [_reversioned(block, version) for version in generation.copies]
    if draft.wants_compatible and generation.compatible is not None:
        blocks.append(compatible_block(block, generation.compatible, generation.rules, tcs_num))
    placed = []
    position = 0
    for item in blocks:
        placed.append(replace(item, offset=position))
        position += item.header.size
    return tuple(placed)


def _reversioned(block: Block, version: Version) -> Block:
    return replace(block, header=replace(block.header, version=version.word))
