# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs about building: what from, with what, and what came of it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Toolchain
from sgx_enclaves.cli import arguments, output
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import make_folder, read_file
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.build import build_release, set_apart
from sgx_enclaves.release.build_tree import BuildRequest
from sgx_enclaves.release.manifest import Manifest, load_built
from sgx_enclaves.release.place import MAX_LOCK, LockedPackage, dump_lock, parse_lock
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.release.toolchain import (
    ToolchainKind,
    all_match,
    check_lock,
    look_at_toolchain,
)
from sgx_enclaves.report.templated import filled


def build(args: argparse.Namespace) -> int:
    catalogue = arguments.chosen_catalogue(args)
    request = BuildRequest(
        catalogue=catalogue,
        release=catalogue.release(args.release),
        enclaves=tuple(args.enclaves),
        source_dir=args.source_dir,
        twice=args.twice,
        make_timeout=args.make_timeout,
        **arguments.chosen_build(args),
    )
    manifest = build_release(
        request,
        args.into,
        arguments.chosen_place(args),
        arguments.chosen_fetcher(args).fetch,
        output.note,
        BuildStore(arguments.chosen_work_dir(args), say=output.note),
    )
    for enclave in manifest.enclaves if args.apart else ():
        if enclave.built:
            set_apart(args.into, manifest, enclave.name)
    output.answer(args, manifest.as_dict(), "build.txt", manifest=manifest, into=args.into)
    if not manifest.complete:
        return 2
    return int(manifest.reproducible is False)


def check_built(args: argparse.Namespace) -> int:
    manifest = load_built(args.directory).manifest
    refused = _refusals(manifest, args.allow_unpinned) if args.designated else []
    plain = {"refused": refused, "manifest": manifest.as_dict()}
    output.answer(args, plain, "built.txt", manifest=manifest, refused=refused)
    if args.output is not None and not refused:
        make_folder(Path(args.output).parent)
        text = filled("built.txt", manifest=manifest, refused=refused)
        output.write_output(args, text.encode(), *args.directory.rglob("*"))
    return int(bool(refused))


def _refusals(manifest: Manifest, allow_unpinned: bool) -> list[str]:
    """Why the directory is not what a distribution's reference must be; none if it is."""
    designated = "it was not built with the designated toolchain; build it where that is"
    pinned = "it was built from sources without a pinned digest; pin them in the release"
    checks = {
        "an enclave that was asked for was not built; read its log": manifest.complete,
        designated: manifest.designated,
        pinned: manifest.pinned or allow_unpinned,
    }
    return [reason for reason, good in checks.items() if not good]


def contents(args: argparse.Namespace) -> int:
    if args.expect is not None and not re.fullmatch("[0-9a-f]{64}", args.expect):
        raise InputError(
            "--expect needs 64 lower-case hexadecimal digits", found=repr(args.expect)[:80]
        )
    archives = [_archive(path, args.list) for path in args.archives]
    wrong = any(a["contents_sha256"] != args.expect for a in archives if args.expect is not None)
    output.answer(
        args, {"archives": archives}, "contents.txt", archives=archives, expected=args.expect
    )
    return int(wrong)


def _archive(path: Path, with_entries: bool) -> dict[str, object]:
    held = read_contents(path, progress=output.progress())
    made: dict[str, object] = {"file": str(path), "contents_sha256": held.sha256}
    made |= {"sha256": held.archive_sha256, "top": held.top}
    if with_entries:
        made["entries"] = [[entry.kind, entry.path, entry.value] for entry in held.entries]
    return made


def toolchain(args: argparse.Namespace) -> int:
    root = None if args.root is None else str(args.root)
    if args.action == "lock":
        output.print_or_write(args, dump_lock(_installed(root)))
        return 0
    if args.action == "check" and args.lock is not None:
        lock = parse_lock(read_file(args.lock, MAX_LOCK), args.lock)
        name, parts = "buildroot lock", check_lock(lock, _installed(root))
    else:
        # on the PATH that a build would have, not the caller's
        kind = ToolchainKind.HOST if args.tools else ToolchainKind.DESIGNATED
        use = look_at_toolchain(_designated(args), kind, Machine(root), args.tools)
        if args.action == "record":
            output.print_or_write(args, json.dumps(use.record.as_dict(), indent=2))
            return 0
        name, parts = use.name, use.parts
    matches = all_match(parts)
    facts = {"schema_version": 1, "toolchain": name, "matches": matches, "parts": as_plain(parts)}
    text = json.dumps(facts, indent=2)
    if not args.json:
        text = filled("toolchain.txt", **facts, locked=args.lock is not None)
    output.print_or_write(args, text)
    return int(not matches)


def _designated(args: argparse.Namespace) -> Toolchain:
    if args.release is None:
        raise InputError("no release is named", hint=f"toolchain {args.action} RELEASE")
    release = arguments.chosen_catalogue(args).release(args.release)
    if release.toolchain is None:
        raise InputError(
            f"the release {release.name} designates no toolchain",
            file=release.file,
            hint="its enclaves are built in another release's tree",
        )
    return release.toolchain


def _installed(root: Optional[str]) -> list[LockedPackage]:
    packages = list(Machine(root).packages())
    if not packages:
        raise InputError(
            "RPM knows no package there",
            file=root,
            hint="is rpm installed, and is this the directory of a system of RPM packages?",
        )
    return packages
