# SPDX-License-Identifier: GPL-2.0-or-later
"""What an enclave file says to people: symbols, notes, compilers, source lines.

Read by pyelftools, in a child process with a deadline and a memory limit, for the file
may be hostile. No verdict depends on it: what cannot be described is said to be so.
"""

from __future__ import annotations

import contextlib
import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any, Callable, Optional

from sgx_enclaves.child import in_child
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import SHF_EXECINSTR
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.plain import from_plain, printable, record

# A hundred times what Intel's largest enclave takes, with all its symbols.
_SECONDS = 30
_TEXT_LIMIT = 1024
_SHOWN = 120
# Symbols that name a place: of no type, data, functions.
_PLACES = ("STT_NOTYPE", "STT_OBJECT", "STT_FUNC")


@record
class Description:
    """What a file says of itself, and what could not be described, and why.

    Symbols that name a place, by name, address and bytes, are from `.symtab`, or from `.dynsym`
    when stripped. The build id is hexadecimal; `features` are of x86, as `IBT`; `comments` is None
    without a section `.comment`; `lines` are those of the addresses that were asked for.
    """

    section_types: tuple[str, ...] = ()
    symbols: tuple[tuple[str, int, int], ...] = ()
    dynamic: Mapping[str, int] = field(default_factory=dict)
    interpreter: Optional[str] = None
    build_id: Optional[str] = None
    features: tuple[str, ...] = ()
    comments: Optional[tuple[str, ...]] = None
    producers: tuple[str, ...] = ()
    lines: Mapping[int, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def describe_file(data: bytes, name: str, addresses: Iterable[int] = ()) -> Description:
    """Describe an ELF file, with the source lines of these addresses."""
    wanted = sorted(set(addresses))
    what = f"{name} cannot be described"
    try:
        # Imported before the fork, so that each child has it.
        import elftools.elf.elffile  # noqa: F401, PLC0415
    except ImportError:
        hint = "install the Python library pyelftools (python3-pyelftools)"
        return Description(problems=(f"{what}: {hint}",))
    try:
        answer = in_child(lambda: _described(data, wanted), what=what, seconds=_SECONDS)
    except SgxEnclavesError as error:
        return Description(problems=(printable(str(error)),))
    facts = json.loads(answer)
    lines = {int(address): line for address, line in facts.pop("lines", {}).items()}
    symbols = tuple(map(tuple, facts.pop("symbols", ())))
    return replace(from_plain(Description, facts), lines=lines, symbols=symbols)


def _described(data: bytes, addresses: list[int]) -> bytes:
    """In the child: the fields of a `Description` as JSON; a part that fails is left out."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    elf = ELFFile(io.BytesIO(data))
    parts: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "section_types": ("sections", lambda elf: [str(s["sh_type"]) for s in elf.iter_sections()]),
        "symbols": ("symbols", _symbols),
        "dynamic": ("dynamic table", _dynamic),
        "interpreter": ("interpreter", _interpreter),
        "build_id": ("notes", _build_id),
        "features": ("notes", _features),
        "comments": ("comment", _comments),
        "producers": ("debugging information", _producers),
        "lines": ("source lines", lambda elf: _lines(elf, addresses) if addresses else {}),
    }
    facts: dict[str, Any] = {}
    problems: dict[str, None] = {}
    for name, (what, read) in parts.items():
        try:
            facts[name] = read(elf)
        except MemoryError:
            raise
        # pyelftools has no one error for a file that lies.
        except Exception as error:
            why = printable(str(error))[:_SHOWN] or type(error).__name__
            problems[f"{what}: {why}"] = None
    return json.dumps({**facts, "problems": list(problems)}).encode()


def _symbols(elf: Any) -> list[tuple[str, int, int]]:
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    return [
        (symbol.name, symbol.entry.st_value, symbol.entry.st_size)
        for symbol in (table.iter_symbols() if table is not None else ())
        # Defined, and neither absolute nor a section's or file's name.
        if symbol.name
        and isinstance(symbol.entry.st_shndx, int)
        and 0 < symbol.entry.st_shndx < 0xFF00
        and symbol.entry.st_info.type in _PLACES
    ]


def _dynamic(elf: Any) -> dict[str, int]:
    for segment in elf.iter_segments("PT_DYNAMIC"):
        return {str(tag.entry.d_tag): tag.entry.d_val for tag in segment.iter_tags()}
    return {}


def _interpreter(elf: Any) -> Optional[str]:
    found = (s.data()[:_TEXT_LIMIT].split(b"\0", 1)[0] for s in elf.iter_segments("PT_INTERP"))
    return next(map(_text, found), None)


def _notes(elf: Any, kind: str) -> Iterator[Any]:
    """What GNU's notes of a kind say; the SDK's own is not padded as pyelftools expects."""
    sections = (s for s in elf.iter_sections("SHT_NOTE") if s.name != ".note.sgxmeta")
    notes = (note for section in sections for note in section.iter_notes())
    return (n["n_desc"] for n in notes if (n["n_name"], n["n_type"]) == ("GNU", kind))


def _build_id(elf: Any) -> Optional[str]:
    return next((str(build_id)[:128] for build_id in _notes(elf, "NT_GNU_BUILD_ID")), None)


def _features(elf: Any) -> list[str]:
    """The x86 features that all code of the file has (GNU_PROPERTY_X86_FEATURE_1_AND)."""
    items = (item for items in _notes(elf, "NT_GNU_PROPERTY_TYPE_0") for item in items)
    found = (i["pr_data"] for i in items if i["pr_type"] == "GNU_PROPERTY_X86_FEATURE_1_AND")
    bits = next(found, 0)
    return [name for bit, name in ((1, "IBT"), (2, "SHSTK")) if bits & bit]


def _comments(elf: Any) -> Optional[list[str]]:
    section = elf.get_section_by_name(".comment")
    texts = None if section is None else section.data()[:_TEXT_LIMIT].split(b"\0")
    return None if texts is None else [_text(text) for text in texts if text]


def _producers(elf: Any) -> list[str]:
    if elf.get_section_by_name(".debug_info") is None:
        return []
    units = (unit.get_top_DIE().attributes for unit in elf.get_dwarf_info().iter_CUs())
    texts = (unit["DW_AT_producer"].value for unit in units if "DW_AT_producer" in unit)
    return list(dict.fromkeys(_text(text) for text in texts))


def _lines(elf: Any, addresses: list[int]) -> dict[int, str]:
    """File and line of each address, from the line programs of all units."""
    if elf.get_section_by_name(".debug_line") is None:
        return {}
    dwarf = elf.get_dwarf_info()
    found: dict[int, str] = {}
    for program in filter(None, map(dwarf.line_program_for_CU, dwarf.iter_CUs())):
        states = [entry.state for entry in program.get_entries() if entry.state is not None]
        for before, state in zip(states, states[1:]):
            first = bisect_left(addresses, before.address)
            last = bisect_left(addresses, state.address)
            for address in addresses[first:last] if not before.end_sequence else ():
                found[address] = f"{_file_of(program, before.file)}:{before.line}"
    return found


def _file_of(program: Any, index: int) -> str:
    """The file's name without its directory, which depends on where it was built."""
    files = program["file_entry"]
    # Files are counted from 1 before DWARF 5.
    index -= 0 if program["version"] >= 5 else 1
    name = files[index].name if 0 <= index < len(files) else b"?"
    return _text(name.rpartition(b"/")[2])


def _text(content: bytes) -> str:
    return excerpt(content.decode("utf-8", "replace"))


def excerpt(text: str) -> str:
    """Text of a file as one line that cannot steer a terminal, cut to a fair length."""
    return printable(text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")


def with_symbols(description: Description, built: EnclaveImage, unstripped: bytes) -> Description:
    """The description of a stripped build with the symbols that it had before."""

    def code(image: EnclaveImage) -> list[tuple[int, bytes]]:
        parts = (s for s in image.sections if s.header.sh_flags & SHF_EXECINSTR)
        return [(s.header.sh_addr, image.data[slice(*s.file_range)]) for s in parts]

    with contextlib.suppress(SgxEnclavesError):
        if code(EnclaveImage.parse(unstripped)) == code(built):
            found = describe_file(unstripped, "the file with symbols")
            return replace(description, symbols=found.symbols)
    problem = "the file with symbols is of another build: its code is other code"
    return replace(description, problems=(*description.problems, problem))
