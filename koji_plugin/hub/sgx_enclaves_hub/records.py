# SPDX-License-Identifier: GPL-2.0-or-later
"""RPCs for records: written by the host that verified, read by all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import koji
from koji.plugin import export, export_in

from sgx_enclaves.errors import RecordError
from sgx_enclaves.gate.decide import mismatches
from sgx_enclaves.gate.inspect import inspect_package
from sgx_enclaves.gate.record import CATALOGUE, IDENTICAL, VERDICTS, Record, read_record, time_text

from . import hubside, store
from .store import build_files
from .tasks import PARENT, complete_build
from .words import choice, koji_errors, name_or_id, number, optional_text

_MAX_ROWS = 1000
_MAX_ID = (1 << 31) - 1
_ORDERS = ("id", "build_id", "task_id", "release", "verdict", "create_ts", "nvr")


@export_in("host")
def recordSgxVerification(task_id: int, record: Mapping[str, Any]) -> int:
    """Keep the record of a verification. For builders only.

    Refused unless the caller is the host that runs this open sgxEnclaves task,
    the task is for this build, it has written no record yet, and the record
    speaks of the very packages that the build has now.

    :param task_id: the calling task
    :param record: see sgx_enclaves.gate.record; verified_at is set by the hub
    :returns: the id of the record
    """
    task_id = number(task_id, "task_id", 1, _MAX_ID)
    host_id = hubside.running_host(task_id)
    method, request = hubside.task_request(task_id)
    if method != PARENT or request["build"] is None:
        raise koji.ActionNotAllowed(f"task {task_id} is not the verification of a build")
    build = complete_build(request["build"], "build")
    with koji_errors():
        if not isinstance(record, Mapping) or record.get("verified_at") is not None:
            raise RecordError("the record has a time already", hint="the hub sets verified_at")
        parsed = read_record({**record, "verified_at": time_text(hubside.now())})
        _require_own(parsed, task_id, request, build)
        if store.of_task(task_id) is not None:
            raise koji.ActionNotAllowed(f"task {task_id} has written its record already")
        _require_true(parsed, build)
        return store.put(parsed, host_id)


def _require_own(
    record: Record, task_id: int, request: Mapping[str, Any], build: Mapping[str, Any]
) -> None:
    """Hold a record against the task that writes it."""
    release = request["release"]
    from_url = release is not None and "://" in release
    wanted = {
        "task_id": task_id,
        "build_id": build["id"],
        "nvr": build["nvr"],
        "origin": release if from_url else CATALOGUE,
    }
    if release is not None and not from_url:
        wanted["release"] = release
    for name, expected in wanted.items():
        found = getattr(record, name)
        if found != expected:
            raise RecordError(
                f"the record's {name} is not that of task {task_id}",
                expected=repr(expected),
                found=repr(found),
            )


def _require_true(record: Record, build: Mapping[str, Any]) -> None:
    """Hold a record against the build's packages, each read and hashed now."""
    files = build_files(build)
    missing = sorted({f.name for f in files} - {p.name for p in record.rpms})
    if missing:
        raise RecordError(
            f"the record does not name every binary package of {build['nvr']}",
            expected=", ".join(missing[:4]),
        )
    facts = [inspect_package(f) for f in files]
    unread = [
        f"{f.name}: {f.problem}"
        for f in facts
        if f.problem is not None and (record.verdict == IDENTICAL or f.digests is None)
    ]
    reasons = [*unread, *mismatches(facts, record)]
    if reasons:
        raise RecordError(
            f"the record is not of the packages that {build['nvr']} has: {'; '.join(reasons[:4])}",
            hint="verify the build again",
        )


@export
def getSgxVerification(build: Any, strict: bool = False) -> Optional[dict[str, Any]]:
    """The newest verification record of a build.

    :param build: NVR or id
    :param strict: raise when there is none
    :returns: the record with its id, or None
    """
    binfo = hubside.get_build(name_or_id(build, "build"))
    with koji_errors():
        found = store.newest(binfo["id"])
    if found is None and strict:
        raise koji.GenericError(f"{binfo['nvr']} has no verification record")
    return None if found is None else found.as_mapping()


@export
def listSgxVerifications(
    build: Any = None,
    mrenclave: Optional[str] = None,
    enclave: Optional[str] = None,
    tag: Any = None,
    verdict: Optional[str] = None,
    queryOpts: Optional[dict[str, Any]] = None,
) -> Any:
    """Verification records, the newest first, each with its enclaves.

    :param build: NVR or id
    :param mrenclave: of one of the enclaves, hexadecimal
    :param enclave: name of one of the enclaves, for example pce
    :param tag: name or id of a tag that the build is in now, not by inheritance
    :param verdict: identical, differs or unverifiable
    :param queryOpts: 'limit' (100 unless given, at most 1000), 'offset', 'order', 'countOnly'
    :returns: a list of mappings, or a number with countOnly
    """
    mrenclave = optional_text(mrenclave, "mrenclave")
    return store.find(
        build_id=None if build is None else hubside.get_build(name_or_id(build, "build"))["id"],
        mrenclave=None if mrenclave is None else mrenclave.lower(),
        enclave=optional_text(enclave, "enclave"),
        tag_id=None if tag is None else hubside.get_tag(name_or_id(tag, "tag"))["id"],
        verdict=None if verdict is None else choice(verdict, "verdict", VERDICTS),
        options=_query_options(queryOpts),
    )


def _query_options(given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, dict):
        raise koji.ParameterError("Invalid value for queryOpts: expected a mapping")
    given = dict(given or {})
    if given.pop("countOnly", False):
        options: dict[str, Any] = {"countOnly": True}
    else:
        order = str(given.pop("order", None) or "-id")
        choice(order.lstrip("-"), "order", _ORDERS)
        limit = number(given.pop("limit", None) or 100, "limit", 1, _MAX_ROWS)
        offset = number(given.pop("offset", None) or 0, "offset", 0, _MAX_ID)
        options = {"order": order, "limit": limit, "offset": offset}
    if given:
        raise koji.ParameterError(
            f"Unknown queryOpts: {', '.join(sorted(repr(k)[:40] for k in given))}"
        )
    return options
