# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what a task is given, and the one place where errors of the core become Koji's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import koji

from sgx_enclaves.errors import SgxEnclavesError


@contextmanager
def koji_errors() -> Iterator[None]:
    """Let errors of the core and of the system out as Koji's, with the same words."""
    try:
        yield
    except SgxEnclavesError as error:
        raise koji.GenericError(str(error)) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise koji.GenericError(
            f"the builder cannot go on: {error.strerror or error}{where}; "
            "check its disk, then start the verification again"
        ) from error


def text(value: Any, name: str) -> str:
    """A line of text.

    Raises:
        koji.ParameterError: it is none.
    """
    if not isinstance(value, str) or not value or len(value) > 1024 or not value.isprintable():
        raise wrong(name, "a line of text", value)
    return value


def name_or_id(value: Any, name: str) -> Any:
    """What names a build or a tag."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    return text(value, name)


def number(value: Any, name: str) -> int:
    """A whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong(name, "a whole number above 0", value)
    return value


def truth(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value


def names(value: Any, name: str) -> list[str]:
    """Some names, each once."""
    if not isinstance(value, (list, tuple)) or not value:
        raise wrong(name, "a list of names", value)
    return list(dict.fromkeys(text(item, name) for item in value))


def wrong(name: str, expected: str, found: Any) -> Exception:
    """The error for an argument."""
    error: Exception = koji.ParameterError(
        f"Invalid value for {name}: expected {expected}, found {repr(found)[:120]}"
    )
    return error


def checked(
    opts: Any, checks: Mapping[str, Callable[[Any, str], Any]], what: str = "opts"
) -> dict[str, Any]:
    """Options, each checked; those that are None are left out.

    Raises:
        koji.ParameterError: one is unknown or malformed.
    """
    if opts is None:
        return {}
    if not isinstance(opts, Mapping):
        raise wrong(what, "a mapping", opts)
    unknown = sorted(str(key) for key in set(opts) - set(checks))
    if unknown:
        raise koji.ParameterError(
            f"Unknown {what}: {', '.join(unknown)}; known are {', '.join(sorted(checks))}"
        )
    return {key: checks[key](value, key) for key, value in opts.items() if value is not None}
