# SPDX-License-Identifier: GPL-2.0-or-later
"""What Koji's tasks of a verification take. The hub checks an argument when a task is made, the
builder again when it runs: each must be what `arguments.schema.json` says under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgx_enclaves.errors import ArgumentError
from sgx_enclaves.plain import read_schema, validate

# The tasks' names, and the names of their parameters as hub policies see them.
PARENT, CHILD = "sgxEnclaves", "sgxEnclave"
_NO_DEFAULTS = (None, None, (None, None))
SIGNATURES: dict[str, list[list[Any]]] = {
    PARENT: [[["release", "build_tag", "build", "opts"], *_NO_DEFAULTS]],
    CHILD: [[["release", "enclaves", "build_tag", "build", "opts"], *_NO_DEFAULTS]],
}


def argument(value: Any, name: str, part: str = "") -> Any:
    """One argument, checked; `part` is its definition where that is not called like it."""
    schema = {"properties": {name: read_schema(__file__, "arguments.schema.json", part or name)}}
    validate({name: value}, schema, file="", error=ArgumentError)
    return value


def options(given: Any, part: str, name: str = "opts") -> dict[str, Any]:
    """A mapping of arguments, checked; those that are None are left out, if they are known."""
    known = read_schema(__file__, "arguments.schema.json", part)["properties"]
    if isinstance(given, Mapping):
        given = {k: value for k, value in given.items() if value is not None or k not in known}
    found: dict[str, Any] = argument({} if given is None else given, name, part)
    return found
