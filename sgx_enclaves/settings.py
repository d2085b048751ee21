# SPDX-License-Identifier: GPL-2.0-or-later
"""An INI file, read into a dataclass whose fields say section, key and check.

An unknown section or key is an error: a misspelt limit must not pass for none.
A check turns a value's text into what it means, or raises `ValueError` with what it expects.
"""

from __future__ import annotations

import configparser
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any, Optional, TypeVar

from sgx_enclaves.errors import InputError, SgxEnclavesError

T = TypeVar("T")
YES, NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def setting(section: str, key: str, usual: Any, check: Callable[[str], Any] = str) -> Any:
    """A dataclass field that one key of the file sets; an empty value counts as not set."""
    return field(default=usual, metadata={"section": section, "key": key, "check": check})


def table(section: str, check: Callable[[Mapping[str, str]], Any] = dict) -> Any:
    """A dataclass field that is a whole section, with keys of the site's own."""
    return field(
        default_factory=lambda: check({}), metadata={"section": section, "key": "", "check": check}
    )


def load_settings(cls: type[T], path: str) -> T:
    """Read a file into a dataclass of `setting` and `table` fields."""
    parser = configparser.ConfigParser(
        interpolation=None, default_section="", delimiters=("=",), inline_comment_prefixes=None
    )
    # Names of tags and targets differ by case.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream, path)
    except FileNotFoundError:
        raise InputError("there is no such file", file=path) from None
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"the configuration cannot be read: {error}", file=path) from None
    known: dict[str, dict[str, Field[Any]]] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        if "section" in item.metadata:
            known.setdefault(item.metadata["section"], {})[item.metadata["key"]] = item
    values: dict[str, Any] = {}
    for section in parser.sections():
        found = dict(parser[section])
        if section not in known:
            raise _unknown(path, f"there is no section [{section}]", known)
        keys = known[section]
        if "" in keys:
            values[keys[""].name] = _checked(path, f"[{section}]", found, keys[""])
            continue
        if unknown := ", ".join(key for key in found if key not in keys):
            raise _unknown(path, f"[{section}] has unknown keys: {unknown}", keys)
        for key, value in found.items():
            if value:
                values[keys[key].name] = _checked(path, f"[{section}] {key}", value, keys[key])
    return cls(**values)


def _unknown(path: str, message: str, known: Iterable[str]) -> InputError:
    return InputError(message, file=path, expected=", ".join(known))


def _checked(path: str, place: str, value: Any, item: Field[Any]) -> Any:
    try:
        return item.metadata["check"](value)
    except ValueError as error:
        found = repr(value)[:120] if isinstance(value, str) else None
        raise InputError(f"{place} is wrong", file=path, expected=str(error), found=found) from None


def yes_or_no(value: str) -> bool:
    """True or False."""
    if value.lower() not in (*YES, *NO):
        raise ValueError("yes or no")
    return value.lower() in YES


def whole(least: int, most: int, unit: int = 1) -> Callable[[str], int]:
    """A check for whole numbers, which are multiplied by a unit."""

    def check(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not least <= int(value[:18]) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value) * unit

    return check


def folder(value: str) -> Path:
    """A directory."""
    if not value.startswith("/"):
        raise ValueError("an absolute path")
    return Path(value)


def folders(value: str) -> tuple[Path, ...]:
    """Some directories."""
    return tuple(folder(word) for word in value.split())


def https_url(value: str) -> Optional[str]:
    """The URL of a server that shows a certificate."""
    if not value.startswith("https://"):
        raise ValueError("an https:// URL")
    return value


def check_file(read: Callable[[str], object], usual: str, arguments: Sequence[str]) -> int:
    """A program that checks a configuration file before it is used; its exit status."""
    path = arguments[0] if arguments else usual
    try:
        read(path)
    except SgxEnclavesError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path}: good")
    return 0
