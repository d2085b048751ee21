# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page draws of a signed enclave and our build: what lies where, and how they differ.

Decides nothing: whatever cannot be read is left out. The vendor's file is disassembled by
`objdump`, where it is installed, in a child process with a deadline and a memory limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sgx_enclaves.child import in_child
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import PAGE_SIZE, SHF_EXECINSTR, page_ceil
from sgx_enclaves.enclave.measure import Repetition
from sgx_enclaves.enclave.metadata import Block, Descriptor, LayoutEntry
from sgx_enclaves.enclave.sigstruct import spell_rights, spell_secinfo
from sgx_enclaves.enclave.verdict import Difference, Verdict
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import record

# How much is shown: differences as bytes, differences as code, spans of one kind.
_DUMPS, _LISTINGS, _SPANS = 12, 3, 400
_LINE = 16
_LINES = 4
# Bytes of code around a difference, and how far back its function may begin.
_BEFORE, _AFTER, _FARTHEST = 32, 48, 4096
_SECONDS = 20.0
_MEMORY = 256 * MIB
_INSTRUCTION = re.compile(r"([0-9a-f]+):\t.*")


@record
class Span:
    """Bytes `start` to `end` (exclusive) of a file, or of an address space, and what they are."""

    start: int
    end: int
    name: str


@record
class SideBySide:
    """What both files have at a file offset: bytes in hexadecimal, `--` behind the end of one, or
    instructions; the name is that of the code.
    """

    offset: int
    name: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


@record
class Picture:
    """What is drawn of one enclave: segments and sections of the vendor's file, in file order; the
    address space that segments and layout make, by address; bytes and code around the first
    differences.
    """

    segments: tuple[Span, ...] = ()
    sections: tuple[Span, ...] = ()
    space: tuple[Span, ...] = ()
    space_size: int = 0
    dumps: tuple[SideBySide, ...] = ()
    listings: tuple[SideBySide, ...] = ()


def picture_of(verdict: Verdict, built: bytes, signed: bytes) -> Picture:
    """What a page draws."""
    differences = verdict.explanation.differences if verdict.explanation else ()
    dumps = tuple(_dumps(built, signed, differences[:_DUMPS]))
    try:
        image = EnclaveImage.parse(signed, verdict.signed.name)
    except SgxEnclavesError:
        return Picture(dumps=dumps)
    blocks: tuple[Block, ...] = ()
    with contextlib.suppress(SgxEnclavesError):
        blocks = Descriptor.parse(image.descriptor).blocks
    listings = tuple(_listings(built, signed, image, differences))
    return replace(file_picture(image, blocks), dumps=dumps, listings=listings)


def file_picture(image: EnclaveImage, blocks: Sequence[Block]) -> Picture:
    """What lies where in an enclave file, and in the address space of its first block."""
    segments = [
        Span(*s.file_range, f"segment {index} {spell_rights(s.secinfo)}")
        for index, s in enumerate(image.load_segments)
    ]
    found = (Span(*s.file_range, s.name) for s in image.sections)
    sections = sorted((s for s in found if s.start < s.end), key=lambda span: span.start)
    return Picture(
        tuple(segments[:_SPANS]),
        tuple(sections[:_SPANS]),
        tuple(address_space(image, blocks[0])) if blocks else (),
        blocks[0].header.enclave_size if blocks else 0,
    )


def address_space(image: EnclaveImage, block: Block) -> Iterator[Span]:
    """Segments, then the layout's entries; a group stands for the repetitions it makes."""
    for index, segment in enumerate(image.load_segments[:_SPANS]):
        start = segment.p_vaddr - segment.p_vaddr % PAGE_SIZE
        end = page_ceil(segment.p_vaddr + segment.p_memsz)
        yield Span(start, end, f"segment {index} {spell_rights(segment.secinfo)}")
    table = block.layout
    for index, item in enumerate(table[:_SPANS]):
        name = block.layout_name(item)
        if isinstance(item, LayoutEntry):
            end = item.rva + item.page_count * PAGE_SIZE
            yield Span(item.rva, end, f"{name} {spell_secinfo(item.si_flags)}")
            continue
        repeated = table[max(0, index - item.entry_count) : index]
        entries = [e for e in repeated if isinstance(e, LayoutEntry)]
        if entries and item.load_times:
            hull = Repetition(tuple(entries), 1, item.load_times, item.load_step).hull
            yield Span(*hull, f"{item.load_times} x {name}")


def _dumps(ours: bytes, theirs: bytes, differences: Sequence[Difference]) -> Iterator[SideBySide]:
    """The first lines of each difference."""
    # Our metadata area is empty: what it should hold stands in the table of differences.
    shown = [d for d in differences if d.where != "metadata"]
    offsets = {at for d in shown for at in range(d.start - d.start % _LINE, d.end, _LINE)[:_LINES]}
    for offset in sorted(offsets):
        lines = (data[offset : offset + _LINE] for data in (ours, theirs))
        cells = ([f"{b:02x}" for b in line] + ["--"] * (_LINE - len(line)) for line in lines)
        yield SideBySide(offset, "", *map(tuple, cells))


def _listings(
    built: bytes, signed: bytes, image: EnclaveImage, differences: Sequence[Difference]
) -> Iterator[SideBySide]:
    program = shutil.which("objdump")
    code = {s.name for s in image.sections if s.header.sh_flags & SHF_EXECINSTR}
    places = ((d, image.address_of(d.start)) for d in differences if d.section in code)
    found = [(d, address) for d, address in places if address is not None and program]
    symbols = describe_file(signed, image.name).symbols if found else ()
    for difference, address in found[:_LISTINGS]:
        starts = [a for _, a, _ in symbols if address - _FARTHEST < a <= address]
        bounds = (max(starts, default=address - _BEFORE), address - _BEFORE, address + _AFTER)
        sides = [_disassembled(str(program), data, *bounds) for data in (built, signed)]
        if all(sides):
            name = difference.symbol or difference.section or "code"
            yield SideBySide(difference.start, name, *sides)


def _disassembled(program: str, data: bytes, start: int, shown: int, end: int) -> tuple[str, ...]:
    """Instructions from `shown` to `end`; reading begins at `start`, where a function does."""
    bounds = (f"--start-address={start}", f"--stop-address={end}")

    def work() -> bytes:
        file = os.memfd_create("enclave")
        os.write(file, data)
        command = [program, "--disassemble", "--wide", "--no-show-raw-insn", *bounds]
        return subprocess.run(  # noqa: S603 - the distribution's own, with paths of ours
            [*command, "/proc/self/fd/0"],
            stdin=file,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        ).stdout[: 4 * MIB]

    try:
        text = in_child(work, what="it cannot be disassembled", seconds=_SECONDS, memory=_MEMORY)
    except SgxEnclavesError:
        return ()
    lines = map(str.strip, text.decode("utf-8", "replace").splitlines())
    found = filter(None, map(_INSTRUCTION.match, lines))
    return tuple(line[0].replace("\t", " ") for line in found if int(line[1], 16) >= shown)
