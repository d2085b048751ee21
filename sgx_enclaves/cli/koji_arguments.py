# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of `koji sgx-enclaves`, apart from Koji: what it takes, in words.

`koji_plugin/cli` runs it.
"""

from __future__ import annotations

import argparse
from typing import Any

_ABOUT = """Verify that signed SGX enclaves are what their release's sources build, plus signatures.

A verification runs on Koji's builders. That of a build leaves a record on the hub, and a
record is what gated tags ask for. Starting one needs the permission sgx-enclaves."""
_VERDICT_STATUS = "exit status: 0 identical, 1 differs, 2 unverifiable, or it could not be done"
_GATE_STATUS = "exit status: 0 allowed, 1 denied, 2 it could not be asked"
_AUDIT_STATUS = "exit status: 0 every build has one, 1 some have not, 2 it could not be asked"
_LIST_STATUS = "exit status: 0, or 2 if it could not be asked"


def koji_parser() -> argparse.ArgumentParser:
    """The parser; the namespace's `verb` names the verb."""
    parser = argparse.ArgumentParser(
        prog="koji sgx-enclaves",
        description=_ABOUT,
        epilog="koji sgx-enclaves VERB --help explains each verb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    build = _verb(verbs, "build", "build a release's enclaves and compare them with the vendor's")
    build.add_argument("release", help="name in the builders' catalogue, or the URL of its file")
    add_tag = build.add_argument
    add_tag("--build-tag", metavar="TAG", required=True, type=_id, help="whose repo to build in")
    _add_task(build)
    verify = _verb(verbs, "verify", "verify a build's signed enclaves, and keep a record")
    verify.add_argument("build", metavar="BUILD", type=_id, help="NVR or id")
    verify.add_argument("--release", help="by default the one that the build's files belong to")
    add_tag = verify.add_argument
    add_tag("--build-tag", metavar="TAG", type=_id, help="by default the one it was built in")
    _add_task(verify)
    result = _verb(verbs, "result", "show what a verification task gave")
    result.add_argument("task", metavar="TASK", type=int, help="id of a task that has ended")
    show = _verb(verbs, "show", "show a build's record: the newest that decided something")
    show.add_argument("build", metavar="BUILD", type=_id, help="NVR or id")
    records = _verb(verbs, "list", "list records, the newest first", _LIST_STATUS)
    records.add_argument("--build", type=_id, help="NVR or id")
    records.add_argument("--mrenclave", metavar="HEX", help="of one of its enclaves")
    records.add_argument("--enclave", metavar="NAME", help="name of one of its enclaves: pce, qe3")
    records.add_argument("--tag", type=_id, help="builds that are in this tag now")
    records.add_argument("--verdict", choices=("identical", "differs", "unverifiable"))
    records.add_argument("--limit", type=int, default=100, help="at most so many (%(default)s)")
    gate = _verb(verbs, "gate-status", "would a tag take a build, and why not", _GATE_STATUS)
    gate.add_argument("build", metavar="BUILD", type=_id, help="NVR or id")
    gate.add_argument("tag", metavar="TAG", type=_id, help="name or id")
    audit = _verb(
        verbs, "audit", "list builds that a tag shows without a fitting record", _AUDIT_STATUS
    )
    audit.add_argument("tag", metavar="TAG", type=_id, help="name or id; with what it inherits")
    lock = _verb(verbs, "lock", "pin the buildroot of a verification for its release", _LIST_STATUS)
    lock.add_argument("task", metavar="TASK", type=int, help="id of a task that said identical")
    return parser


def _id(text: str) -> Any:
    """An id as a number, for which the hub has other calls than for a name."""
    return int(text) if text.isascii() and text.isdigit() else text


def _verb(
    verbs: Any, name: str, about: str, status: str = _VERDICT_STATUS
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=status
    )
    made.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return made


def _add_task(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--enclave", metavar="NAME", action="append", help="only this one; may be repeated")
    add(
        "--unsigned-build",
        metavar="BUILD",
        type=_id,
        help="take the unsigned enclaves from this build",
    )
    add("--repo-id", metavar="ID", type=int, help="build in this repo, not the tag's newest")
    add("--timeout", metavar="SECONDS", type=int, help="for all of it")
    add("--allow-unpinned", action="store_true", help="accept files that the release does not pin")
    add("--split", action="store_true", help="build each enclave in a subtask of its own")
    add("--background", action="store_true", help="run at a lower priority")
    add("--channel", help="run in this channel")
    add("--nowait", action="store_true", help="do not wait for the task; exit status 0")
