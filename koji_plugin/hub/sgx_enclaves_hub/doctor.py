# SPDX-License-Identifier: GPL-2.0-or-later
"""Is everything there that a deployment needs? One call looks, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import koji
from koji.plugin import export

from sgx_enclaves import __version__
from sgx_enclaves.arguments import CHILD
from sgx_enclaves.errors import SgxEnclavesError

from . import hub_api
from .config import settings
from .gate import MARK, rules_of_tag
from .tasks import PERMISSION

_TABLES = ("sgx_verification", "sgx_verification_enclave", "sgx_gated_tag", "sgx_lock")


@export
def checkSgxSetup() -> list[dict[str, Any]]:
    """What of this hub's set-up for SGX enclaves is right, and what is not.

    Needs the permission sgx-enclaves.

    :returns: a list of mappings: 'what' was looked at, whether it is 'good', and 'says' in words
    """
    hub_api.session().assertPerm(PERMISSION)
    version = f"plugin {__version__}, Koji {koji.__version__}"
    return [
        {"what": what, "good": good, "says": says}
        for what, good, says in (
            ("versions", True, f"{version}; builders say theirs in sgx-enclaves.log"),
            _tables(),
            *_channel(),
            _build_tags(),
            *_hook_tags(),
            *_gates(),
        )
    ]


def _tables() -> tuple[str, bool, str]:
    rows = hub_api.query(
        "pg_class", {"name": "relname"}, clauses=["relname IN %(names)s"], values={"names": _TABLES}
    )
    missing = sorted(set(_TABLES) - {row["name"] for row in rows})
    says = f"missing: {', '.join(missing)}; load 0001-sgx-verification.sql" if missing else "all"
    return "tables", not missing, says


def _channel() -> Iterable[tuple[str, bool, str]]:
    name = settings().channel
    if not name:
        yield "channel", True, "none: Koji's channel policy decides where verifications run"
        return
    rows = hub_api.query(
        "host_channels",
        {"name": "host.name", "arches": "host_config.arches"},
        joins=[
            "channels ON channels.id = host_channels.channel_id",
            "host ON host.id = host_channels.host_id",
            "host_config ON host_config.host_id = host.id",
        ],
        clauses=[
            "channels.name = %(name)s",
            "host_channels.active IS TRUE",
            "host_config.active IS TRUE",
            "host_config.enabled IS TRUE",
        ],
        values={"name": name},
    )
    hosts = sorted(row["name"] for row in rows if "x86_64" in (row["arches"] or "").split())
    says = f"{name}: {_some(hosts) or 'no enabled x86_64 host'}"
    yield "channel", bool(hosts), says
    ran = hub_api.query(
        "task",
        {"name": "host.name"},
        joins=["host ON host.id = task.host_id"],
        clauses=[
            "method = %(method)s",
            "state = %(closed)s",
            "completion_time > NOW() - INTERVAL '7 days'",
        ],
        values={"method": CHILD, "closed": koji.TASK_STATES["CLOSED"]},
    )
    idle = sorted(set(hosts) - {row["name"] for row in ran})
    says = f"no verification within a week: {_some(idle)}; try one there" if idle else "all of them"
    yield "hosts that verify", not idle, says


def _build_tags() -> tuple[str, bool, str]:
    globs = settings().build_tags
    locks = hub_api.query("sgx_lock", {"release": "release"})
    locked = sorted({row["release"] for row in locks})
    says = f"trusted tags: {_some(globs) or 'none'}; locked releases: {_some(locked) or 'none'}"
    if not globs and not locked:
        says += "; no verdict is reproducible, and the plain rule lets nothing in"
    return "build tags and locks", bool(globs or locked), says


def _hook_tags() -> Iterable[tuple[str, bool, str]]:
    wanted = {settings().build_tag, *settings().targets.values()} if settings().hook else set()
    for name in sorted(wanted - {""}):
        problem = _tag_problem(name)
        yield f"[hook] tag {name}", problem is None, problem or "has a repo"


def _tag_problem(name: str) -> Optional[str]:
    try:
        tag = hub_api.get_tag(name, strict=True)
    except koji.GenericError as error:
        return str(error)
    return None if (tag.get("arches") or "").split() else "has no architectures, so no repo"


def _gates() -> Iterable[tuple[str, bool, str]]:
    rows = hub_api.query(
        "tag_extra",
        {"id": "tag.id"},
        joins=["tag ON tag.id = tag_extra.tag_id"],
        clauses=["key = %(mark)s", "tag_extra.active IS TRUE"],
        values={"mark": MARK},
    )
    noted = hub_api.query("sgx_gated_tag", {"id": "tag_id"})
    gated = 0
    for number in sorted({row["id"] for row in (*rows, *noted)}):
        tag = hub_api.get_tag(number, strict=True)
        try:
            gated += bool(rules_of_tag(tag))
        except SgxEnclavesError as error:
            yield f"gated tag {tag['name']}", False, f"lets nothing in: {error}"
    yield "gated tags", gated > 0, f"{gated}" if gated else "none: nothing is kept out"
    users = hub_api.query(
        "user_perms",
        {"name": "users.name"},
        joins=[
            "users ON users.id = user_perms.user_id",
            "permissions ON permissions.id = user_perms.perm_id",
        ],
        clauses=["user_perms.active IS TRUE", "permissions.name IN ('tag', 'admin')"],
    )
    names = sorted({row["name"] for row in users})
    says = f"{len(names)} users can take marks off tags and edit inheritance: {_some(names)}"
    yield "who can open a gate", True, says


def _some(names: Iterable[str], most: int = 12) -> str:
    found = list(names)
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")
