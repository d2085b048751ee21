# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of text for terminals. Knows no enclaves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_GAP = "  "


def printable(text: str) -> str:
    """Text from elsewhere, made harmless for a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what is cut off is marked."""
    return text if len(text) <= width else text[: max(width - 3, 1)] + "..."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with each column as wide as its widest cell, the last one as it comes."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells
    ]


def wrapped(start: str, text: str, width: int) -> list[str]:
    """A paragraph that hangs behind `start`."""
    return textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [start.rstrip()]
