# SPDX-License-Identifier: GPL-2.0-or-later
"""RPC `sgxEnclaves`: checks what it is asked for and makes the task.

When a build with signed enclaves completes, start its verification.

Off unless the configuration says otherwise. Verification tasks make no builds,
so nothing here starts itself again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Optional

import koji
import koji.tasks
from koji.plugin import callback, export, ignore_error

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.inspect import claims_signed_enclaves

from . import hubside
from .compat import lasting_name
from .config import settings
from .store import build_files
from .words import name_or_id, number, optional_text, text, truth

PERMISSION = "sgx-enclaves"
PARENT = "sgxEnclaves"
CHILD = "sgxEnclave"
# Lets policies see parameters by their names; the builder has the same table.
SIGNATURES = {
    PARENT: [[["release", "build_tag", "build", "opts"], None, None, (None, None)]],
    CHILD: [[["release", "enclave", "build_tag", "build", "opts"], None, None, (None, None)]],
}
koji.tasks.LEGACY_SIGNATURES.update(SIGNATURES)

_MAX_ENCLAVES = 64
_MAX_TIMEOUT = 7 * 24 * 3600
_MAX_ID = (1 << 31) - 1
_PRIORITIES = 20


@export
def sgxEnclaves(
    release: Optional[str],
    build_tag: Any,
    build: Any = None,
    opts: Optional[dict[str, Any]] = None,
    priority: Optional[int] = None,
    channel: Optional[str] = None,
) -> int:
    """Start the verification of a release's signed enclaves.

    Needs the permission sgx-enclaves.

    :param release: a release of the builders' catalogue, or the URL of a file that
                    describes one; None: find it from what the build provides
    :param build_tag: name or id of the tag whose repo makes the buildroots
    :param build: NVR or id of the build with the signed enclaves, for which a
                  record is kept; None: verify the release only
    :param opts: 'unsigned_build': NVR or id of a build with the unsigned enclaves,
                 'enclaves': list of names, 'repo_id', 'timeout': seconds,
                 'allow_unpinned': true or false
    :param priority: above 0 is later, below 0 (admins only) is sooner
    :param channel: where to run; None: the plugin's configuration says, or Koji's policy
    :returns: the id of the task
    """
    hubside.require_permission(PERMISSION)
    release = optional_text(release, "release")
    tag = hubside.get_tag(name_or_id(build_tag, "build_tag"))
    named = None if build is None else lasting_name(complete_build(build, "build"))
    if release is None and named is None:
        raise koji.ParameterError("Name a release, a build, or both: there is nothing to verify")
    options: dict[str, Any] = {}
    if priority is not None:
        step = number(priority, "priority", -_PRIORITIES, _PRIORITIES)
        if step < 0 and not hubside.is_admin():
            raise koji.ActionNotAllowed("only admins may create high-priority tasks")
        options["priority"] = koji.PRIO_DEFAULT + step
    return start(
        release, tag, named, checked_options(opts), optional_text(channel, "channel"), **options
    )


def start(
    release: Optional[str],
    tag: dict[str, Any],
    build: Any,
    opts: dict[str, Any],
    channel: Optional[str] = None,
    **options: Any,
) -> int:
    """Make the task, from arguments that were checked."""
    if not (tag.get("arches") or "").split():
        raise koji.GenericError(
            f"tag {tag['name']} has no architectures, so it has no repo: name a build tag"
        )
    channel = channel or settings().channel
    if channel:
        options["channel"] = channel
    return hubside.make_task(PARENT, [release, tag["name"], build, opts], **options)


def complete_build(build: Any, name: str) -> dict[str, Any]:
    """A build that is complete.

    Raises:
        koji.GenericError: there is none, or it is not.
    """
    found = hubside.get_build(name_or_id(build, name))
    if found["state"] != koji.BUILD_STATES["COMPLETE"]:
        state = koji.BUILD_STATES[found["state"]]
        raise koji.GenericError(f"{name} {found['nvr']} is not complete, it is {state}")
    return found


def checked_options(opts: Any) -> dict[str, Any]:
    """The task's options, each checked; those that are None are left out.

    Raises:
        koji.ParameterError: one is unknown or malformed.
    """
    if opts is None:
        return {}
    if not isinstance(opts, dict):
        raise koji.ParameterError(f"Invalid value for opts: expected a mapping, found {type(opts)}")
    unknown = sorted(repr(key)[:40] for key in set(opts) - set(_CHECKS))
    if unknown:
        raise koji.ParameterError(
            f"Unknown opts: {', '.join(unknown[:8])}; known are {', '.join(sorted(_CHECKS))}"
        )
    return {key: _CHECKS[key](value) for key, value in opts.items() if value is not None}


def _enclaves(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= _MAX_ENCLAVES:
        raise koji.ParameterError(
            f"Invalid value for enclaves: expected a list of 1 to {_MAX_ENCLAVES} names"
        )
    return [text(name, "enclaves") for name in value]


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "unsigned_build": lambda v: lasting_name(complete_build(v, "unsigned_build")),
    "enclaves": _enclaves,
    "repo_id": lambda v: number(v, "repo_id", 1, _MAX_ID),
    "timeout": lambda v: number(v, "timeout", 1, _MAX_TIMEOUT),
    "allow_unpinned": lambda v: truth(v, "allow_unpinned"),
}


_logger = logging.getLogger("koji.plugin.sgx_enclaves")


# A build must not fail because its verification cannot be started; the gate stays shut.
@callback("postImport")
@ignore_error
def verify_new_build(cbtype: str, *, type: str, **info: Any) -> None:
    """Make a verification task for a build that was just imported."""
    build = info.get("build")
    if type not in ("build", "cg") or not settings().hook or not build:
        return
    point = hubside.savepoint("sgx_enclaves_hook")
    try:
        _verify(hubside.get_build(build["id"]))
    except Exception:
        point.rollback()
        raise


def _verify(build: dict[str, Any]) -> None:
    if build["state"] != koji.BUILD_STATES["COMPLETE"] or not _has_signed_enclaves(build):
        return
    tag = build_tag_for(build)
    if tag is None:
        _logger.info("%s has enclaves; [hook] names no build tag for its target", build["nvr"])
    elif is_being_verified(build):
        _logger.info("%s is being verified already", build["nvr"])
    else:
        task = start(None, hubside.get_tag(tag), lasting_name(build), {}, owner=build["owner_id"])
        _logger.info("%s has enclaves: verification task %s", build["nvr"], task)


def _has_signed_enclaves(build: Mapping[str, Any]) -> bool:
    for file in build_files(build):
        try:
            if claims_signed_enclaves(file.path):
                return True
        except SgxEnclavesError as error:
            # The task will say so in full.
            _logger.warning("%s: %s", build["nvr"], error)
            return True
    return False


def build_tag_for(build: Mapping[str, Any]) -> Optional[str]:
    """The tag whose repo makes the buildroots of a build's verification; None for none."""
    target = None
    if build.get("task_id"):
        target = hubside.target_of_task(build["task_id"])
    if target is not None and target in settings().targets:
        return settings().targets[target]
    return settings().build_tag or None


def is_being_verified(build: Mapping[str, Any]) -> bool:
    """Whether an unfinished task verifies this build."""
    for task_id in hubside.unfinished_tasks(PARENT):
        _method, request = hubside.task_request(task_id)
        if request.get("build") in (build["id"], build["nvr"]):
            return True
    return False
