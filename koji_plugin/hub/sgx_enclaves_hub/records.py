# SPDX-License-Identifier: GPL-2.0-or-later
"""RPCs for records, written by the host that verified, and for locks; both are read by all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import koji
from koji.context import context
from koji.plugin import export, export_in
from kojihub import Host, Task, get_build, get_tag

from sgx_enclaves.errors import RecordError
from sgx_enclaves.files import read_file
from sgx_enclaves.gate.arguments import CHILD, PARENT, argument, options
from sgx_enclaves.gate.decide import mismatches
from sgx_enclaves.gate.inspect import inspect_package
from sgx_enclaves.gate.record import CATALOGUE, IDENTICAL, SCHEMA, Record, read_record, time_text
from sgx_enclaves.plain import as_plain

from . import hub_api, store
from .hub_api import koji_errors
from .tasks import complete_build, distrust

LOCKER = "sgx-enclaves-lock"
LOCK_FILE = "buildroot_lock.json"
_MAX_LOCK = 16 << 20
# What the message of a record says, besides its id and its enclaves.
_ANNOUNCED = (
    *("nvr", "build_id", "task_id", "verdict", "reproducible", "partial", "release", "origin"),
    *("build_tag", "lock_sha256", "report_sha256"),
)


@export_in("host")
def recordSgxVerification(task_id: int, record: Mapping[str, Any]) -> int:
    """Keep the record of a verification. For builders only.

    Refused unless the caller is the host that runs this open sgxEnclaves task, the task is for this
    build and has written no record yet, and the record is of the very packages that it has now.

    :param task_id: the calling task
    :param record: see sgx_enclaves.gate.record; verified_at is set by the hub
    :returns: the id of the record
    """
    with koji_errors():
        argument(task_id, "task_id")
        host = Host()
        host.verify()
        # locks the task's row until the transaction ends
        Task(task_id).assertHost(host.id)
        method, request = hub_api.task_request(task_id)
        if method != PARENT or request["build"] is None:
            raise koji.ActionNotAllowed(f"task {task_id} is not the verification of a build")
        build = complete_build(request["build"], "build")
        if not isinstance(record, Mapping) or record.get("verified_at") is not None:
            raise RecordError("the record has a time already", hint="the hub sets verified_at")
        parsed = read_record({**record, "verified_at": time_text(hub_api.now())})
        _require_own(parsed, task_id, request, build)
        if store.column("id", store.TABLE, "task_id = %(task_id)s", task_id=task_id):
            raise koji.ActionNotAllowed(f"task {task_id} has written its record already")
        _require_true(parsed, build)
        made = store.put(parsed, host.id)
    plain = as_plain(parsed)
    shown = {name: plain[name] for name in _ANNOUNCED}
    enclaves = store.in_short(plain["enclaves"])
    hub_api.announce("record", {"record": made, **shown, "enclaves": enclaves})
    return made


def _require_own(
    record: Record, task_id: int, request: Mapping[str, Any], build: Mapping[str, Any]
) -> None:
    """Compare a record with the task that writes it."""
    release = request["release"]
    asked = request.get("opts") or {}
    wanted = {
        "schema": SCHEMA,
        "build_tag": request["build_tag"],
        "partial": "enclaves" in asked,
        "task_id": task_id,
        "build_id": build["id"],
        "nvr": build["nvr"],
        "origin": release if release is not None and "://" in release else CATALOGUE,
        "release": _release_asked(request, record.release),
    }
    for name, expected in wanted.items():
        found = getattr(record, name)
        if found != expected:
            message = f"the record's {name} is not that of task {task_id}"
            raise RecordError(message, expected=repr(expected), found=repr(found))
    if not record.reproducible or record.lock_sha256 is not None:
        return
    # Both when the task was made and now: a tag may have been taken off the list meanwhile.
    tag = get_tag(record.build_tag) if asked.get("tag_allowed") else None
    if tag is None or distrust(tag) is not None:
        raise RecordError(
            "the record is called reproducible, but its buildroot was anybody's",
            expected="a lock, or a build tag that [tasks] build_tags of the hub allows",
        )


def _release_asked(request: Mapping[str, Any], said: str) -> str:
    """The release that a task was asked to verify; what its builder said, if it was to find it."""
    asked: Optional[str] = request["release"]
    return said if asked is None or "://" in asked else asked


def _require_true(record: Record, build: Mapping[str, Any]) -> None:
    """Compare a record with the build's packages, each read and hashed now."""
    facts = [inspect_package(*file) for file in store.build_files(build).items()]
    reasons = [
        f"{f.name}: {f.problem}"
        for f in facts
        if f.problem is not None and (record.verdict == IDENTICAL or f.digests is None)
    ]
    reasons += mismatches(facts, record)
    if reasons:
        raise RecordError(
            f"the record is not of the packages that {build['nvr']} has: {'; '.join(reasons[:4])}",
            hint="verify the build again",
        )


@export
def getSgxVerification(build: Any) -> Optional[dict[str, Any]]:
    """The verification record of a build that counts: the newest that decided something.

    A verification that proved nothing hides no earlier one.

    :param build: NVR or id
    :returns: the record with its id, or None; 'outdated' says why it is not of the build
              as it is now (its packages were replaced, it was deleted), or is None
    """
    with koji_errors():
        binfo = get_build(argument(build, "build"), strict=True)
        packages = store.packages_of([binfo["id"]]).get(binfo["id"])
        found = [
            {
                **as_plain(row["record"]),
                "id": row["id"],
                "host_id": row["host_id"],
                "outdated": store.outdated(row["packages"], packages, binfo["state"]),
            }
            for row in store.records_of(binfo["id"])
        ]
    # one that is of the build as it is now, if there is one
    return min(found, key=lambda made: made["outdated"] is not None, default=None)


@export
def listSgxVerifications(
    build: Any = None,
    mrenclave: Optional[str] = None,
    enclave: Optional[str] = None,
    tag: Any = None,
    verdict: Optional[str] = None,
    queryOpts: Optional[dict[str, Any]] = None,
) -> Any:
    """Verification records, the newest first, each with its enclaves and 'outdated'.

    :param build: NVR or id
    :param mrenclave: of one of the enclaves, hexadecimal
    :param enclave: name of one of the enclaves, for example pce
    :param tag: name or id of a tag that the build is in now, not by inheritance
    :param verdict: identical, differs or unverifiable
    :param queryOpts: 'limit' (100 unless given, at most 1000), 'offset', 'order', 'countOnly'
    :returns: a list of mappings, or a number with countOnly
    """
    with koji_errors():
        asked = options(queryOpts, "queryOpts", "queryOpts")
        if asked.pop("countOnly", False):
            asked = {"countOnly": True, **options(asked, "nothing", "queryOpts")}
        else:
            asked = {"order": "-id", "limit": 100, "offset": 0, **asked}
        given = {"build": build, "mrenclave": mrenclave, "enclave": enclave}
        filters = options({**given, "tag": tag, "verdict": verdict}, "filters", "filters")
        for name, get in (("build", get_build), ("tag", get_tag)):
            if name in filters:
                filters[name] = get(filters[name], strict=True)["id"]
        return store.find(filters, asked)


@export
def getSgxLock(release: str) -> Optional[dict[str, Any]]:
    """The lock of a release: the packages that its buildroots must have.

    :param release: its name
    :returns: None, or a mapping with 'id', 'release', 'sha256', 'task_id', 'create_ts' and 'lock',
              which is text in the format of mock's buildroot_lock plugin
    """
    with koji_errors():
        return store.newest_lock(argument(release, "release", "text"))


@export
def setSgxLock(task_id: int) -> Optional[dict[str, Any]]:
    """Pin the buildroot that a verification was made in, for its release, from now on.

    Needs the permission sgx-enclaves-lock. The task must have ended with the verdict
    identical, and all its subtasks must have had the same packages.

    :param task_id: of a verification
    :returns: the new lock, see getSgxLock
    """
    session = context.session
    session.assertPerm(LOCKER)
    with koji_errors():
        argument(task_id, "task_id")
        task = Task(task_id)
        (method, request), result = hub_api.task_request(task_id), task.getResult()
        if method != PARENT or result["verdict"] != IDENTICAL:
            raise koji.GenericError(f"task {task_id} is no verification that proved anything")
        release = result["release"]
        if release != (asked := _release_asked(request, release)):
            what = f"the result of task {task_id} is of another release than it was asked for"
            raise RecordError(what, expected=asked, found=repr(release))
        subtasks = [child["id"] for child in task.getChildren() if child["method"] == CHILD]
        # of those that say the same, the first one's
        locks = dict(map(_lock_of, subtasks[::-1]))
        if len(locks) != 1:
            raise RecordError(
                f"the subtasks of task {task_id} were not made in one and the same buildroot",
                found=f"{len(locks)} different ones",
                hint="verify again, and name a repo by --repo-id",
            )
        (lock,) = locks.values()
        store.put_lock(release, lock, task_id=task_id, user_id=session.user_id)
        return store.newest_lock(release)


def _lock_of(task_id: int) -> tuple[Any, str]:
    """The packages that a subtask's lock names, in one order, and its text."""
    # Whoever tags needs none of that part of the core.
    from sgx_enclaves.release.place import parse_lock  # noqa: PLC0415

    data = read_file(f"{koji.pathinfo.task(task_id)}/{LOCK_FILE}", _MAX_LOCK)
    lock, file = data.decode("utf-8", "replace"), f"{LOCK_FILE} of task {task_id}"
    if packages := parse_lock(lock.encode(), file):
        return packages, lock
    raise RecordError("the lock names no packages", file=file)
