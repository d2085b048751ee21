# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the packages of a buildroot can be had, for its lock."""

from __future__ import annotations

from typing import Any, Optional

import koji


def component_urls(session: Any, buildroot: int, topurl: Optional[str]) -> dict[str, str]:
    """NEVRA to URL of the packages of a buildroot that this Koji has itself.

    Those of external repositories are left out: the hub does not know their place.

    Args:
        session: with the hub.
        buildroot: its id.
        topurl: where the hub's files are served; None for nowhere.
    """
    if not topurl:
        return {}
    paths = koji.PathInfo(topdir=topurl)
    rpms = [r for r in session.listRPMs(componentBuildrootID=buildroot) if r["build_id"]]
    builds = {number: session.getBuild(number) for number in {rpm["build_id"] for rpm in rpms}}
    urls = {}
    for rpm in rpms:
        epoch = f"{rpm['epoch']}:" if rpm["epoch"] else ""
        nevra = f"{rpm['name']}-{epoch}{rpm['version']}-{rpm['release']}.{rpm['arch']}"
        urls[nevra] = f"{paths.build(builds[rpm['build_id']])}/{paths.rpm(rpm)}"
    return urls
