# SPDX-License-Identifier: GPL-2.0-or-later
"""A hub in memory: sessions that record, tasks that run when their parent waits, uploads.

Only what the plugin may ask is answered; anything else is an error of the test.
Results go through Koji's own marshalling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import koji
import koji.xmlrpcplus

OWNER = 5


@dataclass
class HubTask:
    """A task as the hub has it."""

    id: int
    method: str
    arguments: list[Any]
    parent: Optional[int]
    label: Optional[str]
    arch: str
    state: str = "FREE"
    result: Any = None


@dataclass
class Hub:
    """See the top of this module.

    Attributes:
        top: its folder, of which tasks see a copy.
        work: where tasks work.
        handlers: method to handler class.
        builds: NVR to a build's mapping.
        rpms: build id to its packages.
        answers: method to what it returns, for calls that the tests settle themselves.
        stuck: labels of subtasks that never end.
    """

    top: Path
    work: Path
    handlers: dict[str, Any] = field(default_factory=dict)
    builds: dict[str, dict[str, Any]] = field(default_factory=dict)
    rpms: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    tasks: dict[int, HubTask] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def options(self) -> SimpleNamespace:
        """kojid's options, as far as the plugin looks at them."""
        return SimpleNamespace(
            workdir=str(self.work),
            topdir=str(self.top),
            topurl=None,
            mockdir=str(self.work),
            allowed_scms="allowed.example:*:no:",
            allowed_scms_use_config=True,
            allowed_scms_use_policy=False,
        )

    def make(self, method: str, arguments: Sequence[Any], **more: Any) -> int:
        """A new task; its id."""
        number = 100 + len(self.tasks)
        parent, label = more.get("parent"), more.get("label")
        self.tasks[number] = HubTask(
            number, method, list(arguments), parent, label, more.get("arch", "noarch")
        )
        return number

    def run(self, task_id: int) -> Any:
        """Run a task as kojid does; what it gives, or a mapping with its fault."""
        task = self.tasks[task_id]
        handler = self.handlers[task.method](
            task.id, task.method, task.arguments, Session(self), self.options()
        )
        task.state = "OPEN"
        try:
            response = koji.xmlrpcplus.dumps((handler.run(),), methodresponse=1, allow_none=1)
            (task.result,), _method = koji.xmlrpcplus.loads(response)
            task.state = "CLOSED"
        except koji.GenericError as error:
            task.result = {"faultCode": error.faultCode, "faultString": str(error)}
            task.state = "FAILED"
        return task.result

    def output(self, task_id: int) -> dict[str, bytes]:
        """Name to content of what a task has uploaded."""
        folder = f"{koji.pathinfo.taskrelpath(task_id)}/"
        return {
            name[len(folder) :]: data
            for name, data in self.files.items()
            if name.startswith(folder)
        }

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of that name."""
        return [arguments for method, arguments in self.calls if method == name]


class Session:
    """A builder's session with the hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.opts: Mapping[str, Any] = {"use_fast_upload": False}
        self.host = HostCalls(hub)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        hub = self._hub
        if name not in hub.answers:
            raise AssertionError(f"the plugin asked the hub for {name}")

        def call(*arguments: Any, **keywords: Any) -> Any:
            hub.calls.append((name, arguments))
            answer = hub.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments, **keywords) if callable(answer) else answer

        return call

    @contextmanager
    def multicall(self, strict: bool = False) -> Iterator[Any]:
        """Calls whose answers are there at the end."""
        assert strict
        yield Calls(self)

    def uploadWrapper(
        self,
        localfile: str,
        path: str,
        name: Optional[str] = None,
        callback: Any = None,
        blocksize: Any = None,
        overwrite: bool = True,
        volume: Optional[str] = None,
    ) -> None:
        place = f"{path}/{name or Path(localfile).name}"
        self._hub.files[place] = Path(localfile).read_bytes()
        there = self._hub.top / "work" / place
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(self._hub.files[place])

    def uploadFile(
        self, path: str, name: str, size: int, digest: Any, offset: int, data: str
    ) -> bool:
        """One piece of a file, as the older of Koji's two ways has it."""
        whole = self._hub.files.get(f"{path}/{name}", b"")
        self._hub.files[f"{path}/{name}"] = whole[:offset] + koji.base64.b64decode(data)
        return True

    def getTag(self, tag: Any, strict: bool = False) -> Any:
        if tag != "demo-build":
            raise koji.GenericError(f"No such tagInfo: {tag!r}")
        return {"id": 3, "name": "demo-build", "arches": "x86_64"}

    def getBuild(self, build: Any, strict: bool = False) -> Any:
        found = [b for b in self._hub.builds.values() if build in (b["id"], b["nvr"])]
        if not found:
            raise koji.GenericError(f"No such build: {build!r}")
        return found[0]

    def listRPMs(
        self, buildID: Optional[int] = None, componentBuildrootID: Optional[int] = None
    ) -> Any:
        if componentBuildrootID is not None:
            return self._hub.answers["components"](componentBuildrootID)
        return self._hub.rpms[buildID or 0]

    def getTaskInfo(self, task_id: int, request: bool = False, strict: bool = False) -> Any:
        if task_id in self._hub.tasks:
            task = self._hub.tasks[task_id]
            return {
                "id": task.id,
                "method": task.method,
                "owner": OWNER,
                "parent": task.parent,
                "state": koji.TASK_STATES[task.state],
            }
        return self._hub.answers["taskinfo"](task_id)

    def cancelTaskChildren(self, task_id: int) -> None:
        for task in self._hub.tasks.values():
            if task.parent == task_id and task.state in ("FREE", "OPEN"):
                task.state = "CANCELED"

    def listSgxVerifications(self, build: Any) -> Any:
        return [record for record in self._hub.records if record["build_id"] == build][::-1]


class Calls:
    """What a multicall collects."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args: SimpleNamespace(result=getattr(self._session, name)(*args))


class HostCalls:
    """Calls for builders only."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def subtask(self, method: str, arglist: Sequence[Any], parent: int, **more: Any) -> int:
        for task in self._hub.tasks.values():
            if task.parent == parent and more.get("label") and task.label == more["label"]:
                return task.id
        return self._hub.make(method, arglist, parent=parent, **more)

    def taskSetWait(self, parent: int, tasks: Any) -> None:
        self._hub.calls.append(("taskSetWait", (parent, tasks)))

    def taskWait(self, parent: int) -> Any:
        own = [task for task in self._hub.tasks.values() if task.parent == parent]
        for task in own:
            if task.state == "FREE" and task.label not in self._hub.stuck:
                self._hub.run(task.id)
        ended = [task.id for task in own if task.state in ("CLOSED", "FAILED", "CANCELED")]
        return ended, [task.id for task in own if task.id not in ended]

    def taskWaitResults(self, parent: int, tasks: Any, canfail: Any = None) -> Any:
        results = []
        for number in tasks:
            task = self._hub.tasks[number]
            result = task.result
            if task.state == "CANCELED":
                result = {"faultCode": 1000, "faultString": f"Task {number} is canceled"}
            results.append([number, result])
        return results

    def setBuildRootState(self, buildroot: int, state: str) -> None:
        self._hub.calls.append(("setBuildRootState", (buildroot, state)))

    def recordSgxVerification(self, task_id: int, record: Mapping[str, Any]) -> int:
        self._hub.records.append({**record, "id": 70 + len(self._hub.records)})
        return int(self._hub.records[-1]["id"])
