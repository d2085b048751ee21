# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that the plugin uses of the hub, and nothing else; tests replace this module.

Where Koji releases differ, and which ones are supported; nowhere else is a version asked for:

- 1.33: no draft builds; a build's mapping has no `draft`.
- 1.34: draft builds, whose NVR and folder change when they are promoted.
- Until 1.34, a task that the hub makes belongs to whoever calls, whatever owner is asked
  for: the hook's tasks are the builder's user's. From 1.35 they are the build's owner's.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import koji
import koji.tasks
from koji.context import context
from kojihub import (
    Host,
    Task,
    get_build,
    get_tag,
    list_rpms,
    make_task,
    policy_data_from_task,
    readTaggedBuilds,
    repo_info,
)
from kojihub.db import InsertProcessor, QueryProcessor, Savepoint, _dml, currval

from sgx_enclaves.errors import ArgumentError, SgxEnclavesError

__all__ = [
    "InsertProcessor",
    "Savepoint",
    "currval",
    "get_build",
    "get_tag",
    "list_rpms",
    "make_task",
    "readTaggedBuilds",
    "repo_info",
]

OLDEST = (1, 33)
# PostgreSQL's code for it.
_UNDEFINED_TABLE = "42P01"


def require_supported_koji() -> None:
    """Refuse a Koji in which the gate has never been tried.

    Raises:
        koji.PluginError: it is too old.
    """
    version = getattr(koji, "__version__", "0")
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < OLDEST:
        raise koji.PluginError(
            f"sgx_enclaves_hub needs Koji {'.'.join(map(str, OLDEST))} or newer, "
            f"this is {version}: update Koji, or take sgx_enclaves_hub out of Plugins in hub.conf"
        )


def lasting_name(build: Mapping[str, Any]) -> Any:
    """What a task calls a build: its NVR, or its id where the NVR may change meanwhile."""
    return build["id"] if build.get("draft") else build["nvr"]


@contextmanager
def koji_errors() -> Iterator[None]:
    """Let the core's errors out as Koji's, with the same words."""
    try:
        yield
    except ArgumentError as error:
        raise koji.ParameterError(str(error)) from error
    except SgxEnclavesError as error:
        raise koji.GenericError(str(error)) from error


def now() -> datetime.datetime:
    """The hub's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def session() -> Any:
    """The caller's session: who it is, and what it may do."""
    return context.session


def running_host(task_id: int) -> int:
    """The id of the calling host; raises unless it is a host that runs this open task.

    The task's row is locked until the transaction ends.
    """
    host = Host()
    host.verify()
    Task(task_id).assertHost(host.id)
    return int(host.id)


def task_request(task_id: int) -> tuple[str, dict[str, Any]]:
    """Method and named parameters of a task."""
    info = Task(task_id).getInfo(strict=True, request=True)
    return info["method"], koji.tasks.parse_task_params(info["method"], info["request"])


def target_of_task(task_id: int) -> Optional[str]:
    """The build target that a task was given."""
    target: Optional[str] = policy_data_from_task(task_id).get("target")
    return target


def query(table: str, columns: Mapping[str, str], **arguments: Any) -> Any:
    """Rows of a table.

    Args:
        table: its name; never from outside.
        columns: name to SQL expression; never from outside.
        arguments: of Koji's QueryProcessor: joins, clauses, values, opts.
    """
    names, expressions = list(columns), list(columns.values())
    try:
        return QueryProcessor(
            tables=[table], columns=expressions, aliases=names, **arguments
        ).execute()
    except Exception as error:
        if getattr(error, "pgcode", None) != _UNDEFINED_TABLE:
            raise
        raise koji.GenericError(
            f"the hub's database has no table {table}: "
            "load 0001-sgx-verification.sql of the plugin sgx_enclaves_hub into it"
        ) from error


def insert_new(table: str, values: Mapping[str, Any]) -> None:
    """A new row, unless it is there already.

    Args:
        table: its name; never from outside.
        values: column to value; the columns never from outside.
    """
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    _dml(f"INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT DO NOTHING", dict(values))  # noqa: S608


def lock_build(build_id: int) -> None:
    """Lock a build's row until the transaction ends, against imports and tagging meanwhile."""
    query(
        "build",
        {"id": "id"},
        clauses=["id = %(build_id)s"],
        values={"build_id": build_id},
        opts={"rowlock": True},
    )


def finished_task(task_id: int) -> tuple[str, Any, list[dict[str, Any]]]:
    """Method, result and subtasks of a task that has ended well.

    Raises:
        koji.GenericError: it has not.
    """
    task = Task(task_id)
    info = task.getInfo(strict=True)
    return info["method"], task.getResult(), task.getChildren()
