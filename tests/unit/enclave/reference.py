# SPDX-License-Identifier: GPL-2.0-or-later
"""MRENCLAVE the slow way, record by record, to compare the fast way with.

Written from the SDM's description of ECREATE, EADD and EEXTEND; it knows
nothing of runs of pages, windows or limits.
"""

from __future__ import annotations

import hashlib
import struct

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Block, LayoutEntry

PAGE = 0x1000


def reference_mrenclave(image: EnclaveImage, block: Block) -> bytes:
    """Measure an enclave without text relocations whose segments start in order."""
    size, base = block.header.enclave_size, 0
    if block.elrange is not None:
        size = block.elrange.elrange_size
        base = block.elrange.enclave_image_address - block.elrange.elrange_start_address
    digest = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", block.header.ssa_frame_size, size))

    def add(offset: int, flags: int, content: bytes, measured: bool) -> None:
        digest.update(struct.pack("<8sQQ40x", b"EADD", base + offset, flags))
        if measured:
            for at in range(0, PAGE, 256):
                digest.update(struct.pack("<8sQ48x", b"EEXTEND", base + offset + at))
                digest.update(content[at : at + 256])

    whole = block.serialise()
    file = bytearray(image.data)
    for patch in block.patches:
        file[patch.dst : patch.dst + patch.size] = whole[patch.src : patch.src + patch.size]
    for segment in image.load_segments:
        if segment.p_memsz == 0:
            continue
        start = segment.p_vaddr // PAGE * PAGE
        end = -(-(segment.p_vaddr + segment.p_memsz) // PAGE) * PAGE
        memory = bytearray(end - start)
        at = segment.p_vaddr - start
        memory[at : at + segment.p_filesz] = file[segment.p_offset :][: segment.p_filesz]
        for offset in range(0, len(memory), PAGE):
            add(start + offset, segment.secinfo, bytes(memory[offset : offset + PAGE]), True)

    def lay(entry: LayoutEntry, shift: int) -> None:
        if not entry.attributes & 1:
            return
        for index in range(entry.page_count):
            page = bytearray(entry.content_size.to_bytes(4, "little") * 1024)
            rva = entry.rva + shift
            if entry.content_offset:
                page = bytearray(PAGE)
                content = whole[entry.content_offset :][: entry.content_size]
                page[: len(content)] = content
                for field in (16, 48, 56):
                    value = int.from_bytes(page[field : field + 8], "little") + rva
                    page[field : field + 8] = (value % 2**64).to_bytes(8, "little")
            add(rva + index * PAGE, entry.si_flags, bytes(page), bool(entry.attributes & 2))

    for index, item in enumerate(block.layout):
        if isinstance(item, LayoutEntry):
            lay(item, 0)
            continue
        for time in range(1, item.load_times + 1):
            for member in block.layout[index - item.entry_count : index]:
                assert isinstance(member, LayoutEntry)
                lay(member, time * item.load_step)
    return digest.digest()
