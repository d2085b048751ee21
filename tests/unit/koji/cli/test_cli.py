# SPDX-License-Identifier: GPL-2.0-or-later
"""`koji sgx-enclaves`, on Koji's real client code."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import koji
import koji.plugin
import pytest
from koji_cli.commands import _parseTaskParams

from tests.support.records import record
from tests.unit.koji.cli.recording import (
    MRENCLAVE,
    TASK,
    RecordingSession,
    options,
    result,
    task,
)

FOLDER = Path(__file__).resolve().parents[4] / "koji_plugin/cli"
OPEN, CLOSED = task("sgxEnclaves", "OPEN"), task("sgxEnclaves", "CLOSED")


@pytest.fixture(scope="session")
def plugin() -> Any:
    """The plugin, loaded as Koji's command loads it."""
    return koji.plugin.PluginTracker().load("sgx_enclaves_cli", path=str(FOLDER))


def run(plugin: Any, session: RecordingSession, *args: str, **opts: Any) -> int:
    status: int = plugin.handle_sgx_enclaves(options(**opts), session, list(args))
    return status


def ended(verdict: str = "identical", **more: Any) -> RecordingSession:
    """A session whose verification ends with that verdict."""
    answers = {
        "sgxEnclaves": TASK,
        "getTaskInfo": CLOSED,
        "getTaskResult": result(verdict, **more),
    }
    return RecordingSession(answers)


def test_koji_takes_the_command_from_the_plugin(plugin: Any) -> None:
    assert plugin.handle_sgx_enclaves.exported_cli
    assert plugin.handle_sgx_enclaves.__doc__.startswith("[build] ")
    exported = [name for name in vars(plugin) if getattr(vars(plugin)[name], "exported_cli", False)]
    assert exported == ["handle_sgx_enclaves"]


@pytest.mark.parametrize(
    ("verdict", "status"), [("identical", 0), ("differs", 1), ("unverifiable", 2)]
)
def test_the_exit_status_is_the_verdict(plugin: Any, verdict: str, status: int) -> None:
    assert run(plugin, ended(verdict), "verify", "x-1-1", "--build-tag", "b") == status
    assert run(plugin, ended(verdict), "build", "demo-1", "--build-tag", "b") == status
    assert run(plugin, ended(verdict), "result", str(TASK)) == status
    shown = RecordingSession({"getSgxVerification": result(verdict)})
    assert run(plugin, shown, "show", "x-1-1") == status


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_standard_output_is_no_verdict(
    plugin: Any,
    more: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert run(plugin, ended(), "result", str(TASK), *more) == 2
    assert "standard output is closed" in capsys.readouterr().err


def test_a_verdict_that_nobody_knows_is_not_success(plugin: Any) -> None:
    assert run(plugin, ended("fine"), "result", str(TASK)) == 2


def test_what_is_asked_for_reaches_the_hub(plugin: Any) -> None:
    session = ended()
    words = "verify x-1-1 --release demo-1 --build-tag b --enclave pce --enclave qe3"
    words += " --unsigned-build u-1-1 --repo-id 5 --timeout 60 --allow-unpinned"
    words += " --channel sgx"
    run(plugin, session, *words.split())
    opts = {
        "unsigned_build": "u-1-1",
        "enclaves": ["pce", "qe3"],
        "repo_id": 5,
        "timeout": 60,
        "allow_unpinned": True,
    }
    ((args, kwargs),) = session.asked("sgxEnclaves")
    assert args == ("demo-1", "b", "x-1-1", opts)
    assert kwargs == {"channel": "sgx"}


def test_what_is_not_asked_for_is_left_to_the_hub(plugin: Any) -> None:
    session = ended()
    run(plugin, session, "build", "demo-1", "--build-tag", "b")
    assert session.asked("sgxEnclaves") == [(("demo-1", "b", None, {}), {})]


@pytest.mark.parametrize("words", [("verify", "x-1-1"), ("verify-task", "77"), ("build", "demo-1")])
def test_the_build_tag_by_default_is_the_hubs_to_say(plugin: Any, words: tuple[str, str]) -> None:
    session = ended()
    run(plugin, session, *words)
    assert session.asked("sgxEnclaves")[0][0][1] is None


def test_nowait_says_where_to_look_and_asks_no_more(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    session = ended("differs")
    assert run(plugin, session, "verify", "x-1-1", "--build-tag", "b", "--nowait") == 0
    out = capsys.readouterr().out
    assert f"Created task: {TASK}" in out
    assert f"https://koji.example/koji/taskinfo?taskID={TASK}" in out
    assert [name for name, _args, _kwargs in session.calls] == ["sgxEnclaves"]


def test_the_task_is_watched_as_users_know_it(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    states = iter([OPEN, OPEN, CLOSED])
    session = RecordingSession(
        {
            "sgxEnclaves": TASK,
            "getTaskInfo": lambda _number: next(states, CLOSED),
            "getTaskResult": result(),
        }
    )
    assert run(plugin, session, "verify", "x-1-1", "--build-tag", "b") == 0
    out = capsys.readouterr().out
    assert "Watching tasks (this may be safely interrupted)..." in out
    assert "open -> closed" in out
    assert out.index("open -> closed") < out.index("IDENTICAL: x-1-1 against release demo-1")


def test_the_table_has_enclave_measurement_verdict_and_cause(
    plugin: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run(plugin, ended("differs"), "result", str(TASK))
    lines = capsys.readouterr().out.splitlines()
    row = lines.index("ENCLAVE  VERDICT  MRENCLAVE") + 1
    assert lines[row].split() == ["pce", "differs", MRENCLAVE]
    assert lines[row + 1].strip() == "cause: byte 0x1000 of .text is 0x90, built was 0xc3"
    outputs = koji.PathInfo(topdir="https://koji.example/files").task(TASK)
    assert lines[-1] == f"report: {outputs}/sgx-enclaves-report.json"


def test_json_is_json_and_nothing_else(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plugin, ended("differs"), "verify", "x-1-1", "--build-tag", "b", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["task_id"] == TASK
    assert found["enclaves"][0]["mrenclave"] == MRENCLAVE


@pytest.mark.parametrize(
    "error",
    [
        koji.ActionNotAllowed("permission sgx-enclaves required"),
        koji.GenericError("task 41 was canceled"),
        ConnectionError("refused"),
    ],
)
def test_an_error_is_never_taken_for_a_verdict(
    plugin: Any, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    session = RecordingSession({"sgxEnclaves": error})
    assert run(plugin, session, "verify", "x-1-1", "--build-tag", "b") == 2
    assert str(error) in capsys.readouterr().err


def test_a_failed_task_is_no_verdict(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    session = RecordingSession(
        {
            "sgxEnclaves": TASK,
            "getTaskInfo": task("sgxEnclaves", "FAILED"),
            "getTaskResult": koji.BuildrootError("no space left"),
            "listTaskOutput": {},
        }
    )
    assert run(plugin, session, "verify", "x-1-1", "--build-tag", "b") == 2
    assert "no space left" in capsys.readouterr().err


@pytest.mark.parametrize("info", [OPEN, task("build", "CLOSED")], ids=["running", "another"])
def test_a_task_without_a_verdict_is_distinguished(
    plugin: Any, capsys: pytest.CaptureFixture[str], info: Any
) -> None:
    session = RecordingSession({"getTaskInfo": info, "getTaskResult": result()})
    assert run(plugin, session, "result", str(TASK)) == 2
    assert "has no verdict" in capsys.readouterr().err


def test_an_interrupted_watch_is_no_verdict(plugin: Any) -> None:
    session = RecordingSession({"sgxEnclaves": TASK, "getTaskInfo": KeyboardInterrupt()})
    assert run(plugin, session, "verify", "x-1-1", "--build-tag", "b") == 2


def test_a_hub_without_the_plugin_is_named(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plugin, RecordingSession({}), "show", "x-1-1") == 2
    assert "does not have the plugin" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_is_not_the_verdict_differs(plugin: Any) -> None:
    def refuse(*_args: Any) -> None:
        raise SystemExit(1)

    session = RecordingSession({"getAPIVersion": refuse, "getSgxVerification": result()})
    assert run(plugin, session, "show", "x-1-1") == 2


def test_a_build_without_a_record(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plugin, RecordingSession({"getSgxVerification": None}), "show", "x-1-1") == 2
    assert "koji sgx-enclaves verify x-1-1" in capsys.readouterr().err


def test_the_list_asks_for_what_was_named(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = {**result(), "id": 3, "nvr": "x-1-1", "create_ts": 1764028800.5}
    session = RecordingSession({"listSgxVerifications": [record]})
    words = f"list --mrenclave {MRENCLAVE} --tag t --verdict identical --limit 2".split()
    assert run(plugin, session, *words) == 0
    ((_args, asked),) = session.asked("listSgxVerifications")
    assert asked["mrenclave"] == MRENCLAVE
    assert (asked["tag"], asked["verdict"], asked["build"]) == ("t", "identical", None)
    assert asked["queryOpts"] == {"limit": 2}
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["3", "x-1-1", "identical", "demo-1", "yes", "2025-11-25", "00:00", "pce"]


def test_an_empty_list_says_so(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(plugin, RecordingSession({"listSgxVerifications": []}), "list") == 0
    assert capsys.readouterr().out == "no such records\n"


GATE = {"present": True, "enforced": True, "verified": False, "allowed": False}
DENIED = {**GATE, "reasons": ["it was never verified"], "record": None}
ALLOWED = {**GATE, "verified": True, "allowed": True, "reasons": [], "record": 3}


@pytest.mark.parametrize(("status", "exit_status"), [(ALLOWED, 0), (DENIED, 1)])
def test_the_gate_answers_by_its_exit_status(
    plugin: Any, capsys: pytest.CaptureFixture[str], status: Any, exit_status: int
) -> None:
    session = RecordingSession({"getSgxGateStatus": status})
    assert run(plugin, session, "gate-status", "x-1-1", "release") == exit_status
    assert session.asked("getSgxGateStatus") == [(("x-1-1", "release"), {})]
    out = capsys.readouterr().out
    assert out.startswith(("DENIED", "ALLOWED")[exit_status == 0])
    assert ("it was never verified" in out) is (exit_status == 1)


@pytest.mark.parametrize(
    "words", [[], ["verify"], ["build"], ["list", "--verdict", "fine"], ["no-such-verb"]]
)
def test_wrong_arguments_end_with_2(
    plugin: Any, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(plugin, RecordingSession({}), *words) == 2
    assert "--help explains" in capsys.readouterr().err


def interrupted(*_arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "answers", "error"),
    [
        (["show"], {}, "the following arguments are required: BUILD"),
        (["show", "x-1-1"], {}, "does not have the plugin"),
        (["show", "x-1-1"], {"getSgxVerification": None}, "was never verified"),
        (["export", "x-1-1"], {"getSgxVerification": None}, "was never verified"),
        (["list"], {"listSgxVerifications": interrupted}, "interrupted"),
        (["audit", "t"], {"auditSgxTag": ConnectionError("refused")}, "refused"),
    ],
)
def test_an_error_is_json_for_who_asks_for_json(
    plugin: Any, capsys: pytest.CaptureFixture[str], words: list[str], answers: Any, error: str
) -> None:
    assert run(plugin, RecordingSession(answers), *words, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["exit_status"]) == (1, 2)
    assert error in found["error"]["message"]


@pytest.mark.parametrize(
    ("words", "answers", "key"),
    [
        (["result", str(TASK)], {"getTaskInfo": CLOSED, "getTaskResult": result()}, "verdict"),
        (["show", "x-1-1"], {"getSgxVerification": result()}, "verdict"),
        (["list"], {"listSgxVerifications": []}, "records"),
        (["gate-status", "x-1-1", "t"], {"getSgxGateStatus": ALLOWED}, "allowed"),
        (["lock", "5"], {"setSgxLock": {"release": "demo", "sha256": "0"}}, "release"),
        (["doctor"], {"checkSgxSetup": []}, "checks"),
        (["verify", "x-1-1", "--build-tag=b", "--nowait"], {"sgxEnclaves": TASK}, "task_id"),
    ],
)
def test_json_has_a_schema_version(
    plugin: Any, capsys: pytest.CaptureFixture[str], words: list[str], answers: Any, key: str
) -> None:
    assert run(plugin, RecordingSession(answers), *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert key in found


def test_help_explains_itself(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["verify", "--help"], ["gate-status", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            run(plugin, RecordingSession({}), *words)
        assert stopped.value.code == 0
    out = capsys.readouterr().out
    default = "by default the hub's [tasks] build_tags, if that names just one tag, else the one"
    assert default in " ".join(out.split())
    assert "permission sgx-enclaves" in out
    assert "exit status: 0 identical, 1 differs" in out
    assert "exit status: 0 allowed, 1 denied" in out


def audited(*pages: dict[str, Any]) -> RecordingSession:
    left = list(pages)
    return RecordingSession({"auditSgxTag": lambda _tag, _after: left.pop(0)})


REFUSED = {"nvr": "x-1-1", "tag": "parent", "reasons": ["never verified: /a\x1b"], "record": None}


def test_an_audit_goes_through_all_builds_of_a_tag(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    session = audited(
        {"looked_at": 100, "refused": [REFUSED], "next": 120},
        {"looked_at": 5, "refused": [], "next": None},
    )
    assert run(plugin, session, "audit", "f42") == 1
    assert session.asked("auditSgxTag") == [(("f42", 0), {}), (("f42", 120), {})]
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "x-1-1 (in tag parent)",
        "  - never verified: /a\\x1b",
        "1 of 105 builds that tag f42 shows have no fitting record",
    ]


def test_an_audit_without_a_find_is_a_success_for_cron(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = {"looked_at": 3, "refused": [], "next": None}
    assert run(plugin, audited(page), "audit", "17", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"schema_version": 1, "tag": 17, "looked_at": 3, "refused": []}
    assert run(plugin, RecordingSession({}), "audit", "f42") == 2


def test_a_buildroot_is_pinned(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lock = {"id": 1, "release": "sgx-1", "sha256": "ab" * 32, "task_id": 41, "lock": "{}"}
    session = RecordingSession({"setSgxLock": lock})
    assert run(plugin, session, "lock", "41") == 0
    assert session.asked("setSgxLock") == [((41,), {})]
    assert f"release sgx-1 is built from now on in the buildroot of task 41: lock {'ab' * 32}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("text", "asked"), [("7", 7), ("x-1-1", "x-1-1"), ("٣", "٣")])
def test_an_id_is_asked_for_as_a_number(plugin: Any, text: str, asked: Any) -> None:
    session = RecordingSession(
        {"getSgxVerification": result(), "getSgxGateStatus": {"allowed": True}}
    )
    run(plugin, session, "show", text)
    assert session.asked("getSgxVerification") == [((asked,), {})]
    run(plugin, session, "gate-status", text, text)
    assert session.asked("getSgxGateStatus") == [((asked, asked), {})]


def test_a_record_that_is_of_other_packages_says_so(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {**result(), "outdated": "the build's packages are not the ones that were verified"}
    session = RecordingSession({"getSgxVerification": old, "listSgxVerifications": [old, result()]})
    assert run(plugin, session, "show", "x-1-1") == 0
    assert "OUTDATED: the build's packages are not the ones" in capsys.readouterr().out
    assert run(plugin, session, "list") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows] == ["CURRENT", "no", "yes"]


def test_a_record_says_where_it_was_built(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"build_tag": "b", "repo_id": 4, "buildroot_sha256": "c" * 64, "lock_sha256": None}
    session = RecordingSession({"getSgxVerification": {**result(), **more, "partial": True}})
    run(plugin, session, "show", "x-1-1")
    out = capsys.readouterr().out
    assert "policy " not in out
    for words in ("tag b, repo 4", f"buildroot   {'c' * 64}", "lock        -", "PARTIAL: "):
        assert words in out


def test_a_record_says_what_was_asked_of_its_enclaves(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = result()
    asked = ["enclave pce (catalogue), debug: accepted on purpose", None]
    kept["enclaves"] = [{**kept["enclaves"][0], "policy": policy} for policy in asked]
    run(plugin, RecordingSession({"getSgxVerification": kept}), "show", "x-1-1")
    assert f"policy      {asked[0]}\n" in capsys.readouterr().out


def test_a_set_up_is_checked(plugin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        {"what": "tables", "good": True, "says": "all"},
        {"what": "channel", "good": False, "says": "sgx: no enabled x86_64 host"},
    ]
    assert run(plugin, RecordingSession({"checkSgxSetup": checks}), "doctor") == 1
    assert capsys.readouterr().out.splitlines() == [
        "good   tables: all",
        "WRONG  channel: sgx: no enabled x86_64 host",
    ]
    assert run(plugin, RecordingSession({"checkSgxSetup": checks[:1]}), "doctor", "--json") == 0
    assert run(plugin, RecordingSession({}), "doctor") == 2


def test_a_scratch_build_is_verified_by_its_task(plugin: Any) -> None:
    session = ended(build="task 77", record=None)
    assert run(plugin, session, "verify-task", "77") == 0
    assert session.asked("sgxEnclaves")[0][0] == (None, None, None, {"task_id": 77})


def test_export_prints_a_record_as_statements(
    plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {**record(), "verified_at": "2026-11-25T00:00:00Z"}
    session = RecordingSession({"getSgxVerification": {**kept, "id": 7, "outdated": None}})
    assert run(plugin, session, "export", "x-1-1", server="https://koji.example") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["_type"] for line in lines] == ["https://in-toto.io/Statement/v1"] * 3
    assert lines[2]["predicate"]["timeCreated"] == "2026-11-25T00:00:00Z"
    assert run(plugin, session, "export", "x-1-1", "--json", server="https://koji.example") == 0
    assert json.loads(capsys.readouterr().out)["statements"] == lines


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outdated": "its packages were replaced"}, "not of the build as it is now"),
        ({"outdated": None, "verdict": "good"}, "verdict does not fit"),
        ({"outdated": None, "release_sha256": "1"}, "release_sha256 does not fit"),
    ],
)
def test_export_of_what_is_no_record_prints_nothing(
    plugin: Any, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    session = RecordingSession({"getSgxVerification": {**record(), **change}})
    assert run(plugin, session, "export", "x-1-1", server="https://koji.example") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err


# --- results for others


class ResultsDB(BaseHTTPRequestHandler):
    """Notes what it is sent, and answers with a status of the test's choice."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.sent.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"why not")

    def log_message(self, *_words: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def resultsdb() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), ResultsDB)
    server.sent, server.status = [], 201
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_taskinfo_shows_the_parameters_of_our_tasks(plugin: Any) -> None:
    request = [None, ["pce", "ide"], "demo-build", "x-1-1", {"tag_allowed": True}]
    lines = _parseTaskParams(RecordingSession({"getTaskRequest": request}), "sgxEnclave", 7, "/")
    assert lines == [
        'enclaves: ["pce", "ide"]',
        'build_tag: "demo-build"',
        'build: "x-1-1"',
        'opts: {"tag_allowed": true}',
    ]
    theirs = RecordingSession({"getTaskRequest": ["demo", None, None]})
    assert _parseTaskParams(theirs, "waitrepo", 7, "/") == ["Build Target: demo"]


def judged(verified: bool, verdict: str = "identical", present: bool = True) -> RecordingSession:
    record = {"id": 3, "nvr": "x-1-1", "release": "demo-1", "task_id": 7, "report_sha256": "ab"}
    reasons = [] if verified else ["it is too old"]
    status = {"present": present, "verified": verified, "reasons": reasons, "record": 3}
    return RecordingSession(
        {"getSgxVerification": {**record, "verdict": verdict}, "getSgxGateStatus": status}
    )


@pytest.mark.parametrize(
    ("verified", "verdict", "outcome"),
    [
        (True, "identical", "PASSED"),
        (False, "identical", "NEEDS_INSPECTION"),
        (False, "unverifiable", "NEEDS_INSPECTION"),
        (False, "differs", "FAILED"),
    ],
)
def test_a_result_is_published_as_the_gate_sees_it(
    plugin: Any, resultsdb: Any, verified: bool, verdict: str, outcome: str, capsys: Any
) -> None:
    url = f"http://127.0.0.1:{resultsdb.server_port}/api/v2.0/"
    session = judged(verified, verdict)
    assert run(plugin, session, "publish", "x-1-1", "--resultsdb", url, "--tag", "f43") == 0
    assert session.asked("getSgxGateStatus") == [(("x-1-1", "f43"), {})]
    ((path, kind, body),) = resultsdb.sent
    assert (path, kind) == ("/api/v2.0/results", "application/json")
    assert body["testcase"] == {"name": "sgx-enclaves.verified"}
    assert body["outcome"] == outcome
    folder = koji.PathInfo(topdir="https://koji.example/files").task(7)
    assert body["ref_url"].startswith(f"{folder}/sgx-enclaves-rep")
    assert (body["data"]["item"], body["data"]["type"]) == (["x-1-1"], ["koji_build"])
    assert body["note"] == ("" if verified else "it is too old")
    assert capsys.readouterr().out.startswith(f"{outcome}: x-1-1, sent to http://127.0.0.1")


@pytest.mark.parametrize("status", [200, 301, 400, 401, 500])
def test_a_result_that_is_not_taken_is_an_error(
    plugin: Any, resultsdb: Any, status: int, capsys: Any
) -> None:
    resultsdb.status = status
    url = f"http://127.0.0.1:{resultsdb.server_port}"
    assert run(plugin, judged(True), "publish", "x-1-1", "--resultsdb", url) == 2
    assert f"did not take the result: {status} why not" in capsys.readouterr().err
    assert len(resultsdb.sent) == 1


def test_nothing_is_published_where_nothing_is_known(
    plugin: Any, resultsdb: Any, capsys: Any
) -> None:
    words = ("publish", "x-1-1", "--resultsdb", f"http://127.0.0.1:{resultsdb.server_port}")
    assert run(plugin, RecordingSession({"getSgxVerification": None}), *words) == 2
    assert run(plugin, judged(False, present=False), *words) == 2
    assert "nothing to publish" in capsys.readouterr().err
    assert resultsdb.sent == []
    assert run(plugin, judged(True), *words[:-1], "http://127.0.0.1:1/x") == 2
    assert "ConnectionError" in capsys.readouterr().err
