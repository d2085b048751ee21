# SPDX-License-Identifier: GPL-2.0-or-later
"""Fill a template: `@name@` is a value, and the lines between `@each name@` and `@end@`
stand once for each item of a list, with the item's values on top of all others.

Knows text only. A name that nobody gave is an error, and so is a value that is never
used: a template and its values cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Union

from sgx_enclaves.errors import InputError

Values = Mapping[str, str]
Fields = Mapping[str, Union[str, Sequence[Values]]]

_NAME = re.compile(r"@([A-Za-z_]+)@")
_EACH = re.compile(r"@each ([a-z_]+)@\Z")
_END = "@end@"


def fill(template: str, fields: Fields, file: str) -> str:
    """The template with all values put in.

    Args:
        template: its text.
        fields: texts, and lists of mappings from name to text.
        file: its name, for messages.

    Raises:
        InputError: an unknown name, or a block that is not closed.
    """
    plain = {name: value for name, value in fields.items() if isinstance(value, str)}
    lines: list[str] = []
    for number, items, body in _blocks(template, fields, file):
        for item in items:
            values = {**plain, **item}
            lines += [_put(line, values, f"{file}:{number}") for line in body]
    return "\n".join(lines) + "\n"


def _blocks(
    template: str, fields: Fields, file: str
) -> Iterator[tuple[int, Sequence[Values], list[str]]]:
    """Line number, items and lines of each block; a line outside of all is one of its own."""
    body: list[str] = []
    items: Sequence[Values] = ()
    begun = 0
    for number, line in enumerate(template.splitlines(), 1):
        each = _EACH.match(line)
        if each is not None:
            found = fields.get(each[1])
            if begun or found is None or isinstance(found, str):
                raise InputError(f"line {number}: no list for this block", file=file, found=line)
            body, items, begun = [], found, number
        elif line == _END and begun:
            yield begun, items, body
            begun = 0
        elif begun:
            body.append(line)
        else:
            yield number, ({},), [line]
    if begun:
        raise InputError(f"the block of line {begun} does not end", file=file, expected=_END)


def _put(line: str, values: Values, where: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InputError("no value has this name", file=where, found=match[0])
        return values[match[1]]

    return _NAME.sub(value_of, line)
