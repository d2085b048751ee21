# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and locks in the hub's database, put in once, never changed; gated tags; packages.

A build's packages are known in two ways: by Koji's own checksums in the database, which is
cheap and what `show` and `list` go by, and by the files on disk, which the gate reads.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Iterable, Mapping
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
            *("reproducible", "packages"),
        )
    },
    "state": "build.state",
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
_NAMES = ("name", "version", "release", "arch")
# Older ones than these decide nothing: see `records_of`.
_MOST_RECORDS = 20
_COLUMNS = ("name", "rpm", "path", "mrenclave", "mrsigner", "isvsvn", "verdict")


@dataclass(frozen=True)
class Stored:
    """A record as it was put in.

    Attributes:
        id: its number; a higher one is newer.
        host_id: the host that wrote it.
        record: what it says.
        packages: of the build, as `packages_of` knew them then; None in older ones.
    """

    id: int
    host_id: int
    record: Record
    packages: Optional[str] = None

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
            "packages": packages_of([record.build_id]).get(record.build_id),
        },
    ).execute()
    number = int(hub_api.currval(f"{TABLE}_id_seq"))
    for enclave in record.enclaves:
        columns = {name: getattr(enclave, name) for name in _COLUMNS}
        hub_api.InsertProcessor(ENCLAVES, data={"verification_id": number, **columns}).execute()
    return number


def packages_of(builds: Iterable[int]) -> dict[int, str]:
    """Build to a digest of its binary packages' names and checksums in the database."""
    found: dict[int, list[str]] = {}
    rows = hub_api.query(
        "rpminfo",
        {name: name for name in ("build_id", *_NAMES, "payloadhash")},
        clauses=["build_id IN %(builds)s", "arch NOT IN ('src', 'nosrc')"],
        values={"builds": (*builds, 0)},
    )
    for row in rows:
        words = [str(row[name]) for name in (*_NAMES, "payloadhash")]
        found.setdefault(row["build_id"], []).append(" ".join(words))
    return {
        build: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
        for build, lines in found.items()
    }


def outdated(packages: Optional[str], now: Optional[str], state: int) -> Optional[str]:
    """Why a record is not of the build as it is now; None if it is, as far as the database knows.

    Args:
        packages: what `packages_of` said then; None in records of older hubs.
        now: what it says now; None for a build without packages.
        state: of the build.
    """
    if state != koji.BUILD_STATES["COMPLETE"]:
        return f"the build is not complete any more: {koji.BUILD_STATES[state]}"
    if packages is None or packages == now:
        return None
    return "the build's packages are not the ones that were verified"


def records_of(build_id: int) -> list[Stored]:
    """The newest records of a build that decided something, or the newest one if none has.

    Raises:
        RecordError: what is kept cannot be read.
    """
    decided = "verdict IN ('identical', 'differs')"
    mine = "build_id = %(build_id)s"
    found = _stored([mine, decided], {"build_id": build_id}, _MOST_RECORDS)
    return found or _stored([mine], {"build_id": build_id}, 1)


def of_task(task_id: int) -> Optional[Stored]:
    """The record that a task has written.

    Raises:
        RecordError: what is kept cannot be read.
    """
    return next(iter(_stored(["task_id = %(task_id)s"], {"task_id": task_id}, 1)), None)


def _stored(clauses: list[str], values: Mapping[str, Any], most: int) -> list[Stored]:
    rows = hub_api.query(
        TABLE,
        {name: name for name in ("id", "host_id", "packages", "record")},
        clauses=clauses,
        values=values,
        opts={"order": "-id", "limit": most},
    )
    return [
        Stored(row["id"], row["host_id"], record_from_json(row["record"]), row["packages"])
        for row in rows
    ]


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
    if options.get("countOnly"):
        return rows
    packages = packages_of(row["build_id"] for row in rows)
    for row in rows:
        now = packages.get(row["build_id"])
        row["outdated"] = outdated(row.pop("packages"), now, row.pop("state"))
    return _with_enclaves(rows)


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


def put_lock(release: str, lock: str, task_id: int, user_id: int) -> None:
    """Keep a lock; from now on it is the release's."""
    sha256 = hashlib.sha256(lock.encode()).hexdigest()
    values = {
        "release": release,
        "sha256": sha256,
        "lock": lock,
        "task_id": task_id,
        "user_id": user_id,
    }
    hub_api.InsertProcessor("sgx_lock", data=values).execute()


def newest_lock(release: str) -> Optional[dict[str, Any]]:
    """The lock of a release that counts; None if there is none."""
    columns = {name: name for name in ("id", "release", "sha256", "task_id", "lock")}
    rows = hub_api.query(
        "sgx_lock",
        {**columns, "create_ts": "date_part('epoch', create_time)"},
        clauses=["release = %(release)s"],
        values={"release": release},
        opts={"order": "-id", "limit": 1},
    )
    return rows[0] if rows else None


def names_of_gated_tag(tag: Mapping[str, Any], globs: Iterable[str]) -> set[str]:
    """The names that a tag has, or has had while it was gated by one of the globs.

    All tags that are gated now are noted on this occasion, so that none of them can be
    renamed before anybody has looked at it.

    Args:
        tag: the tag.
        globs: of the names of gated tags.
    """
    globs = tuple(globs)
    if not globs:
        return {tag["name"]}
    rows = hub_api.query("sgx_gated_tag", {"tag_id": "tag_id", "name": "name"})
    noted = {(row["tag_id"], row["name"]) for row in rows}
    likes = {f"like{number}": _like(glob) for number, glob in enumerate(globs)}
    candidates = hub_api.query(
        "tag",
        {"id": "id", "name": "name"},
        clauses=[" OR ".join(f"name LIKE %({name})s" for name in likes)],
        values=likes,
    )
    for row in candidates:
        fits = any(fnmatch.fnmatchcase(row["name"], glob) for glob in globs)
        if fits and (row["id"], row["name"]) not in noted:
            hub_api.insert_new("sgx_gated_tag", {"tag_id": row["id"], "name": row["name"]})
    return {tag["name"], *(name for number, name in noted if number == tag["id"])}


def _like(glob: str) -> str:
    """A pattern for LIKE that fits at least what a glob does."""
    plain = glob.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")
    start = plain.partition("[")[0]
    return start.replace("*", "%").replace("?", "_") + ("%" if "[" in plain else "")


def build_files(build: Mapping[str, Any]) -> list[BuildFile]:
    """Every binary package of a build with its signed copies, sorted by name.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.

    Raises:
        InputError: the directory of signed copies cannot be read.
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
