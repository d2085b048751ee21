# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies of docs/koji.md, as they stand there, on a real hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import koji
import pytest

from tests.koji import gatekit
from tests.koji.gatekit import Binary, Recorder, Workshop
from tests.koji.harness import work, world
from tests.koji.harness.settings import ROOT
from tests.koji.harness.site import Site

_BLOCK = re.compile(r"^```policy (?P<name>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
TESTING, STABLE, EXCEPTION = "f99-updates-testing", "f99-updates", "sgx-exception"
CONF = f"[signers]\nour-vendor = {gatekit.MRSIGNER}\n"
OTHER_SIGNER = "[signers]\nour-vendor = " + "12" * 32 + "\n"


def cookbook() -> dict[str, dict[str, str]]:
    """Example's name to its policies: policy name to rules."""
    text = (ROOT / "docs/koji.md").read_text(encoding="utf-8")
    found = {}
    for match in _BLOCK.finditer(text):
        name, _, rules = match["text"].partition(" =\n")
        found[match["name"]] = {name: rules}
    return found


BOOK = cookbook()


@pytest.fixture(scope="module", name="shop")
def _shop(site: Site, admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    gatekit.add_host(site, admin)
    for tag in (TESTING, STABLE, EXCEPTION):
        admin.createTag(tag)
        admin.packageListAdd(tag, gatekit.PACKAGE, owner=world.ADMIN)
    site.hub.plugin_conf("sgx_enclaves.conf", CONF)
    yield Workshop(site, admin, tmp_path_factory.mktemp("cookbook"))
    site.hub.plugin_conf("sgx_enclaves.conf", None)
    site.hub.set_policy({})


@pytest.fixture(scope="module", name="builds")
def _builds(site: Site, shop: Workshop) -> dict[str, dict[str, Any]]:
    """One build of each kind that a policy may tell apart."""
    recorder = Recorder(site, shop, site.session(world.RELENG))
    kinds = {
        "plain": shop.build(Binary(files=gatekit.PLAIN, provides=())),
        **{kind: shop.build(Binary()) for kind in ("unverified", "verified", "weaker", "differs")},
    }
    recorder.verify(kinds["verified"])
    recorder.verify(kinds["weaker"], reproducible=False)
    recorder.verify(kinds["differs"], verdict="differs")
    return kinds


def lets_in(session: Any, tag: str, build: Mapping[str, Any]) -> bool:
    """Whether a user may tag a build; it is untagged again."""
    try:
        work.wait(session, session.tagBuild(tag, build["nvr"]))
    except koji.ActionNotAllowed as error:
        assert "SGX enclaves are not verified" in str(error)
        return False
    assert work.tagged(session, tag, build["nvr"])
    return True


def allowed(shop: Workshop, tag: str, builds: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The kinds of builds that get into a tag."""
    found = {kind for kind, build in builds.items() if lets_in(shop.admin, tag, build)}
    for kind in found:
        shop.admin.untagBuildBypass(tag, builds[kind]["nvr"], force=True)
    return found


def test_each_example_is_tested() -> None:
    assert set(BOOK) == {"updates", "two-steps", "signers", "exception", "channel"}


def test_nothing_unverified_into_updates(shop: Workshop, builds: Any) -> None:
    shop.site.hub.set_policy(BOOK["updates"])
    assert allowed(shop, STABLE, builds) == {"plain", "verified"}
    assert allowed(shop, TESTING, builds) == set(builds)


def test_the_reproducible_verdict_for_stable_only(shop: Workshop, builds: Any) -> None:
    shop.site.hub.set_policy(BOOK["two-steps"])
    assert allowed(shop, TESTING, builds) == {"plain", "verified", "weaker"}
    assert allowed(shop, STABLE, builds) == {"plain", "verified"}


def test_a_signer_of_ones_own(shop: Workshop, builds: Any) -> None:
    shop.site.hub.set_policy(BOOK["signers"])
    assert allowed(shop, STABLE, builds) == {"plain", "verified"}
    shop.site.hub.plugin_conf("sgx_enclaves.conf", OTHER_SIGNER)
    assert allowed(shop, STABLE, builds) == {"plain"}
    shop.site.hub.plugin_conf("sgx_enclaves.conf", CONF)


def test_an_exception_that_one_person_grants(shop: Workshop, builds: Any) -> None:
    shop.site.hub.set_policy(BOOK["exception"])
    assert allowed(shop, STABLE, builds) == {"plain", "verified"}
    nvr = builds["unverified"]["nvr"]
    shop.admin.tagBuildBypass(EXCEPTION, nvr)
    with pytest.raises(koji.ActionNotAllowed, match="ask for an exception"):
        shop.admin.moveBuild(EXCEPTION, STABLE, nvr)
    releng = shop.site.session(world.RELENG)
    ended = work.wait(releng, releng.moveBuild(EXCEPTION, STABLE, nvr))
    assert (ended.state, ended.error) == ("CLOSED", "")
    assert work.tagged(shop.admin, STABLE, nvr)
    shop.admin.untagBuildBypass(STABLE, nvr, force=True)


def test_verifications_on_hosts_of_their_own(shop: Workshop, builds: Any) -> None:
    if shop.admin.getChannel("sgx-enclaves") is None:
        shop.admin.addHostToChannel(gatekit.HOST, "sgx-enclaves", create=True)
    shop.site.hub.set_policy(BOOK["channel"])
    releng = shop.site.session(world.RELENG)
    task = releng.sgxEnclaves(None, world.BUILD_TAG, builds["verified"]["nvr"])
    channel = shop.admin.getTaskInfo(task)["channel_id"]
    shop.admin.cancelTask(task)
    assert channel == shop.admin.getChannel("sgx-enclaves")["id"]
