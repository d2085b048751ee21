# SPDX-License-Identifier: GPL-2.0-or-later
"""An enclave's structures for people and for programs; judges nothing."""

from __future__ import annotations

from sgx_enclaves.format.attributes import (
    FLAG_NAMES,
    MISC_NAMES,
    XFRM_NAMES,
    spell,
    spell_secinfo,
)
from sgx_enclaves.format.elf import EnclaveImage
from sgx_enclaves.format.metadata import (
    ATTRIBUTE_NAMES,
    DIRECTORY_NAMES,
    Block,
    Descriptor,
    Layout,
    LayoutEntry,
)
from sgx_enclaves.format.sigstruct import Sigstruct
from sgx_enclaves.verdict.known import SIGNER_NAMES


def show_dict(image: EnclaveImage, descriptor: Descriptor) -> dict[str, object]:
    """Everything that was read, as a plain mapping; numbers are integers, bytes hexadecimal."""
    return {
        "file": image.name,
        "size": len(image.data),
        "interpreter": image.interpreter,
        "segments": [s.as_dict() for s in image.load_segments],
        "tls_size": image.tls_size,
        "descriptor": {
            "offset": image.descriptor_offset,
            "size": image.descriptor_size,
            "note_type": image.note_type,
            "tail_is_zero": not any(descriptor.tail),
        },
        "blocks": [_block_dict(block) for block in descriptor.blocks],
    }


def _block_dict(block: Block) -> dict[str, object]:
    sigstruct = block.sigstruct
    mrsigner = sigstruct.mrsigner.hex()
    return {
        "offset": block.offset,
        "version": str(block.version),
        "header": block.header.as_dict(),
        "sigstruct": {
            **sigstruct.as_dict(),
            "mrsigner": mrsigner,
            "signer": SIGNER_NAMES.get(mrsigner),
            "debug": sigstruct.is_debug,
        },
        "directories": {
            name: directory.as_dict() for name, directory in zip(DIRECTORY_NAMES, block.directories)
        },
        "patches": [p.as_dict() for p in block.patches],
        "layout": [{"name": block.layout_name(i), **i.as_dict()} for i in block.layout],
        "elrange": None if block.elrange is None else block.elrange.as_dict(),
        "extensions": [e.as_dict() for e in block.extensions],
    }


def show_text(image: EnclaveImage, descriptor: Descriptor) -> str:
    """The same for people: a table per block."""
    lines = [
        f"{image.name}: {len(image.data)} bytes, SGX enclave",
        f"  interpreter  {image.interpreter or 'none'}",
    ]
    lines += [
        f"  segment {index}    {s.rights}  file 0x{s.p_offset:x}+0x{s.p_filesz:x}  "
        f"memory 0x{s.p_vaddr:x}+0x{s.p_memsz:x}"
        for index, s in enumerate(image.load_segments)
    ]
    lines.append(
        f"  metadata     {image.descriptor_size} bytes at 0x{image.descriptor_offset:x}, "
        + (f"{len(descriptor.blocks)} block(s)" if descriptor.is_signed else "empty: not signed")
    )
    if any(descriptor.tail):
        lines.append("  metadata     the bytes behind the last block are NOT zero")
    for index, block in enumerate(descriptor.blocks):
        lines += ["", *_block_lines(index, block)]
    return "\n".join(lines)


def _block_lines(index: int, block: Block) -> list[str]:
    header = block.header
    lines = [f"block {index}: metadata {block.version}, {header.size} bytes"]
    lines += _table(_sigstruct_rows(block.sigstruct))
    lines += _table(
        [
            ("enclave size", f"0x{header.enclave_size:x}"),
            ("SSA frame", f"{header.ssa_frame_size} page(s), XSAVE {header.max_save_buffer_size}"),
            ("TCS policy", "unbound" if header.tcs_policy else "bound"),
            ("TCS min pool", str(header.tcs_min_pool)),
            ("SECS attributes", spell(header.attributes_flags, FLAG_NAMES)),
            ("SECS XFRM", spell(header.attributes_xfrm, XFRM_NAMES)),
        ]
    )
    if block.elrange is not None:
        entry = block.elrange
        lines += _table(
            [
                (
                    "ELRANGE",
                    f"0x{entry.elrange_start_address:x}+0x{entry.elrange_size:x}, "
                    f"image at 0x{entry.enclave_image_address:x}",
                )
            ]
        )
    if block.fips_offset is not None:
        lines += _table([("FIPS signature", f"at 0x{block.fips_offset:x} of the block")])
    lines.append("  layout            offset       pages  page type  attributes")
    lines += [f"    {_layout_line(block.layout_name(item), item)}" for item in block.layout]
    lines.append("  patches           file offset <- block offset, bytes")
    lines += [f"    0x{p.dst:x} <- 0x{p.src:x}, {p.size}" for p in block.patches]
    return lines


def _sigstruct_rows(sigstruct: Sigstruct) -> list[tuple[str, str]]:
    mrsigner = sigstruct.mrsigner.hex()
    rows = [
        ("MRENCLAVE", sigstruct.enclavehash.hex()),
        ("MRSIGNER", mrsigner),
        ("signer", SIGNER_NAMES.get(mrsigner, "not one of the known signers")),
        ("ISVPRODID", str(sigstruct.isvprodid)),
        ("ISVSVN", str(sigstruct.isvsvn)),
        ("date", sigstruct.date_text),
        ("debug", "YES: may be opened for debugging" if sigstruct.is_debug else "no"),
        (
            "attributes",
            f"{spell(sigstruct.attributes_flags, FLAG_NAMES)} "
            f"(mask 0x{sigstruct.attributemask_flags:x})",
        ),
        (
            "XFRM",
            f"{spell(sigstruct.attributes_xfrm, XFRM_NAMES)} "
            f"(mask 0x{sigstruct.attributemask_xfrm:x})",
        ),
        (
            "MISCSELECT",
            f"{spell(sigstruct.miscselect, MISC_NAMES)} (mask 0x{sigstruct.miscmask:x})",
        ),
        ("vendor field", f"0x{sigstruct.vendor:x} (proves nothing)"),
    ]
    if any(sigstruct.isvfamilyid) or any(sigstruct.isvextprodid):
        rows.append(("ISVFAMILYID", sigstruct.isvfamilyid.hex()))
        rows.append(("ISVEXTPRODID", sigstruct.isvextprodid.hex()))
    return rows


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<17} {value}" for name, value in rows]


def _layout_line(name: str, item: Layout) -> str:
    if not isinstance(item, LayoutEntry):
        return (
            f"{name:<16}the {item.entry_count} entries above, {item.load_times} more time(s), "
            f"every 0x{item.load_step:x} bytes"
        )
    kind = spell_secinfo(item.si_flags) if item.si_flags else "-"
    attributes = spell(item.attributes, ATTRIBUTE_NAMES) if item.attributes else "not added"
    return f"{name:<16}0x{item.rva:<10x} {item.page_count:>6}  {kind:<9}  {attributes}"
