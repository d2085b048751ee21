# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what a caller passes, and what Koji's tasks of a verification take.

The hub checks an argument when a task is made, the builder again when it runs. A
check gives the value back, or raises `ValueError` with what it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from sgx_enclaves.errors import ArgumentError

MAX_TEXT = 1024
MAX_ID = (1 << 31) - 1
DAY = 24 * 3600
Check = Callable[[Any], Any]

# The tasks' names, and the names of their parameters as hub policies see them.
PARENT, CHILD = "sgxEnclaves", "sgxEnclave"
_NO_DEFAULTS = (None, None, (None, None))
SIGNATURES: dict[str, list[list[Any]]] = {
    PARENT: [[["release", "build_tag", "build", "opts"], *_NO_DEFAULTS]],
    CHILD: [[["release", "enclaves", "build_tag", "build", "opts"], *_NO_DEFAULTS]],
}


def text(value: Any) -> str:
    """A line of text."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"a line of at most {MAX_TEXT} printable characters")
    return value


def number(least: int, most: int) -> Check:
    """A check for whole numbers."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return check


def name_or_id(value: Any) -> Any:
    """What names a build or a tag."""
    return number(1, MAX_ID)(value) if isinstance(value, int) else text(value)


def truth(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def choice(*words: str) -> Check:
    """A check for one of some words."""

    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(words))
        return str(value)

    return check


def list_of(item: Check, most: int, least: int = 1) -> Check:
    """A check for a list; what is in it twice is taken once."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            raise ValueError(f"a list of {least} to {most} values")
        found: list[Any] = []
        for one in value:
            checked_one = item(one)
            if checked_one not in found:
                found.append(checked_one)
        return found

    return check


def optional(check: Check) -> Check:
    """A check that lets None pass."""
    return lambda value: None if value is None else check(value)


def argument(value: Any, name: str, check: Check) -> Any:
    """One argument, checked."""
    try:
        return check(value)
    except ValueError as error:
        raise ArgumentError(
            f"Invalid value for {name}", expected=str(error), found=repr(value)[:120]
        ) from None


def checked(values: Any, checks: Mapping[str, Check], name: str = "opts") -> dict[str, Any]:
    """A mapping of arguments, each checked by its name; those that are None are left out."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"Invalid value for {name}", expected="a mapping", found=repr(values)[:120]
        )
    unknown = sorted(repr(key)[:40] for key in set(values) - set(checks))
    if unknown:
        raise ArgumentError(
            f"Unknown {name}: {', '.join(unknown[:8])}", expected=", ".join(sorted(checks))
        )
    return {
        key: argument(value, key, checks[key]) for key, value in values.items() if value is not None
    }


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("a mapping of names to texts")
    return {text(key): data for key, data in value.items()}


def _package(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or set(value) != {"name", "relative", "sha256"}:
        raise ValueError("a list of packages with name, relative and sha256")
    return {key: text(data) for key, data in value.items()}


# What a caller may ask of a verification, and what the parent gives each subtask.
OPTIONS: Mapping[str, Check] = {
    "unsigned_build": name_or_id,
    "enclaves": list_of(text, 64),
    "repo_id": number(1, MAX_ID),
    "timeout": number(1, 7 * DAY),
    "allow_unpinned": truth,
    "split": truth,
    "task_id": number(1, MAX_ID),
}
# The hub adds whether a build in the tag can be reproducible without a lock.
PARENT_OPTIONS: Mapping[str, Check] = {**OPTIONS, "tag_allowed": truth}
CHILD_OPTIONS: Mapping[str, Check] = {
    "tag_allowed": truth,
    "unsigned_build": name_or_id,
    "repo_id": number(1, MAX_ID),
    "allow_unpinned": truth,
    "releases": _texts,
    "release_sha256": text,
    "rpms": list_of(_package, 2000, least=0),
}


def optional_text(value: Any, name: str) -> Optional[str]:
    """A line of text, or None."""
    found: Optional[str] = argument(value, name, optional(text))
    return found
