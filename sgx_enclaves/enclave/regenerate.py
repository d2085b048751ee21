# SPDX-License-Identifier: GPL-2.0-or-later
"""Make every metadata byte that the SDK's signing tool writes, but the signatures.

Input are the unsigned enclave and its config.xml, never the vendor's metadata: taking that as input
would make the comparison prove nothing.

Source: CMetadata in sdk/sign_tool/SignTool/manage_metadata.cpp of each release,
generate_compatible_metadata in sign_tool.cpp, common/inc/internal/metadata.h, and of
`g_global_data`, which the loader patches in, psw/urts/parser/update_global_data.hxx.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Union

from sgx_enclaves.enclave.config import Config, check_values
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, U32_MAX, U64_MAX, page_ceil
from sgx_enclaves.enclave.layout import (
    SSA_FRAMES,
    LayoutPlan,
    compatible_layout,
    is_dynamic,
    plan_layout,
)
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import (
    DIR_ELRANGE,
    DIR_EXTEND,
    DIR_LAYOUT,
    DIR_PATCH,
    EXTEND_FIPS_SIGNATURE,
    Block,
    BlockHeader,
    Directory,
    ElrangeEntry,
    ExtendEntry,
    LayoutId as Id,
    PatchEntry,
    Version,
)
from sgx_enclaves.enclave.sdk import XSAVE_SIZES, Generation, Rules, release_of
from sgx_enclaves.enclave.sigstruct import (
    FLAG_OPTIONS,
    HEADER1,
    HEADER2,
    RSA_EXPONENT,
    SIGNATURE_FIELDS,
    TYPE_DEBUG,
    VENDOR_INTEL,
    XFRM_LEGACY,
    XFRM_OPTIONS,
    Attribute,
    FipsSignature,
    Sigstruct,
)
from sgx_enclaves.enclave.verdict import Range, differing_ranges, outside, shifted
from sgx_enclaves.errors import ConfigError, FormatError, UnsupportedError
from sgx_enclaves.limits import DEFAULT_LIMITS, Limits
from sgx_enclaves.plain import record

_TCS_FLAG_AEXNOTIFY = 2
_SSA_GPR_SIZE = 184
_ZEROS = bytes(8)  # for the fields below, as many as the widest has
_THREAD_DATA_WITH_AEX = 192  # bytes of thread_data_t since SDK 2.20
# Offset and size of the fields of Elf64_Ehdr that name section headers, as the tool blanks them.
_SECTION_HEADER_FIELDS = ((60, 2), (40, 8), (62, 2))
# In the order of `ElrangeEntry`.
_ELRANGE_OPTIONS = ("EnclaveImageAddress", "ELRangeStartAddress", "ELRangeSize")


@record
class Regenerated:
    """What the signing tool would write, with all signature fields zero.

    `mrenclave`, 32 bytes, is that of the enclave with the block `measured`, written or not.
    """

    blocks: tuple[Block, ...]
    mrenclave: bytes
    generation: Generation
    measured: Block

    @property
    def unmeasured(self) -> tuple[Block, ...]:
        """The blocks that differ from the measured one in more than their place."""
        return tuple(
            b for b in self.blocks if replace(b, offset=self.measured.offset) != self.measured
        )

    @functools.cached_property
    def descriptor(self) -> bytes:
        """All blocks and the zeros behind them."""
        blocks = b"".join(block.serialise() for block in self.blocks)
        return blocks.ljust(self.generation.metadata_size, b"\0")

    @functools.cached_property
    def signature_ranges(self) -> list[Range]:
        """Offsets in the descriptor of what only the signer can make, in order."""
        fields = [Sigstruct.range_of(field) for field in SIGNATURE_FIELDS]
        of_blocks = [shifted(fields, b.offset + Block.SIGSTRUCT_OFFSET) for b in self.blocks]
        return sorted([*itertools.chain(*of_blocks), *self.second_signature_ranges])

    @functools.cached_property
    def second_signature_ranges(self) -> list[Range]:
        """Of these, what holds a throw-away key and its signature."""
        starts = [b.offset + b.fips_offset for b in self.blocks if b.fips_offset is not None]
        return [(start, start + FipsSignature.SIZE) for start in starts]

    def differences(self, theirs: bytes) -> list[Range]:
        """Where another metadata area differs, outside of what only the signer can make."""
        ours = self.descriptor
        common = min(len(ours), len(theirs))
        areas = outside([(0, common)], self.signature_ranges)
        rest = [(common, max(len(ours), len(theirs)))] if len(ours) != len(theirs) else []
        return [*differing_ranges(ours, theirs, areas), *rest]


def regenerate(
    image: EnclaveImage,
    config: Config,
    generation: Generation,
    fips: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Regenerated:
    """Regenerate metadata as `generation` would; `fips` is the tool's argument for IPP FIPS (2.24).

    Raises:
        ConfigError, FormatError: the tool would refuse the configuration, or the enclave.
        UnsupportedError: an option that this SDK lacks or that we cannot do.
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
    if image.descriptor_size != generation.metadata_size:
        raise FormatError(
            f"the metadata area is not of the size that SDK {generation.name} has",
            file=image.name,
            offset=image.descriptor_offset,
            expected=f"{generation.metadata_size} bytes",
            found=f"{image.descriptor_size} bytes",
            hint="name the SDK generation that built the enclave",
        )
    newest, compatible = _wanted(values, generation)
    draft = _draft(image, config, values, generation, fips or bool(values["EnableIPPFIPS"]), newest)
    measured = mrenclave(image, draft, limits)
    block = replace(draft, sigstruct=replace(draft.sigstruct, enclavehash=measured))
    written = [block] if newest else []
    if newest and not block.version.has_elrange:
        headers = [replace(block.header, version=v.word) for v in generation.copies]
        written += [replace(block, header=header) for header in headers]
    if compatible and generation.compatible is not None:
        version, rules = generation.compatible, generation.rules
        written.append(_compatible_block(block, version, rules, values["TCSNum"]))
    starts = itertools.accumulate((b.header.size for b in written), initial=0)
    blocks = tuple(replace(b, offset=start) for b, start in zip(written, starts))
    used = sum(b.header.size for b in blocks)
    if used > generation.metadata_size:
        raise ConfigError(
            "the metadata does not fit its area",
            file=config.name,
            expected=f"at most {generation.metadata_size} bytes",
            found=f"{used} bytes",
        )
    return Regenerated(blocks, measured, generation, block)


def _draft(
    image: EnclaveImage,
    config: Config,
    values: Mapping[str, int],
    generation: Generation,
    fips: bool,
    wants_sgx2: bool,
) -> Block:
    """The block for the newest loader, which is what is measured."""
    # Of all zeros without ELRANGE.
    elrange = ElrangeEntry(*(values[name] for name in _ELRANGE_OPTIONS))
    version = generation.newest.with_elrange if elrange.elrange_size else generation.newest
    is_early = generation.rules is Rules.SDK_1_5
    sigstruct = _sigstruct(values, generation)
    # For the loader: what must be set, and all that is not checked.
    mask = sigstruct.attributemask_xfrm
    xfrm = ~mask & U64_MAX | (sigstruct.attributes_xfrm & mask)
    xsave_size = [size for bits, size in XSAVE_SIZES if xfrm & bits == bits][-1]
    fixed = generation.fixed_save_buffer
    frame = page_ceil(xsave_size + _SSA_GPR_SIZE) // PAGE_SIZE

    # The data area grows in this order; tables know their place once they are made.
    start = Block.DIRECTORIES_OFFSET + version.directory_count * Directory.SIZE
    directories = [Directory() for _ in range(version.directory_count)]
    data = b""
    if elrange.elrange_size:
        directories[DIR_ELRANGE] = Directory(start, ElrangeEntry.SIZE)
        data += elrange.serialise()
    if fips:
        at = start + len(data)
        directories[DIR_EXTEND] = Directory(at, ExtendEntry.SIZE)
        entry = ExtendEntry(EXTEND_FIPS_SIGNATURE, FipsSignature.SIZE, at + ExtendEntry.SIZE)
        data += entry.serialise() + bytes(FipsSignature.SIZE)
    plan = plan_layout(image, values, frame, generation, start + len(data), wants_sgx2)
    problem = elrange.problem(plan.enclave_size) if elrange.elrange_size else None
    if problem is not None:
        raise ConfigError(problem, file=config.name, found=elrange.ranges(plan.enclave_size))
    template = _tcs_template(image, plan, elrange.base, bool(values["EnableAEXNotify"]))
    data += template
    ssa_size = frame if is_early else xsave_size
    thread = _thread_data(image, plan, values, generation, frame, ssa_size)
    global_data = _global_data(generation, values, plan, template, thread, elrange, fips)
    for index in (DIR_LAYOUT, DIR_PATCH) if is_early else (DIR_PATCH, DIR_LAYOUT):
        at = start + len(data)
        added, directories[index] = plan.data, Directory(at, len(plan.data))
        if index == DIR_PATCH:
            added, directories[index] = patched(image, generation, at, global_data)
        data += added
    header = BlockHeader(
        version=version.word,
        size=start + len(data),
        tcs_policy=values["TCSPolicy"],
        ssa_frame_size=frame,
        max_save_buffer_size=xsave_size if fixed is None else fixed,
        desired_misc_select=values["MiscSelect"] if generation.passes_misc_select else 0,
        tcs_min_pool=0 if is_early else values["TCSMinPool"],
        enclave_size=plan.enclave_size,
        attributes_flags=sigstruct.attributes_flags,
        attributes_xfrm=xfrm,
    )
    return Block(0, header, sigstruct, tuple(directories), data)


def _global_data(
    generation: Generation,
    values: Mapping[str, int],
    plan: LayoutPlan,
    template: bytes,
    thread: bytes,
    elrange: ElrangeEntry,
    fips: bool,
) -> bytes:
    """The bytes that replace g_global_data in the measured image."""
    if len(plan.table) > generation.layout_entries:
        raise ConfigError(
            "the configuration needs too many layout entries",
            expected=f"at most {generation.layout_entries}",
            found=str(len(plan.table)),
        )
    rsrv = plan.first(Id.RSRV_MIN) if values["ReservedMemMaxSize"] else None
    if generation.elrange_fallback and not elrange.elrange_size:
        elrange = ElrangeEntry(elrange_size=plan.enclave_size)
    contents: dict[str, Union[int, bytes]] = {
        # The word that the enclave carries in the file is not measured.
        "sdk_version": 0,
        "enclave_size": plan.enclave_size,
        "heap_offset": plan.first(Id.HEAP_MIN).rva,
        "heap_size": values["HeapInitSize"],
        "rsrv_offset": rsrv.rva if rsrv else 0,
        "rsrv_size": plan.rsrv_size,
        "rsrv_executable": values["ReservedMemExecutable"] if rsrv else 0,
        "thread_policy": values["TCSPolicy"],
        "tcs_max_num": values["TCSMaxNum"],
        "tcs_num": values["TCSNum"],
        "td_template": thread,
        "tcs_template": template,
        "layout_entry_num": len(plan.table),
        "layout_table": plan.data,
        **vars(elrange),
        "edmm_bk_overhead": plan.overhead,
        "fips_on": int(fips),
    }
    data = b""
    for name, size in generation.global_data.items():
        content = contents[name]
        if isinstance(content, int):
            content = content.to_bytes(size, "little")
        data += content.ljust(size, b"\0")
    return data


def _wanted(values: Mapping[str, int], generation: Generation) -> tuple[bool, bool]:
    """Whether the newest and the compatible block are written (CMetadata::check_config)."""
    if not generation.chooses_blocks:
        return True, True
    if values["UserRegionSize"]:
        return True, False
    if not is_dynamic(values) or not values["MiscSelect"] & 1:
        return False, True
    return True, not values["MiscMask"] & 1


def _tcs_template(image: EnclaveImage, plan: LayoutPlan, delta: int, aex_notify: bool) -> bytes:
    """The first 72 bytes of a TCS; `delta` is from SECS.BASEADDR to the image."""
    thread_data = plan.thread_data + delta & U64_MAX
    return struct.pack(
        "<QQQIIQQQQII",
        0,
        _TCS_FLAG_AEXNOTIFY if aex_notify else 0,
        plan.from_tcs(Id.SSA) + delta & U64_MAX,
        0,
        SSA_FRAMES,
        image.symbol_address("enclave_entry") + delta & U64_MAX,
        0,
        thread_data,
        thread_data,
        U32_MAX,
        U32_MAX,
    )


def _thread_data(
    image: EnclaveImage,
    plan: LayoutPlan,
    values: Mapping[str, int],
    generation: Generation,
    frame: int,
    ssa_size: int,
) -> bytes:
    """The template of thread_data_t up to tls_array; addresses are relative to the thread's TCS.

    The rest starts at zero: exception_flag, C++ state, stack_commit_addr, entropy.
    """
    thread, ssa = plan.thread_data, plan.from_tcs(Id.SSA)
    base = plan.from_tcs(Id.STACK_MIN) + values["StackMinSize"]
    gpr = ssa + frame * PAGE_SIZE - _SSA_GPR_SIZE
    # self_addr, last_sp, stack_base_addr, stack_limit_addr, first_ssa_gpr, stack_guard, flags,
    # the SSA frame, last_error.
    words = [thread, base, base, base - values["StackMaxSize"], gpr, 0, 0, ssa_size, 0]
    if generation.thread_data_size == _THREAD_DATA_WITH_AEX:
        words += [0, 0, ssa]  # aex_mitigation_list, aex_notify_flag, first_ssa_xsave
    words += [0, thread - image.tls_size]  # m_next, tls_addr
    words.append(thread + 8 * (len(words) - 1))  # tls_array
    return b"".join((word & U64_MAX).to_bytes(8, "little") for word in words)


def patched(
    image: EnclaveImage, generation: Generation, start: int, global_data: bytes
) -> tuple[bytes, Directory]:
    """Global data, zeros and their patch table, from `start` of the block on; the table's place."""
    target, _ = image.global_data
    size = len(global_data)
    if target is None or target + size > len(image.data):
        raise FormatError("g_global_data is not in the file", file=image.name)
    word = image.sdk_word
    if generation.checks_sdk_version and word >> 16 not in generation.version_prefixes:
        raise FormatError(
            "the enclave was built with another SDK",
            file=image.name,
            offset=target,
            expected=f"SDK {' or '.join(generation.releases)}",
            found=f"SDK {release_of(word)} (word 0x{word:x})",
            hint="name the SDK generation that built the enclave",
        )
    zeros = start + size
    patches = [PatchEntry(target, start, size)]
    patches += [PatchEntry(at, zeros, width) for at, width in _SECTION_HEADER_FIELDS]
    table = b"".join(p.serialise() for p in patches)
    return global_data + _ZEROS + table, Directory(zeros + len(_ZEROS), len(table))


def _sigstruct(values: Mapping[str, int], generation: Generation) -> Sigstruct:
    """SIGSTRUCT with measurement and signature still zero."""
    flags: int = Attribute.MODE64BIT
    mask = generation.flags_mask
    for option, bit in FLAG_OPTIONS.items():
        if values[option]:
            flags |= bit
            mask |= bit
    if values["DisableDebug"]:
        mask |= Attribute.DEBUG
    xfrm = XFRM_LEGACY
    # Legacy state and everything that the SDK does not know must be as signed.
    xfrm_mask = XFRM_LEGACY | (U64_MAX & ~generation.xfrm)
    for option, bits in XFRM_OPTIONS.items():
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


def _compatible_block(block: Block, version: Version, rules: Rules, tcs_num: int) -> Block:
    """The compatible block; `version` is that without ELRANGE."""
    if block.version.has_elrange:
        version = version.with_elrange
    table = compatible_layout(block.layout, tcs_num, rules)
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
