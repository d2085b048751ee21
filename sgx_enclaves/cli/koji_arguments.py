# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of `koji sgx-enclaves`, apart from Koji: what it takes, in words.

`koji_plugin/cli` runs it.
"""

from __future__ import annotations

import argparse
from typing import Any

from sgx_enclaves.cli.declare import declare

_ABOUT = """Verify that signed SGX enclaves are what their release's sources build, plus signatures.

A verification runs on Koji's builders. That of a build leaves a record on the hub, and a
record is what gated tags ask for. Starting one needs the permission sgx-enclaves."""
_VERDICT = "0 identical, 1 differs, 2 unverifiable, or it could not be done"
_DONE = "0, or 2 if it could not be asked"

_TASK = """
--enclave NAME*  only this one; may be repeated
--unsigned-build BUILD  take the unsigned enclaves from this build
--repo-id N  build in this repo, not the tag's newest
--timeout N  for all of it, in seconds
--allow-unpinned  accept files that the release does not pin
--split  build each enclave in a subtask of its own
--background  run at a lower priority
--channel CHANNEL  run in this channel
--nowait  do not wait for the task; exit status 0"""
# Of each verb: what it does, what its exit status says, and its arguments.
_VERBS = {
    "build": (
        "build a release's enclaves and compare them with the vendor's",
        _VERDICT,
        "release:RELEASE  name in the builders' catalogue, or the URL of its file\n"
        "--build-tag TAG!  whose repo to build in" + _TASK,
    ),
    "verify": (
        "verify a build's signed enclaves, and keep a record",
        _VERDICT,
        "build:BUILD  NVR or id\n"
        "--release RELEASE  by default the one that the build's files belong to\n"
        "--build-tag TAG  by default the one it was built in" + _TASK,
    ),
    "verify-task": (
        "verify the packages of a build task, as of a scratch build; nothing is recorded",
        _VERDICT,
        "task:N  id of a build task that has ended well\n"
        "--release RELEASE  by default the one that the packages' files belong to\n"
        "--build-tag TAG  by default the one it was built in" + _TASK,
    ),
    "result": (
        "show what a verification task gave",
        _VERDICT,
        "task:N  id of a task that has ended",
    ),
    "show": (
        "show a build's record: the newest that decided something",
        _VERDICT,
        "build:BUILD  NVR or id",
    ),
    "export": (
        "print a build's record as in-toto statements, to be signed with sgx-enclaves attest",
        "0 done, 2 there is no record, or it could not be asked",
        "build:BUILD  NVR or id",
    ),
    "list": (
        "list records, the newest first",
        _DONE,
        """\
--build BUILD  NVR or id
--mrenclave HEX  of one of its enclaves
--enclave NAME  name of one of its enclaves: pce, qe3
--tag TAG  builds that are in this tag now
--verdict identical|differs|unverifiable
--limit N (100)  at most so many (%(default)s)""",
    ),
    "gate-status": (
        "would a tag take a build, and why not",
        "0 allowed, 1 denied, 2 it could not be asked",
        "build:BUILD  NVR or id\ntag:TAG  name or id",
    ),
    "audit": (
        "list builds that a tag shows without a fitting record",
        "0 every build has one, 1 some have not, 2 it could not be asked",
        "tag:TAG  name or id; with what it inherits",
    ),
    "lock": (
        "pin the buildroot of a verification for its release",
        _DONE,
        "task:N  id of a task that said identical",
    ),
    "publish": (
        "send what the gate says of a build to a ResultsDB, for Greenwave and Bodhi",
        "0 the result is there, whatever it says, 2 it could not be sent",
        "build:BUILD  NVR or id\n"
        "--resultsdb URL!  of its API, such as https://HOST/api/v2.0\n"
        "--tag TAG  whose rule decides; by default the plain rule",
    ),
    "doctor": (
        "check the hub's set-up, and say what is wrong",
        "0 all is right, 1 something is wrong, 2 it could not be asked",
        "",
    ),
}


def koji_parser() -> argparse.ArgumentParser:
    """The parser; the namespace's `verb` names the verb."""
    parser = argparse.ArgumentParser(
        prog="koji sgx-enclaves",
        description=_ABOUT,
        epilog="koji sgx-enclaves VERB --help explains each verb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (about, status, arguments) in _VERBS.items():
        verb = verbs.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"exit status: {status}",
        )
        verb.add_argument("--json", action="store_true", help="print JSON, and nothing else")
        declare(verb, arguments, {"BUILD": _id, "TAG": _id})
    return parser


def _id(text: str) -> Any:
    """An id as a number, for which the hub has other calls than for a name."""
    return int(text) if text.isascii() and text.isdigit() else text
