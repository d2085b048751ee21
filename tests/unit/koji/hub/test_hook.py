# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook behind imports: when it starts a verification, and when it does not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import koji
import koji.plugin
import pytest
from sgx_enclaves_hub.tasks import verify_new_build

from tests.unit.koji.hub.fakehub import PLAIN_FILES, FakeHub

ON = "[hook]\nenabled = yes\nbuild_tag = f42-build\n"


@pytest.fixture(name="ready")
def _ready(hub: FakeHub, conf: Path) -> FakeHub:
    """A hub with the hook switched on, and a build with an enclave."""
    conf.write_text(ON)
    hub.add_tag(4, "f42-build")
    hub.add_tag(5, "eln-build")
    hub.add_package(hub.add_build())
    return hub


def complete(hub: FakeHub, kind: str = "build", **changes: Any) -> list[Any]:
    """What tasks an import makes."""
    verify_new_build("postImport", type=kind, **{"build": hub.builds[7], "srpm": "x", **changes})
    return hub.made


def test_a_build_with_signed_enclaves_is_verified(ready: FakeHub) -> None:
    assert complete(ready) == [("sgxEnclaves", [None, "f42-build", "x-1.0-1", {}], {"owner": 55})]


def test_a_content_generator_s_too(ready: FakeHub) -> None:
    assert len(complete(ready, "cg")) == 1


def test_it_is_off_unless_switched_on(ready: FakeHub, conf: Path) -> None:
    from sgx_enclaves_hub.config import settings  # noqa: PLC0415

    for text in ("", "[hook]\nenabled = no\nbuild_tag = f42-build\n"):
        conf.write_text(text)
        settings.cache_clear()
        assert complete(ready) == []
    assert ready.points == []


@pytest.mark.parametrize("kind", ["rpm", "archive", "image"])
def test_other_imports_are_not_its_matter(ready: FakeHub, kind: str) -> None:
    assert complete(ready, kind) == []
    assert complete(ready, build=None) == []


def test_a_build_without_signed_enclaves_is_not(ready: FakeHub) -> None:
    ready.packages[7].clear()
    ready.add_package(ready.builds[7], PLAIN_FILES, ("sgx-enclave(pce:unsigned)",))
    assert complete(ready) == []


@pytest.mark.parametrize("state", ["BUILDING", "FAILED", "CANCELED"])
def test_a_build_that_is_not_complete_is_not(ready: FakeHub, state: str) -> None:
    ready.builds[7]["state"] = koji.BUILD_STATES[state]
    assert complete(ready) == []


def test_a_target_has_its_own_build_tag(ready: FakeHub, conf: Path) -> None:
    conf.write_text(ON + "[hook targets]\neln = eln-build\n")
    ready.targets[90] = "eln"
    complete(ready)
    ready.targets[90] = "f42"
    complete(ready)
    ready.targets[90] = None
    complete(ready)
    ready.builds[7]["task_id"] = None
    complete(ready)
    assert [arguments[1] for _, arguments, _ in ready.made] == [
        "eln-build",
        "f42-build",
        "f42-build",
        "f42-build",
    ]


def test_a_target_that_is_not_named_is_left_alone(ready: FakeHub, conf: Path) -> None:
    conf.write_text("[hook]\nenabled = yes\n[hook targets]\neln = eln-build\n")
    ready.targets[90] = "f42"
    assert complete(ready) == []


def test_what_cannot_be_read_is_verified(ready: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    """The task fails with the reason; nobody overlooks it."""
    path = Path(ready.build_folder(ready.builds[7])) / ready.package_path(ready.packages[7][0])
    path.write_bytes(b"text")
    assert len(complete(ready)) == 1
    assert "not an RPM package" in caplog.text


def test_a_failure_undoes_what_the_hook_did_and_lets_the_build_pass(
    ready: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ready.tags.clear()
    with pytest.raises(koji.GenericError, match="No such tagInfo"):
        complete(ready)
    assert [point.rolled_back for point in ready.points] == [True]
    monkeypatch.setitem(koji.plugin.callbacks, "postImport", [verify_new_build])
    with caplog.at_level(logging.WARNING):
        koji.plugin.run_callbacks("postImport", type="build", build=ready.builds[7])
    assert "No such tagInfo" in caplog.text


def test_a_success_undoes_nothing(ready: FakeHub) -> None:
    complete(ready)
    assert [point.rolled_back for point in ready.points] == [False]
