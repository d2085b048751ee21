# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed reading of parsed plain data. Goes when the manifest is read by its schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Optional

from sgx_enclaves.errors import CatalogueError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LONGEST = 4096


class Table:
    """A TOML table whose keys are taken one by one; none may be left over.

    Args:
        data: the parsed table.
        file: where it was read from.
        path: its dotted path in there; empty for the whole file.
    """

    def __init__(self, data: Mapping[str, Any], file: str, path: str = "") -> None:
        self._left = dict(data)
        self._file = file
        self.path = path

    def refuse(self, key: str, reason: str, found: Optional[object] = None) -> NoReturn:
        """Raise the error for a key."""
        where = f"{self.path}.{key}" if self.path and key else self.path or key
        raise CatalogueError(
            f"{where}: {reason}" if where else reason,
            file=self._file,
            found=repr(found)[:200] if found is not None else None,
        )

    def _take(self, key: str, kind: type, word: str, required: bool) -> Any:
        if key not in self._left:
            if required:
                self.refuse(key, "is missing")
            return None
        value = self._left.pop(key)
        # a TOML boolean is a Python int
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key, f"must be {word}", value)
        return value

    def maybe_text(self, key: str, pattern: Optional[re.Pattern[str]] = None) -> Optional[str]:
        """A non-empty line of text, or None if the key is not there."""
        value = self._take(key, str, "text", required=False)
        if value is None:
            return None
        if not value or len(value) > _LONGEST or not value.isprintable():
            self.refuse(key, "must be one line of text", value)
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(key, f"must look like {pattern.pattern}", value)
        return str(value)

    def text(self, key: str, pattern: Optional[re.Pattern[str]] = None) -> str:
        """A non-empty line of text."""
        value = self.maybe_text(key, pattern)
        if value is None:
            self.refuse(key, "is missing")
        return value

    def place(self, key: str) -> str:
        """A path below the tree, or `.` (given as empty) for the tree itself."""
        value = self.text(key)
        if value == ".":
            return ""
        if value.startswith("/") or any(part in ("", ".", "..") for part in value.split("/")):
            self.refuse(key, "must be a plain relative path", value)
        return value

    def maybe_integer(self, key: str, low: int, high: int) -> Optional[int]:
        """A number from `low` to `high`, or None if the key is not there."""
        value = self._take(key, int, "a number", required=False)
        if value is None:
            return None
        if not low <= value <= high:
            self.refuse(key, f"must be from {low} to {high}", value)
        return int(value)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, bool, "true or false", required=False)
        return default if value is None else bool(value)

    def texts(self, key: str, required: bool = True) -> tuple[str, ...]:
        """A list of lines of text; empty if it is not required and not there."""
        value = self._take(key, list, "a list of text", required)
        for item in value or ():
            if not isinstance(item, str) or not item or not item.isprintable():
                self.refuse(key, "must be a list of text", item)
        return tuple(value or ())

    def strings(self, key: str) -> dict[str, str]:
        """A table of text, such as environment variables."""
        value = self._take(key, dict, "a table", required=False) or {}
        for name, item in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or not isinstance(item, str):
                self.refuse(f"{key}.{name}", "must be a variable with text", item)
        return dict(value)

    def table(self, key: str) -> Optional[Table]:
        """A table within this one, or None."""
        value = self._take(key, dict, "a table", required=False)
        return None if value is None else Table(value, self._file, self._below(key))

    def tables(self, key: str) -> list[Table]:
        """A list of tables; empty if the key is not there."""
        value = self._take(key, list, "a list of tables", required=False) or []
        tables = []
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                self.refuse(key, "must be a list of tables", item)
            tables.append(Table(item, self._file, f"{self._below(key)}[{number}]"))
        return tables

    def _below(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def unique(self, key: str, values: Iterable[str]) -> None:
        """Refuse a value that is there twice."""
        seen: set[str] = set()
        for value in values:
            if value in seen:
                self.refuse(key, "is there twice", value)
            seen.add(value)

    def done(self) -> None:
        """Refuse keys that nobody took: a misspelt key must not be silently lost."""
        for key in self._left:
            self.refuse(key, "is not a known key")
