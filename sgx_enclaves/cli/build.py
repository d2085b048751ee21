# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs about building: what from, with what, and what came of it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli import arguments, compare, output, releases
from sgx_enclaves.errors import InputError
from sgx_enclaves.evidence.report import of_release, write_report
from sgx_enclaves.files import make_folder, read_file, write_files
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release import verify
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.build import build_release
from sgx_enclaves.release.build_tree import BuildRequest
from sgx_enclaves.release.manifest import Manifest, load_built, set_apart
from sgx_enclaves.release.place import MAX_LOCK, LockedPackage, dump_lock, parse_lock
from sgx_enclaves.release.sandbox import Isolation, Machine, choose_isolation
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.release.toolchain import ToolchainKind, all_match, check_lock, look_at_toolchain
from sgx_enclaves.report.forms import release_dict
from sgx_enclaves.report.templated import filled, release_html, release_text


def build(args: argparse.Namespace) -> int:
    request = BuildRequest(
        **_chosen_build(args),
        source_dir=args.source_dir,
        twice=args.twice,
        make_timeout=args.make_timeout,
    )
    manifest = build_release(
        request,
        args.into,
        releases.chosen_fetcher(args).fetch,
        BuildStore(releases.chosen_work_dir(args), say=output.note),
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
    refused = list(_refusals(manifest, args.allow_unpinned)) if args.designated else []
    plain = {"refused": refused, "manifest": manifest.as_dict()}
    output.answer(args, plain, "built.txt", manifest=manifest, refused=refused)
    if args.output is not None and not refused:
        make_folder(Path(args.output).parent)
        text = filled("built.txt", manifest=manifest, refused=refused)
        # none of what was looked at is replaced
        args.files = [*args.directory.rglob("*")]
        output.write_output(args, text.encode())
    return int(bool(refused))


def _refusals(manifest: Manifest, allow_unpinned: bool) -> Iterator[str]:
    """Why the directory is not what a distribution's reference must be; none if it is."""
    if not manifest.complete:
        yield "an enclave that was asked for was not built; read its log"
    if not manifest.designated:
        yield "it was not built with the designated toolchain; build it where that is"
    if not (manifest.pinned or allow_unpinned):
        yield "it was built from sources without a pinned digest; pin them in the release"


def contents(args: argparse.Namespace) -> int:
    if args.expect is not None and not re.fullmatch("[0-9a-f]{64}", args.expect):
        raise InputError(
            "--expect needs 64 lower-case hexadecimal digits", found=repr(args.expect)[:80]
        )
    archives = []
    for path in args.archives:
        held = read_contents(path, progress=output.progress())
        archive: dict[str, object] = {"file": str(path), "contents_sha256": held.sha256}
        archive |= {"sha256": held.archive_sha256, "top": held.top}
        archive |= {"entries": as_plain(held.entries)} if args.list else {}
        archives.append(archive)
    plain = {"archives": archives}
    output.answer(args, plain, "contents.txt", archives=archives, expected=args.expect)
    return int(any(a["contents_sha256"] != args.expect for a in archives if args.expect))


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
        _, release = releases.chosen_release(args)
        _, designated = release.own_tree()
        use = look_at_toolchain(designated, kind, Machine(root), args.tools)
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


def _installed(root: Optional[str]) -> list[LockedPackage]:
    packages = list(Machine(root).packages())
    if not packages:
        raise InputError(
            "RPM knows no package there",
            file=root,
            hint="is rpm installed, and is this the directory of a system of RPM packages?",
        )
    return packages


def _chosen_build(args: argparse.Namespace, *, steps: bool = True) -> dict[str, Any]:
    """What both verbs that build say of it, by the names of `BuildRequest`; the place is this
    machine, its steps, if any are run, separated from it as far as `@place` demands.
    """
    catalogue, release = releases.chosen_release(args)
    release = release.only(args.enclaves) if args.enclaves else release
    if args.tools and args.toolchain != "host":
        raise InputError("--tools are other tools than the designated: say --toolchain=host")
    isolation = Isolation.NONE
    if steps:
        isolation, reason = choose_isolation(allow_none=args.allow_no_isolation)
        if reason:
            output.message(f"warning: the steps are not separated from this machine: {reason}")
    chosen: dict[str, Any] = {"catalogue": catalogue, "release": release, "say": output.note}
    chosen |= {"place": Machine(isolation=isolation, visible=args.tools)}
    chosen |= {"toolchain": ToolchainKind(args.toolchain), "tools": tuple(args.tools)}
    chosen |= {"route": args.route, "keep": args.keep, "progress": output.progress()}
    return chosen | (dict.fromkeys(("jobs", "processors"), args.jobs) if args.jobs else {})


def verify_release(args: argparse.Namespace) -> int:
    output.check_report(args)
    chosen = _chosen_build(args, steps=args.built is None)
    request = verify.Request(
        **chosen,
        built=args.built,
        signed=args.signed,
        repacked=_repacked(args.repacked, chosen["release"]),
        allow_unpinned=args.allow_unpinned,
        everything=args.all,
        resume=True,
    )
    verified = verify.verify_release(
        request,
        fetcher=releases.chosen_fetcher(args),
        store=BuildStore(releases.chosen_work_dir(args), say=output.message),
    )
    verdict = verified.verdict
    weaker = args.require_reproducible and not verdict.exit_status and not verdict.reproducible
    status = 2 if weaker else verdict.exit_status
    plain = {**release_dict(verdict), "exit_status": status}
    if args.json:
        output.out_json(plain)
    else:
        output.out_report(release_text(verdict, width=output.width()).rstrip("\n"))
    if args.report is not None:
        folders = [releases.chosen_work_dir(args), releases.chosen_cache_dir(args), args.local]
        folders += [args.built, args.signed, *(path.parent for path in request.repacked.values())]
        report = of_release(verified, request.release, request.catalogue, folders=folders)
        _write_reports(verified, plain, report, args.report)
        output.open_page(args, args.report / "release.html")
    if weaker:
        output.message("identical, but not the reproducible verdict, which was required")
    return status


def _repacked(values: list[str], release: Release) -> dict[str, Path]:
    """Archive id to file."""
    ids = [archive.id for archive in release.vendor]
    chosen: dict[str, Path] = {}
    for value in values:
        vendor, equals, file = value.partition("=")
        if not equals or vendor not in ids:
            if len(ids) != 1:
                raise InputError(
                    "the release has several vendor archives",
                    expected=" or ".join(f"{name}=FILE" for name in ids),
                    found=value,
                )
            vendor, file = ids[0], value
        if vendor in chosen:
            raise InputError(f"{vendor} is given twice", found=value)
        chosen[vendor] = Path(file)
    return chosen


def _write_reports(
    verified: verify.Verified, plain: dict[str, Any], report: dict[str, Any], folder: Path
) -> None:
    """Write the verdict in every form into `folder`, and each enclave's beside."""
    pictures = {
        name: compare.write_reports(verdict, folder / name, *files)
        for name, verdict, *files in verified.compared()
    }
    write_report(folder, report, manifest=verified.manifest)
    page = release_html(verified.verdict, pictures, report, arguments.today().isoformat())
    texts = {
        "release.txt": release_text(verified.verdict),
        "release.json": json.dumps(plain, indent=2) + "\n",
        "release.html": page,
    }
    write_files(folder, {name: text.encode() for name, text in texts.items()})
