# SPDX-License-Identifier: GPL-2.0-or-later
"""One throw-away CA a run, one server, one release and one directory a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.release.building import SmallRelease
from tests.support.machine import toolchain_asked_once
from tests.vendor_server import Authority, VendorServer, vendor_server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module", autouse=True)
def _toolchain_asked_once() -> Iterator[None]:
    with toolchain_asked_once():
        yield


@pytest.fixture
def vendor(authority: Authority) -> Iterator[VendorServer]:
    with vendor_server(authority) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path) -> SmallRelease:
    return SmallRelease(tmp_path / "small")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"
