# SPDX-License-Identifier: GPL-2.0-or-later
"""Records in the hub's database, put in once, never changed; and a build's packages on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import koji

from sgx_enclaves.errors import InputError
from sgx_enclaves.gate.inspect import BuildFile
from sgx_enclaves.gate.record import Record, record_from_json

from . import hub_api

TABLE = "sgx_verification"
ENCLAVES = "sgx_verification_enclave"
_SUMMARY = {
    **{
        name: f"{TABLE}.{name}"
        for name in (
            *("id", "build_id", "task_id", "host_id", "release", "origin", "verdict"),
            "reproducible",
        )
    },
    "create_ts": f"date_part('epoch', {TABLE}.create_time)",
    "nvr": "package.name || '-' || build.version || '-' || build.release",
}
_JOINS = (f"build ON build.id = {TABLE}.build_id", "package ON package.id = build.pkg_id")
# Filter to its condition.
_CLAUSES = {
    "build_id": "sgx_verification.build_id = %(build_id)s",
    "verdict": "sgx_verification.verdict = %(verdict)s",
    "tag_id": "sgx_verification.build_id IN"
    " (SELECT build_id FROM tag_listing WHERE tag_id = %(tag_id)s AND active = TRUE)",
}
# Both of the same enclave.
_WITH_ENCLAVE = (
    "sgx_verification.id IN (SELECT verification_id FROM sgx_verification_enclave"
    " WHERE (%(mrenclave)s IS NULL OR mrenclave = %(mrenclave)s)"
    " AND (%(enclave)s IS NULL OR name = %(enclave)s))"
)
_COLUMNS = ("name", "rpm", "path", "mrenclave", "mrsigner", "isvsvn", "verdict")


@dataclass(frozen=True)
class Stored:
    """A record as it was put in.

    Attributes:
        id: its number; a higher one is newer.
        host_id: the host that wrote it.
        record: what it says.
    """

    id: int
    host_id: int
    record: Record

    def as_mapping(self) -> dict[str, Any]:
        """For callers: the record's fields, and its own."""
        return {**self.record.as_mapping(), "id": self.id, "host_id": self.host_id}


def put(record: Record, host_id: int) -> int:
    """Keep a record; its id.

    The database refuses a second one of the same task.
    """
    hub_api.InsertProcessor(
        TABLE,
        data={
            "build_id": record.build_id,
            "task_id": record.task_id,
            "host_id": host_id,
            "release": record.release,
            "origin": record.origin,
            "verdict": record.verdict,
            "reproducible": record.reproducible,
            "record": record.as_json(),
        },
    ).execute()
    number = int(hub_api.currval(f"{TABLE}_id_seq"))
    for enclave in record.enclaves:
        columns = {name: getattr(enclave, name) for name in _COLUMNS}
        hub_api.InsertProcessor(ENCLAVES, data={"verification_id": number, **columns}).execute()
    return number


def newest(build_id: int) -> Optional[Stored]:
    """The newest record of a build.

    Raises:
        RecordError: what is kept cannot be read.
    """
    return _one("build_id = %(build_id)s", {"build_id": build_id})


def of_task(task_id: int) -> Optional[Stored]:
    """The record that a task has written.

    Raises:
        RecordError: what is kept cannot be read.
    """
    return _one("task_id = %(task_id)s", {"task_id": task_id})


def _one(clause: str, values: Mapping[str, Any]) -> Optional[Stored]:
    rows = hub_api.query(
        TABLE,
        {name: name for name in ("id", "host_id", "record")},
        clauses=[clause],
        values=values,
        opts={"order": "-id", "limit": 1},
    )
    if not rows:
        return None
    row = rows[0]
    return Stored(row["id"], row["host_id"], record_from_json(row["record"]))


def find(filters: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Summaries of records, each with its enclaves; or their number, with `countOnly`.

    Args:
        filters: any of build_id, verdict, tag_id, mrenclave and enclave; None for all.
        options: of Koji's QueryProcessor.
    """
    values = {"mrenclave": None, "enclave": None, **filters}
    clauses = [clause for name, clause in _CLAUSES.items() if values.get(name) is not None]
    if values["mrenclave"] is not None or values["enclave"] is not None:
        clauses.append(_WITH_ENCLAVE)
    rows = hub_api.query(
        TABLE, _SUMMARY, joins=_JOINS, clauses=clauses, values=values, opts=options
    )
    return rows if options.get("countOnly") else _with_enclaves(rows)


def _with_enclaves(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    found = hub_api.query(
        ENCLAVES,
        {name: name for name in ("id", "verification_id", *_COLUMNS)},
        clauses=["verification_id IN %(ids)s"],
        values={"ids": tuple(row["id"] for row in rows)},
        opts={"order": "id"},
    )
    for row in rows:
        row["enclaves"] = [
            {c: e[c] for c in _COLUMNS} for e in found if e["verification_id"] == row["id"]
        ]
    return rows


def build_files(build: Mapping[str, Any]) -> list[BuildFile]:
    """Every binary package of a build with its signed copies, sorted by name.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.

    Raises:
        InputError: the folder of signed copies cannot be read.
    """
    folder = koji.pathinfo.build(build)
    files = []
    for rpm in hub_api.list_rpms(buildID=build["id"]):
        if rpm["arch"] not in ("src", "nosrc"):
            path = koji.pathinfo.rpm(rpm)
            copies = _signed_copies(folder, rpm)
            files.append(BuildFile(os.path.basename(path), os.path.join(folder, path), copies))
    return sorted(files, key=lambda f: f.name)


def _signed_copies(folder: str, rpm: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Key and path of each signed copy of a package that there is on disk."""
    try:
        keys = sorted(os.listdir(os.path.join(folder, "data", "signed")))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(
            f"signed copies cannot be listed: {error.strerror or error}", file=folder
        ) from None
    copies = [(key, os.path.join(folder, koji.pathinfo.signed(rpm, key))) for key in keys]
    return tuple((key, path) for key, path in copies if os.path.lexists(path))
