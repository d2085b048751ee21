# SPDX-License-Identifier: GPL-2.0-or-later
"""The arguments of a verb as a text, which is nearly what `--help` prints.

A line declares one argument, two blanks before what it is for; longer help continues in
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
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sgx_enclaves.enclave.policy import all_pins, not_shipped, pin_named

if TYPE_CHECKING:
    import datetime

Run = Callable[[argparse.Namespace], int]
Read = Callable[[str], Any]
Types = Mapping[str, Read]

_LINE = re.compile(
    r"(?P<names>(?:-\w, |--[a-z-]+, )?--[a-z-]+|(?:[a-z_]+:)?(?=\S))"
    r" ?(?P<value>[^-\s!?*+(]\S*?|)(?P<number>[!?*+]|\.\.\.|)(?: \((?P<default>[^)]+)\))?"
    r"(?: {2,}(?P<help>.*))?"
)

SHARED = {
    "json": "--json  print JSON for programs",
    "report": """\
--report DIR  also write DIR/report.json, which recheck and attest read, head.json with its date,
  report.md (a table) and report.xml (JUnit)""",
    "open": "--open  open the page in a browser, where there is a desktop",
    "sdk": """\
--sdk, --follow-sdk X.Y  the SDK release whose signing tool was used, or that one newer than
  known is taken for; by default the enclave says it""",
    "config": "--config XML!  its open config.xml",
    "output": """\
-o, --output FILE!  where to write
--force  replace the output file if there is one already
@json""",
    "output-too": """\
-o, --output FILE  write here, not to standard output
--force  replace the output file if there is one already""",
    "references": """\
--reference RPM|DIR|MANIFEST*  where our own unsigned enclaves and their config.xml are: a
  package, a directory, or what `sgx-enclaves build` made; may be repeated
--trust-neighbours  take unsigned enclaves from the packages beside, whoever signed those
--signed-neighbours  take them from packages that a key of rpm's keyring has signed, only
--attestation FILE|DIR*  what attest wrote: compare only with unsigned enclaves that it names; they
  count as signed; may be repeated
@trusted
--permit ENCLAVE*  accept an enclave that Fedora does not ship; may be repeated""",
    "trusted": """\
--key FILE*  of attestations, accept this signer: a public key or a certificate; may be repeated
--keyring FILE  accept OpenPGP signatures by these keys, in a file beside with .asc or .sig (gpgv)
--threshold N (1)  how many different signers must have built the same unsigned enclaves""",
    "policy": """\
who must have signed:
--enclave NAME  which of Intel's enclaves this is, such as pce; by default its file name says
--signer MRSIGNER|FILE*  accept this signer instead of the pinned one: MRSIGNER in hexadecimal,
  or a file: key, certificate, SIGSTRUCT or signed enclave; may be repeated
^--isvprodid N  require this product id
^--any-product  accept any product id
--min-isvsvn N  accept ISVSVN from N on
--allow-debug  accept debug signatures
--any-file  accept a file that is not the pinned one""",
    "identity": """\
what the vendor publishes of a quoting enclave:
--identity FILE  its signed identity, as Intel's provisioning service answers; `curl -i` keeps
  the issuer chain: signer, product, attributes and TCB levels must be as it says
--identity-chain FILE  the issuer chain (PEM), where it is not in that file
--identity-root FILE  trust this root certificate (PEM) in place of Intel's
--identity-date YYYY-MM-DD  the day on which it must be valid; today (UTC) by default""",
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


class Verb(NamedTuple):
    """A verb: its `--help`, its arguments, and what runs it and gives the exit status."""

    about: str
    arguments: str
    run: Run


def verb(arguments: str) -> Callable[[Run], Verb]:
    """Make a function the verb of these arguments; its docstring is the verb's `--help`."""
    return lambda run: Verb(inspect.cleandoc(run.__doc__ or ""), arguments, run)


def _matching(form: str, expected: str) -> Read:
    """What takes a text of this form: its groups, or all of it where there are none."""

    def read(text: str) -> Any:
        match = re.fullmatch(form, text)
        if match is None:
            raise argparse.ArgumentTypeError(f"must be {expected}")
        return match.groups() or text

    return read


def _named(
    known: Callable[[str], object], names: Callable[[], Iterable[str]]
) -> Callable[[str], str]:
    """What takes a name that is known, and lists all names otherwise."""

    def read(text: str) -> str:
        if not known(text):
            choices = ", ".join(names())
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices})")
        return text

    return read


def _date(text: str) -> datetime.date:
    import datetime

    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-29") from None


def svn(text: str) -> int:
    """A number that fits ISVPRODID and ISVSVN, decimal or 0x-hexadecimal."""
    value = int(text, 0)
    if not 0 <= value <= 0xFFFF:
        raise ValueError(text)
    return value


class Count(int):
    """A whole number of at least 1."""

    def __new__(cls, text: str) -> Count:
        """Read it."""
        made = super().__new__(cls, text)
        if made < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return made


# What reads a value, by what the value is called; and where it is another in a shared text.
_NO_TYPES: Types = {}
_TYPES: Types = {
    "DIR": Path,
    "PATH": Path,
    # steps run elsewhere
    "PREFIX": os.path.abspath,
    "N": int,
    "COUNT": Count,
    "SECONDS": Count,
    "YYYY-MM-DD": _date,
    "ENCLAVE=VERSION": _matching("([a-z0-9_]+)=([A-Za-z0-9.+~^_:-]+)", "ENCLAVE=VERSION"),
    "PACKAGER": _matching(r"[^<>\n%]+ <[^<>\s%]+@[^<>\s%]+>", "NAME <ADDRESS>"),
}
_SHARED_TYPES: Mapping[str, Types] = {
    "policy": {"NAME": _named(pin_named, lambda: [p.enclave for p in all_pins()]), "N": svn},
    "references": {"ENCLAVE": _named(lambda n: n in not_shipped(), lambda: sorted(not_shipped()))},
}


def declare(parser: argparse.ArgumentParser, text: str, types: Types = _NO_TYPES) -> None:
    """Add the arguments of a text to a parser; types besides the usual ones are by their names."""
    types = {**_TYPES, **types}
    place: Any = parser
    apart: Any = None
    for line in re.sub(r"\n +", " ", text.strip()).splitlines():
        if line.startswith("@"):
            declare(parser, SHARED[line[1:]], {**types, **_SHARED_TYPES.get(line[1:], {})})
        elif line.endswith(":"):
            place = parser.add_argument_group(line[:-1])
        elif line.startswith("^"):
            flags, settings = _argument(line[1:], types)
            required = settings.pop("required", False)
            apart = apart or place.add_mutually_exclusive_group(required=required)
            apart.add_argument(*flags, **settings)
        else:
            flags, settings = _argument(line, types)
            place.add_argument(*flags, **settings)


def _argument(line: str, types: Types) -> tuple[list[str], dict[str, Any]]:
    """What `add_argument` takes for a line."""
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
        how: Mapping[str, dict[str, Any]] = {
            "!": {"required": True},
            "*": {"action": "append", "default": []},
            "...": {"nargs": "*", "default": []},
        }
        settings |= how.get(number, {})
    if not value:
        return flags, {**settings, "action": "store_true"}
    read = types.get(value, str)
    if value.islower() and "|" in value:
        settings["choices"] = value.split("|")
    else:
        settings |= {"metavar": value, "type": read}
    if match["default"] is not None:
        settings["default"] = read(match["default"])
    return flags, settings
