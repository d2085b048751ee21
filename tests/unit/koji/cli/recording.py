# SPDX-License-Identifier: GPL-2.0-or-later
"""A session that answers from a table and notes what it was asked; all else is Koji's own code."""

from __future__ import annotations

import optparse
from collections.abc import Mapping
from typing import Any

import koji

BUILD = {"id": 7, "nvr": "x-1-1", "task_id": 40}
TASK = 41
MRENCLAVE = "ab" * 32


def result(verdict: str = "identical", **more: Any) -> dict[str, Any]:
    """What a verification task gives."""
    cause = None if verdict == "identical" else "byte 0x1000 of .text is 0x90, built was 0xc3"
    enclave = {"name": "pce", "verdict": verdict, "mrenclave": MRENCLAVE, "cause": cause}
    return {
        "verdict": verdict,
        "reproducible": True,
        "release": "demo-1",
        "build": "x-1-1",
        "record": 3,
        "claim": "x-1-1 against release demo-1: what was found",
        "enclaves": [enclave],
        "report": "sgx-enclaves-report.json",
        "log": "sgx-enclaves.log",
        **more,
    }


def task(method: str, state: str, request: Any = ()) -> dict[str, Any]:
    """A task as `getTaskInfo` has it."""
    return {
        "id": TASK,
        "method": method,
        "state": koji.TASK_STATES[state],
        "request": list(request),
        "host_id": None,
        "arch": "noarch",
        "label": None,
    }


class RecordingSession:
    """A session for Koji's client code.

    Args:
        answers: method to what it returns, or an exception that it raises.
    """

    def __init__(self, answers: Mapping[str, Any], *, logged_in: bool = True) -> None:
        self.logged_in = logged_in
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._answers = {"getAPIVersion": koji.API_VERSION, "getTaskChildren": [], **answers}

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self._answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer(*args) if callable(answer) else answer

        if name not in self._answers:
            raise koji.GenericError(f"Invalid method: {name}")
        return call

    def asked(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The arguments of each call of a method."""
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


def options(**more: Any) -> optparse.Values:
    """Koji's global options."""
    usual = {
        "quiet": False,
        "poll_interval": 0,
        "topurl": "https://koji.example/files",
        "weburl": "https://koji.example/koji",
        "authtype": "noauth",
        "force_auth": False,
        "cert": "",
    }
    return optparse.Values({**usual, **more})
