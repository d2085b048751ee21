# SPDX-License-Identifier: GPL-2.0-or-later
"""Unsigned enclaves out of a build that this Koji has made, and what it knows of that build.

Where the packages of a buildroot can be had, for its lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import koji

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.origin import BuildHistory, Component, MadeIn, SourceFile, source_files
from sgx_enclaves.release.catalogue import Enclave, Release
from sgx_enclaves.release.manifest import config_name, unsigned_name
from sgx_enclaves.rpm.references import Counterpart, PackageReference


@dataclass(frozen=True)
class Taken:
    """What was taken from a build.

    Attributes:
        history: of that build.
        problems: packages that could not be used, and why; in words.
    """

    history: BuildHistory
    problems: tuple[str, ...]


def take_unsigned(task: Any, build: Any, enclave: Enclave, tree: Release, into: Path) -> Taken:
    """Put a build's unsigned enclave and its config.xml into a folder.

    Args:
        task: the task handler.
        build: NVR or id.
        enclave: which.
        tree: the release whose sources it must be built from.
        into: a folder; it stays empty if the build has no such enclave.

    Raises:
        koji.GenericError: there is no such build, or it is not complete.
    """
    session = task.session
    binfo = session.getBuild(build, strict=True)
    if binfo["state"] != koji.BUILD_STATES["COMPLETE"]:
        raise koji.GenericError(f"{binfo['nvr']} is not complete, so nothing is taken from it")
    packages, problems = [], []
    for rpm in task.binary_rpms(binfo):
        path = task.build_file(rpm["relative"], "")
        try:
            found = _counterpart(path, enclave)
        except SgxEnclavesError as error:
            problems.append(str(error))
            continue
        if found is None or found.config is None:
            problems.append(f"{rpm['name']} has no unsigned {enclave.name} with its config.xml")
            continue
        (into / unsigned_name(enclave.file)).write_bytes(found.data)
        (into / config_name(enclave.file)).write_bytes(found.config)
        packages.append(_made_in(session, rpm, binfo))
        break
    sources: dict[str, SourceFile] = {}
    for rpm in task.rpms_of(binfo):
        if rpm["arch"] == "src":
            path = task.build_file(rpm["relative"], "")
            try:
                sources = source_files(str(path), [tree], Path(task.workdir))
            except SgxEnclavesError as error:
                problems.append(str(error))
    task_id = binfo.get("task_id")
    history = BuildHistory(
        nvr=binfo["nvr"],
        task_id=task_id,
        method=session.getTaskInfo(task_id)["method"] if task_id is not None else None,
        generator=binfo.get("cg_name"),
        source=binfo.get("source"),
        packages=tuple(packages),
        source_files=sources,
    )
    return Taken(history, tuple(problems))


def _counterpart(path: Path, enclave: Enclave) -> Optional[Counterpart]:
    reference = PackageReference(str(path))
    return next(iter(reference.counterparts(enclave.signed_file)), None)


def _made_in(session: Any, rpm: dict[str, Any], binfo: dict[str, Any]) -> MadeIn:
    buildroot_id = rpm["buildroot_id"]
    if buildroot_id is None:
        return MadeIn(rpm["name"], None, None, False, ())
    buildroot = session.getBuildroot(buildroot_id, strict=True)
    task_id = buildroot.get("task_id")
    task = session.getTaskInfo(task_id) if task_id is not None else None
    standard = buildroot.get("br_type") == koji.BR_TYPES["STANDARD"]
    return MadeIn(
        rpm["name"],
        buildroot_id,
        task["method"] if task is not None and standard else None,
        task is not None and task["parent"] is not None and task["parent"] == binfo["task_id"],
        tuple(_components(session, buildroot_id)),
    )


def _components(session: Any, buildroot_id: int) -> Iterator[Component]:
    for item in session.listRPMs(componentBuildrootID=buildroot_id):
        epoch = item["epoch"]
        yield Component(
            item["name"],
            item["version"],
            item["release"],
            item["arch"],
            None if epoch is None else str(epoch),
            item["payloadhash"],
        )


def component_urls(session: Any, buildroot: int, topurl: Optional[str]) -> dict[str, str]:
    """NEVRA to URL of the packages of a buildroot that this Koji has itself.

    Those of external repositories are left out: the hub does not know their place.

    Args:
        session: with the hub.
        buildroot: its id.
        topurl: where the hub's files are served; None for nowhere.
    """
    if not topurl:
        return {}
    paths = koji.PathInfo(topdir=topurl)
    rpms = [r for r in session.listRPMs(componentBuildrootID=buildroot) if r["build_id"]]
    builds = {number: session.getBuild(number) for number in {rpm["build_id"] for rpm in rpms}}
    urls = {}
    for rpm in rpms:
        epoch = f"{rpm['epoch']}:" if rpm["epoch"] else ""
        nevra = f"{rpm['name']}-{epoch}{rpm['version']}-{rpm['release']}.{rpm['arch']}"
        urls[nevra] = f"{paths.build(builds[rpm['build_id']])}/{paths.rpm(rpm)}"
    return urls
