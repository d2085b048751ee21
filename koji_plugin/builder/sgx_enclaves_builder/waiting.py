# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for subtasks, with a deadline that holds.

Koji's own `wait` begins its timeout anew whenever a subtask ends. kojid wakes us
by SIGUSR2, and again until we have asked the hub; we ask now and then without it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Any

_AT_LEAST_EVERY = 60.0


def wait_for(task: Any, subtasks: Sequence[int], seconds: float) -> dict[int, Any]:
    """Wait until all subtasks have ended, or cancel those that have not in time.

    Args:
        task: the task handler.
        subtasks: their ids.
        seconds: how long.

    Returns:
        The result of each; a mapping with `faultString` of one that failed or was cancelled.
    """
    host, ids = task.session.host, list(subtasks)
    deadline = time.monotonic() + seconds
    late: list[int] = []
    host.taskSetWait(task.id, ids)
    while True:
        _finished, unfinished = host.taskWait(task.id)
        left = deadline - time.monotonic()
        if not unfinished:
            break
        if left <= 0:
            late = list(unfinished)
            task.session.cancelTaskChildren(task.id)
            break
        signal.sigtimedwait([signal.SIGUSR2], min(left, _AT_LEAST_EVERY))
    results = dict(host.taskWaitResults(task.id, ids, canfail=ids))
    for task_id in late:
        words = f"not done within {seconds:g} s, and cancelled"
        results[task_id] = {"faultCode": 1, "faultString": words}
    return results
