# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of a verb as a text, which is nearly what `--help` prints.

A line declares one argument, two blanks before what it is for; longer help goes on in
lines that begin with blanks:

    built:BUILT          an argument, and the name of its attribute where that is another
    RELEASE?             it may be left out; RPM+ at least one; ENCLAVE* any number
    --json               an option without a value
    -o, --output FILE    one with a value; FILE! must be given; FILE* may be repeated;
                         FILE... takes any number
    --kind a|b (a)       one of these, and the default
    ^--deep              not together with the other options marked so; one of those marked
                         `!` too must be given
    @fetching            the text of that name in `SHARED`
    building:            the heading of what follows
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

_LINE = re.compile(
    r"(?P<apart>\^?)(?P<names>(?:-\w, )?--[a-z-]+|(?:[a-z_]+:)?(?=\S))"
    r" ?(?P<value>[^-\s!?*+(]\S*?|)(?P<number>[!?*+]|\.\.\.|)(?: \((?P<default>[^)]+)\))?"
    r"(?: {2,}(?P<help>.*))?"
)

SHARED = {
    "json": "--json  print JSON for programs",
    "report": """\
--report DIR  also write DIR/report.json, which recheck and attest read, and head.json with its
  date""",
    "sdk": """\
--sdk X.Y  the SDK release whose signing tool was used; by default the enclave tells""",
    "config": "--config XML!  its open config.xml",
    "output": """\
-o, --output FILE!  where to write
--force  replace the output file if there is one already""",
    "output-too": """\
-o, --output FILE  write here, not to standard output
--force  replace the output file if there is one already""",
    "references": """\
--reference RPM|DIR|MANIFEST*  where our own unsigned enclaves and their config.xml are: a
  package, a directory, or what `sgx-enclaves build` made; may be repeated
--trust-neighbours  take unsigned enclaves from the packages beside, whoever signed those
--signed-neighbours  take them from packages that a key of rpm's keyring has signed, only
--permit ENCLAVE*  accept an enclave that Fedora does not ship; may be repeated""",
    "policy": """\
who must have signed:
--enclave NAME  which of Intel's enclaves this is, such as pce; by default its file name says
--signer MRSIGNER|FILE*  accept this signer instead of the pinned one: MRSIGNER in hexadecimal,
  or a file: key, certificate, SIGSTRUCT or signed enclave; may be repeated
^--isvprodid N  require this product id
^--any-product  accept any product id
--min-isvsvn N  accept ISVSVN from N on
--allow-debug  accept debug signatures""",
    "signing": """\
enclave:UNSIGNED  the unsigned enclave
@config
--date YYYY-MM-DD  date in the signature; today (UTC) by default
--fips  add the FIPS signature that the config of SDK 2.24 cannot ask for
--ignore-init-section  sign an enclave with a section .init, which is not run
--ignore-text-relocations  sign an enclave with code that is relocated, so its pages are writable
@sdk""",
    "catalogue": """\
--catalogue PATH*  a file or a folder of more releases, besides our own and
  /etc/sgx-enclaves/releases.d; may be repeated""",
    "release": """\
release:RELEASE  its name in the catalogue
@catalogue""",
    "fetching": """\
fetching:
--cache DIR  where fetched files are kept
--local DIR  take files that lie in this folder from there
--offline  take files from the cache and --local only
--lookaside [PACKAGE=]URL  a look-aside cache to ask first; the package is
  linux-sgx-enclaves-prebuilt by default
--ca-file PEM  trust these certificates instead of the system's
--attempts N (4)  requests to one place before the next is tried""",
    "place": """\
building:
--toolchain designated|host (designated)  host: build with what is here, for experiments;
  never the reproducible verdict
--tools PREFIX*  with --toolchain=host: PREFIX/bin comes first, such as that of another
  compiler; may be repeated
--route ID  which of the release's ways to build by; by default its first that leads to
  all of the enclaves, else the maker's own
--allow-no-isolation  build even where steps cannot be separated from this machine and
  its network; never the reproducible verdict""",
}


class Count(int):
    """A whole number of at least 1, for argparse."""

    def __new__(cls, text: str) -> Count:
        """Read it."""
        made = super().__new__(cls, text)
        if made < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return made


_TYPES: Mapping[str, Callable[[str], Any]] = {
    "DIR": Path,
    "PATH": Path,
    "N": int,
    "COUNT": Count,
    "SECONDS": Count,
    "YYYY-MM-DD": datetime.date.fromisoformat,
}


class _Argument(NamedTuple):
    apart: bool
    flags: list[str]
    settings: dict[str, Any]


def declare(
    parser: argparse.ArgumentParser,
    text: str,
    types: Optional[Mapping[str, Callable[[str], Any]]] = None,
) -> None:
    """Add the arguments of a text to a parser.

    Args:
        parser: gets them.
        text: see the module.
        types: what reads a value, by what the value is called.
    """
    place: Any = parser
    apart: Any = None
    for line in re.sub(r"\n +", " ", text.strip()).splitlines():
        if line.startswith("@"):
            declare(parser, SHARED[line[1:]], types)
        elif line.endswith(":"):
            place = parser.add_argument_group(line[:-1])
        else:
            argument = _argument(line, {**_TYPES, **(types or {})})
            if argument.apart:
                if apart is None:
                    required = argument.settings.pop("required", False)
                    apart = place.add_mutually_exclusive_group(required=required)
                argument.settings.pop("required", None)
            (apart if argument.apart else place).add_argument(*argument.flags, **argument.settings)


def _argument(line: str, types: Mapping[str, Callable[[str], Any]]) -> _Argument:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"no argument is declared so: {line}")
    names, value, number = match["names"], match["value"], match["number"]
    settings: dict[str, Any] = {"help": match["help"]}
    if not names.startswith("-"):
        flags = [names.rstrip(":") or value.lower()]
        settings["nargs"] = number or None
    else:
        flags = names.split(", ")
        if number == "!":
            settings["required"] = True
        elif number == "*":
            settings |= {"action": "append", "default": []}
        elif number:
            settings |= {"nargs": "*", "default": []}
    if not value:
        settings["action"] = "store_true"
        return _Argument(bool(match["apart"]), flags, settings)
    read = types.get(value, str)
    if value.islower() and "|" in value:
        settings["choices"] = value.split("|")
    else:
        settings |= {"metavar": value, "type": read}
    if match["default"] is not None:
        settings["default"] = read(match["default"])
    return _Argument(bool(match["apart"]), flags, settings)
