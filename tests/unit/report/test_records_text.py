# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from sgx_enclaves.report.forms import table
from sgx_enclaves.report.templated import enclave_table, exit_status, filled, records_table

MRENCLAVE = "cd" * 32
ENCLAVE = {"name": "id_enclave", "verdict": "identical", "mrenclave": MRENCLAVE, "cause": None}
RESULT = {
    "verdict": "identical",
    "reproducible": True,
    "release": "demo-1",
    "build": "x-1-1",
    "claim": "all is well",
    "enclaves": [ENCLAVE],
    "record": 9,
}


def answer_text(found: object) -> str:
    return filled("answer.txt", found=found, width=100)


def record_text(found: object) -> str:
    return filled("record.txt", found=found, width=100)


def gate_text(status: object) -> str:
    return filled("gate.txt", build="x-1-1", tag="demo", status=status, width=100)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_an_enclave_is_one_line_whatever_the_width(width: int) -> None:
    lines = enclave_table([ENCLAVE], width)
    assert len(lines) == 2
    assert len(lines[1]) <= max(width, 45)
    assert ("..." in lines[1]) is (width < 10 + 11 + 64)


def test_a_cause_stands_below_its_enclave_within_the_width() -> None:
    lines = enclave_table([{**ENCLAVE, "verdict": "differs", "cause": "word " * 40}], 80)
    assert "cause: word" in lines[2]
    assert len(lines) > 4
    assert max(map(len, lines)) <= 80


def test_text_from_elsewhere_cannot_drive_the_terminal() -> None:
    hostile = {**RESULT, "claim": "a\x1b[2Jb", "release": "r\nIDENTICAL: all"}
    text = answer_text(hostile)
    assert "\x1b" not in text
    assert "\nIDENTICAL: all" not in text
    assert "\nIDENTICAL: all" not in answer_text({**RESULT, "build": ["x", "IDENTICAL: all"]})


def test_the_weaker_identical_is_as_visible() -> None:
    assert "NOTE" not in answer_text(RESULT) + record_text(RESULT)
    weaker = {**RESULT, "reproducible": False}
    for text in (answer_text(weaker), record_text(weaker)):
        assert "not the reproducible verdict" in text
    assert "NOTE" not in answer_text({**weaker, "verdict": "differs"})


def test_a_field_that_is_missing_is_shown_as_unknown() -> None:
    assert answer_text({"verdict": None, "enclaves": [{}]}).startswith("-: release -")
    assert exit_status(None) == 2
    assert exit_status("IDENTICAL") == 2


def test_a_record_counts_its_packages() -> None:
    record: dict[str, Any] = {**RESULT, "id": 4, "nvr": "x-1-1", "task_id": 8, "rpms": [{}, {}]}
    text = record_text(record)
    assert "2, each with its digest" in text
    assert text.startswith("IDENTICAL: x-1-1 against release demo-1\n")


def test_records_line_up() -> None:
    records = [{**RESULT, "id": number, "nvr": "x-1-1"} for number in (5, 123)]
    lines = records_table(records).splitlines()
    assert len({line.index("x-1-1") for line in lines[1:]}) == 1


def test_an_open_tag_says_that_it_is_open() -> None:
    status = {"present": True, "enforced": False, "allowed": True, "reasons": ["never verified"]}
    text = gate_text(status)
    assert text.startswith("ALLOWED: x-1-1 into demo\n")
    assert "is not gated" in text
    assert "never verified" in text
    assert "policy may still refuse" in text


@pytest.mark.parametrize(
    ("record", "step"), [(None, "verify x-1-1 --build-tag BUILD_TAG"), (3, "show x-1-1")]
)
def test_a_denial_names_the_next_command(record: object, step: str) -> None:
    status = {"present": True, "enforced": True, "allowed": False, "record": record}
    assert f"\n  next: koji sgx-enclaves {step}\n" in gate_text(status)
    assert "next:" not in gate_text({**status, "allowed": True, "verified": True})


def test_a_build_without_enclaves_says_so() -> None:
    status = {"present": False, "enforced": True, "allowed": True, "reasons": []}
    assert "holds no signed enclave" in gate_text(status)


def test_columns() -> None:
    assert table(("A", "B"), [("long", "x")]) == ["A     B", "long  x"]
