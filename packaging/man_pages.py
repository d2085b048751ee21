# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the manual, from the parsers of the command line: a page for the program, one a verb.

    python3 packaging/man_pages.py FOLDER

Options and synopsis are made by argparse-manpage. Descriptions are the verbs' own
`--help` texts, whose tables become lists here: the library would run them together.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.manpage import Manpage

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.reader import USER_FOLDER
from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import parser_of

PROGRAM = "sgx-enclaves"

EXIT_STATUS = """\
  0  identical, valid, done
  1  differs, refused
  2  unverifiable: malformed, missing, of an unknown kind; or wrong arguments
"""

ABOUT = """\
Prove that an SGX enclave signed by its vendor is the enclave that was built from
source, plus a signature, and nothing else.

Identical means that every byte of the vendor's file is accounted for: it is equal
to the unsigned enclave that was built; or it follows from that build and the open
config.xml; or it belongs to a valid signature, by the signer pinned for this
enclave, over the MRENCLAVE measured from that build.

It does not say that the build came from the right sources with the right
toolchain: verify-release does. Where files differ, the cause that is named is a
likelihood, the bytes that are listed are facts.
"""

EXAMPLES = """\
Is the vendor's file our build plus a signature?

    sgx-enclaves compare libsgx_pce.so libsgx_pce.signed.so --config config.xml

Put the vendor's signature on our build:

    sgx-enclaves extract-signature libsgx_pce.signed.so -o pce.sig
    sgx-enclaves graft libsgx_pce.so pce.sig --config config.xml -o grafted/libsgx_pce.signed.so

Fetch, build and compare a whole release:

    sgx-enclaves verify-release sgx-2.25-dcap-1.22
"""

FILES = f"""\
  {USER_FOLDER}  descriptions of releases besides the program's own, as TOML files
  ~/.cache/sgx-enclaves  what was fetched, and the stages of verify-release
"""

ENVIRONMENT = """\
  SGX_ENCLAVES_CACHE  where fetched files and stages are kept
  XDG_CACHE_HOME  where the cache is without that, instead of ~/.cache
  NO_COLOR  when set and not empty, reports have no colours
  TERM  dumb: no colours, and progress in lines of its own
  COLUMNS  how wide reports are, instead of the terminal's width
  SOURCE_DATE_EPOCH  the date of a spec file's changelog
"""

# "  term   what it means"; two spaces at least on both sides of the term.
_ENTRY = re.compile(r" {2}(\S.*?) {2,}(\S.*)")


def escaped(text: str) -> str:
    """Text for roff: no hyphen that breaks, no line that is taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def roff(text: str) -> str:
    """Paragraphs, tables ("  term  meaning") and examples (indented by four) as roff."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            example = [escaped(line[4:]) for line in paragraph.splitlines()]
            lines += [".IP", ".EX", *example, ".EE"]
        else:
            words = list(_paragraph(paragraph))
            lines += words if words[0] == ".TP" else [".PP", *words]
    return "\n".join(lines[1:] if lines[:1] == [".PP"] else lines)


def _paragraph(paragraph: str) -> Iterator[str]:
    for line in paragraph.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            yield ".TP"
            yield f".B {escaped(entry[1])}"
            yield escaped(entry[2])
        else:
            yield escaped(line.strip())


def program_page() -> str:
    """The page of the program itself."""
    parser = argparse.ArgumentParser(prog=PROGRAM, usage=f"{PROGRAM} VERB [arguments]")
    page = _page(parser, PROGRAM, "prove that a vendor-signed SGX enclave is the one we built")
    page.add_section("description", "=", roff(ABOUT))
    verbs = [
        f".TP\n.BR {escaped(f'{PROGRAM}-{verb}')} (1)\n{escaped(VERBS[verb].summary)}"
        for verb in VERBS
    ]
    page.add_section("verbs", "=", "\n".join(verbs))
    page.add_section("exit status", "=", roff(EXIT_STATUS))
    page.add_section("environment", "=", roff(ENVIRONMENT))
    page.add_section("files", "=", roff(FILES))
    page.add_section("examples", "=", roff(EXAMPLES))
    page.add_section("see also", "=", ".BR rpmlint (1)")
    return str(page)


def verb_page(verb: str) -> str:
    """The page of one verb."""
    parser = parser_of(verb)
    page = _page(parser, f"{PROGRAM}-{verb}", VERBS[verb].summary)
    text = parser.description or ""
    parser.description = None  # it is written below, with its tables
    page.add_section("description", "=", roff(text))
    if "exit status" not in text.lower():
        page.add_section("exit status", "=", roff(EXIT_STATUS))
    page.add_section("see also", "=", f".BR {escaped(PROGRAM)} (1)")
    return str(page)


def _page(parser: argparse.ArgumentParser, name: str, summary: str) -> Manpage:
    parser._positionals.title = "arguments"  # the library would run them into the description
    page = Manpage(parser)
    page.prog = name
    page.synopsis = [page.synopsis[0], *(escaped(word) for word in page.synopsis[1:])]
    page.description = summary
    page.source = f"{PROGRAM} {__version__}"
    page.manual = "SGX enclaves"
    return page


def main(folder: Path) -> None:
    """Write all pages into a folder, which may be new."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {PROGRAM: program_page()}
    pages.update({f"{PROGRAM}-{verb}": verb_page(verb) for verb in VERBS})
    for name, text in pages.items():
        (folder / f"{name}.1").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
