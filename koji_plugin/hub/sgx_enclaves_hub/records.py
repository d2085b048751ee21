# SPDX-License-Identifier: GPL-2.0-or-later
"""RPCs for records: written by the host that verified, read by all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import koji
from koji.plugin import export, export_in

from sgx_enclaves.arguments import (
    MAX_ID,
    PARENT,
    argument,
    checked,
    choice,
    name_or_id,
    number,
    optional,
    optional_text,
    truth,
)
from sgx_enclaves.errors import RecordError
from sgx_enclaves.gate.decide import mismatches
from sgx_enclaves.gate.inspect import inspect_package
from sgx_enclaves.gate.record import CATALOGUE, IDENTICAL, VERDICTS, Record, read_record, time_text

from . import hub_api, store
from .hub_api import koji_errors
from .store import build_files
from .tasks import complete_build

_MAX_ROWS = 1000
_ORDERS = ("id", "build_id", "task_id", "release", "verdict", "create_ts", "nvr")
_QUERY = {
    "countOnly": truth,
    "order": choice(*_ORDERS, *(f"-{name}" for name in _ORDERS)),
    "limit": number(1, _MAX_ROWS),
    "offset": number(0, MAX_ID),
}


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
    with koji_errors():
        argument(task_id, "task_id", number(1, MAX_ID))
        host_id = hub_api.running_host(task_id)
        method, request = hub_api.task_request(task_id)
        if method != PARENT or request["build"] is None:
            raise koji.ActionNotAllowed(f"task {task_id} is not the verification of a build")
        build = complete_build(request["build"], "build")
        if not isinstance(record, Mapping) or record.get("verified_at") is not None:
            raise RecordError("the record has a time already", hint="the hub sets verified_at")
        parsed = read_record({**record, "verified_at": time_text(hub_api.now())})
        _require_own(parsed, task_id, request, build)
        if store.of_task(task_id) is not None:
            raise koji.ActionNotAllowed(f"task {task_id} has written its record already")
        _require_true(parsed, build)
        return store.put(parsed, host_id)


def _require_own(
    record: Record, task_id: int, request: Mapping[str, Any], build: Mapping[str, Any]
) -> None:
    """Compare a record with the task that writes it."""
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
    """Compare a record with the build's packages, each read and hashed now."""
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
    with koji_errors():
        binfo = hub_api.get_build(argument(build, "build", name_or_id), strict=True)
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
    with koji_errors():
        options = _query_options(queryOpts)
        filters = {
            "mrenclave": optional_text(mrenclave, "mrenclave"),
            "enclave": optional_text(enclave, "enclave"),
            "verdict": argument(verdict, "verdict", optional(choice(*VERDICTS))),
        }
        if filters["mrenclave"] is not None:
            filters["mrenclave"] = filters["mrenclave"].lower()
        if build is not None:
            argument(build, "build", name_or_id)
            filters["build_id"] = hub_api.get_build(build, strict=True)["id"]
        if tag is not None:
            argument(tag, "tag", name_or_id)
            filters["tag_id"] = hub_api.get_tag(tag, strict=True)["id"]
        return store.find(filters, options)


def _query_options(given: Any) -> dict[str, Any]:
    options = checked(given, _QUERY, "queryOpts")
    if options.pop("countOnly", False):
        return {"countOnly": True, **checked(options, {}, "queryOpts")}
    return {"order": "-id", "limit": 100, "offset": 0, **options}
