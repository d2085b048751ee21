# SPDX-License-Identifier: GPL-2.0-or-later
"""An INI file as a dataclass, by a JSON Schema that says which sections and options there are.

An unknown one is an error: a misspelt limit must not pass for none.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import from_plain, validate

T = TypeVar("T")
YES, NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def load_settings(cls: type[T], schema: Mapping[str, Any], path: str) -> T:
    """Read a file into a dataclass whose fields are called SECTION_OPTION, each with a default.

    A section with options of the site's own is one field, a mapping.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="", delimiters=("=",))
    # Names of tags and targets differ by case.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        # Line ends of all kinds: what stands behind a section's name would pass for nothing.
        text = io.StringIO(read_file(path, MIB).decode("utf-8"), newline=None)
        parser.read_file(text, path)
    except (UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"the configuration cannot be read: {error}", file=path) from None
    data: dict[str, dict[str, Any]] = {}
    fields: dict[str, Any] = {}
    for name in parser.sections():
        section = schema["properties"].get(name, {})
        known, others = section.get("properties", {}), section.get("additionalProperties") or {}
        # An empty text counts as not set, but in a section of the site's own.
        texts = {key: text for key, text in parser[name].items() if text or key not in known}
        data[name] = {k: _plain_value(text, known.get(k, others)) for k, text in texts.items()}
        of_section = {f"{name}_{key}": value for key, value in data[name].items()}
        fields |= of_section if known else {name.replace(" ", "_"): data[name]}
    validate(data, schema, file=path, error=InputError)
    return from_plain(cls, fields)


def _plain_value(text: str, schema: Mapping[str, Any]) -> Any:
    """What a text means where the schema wants a list, a number or a boolean; else the text."""
    kind = schema.get("type")
    if kind == "array":
        return [_plain_value(word, schema["items"]) for word in text.split()]
    if kind == "integer" and text.isascii() and text.isdigit():
        return int(text[:18])
    if kind == "boolean":
        with contextlib.suppress(ValueError):
            return yes_or_no(text)
    return text


def yes_or_no(value: str) -> bool:
    """True or False."""
    if value.lower() not in (*YES, *NO):
        raise ValueError("yes or no")
    return value.lower() in YES


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
