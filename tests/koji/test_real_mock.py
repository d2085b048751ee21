# SPDX-License-Identifier: GPL-2.0-or-later
"""A verification in a chroot that a real mock makes; needs KOJI_MOCK and KOJI_USERLAND."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.koji.harness import work, world
from tests.koji.harness.settings import Settings
from tests.koji.harness.site import Site
from tests.koji.stage import ENCLAVES, Stage, open_vendor, set_stage

TAG = "real-build"


@pytest.fixture(scope="module")
def stage(
    settings: Settings, site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """The play's stage, and a build tag whose chroots hold the userland and nothing else."""
    if settings.real_mock is None or settings.userland is None:
        pytest.skip("needs a real mock: KOJI_MOCK and KOJI_USERLAND (tests/koji/README.md)")
    folder = tmp_path_factory.mktemp("real-mock")
    with open_vendor(folder) as vendor:
        stage = set_stage(site, admin, vendor, folder / "packages")
        _make_tag(admin, site, settings.userland)
        yield stage
        site.builder.plugin_conf("sgx_enclaves.conf", None)
        site.hub.set_policy({})


def _make_tag(admin: Any, site: Site, userland: Any) -> None:
    admin.createTag(TAG, arches="x86_64")
    name = userland.name.rsplit("-", 2)[0]
    admin.packageListAdd(TAG, name, owner=world.ADMIN)
    nvr = work.import_binary(admin, userland)
    admin.tagBuildBypass(TAG, nvr)
    for group in world.GROUPS:
        admin.groupListAdd(TAG, group)
        admin.groupPackageListAdd(TAG, group, name)
    site.make_repo(TAG)


def test_a_package_is_verified_in_a_real_chroot(stage: Stage) -> None:
    built = stage.build(stage.sources.reproducible)
    stage.into_build_tag(built["nvr"])
    prebuilt = stage.build(stage.sources.prebuilt)
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
