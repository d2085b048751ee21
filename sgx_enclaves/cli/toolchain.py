# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at the toolchain of this machine or of a buildroot.

  check RELEASE   which parts are the designated ones, part by part
  record RELEASE  write down what is there: tools, what they bake in, RPM packages
  lock            write the installed RPM packages in mock's buildroot lock format

A part counts as right when its own version output agrees. What cannot be seen
is said to be unseen, never taken for right. With --lock, check compares the
installed RPM packages with a pinned buildroot instead.

Exit status: 0 all parts match, 1 some do not, 2 it could not be looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from sgx_enclaves.catalogue.records import Toolchain
from sgx_enclaves.cli.arguments import chosen_catalogue
from sgx_enclaves.cli.output import out_report, write_output
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import read_file
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.installed import BuildrootLock, LockedPackage, dump_lock, parse_lock
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.toolchain import (
    Part,
    State,
    ToolchainKind,
    all_match,
    check_lock,
    look_at_toolchain,
)

ARGUMENTS = """\
action:check|record|lock
RELEASE?  a release of the catalogue
--root DIR  a buildroot; by default this machine
--lock FILE  check against this buildroot lock
@output-too
@catalogue
@json"""
_LOCK_LIMIT = 64 << 20


TYPES = {"DIR": str}


def run(args: argparse.Namespace) -> int:
    """Do the action; 0 unless a check finds another toolchain."""
    if args.action == "lock":
        return _lock(args)
    if args.action == "check" and args.lock is not None:
        lock = parse_lock(read_file(args.lock, _LOCK_LIMIT), args.lock)
        return _say(args, "buildroot lock", check_lock(lock, _installed(args)))
    toolchain = _designated(args)
    # on the PATH that a build would have, not the caller's
    use = look_at_toolchain(toolchain, ToolchainKind.DESIGNATED, Machine(args.root))
    if args.action == "check":
        return _say(args, use.name, use.parts)
    _write(args, json.dumps(use.record.as_dict(), indent=2))
    return 0


def _designated(args: argparse.Namespace) -> Toolchain:
    if args.release is None:
        raise InputError("no release is named", hint=f"toolchain {args.action} RELEASE")
    release = chosen_catalogue(args).release(args.release)
    if release.toolchain is None:
        raise InputError(
            f"the release {release.name} designates no toolchain",
            file=release.file,
            hint="its enclaves are built in another release's tree",
        )
    return release.toolchain


def _lock(args: argparse.Namespace) -> int:
    _write(args, dump_lock(BuildrootLock(tuple(_installed(args)))).rstrip("\n"))
    return 0


def _installed(args: argparse.Namespace) -> list[LockedPackage]:
    packages = [item.locked for item in Machine(args.root).packages()]
    if not packages:
        raise InputError(
            "RPM knows no package there",
            file=args.root,
            hint="is rpm installed, and is this the directory of a system of RPM packages?",
        )
    return packages


def _write(args: argparse.Namespace, text: str) -> None:
    if args.output is None:
        out_report(text)
    else:
        inputs = (*args.catalogue, *([args.lock] if args.lock else []))
        write_output(args, f"{text}\n".encode(), *inputs)


def _say(args: argparse.Namespace, toolchain: str, parts: Sequence[Part]) -> int:
    if args.json:
        facts = {
            "schema_version": 1,
            "toolchain": toolchain,
            "matches": all_match(parts),
            "parts": as_plain(parts),
        }
        _write(args, json.dumps(facts, indent=2))
    else:
        _write(args, _text(toolchain, parts))
    return 0 if all_match(parts) else 1


def _text(toolchain: str, parts: Sequence[Part]) -> str:
    word = "matches" if all_match(parts) else "does NOT match"
    lines = [f"the toolchain {word} {toolchain}"]
    for part in parts:
        line = f"  {part.state.value:<8} {part.name:<16} {part.expected}"
        if part.state is not State.MATCH:
            line += f", found {part.found or 'nothing'}"
        lines.append(line)
    return "\n".join(lines)
