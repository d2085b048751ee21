# SPDX-License-Identifier: GPL-2.0-or-later
"""The deployment of docs/koji.md, step by step, as it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

from tests.koji.harness import world
from tests.koji.harness.settings import ROOT
from tests.koji.stage import RELEASE, Stage
from tests.koji.test_cookbook import BOOK
from tests.koji.test_play import let_in, refused

TAG = "f43-updates"
CHANNEL = "sgx-enclaves"
_FENCE = re.compile(r"^ *```deployment (\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_TEXT = (ROOT / "docs/koji.md").read_text(encoding="utf-8")
# What a release engineer's Koji has before.
_BEFORE = {
    "f43-build": world.BUILD_TAG,
    "f43-updates-candidate": world.CANDIDATE,
    "HOST": world.BUILDER,
}
# What stands where the text names no name.
_NAMES = {"USER": world.RELENG, "PINNER": world.ADMIN, "PACKAGE": "harness-python-path"}


def blocks(kind: str) -> list[str]:
    return [dedent(text) for found, text in _FENCE.findall(_TEXT) if found == kind]


def commands(block: str, names: dict[str, str]) -> list[list[str]]:
    lines = [shlex.split(line) for line in block.splitlines()]
    return [[names.get(word, word) for word in words[1:]] for words in lines]


@pytest.fixture(scope="module")
def stage(dark_stage: Stage) -> Iterator[Stage]:
    with dark_stage.lit() as stage:
        yield stage


def test_the_deployment_as_it_is_written(stage: Stage, another: dict[str, Any]) -> None:
    site, admin, nvr = stage.site, stage.admin, another["nvr"]
    people, verifying, daily = blocks("commands")
    (hub,) = blocks("hub")
    admin.createTag(TAG)
    admin.packageListAdd(TAG, another["package_name"], owner=world.ADMIN)
    names = {**_BEFORE, **_NAMES, "NVR": nvr}
    # where other modules have put a host without a builder
    if admin.getChannel(CHANNEL) is not None:
        for host in admin.listHosts(channelID=CHANNEL):
            admin.removeHostFromChannel(host["name"], CHANNEL)
    shown = ""
    for words in commands(people, names):
        done = site.cli(world.ADMIN, *words)
        # whose permission the harness has given before
        assert done.status == 0 or "already has permission" in done.text, done.text
        shown += done.out
    # `taginfo` has shown it
    (number,) = re.findall(r"^Tag: f43-sgx-build \[(\d+)\]$", shown, re.MULTILINE)
    site.hub.set_policy(BOOK["channel"])
    site.hub.plugin_conf("sgx_enclaves.conf", hub.replace("ID", number))
    try:
        assert "never verified" in refused(admin, TAG, nvr)
        verify, lock = commands(verifying, names)
        done = site.cli(world.RELENG, *verify)
        assert done.status == 0, done.text
        record = admin.getSgxVerification(nvr)
        assert (record["reproducible"], record["build_tag"]) == (True, "f43-sgx-build")
        task = admin.getTaskInfo(record["task_id"])
        assert admin.getChannel(task["channel_id"])["name"] == CHANNEL
        done = site.cli(world.RELENG, "taskinfo", "-r", "-v", str(task["id"]))
        assert 'build_tag: "f43-sgx-build"' in done.out
        assert '  enclaves: ["pce", "ide", "qe3", "tdqe"]' in done.out
        done = site.cli(world.ADMIN, *[w.replace("TASK", str(task["id"])) for w in lock])
        assert done.status == 0, done.text
        assert admin.getSgxLock(RELEASE)["task_id"] == task["id"]
        assert site.cli(world.RELENG, *verify).status == 0
        assert admin.getSgxVerification(nvr)["lock_sha256"] is not None
        let_in(admin, TAG, nvr)
        for words in commands(daily, names):
            done = site.cli(world.RELENG, *words)
            assert done.status == 0, done.text
    finally:
        admin.untagBuildBypass(TAG, nvr, strict=False)
        admin.removeHostFromChannel(world.BUILDER, CHANNEL)
        site.database.execute(
            "alter table sgx_lock disable trigger sgx_lock_final; delete from sgx_lock;"
            "alter table sgx_lock enable trigger sgx_lock_final"
        )
