# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verb is called, says of itself and takes: a file such as verbs.txt, made a parser of."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sgx_enclaves.enclave.policy import all_pins, not_shipped, pin_named
from sgx_enclaves.enclave.sdk import generation_named

Read = Callable[[str], Any]
Types = Mapping[str, Read]

_LINE = re.compile(
    r"(?P<names>(?:-\w, |--[a-z-]+, )?--[a-z-]+|(?:[a-z_]+:)?(?=\S))"
    r" ?(?P<value>[^-\s!?*+(]\S*?|)(?P<number>[!?*+]|\.\.\.|)(?: \((?P<default>[^)]+)\))?"
    r"(?: {2,}(?P<help>.*))?"
)


class Verb(NamedTuple):
    """A verb: the module of the function that runs it, a line, its `--help`, its arguments."""

    module: str
    summary: str
    about: str
    arguments: str


def read_verbs(file: Path) -> tuple[dict[str, Verb], dict[str, str]]:
    """The verbs by name, and arguments that several of them take."""
    verbs: dict[str, Verb] = {}
    shared: dict[str, str] = {}
    _, *parts = file.read_text("utf-8").split("\n=== ")
    for part in parts:
        head, _, text = part.partition("\n")
        if head.startswith("@"):
            shared[head[1:]] = text
        else:
            name, module, summary = head.split(": ", 2)
            about, _, arguments = text.partition("\n---\n")
            verbs[name] = Verb(module, summary, about, arguments)
    return verbs, shared


VERBS, SHARED = read_verbs(Path(__file__).with_name("verbs.txt"))


def _matching(form: str, expected: str) -> Read:
    """What takes a text of this form: its groups, or all of it where there are none."""

    def read(text: str) -> Any:
        match = re.fullmatch(form, text)
        if match is None:
            raise argparse.ArgumentTypeError(f"must be {expected}")
        return match.groups() or text

    return read


def _named(known: Callable[[str], object], names: Callable[[], Iterable[str]]) -> Read:
    """What takes a name that is known, and lists all names otherwise."""

    def read(text: str) -> str:
        if not known(text):
            choices = ", ".join(names())
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices})")
        return text

    return read


def _date(text: str) -> Any:
    import datetime

    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-29") from None


def _whole(least: int, most: int) -> Read:
    """What takes a whole number in these bounds, decimal or 0x-hexadecimal."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text, 0)) <= most:
                return value
        raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}")

    return read


# What reads a value, by its option or by what the value is called; other values are texts.
TYPES: Types = {
    "DIR": Path,
    "PATH": Path,
    # steps run elsewhere
    "PREFIX": os.path.abspath,
    "X.Y": generation_named,
    "N": _whole(0, 0xFFFF),
    "COUNT": _whole(1, 1 << 20),
    "SECONDS": _whole(1, 1 << 20),
    "YYYY-MM-DD": _date,
    "NAME": _named(pin_named, lambda: [p.enclave for p in all_pins()]),
    "--permit": _named(lambda name: name in not_shipped(), lambda: sorted(not_shipped())),
    "ENCLAVE=VERSION": _matching("([a-z0-9_]+)=([A-Za-z0-9.+~^_:-]+)", "ENCLAVE=VERSION"),
    "PACKAGER": _matching(r"[^<>\n%]+ <[^<>\s%]+@[^<>\s%]+>", "NAME <ADDRESS>"),
}


def declare(
    parser: argparse.ArgumentParser,
    text: str,
    types: Types = TYPES,
    shared: Mapping[str, str] = SHARED,
) -> None:
    """Add the arguments of a text to a parser."""
    place: Any = parser
    apart: Any = None
    for line in re.sub(r"\n +", " ", text.strip()).splitlines():
        if line.startswith("@"):
            declare(parser, shared[line[1:]], types, shared)
        elif line.endswith(":"):
            place = parser.add_argument_group(line[:-1])
        else:
            flags, settings = _argument(line.removeprefix("^"), types)
            into = place
            if line.startswith("^"):
                required = settings.pop("required", False)
                into = apart = apart or place.add_mutually_exclusive_group(required=required)
            into.add_argument(*flags, **settings)


def _argument(line: str, types: Types) -> tuple[list[str], dict[str, Any]]:
    """What `add_argument` takes for a line."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"no argument is declared so: {line}")
    names, value, number = match["names"], match["value"], match["number"]
    settings: dict[str, Any] = {"help": match["help"]}
    if not names.startswith("-"):
        flags = [names.rstrip(":") or value.lower()]
        # without a default, argparse calls it required
        settings |= {"nargs": number or None, **({"default": []} if number == "*" else {})}
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
    read = types.get(flags[-1], types.get(value, str))
    if value.islower() and "|" in value:
        settings["choices"] = value.split("|")
    else:
        settings |= {"metavar": value, "type": read}
    if match["default"] is not None:
        settings["default"] = read(match["default"])
    return flags, settings
