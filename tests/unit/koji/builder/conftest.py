# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendor once a process; a hub, a builder and its stand-in for kojid for each test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.enclaves.compiled import have_toolchain
from tests.support.machine import toolchain_asked_once
from tests.support.once import built_enclaves
from tests.unit.koji.builder.buildroots import FakeBuildRoot
from tests.unit.koji.builder.world import Vendor, World, make_vendor, new_hub


@pytest.fixture(scope="session")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    if not have_toolchain():
        pytest.skip("the test enclaves' compiler is not here")
    built = built_enclaves(tmp_path_factory)
    with make_vendor(tmp_path_factory.mktemp("vendor"), built) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _toolchain_asked_once() -> Iterator[None]:
    with toolchain_asked_once():
        yield


@pytest.fixture
def buildroots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeBuildRoot]:
    """kojid's class, fresh, where kojid has it."""

    class BuildRoot(FakeBuildRoot):
        folder = tmp_path / "mock"
        made = []  # noqa: RUF012

    monkeypatch.setattr(sys.modules["__main__"], "BuildRoot", BuildRoot, raising=False)
    return BuildRoot


@pytest.fixture(scope="session")
def rpm_database() -> None:
    """The buildroots here are this machine itself; where it has no database, rpm makes one."""
    folders = [Path(name) for name in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")]
    found = [folder for folder in folders if folder.is_dir()]
    if found and shutil.which("rpm") is not None:
        ask = ["rpm", "-qa", "--dbpath", str(found[0])]
        if subprocess.run(ask, check=False, capture_output=True).returncode:
            pytest.skip("rpm has no database here, and this user cannot make one")


@pytest.fixture
def world(
    rpm_database: None,
    vendor: Vendor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    buildroots: type[FakeBuildRoot],
) -> World:
    made = World(vendor, new_hub(tmp_path), tmp_path, monkeypatch)
    made.hub.answers["getRepo"] = {"id": 4}
    made.configure()
    made.describe()
    monkeypatch.setattr(
        "sgx_enclaves_builder.verify_build.SgxEnclavesTask.getRepo", lambda _self, _tag: {"id": 4}
    )
    return made
