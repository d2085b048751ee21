# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam to the hub: every use of its functions and its database, and nothing else.

Tests put a recording fake in the place of this module.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import koji
import kojihub
from koji.context import context
from kojihub.db import InsertProcessor, QueryProcessor, Savepoint, currval

Row = dict[str, Any]
# PostgreSQL's code for it.
_UNDEFINED_TABLE = "42P01"


def now() -> datetime.datetime:
    """The hub's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def require_login() -> None:
    """Raise unless the caller is logged in."""
    context.session.assertLogin()


def require_permission(name: str) -> None:
    """Raise unless the caller has the permission, or is an admin."""
    context.session.assertPerm(name)


def is_admin() -> bool:
    """Whether the caller is an admin."""
    return bool(context.session.hasPerm("admin"))


def get_build(build: Any) -> Row:
    """The build of that NVR or id; raises when there is none."""
    found: Row = kojihub.get_build(build, strict=True)
    return found


def get_tag(tag: Any) -> Row:
    """The tag of that name or id, with its own extra; raises when there is none."""
    found: Row = kojihub.get_tag(tag, strict=True)
    return found


def list_packages(build_id: int) -> list[Row]:
    """The packages of a build, source packages among them."""
    found: list[Row] = kojihub.list_rpms(buildID=build_id)
    return found


def build_folder(build: Mapping[str, Any]) -> str:
    """The folder of a build, on the volume that it is on."""
    folder: str = koji.pathinfo.build(build)
    return folder


def package_path(rpm: Mapping[str, Any]) -> str:
    """A package's place below its build's folder."""
    path: str = koji.pathinfo.rpm(rpm)
    return path


def signed_copies(folder: str, rpm: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and path of each signed copy of a package that there is on disk."""
    try:
        keys = sorted(os.listdir(os.path.join(folder, "data", "signed")))
    except FileNotFoundError:
        return []
    copies = [(key, os.path.join(folder, koji.pathinfo.signed(rpm, key))) for key in keys]
    return [(key, path) for key, path in copies if os.path.lexists(path)]


def running_host(task_id: int) -> int:
    """The id of the calling host; raises unless it is a host that runs this open task.

    The task's row is locked until the transaction ends.
    """
    host = kojihub.Host()
    host.verify()
    kojihub.Task(task_id).assertHost(host.id)
    return int(host.id)


def task_request(task_id: int) -> tuple[str, Row]:
    """Method and named parameters of a task."""
    info = kojihub.Task(task_id).getInfo(strict=True, request=True)
    return info["method"], koji.tasks.parse_task_params(info["method"], info["request"])


def target_of_task(task_id: int) -> Optional[str]:
    """The build target that a task was given."""
    target: Optional[str] = kojihub.policy_data_from_task(task_id).get("target")
    return target


def make_task(method: str, arguments: Sequence[Any], **options: Any) -> int:
    """A new task; its id."""
    return int(kojihub.make_task(method, list(arguments), **options))


def query(
    columns: Sequence[tuple[str, str]],
    table: str,
    *,
    joins: Sequence[str] = (),
    clauses: Sequence[str] = (),
    values: Optional[Mapping[str, Any]] = None,
    options: Optional[Mapping[str, Any]] = None,
) -> Any:
    """Rows of a table.

    Args:
        columns: pairs of expression and name; never from outside.
        table: its name; never from outside.
        joins, clauses: SQL; never from outside.
        values: for the placeholders in the clauses.
        options: of Koji's QueryProcessor.
    """
    processor = QueryProcessor(
        columns=[c for c, _ in columns],
        aliases=[a for _, a in columns],
        tables=[table],
        joins=list(joins),
        clauses=list(clauses),
        values=dict(values or {}),
        opts=dict(options or {}),
    )
    try:
        return processor.execute()
    except Exception as error:
        if getattr(error, "pgcode", None) != _UNDEFINED_TABLE:
            raise
        raise koji.GenericError(
            f"the hub's database has no table {table}: "
            "load 0001-sgx-verification.sql of the plugin sgx_enclaves_hub into it"
        ) from error


def insert(table: str, values: Mapping[str, Any]) -> None:
    """A new row."""
    InsertProcessor(table, data=dict(values)).execute()


def last_id(sequence: str) -> int:
    """The number that this transaction took from a sequence last."""
    return int(currval(sequence))


def savepoint(name: str) -> Any:
    """A point of the transaction to which `.rollback()` leads back."""
    return Savepoint(name)


def unfinished_tasks(method: str) -> list[int]:
    """Ids of the tasks of a method that are not finished."""
    states = [koji.TASK_STATES[s] for s in ("FREE", "OPEN", "ASSIGNED")]
    rows = query(
        [("id", "id")],
        "task",
        clauses=["method = %(method)s", "state IN %(states)s"],
        values={"method": method, "states": tuple(states)},
    )
    return [row["id"] for row in rows]
