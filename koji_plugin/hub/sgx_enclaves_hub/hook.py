# SPDX-License-Identifier: GPL-2.0-or-later
"""When a build with signed enclaves completes, start its verification.

Off unless the configuration says otherwise. Verification tasks make no builds,
so nothing here starts itself again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Optional

import koji
from koji.plugin import callback, ignore_error

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.gate.inspect import claims_signed_enclaves

from . import hubside
from .buildfiles import build_files
from .compat import lasting_name
from .config import settings
from .tasks import PARENT, start

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
