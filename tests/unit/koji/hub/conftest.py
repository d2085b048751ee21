# SPDX-License-Identifier: GPL-2.0-or-later
"""The hub plugin on Koji's own library, with a hub in memory behind its seam."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("koji", reason="Koji's library is not there")

import koji
from koji.context import context

from tests.unit.koji.hub.fakehub import NOW, Delegate, FakeHub

_CONF = "SGX_ENCLAVES_HUB_CONF"
# The plugin reads its settings when it is loaded.
os.environ.setdefault(_CONF, os.devnull + ".conf")


@pytest.fixture(name="hub")
def _hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub without anything."""
    from sgx_enclaves_hub import hub_api  # noqa: PLC0415

    monkeypatch.setattr(koji.pathinfo, "topdir", str(tmp_path / "kojifiles"))
    monkeypatch.setattr(hub_api, "now", lambda: NOW)
    Delegate.hub = FakeHub()
    context.session = Delegate.hub
    yield Delegate.hub
    Delegate.hub = context.session = None


@pytest.fixture(name="conf")
def _conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The configuration file, to be written by the test."""
    from sgx_enclaves_hub.config import settings  # noqa: PLC0415

    path = tmp_path / "sgx_enclaves.conf"
    monkeypatch.setenv(_CONF, str(path))
    settings.cache_clear()
    yield path
    settings.cache_clear()
