# SPDX-License-Identifier: GPL-2.0-or-later
"""This machine's tools, which stay as they are while the tests run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sgx_enclaves.release import toolchain
from sgx_enclaves.release.place import Output, Place

_ANSWERS: dict[Any, Sequence[Output]] = {}


@contextmanager
def toolchain_asked_once() -> Iterator[None]:
    """Each kind of place is asked once a process: to link and to digest takes 0.25 s of a test."""
    look_at = toolchain.look_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            toolchain,
            "look_at",
            lambda names, path, place, prefixes: look_at(names, path, _asked(place), prefixes),
        )
        yield


def _asked(place: Place) -> Any:
    """The place with the answers of before, but about files that a test has made."""

    def ask(commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        words = str(commands)
        if tempfile.gettempdir() in words:
            return place.ask(commands, timeout)
        if (type(place), words) not in _ANSWERS:
            _ANSWERS[type(place), words] = place.ask(commands, timeout)
        return _ANSWERS[type(place), words]

    return SimpleNamespace(ask=ask, packages=place.packages)
