# SPDX-License-Identifier: GPL-2.0-or-later
"""A hub in memory, behind the plugin's one seam (`hubside.py`), that notes what it is asked to do.

Builds have real package files in a folder of the test. It knows no SQL: queries that
the plugin makes for a build's or a task's newest record are answered from what was
put in; of others it only keeps the parts. The real database is `tests/koji`'s matter.
"""

from __future__ import annotations

import datetime
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import koji

from sgx_enclaves.gate.inspect import rpm_digests
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.support import records
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm

SIGNED = signed_enclave().signed
PATH = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.2.3.4"
ENCLAVE_FILES = (RpmFile(PATH, SIGNED),)
PLAIN_FILES = (RpmFile("/usr/bin/true", b"x"),)
PROVIDES = ("sgx-enclave(pce:signed)",)
HOST, TASK = 3, 100
NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.timezone.utc)
COMPLETE = koji.BUILD_STATES["COMPLETE"]


class Point:
    """A savepoint that notes whether it was rolled back."""

    def __init__(self) -> None:
        self.rolled_back = False

    def rollback(self) -> None:
        self.rolled_back = True


@dataclass
class FakeHub:
    """What `hubside` offers, with the same names and arguments.

    Attributes:
        folder: where packages lie.
        logged_in, admin, permissions: of the caller.
        host: its host id; None for a user.
        requests: task id to method and parameters.
        owners: task id to the host that runs it.
        made: tasks that were made: method, arguments, options.
        rows: table to its rows.
        queries: the keyword arguments of other queries.
        answers: table to what such a query gives.
    """

    folder: Path
    logged_in: bool = True
    admin: bool = False
    permissions: set[str] = field(default_factory=set)
    host: Optional[int] = None
    builds: dict[int, dict[str, Any]] = field(default_factory=dict)
    tags: dict[int, dict[str, Any]] = field(default_factory=dict)
    packages: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    requests: dict[int, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    unfinished: list[int] = field(default_factory=list)
    targets: dict[int, Optional[str]] = field(default_factory=dict)
    made: list[tuple[str, list[Any], dict[str, Any]]] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    queries: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    # --- what tests prepare

    def add_build(self, number: int = 7, name: str = "x", **changes: Any) -> dict[str, Any]:
        """A complete build without packages."""
        build = {
            "id": number,
            "name": name,
            "version": "1.0",
            "release": "1",
            "nvr": f"{name}-1.0-1",
            "state": COMPLETE,
            "volume_name": "DEFAULT",
            "draft": False,
            "owner_id": 55,
            "task_id": 90,
            **changes,
        }
        self.builds[number] = build
        self.packages[number] = []
        return build

    def add_package(
        self,
        build: Mapping[str, Any],
        files: Sequence[RpmFile] = ENCLAVE_FILES,
        provides: Sequence[str] = PROVIDES,
        name: Optional[str] = None,
    ) -> Path:
        """A binary package of a build; its path."""
        name = name or build["name"]
        rpm = {"name": name, "version": "1.0", "release": "1", "arch": "x86_64"}
        self.packages[build["id"]].append(rpm)
        path = Path(self.build_folder(build)) / self.package_path(rpm)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_rpm(files, name=name, provides=provides))
        return path

    def add_tag(self, number: int = 4, name: str = "gated", **changes: Any) -> dict[str, Any]:
        """A tag that has a repo."""
        tag = {"id": number, "name": name, "arches": "x86_64", "extra": {}, **changes}
        self.tags[number] = tag
        return tag

    def open_task(
        self, build: Any, release: Optional[str] = None, method: str = "sgxEnclaves"
    ) -> int:
        """A verification task that the calling host runs."""
        request = {"release": release, "build_tag": "b", "build": build, "opts": {}}
        self.requests[TASK] = (method, request)
        self.owners[TASK] = HOST
        self.host = HOST
        return TASK

    def record(self, build: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """A record, as a builder sends it, that is true of a build with one enclave a package."""
        rpms, enclaves = [], []
        for rpm in self.packages[build["id"]]:
            path = os.path.join(self.build_folder(build), self.package_path(rpm))
            digests = rpm_digests(path)
            name = os.path.basename(path)
            rpms.append(
                records.package(name=name, file_sha256=digests.file, content_sha256=digests.content)
            )
            enclaves.append(
                records.enclave(rpm=name, path=PATH, signed_sha256=records.sha256(SIGNED))
            )
        made = records.record(
            nvr=build["nvr"], build_id=build["id"], task_id=TASK, rpms=rpms, enclaves=enclaves
        )
        del made["verified_at"]
        return {**made, **changes}

    # --- the seam

    def now(self) -> datetime.datetime:
        return NOW

    def require_login(self) -> None:
        if not self.logged_in:
            raise koji.AuthError("you must be logged in for this operation")

    def require_permission(self, name: str) -> None:
        if not self.admin and name not in self.permissions:
            raise koji.ActionNotAllowed(f"{name} permission required")

    def is_admin(self) -> bool:
        return self.admin

    def get_build(self, build: Any) -> dict[str, Any]:
        for found in self.builds.values():
            if build in (found["id"], found["nvr"]):
                return dict(found)
        raise koji.GenericError(f"No such build: {build!r}")

    def get_tag(self, tag: Any) -> dict[str, Any]:
        for found in self.tags.values():
            if tag in (found["id"], found["name"]):
                return dict(found)
        raise koji.GenericError(f"No such tagInfo: {tag!r}")

    def list_packages(self, build_id: int) -> list[dict[str, Any]]:
        source = {"name": "x", "version": "1.0", "release": "1", "arch": "src"}
        return [source, *self.packages[build_id]]

    def build_folder(self, build: Mapping[str, Any]) -> str:
        return str(self.folder / build["nvr"])

    def package_path(self, rpm: Mapping[str, Any]) -> str:
        return "{arch}/{name}-{version}-{release}.{arch}.rpm".format(**rpm)

    def signed_copies(self, folder: str, rpm: Mapping[str, Any]) -> list[tuple[str, str]]:
        signed = Path(folder) / "data/signed"
        keys = sorted(os.listdir(signed)) if signed.exists() else []
        return [(key, str(signed / key / self.package_path(rpm))) for key in keys]

    def running_host(self, task_id: int) -> int:
        if self.host is None:
            raise koji.AuthError("User is not a host")
        if self.owners.get(task_id) != self.host:
            raise koji.ActionNotAllowed(f"host {self.host} does not own task {task_id}")
        return self.host

    def task_request(self, task_id: int) -> tuple[str, dict[str, Any]]:
        return self.requests[task_id]

    def target_of_task(self, task_id: int) -> Optional[str]:
        return self.targets.get(task_id)

    def make_task(self, method: str, arguments: Sequence[Any], **options: Any) -> int:
        self.made.append((method, list(arguments), options))
        return TASK + len(self.made)

    def query(
        self,
        columns: Sequence[tuple[str, str]],
        table: str,
        *,
        joins: Sequence[str] = (),
        clauses: Sequence[str] = (),
        values: Optional[Mapping[str, Any]] = None,
        options: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        values, options = dict(values or {}), dict(options or {})
        if options == {"order": "-id", "limit": 1} and len(values) == 1:
            ((key, value),) = values.items()
            assert list(clauses) == [f"{key} = %({key})s"]
            found = [row for row in self.rows.get(table, []) if row[key] == value]
            return found[-1:]
        self.queries.append(
            {
                "columns": columns,
                "table": table,
                "joins": joins,
                "clauses": clauses,
                "values": values,
                "options": options,
            }
        )
        return self.answers.get(table, [])

    def insert(self, table: str, values: Mapping[str, Any]) -> None:
        rows = self.rows.setdefault(table, [])
        rows.append({"id": len(rows) + 1, **values})

    def last_id(self, sequence: str) -> int:
        return len(self.rows[sequence.rpartition("_id_seq")[0]])

    def savepoint(self, name: str) -> Any:
        self.points.append(Point())
        return self.points[-1]

    def unfinished_tasks(self, method: str) -> list[int]:
        return self.unfinished


class Seam(types.ModuleType):
    """Stands for the module `hubside`; `hub` is the one of the running test."""

    def __init__(self) -> None:
        super().__init__("sgx_enclaves_hub.hubside")
        self.hub: Optional[FakeHub] = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.hub is None:
            raise AttributeError(name)
        return getattr(self.hub, name)
