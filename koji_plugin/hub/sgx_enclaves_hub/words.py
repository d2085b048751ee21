# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what callers pass, and the one place where errors of the core become Koji's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

import koji

from sgx_enclaves.errors import SgxEnclavesError

MAX_TEXT = 1024
_MAX_ID = (1 << 31) - 1


@contextmanager
def koji_errors() -> Iterator[None]:
    """Let the core's errors out as Koji's, with the same words."""
    try:
        yield
    except SgxEnclavesError as error:
        raise koji.GenericError(str(error)) from error


def text(value: Any, name: str) -> str:
    """A line of text.

    Raises:
        koji.ParameterError: it is none.
    """
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT or not value.isprintable():
        raise _wrong(name, f"a line of at most {MAX_TEXT} printable characters", value)
    return value


def optional_text(value: Any, name: str) -> Optional[str]:
    """A line of text, or None."""
    return None if value is None else text(value, name)


def name_or_id(value: Any, name: str) -> Any:
    """What names a build or a tag: a text or a positive number.

    Raises:
        koji.ParameterError: it is neither.
    """
    if isinstance(value, int):
        return number(value, name, 1, _MAX_ID)
    return text(value, name)


def number(value: Any, name: str, least: int, most: int) -> int:
    """A whole number.

    Raises:
        koji.ParameterError: it is none, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(name, f"a whole number from {least} to {most}", value)
    return value


def truth(value: Any, name: str) -> bool:
    """True or False.

    Raises:
        koji.ParameterError: it is neither.
    """
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """One of some words.

    Raises:
        koji.ParameterError: it is none of them.
    """
    if value not in choices:
        raise _wrong(name, " or ".join(choices), value)
    return str(value)


def _wrong(name: str, expected: str, found: Any) -> Exception:
    error: Exception = koji.ParameterError(
        f"Invalid value for {name}: expected {expected}, found {repr(found)[:120]}"
    )
    return error
