# SPDX-License-Identifier: GPL-2.0-or-later
"""What packagers do: make an SRPM, build it, wait for tasks, tag."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import koji

from tests.koji.harness import world
from tests.koji.harness.daemon import PATIENCE, DaemonError

_FINAL = frozenset(koji.TASK_STATES[name] for name in ("CLOSED", "CANCELED", "FAILED"))
_POLL = 0.5


@dataclass(frozen=True)
class Ended:
    """A task that ended.

    Attributes:
        id: the task's.
        state: CLOSED, CANCELED or FAILED.
        result: what it returned; None unless it closed.
        error: what it raised, in words; empty if it closed.
    """

    id: int
    state: str
    result: Any
    error: str


def wait(session: Any, task: int) -> Ended:
    """Wait for a task's end, which need not be a good one.

    Raises:
        DaemonError: it has not ended within `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        info = session.getTaskInfo(task, strict=True)
        if info["state"] in _FINAL:
            break
        if time.monotonic() > deadline:
            state = koji.TASK_STATES[info["state"]]
            raise DaemonError(f"task {task} ({info['method']}) is {state} after {PATIENCE:g} s")
        time.sleep(_POLL)
    state = str(koji.TASK_STATES[info["state"]])
    try:
        return Ended(task, state, session.getTaskResult(task), "")
    except Exception as error:  # a fault may be of any class that a task raised
        return Ended(task, state, None, str(error))


def wait_state(session: Any, task: int, state: str) -> None:
    """Wait until a task is in that state, such as OPEN.

    Raises:
        DaemonError: it has not been within `PATIENCE`, or has ended otherwise.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        now = koji.TASK_STATES[session.getTaskInfo(task, strict=True)["state"]]
        if now == state:
            return
        if time.monotonic() > deadline or koji.TASK_STATES[now] in _FINAL:
            raise DaemonError(f"task {task} is {now}, not {state}")
        time.sleep(0.1)


def make_srpm(folder: Path, spec: str, files: Mapping[str, bytes]) -> Path:
    """Make a source package.

    Args:
        folder: an empty folder to work in.
        spec: the spec file's text.
        files: its sources, name to content.
    """
    for name, content in files.items():
        (folder / name).write_bytes(content)
    path = folder / "package.spec"
    path.write_text(spec, encoding="utf-8")
    argv = ["rpmbuild", "-bs", "--nodeps", "--define", f"_sourcedir {folder}"]
    argv += ["--define", f"_srcrpmdir {folder}", "--define", f"_topdir {folder}", str(path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE)
    (made,) = folder.glob("*.src.rpm")
    return made


def make_packages(folder: Path, spec: str) -> list[Path]:
    """Make a source package and its binary packages on this machine, the source package first."""
    path = folder / "package.spec"
    path.write_text(spec, encoding="utf-8")
    argv = ["rpmbuild", "-ba", "--nodeps", "--define", f"_topdir {folder}", str(path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE)
    return [*folder.glob("SRPMS/*.rpm"), *folder.glob("RPMS/*/*.rpm")]


def with_release(srpm: Path, folder: Path, release: int) -> Path:
    """The same source package with another Release, made in an empty folder."""
    with subprocess.Popen(["rpm2cpio", str(srpm)], stdout=subprocess.PIPE) as payload:
        argv = ["cpio", "--extract", "--quiet"]
        subprocess.run(argv, stdin=payload.stdout, cwd=folder, check=True, timeout=PATIENCE)
    (spec,) = folder.glob("*.spec")
    lines = spec.read_text(encoding="utf-8").splitlines()
    text = "\n".join(f"Release: {release}" if x.startswith("Release:") else x for x in lines)
    spec.unlink()
    return make_srpm(folder, text + "\n", {})


def import_build(session: Any, packages: Sequence[Path]) -> str:
    """Import packages as `koji import` does; the NVR of their build.

    Args:
        session: of an administrator.
        packages: a source package, then the binary packages made from it.
    """
    folder = f"import/{time.time_ns()}"
    for path in packages:
        session.uploadWrapper(str(path), folder)
        session.importRPM(folder, path.name)
    name = packages[0].name
    nvr: str = session.getBuild(name[: -len(".src.rpm")], strict=True)["nvr"]
    return nvr


def import_binary(session: Any, package: Path) -> str:
    """Import a binary package whose source package is elsewhere; the NVR of its build."""
    query = ["rpm", "-qp", "--nosignature", "--qf", "%{SOURCERPM}", str(package)]
    source = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    name, version, release = source[: -len(".src.rpm")].rsplit("-", 2)
    build = {"name": name, "version": version, "release": release, "epoch": None}
    session.createEmptyBuild(name, version, release, None)
    folder = f"import/{time.time_ns()}"
    session.uploadWrapper(str(package), folder)
    session.importRPM(folder, package.name)
    nvr: str = session.getBuild(build, strict=True)["nvr"]
    return nvr


def start_build(session: Any, srpm: Path, target: str = world.TARGET, **opts: Any) -> int:
    """Upload a source package and have it built; the task's id. `opts` as for `koji build`."""
    folder = f"cli-build/{time.time_ns()}"
    session.uploadWrapper(str(srpm), folder)
    task: int = session.build(f"{folder}/{srpm.name}", target, opts)
    return task


def build(session: Any, srpm: Path, target: str = world.TARGET, **opts: Any) -> dict[str, Any]:
    """Build a source package and wait for it; the build as `getBuild` has it.

    Raises:
        DaemonError: the build failed.
    """
    ended = wait(session, start_build(session, srpm, target, **opts))
    if ended.state != "CLOSED":
        raise DaemonError(f"building {srpm.name}: {ended.state}: {ended.error}")
    (info,) = session.listBuilds(taskID=ended.id)
    made: dict[str, Any] = session.getBuild(info["build_id"], strict=True)
    return made


def tag(session: Any, tag_name: str, nvr: str, *, force: bool = False) -> Ended:
    """Ask for a build to be tagged, as `koji tag-build` does, and wait.

    Raises:
        koji.GenericError: the hub refused at once.
    """
    return wait(session, session.tagBuild(tag_name, nvr, force))


def tagged(session: Any, tag_name: str, nvr: str) -> bool:
    """Whether a build is in a tag, itself."""
    return any(build["nvr"] == nvr for build in session.listTagged(tag_name))
