# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole game: a release's packages are built, verified, let in; tampered ones are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.koji.harness.site import Site
from tests.koji.stage import ENCLAVES, Stage, open_vendor, set_stage


@pytest.fixture(scope="module")
def stage(site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("play")
    with open_vendor(folder) as vendor:
        yield set_stage(site, admin, vendor, folder / "packages")
        site.builder.plugin_conf("sgx_enclaves.conf", None)
        site.hub.set_policy({})


@pytest.fixture(scope="module")
def reproducible(stage: Stage) -> dict[str, Any]:
    """The unsigned enclaves, built by Koji."""
    built = stage.build(stage.sources.reproducible)
    stage.into_build_tag(built["nvr"])
    return built


@pytest.fixture(scope="module")
def prebuilt(stage: Stage, reproducible: dict[str, Any]) -> dict[str, Any]:
    """The vendor's signed enclaves in a package whose %check holds them against ours."""
    return stage.build(stage.sources.prebuilt)


def test_the_unsigned_enclaves_are_built_in_koji(
    stage: Stage, reproducible: dict[str, Any]
) -> None:
    names = {rpm["name"] for rpm in stage.admin.listRPMs(buildID=reproducible["id"])}
    assert {f"sgx-enclave-reproducible-{name}-unsigned" for name in ENCLAVES} <= names


def test_the_buildroot_of_the_signed_package_held_the_unsigned_ones(
    stage: Stage, prebuilt: dict[str, Any]
) -> None:
    (rpm,) = (
        rpm
        for rpm in stage.admin.listRPMs(buildID=prebuilt["id"])
        if rpm["name"] == "sgx-enclave-prebuilt-pce-signed"
    )
    held = {item["name"] for item in stage.admin.listRPMs(componentBuildrootID=rpm["buildroot_id"])}
    assert {f"sgx-enclave-reproducible-{name}-unsigned" for name in ENCLAVES} <= held
