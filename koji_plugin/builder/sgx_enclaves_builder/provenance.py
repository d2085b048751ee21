# SPDX-License-Identifier: GPL-2.0-or-later
"""What this Koji knows of a build with unsigned enclaves, and of the packages of a buildroot."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import koji

from sgx_enclaves.catalogue.records import Enclave, Release
from sgx_enclaves.errors import SgxEnclavesError, UnsupportedError
from sgx_enclaves.gate.origin import BuildHistory, MadeIn
from sgx_enclaves.release.archive import read_contents
from sgx_enclaves.release.manifest import config_name, unsigned_name
from sgx_enclaves.release.place import LockedPackage
from sgx_enclaves.rpm.payload import PayloadFile, packed
from sgx_enclaves.rpm.references import PackageReference

from .task_base import SgxTask

_ARCHIVE = re.compile(r"\.(?:tar(?:\.[a-z0-9]+)?|tgz|txz|crate)\Z")


def take_unsigned(
    task: SgxTask, build: Any, enclave: Enclave, tree: Release, into: Path
) -> BuildHistory:
    """Put a build's unsigned enclave and config.xml, if any, into a directory; what is known of it.

    `tree` is the release whose sources it must be from.
    """
    session = task.session
    binfo = task.complete_build(build)
    package: Optional[MadeIn] = None
    problems = []
    for rpm, buildroot in task.rpms_of(binfo).items():
        path = task.build_file(rpm)
        try:
            reference = PackageReference(str(path))
            found = next(iter(reference.counterparts(enclave.signed_file)), None)
        except SgxEnclavesError as error:
            problems.append(str(error))
            continue
        if found is None or found.config is None:
            problems.append(f"{path.name} has no unsigned {enclave.name} with its config.xml")
            continue
        (into / unsigned_name(enclave.file)).write_bytes(found.data)
        (into / config_name(enclave.file)).write_bytes(found.config)
        package = _made_in(session, path.name, buildroot, binfo["task_id"])
        break
    sources: dict[str, list[str]] = {}
    for rpm in task.rpms_of(binfo, source=True):
        path = task.build_file(rpm)
        try:
            sources = source_files(str(path), tree, Path(task.workdir))
        except SgxEnclavesError as error:
            problems.append(str(error))
    task_id = binfo.get("task_id")
    return BuildHistory(
        nvr=binfo["nvr"],
        task_id=task_id,
        method=session.getTaskInfo(task_id)["method"] if task_id is not None else None,
        generator=binfo.get("cg_name"),
        source=binfo.get("source"),
        package=package,
        source_files=sources,
        problems=problems,
    )


def _made_in(session: Any, rpm: str, number: Optional[int], build_task: Optional[int]) -> MadeIn:
    if number is None:
        return MadeIn(rpm, None, None, False, ())
    buildroot = session.getBuildroot(number, strict=True)
    task_id = buildroot.get("task_id")
    task = (session.getTaskInfo(task_id) if task_id is not None else None) or {}
    standard = buildroot.get("br_type") == koji.BR_TYPES["STANDARD"]
    of_build = build_task is not None and task.get("parent") == build_task
    components = tuple(map(_package, session.listRPMs(componentBuildrootID=number)))
    return MadeIn(rpm, number, task.get("method") if standard else None, of_build, components)


def _package(rpm: Mapping[str, Any]) -> LockedPackage:
    """A package in the words of a lock; what Koji does not know is empty."""
    words = {name: rpm[name] for name in ("name", "arch", "version", "release")}
    words["epoch"] = None if rpm["epoch"] is None else str(rpm["epoch"])
    return LockedPackage(**words, sigmd5=rpm["payloadhash"], signature=None, license="", url="")


def component_urls(session: Any, buildroot: int, topurl: Optional[str]) -> dict[str, str]:
    """NEVRA to URL of a buildroot's packages, but external ones, whose place the hub knows not."""
    if not topurl:
        return {}
    paths = koji.PathInfo(topdir=topurl)
    rpms = [r for r in session.listRPMs(componentBuildrootID=buildroot) if r["build_id"]]
    with session.multicall(strict=True) as calls:
        builds = {number: calls.getBuild(number) for number in {rpm["build_id"] for rpm in rpms}}
    folders = {number: paths.build(build.result) for number, build in builds.items()}
    return {_package(r).nevra: f"{folders[r['build_id']]}/{paths.rpm(r)}" for r in rpms}


def source_files(path: str, tree: Release, scratch: Path) -> dict[str, list[str]]:
    """The files of a source package by name, each with the pins of a release that it fits."""
    by_contents = any(source.pinned and source.sha256 is None for source in tree.sources())
    found = {}
    with packed(path) as (package, members):
        if package.files and package.file_algorithm != "sha256":
            message = "the source package pins its files by another digest than SHA-256"
            raise UnsupportedError(message, file=path, found=package.file_algorithm)
        for member in members:
            file = member.file
            names = [path.rpartition("/")[2] for path in (file.path, *member.links)]
            pins = [f"sha256 {file.digest}"]
            if by_contents and any(map(_ARCHIVE.search, names)):
                pins.append(f"contents_sha256 {_contents_of(member, scratch)}")
            found.update(dict.fromkeys(names, pins))
    return found


def _contents_of(member: PayloadFile, scratch: Path) -> Optional[str]:
    """Digest of what an archive holds; None if it is no archive of sources."""
    with tempfile.NamedTemporaryFile(dir=scratch, prefix="archive-") as out:
        out.writelines(member.chunks)
        out.flush()
        with contextlib.suppress(SgxEnclavesError):
            return read_contents(Path(out.name)).sha256
    return None
