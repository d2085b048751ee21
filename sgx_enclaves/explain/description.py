# SPDX-License-Identifier: GPL-2.0-or-later
"""What an enclave file says to people: symbols, notes, compilers, source lines.

Read by pyelftools, in a child process with a deadline and a memory limit, for the file
may be hostile. No verdict depends on it: what cannot be described is said to be so.
"""

from __future__ import annotations

import contextlib
import io
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any, Callable, Optional

from sgx_enclaves.child import in_child
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import SHF_EXECINSTR
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.plain import printable, record

# A hundred times what Intel's largest enclave takes, with all its symbols.
_SECONDS = 30
_TEXT_LIMIT = 1024
_SHOWN = 120
# Symbols that name a place: of no type, data, functions.
_PLACES = ("STT_NOTYPE", "STT_OBJECT", "STT_FUNC")


@record
class Description:
    """What a file says of itself.

    Attributes:
        section_types: of each section, as `SHT_NOTE`.
        symbols: name, address and bytes of each symbol that names a place, from
            `.symtab`, or from `.dynsym` when stripped.
        dynamic: tag and value of each entry of the dynamic table.
        build_id: the GNU build id, hexadecimal.
        features: names of the x86 features that the file claims, as `IBT`.
        comments: the texts of `.comment`; None without that section.
        lines: source file and line of the addresses that were asked for, where the
            debugging information knows them.
        problems: what could not be described, and why.
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


def describe_file(
    data: bytes, name: str, addresses: Iterable[int] = (), seconds: float = _SECONDS
) -> Description:
    """Describe an ELF file, with the source lines of these addresses."""
    wanted = sorted(set(addresses))
    what = f"{name} cannot be described"
    try:
        # Imported before the fork, so that each child has it.
        import elftools.elf.elffile  # noqa: F401, PLC0415
    except ImportError:
        return Description(
            problems=(f"{what}: install the Python library pyelftools (python3-pyelftools)",)
        )
    try:
        answer = in_child(lambda: _described(data, wanted), what=what, seconds=seconds)
    except SgxEnclavesError as error:
        return Description(problems=(printable(str(error)),))
    return _description(answer)


def _description(answer: bytes) -> Description:
    facts = json.loads(answer)
    facts["lines"] = {int(address): line for address, line in facts["lines"].items()}
    facts["symbols"] = tuple(map(tuple, facts["symbols"]))
    for key in ("section_types", "features", "comments", "producers", "problems"):
        facts[key] = None if facts[key] is None else tuple(facts[key])
    return Description(**facts)


def _described(data: bytes, addresses: list[int]) -> bytes:
    """In the child: the fields of a `Description` as JSON; a part that fails is left out."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    elf = ELFFile(io.BytesIO(data))
    problems: list[str] = []

    def part(what: str, read: Callable[[Any], Any], otherwise: Any = ()) -> Any:
        try:
            return read(elf)
        except MemoryError:
            raise
        # pyelftools has no one error for a file that lies.
        except Exception as error:
            problems.append(f"{what}: {printable(str(error))[:_SHOWN] or type(error).__name__}")
            return otherwise

    facts = {
        "section_types": part(
            "sections", lambda elf: [str(section["sh_type"]) for section in elf.iter_sections()]
        ),
        "symbols": part("symbols", _symbols),
        "dynamic": part("dynamic table", _dynamic, {}),
        "interpreter": part("interpreter", _interpreter, None),
        "build_id": part("notes", _build_id, None),
        "features": part("notes", _features),
        "comments": part("comment", _comments, None),
        "producers": part("debugging information", _producers),
        "lines": part("source lines", lambda e: _lines(e, addresses), {}) if addresses else {},
    }
    return json.dumps({**facts, "problems": list(dict.fromkeys(problems))}).encode()


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
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_DYNAMIC":
            return {str(tag.entry.d_tag): tag.entry.d_val for tag in segment.iter_tags()}
    return {}


def _interpreter(elf: Any) -> Optional[str]:
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_INTERP":
            path = segment.data()[:_TEXT_LIMIT].split(b"\0", 1)[0]
            return excerpt(path.decode("utf-8", "replace"))
    return None


def _notes(elf: Any) -> Iterator[Any]:
    for section in elf.iter_sections():
        # The SDK's own note is not padded as pyelftools expects.
        if section["sh_type"] == "SHT_NOTE" and section.name != ".note.sgxmeta":
            yield from section.iter_notes()


def _build_id(elf: Any) -> Optional[str]:
    for note in _notes(elf):
        if note["n_type"] == "NT_GNU_BUILD_ID" and note["n_name"] == "GNU":
            return str(note["n_desc"])[:128]
    return None


def _features(elf: Any) -> list[str]:
    """The x86 features that all code of the file has (GNU_PROPERTY_X86_FEATURE_1_AND)."""
    for note in _notes(elf):
        if note["n_type"] != "NT_GNU_PROPERTY_TYPE_0":
            continue
        for item in note["n_desc"]:
            if item["pr_type"] == "GNU_PROPERTY_X86_FEATURE_1_AND":
                bits = item["pr_data"]
                return [name for bit, name in ((1, "IBT"), (2, "SHSTK")) if bits & bit]
    return []


def _comments(elf: Any) -> Optional[list[str]]:
    section = elf.get_section_by_name(".comment")
    if section is None:
        return None
    texts = section.data()[:_TEXT_LIMIT].split(b"\0")
    return [excerpt(t.decode("utf-8", "replace")) for t in texts if t]


def _producers(elf: Any) -> list[str]:
    if elf.get_section_by_name(".debug_info") is None:
        return []
    found: dict[str, None] = {}
    for unit in elf.get_dwarf_info().iter_CUs():
        attribute = unit.get_top_DIE().attributes.get("DW_AT_producer")
        if attribute is not None:
            found[excerpt(attribute.value.decode("utf-8", "replace"))] = None
    return list(found)


def _lines(elf: Any, addresses: list[int]) -> dict[int, str]:
    """File and line of each address, from the line programs of all units."""
    if elf.get_section_by_name(".debug_line") is None:
        return {}
    dwarf = elf.get_dwarf_info()
    found: dict[int, str] = {}
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        before = None
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if before is not None and not before.end_sequence:
                first = bisect_right(addresses, before.address - 1)
                for address in addresses[first:]:
                    if address >= state.address:
                        break
                    found[address] = f"{_file_of(program, before.file)}:{before.line}"
            before = state
    return found


def _file_of(program: Any, index: int) -> str:
    """The file's name without its directory, which depends on where it was built."""
    files = program["file_entry"]
    # Files are counted from 1 before DWARF 5.
    index -= 0 if program["version"] >= 5 else 1
    name = files[index].name if 0 <= index < len(files) else b"?"
    return excerpt(name.decode("utf-8", "replace").rpartition("/")[2])


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
