# SPDX-License-Identifier: GPL-2.0-or-later
"""Records in the hub's database: put in once, never changed.

A build's binary packages as they lie on disk now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from sgx_enclaves.errors import InputError
from sgx_enclaves.gate.inspect import BuildFile
from sgx_enclaves.gate.record import Record, record_from_json

from . import hubside

TABLE = "sgx_verification"
ENCLAVES = "sgx_verification_enclave"
_SUMMARY = (
    (f"{TABLE}.id", "id"),
    (f"{TABLE}.build_id", "build_id"),
    (f"{TABLE}.task_id", "task_id"),
    (f"{TABLE}.host_id", "host_id"),
    (f"{TABLE}.release", "release"),
    (f"{TABLE}.origin", "origin"),
    (f"{TABLE}.verdict", "verdict"),
    (f"{TABLE}.reproducible", "reproducible"),
    (f"date_part('epoch', {TABLE}.create_time)", "create_ts"),
    ("package.name || '-' || build.version || '-' || build.release", "nvr"),
)
_JOINS = (f"build ON build.id = {TABLE}.build_id", "package ON package.id = build.pkg_id")
_IN_TAG = (
    "sgx_verification.build_id IN"
    " (SELECT build_id FROM tag_listing WHERE tag_id = %(tag_id)s AND active = TRUE)"
)
# Both of the same enclave.
_WITH_ENCLAVE = (
    "sgx_verification.id IN (SELECT verification_id FROM sgx_verification_enclave"
    " WHERE (%(mrenclave)s IS NULL OR mrenclave = %(mrenclave)s)"
    " AND (%(name)s IS NULL OR name = %(name)s))"
)
_ENCLAVE = ("name", "rpm", "path", "mrenclave", "mrsigner", "isvsvn", "verdict")


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
    hubside.insert(
        TABLE,
        {
            "build_id": record.build_id,
            "task_id": record.task_id,
            "host_id": host_id,
            "release": record.release,
            "origin": record.origin,
            "verdict": record.verdict,
            "reproducible": record.reproducible,
            "record": record.as_json(),
        },
    )
    number = hubside.last_id(f"{TABLE}_id_seq")
    for enclave in record.enclaves:
        hubside.insert(
            ENCLAVES,
            {"verification_id": number, **{c: getattr(enclave, c) for c in _ENCLAVE}},
        )
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
    rows = hubside.query(
        [("id", "id"), ("host_id", "host_id"), ("record", "record")],
        TABLE,
        clauses=[clause],
        values=values,
        options={"order": "-id", "limit": 1},
    )
    if not rows:
        return None
    row = rows[0]
    return Stored(row["id"], row["host_id"], record_from_json(row["record"]))


def find(
    *,
    build_id: Optional[int] = None,
    mrenclave: Optional[str] = None,
    enclave: Optional[str] = None,
    tag_id: Optional[int] = None,
    verdict: Optional[str] = None,
    options: Mapping[str, Any],
) -> Any:
    """Summaries of records, each with its enclaves; or their number, with `countOnly`."""
    clauses = []
    if build_id is not None:
        clauses.append(f"{TABLE}.build_id = %(build_id)s")
    if verdict is not None:
        clauses.append(f"{TABLE}.verdict = %(verdict)s")
    if tag_id is not None:
        clauses.append(_IN_TAG)
    if mrenclave is not None or enclave is not None:
        clauses.append(_WITH_ENCLAVE)
    values = {
        "build_id": build_id,
        "verdict": verdict,
        "tag_id": tag_id,
        "mrenclave": mrenclave,
        "name": enclave,
    }
    rows = hubside.query(
        _SUMMARY, TABLE, joins=_JOINS, clauses=clauses, values=values, options=options
    )
    return rows if options.get("countOnly") else _with_enclaves(rows)


def _with_enclaves(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    found = hubside.query(
        [("id", "id"), ("verification_id", "verification_id"), *((c, c) for c in _ENCLAVE)],
        ENCLAVES,
        clauses=["verification_id IN %(ids)s"],
        values={"ids": tuple(row["id"] for row in rows)},
        options={"order": "id"},
    )
    for row in rows:
        row["enclaves"] = [
            {c: e[c] for c in _ENCLAVE} for e in found if e["verification_id"] == row["id"]
        ]
    return rows


_SOURCES = ("src", "nosrc")


def build_files(build: Mapping[str, Any]) -> list[BuildFile]:
    """Every binary package of a build with its signed copies, sorted by name.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.

    Raises:
        InputError: the folder of signed copies cannot be read.
    """
    folder = hubside.build_folder(build)
    files = []
    for rpm in hubside.list_packages(build["id"]):
        if rpm["arch"] not in _SOURCES:
            path = hubside.package_path(rpm)
            files.append(
                BuildFile(
                    os.path.basename(path),
                    os.path.join(folder, path),
                    _copies(folder, rpm),
                )
            )
    return sorted(files, key=lambda f: f.name)


def _copies(folder: str, rpm: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(hubside.signed_copies(folder, rpm))
    except OSError as error:
        raise InputError(
            f"signed copies cannot be listed: {error.strerror or error}", file=folder
        ) from None
