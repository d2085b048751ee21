# SPDX-License-Identifier: GPL-2.0-or-later
"""What the message-bus plugins are given to send, and when."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import koji
import pytest
from koji.context import context
from sgx_enclaves_hub import hub_api
from sgx_enclaves_hub.gate import gate_tagging, guard_import
from sgx_enclaves_hub.hub_api import queue_refusals
from sgx_enclaves_hub.records import recordSgxVerification

from tests.unit.koji.hub.fakehub import TASK, FakeHub

MARK = "sgx_enclaves.enforce"


@pytest.fixture(name="sent")
def _sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any, Any]]]:
    """What `protonmsg` was given; Fedora's plugin collects in the context."""
    given: list[tuple[str, Any, Any]] = []
    proton: Any = types.ModuleType("_koji_plugin__protonmsg")
    proton.queue_msg = lambda *words: given.append(words)
    monkeypatch.setitem(sys.modules, "_koji_plugin__protonmsg", proton)
    fedora = types.ModuleType("_koji_plugin__koji-fedoramessaging")
    monkeypatch.setitem(sys.modules, "_koji_plugin__koji-fedoramessaging", fedora)
    hub_api._waiting.clear()
    yield given
    hub_api._waiting.clear()
    context.fedmsg_plugin_messages = []


@pytest.fixture(name="ready")
def _ready(hub: FakeHub) -> FakeHub:
    build = hub.add_build()
    hub.add_package(build)
    hub.add_tag(4, "gated", extra={MARK: "true"})
    hub.open_task("x-1.0-1")
    return hub


def tag(hub: FakeHub) -> str:
    with pytest.raises(koji.TagError) as caught:
        gate_tagging("preTag", tag=hub.tags[4], build=hub.builds[7], user={"name": "releng"})
    return str(caught.value)


def test_a_record_is_announced_with_its_call(ready: FakeHub, sent: list[Any]) -> None:
    made = recordSgxVerification(TASK, ready.record(ready.builds[7]))
    ((topic, properties, body),) = sent
    assert topic == "sgx-enclaves.record"
    assert properties["type"] == "SgxEnclavesRecord"
    assert (properties["nvr"], properties["verdict"]) == ("x-1.0-1", "identical")
    assert (body["record"], body["reproducible"], body["build_tag"]) == (made, True, "b")
    assert [enclave["name"] for enclave in body["enclaves"]] == ["pce"]
    (other,) = context.fedmsg_plugin_messages
    assert other == {"topic": topic, "msg": body}


def test_a_record_that_is_refused_is_not_announced(ready: FakeHub, sent: list[Any]) -> None:
    with pytest.raises(koji.GenericError):
        recordSgxVerification(TASK, ready.record(ready.builds[7], nvr="y-1-1"))
    assert sent == []


@pytest.mark.parametrize("mark", ["true", "ture"])
def test_a_refusal_waits_for_the_next_commit(ready: FakeHub, sent: list[Any], mark: str) -> None:
    ready.tags[4]["extra"] = {MARK: mark}
    words = tag(ready)
    assert sent == []
    queue_refusals("preCommit")
    queue_refusals("preCommit")
    ((topic, properties, body),) = sent
    assert (topic, properties["tag"]) == ("sgx-enclaves.refusal", "gated")
    assert (body["nvr"], body["user"], body["build_id"]) == ("x-1.0-1", "releng", 7)
    assert body["reasons"][0] in words


def test_a_refused_import_is_announced(ready: FakeHub, sent: list[Any]) -> None:
    ready.rows["tag_listing"] = []
    ready.answers["tag_listing"] = [{"tag_id": 4}]
    path = ready.add_package(ready.builds[7], name="more")
    with pytest.raises(koji.ImportError):
        guard_import("preImport", type="rpm", build=ready.builds[7], filepath=str(path))
    queue_refusals("preCommit")
    assert sent[0][2]["tag"] == "gated"
    assert "more-1.0-1" in sent[0][2]["reasons"][0]


def test_without_a_plugin_nothing_is_sent_and_nothing_grows(ready: FakeHub) -> None:
    for _turn in range(hub_api._MOST_WAITING + 2):
        hub_api.announce_refusal(nvr="x")
    assert len(hub_api._waiting) == hub_api._MOST_WAITING
    queue_refusals("preCommit")
    assert not hub_api._waiting
