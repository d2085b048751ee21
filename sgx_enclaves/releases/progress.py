# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a download is, told to a person: a bar on a terminal, else plain lines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Optional, TextIO

_BAR = 30
_MIB = 1 << 20


@dataclass(frozen=True)
class Event:
    """One thing to tell.

    Attributes:
        name: the file.
        done: bytes that are here.
        total: bytes of the whole, if known.
        note: a sentence; empty when only the count has moved.
    """

    name: str
    done: int = 0
    total: Optional[int] = None
    note: str = ""


Progress = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Tell nothing."""


def for_stream(stream: TextIO) -> Progress:
    """The bar if the stream is a terminal, else the lines."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class PlainProgress:
    """Notes, and each tenth of a file as a line: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._told: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Write the event if it is worth a line."""
        if event.note:
            self._line(f"{event.name}: {event.note}")
        elif event.total:
            tenth = event.done * 10 // event.total
            if tenth > self._told.get(event.name, 0):
                self._line(f"{event.name}: {_amount(event)}")
            self._told[event.name] = tenth

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
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
            self._next = self._clock() + 0.1
            self._stream.write(f"{self._clear()}{event.name} {_bar(event)}{_amount(event)}")
            self._drawn = True
        self._stream.flush()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._drawn else ""


def _bar(event: Event) -> str:
    if not event.total:
        return ""
    full = min(_BAR, event.done * _BAR // event.total)
    return f"[{'#' * full}{'.' * (_BAR - full)}] "


def _amount(event: Event) -> str:
    done = f"{event.done / _MIB:.1f}"
    if not event.total:
        return f"{done} MiB"
    return f"{done} of {event.total / _MIB:.1f} MiB ({event.done * 100 // event.total} %)"
