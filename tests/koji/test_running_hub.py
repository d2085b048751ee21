# SPDX-License-Identifier: GPL-2.0-or-later
"""What any hub with the plugin must answer, asked without an account and without changing anything.

By default asked of the test hub; of another one with KOJI_HUB_URL=https://…/kojihub, for which no
Koji need be started here:

    make koji-test KOJI_SRC=… KOJI_HUB_URL=… KOJI_TESTS=tests/koji/test_running_hub.py
"""

from __future__ import annotations

import os
from typing import Any

import koji
import pytest

OLDEST = (1, 33)
CALLS = {
    "sgxEnclaves",
    "host.recordSgxVerification",
    "getSgxVerification",
    "listSgxVerifications",
    "getSgxGateStatus",
}


@pytest.fixture(scope="module")
def anonymous(request: pytest.FixtureRequest) -> Any:
    url = os.environ.get("KOJI_HUB_URL")
    if not url:
        url = request.getfixturevalue("site").hub.xmlrpc
    return koji.ClientSession(url, opts={"max_retries": 3, "anon_retry": True})


def test_its_version_is_one_that_the_plugin_is_for(anonymous: Any) -> None:
    version = anonymous.getKojiVersion()
    assert tuple(int(part) for part in version.split(".")[:2]) >= OLDEST


def test_the_calls_are_there(anonymous: Any) -> None:
    assert {call["name"] for call in anonymous._listapi()} >= CALLS


def test_the_permission_is_there(anonymous: Any) -> None:
    assert "sgx-enclaves" in {permission["name"] for permission in anonymous.getAllPerms()}


def test_everybody_can_read_records(anonymous: Any) -> None:
    assert anonymous.listSgxVerifications(queryOpts={"countOnly": True}) >= 0
    for record in anonymous.listSgxVerifications(queryOpts={"limit": 5}):
        assert record["verdict"] in ("identical", "differs", "unverifiable")


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("sgxEnclaves", ("some-release", "some-tag")),
        ("host.recordSgxVerification", (1, {})),
        ("getSgxGateStatus", ("some-build", "some-tag")),
    ],
)
def test_strangers_are_refused(anonymous: Any, call: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(koji.GenericError) as refused:
        anonymous.callMethod(call, *arguments)
    assert isinstance(refused.value, (koji.ActionNotAllowed, koji.AuthError)), refused.value
