# SPDX-License-Identifier: GPL-2.0-or-later
"""How far something long is, shown to a person: a bar on a terminal, else plain lines."""

from __future__ import annotations

import time
from typing import Callable, Optional, TextIO

from sgx_enclaves.plain import record

BYTES = "MiB"
_MIB = 1 << 20
_BAR = 30
_REFRESH = 0.1


@record
class Event:
    """One thing to show.

    Attributes:
        name: what is worked on, such as a file.
        done: how much is done, in bytes or pieces.
        total: how much there is, if known.
        note: a sentence; empty when only the count has moved.
        unit: `MiB` for bytes, else what the pieces are called.
    """

    name: str
    done: int = 0
    total: Optional[int] = None
    note: str = ""
    unit: str = BYTES


Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Show nothing."""


def for_stream(stream: TextIO) -> Progress:
    """The bar if the stream is a terminal, else the lines."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress:
    """Notes, and each tenth of the whole as a line: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Write the event if it is worth a line."""
        text = event.note
        if not text and event.total:
            tenth = event.done * 10 // event.total
            text = _amount(event) if tenth > self._shown.get(event.name, 0) else ""
            self._shown[event.name] = tenth
        if text:
            self._stream.write(f"{event.name}: {text}\n")
            self._stream.flush()


class TerminalProgress:
    """A bar that is drawn over itself at most ten times a second."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next = 0.0
        self._drawn = False

    def __call__(self, event: Event) -> None:
        """Draw the bar, or write the note on a line of its own."""
        if event.note:
            self._stream.write(f"{self._clear()}{event.name}: {event.note}\n")
            self._drawn = False
        elif self._clock() >= self._next or event.done == event.total:
            self._next = self._clock() + _REFRESH
            self._stream.write(f"{self._clear()}{event.name} {_bar(event)}{_amount(event)}")
            self._drawn = True
        self._stream.flush()

    def close(self) -> None:
        """End the line that the bar is on."""
        if self._drawn:
            self._stream.write("\n")
            self._drawn = False

    def _clear(self) -> str:
        return "\r\x1b[K" if self._drawn else ""


def _bar(event: Event) -> str:
    if not event.total:
        return ""
    full = min(_BAR, event.done * _BAR // event.total)
    return f"[{'#' * full}{'.' * (_BAR - full)}] "


def _amount(event: Event) -> str:
    def number(value: int) -> str:
        return f"{value / _MIB:.1f}" if event.unit == BYTES else str(value)

    if not event.total:
        return f"{number(event.done)} {event.unit}"
    percent = event.done * 100 // event.total
    return f"{number(event.done)} of {number(event.total)} {event.unit} ({percent} %)"
