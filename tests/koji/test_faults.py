# SPDX-License-Identifier: GPL-2.0-or-later
"""Two builders at once, and a database that is restarted while a verification runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.koji.harness import work, world
from tests.koji.stage import ENCLAVES, Stage
from tests.koji.test_play import ends_identical, started

SECOND = "builder-second"


@pytest.fixture(scope="module")
def stage(dark_stage: Stage) -> Iterator[Stage]:
    with dark_stage.lit() as stage:
        yield stage


def test_two_builders_share_the_enclaves(stage: Stage, another: dict[str, Any]) -> None:
    site, admin = stage.site, stage.admin
    admin.addHost(SECOND, ["x86_64"])
    site.database.execute(
        f"update users set password = '{world.password(SECOND)}' where name = '{SECOND}'"  # noqa: S608
    )
    second = site.new_builder(SECOND)
    site.keep(second)
    second.start()
    site.wait_builder(second)
    # room for the parent and one subtask
    admin.editHost(world.BUILDER, capacity=2.5)
    done = stage.verify(another["nvr"], "--split", "--json")
    admin.editHost(world.BUILDER, capacity=20.0)
    assert done.status == 0, done.text
    children = admin.getTaskChildren(json.loads(done.out)["task_id"])
    assert sorted(child["label"] for child in children) == sorted(ENCLAVES)
    assert len({child["host_id"] for child in children}) == 2
    second.stop()
    admin.disableHost(SECOND)


def test_a_database_restarted_in_mid_task_leads_to_one_record(
    stage: Stage, another: dict[str, Any]
) -> None:
    records = len(stage.admin.listSgxVerifications(build=another["id"]))
    task = started(stage, another["nvr"])
    stage.site.database.daemon.stop()
    stage.site.database.start()
    ended = work.wait(stage.admin, task)
    if ended.state != "CLOSED":
        # what Koji itself could not keep
        stage.admin.resubmitTask(task)
        task = stage.verifications()[-1]
    ends_identical(stage, task)
    assert len(stage.admin.listSgxVerifications(build=another["id"])) == records + 1
