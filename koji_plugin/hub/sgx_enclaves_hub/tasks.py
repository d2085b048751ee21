# SPDX-License-Identifier: GPL-2.0-or-later
"""Verification tasks: started by the call `sgxEnclaves`, and where the configuration says so, when
a build with signed enclaves completes. They make no builds, so nothing here starts itself again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import koji
import koji.tasks
import kojihub
from koji.context import context
from koji.plugin import callback, export, ignore_error
from kojihub.db import Savepoint

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.arguments import PARENT, SIGNATURES, argument, options
from sgx_enclaves.gate.inspect import claims_signed_enclaves

from .config import settings
from .hub_api import koji_errors, lasting_name, logger
from .store import build_files, former_names, was_deleted

PERMISSION = "sgx-enclaves"
# Lets policies see parameters by their names.
koji.tasks.LEGACY_SIGNATURES.update(SIGNATURES)


@export
def sgxEnclaves(
    release: Optional[str],
    build_tag: Any = None,
    build: Any = None,
    opts: Optional[dict[str, Any]] = None,
    channel: Optional[str] = None,
) -> int:
    """Start the verification of a release's signed enclaves.

    Needs the permission sgx-enclaves.

    :param release: a release of the builders' catalogue, or the URL of a file that describes one;
                    None: find it from what the build provides
    :param build_tag: name or id of the tag whose repo makes the buildroots; None: the only one of
                      [tasks] build_tags, else the one that the build or task was built in
    :param build: NVR or id of the build with the signed enclaves, for which a record is kept;
                  None: verify the release only
    :param opts: 'unsigned_build': NVR or id of a build with the unsigned enclaves,
                 'enclaves': list of names, 'repo_id', 'timeout': seconds,
                 'allow_unpinned': true or false, 'split': true or false, 'task_id': of a build
                 task, such as a scratch build's, whose packages are verified; none is recorded
    :param channel: where to run; None: the plugin's configuration says, or Koji's policy
    :returns: the id of the task
    """
    context.session.assertPerm(PERMISSION)
    with koji_errors():
        release = argument(release, "release")
        found = None if build is None else complete_build(build, "build")
        named = lasting_name(found) if found else None
        opts = options(opts, "opts")
        if "task_id" in opts:
            _require_build_task(opts["task_id"], named)
        elif release is None and named is None:
            raise koji.ParameterError(
                "Name a release, a build, or both: there is nothing to verify"
            )
        if build_tag is None:
            build_tag = _default_tag(found["task_id"] if found else opts.get("task_id"))
        tag = kojihub.get_tag(argument(build_tag, "build_tag"), strict=True)
        if "repo_id" in opts:
            _require_repo(opts["repo_id"], tag)
        if "unsigned_build" in opts:
            unsigned = complete_build(opts["unsigned_build"], "unsigned_build")
            opts["unsigned_build"] = lasting_name(unsigned)
        return start(release, tag, named, opts, channel=argument(channel, "channel"))


def start(release: Optional[str], tag: Any, build: Any, opts: dict[str, Any], **how: Any) -> int:
    """Make the task, from arguments that were checked; `how` are options of Koji's."""
    if not (tag.get("arches") or "").split():
        raise koji.GenericError(
            f"tag {tag['name']} has no architectures, so it has no repo: name a build tag"
        )
    if distrust(tag) is None:
        opts["tag_allowed"] = True
    channel = how.pop("channel", None) or settings().tasks_channel
    if channel:
        how["channel"] = channel
    return int(kojihub.make_task(PARENT, [release, tag["name"], build, opts], **how))


def distrust(tag: Mapping[str, Any]) -> Optional[str]:
    """Why a build in that tag cannot be reproducible without a lock; None if it can."""
    pinned = settings().pins.get(tag["name"])
    if pinned is None:
        return "[tasks] build_tags does not name it"
    if pinned != tag["id"]:
        return f"it has id {tag['id']}, and [tasks] build_tags pins {pinned}"
    if former_names(tag["id"]) - {tag["name"]}:
        return "it had another name before"
    return "it was deleted and made again" if was_deleted(tag["id"]) else None


def _default_tag(task_id: Optional[int]) -> str:
    """The only trusted tag, else the build tag of a build task's target."""
    trusted = [*settings().pins]
    if len(trusted) == 1:
        return trusted[0]
    target = _target(task_id)
    found = kojihub.get_build_target(target) if target else None
    if found is None:
        raise koji.GenericError(
            "there is no build tag by default: [tasks] build_tags of the hub names "
            f"{len(trusted)}, and no target of this build is known; name one with --build-tag"
        )
    return str(found["build_tag_name"])


def _target(task_id: Optional[int]) -> Optional[str]:
    """The target of a build task."""
    return kojihub.policy_data_from_task(task_id).get("target") if task_id else None


def _require_build_task(task_id: int, build: Any) -> None:
    task = kojihub.Task(task_id)
    method = task.getInfo(strict=True)["method"]
    # raises for a task that has not ended well
    task.getResult()
    if build is not None or method != "build":
        raise koji.GenericError(
            f"task {task_id}, of method {method}, cannot be verified: name a build, or the task "
            "of a scratch build, and not both"
        )


def _require_repo(repo_id: int, tag: Mapping[str, Any]) -> None:
    """Refuse a repository that is not the tag's, or is gone."""
    repo = kojihub.repo_info(repo_id)
    found = "does not exist"
    if repo is not None:
        found = f"is of tag {repo['tag_name']} and {koji.REPO_STATES[repo['state']]}"
    usable = (koji.REPO_READY, koji.REPO_EXPIRED)
    if repo is None or repo["tag_id"] != tag["id"] or repo["state"] not in usable:
        hint = f"name a repo of tag {tag['name']} that is there"
        raise koji.GenericError(f"repo {repo_id} {found}: {hint}")


def complete_build(build: Any, name: str) -> dict[str, Any]:
    """A build that is complete."""
    found: dict[str, Any] = kojihub.get_build(argument(build, name), strict=True)
    if found["state"] != koji.BUILD_STATES["COMPLETE"]:
        state = koji.BUILD_STATES[found["state"]]
        raise koji.GenericError(f"{name} {found['nvr']} is not complete, it is {state}")
    return found


# A build must not fail because its verification cannot be started; the gate stays shut.
@callback("postImport")
@ignore_error
def verify_new_build(cbtype: str, *, type: str, **info: Any) -> None:
    """Make a verification task for a build that was just imported."""
    build = info.get("build")
    if type not in ("build", "cg") or not settings().hook_enabled or not build:
        return
    point = Savepoint("sgx_enclaves_hook")
    try:
        _verify(kojihub.get_build(build["id"], strict=True))
    except Exception:
        point.rollback()
        raise


def _verify(build: dict[str, Any]) -> None:
    if build["state"] != koji.BUILD_STATES["COMPLETE"]:
        return
    try:
        if not any(map(claims_signed_enclaves, build_files(build))):
            return
    except SgxEnclavesError as error:
        # The task will say so in full.
        logger.warning("%s: %s", build["nvr"], error)
    target = _target(build.get("task_id")) or ""
    tag = settings().hook_targets.get(target, settings().hook_build_tag)
    if not tag:
        logger.info("%s has enclaves; [hook] names no build tag for its target", build["nvr"])
        return
    found = kojihub.get_tag(tag, strict=True)
    task = start(None, found, lasting_name(build), {}, owner=build["owner_id"])
    logger.info("%s has enclaves: verification task %s", build["nvr"], task)
