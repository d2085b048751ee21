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
from sgx_enclaves.gate.record import Record, record_from_json

TABLE = "sgx_verification"
_INDEXED = ("build_id", "task_id", "release", "origin", "verdict", "reproducible")
_SUMMARY = (
    *(f"{TABLE}.{name} AS {name}" for name in ("id", "host_id", *_INDEXED, "packages")),
    "build.state AS state",
    f"date_part('epoch', {TABLE}.create_time) AS create_ts",
    "package.name || '-' || build.version || '-' || build.release AS nvr",
    "record::jsonb -> 'enclaves' AS enclaves",
)
# What they are of.
_BUILDS = (
    f"{TABLE} JOIN build ON build.id = {TABLE}.build_id JOIN package ON package.id = build.pkg_id"
)
# Filter to its condition.
_CLAUSES = {
    "build": "sgx_verification.build_id = %(build)s",
    "verdict": "sgx_verification.verdict = %(verdict)s",
    "tag": "sgx_verification.build_id IN"
    " (SELECT build_id FROM tag_listing WHERE tag_id = %(tag)s AND active = TRUE)",
    "enclaves": "(record::jsonb -> 'enclaves') @> %(enclaves)s::jsonb",
}
_LOCK = (
    *("id", "release", "sha256", "task_id", "lock"),
    "date_part('epoch', create_time) AS create_ts",
)
# Older ones than these decide nothing: see `records_of`.
_MOST_RECORDS = 20


def rows(columns: Iterable[str], table: str, *clauses: str, opts: Any = None, **values: Any) -> Any:
    """What a query gives, as mappings; joins stand in `table`, names of columns behind AS."""
    named = {text.rpartition(" AS ")[2]: text.partition(" AS ")[0] for text in columns}
    return QueryProcessor(
        tables=[table],
        columns=[*named.values()],
        aliases=[*named],
        clauses=[*clauses],
        values=values,
        opts=opts or {},
    ).execute()


def column(column: str, table: str, *clauses: str, **values: Any) -> list[Any]:
    """What is in one column, each value once, sorted."""
    found = rows([f"{column} AS it"], table, *clauses, **values)
    return sorted({row["it"] for row in found})


def lock_build(build_id: int) -> None:
    """Lock a build's row until the transaction ends, against imports and tagging meanwhile."""
    rows(["id"], "build", "id = %(build_id)s", build_id=build_id, opts={"rowlock": True})


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
    clauses = ("build_id IN %(builds)s", "arch NOT IN ('src', 'nosrc')")
    found: dict[int, list[str]] = {}
    for row in rows(["build_id", *words], "rpminfo", *clauses, builds=(*builds, 0)):
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
    columns = ("id", "host_id", "packages", "record")
    found: list[dict[str, Any]] = []
    for more, most in ((["verdict IN ('identical', 'differs')"], _MOST_RECORDS), ([], 1)):
        if not found:
            clauses, opts = ("build_id = %(build_id)s", *more), {"order": "-id", "limit": most}
            found = rows(columns, TABLE, *clauses, build_id=build_id, opts=opts)
    return [{**row, "record": record_from_json(row["record"])} for row in found]


def find(filters: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Summaries of records, each with its enclaves; or their number, with `countOnly`."""
    wanted = {name: value for name, value in filters.items() if name in _CLAUSES}
    words = {"mrenclave": filters.get("mrenclave", "").lower(), "name": filters.get("enclave")}
    if of_one := {name: word for name, word in words.items() if word}:
        wanted["enclaves"] = json.dumps([of_one])
    found = rows(_SUMMARY, _BUILDS, *(_CLAUSES[name] for name in wanted), opts=options, **wanted)
    if options.get("countOnly") or not found:
        return found
    packages = packages_of(row["build_id"] for row in found)
    for row in found:
        now = packages.get(row["build_id"])
        row["outdated"] = outdated(row.pop("packages"), now, row.pop("state"))
        row["enclaves"] = in_short(row["enclaves"])
    return found


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
    opts = {"order": "-id", "limit": 1}
    found = rows(_LOCK, "sgx_lock", "release = %(release)s", release=release, opts=opts)
    return found[0] if found else None


def former_names(tag_id: int) -> set[str]:
    """The names that a tag had before it was renamed; a trigger of the database notes them."""
    return set(column("name", "sgx_former_tag_name", "tag_id = %(tag_id)s", tag_id=tag_id))


def was_deleted(tag_id: int) -> bool:
    """Whether a tag was deleted at some time: it keeps its id when somebody makes it again."""
    events = ("create_event", "revoke_event")
    configs = rows(events, "tag_config", "tag_id = %(tag_id)s", tag_id=tag_id)
    made, revoked = ({config[event] for config in configs} for event in events)
    # an edit revokes the old configuration by the event that creates the new one
    return bool(revoked - made - {None})


def build_files(build: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The path of every binary package of a build, sorted by name, and its signed copies on disk.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.
    """
    folder = koji.pathinfo.build(build)
    keys: list[str] = []
    listing = system_errors(folder, "signed copies cannot be listed")
    with listing, contextlib.suppress(FileNotFoundError):
        keys = sorted(os.listdir(os.path.join(folder, "data", "signed")))
    files = {}
    for rpm in list_rpms(buildID=build["id"]):
        if rpm["arch"] not in ("src", "nosrc"):
            copies = [(key, os.path.join(folder, koji.pathinfo.signed(rpm, key))) for key in keys]
            there = [(key, copy) for key, copy in copies if os.path.lexists(copy)]
            files[os.path.join(folder, koji.pathinfo.rpm(rpm))] = there
    return {path: files[path] for path in sorted(files, key=os.path.basename)}
