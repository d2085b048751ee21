# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness itself: a real Koji comes up, works, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

from tests.koji.harness import world
from tests.koji.harness.site import Site


def test_the_hub_answers_and_the_builder_checks_in(site: Site, admin: Any) -> None:
    assert admin.getLoggedInUser()["name"] == world.ADMIN
    assert admin.getLastHostUpdate(admin.getHost(world.BUILDER)["id"], ts=True) is not None
