# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger: what goes in, and each thing that lint finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.evidence.ledger import line_of, lint, read_ledger
from tests.unit.conftest import Run
from tests.unit.evidence.conftest import as_built_here, edited

FIRST = {
    **{"enclave": "pce", "version": "1.25.100.1", "mrenclave": "a" * 64, "mrsigner": "b" * 64},
    **{"isvprodid": 1, "isvsvn": 15, "unsigned": "c" * 64, "signed": "d" * 64},
    "statement": "e" * 64,
}
NEXT = {
    **FIRST,
    **{"version": "1.26.100.1", "mrenclave": "1" * 64, "isvsvn": 16},
    **{"unsigned": "2" * 64, "signed": "3" * 64},
}


def test_a_new_version_is_right() -> None:
    assert list(lint([FIRST, NEXT])) == []
    assert list(lint([FIRST, {**FIRST, "statement": "f" * 64}])) == []
    assert list(lint([])) == []


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("isvsvn-down", {"isvsvn": 14}),
        ("signed-twice", {"mrenclave": FIRST["mrenclave"]}),
        ("version-twice", {"version": FIRST["version"]}),
        (
            "changed",
            {
                "version": FIRST["version"],
                "mrenclave": FIRST["mrenclave"],
                "signed": FIRST["signed"],
            },
        ),
    ],
)
def test_each_problem(code: str, change: dict[str, Any]) -> None:
    found = list(lint([FIRST, {**NEXT, **change}]))
    assert [(p["code"], p["line"], p["earlier"], p["enclave"]) for p in found] == [
        (code, 2, 1, "pce")
    ]
    other = {**NEXT, "enclave": "qe3", **change}
    assert list(lint([FIRST, other])) == []


def test_a_problem_is_reported_once_with_the_nearest_line() -> None:
    again = {**FIRST, "statement": "f" * 64}
    found = list(lint([FIRST, again, {**NEXT, "isvsvn": 1}, {**NEXT, "isvsvn": 2}]))
    assert [(p["code"], p["line"], p["earlier"]) for p in found] == [
        ("isvsvn-down", 3, 2),
        ("isvsvn-down", 4, 2),
    ]


def test_a_long_ledger_takes_no_long_time() -> None:
    entries = [{**FIRST, "statement": f"{number:064x}"} for number in range(20_000)]
    assert list(lint(entries)) == []


def test_without_a_version_there_is_none_to_change() -> None:
    unknown = {**FIRST, "version": None}
    assert list(lint([unknown, {**NEXT, "version": None}])) == []


def test_add_and_lint(folder: Path, run: Run) -> None:
    def older(report: dict[str, Any]) -> None:
        as_built_here(report)
        (enclave,) = report["enclaves"]
        for place in (enclave, *enclave["blocks"]):
            place["isvsvn"] -= 1
            place["mrenclave"] = "9" * 64

    add = ("ledger", "add", "ledger.jsonl")
    assert run("attest", "report/report.json", "--key", "p256.pem", "-o", "lazy")[0] == 0
    assert "none says that he built it" in run(*add, "lazy", "--key", "p256.pub")[2]
    assert not (folder / "ledger.jsonl").exists()
    assert run("attest", "built/report.json", "--key", "p256.pem", "-o", "a")[0] == 0
    assert run("attest", edited(folder, older, "old"), "--key", "p256.pem", "-o", "b")[0] == 0
    status, out, err = run(*add, "a", "--key", "p256.pub")
    assert (status, out, err) == (0, "ledger.jsonl: 1 added, 1 in all\n", "")
    assert run(*add, "a", "--key", "p256.pub")[1] == "ledger.jsonl: 0 added, 1 in all\n"
    before = (folder / "ledger.jsonl").read_text()
    assert run("ledger", "lint", "ledger.jsonl") == (0, "", "")
    status, out, _ = run(*add, "b", "--key", "p384.pub")
    assert (status, out) == (2, "")
    assert (folder / "ledger.jsonl").read_text() == before
    assert run(*add, "b", "--key", "p256.pub")[0] == 0
    assert (folder / "ledger.jsonl").read_text().startswith(before)
    status, out, _ = run("ledger", "lint", "ledger.jsonl")
    assert status == 1
    assert out == "ledger.jsonl:2: s: ISVSVN goes down from 7 to 6 (line 1) [isvsvn-down]\n"
    status, out, _ = run("ledger", "lint", "ledger.jsonl", "--json")
    assert status == 1
    assert [p["code"] for p in json.loads(out)["problems"]] == ["isvsvn-down"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "no JSON text"),
        ("{}", "enclave does not fit"),
        ("[]", "the content does not fit"),
        (line_of(FIRST).replace("15", '"15"'), "isvsvn does not fit"),
        (line_of({**FIRST, "version": 1}), "version does not fit (expected text"),
        (line_of({**FIRST, "signed": 1}), "signed does not fit (expected text: "),
        (line_of(FIRST).replace('"version"', '"more"'), "does not fit"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_bad_line_is_refused(folder: Path, run: Run, line: str, says: str) -> None:
    (folder / "ledger.jsonl").write_text(f"{line_of(FIRST)}\n{line}\n")
    status, out, err = run("ledger", "lint", "ledger.jsonl")
    assert (status, out) == (2, "")
    assert "ledger.jsonl, line 2" in err
    assert says in err


def test_what_is_written_is_what_is_read() -> None:
    data = f"{line_of(FIRST)}\n{line_of(NEXT)}\n".encode()
    assert read_ledger(data, "ledger") == [FIRST, NEXT]


def test_lint_needs_a_ledger(folder: Path, run: Run) -> None:
    assert run("ledger", "lint", "none.jsonl")[0] == 2
    assert run("ledger", "add", "none.jsonl")[0] == 2
    assert run("ledger", "sign", "none.jsonl")[0] == 2
