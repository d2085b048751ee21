# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of records and refusals by Koji's own `protonmsg`, and results for a ResultsDB."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import koji
import pytest

from tests.koji import gatekit
from tests.koji.gatekit import Binary, Recorder, Workshop
from tests.koji.harness import world
from tests.koji.harness.daemon import PATIENCE
from tests.koji.harness.settings import Settings
from tests.koji.harness.site import Site
from tests.unit.koji.cli.test_cli import resultsdb as resultsdb  # noqa: PLC0414  (a fixture)

HARD = "events-hard"
PROTON = """[broker]
urls = amqp://127.0.0.1:5672
topic_prefix = koji
connect_timeout = 10
send_timeout = 60
"""


@pytest.fixture(scope="module", name="shop")
def _shop(
    site: Site, admin: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workshop]:
    """A hub with the plugin, as it stands in Koji's sources, beside ours."""
    if not settings.koji.python_path:
        pytest.skip("the message-bus plugin is looked for in a checkout")
    gatekit.add_host(site, admin)
    admin.createTag(HARD, extra={"sgx_enclaves.enforce": "true"})
    admin.packageListAdd(HARD, gatekit.PACKAGE, owner=world.ADMIN)
    site.hub.plugin_conf("protonmsg.conf", PROTON)
    site.hub.add_plugin(settings.koji.python_path[0] / "plugins/hub", "protonmsg")
    yield Workshop(site, admin, tmp_path_factory.mktemp("events"))
    site.hub.remove_plugin("protonmsg")
    site.hub.plugin_conf("protonmsg.conf", None)


@pytest.fixture(scope="module", name="recorder")
def _recorder(site: Site, shop: Workshop) -> Recorder:
    return Recorder(site, shop, site.session(world.RELENG))


def messages(site: Site, kind: str, build: Any) -> list[Any]:
    """The messages of that kind about a build, when the first one has come."""
    path = Path(site.layout.topdir).parent / "messages.jsonl"
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        mine = [m for m in found if m["address"] == f"topic://koji.sgx-enclaves.{kind}"]
        mine = [m for m in mine if m["body"]["build_id"] == build["id"]]
        if mine or time.monotonic() > deadline:
            return mine
        # builders call, and what waits in a process of the hub goes with such a call
        time.sleep(0.5)


def test_each_record_is_announced(site: Site, shop: Workshop, recorder: Recorder) -> None:
    build = shop.build(Binary())
    number = recorder.verify(build)
    (message,) = messages(site, "record", build)
    body = message["body"]
    assert message["properties"]["type"] == "SgxEnclavesRecord"
    assert message["properties"]["nvr"] == body["nvr"] == build["nvr"]
    assert (body["record"], body["verdict"], body["reproducible"]) == (number, "identical", True)
    assert body["enclaves"][0]["mrenclave"] == gatekit.CASE.regenerated.mrenclave.hex()


def test_each_refusal_is_announced_although_it_undoes_its_call(
    site: Site, shop: Workshop, admin: Any
) -> None:
    build = shop.build(Binary())
    with pytest.raises(koji.GenericError):
        admin.massTag(HARD, [build["nvr"]])
    message = messages(site, "refusal", build)[0]
    assert message["properties"]["tag"] == HARD
    assert message["body"]["user"] == world.ADMIN
    assert "never verified" in message["body"]["reasons"][0]
    assert admin.listTags(build["nvr"]) == []


def test_a_result_goes_to_a_resultsdb(
    site: Site, shop: Workshop, recorder: Recorder, resultsdb: Any
) -> None:
    build, url = shop.build(Binary()), f"http://127.0.0.1:{resultsdb.server_port}/api/v2.0"
    words = ("sgx-enclaves", "publish", build["nvr"], "--resultsdb", url, "--tag", HARD)
    assert site.cli(world.PLAIN, *words).status == 2
    recorder.verify(build)
    done = site.cli(world.PLAIN, *words)
    assert done.status == 0, done.text
    ((path, _kind, body),) = resultsdb.sent
    assert (path, body["outcome"]) == ("/api/v2.0/results", "PASSED")
    assert body["data"]["item"] == [build["nvr"]]
    recorder.verify(build, verdict="differs", reproducible=False)
    assert site.cli(world.PLAIN, *words).status == 0
    assert resultsdb.sent[-1][2]["outcome"] == "FAILED"
