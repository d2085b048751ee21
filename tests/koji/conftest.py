# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the suite on a real Koji (README.md): one a session, or a skip with the reason."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.koji.harness import settings as settings_module, work, world
from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import Settings
from tests.koji.harness.site import Site
from tests.koji.stage import Stage, open_vendor, set_stage

# Options that a real mock may need.
_PASSED_ON = ("MOCK_SRC", "KOJI_SRC", "KOJI_RUN")


@pytest.fixture(scope="session")
def settings() -> Settings:
    try:
        return settings_module.read(os.environ)
    except settings_module.NotAskedError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def site(settings: Settings) -> Iterator[Site]:
    """A running Koji, shared by all tests of the session."""
    made = settings.scratch is None
    root = settings.scratch or Path(tempfile.mkdtemp(prefix="koji-test-"))
    extra = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    site = Site(settings, Layout(root), extra)
    try:
        site.start()
        yield site
    finally:
        site.stop()
        if made:
            shutil.rmtree(root)


@pytest.fixture(scope="session")
def admin(site: Site) -> Any:
    """A session of the administrator."""
    return site.session(world.ADMIN)


@pytest.fixture(scope="session")
def plain(site: Site) -> Any:
    """A session of a user without any permission."""
    return site.session(world.PLAIN)


@pytest.fixture(scope="session")
def dark_stage(site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The play's stage; a module that plays lights it (`Stage.lit`)."""
    folder = tmp_path_factory.mktemp("play")
    with open_vendor(folder) as vendor:
        yield set_stage(site, admin, vendor, folder / "packages")


@pytest.fixture(scope="session")
def reproducible(dark_stage: Stage) -> dict[str, Any]:
    """The unsigned enclaves, built by Koji."""
    built = dark_stage.build(dark_stage.sources.reproducible)
    dark_stage.into_build_tag(built["nvr"])
    return built


@pytest.fixture(scope="session")
def prebuilt(dark_stage: Stage, reproducible: dict[str, Any]) -> dict[str, Any]:
    """The vendor's signed enclaves in a package whose %check compares them with ours."""
    assert reproducible
    return dark_stage.build(dark_stage.sources.prebuilt)


@pytest.fixture(scope="module")
def another(
    dark_stage: Stage, reproducible: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The same package once more, for a module that verifies it before the play does."""
    assert reproducible
    folder = tmp_path_factory.mktemp("another")
    release = 100 + len(dark_stage.admin.listBuilds(userID=world.ADMIN))
    return dark_stage.build(work.with_release(dark_stage.sources.prebuilt, folder, release))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the daemons' logs with a failed test."""
    outcome: Any = yield
    report = outcome.get_result()
    funcargs = getattr(item, "funcargs", {})
    if report.failed and isinstance(funcargs.get("site"), Site):
        report.sections.append(("Koji's logs", funcargs["site"].logs()))
