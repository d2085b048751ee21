# SPDX-License-Identifier: GPL-2.0-or-later
"""Small parts: what kojid registers, the log, the words for errors, releases from a repository."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import koji
import koji.plugin
import koji.tasks
import pytest
from koji.daemon import TaskManager
from sgx_enclaves_builder.provenance import component_urls
from sgx_enclaves_builder.task_base import TaskLog, despite_deadlocks, koji_errors

from sgx_enclaves.errors import FetchError
from tests.unit.koji.builder.hub import Hub, Session
from tests.unit.koji.builder.world import PCE, World

FOLDER = Path(__file__).parents[4] / "koji_plugin" / "builder"


def forget_plugin() -> None:
    """As a new kojid begins."""
    for name in [name for name in sys.modules if name.startswith("_koji_plugin__sgx_enclaves")]:
        del sys.modules[name]


def test_kojid_loads_the_folder_and_registers_two_tasks() -> None:
    tracker = koji.plugin.PluginTracker(path=[str(FOLDER)])
    plugin = tracker.load("sgx_enclaves_builder")
    manager = types.SimpleNamespace(handlers={}, logger=None)
    for name in ("registerHandler", "registerCallback", "registerEntries"):
        setattr(manager, name, types.MethodType(getattr(TaskManager, name), manager))
    TaskManager.scanPlugin(manager, plugin)
    assert {method: cls.__name__ for method, cls in manager.handlers.items()} == {
        "sgxEnclave": "SgxEnclaveTask",
        "sgxEnclaves": "SgxEnclavesTask",
    }
    forget_plugin()


def test_a_wrong_configuration_keeps_kojid_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.conf"
    path.write_text("[build]\nmake_timeot = 1\n")
    monkeypatch.setenv("SGX_ENCLAVES_BUILDER_CONFIG", str(path))
    forget_plugin()
    with pytest.raises(koji.GenericError, match="found make_timeot"):
        koji.plugin.PluginTracker(path=[str(FOLDER)]).load("sgx_enclaves_builder")
    forget_plugin()


def test_policies_can_see_the_parameters() -> None:
    arguments = ["demo", "demo-build", "x-1-1", {"enclaves": ["pce"]}]
    seen = koji.tasks.parse_task_params("sgxEnclaves", arguments)
    assert seen == {
        "release": "demo",
        "build_tag": "demo-build",
        "build": "x-1-1",
        "opts": {"enclaves": ["pce"]},
    }
    subtask = koji.tasks.parse_task_params("sgxEnclave", ["demo", ["pce"], "t"])
    assert subtask["enclaves"] == ["pce"]


def test_a_subtask_that_nobody_prepared_says_so(world: World) -> None:
    result = world.hub.run(world.hub.make("sgxEnclave", ["demo", ["pce"], "demo-build"]))
    assert "opts.releases does not fit" in result["faultString"]


def test_a_line_is_uploaded_at_once(tmp_path: Path) -> None:
    hub = Hub(tmp_path, tmp_path)
    log = TaskLog(Session(hub), tmp_path, "tasks/1/1")
    for line in ("10 %\n", "20 %\n"):
        log.write(line)
        assert hub.files["tasks/1/1/sgx-enclaves.log"].endswith(line.encode())
    log("third")
    first, second, third = hub.files["tasks/1/1/sgx-enclaves.log"].splitlines()
    assert (first, second) == (b"10 %", b"20 %")
    assert third.endswith(b" third")


def test_a_lock_says_where_koji_s_own_packages_are(world: World) -> None:
    build = world.signed_build()
    own = {
        "name": "gcc",
        "version": "9",
        "release": "1",
        "arch": "x86_64",
        "epoch": 2,
        "payloadhash": "ab" * 16,
        "build_id": build["id"],
    }
    foreign = {**own, "name": "other", "build_id": 0}
    world.hub.answers["components"] = lambda number: [own, foreign] if number == 5 else []
    urls = component_urls(Session(world.hub), 5, "https://k.example/kojifiles")
    assert urls == {
        "gcc-2:9-1.x86_64": "https://k.example/kojifiles/packages/prebuilt/1.0/1/"
        "x86_64/gcc-9-1.x86_64.rpm"
    }
    assert component_urls(Session(world.hub), 5, None) == {}


def test_errors_of_the_core_leave_as_koji_s() -> None:
    with pytest.raises(koji.GenericError, match="f: no; do this"), koji_errors():
        raise FetchError("no", file="f", hint="do this")


def test_a_full_disk_leaves_as_koji_s_with_the_next_step() -> None:
    with (
        pytest.raises(koji.GenericError, match=r"No space.* /x.*start the verification"),
        koji_errors(),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")


def test_what_a_killed_kojid_left_behind_is_not_said_to_be_the_disk() -> None:
    with pytest.raises(koji.GenericError, match=r"vanished: /x; .*killed kojid"), koji_errors():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/x")


DEADLOCK = "<class 'psycopg2.errors.DeadlockDetected'>: deadlock detected"


@pytest.mark.parametrize("error", [koji.GenericError(DEADLOCK), Fault(1, DEADLOCK)])
def test_a_deadlock_in_the_hub_s_database_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    answers: list[Any] = [error, error, 7]

    def call(number: int) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer + number

    assert despite_deadlocks(call, 1) == 8
    assert len(waited) == 2


def test_another_error_and_an_endless_deadlock_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    calls: list[str] = []

    def call(text: str) -> None:
        calls.append(text)
        raise koji.GenericError(text)

    for text, count in (("no such task", 1), (DEADLOCK, 6)):
        calls.clear()
        with pytest.raises(koji.GenericError, match=r"no such task|deadlock"):
            despite_deadlocks(call, text)
        assert len(calls) == count


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), koji_errors():
        raise ZeroDivisionError


@pytest.fixture
def repository(tmp_path: Path, world: World) -> Path:
    """A git repository with the release in a folder; its checkout is that of Koji's SCM."""
    repo = tmp_path / "repo"
    folder = repo / "releases"
    folder.mkdir(parents=True)
    (folder / "demo.toml").write_text((world.folder / "catalogue" / "demo.toml").read_text())
    (folder / "link.toml").symlink_to("/etc/hostname")
    (folder / "out").symlink_to(world.folder / "catalogue")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example", "-C", str(repo)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    return repo


def checkout_of(repository: Path) -> Any:
    def checkout(scm: Any, folder: str, *_arguments: Any) -> str:
        subprocess.run(["git", "clone", "-q", str(repository), f"{folder}/x"], check=True)
        return f"{folder}/x/{scm.module}"

    return checkout


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("releases/demo.toml", ""),
        ("releases/absent.toml", "no such file in the repository"),
        ("releases/link.toml", "no such file in the repository"),
        ("releases/out/demo.toml", "no such file in the repository"),
        ("../../../../../../catalogue/demo.toml", "no such file in the repository"),
        ("releases", "names no release"),
    ],
)
def test_a_release_can_come_from_a_repository(
    world: World, repository: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    monkeypatch.setattr("koji.daemon.SCM.checkout", checkout_of(repository))
    url = f"git+https://allowed.example/x?{file}#HEAD"
    build = world.signed_build()
    result = world.verify(url, "demo-build", build["nvr"])
    if words:
        assert words in result["faultString"]
    else:
        assert result["verdict"] == "identical"
        assert world.hub.records[0]["origin"] == url


def test_a_release_can_come_from_an_allowed_server(world: World) -> None:
    text = (world.folder / "catalogue" / "demo.toml").read_bytes()
    url = world.vendor.server.put(f"/{world.folder.name}/demo.toml", text)
    options = {"enclaves": ["pce"]}
    refused = world.verify(url, "demo-build", None, options)
    assert "list of allowed SCMs" in refused["faultString"]
    allow = world.hub.options()
    allow.allowed_scms = "127.0.0.1*:*:no:"
    world.hub.options = lambda: allow  # type: ignore[method-assign]
    assert world.verify(url, "demo-build", None, options)["verdict"] == "identical"


def test_a_release_is_found_from_what_a_build_has(world: World) -> None:
    build = world.add_build(
        "old", {"/opt/libsgx_pce.signed.so.9.9.9.9": world.vendor.signed[PCE.signed]}
    )
    result = world.verify(None, "demo-build", build["nvr"])
    assert "do not say which release" in result["faultString"]
    assert "libsgx_pce.signed.so.9.9.9.9" in result["faultString"]
