# SPDX-License-Identifier: GPL-2.0-or-later
"""How far something long is, shown to a person: a bar on a terminal, else plain lines.

Nothing is shown of what takes less than a second; then come rate and time left, too.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional, TextIO

from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import printable, record

BYTES, SECONDS = "MiB", "s"
_BAR = 30
CLEAR = "\r\x1b[K"
_REFRESH, _PATIENCE = 0.1, 1.0


@record
class Event:
    """How much is done of what is worked on, such as a file, and of how much, if that is known.

    `note` is a sentence; empty when only the count has moved. `unit` is `MiB` where bytes are
    counted, `s` for the time that it takes, else what the pieces are called.
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
    """The bar if the stream is a terminal that can draw over a line, else the lines."""
    return TerminalProgress(stream) if draws_over(stream) else PlainProgress(stream)


def draws_over(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which a line can be taken away again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class PlainProgress:
    """Notes, and each tenth of the whole as a line: for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._tenths: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Write the event if it is worth a line."""
        text = event.note
        if not text and event.total and (amount := self._amount(event)):
            tenth = event.done * 10 // event.total
            text = amount if tenth > self._tenths.get(event.name, 0) else ""
            self._tenths[event.name] = tenth
        if text:
            self._write(f"{printable(f'{event.name}: {text}')}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _amount(self, event: Event) -> str:
        """How much is done, how fast, and how long the rest takes; nothing in the first second."""
        now = self._clock()
        began, first = self._begun.setdefault(event.name, (now, event.done))
        if event.done < first:
            # What is begun again counts from there.
            self._begun[event.name] = began, first = now, event.done
        if now - began < _PATIENCE:
            return ""

        def number(value: float) -> str:
            return f"{value / MIB:.1f}" if event.unit == BYTES else f"{value:.0f}"

        rate = (event.done - first) / (now - began) if now > began else 0.0
        speed = f", {number(rate)} {event.unit}/s" if rate and event.unit != SECONDS else ""
        if not event.total:
            return f"{number(event.done)} {event.unit}{speed}"
        left = f", {duration((event.total - event.done) / rate)} left" if rate else ""
        percent = event.done * 100 // event.total
        whole = f"{number(event.done)} of {number(event.total)} {event.unit} ({percent} %)"
        return whole + speed + (left if event.done < event.total else "")


class TerminalProgress(PlainProgress):
    """A bar that is drawn over itself at most ten times a second, and goes at the end."""

    _next, _drawn = 0.0, False

    def __call__(self, event: Event) -> None:
        """Draw the bar, or write the note on a line of its own."""
        shown = ""
        if event.note:
            shown = f"{printable(f'{event.name}: {event.note}')}\n"
        elif event.done != event.total:
            amount = self._amount(event)
            if not amount or self._clock() < self._next:
                return
            self._next = self._clock() + _REFRESH
            bar = ""
            if event.total:
                full = min(_BAR, event.done * _BAR // event.total)
                bar = f"[{'#' * full}{'.' * (_BAR - full)}] "
            columns = shutil.get_terminal_size().columns - 1
            shown = f"{printable(event.name)} {bar}{amount}"[:columns]
        self._write((CLEAR if self._drawn else "") + shown)
        self._drawn = bool(shown) and not event.note


def duration(seconds: float) -> str:
    """In words, such as `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def elapsed(progress: Progress, name: str) -> Iterator[None]:
    """Show each second how long something takes that cannot say how far it is."""
    # What nobody sees needs no thread, beside which children would be forked.
    if progress is silent:
        yield
        return
    ended = threading.Event()
    begun = time.monotonic()

    def tick() -> None:
        while not ended.wait(1.0):
            progress(Event(name, round(time.monotonic() - begun), unit=SECONDS))

    progress(Event(name, unit=SECONDS))
    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    try:
        yield
    finally:
        ended.set()
        clock.join()
        progress(Event(name, 1, 1, unit=SECONDS))
