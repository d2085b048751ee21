# SPDX-License-Identifier: GPL-2.0-or-later
"""A verification in a chroot that a real mock makes; needs KOJI_MOCK and KOJI_USERLAND."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.koji.harness import work, world
from tests.koji.harness.settings import Settings
from tests.koji.harness.site import Site
from tests.koji.stage import ENCLAVES, Stage

TAG = "real-build"


@pytest.fixture(scope="module")
def userland(settings: Settings) -> Path:
    if settings.real_mock is None or settings.userland is None:
        pytest.skip("needs a real mock: KOJI_MOCK and KOJI_USERLAND (tests/koji/README.md)")
    return settings.userland


@pytest.fixture(scope="module")
def stage(userland: Path, dark_stage: Stage) -> Iterator[Stage]:
    """The play's stage, and a build tag whose chroots hold the userland and nothing else."""
    _make_tag(dark_stage.admin, dark_stage.site, userland)
    with dark_stage.lit() as stage:
        yield stage


def _make_tag(admin: Any, site: Site, userland: Path) -> None:
    admin.createTag(TAG, arches="x86_64")
    name = userland.name.rsplit("-", 2)[0]
    admin.packageListAdd(TAG, name, owner=world.ADMIN)
    nvr = work.import_binary(admin, userland)
    admin.tagBuildBypass(TAG, nvr)
    for group in world.GROUPS:
        admin.groupListAdd(TAG, group)
        admin.groupPackageListAdd(TAG, group, name)
    site.make_repo(TAG)


def test_a_package_is_verified_in_a_real_chroot(stage: Stage, prebuilt: dict[str, Any]) -> None:
    done = stage.verify(prebuilt["nvr"], "--build-tag", TAG, "--json")
    result = json.loads(done.out)
    assert (done.status, result["verdict"]) == (0, "identical"), done.text
    record = stage.admin.getSgxVerification(prebuilt["id"])
    assert record["verdict"] == "identical"
    assert {enclave["name"] for enclave in record["enclaves"]} == set(ENCLAVES)
    child = stage.admin.getTaskChildren(result["task_id"])[0]
    (buildroot,) = stage.admin.listBuildroots(taskID=child["id"])
    held = stage.admin.listRPMs(componentBuildrootID=buildroot["id"])
    assert len(held) == 1
