# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and refusals, announced by the message-bus plugins that the hub has.

Koji's `protonmsg` and Fedora's `koji-fedoramessaging` collect the messages of a call, and send
them after it is committed. A record's message goes that way. A refusal undoes its call, and its
messages with it: so it waits in this process, and goes with the next call that is committed here.
"""

from __future__ import annotations

import collections
import logging
import sys
from collections.abc import Mapping
from typing import Any

from koji.context import context
from koji.plugin import callback, ignore_error

_PROTON, _FEDORA = "_koji_plugin__protonmsg", "_koji_plugin__koji-fedoramessaging"
# Where the latter collects them.
_COLLECTED = "fedmsg_plugin_messages"
_MOST_WAITING = 1000
_waiting: collections.deque[Mapping[str, Any]] = collections.deque(maxlen=_MOST_WAITING)
_logger = logging.getLogger("koji.plugin.sgx_enclaves")


def announce_record(about: Mapping[str, Any]) -> None:
    """A record was kept; docs/koji.md describes the message."""
    _queue("record", about)


def announce_refusal(about: Mapping[str, Any]) -> None:
    """A build was kept out of a tag, or a package out of a build."""
    _logger.warning("refused: %s", dict(about))
    _waiting.append(about)


@callback("preCommit")
@ignore_error
def queue_refusals(cbtype: str, **_: Any) -> None:
    """Hand on what has waited."""
    while _waiting:
        _queue("refusal", _waiting.popleft())


def _queue(kind: str, about: Mapping[str, Any]) -> None:
    topic, body = f"sgx-enclaves.{kind}", dict(about)
    if _PROTON in sys.modules:
        plain = {key: value for key, value in body.items() if isinstance(value, (str, int))}
        sys.modules[_PROTON].queue_msg(topic, {"type": f"SgxEnclaves{kind.title()}", **plain}, body)
    if _FEDORA in sys.modules:
        messages = [*getattr(context, _COLLECTED, ()), {"topic": topic, "msg": body}]
        setattr(context, _COLLECTED, messages)
