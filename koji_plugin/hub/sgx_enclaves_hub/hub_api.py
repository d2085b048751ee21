# SPDX-License-Identifier: GPL-2.0-or-later
"""What we ask of Koji's hub: the caller, its task, the clock and messages.

Koji releases differ, and nowhere else is a version asked for:

- 1.33: no draft builds; a build's mapping has no `draft`.
- 1.34: draft builds, whose NVR and folder change when they are promoted.
- Until 1.34, a task that the hub makes belongs to whoever calls, whatever owner is asked
  for: the hook's tasks are the builder's user's. From 1.35 they are the build's owner's.

Koji's `protonmsg` and Fedora's `koji-fedoramessaging` send the messages of a call after it is
committed. A refusal undoes its call, and its messages with it: so it waits in this process, and
goes with the next call that is committed here.
"""

from __future__ import annotations

import collections
import datetime
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import koji
import koji.tasks
from koji.context import context
from koji.plugin import callback, ignore_error
from kojihub import Task

from sgx_enclaves.errors import ArgumentError, SgxEnclavesError

from .config import settings

OLDEST = (1, 33)
# PostgreSQL's code for it.
_UNDEFINED_TABLE = "42P01"
_PROTON, _FEDORA = "_koji_plugin__protonmsg", "_koji_plugin__koji-fedoramessaging"
# Where the latter collects them.
_COLLECTED = "fedmsg_plugin_messages"
_MOST_WAITING = 1000
_waiting: collections.deque[Mapping[str, Any]] = collections.deque(maxlen=_MOST_WAITING)
logger = logging.getLogger("koji.plugin.sgx_enclaves")


@contextmanager
def koji_errors(kind: type[koji.GenericError] = koji.GenericError) -> Iterator[None]:
    """Let the core's errors out as Koji's, with the same words."""
    try:
        yield
    except ArgumentError as error:
        raise koji.ParameterError(str(error)) from error
    except SgxEnclavesError as error:
        raise kind(str(error)) from error
    except Exception as error:
        if getattr(error, "pgcode", None) != _UNDEFINED_TABLE:
            raise
        raise kind(
            f"the hub's database has no table of sgx_enclaves_hub: {str(error).splitlines()[0]}; "
            "load 0001-sgx-verification.sql of the plugin into it"
        ) from error


def load() -> None:
    """Check Koji's version and the configuration while the hub starts."""
    version = getattr(koji, "__version__", "0")
    if tuple(int(n) for n in version.split(".")[:2] if n.isdigit()) < OLDEST:
        raise koji.PluginError(
            f"sgx_enclaves_hub needs Koji {'.'.join(map(str, OLDEST))} or newer, "
            f"this is {version}: update Koji, or take sgx_enclaves_hub out of Plugins in hub.conf"
        )
    with koji_errors(koji.PluginError):
        settings()


def lasting_name(build: Mapping[str, Any]) -> Any:
    """What a task calls a build: its NVR, or its id where the NVR may change meanwhile."""
    return build["id"] if build.get("draft") else build["nvr"]


def now() -> datetime.datetime:
    """The hub's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def task_request(task_id: int) -> tuple[str, dict[str, Any]]:
    """Method and named parameters of a task."""
    info = Task(task_id).getInfo(strict=True, request=True)
    return info["method"], koji.tasks.parse_task_params(info["method"], info["request"])


def announce_refusal(**about: Any) -> None:
    """A build was kept out of a tag, or a package out of a build."""
    logger.warning("refused: %s", about)
    _waiting.append(about)


@callback("preCommit")
@ignore_error
def queue_refusals(cbtype: str, **_: Any) -> None:
    """Hand on what has waited."""
    while _waiting:
        announce("refusal", _waiting.popleft())


def announce(kind: str, about: Mapping[str, Any]) -> None:
    """Hand a message on: "record" or "refusal"; docs/koji.md describes them."""
    topic, body = f"sgx-enclaves.{kind}", dict(about)
    if _PROTON in sys.modules:
        plain = {key: value for key, value in body.items() if isinstance(value, (str, int))}
        sys.modules[_PROTON].queue_msg(topic, {"type": f"SgxEnclaves{kind.title()}", **plain}, body)
    if _FEDORA in sys.modules:
        messages = [*getattr(context, _COLLECTED, ()), {"topic": topic, "msg": body}]
        setattr(context, _COLLECTED, messages)
