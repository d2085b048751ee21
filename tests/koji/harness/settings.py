# SPDX-License-Identifier: GPL-2.0-or-later
"""What the environment asks of a run; the only place that reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.koji.harness import source

ROOT = Path(__file__).resolve().parents[3]
MACHINE = Path(__file__).resolve().parents[1] / "machine"
STAND_IN = MACHINE / "mock"
# The hub and the builder need modules that only the system's Python has (rpm, dnf, librepo).
SYSTEM_PYTHON = Path("/usr/bin/python3")


class NotAskedError(Exception):
    """This run is not to start Koji, and why."""


@dataclass(frozen=True)
class Settings:
    """What a run works with.

    Attributes:
        koji: Koji's own programs.
        mock: the program that kojid runs as mock.
        real_mock: whether that is a real one.
        modules: folder of Python modules that Debian does not have (python-multilib), or None.
        scratch: folder for all state, or None for a fresh one that is deleted at the end.
        plugins: whether to install ours.
    """

    koji: source.KojiSource
    mock: Path
    real_mock: bool
    modules: Optional[Path]
    scratch: Optional[Path]
    plugins: bool


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of a run.

    Args:
        environ: KOJI_SRC (a checkout, or "installed"), and optionally KOJI_MOCK, KOJI_MODULES,
            KOJI_RUN and KOJI_PLUGINS=no (to see whether a fault is Koji's own).

    Raises:
        NotAskedError: KOJI_SRC is not set, or we are not root.
        NoKojiError: it names no Koji.
    """
    where = environ.get("KOJI_SRC", "")
    if not where:
        raise NotAskedError("needs a Koji: make koji-test KOJI_SRC=CHECKOUT (tests/koji/README.md)")
    if os.geteuid() != 0:
        raise NotAskedError("a Koji builder needs root: run make koji-test as root")
    mock, modules = environ.get("KOJI_MOCK", ""), environ.get("KOJI_MODULES", "")
    run = environ.get("KOJI_RUN", "")
    return Settings(
        koji=source.find(where),
        mock=Path(mock).resolve() if mock else STAND_IN,
        real_mock=bool(mock),
        modules=Path(modules).resolve() if modules else None,
        scratch=Path(run).resolve() if run else None,
        plugins=environ.get("KOJI_PLUGINS", "") != "no",
    )
