# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin as the hub loads it: what it offers, what it imports, when it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import koji
import koji.plugin
import koji.policy
import koji.tasks
import pytest
from sgx_enclaves_hub import hub_api

ROOT = Path(__file__).resolve().parents[4]
PLUGINS = ROOT / "koji_plugin/hub"
NAME = "sgx_enclaves_hub"
# What the plugin takes from the hub; not to be had from PyPI.
STUBS = """
import sys, types
for name, parts in {
    "kojihub": ("Host", "Task", "get_build", "get_tag", "list_rpms", "make_task",
                "get_build_target", "policy_data_from_task", "readTaggedBuilds", "repo_info",
                "RootExports", "get_channel"),
    "kojihub.db": ("InsertProcessor", "QueryProcessor", "Savepoint", "currval", "db_lock"),
}.items():
    module = types.ModuleType(name)
    for part in parts:
        setattr(module, part, None)
    sys.modules[name] = module
"""
LOAD = f"""
import koji.plugin
before = set(sys.modules)
plugin = koji.plugin.PluginTracker(path=[{str(PLUGINS)!r}]).load({NAME!r})
"""


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, as a hub process does."""
    return subprocess.run(
        [sys.executable, "-c", STUBS + LOAD + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            "SGX_ENCLAVES_HUB_CONF": "/nonexistent/x.conf",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            **environ,
        },
        timeout=60,
    )


@pytest.fixture(scope="module", name="offered")
def _offered() -> Iterator[dict[str, Any]]:
    """What the hub finds in the plugin's namespace, by the rules that it goes by."""
    code = """
import inspect, json, koji.policy
found = {"calls": [], "callbacks": {}, "tests": {}, "policies": {}, "docs": []}
for value in vars(plugin).values():
    if isinstance(value, type) or not callable(value):
        continue
    if getattr(value, "exported", False):
        found["calls"].append(getattr(value, "export_alias", value.__name__))
        found["docs"].append(bool(value.__doc__))
    for kind in getattr(value, "callbacks", None) or ():
        found["callbacks"][kind] = bool(getattr(value, "failure_is_an_option", False))
for name, test in koji.policy.findSimpleTests(vars(plugin)).items():
    found["policies"][name] = list(test.policy)
found["signatures"] = [m for m in koji.tasks.LEGACY_SIGNATURES if m.startswith("sgx")]
found["modules"] = sorted(set(sys.modules) - before)
print(json.dumps(found))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)


def test_the_calls(offered: dict[str, Any]) -> None:
    assert sorted(offered["calls"]) == [
        "auditSgxTag",
        "checkSgxSetup",
        "getSgxGateStatus",
        "getSgxLock",
        "getSgxVerification",
        "host.recordSgxVerification",
        "listSgxVerifications",
        "setSgxLock",
        "sgxEnclaves",
    ]
    assert all(offered["docs"])


def test_the_callbacks_and_which_of_them_may_fail(offered: dict[str, Any]) -> None:
    may_fail = {"postImport": True, "preCommit": True}
    assert offered["callbacks"] == {"preTag": False, "preImport": False, **may_fail}


def test_the_policy_tests(offered: dict[str, Any]) -> None:
    assert offered["policies"] == {
        "sgx_enclaves_present": ["tag", "draft_promotion"],
        "sgx_enclaves_verified": ["tag", "draft_promotion"],
    }


@pytest.mark.skipif(
    not hasattr(sys, "stdlib_module_names"), reason="Python 3.9 does not say what it has"
)
def test_nothing_heavy_is_imported(offered: dict[str, Any]) -> None:
    """A hub has the standard library and Koji; what else there is must not be asked for."""
    outside = set()
    for name in offered["modules"]:
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in ("sgx_enclaves", "koji"):
            outside.add(top)
    assert outside == {f"_koji_plugin__{NAME}"}
    heavy = [m for m in offered["modules"] if m.startswith(("sgx_enclaves.release.", "ssl"))]
    assert heavy == []


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [
        (
            "sgxEnclaves",
            ["r", "tag"],
            {"release": "r", "build_tag": "tag", "build": None, "opts": None},
        ),
        (
            "sgxEnclave",
            ["r", ["pce"], "tag", "x-1-1", {"a": 1}],
            {
                "release": "r",
                "enclaves": ["pce"],
                "build_tag": "tag",
                "build": "x-1-1",
                "opts": {"a": 1},
            },
        ),
    ],
)
def test_policies_see_parameters_by_name(
    method: str, arguments: list[Any], named: dict[str, Any]
) -> None:
    import sgx_enclaves_hub  # noqa: F401, PLC0415  (loading it is what registers them)

    assert koji.tasks.parse_task_params(method, arguments) == named


def test_a_wrong_configuration_keeps_the_hub_offline_and_says_why(tmp_path: Path) -> None:
    conf = tmp_path / "x.conf"
    conf.write_text("[hook]\nenable = yes\n")
    done = run("", SGX_ENCLAVES_HUB_CONF=str(conf))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        f"koji.PluginError: {conf}: hook does not fit "
        "(expected one of enabled, build_tag, found enable)"
    )


@pytest.mark.parametrize("version", ["1.32.1", "1.9", "0.1", "unknown"])
def test_a_koji_that_is_too_old_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(koji, "__version__", version)
    with pytest.raises(koji.PluginError, match=f"needs Koji 1.33 or newer, this is {version}"):
        hub_api.load()


@pytest.mark.parametrize("version", ["1.33.0", "1.35.3", "1.36.1", "2.0"])
def test_a_koji_that_is_new_enough_is_not(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(koji, "__version__", version)
    hub_api.load()
