# SPDX-License-Identifier: GPL-2.0-or-later
"""A hub in memory, in the place of the module `kojihub`, that notes what it is asked to do.

Builds have real package files in a folder of the test. It knows no SQL: queries that
the plugin makes for a build's or a task's newest record are answered from what was
put in; of others it only keeps the parts. The real database is `tests/koji`'s matter.
"""

from __future__ import annotations

import datetime
import os
import sys
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
    """What `kojihub` and the caller's session offer, with the same names and arguments.

    Attributes:
        logged_in, admin, permissions: of the caller.
        host: its host id; None for a user.
        requests: task id to method and parameters.
        owners: task id to the host that runs it.
        made: tasks that were made: method, arguments, options.
        rows: table to its rows.
        queries: the keyword arguments of other queries.
        answers: table to what such a query gives.
        locked: table and values of each row that was locked.
        asked_locks, busy: Koji's own locks, and whether somebody else has them.
        tagged: tag id to the builds that are in it; all tags inherit them.
        repos: id to tag and state.
        hosts: channel to its enabled hosts.
    """

    logged_in: bool = True
    admin: bool = False
    permissions: set[str] = field(default_factory=set)
    host: Optional[int] = None
    builds: dict[int, dict[str, Any]] = field(default_factory=dict)
    tags: dict[int, dict[str, Any]] = field(default_factory=dict)
    packages: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    requests: dict[int, tuple[str, list[Any]]] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    targets: dict[int, Optional[str]] = field(default_factory=dict)
    made: list[tuple[str, list[Any], dict[str, Any]]] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    queries: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    children: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    user_id = 55
    locked: list[tuple[Any, ...]] = field(default_factory=list)
    asked_locks: list[str] = field(default_factory=list)
    busy: bool = False
    tagged: dict[int, list[int]] = field(default_factory=dict)
    repos: dict[int, dict[str, Any]] = field(default_factory=dict)
    hosts: Mapping[str, list[str]] = field(default_factory=dict)

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
        rpm["payloadhash"] = f"{len(self.packages[build['id']]):032x}"
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
        self,
        build: Any,
        release: Optional[str] = None,
        method: str = "sgxEnclaves",
        opts: Optional[dict[str, Any]] = None,
        number: int = TASK,
    ) -> int:
        """A verification task that the calling host runs."""
        self.requests[number] = (method, [release, "b", build, *([opts] if opts else [])])
        self.owners[number] = HOST
        self.host = HOST
        return number

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
            schema=2,
            nvr=build["nvr"],
            build_id=build["id"],
            task_id=TASK,
            rpms=rpms,
            enclaves=enclaves,
            build_tag="b",
            repo_id=4,
            buildroot_sha256=records.A,
            lock_sha256=records.B,
            partial=False,
        )
        del made["verified_at"]
        return {**made, **changes}

    def build_folder(self, build: Mapping[str, Any]) -> str:
        """Where a build's packages lie."""
        return str(koji.pathinfo.build(build))

    def package_path(self, rpm: Mapping[str, Any]) -> str:
        """A package's place below its build's folder."""
        return str(koji.pathinfo.rpm(rpm))

    # --- the caller's session

    def assertLogin(self) -> None:
        if not self.logged_in:
            raise koji.AuthError("you must be logged in for this operation")

    def assertPerm(self, name: str) -> None:
        if not self.admin and name not in self.permissions:
            raise koji.ActionNotAllowed(f"{name} permission required")

    def hasPerm(self, name: str) -> bool:
        return name in self.permissions or (self.admin and name == "admin")

    def db_lock(self, name: str, wait: bool = True) -> bool:
        assert not wait
        self.asked_locks.append(name)
        return not self.busy

    # --- what the plugin takes from `kojihub`

    def get_build(self, build: Any, strict: bool = False) -> dict[str, Any]:
        assert strict
        for found in self.builds.values():
            if build in (found["id"], found["nvr"]):
                return dict(found)
        raise koji.GenericError(f"No such build: {build!r}")

    def get_tag(self, tag: Any, strict: bool = False) -> Optional[dict[str, Any]]:
        for found in self.tags.values():
            if tag in (found["id"], found["name"]):
                return dict(found)
        if not strict:
            return None
        raise koji.GenericError(f"No such tagInfo: {tag!r}")

    def get_channel(self, channel: str) -> Optional[dict[str, Any]]:
        return {"name": channel} if channel in self.hosts else None

    def RootExports(self) -> Any:
        def list_hosts(arch: str, channel: str, enabled: bool) -> list[dict[str, Any]]:
            assert (arch, enabled) == ("x86_64", True)
            return [{"name": name} for name in self.hosts[channel]]

        return types.SimpleNamespace(listHosts=list_hosts)

    def list_rpms(self, buildID: int) -> list[dict[str, Any]]:
        source = {"name": "x", "version": "1.0", "release": "1", "arch": "src"}
        return [source, *self.packages[buildID]]

    def Host(self) -> Any:
        def verify() -> None:
            if self.host is None:
                raise koji.AuthError("User is not a host")

        return types.SimpleNamespace(id=self.host, verify=verify)

    def Task(self, number: int) -> Any:
        def assert_host(host: int) -> None:
            if self.owners.get(number) != host:
                raise koji.ActionNotAllowed(f"host {host} does not own task {number}")

        def get_info(strict: bool, request: bool = False) -> dict[str, Any]:
            assert strict
            return dict(zip(("method", "request"), self.requests[number]))

        def get_result() -> Any:
            if number not in self.results:
                raise koji.GenericError(f"Task {number} is not finished")
            return self.results[number]

        return types.SimpleNamespace(
            assertHost=assert_host,
            getInfo=get_info,
            getResult=get_result,
            getChildren=lambda: self.children.get(number, []),
        )

    def policy_data_from_task(self, task_id: int) -> dict[str, Any]:
        return {"target": self.targets.get(task_id)}

    def get_build_target(self, name: str) -> Optional[dict[str, Any]]:
        return {"build_tag_name": f"{name}-build"} if name != "gone" else None

    def make_task(self, method: str, arguments: Sequence[Any], **options: Any) -> int:
        self.made.append((method, list(arguments), options))
        return TASK + len(self.made)

    def QueryProcessor(self, **arguments: Any) -> Any:
        return types.SimpleNamespace(execute=lambda: self._found(**arguments))

    def _found(self, tables: Sequence[str], **arguments: Any) -> Any:
        (table,) = tables
        values, options = arguments.get("values", {}), arguments.get("opts", {})
        # Koji orders by nothing else
        columns = arguments["columns"]
        assert options.get("order", "-").lstrip("-") in ("", *(arguments.get("aliases") or columns))
        if options.get("rowlock"):
            self.locked.append((table, *values.values()))
            return []
        aliases = dict(zip(columns, arguments.get("aliases") or columns))
        if table in ("tag", "rpminfo", "sgx_former_tag_name", "tag_config"):
            rows = getattr(self, f"_{table}_rows")(values)
            return [{aliases.get(key, key): value for key, value in row.items()} for row in rows]
        table = table.split()[0]
        if len(values) == 1 and table in ("sgx_verification", "sgx_lock"):
            ((key, value),) = values.items()
            assert arguments["clauses"][0] == f"{key} = %({key})s"
            decided = len(arguments["clauses"]) == 2
            found = [
                {"packages": None, **{aliases.get(key, key): word for key, word in row.items()}}
                for row in self.rows.get(table, [])
                if row[key] == value and not (decided and row.get("verdict") == "unverifiable")
            ]
            return found[: -options.get("limit", 1) - 1 : -1]
        self.queries.append({"table": table, **arguments})
        rows = self.answers.get(table, [])
        if table != "tag_listing":
            return rows
        return [{aliases.get(key, key): value for key, value in row.items()} for row in rows]

    def _tag_rows(self, _values: Any) -> list[dict[str, Any]]:
        return [{"id": tag["id"], "name": tag["name"]} for tag in self.tags.values()]

    def _sgx_former_tag_name_rows(self, values: Any) -> list[dict[str, Any]]:
        rows = self.rows.get("sgx_former_tag_name", [])
        return [row for row in rows if row["tag_id"] == values.get("tag_id", row["tag_id"])]

    def _tag_config_rows(self, values: Any) -> list[dict[str, Any]]:
        return [row for row in self.rows.get("tag_config", []) if row["tag_id"] == values["tag_id"]]

    def _rpminfo_rows(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {"build_id": build, **rpm}
            for build, packages in self.packages.items()
            if build in values["builds"]
            for rpm in packages
        ]

    def readTaggedBuilds(self, tag: int, inherit: bool = False) -> list[dict[str, Any]]:
        assert inherit
        return [
            {"build_id": build, "tag_name": self.tags[where]["name"]}
            for where, builds in self.tagged.items()
            for build in builds
        ]

    def repo_info(self, repo_id: int) -> Optional[dict[str, Any]]:
        if repo_id not in self.repos:
            return None
        return {"id": repo_id, "tag_name": "x", **self.repos[repo_id]}

    def InsertProcessor(self, table: str, data: Mapping[str, Any]) -> Any:
        rows = self.rows.setdefault(table, [])
        row = {"id": len(rows) + 1, **data}
        return types.SimpleNamespace(execute=lambda: rows.append(row))

    def currval(self, sequence: str) -> int:
        return len(self.rows[sequence.rpartition("_id_seq")[0]])

    def Savepoint(self, name: str) -> Any:
        self.points.append(Point())
        return self.points[-1]


class Delegate(types.ModuleType):
    """Stands for a module of the hub; `hub` is the one of the running test."""

    hub: Optional[FakeHub] = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(FakeHub, name):
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return getattr(Delegate.hub, name)(*arguments, **keywords)

        return call


for _name in ("kojihub", "kojihub.db"):
    sys.modules[_name] = Delegate(_name)
