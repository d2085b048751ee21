# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and locks in the hub's database, put in once, never changed; packages.

A build's packages are known in two ways: by Koji's own checksums in the database, which is
cheap and what `show` and `list` go by, and by the files on disk, which the gate reads.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import koji
from kojihub import list_rpms
from kojihub.db import InsertProcessor, QueryProcessor, currval

from sgx_enclaves.files import sha256_of, system_errors
from sgx_enclaves.gate.inspect import BuildFile
from sgx_enclaves.gate.record import Record, record_from_json

TABLE = "sgx_verification"
_INDEXED = ("build_id", "task_id", "release", "origin", "verdict", "reproducible")
_SUMMARY = {
    **{name: f"{TABLE}.{name}" for name in ("id", "host_id", *_INDEXED, "packages")},
    "state": "build.state",
    "create_ts": f"date_part('epoch', {TABLE}.create_time)",
    "nvr": "package.name || '-' || build.version || '-' || build.release",
    "enclaves": "record::jsonb -> 'enclaves'",
}
# Filter to its condition.
_CLAUSES = {
    "build": "sgx_verification.build_id = %(build)s",
    "verdict": "sgx_verification.verdict = %(verdict)s",
    "tag": "sgx_verification.build_id IN"
    " (SELECT build_id FROM tag_listing WHERE tag_id = %(tag)s AND active = TRUE)",
    "enclaves": "(record::jsonb -> 'enclaves') @> %(enclaves)s::jsonb",
}
_LOCK = ("id", "release", "sha256", "task_id", "lock")
# Older ones than these decide nothing: see `records_of`.
_MOST_RECORDS = 20


def column(column: str, table: str, *clauses: str, **values: Any) -> list[Any]:
    """What is in one column, each value once, sorted; joins stand in `table`."""
    rows = QueryProcessor(
        tables=[table], columns=[column], aliases=["it"], clauses=clauses, values=values
    ).execute()
    return sorted({row["it"] for row in rows})


def put(record: Record, host_id: int) -> int:
    """Keep a record; its id. The database refuses a second one of the same task."""
    data = {
        **{name: getattr(record, name) for name in _INDEXED},
        "host_id": host_id,
        "record": record.as_json(),
        "packages": packages_of([record.build_id]).get(record.build_id),
    }
    InsertProcessor(TABLE, data=data).execute()
    return int(currval(f"{TABLE}_id_seq"))


def packages_of(builds: Iterable[int]) -> dict[int, str]:
    """Build to a digest of its binary packages' names and checksums in the database."""
    words = ("name", "version", "release", "arch", "payloadhash")
    rows = QueryProcessor(
        tables=["rpminfo"],
        columns=["build_id", *words],
        clauses=["build_id IN %(builds)s", "arch NOT IN ('src', 'nosrc')"],
        values={"builds": (*builds, 0)},
    ).execute()
    found: dict[int, list[str]] = {}
    for row in rows:
        found.setdefault(row["build_id"], []).append(" ".join(str(row[word]) for word in words))
    return {build: sha256_of("\n".join(sorted(lines)).encode()) for build, lines in found.items()}


def outdated(packages: Optional[str], now: Optional[str], state: int) -> Optional[str]:
    """Why a record is not of the build as it is now, by what the database knows; None if it is."""
    if state != koji.BUILD_STATES["COMPLETE"]:
        return f"the build is not complete any more: {koji.BUILD_STATES[state]}"
    # records of older hubs have none
    if packages in (None, now):
        return None
    return "the build's packages are not the ones that were verified"


def records_of(build_id: int) -> list[dict[str, Any]]:
    """The newest records of a build that decided something, or the newest one if none has: rows
    with id, host_id, what `packages_of` said then, and the `Record`.
    """
    rows: list[dict[str, Any]] = []
    for more, most in ((["verdict IN ('identical', 'differs')"], _MOST_RECORDS), ([], 1)):
        if not rows:
            rows = QueryProcessor(
                tables=[TABLE],
                columns=["id", "host_id", "packages", "record"],
                clauses=["build_id = %(build_id)s", *more],
                values={"build_id": build_id},
                opts={"order": "-id", "limit": most},
            ).execute()
    return [{**row, "record": record_from_json(row["record"])} for row in rows]


def find(filters: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Summaries of records, each with its enclaves; or their number, with `countOnly`.

    Filters: ids of a build and a tag, a verdict, `enclave` (a name) and mrenclave of one enclave.
    """
    wanted = {name: value for name, value in filters.items() if name in _CLAUSES}
    words = {"mrenclave": filters.get("mrenclave", "").lower(), "name": filters.get("enclave")}
    if of_one := {name: word for name, word in words.items() if word}:
        wanted["enclaves"] = json.dumps([of_one])
    rows = QueryProcessor(
        tables=[TABLE],
        columns=list(_SUMMARY.values()),
        aliases=list(_SUMMARY),
        joins=[f"build ON build.id = {TABLE}.build_id", "package ON package.id = build.pkg_id"],
        clauses=[_CLAUSES[name] for name in wanted],
        values=wanted,
        opts=options,
    ).execute()
    if options.get("countOnly") or not rows:
        return rows
    packages = packages_of(row["build_id"] for row in rows)
    for row in rows:
        now = packages.get(row["build_id"])
        row["outdated"] = outdated(row.pop("packages"), now, row.pop("state"))
        row["enclaves"] = in_short(row["enclaves"])
    return rows


def in_short(enclaves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What lists and messages say of a record's enclaves."""
    names = ("name", "rpm", "path", "mrenclave", "mrsigner", "isvsvn", "verdict")
    return [{name: enclave[name] for name in names} for enclave in enclaves]


def put_lock(release: str, lock: str, **who: int) -> None:
    """Keep a lock, which is the release's from now on; `who`: task_id and user_id."""
    data = {"release": release, "sha256": sha256_of(lock.encode()), "lock": lock, **who}
    InsertProcessor("sgx_lock", data=data).execute()


def newest_lock(release: str) -> Optional[dict[str, Any]]:
    """The lock of a release that counts, if there is one."""
    found: Optional[dict[str, Any]] = QueryProcessor(
        tables=["sgx_lock"],
        columns=[*_LOCK, "date_part('epoch', create_time)"],
        aliases=[*_LOCK, "create_ts"],
        clauses=["release = %(release)s"],
        values={"release": release},
        opts={"order": "-id", "limit": 1},
    ).executeOne()
    return found


def former_names(tag_id: int) -> set[str]:
    """The names that a tag had before it was renamed; a trigger of the database notes them."""
    return set(column("name", "sgx_former_tag_name", "tag_id = %(tag_id)s", tag_id=tag_id))


def was_deleted(tag_id: int) -> bool:
    """Whether a tag was deleted at some time: it keeps its id when somebody makes it again."""
    # an edit revokes the old configuration by the event that creates the new one
    edited = (
        "SELECT 1 FROM tag_config next WHERE next.tag_id = tag_config.tag_id"
        " AND next.create_event = tag_config.revoke_event"
    )
    clauses = ("tag_id = %(tag_id)s", "revoke_event IS NOT NULL", f"NOT EXISTS ({edited})")
    return bool(column("revoke_event", "tag_config", *clauses, tag_id=tag_id))


def build_files(build: Mapping[str, Any]) -> list[BuildFile]:
    """Every binary package of a build with its signed copies on disk, sorted by name.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.
    """
    folder = koji.pathinfo.build(build)
    keys: list[str] = []
    listing = system_errors(folder, "signed copies cannot be listed")
    with listing, contextlib.suppress(FileNotFoundError):
        keys = sorted(os.listdir(os.path.join(folder, "data", "signed")))
    files = []
    for rpm in list_rpms(buildID=build["id"]):
        if rpm["arch"] not in ("src", "nosrc"):
            path = os.path.join(folder, koji.pathinfo.rpm(rpm))
            copies = [(key, os.path.join(folder, koji.pathinfo.signed(rpm, key))) for key in keys]
            there = tuple((key, copy) for key, copy in copies if os.path.lexists(copy))
            files.append(BuildFile(os.path.basename(path), path, there))
    return sorted(files, key=lambda f: f.name)
