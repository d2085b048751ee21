# SPDX-License-Identifier: GPL-2.0-or-later
"""Is everything there that a deployment needs? One call looks, and says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import koji
from koji.context import context
from koji.plugin import export
from kojihub import RootExports, get_channel, get_tag

from sgx_enclaves import __version__
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.arguments import CHILD
from sgx_enclaves.plain import some

from .config import settings
from .gate import MARK, attested, rules_of_tag
from .hub_api import koji_errors
from .store import column, rows
from .tasks import PERMISSION, distrust

TABLES = ("sgx_verification", "sgx_former_tag_name", "sgx_lock")
# What was looked at, whether it is good, and the finding in words.
_Checks = Iterator[tuple[str, bool, str]]


@export
def checkSgxSetup() -> list[dict[str, Any]]:
    """What of this hub's set-up for SGX enclaves is right, and what is not.

    Needs the permission sgx-enclaves.

    :returns: a list of mappings: 'what' was looked at, whether it is 'good', and 'says' in words
    """
    context.session.assertPerm(PERMISSION)
    with koji_errors():
        found = [*_tables()]
        # what needs tables would fail
        if all(good for _what, good, _says in found):
            found += [*_versions(), *_channel(), *_build_tags(), *_gates()]
    return [dict(zip(("what", "good", "says"), check)) for check in found]


def _tables() -> _Checks:
    there = column("relname", "pg_class", "relname IN %(names)s", names=TABLES)
    missing = ", ".join(sorted(set(TABLES) - set(there)))
    says = f"missing: {missing}; load 0001-sgx-verification.sql" if missing else "all"
    yield "tables", not missing, says


def _versions() -> _Checks:
    builders = column(
        "host.name || ' ' || (record::jsonb ->> 'plugin_version')",
        "sgx_verification JOIN host ON host.id = sgx_verification.host_id"
        " JOIN host_config ON host_config.host_id = host.id",
        "host_config.active AND host_config.enabled",
        "sgx_verification.id IN (SELECT MAX(id) FROM sgx_verification GROUP BY host_id)",
    )
    other = [builder for builder in builders if not builder.endswith(f" {__version__}")]
    says = f"hub {__version__} on Koji {koji.__version__}; builders of the last records: "
    says += some(other or builders) or "none yet"
    yield "versions", not other, says + ("; update them, and verify there" if other else "")


def _channel() -> _Checks:
    name = settings().tasks_channel
    if not name:
        yield "channel", True, "none: Koji's channel policy decides where verifications run"
        return
    listed = RootExports().listHosts("x86_64", name, enabled=True) if get_channel(name) else []
    hosts = sorted(host["name"] for host in listed)
    yield "channel", bool(hosts), f"{name}: {some(hosts) or 'no enabled x86_64 host'}"
    ran = column(
        "host.name",
        "task JOIN host ON host.id = task.host_id",
        "method = %(method)s AND state = %(closed)s",
        "completion_time > NOW() - INTERVAL '7 days'",
        method=CHILD,
        closed=koji.TASK_STATES["CLOSED"],
    )
    idle = some(sorted(set(hosts) - set(ran)))
    says = f"no verification within a week: {idle}; try one there" if idle else "all of them"
    yield "hosts that verify", not idle, says


def _build_tags() -> _Checks:
    named, locked = settings().pins, column("release", "sgx_lock")
    tags = {name: get_tag(name) for name in named}
    doubts = {name: distrust(tag) if tag else "it does not exist" for name, tag in tags.items()}
    trusted = [name for name, doubt in doubts.items() if doubt is None]
    says = f"trusted tags: {some(trusted) or 'none'}; locked releases: {some(locked) or 'none'}"
    if not trusted and not locked:
        says += "; no verdict is reproducible, and the plain rule lets nothing in"
    yield "build tags and locks", bool(trusted or locked), says
    for name in sorted(set(named) - set(trusted)):
        yield f"[tasks] build tag {name}", False, f"not trusted: {doubts[name]}; name another"
    wanted = {settings().hook_build_tag, *settings().hook_targets.values()} - {""}
    for name in sorted(wanted) if settings().hook_enabled else ():
        tag = get_tag(name)
        has_repo = tag is not None and bool((tag.get("arches") or "").split())
        problem = "has no architectures, so no repo" if tag else "it does not exist"
        yield f"[hook] tag {name}", has_repo, "has a repo" if has_repo else problem


def _gates() -> _Checks:
    marked = column("tag_id", "tag_extra", "key = %(mark)s AND active", mark=MARK)
    renamed = column("tag_id", "sgx_former_tag_name")
    tags = rows(["id", "name"], "tag")
    named = (tag["id"] for tag in tags if settings().rule_for(tag["name"]))
    gated = 0
    for tag in filter(None, map(get_tag, sorted({*marked, *renamed, *named}))):
        try:
            gated += bool(rules_of_tag(tag))
        except SgxEnclavesError as error:
            yield f"gated tag {tag['name']}", False, f"lets nothing in: {error}"
    yield "gated tags", gated > 0, f"{gated}" if gated else "none: nothing is kept out"
    if settings().gate_attestations:
        try:
            yield "attestations", True, f"of {len(attested() or ())} unsigned enclaves"
        except SgxEnclavesError as error:
            yield "attestations", False, f"no enclave is let in: {error}"
    names = column(
        "users.name",
        "user_perms JOIN users ON users.id = user_perms.user_id"
        " JOIN permissions ON permissions.id = user_perms.perm_id",
        "user_perms.active AND permissions.name IN ('tag', 'admin')",
    )
    says = f"{len(names)} users can take marks off tags and edit inheritance: {some(names)}"
    yield "who can open a gate", True, says
