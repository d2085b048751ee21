# SPDX-License-Identifier: GPL-2.0-or-later
"""Koji's command, `koji sgx-enclaves VERB`: starts verifications and asks what was verified.

A verb is the function of its name; its help and what it takes stand in `sgx_enclaves_cli.txt`.
The exit status is that of the verdict (0 identical, 1 differs, 2 anything else), so that 1 never
means a failed connection, for which Koji's own commands use it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional
from xmlrpc.client import Fault

import koji
import requests
from koji.plugin import export_cli
from koji_cli import commands
from koji_cli.lib import activate_session, ensure_connection, watch_tasks

from sgx_enclaves.cli import output
from sgx_enclaves.cli.declare import declare, read_verbs
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.statements import enveloped, statements_of_record
from sgx_enclaves.gate.arguments import SIGNATURES
from sgx_enclaves.report.templated import UNKNOWN_STATUS, exit_status, records_table

_REPORT, _TESTCASE = "sgx-enclaves-report.json", "sgx-enclaves.verified"
_LONGEST_NOTE, _DEADLINE = 500, 60.0
_OPTIONS = ("unsigned_build", "repo_id", "timeout", "allow_unpinned", "split", "task_id")
_FILTERS = ("build", "mrenclave", "enclave", "tag", "verdict")
# Verbs that need no login.
_FOR_ANYBODY = ("result", "show", "export", "list")
_DENIED = 1
_WIDE = 120

_ABOUT = """Verify that signed SGX enclaves are what their release's sources build, plus signatures.

A verification runs on Koji's builders. That of a build leaves a record on the hub, and a
record is what gated tags ask for. Starting one needs the permission sgx-enclaves."""


@export_cli
def handle_sgx_enclaves(goptions: Any, session: Any, args: Sequence[str]) -> int:
    "[build] Verify SGX enclaves, see what was verified and what gated tags allow"
    try:
        given = koji_parser().parse_args(args)
        connect = ensure_connection if given.verb in _FOR_ANYBODY else activate_session
        try:
            connect(session, goptions)
        except SystemExit as error:
            # Koji's helpers end the program with status 1 when there is no connection
            raise koji.GenericError("no connection to the hub") from error
        verb = globals()["_" + given.verb.replace("-", "_")]
        return int(verb(goptions, session, given))
    except (koji.GenericError, SgxEnclavesError, Fault, OSError, KeyboardInterrupt) as error:
        what = {"kind": type(error).__name__, "message": _words(error)}
    print(what["message"], file=sys.stderr)
    if "--json" in args:
        with contextlib.suppress(SgxEnclavesError):
            output.out_json({"exit_status": UNKNOWN_STATUS, "error": what})
    return UNKNOWN_STATUS


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like any other, to people and to programs."""

    def error(self, message: str) -> NoReturn:
        """See `argparse`."""
        raise koji.ParameterError(f"{message}; {self.prog} --help explains")


# `koji taskinfo -v` asks this function, which knows the parameters of Koji's own tasks only.
_lines_of_kojis_task = commands._do_parseTaskParams


def _lines_of_task(session: Any, method: str, task_id: int, topdir: str) -> list[str]:
    """The parameters of a task, a line each."""
    if method not in SIGNATURES:
        return [*_lines_of_kojis_task(session, method, task_id, topdir)]
    given = zip(SIGNATURES[method][0][0], session.getTaskRequest(task_id))
    return [f"{name}: {json.dumps(value)}" for name, value in given if value]


commands._do_parseTaskParams = _lines_of_task


def koji_parser() -> argparse.ArgumentParser:
    """The parser; the namespace's `verb` names the verb."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="koji sgx-enclaves",
        description=_ABOUT,
        epilog="koji sgx-enclaves VERB --help explains each verb",
        formatter_class=raw,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    texts, shared = read_verbs(Path(__file__).with_suffix(".txt"))
    for name, text in texts.items():
        verb = verbs.add_parser(
            name, help=text.summary, description=text.about, formatter_class=raw
        )
        declare(verb, text.arguments, {"N": int, "BUILD": _id, "TAG": _id}, shared)
    return parser


def _id(text: str) -> Any:
    """An id as a number, for which the hub has other calls than for a name."""
    return int(text) if text.isascii() and text.isdigit() else text


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error.faultString if isinstance(error, Fault) else error)
    if "Invalid method" in text:
        return f"{text}: the hub does not have the plugin sgx_enclaves_hub; ask its administrator"
    return f"{type(error).__name__}: {text}" if isinstance(error, OSError) else text


def _verify(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    """What `build` and `verify-task` do, too."""
    asked = {**{name: getattr(given, name, None) for name in _OPTIONS}, "enclaves": given.enclave}
    opts = {name: value for name, value in asked.items() if value}
    how = {"channel": given.channel} if given.channel else {}
    build = getattr(given, "build", None)
    given.task = task = session.sgxEnclaves(given.release, given.build_tag, build, opts, **how)
    if given.nowait:
        place = f"{goptions.weburl}/taskinfo?taskID={task}"
        lines = (f"Created task: {task}", f"Task info: {place}")
        output.answer(given, {"task_id": task, "weburl": place}, lines)
        return 0
    quiet = given.json or goptions.quiet
    if not quiet:
        output.out(f"Created task: {task}")
    how = {"poll_interval": goptions.poll_interval, "topurl": goptions.topurl}
    watch_tasks(session, [task], quiet=quiet, **how)
    return _result(goptions, session, given)


_build = _verify_task = _verify


def _result(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    task = given.task
    info = session.getTaskInfo(task, strict=True)
    state = koji.TASK_STATES[info["state"]]
    if info["method"] != "sgxEnclaves" or state in ("FREE", "OPEN", "ASSIGNED"):
        raise koji.GenericError(f"task {task} ({info['method']}, {state}) has no verdict")
    result = session.getTaskResult(task)
    folder = koji.PathInfo(topdir=goptions.topurl).task(task)
    plain = {**result, "task_id": task, "report_url": f"{folder}/{result['report']}"}
    output.answer(given, plain, "answer.txt", found=plain, width=_width())
    return exit_status(result["verdict"])


def _record(session: Any, build: Any) -> dict[str, Any]:
    record: Optional[dict[str, Any]] = session.getSgxVerification(build)
    if record is None:
        step = f"koji sgx-enclaves verify {build} --build-tag BUILD_TAG"
        raise koji.GenericError(f"{build} was never verified: {step}")
    return record


def _show(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    record = _record(session, given.build)
    output.answer(given, record, "record.txt", found=record, width=_width())
    return exit_status(record["verdict"])


def _export(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    made = statements_of_record(_record(session, given.build), builder=goptions.server)
    lines = (enveloped(statement).payload.decode() for statement in made)
    output.answer(given, {"statements": made}, lines)
    return 0


def _list(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    asked = {name: getattr(given, name) for name in _FILTERS}
    records = session.listSgxVerifications(**asked, queryOpts={"limit": given.limit})
    lines = records_table(records).splitlines() if records else ["no such records"]
    output.answer(given, {"records": records}, lines)
    return 0


def _gate_status(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    status = session.getSgxGateStatus(given.build, given.tag)
    values = {"build": given.build, "tag": given.tag, "status": status, "width": _width()}
    output.answer(given, status, "gate.txt", **values)
    return 0 if status["allowed"] else _DENIED


def _publish(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    record = _record(session, given.build)
    status = session.getSgxGateStatus(given.build, given.tag)
    if not status["present"]:
        raise koji.GenericError(f"{record['nvr']} holds no signed enclaves now: nothing to publish")
    verified, differs = status["verified"], record["verdict"] == "differs"
    folder = koji.PathInfo(topdir=goptions.topurl).task(record["task_id"])
    result = {
        "testcase": {"name": _TESTCASE},
        "outcome": "PASSED" if verified else "FAILED" if differs else "NEEDS_INSPECTION",
        "ref_url": f"{folder}/{_REPORT}",
        "note": "; ".join(status["reasons"])[:_LONGEST_NOTE],
        "data": {
            "item": [record["nvr"]],
            "type": ["koji_build"],
            "release": [record["release"]],
            "record": [str(record["id"])],
            "report_sha256": [record["report_sha256"]],
            **({"tag": [str(given.tag)]} if given.tag else {}),
        },
    }
    place = f"{given.resultsdb.rstrip('/')}/results"
    # what is redirected would arrive as another request
    answer = requests.post(place, json=result, timeout=_DEADLINE, allow_redirects=False)
    if answer.status_code != requests.codes.created:
        said = " ".join(answer.text.split())[:_LONGEST_NOTE]
        raise koji.GenericError(f"{place} did not take the result: {answer.status_code} {said}")
    output.answer(given, result, [f"{result['outcome']}: {record['nvr']}, sent to {place}"])
    return 0


def _audit(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    refused: list[dict[str, Any]] = []
    count, after = 0, 0
    while after is not None:
        found = session.auditSgxTag(given.tag, after)
        refused += found["refused"]
        count, after = count + found["looked_at"], found["next"]
    plain = {"tag": given.tag, "looked_at": count, "refused": refused}
    output.answer(given, plain, "audit.txt", **plain, width=_width())
    return _DENIED if refused else 0


def _doctor(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    checks = session.checkSgxSetup()
    output.answer(given, {"checks": checks}, "doctor.txt", checks=checks, width=_width())
    return 0 if all(check["good"] for check in checks) else _DENIED


def _lock(goptions: Any, session: Any, given: argparse.Namespace) -> int:
    lock = session.setSgxLock(given.task)
    where = f"in the buildroot of task {given.task}: lock {lock['sha256']}"
    output.answer(given, lock, [f"release {lock['release']} is built from now on {where}"])
    return 0


def _width() -> int:
    """Columns of the terminal; wide enough for whole digests where there is none."""
    return shutil.get_terminal_size((_WIDE, 24)).columns
