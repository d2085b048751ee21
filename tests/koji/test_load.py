# SPDX-License-Identifier: GPL-2.0-or-later
"""Many verifications while the builder is killed, and hub and database are restarted.

KOJI_LOAD: how many; KOJI_LOAD_SEED: another order of the faults. Prints figures (pytest -s).
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import koji
import pytest

from demo.release import ENCLAVE_LIST, VERSION
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.koji.gatekit import PACKAGE, Binary, Workshop
from tests.koji.harness import world
from tests.koji.harness.daemon import Daemon
from tests.koji.stage import RELEASE, Stage
from tests.support_rpm import RpmFile

# Seconds between two faults, and for one verification in the end.
BETWEEN = (15.0, 45.0)
MOST_EACH = 120
# Every so many builds ship a changed enclave.
SPOILED = 10
# Of a daemon's memory at the end, against the time when a fourth was done.
MOST_GROWTH = 1.3
ENDED = ("CLOSED", "CANCELED", "FAILED")


@pytest.fixture(scope="module")
def count() -> int:
    asked = os.environ.get("KOJI_LOAD")
    if not asked:
        pytest.skip("needs KOJI_LOAD: how many verifications (tests/koji/README.md)")
    return int(asked)


@pytest.fixture(scope="module")
def stage(count: int, dark_stage: Stage) -> Iterator[Stage]:
    assert count
    with dark_stage.lit() as stage:
        yield stage


@pytest.fixture(scope="module")
def builds(stage: Stage, count: int, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Imported builds with the vendor's enclaves, some with a changed one; the right verdicts."""
    stage.admin.packageListAdd("demo", PACKAGE, owner=world.ADMIN)
    stock = stage.vendor.stock
    verdicts = {}
    for index in range(count):
        spoiled = index % SPOILED == 0
        binaries = []
        for enclave in ENCLAVE_LIST:
            forged = spoiled and enclave.name == "pce"
            data = stock.forged if forged else stock.signed[enclave.signed]
            path = f"{ENCLAVE_FOLDER}{enclave.signed}.{VERSION}"
            provides = f"sgx-enclave({enclave.name}:signed)"
            file = RpmFile(path, data, 0o100755)
            binaries.append(Binary(f"-{enclave.name}", (file,), (provides,)))
        workshop = Workshop(stage.site, stage.admin, tmp_path_factory.mktemp("build"))
        verdicts[workshop.build(*binaries)["id"]] = "differs" if spoiled else "identical"
    return verdicts


def restart_hub(stage: Stage) -> None:
    stage.site.hub.restart()


def restart_database(stage: Stage) -> None:
    stage.site.database.daemon.stop()
    stage.site.database.start()


def kill_builder(stage: Stage) -> None:
    stage.site.builder.kill()
    stage.site.builder.start()
    stage.site.wait_builder(stage.site.builder)


FAULTS: tuple[Callable[[Stage], None], ...] = (restart_hub, restart_database, kill_builder)


def memory(daemon: Daemon) -> dict[str, int]:
    """The largest resident memory, in KiB, of the room's processes of a kind."""
    most: dict[str, int] = {}
    for pid in descendants(daemon.pid):
        try:
            text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        except OSError:
            continue
        name, resident = (re.search(rf"^{key}:\s+(\S+)", text, re.M) for key in ("Name", "VmRSS"))
        if name and resident:
            most[name[1]] = max(most.get(name[1], 0), int(resident[1]))
    return most


def descendants(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return
    for child in children.split():
        yield from descendants(int(child))


def states(stage: Stage, tasks: dict[int, int]) -> dict[int, str]:
    """By build, the state of its newest task."""
    found = stage.admin.getTaskInfo(list(tasks.values()))
    return {build: str(koji.TASK_STATES[info["state"]]) for build, info in zip(tasks, found)}


def unanswered(stage: Stage, tasks: dict[int, int]) -> list[int]:
    """The builds whose task failed, and that have no record."""
    return [
        build
        for build, state in states(stage, tasks).items()
        if state in ("FAILED", "CANCELED") and not stage.admin.listSgxVerifications(build=build)
    ]


def ended(stage: Stage, tasks: dict[int, int]) -> bool:
    return set(states(stage, tasks).values()) <= set(ENDED) and not unanswered(stage, tasks)


def test_each_build_ends_with_one_right_record(stage: Stage, builds: dict[int, str]) -> None:
    chance = random.Random(int(os.environ.get("KOJI_LOAD_SEED", "1")))  # noqa: S311
    releng = stage.site.session(world.RELENG)
    begin = time.monotonic()
    tasks = {build: releng.sgxEnclaves(RELEASE, world.BUILD_TAG, build) for build in builds}
    faults: Counter[str] = Counter()
    resubmitted = 0
    early: dict[str, int] = {}
    next_fault = time.monotonic() + chance.uniform(*BETWEEN)
    while not ended(stage, tasks):
        assert time.monotonic() - begin < MOST_EACH * len(builds), states(stage, tasks)
        for build in unanswered(stage, tasks):
            # what Koji itself could not keep
            stage.admin.resubmitTask(tasks[build])
            newest = stage.verifications()[-1]
            tasks[build] = newest
            resubmitted += 1
        done = [state for state in states(stage, tasks).values() if state in ENDED]
        if not early and len(done) * 4 >= len(builds):
            early = memory(stage.site.hub.daemon)
        if time.monotonic() > next_fault:
            fault = FAULTS[len(faults)] if len(faults) < len(FAULTS) else chance.choice(FAULTS)
            fault(stage)
            faults[fault.__name__] += 1
            next_fault = time.monotonic() + chance.uniform(*BETWEEN)
        time.sleep(2)
    seconds = time.monotonic() - begin
    late = memory(stage.site.hub.daemon)
    print(
        f"\n{len(builds)} verifications: {seconds:.0f} s, {resubmitted} resubmitted, {dict(faults)}"
    )
    print(f"the hub's largest process, KiB: {early} -> {late}")
    records = {build: stage.admin.listSgxVerifications(build=build) for build in builds}
    # With all that the records say, since only they are left of a long run.
    wrong = {
        build: found
        for build, found in records.items()
        if [record["verdict"] for record in found] != [builds[build]]
    }
    assert not wrong, wrong
    for name, before in early.items():
        assert late.get(name, 0) <= before * MOST_GROWTH
