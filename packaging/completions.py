# SPDX-License-Identifier: GPL-2.0-or-later
"""Write shell completions, from the parsers of the command line; made by shtab.

    python3 packaging/completions.py FOLDER

Writes FOLDER/bash/sgx-enclaves, FOLDER/zsh/_sgx-enclaves, and
FOLDER/fish/sgx-enclaves.fish where shtab knows fish. They are static: pressing
TAB starts no Python.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import parser_of
from sgx_enclaves.enclave.policy import all_pins, not_shipped

PROGRAM = "sgx-enclaves"
NAMES = {"bash": PROGRAM, "zsh": f"_{PROGRAM}", "fish": f"{PROGRAM}.fish"}

# Arguments that are files, by how the parsers call their value.
_FILES = {"FILE", "XML", "PEM", "RPM", "BUILT", "SIGNED", "UNSIGNED", "SIGNATURES", "UNSTRIPPED"}
_FILES |= {"PATH", "RPM|DIR", "MRSIGNER|PEM", "[ARCHIVE=]FILE"}


def whole_parser() -> argparse.ArgumentParser:
    """One parser with all verbs: the program itself imports only the verb that it runs."""
    releases = sorted(load_catalogue((OWN_FOLDER,)).releases)
    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers()
    for verb, about in VERBS.items():
        # A verb's parser is built by the program's own function, then taken in.
        parent = parser_of(verb)
        for action in parent._actions:
            _complete(action, releases)
        verbs.add_parser(verb, help=about.summary, parents=[parent], add_help=False)
    return parser


def _complete(action: argparse.Action, releases: list[str]) -> None:
    metavar = action.metavar
    if metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif metavar == "RELEASE":
        action.choices = releases
    elif "--enclave" in action.option_strings:
        action.choices = [pin.enclave for pin in all_pins()]
    elif "--permit" in action.option_strings:
        action.choices = sorted(not_shipped())


def main(folder: Path) -> None:
    """Write the completions of all shells into a folder, which may be new."""
    parser = whole_parser()
    for shell, name in NAMES.items():
        if shell in shtab.SUPPORTED_SHELLS:
            (folder / shell).mkdir(parents=True, exist_ok=True)
            (folder / shell / name).write_text(shtab.complete(parser, shell), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
