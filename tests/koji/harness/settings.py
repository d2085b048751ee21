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
        real_mock: a real mock, for build tags named real-*; or None.
        userland: an RPM with all that a chroot of that mock needs; or None.
        modules: folder of Python modules that Debian does not have (python-multilib), or None.
        scratch: folder for all state, or None for a fresh one that is deleted at the end.
        plugins: whether to install ours.
    """

    koji: source.KojiSource
    real_mock: Optional[Path]
    userland: Optional[Path]
    modules: Optional[Path]
    scratch: Optional[Path]
    plugins: bool


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of a run.

    Args:
        environ: KOJI_SRC (a checkout, or "installed"), and optionally KOJI_MOCK, KOJI_USERLAND,
            KOJI_MODULES, KOJI_RUN and KOJI_PLUGINS=no (to see whether a fault is Koji's own).

    Raises:
        NotAskedError: KOJI_SRC is not set, or we are not root.
        NoKojiError: it names no Koji.
    """
    where = environ.get("KOJI_SRC", "")
    if not where:
        raise NotAskedError("needs a Koji: make koji-test KOJI_SRC=CHECKOUT (tests/koji/README.md)")
    if os.geteuid() != 0:
        raise NotAskedError("a Koji builder needs root: run make koji-test as root")

    def path(name: str) -> Optional[Path]:
        return Path(environ[name]).resolve() if environ.get(name) else None

    return Settings(
        koji=source.find(where),
        real_mock=path("KOJI_MOCK"),
        userland=path("KOJI_USERLAND"),
        modules=path("KOJI_MODULES"),
        scratch=path("KOJI_RUN"),
        plugins=environ.get("KOJI_PLUGINS", "") != "no",
    )
