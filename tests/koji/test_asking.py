# SPDX-License-Identifier: GPL-2.0-or-later
"""What anybody may ask of a real hub, and how much work that may make."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import koji
import pytest

from tests.koji import gatekit
from tests.koji.gatekit import Binary, Workshop
from tests.koji.harness import world
from tests.koji.harness.site import Site

HOLD = """begin; select name from locks where name = 'sgx-enclaves-inspection' for update;
select pg_sleep(4); rollback"""


@pytest.fixture(scope="module", name="build")
def _build(
    site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    gatekit.add_host(site, admin)
    admin.createTag("asking")
    admin.packageListAdd("asking", gatekit.PACKAGE, owner=world.ADMIN)
    yield Workshop(site, admin, tmp_path_factory.mktemp("asking")).build(Binary())


def error_of(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(koji.GenericError) as caught:
        call(*arguments, **named)
    return str(caught.value)


def test_builds_are_read_for_one_stranger_at_a_time(
    site: Site, admin: Any, plain: Any, build: dict[str, Any]
) -> None:
    holder = threading.Thread(target=site.database.execute, args=(HOLD,))
    holder.start()
    time.sleep(1)
    assert "ask again in a moment" in error_of(plain.getSgxGateStatus, build["nvr"], "asking")
    # who has the permission is not kept waiting
    assert admin.getSgxGateStatus(build["nvr"], "asking")["present"]
    assert site.session(world.RELENG).getSgxGateStatus(build["id"])["present"]
    holder.join()
    assert plain.getSgxGateStatus(build["nvr"], "asking")["present"]


def test_who_has_not_logged_in_makes_the_hub_read_nothing(
    site: Site, build: dict[str, Any]
) -> None:
    anonymous = site.session("")
    assert "logged in" in error_of(anonymous.getSgxGateStatus, build["nvr"])
    assert "logged in" in error_of(anonymous.auditSgxTag, "asking")
    assert anonymous.getSgxVerification(build["nvr"]) is None
    assert anonymous.listSgxVerifications(build=build["id"]) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "at least 1"),
        ({"limit": "1; drop table build"}, "limit does not fit"),
        ({"order": "id; select 1"}, "order does not fit"),
        ({"order": {"a": 1}}, "order does not fit"),
        ({"group": "id"}, "found group"),
        ({"rowlock": True}, "found rowlock"),
        ("limit", "queryOpts does not fit"),
    ],
)
def test_options_of_a_query_are_refused_in_words(site: Site, options: Any, words: str) -> None:
    error = error_of(site.session("").listSgxVerifications, queryOpts=options)
    assert words in error
    assert "Traceback" not in error


def test_an_unknown_repo_is_refused(site: Site, build: dict[str, Any]) -> None:
    asker = site.session(world.RELENG)
    error = error_of(asker.sgxEnclaves, None, world.BUILD_TAG, build["nvr"], {"repo_id": 999_999})
    assert f"repo 999999 does not exist: name a repo of tag {world.BUILD_TAG}" in error


def test_ids_are_taken_where_help_says_so(site: Site, build: dict[str, Any]) -> None:
    tag = str(site.session("").getTag("asking")["id"])
    for words in ((str(build["id"]), tag), (build["nvr"], "asking")):
        done = site.cli(world.PLAIN, "sgx-enclaves", "gate-status", *words)
        assert (done.status, "not gated" in done.out.lower() or "ALLOWED" in done.out) == (0, True)
    assert site.cli(world.PLAIN, "sgx-enclaves", "list", "--build", str(build["id"])).status == 0
    shown = site.cli(world.PLAIN, "sgx-enclaves", "show", str(build["id"]))
    assert (shown.status, "was never verified" in shown.err) == (2, True)
