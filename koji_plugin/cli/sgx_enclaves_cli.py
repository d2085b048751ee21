# SPDX-License-Identifier: GPL-2.0-or-later
"""Koji's command, `koji sgx-enclaves VERB`: starts verifications and asks what was verified.

The exit status is that of the verdict (0 identical, 1 differs, 2 anything else), so
that 1 never means a failed connection; Koji's own commands use 1 for that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional
from xmlrpc.client import Fault

import koji
from koji.plugin import export_cli
from koji_cli.lib import activate_session, ensure_connection, watch_tasks

from sgx_enclaves.cli.koji_arguments import koji_parser
from sgx_enclaves.report.templated import (
    UNKNOWN_STATUS,
    exit_status,
    filled,
    records_table,
)

_DENIED = 1
_LATER = 5
_WIDE = 120


class _NoVerdictError(Exception):
    """Nothing can be said, and why."""


@export_cli
def handle_sgx_enclaves(goptions: Any, session: Any, args: Sequence[str]) -> int:
    "[build] Verify SGX enclaves, see what was verified and what gated tags allow"
    given = koji_parser().parse_args(args)
    try:
        return _VERBS[given.verb](goptions, session, given)
    except KeyboardInterrupt:
        return UNKNOWN_STATUS
    except (koji.GenericError, Fault, OSError, _NoVerdictError) as error:
        print(_words(error), file=sys.stderr)
        return UNKNOWN_STATUS


def _words(error: Exception) -> str:
    text = str(error.faultString if isinstance(error, Fault) else error)
    if "Invalid method" in text:
        return f"{text}: the hub does not have the plugin sgx_enclaves_hub; ask its administrator"
    return f"{type(error).__name__}: {text}" if isinstance(error, OSError) else text


def _connected(connect: Callable[[Any, Any], None], goptions: Any, session: Any) -> None:
    """Koji's helpers end the program with status 1 when there is no connection."""
    try:
        connect(session, goptions)
    except SystemExit as error:
        raise _NoVerdictError("no connection to the hub") from error


def _build(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Verify a release alone."""
    return _verification(goptions, session, given, given.release, None, given.build_tag)


def _verify(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Verify a build."""
    _connected(activate_session, goptions, session)
    tag = given.build_tag or _build_tag_of(session, given.build)
    return _verification(goptions, session, given, given.release, given.build, tag)


def _verify_task(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Verify what a build task has made."""
    _connected(activate_session, goptions, session)
    tag = given.build_tag or _build_tag_of_task(session, given.task, f"task {given.task}")
    return _verification(goptions, session, given, given.release, None, tag, task_id=given.task)


def _build_tag_of(session: Any, build: Any) -> str:
    """The tag that a build was built in."""
    info = session.getBuild(build, strict=True)
    return _build_tag_of_task(session, info.get("task_id"), info["nvr"])


def _build_tag_of_task(session: Any, task_id: Optional[int], what: str) -> str:
    task = task_id and session.getTaskInfo(task_id, request=True)
    request = task["request"] if task and task["method"] == "build" else []
    target = session.getBuildTarget(request[1]) if len(request) > 1 and request[1] else None
    if target is None:
        raise _NoVerdictError(
            f"it is not known in which tag {what} was built: name one with --build-tag"
        )
    return str(target["build_tag_name"])


def _verification(
    goptions: Any,
    session: Any,
    given: argparse.Namespace,
    release: Optional[str],
    build: Any,
    tag: str,
    **more: Any,
) -> int:
    _connected(activate_session, goptions, session)
    named = {
        "unsigned_build": given.unsigned_build,
        "enclaves": given.enclave or None,
        "repo_id": given.repo_id,
        "timeout": given.timeout,
        "allow_unpinned": given.allow_unpinned or None,
        "split": given.split or None,
        **more,
    }
    opts = {name: value for name, value in named.items() if value is not None}
    how = {"priority": _LATER} if given.background else {}
    if given.channel:
        how["channel"] = given.channel
    task = session.sgxEnclaves(release, tag, build, opts, **how)
    if given.nowait:
        place = f"{goptions.weburl}/taskinfo?taskID={task}"
        text = f"Created task: {task}\nTask info: {place}\n"
        _show(given, {"task_id": task, "weburl": place}, text)
        return 0
    quiet = given.json or goptions.quiet
    if not quiet:
        print(f"Created task: {task}")
    watch_tasks(
        session,
        [task],
        quiet=quiet,
        poll_interval=goptions.poll_interval,
        topurl=goptions.topurl,
    )
    return _told(goptions, session, given, task)


def _result(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Show what a task gave."""
    _connected(ensure_connection, goptions, session)
    return _told(goptions, session, given, given.task)


def _told(goptions: Any, session: Any, given: argparse.Namespace, task: int) -> int:
    info = session.getTaskInfo(task, strict=True)
    state = koji.TASK_STATES[info["state"]]
    if info["method"] != "sgxEnclaves" or state in ("FREE", "OPEN", "ASSIGNED"):
        raise _NoVerdictError(f"task {task} ({info['method']}, {state}) has no verdict")
    result = session.getTaskResult(task)
    folder = koji.PathInfo(topdir=goptions.topurl).task(task)
    report = f"{folder}/{result['report']}"
    text = f"{filled('answer.txt', found=result, width=_width())}report: {report}\n"
    _show(given, {**result, "task_id": task, "report_url": report}, text)
    return exit_status(result["verdict"])


def _show_record(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Show the record of a build that counts."""
    _connected(ensure_connection, goptions, session)
    record = session.getSgxVerification(given.build)
    if record is None:
        raise _NoVerdictError(
            f"{given.build} was never verified: koji sgx-enclaves verify {given.build}"
        )
    _show(given, record, filled("record.txt", found=record, width=_width()))
    return exit_status(record["verdict"])


def _list(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """List records."""
    _connected(ensure_connection, goptions, session)
    records = session.listSgxVerifications(
        build=given.build,
        mrenclave=given.mrenclave,
        enclave=given.enclave,
        tag=given.tag,
        verdict=given.verdict,
        queryOpts={"limit": given.limit},
    )
    _show(given, records, records_table(records) if records else "no such records\n")
    return 0


def _gate_status(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Would the tag take the build?"""
    _connected(activate_session, goptions, session)
    status = session.getSgxGateStatus(given.build, given.tag)
    text = filled("gate.txt", build=given.build, tag=given.tag, status=status, width=_width())
    _show(given, status, text)
    return 0 if status["allowed"] else _DENIED


def _audit(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """List the builds that a tag shows without a fitting record."""
    _connected(activate_session, goptions, session)
    refused: list[dict[str, Any]] = []
    count, after = 0, 0
    while after is not None:
        found = session.auditSgxTag(given.tag, after)
        refused += found["refused"]
        count, after = count + found["looked_at"], found["next"]
    plain = {"tag": given.tag, "looked_at": count, "refused": refused}
    _show(given, plain, filled("audit.txt", **plain, width=_width()))
    return _DENIED if refused else 0


def _doctor(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Check the hub's set-up."""
    _connected(activate_session, goptions, session)
    checks = session.checkSgxSetup()
    _show(given, checks, filled("doctor.txt", checks=checks, width=_width()))
    return 0 if all(check["good"] for check in checks) else _DENIED


def _lock(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """Pin the buildroot of a verification for its release."""
    _connected(activate_session, goptions, session)
    lock = session.setSgxLock(given.task)
    text = f"release {lock['release']} is built from now on in the buildroot of task {given.task}"
    _show(given, lock, f"{text}: lock {lock['sha256']}\n")
    return 0


def _show(given: argparse.Namespace, plain: Any, text: str) -> None:
    sys.stdout.write(json.dumps(plain, indent=2, sort_keys=True) + "\n" if given.json else text)


def _width() -> int:
    """Columns of the terminal; wide enough for whole digests where there is none."""
    return shutil.get_terminal_size((_WIDE, 24)).columns


_VERBS: dict[str, Callable[[Any, Any, argparse.Namespace], int]] = {
    "build": _build,
    "verify": _verify,
    "verify-task": _verify_task,
    "result": _result,
    "show": _show_record,
    "list": _list,
    "gate-status": _gate_status,
    "audit": _audit,
    "lock": _lock,
    "doctor": _doctor,
}
