# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports in short, as Markdown for reviews and as JUnit XML for CI."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sgx_enclaves.report.templated import report_summary
from tests.unit.evidence.conftest import as_built_here

FINDING = {
    "code": "x",
    "severity": "differs",
    "message": "a | b\n<script>",
    "block": None,
    "offset": None,
    "expected": "`x`",
    "found": 'y"',
    "hint": None,
}


def mixed(folder: Path) -> dict[str, Any]:
    """One enclave of each verdict, and one that is not required."""
    report: dict[str, Any] = json.loads((folder / "report/report.json").read_text())
    as_built_here(report)
    report["verdict"], report["unpinned"] = "differs", ["enclave.x"]
    (good,) = report["enclaves"]
    for verdict, required in (("differs", True), ("unverifiable", True), ("differs", False)):
        findings = [FINDING] if required else []
        report["enclaves"].append(
            {**copy.deepcopy(good), "verdict": verdict, "required": required, "findings": findings}
        )
    return report


def test_a_table_for_reviews(folder: Path) -> None:
    table = report_summary(mixed(folder), "md")
    assert table.startswith("**DIFFERS: demo: ")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 4
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a \\| b\\\\x0a\\<script\\>, expected \\`x\\`" in table
    assert "- NOT PINNED: enclave.x" in table
    assert "- not proved: " in table


def test_a_table_says_of_what_it_is_and_by_whose_policy(folder: Path) -> None:
    report = json.loads((folder / "report/report.json").read_text())
    report["packages"] = [{"file": "good.rpm", "sha256": "ab" * 32, "findings": []}]
    table = report_summary(report, "md")
    assert f"- package: good.rpm, SHA-256 {'ab' * 32}\n" in table
    assert "- asked of the signature: " in table
    assert "- note: " not in table
    unknown = {**FINDING, "code": "reference-unauthenticated", "severity": "note"}
    report["enclaves"][0]["findings"].append(unknown)
    assert "- note: " in report_summary(report, "md")


def test_junit_for_ci(folder: Path) -> None:
    suite = ElementTree.fromstring(report_summary(mixed(folder), "xml"))  # noqa: S314  (our own)
    assert suite.attrib == {"name": "demo", "tests": "5", "failures": "2", "errors": "1"}
    tags = [[part.tag for part in case] for case in suite]
    assert tags == [["failure"], [], ["failure"], ["error"], ["skipped"]]
    assert 'found y"' in suite[2][0].attrib["message"]


def test_what_speaks_against_the_whole_though_not_against_an_enclave(folder: Path) -> None:
    """A package that cannot be read, facts that are not pinned: CI must see them, too."""
    report = json.loads((folder / "report/report.json").read_text())
    package = {"file": "broken.rpm", "findings": [{**FINDING, "message": "it is truncated"}]}
    report.update(verdict="unverifiable", packages=[package])
    suite = ElementTree.fromstring(report_summary(report, "xml"))  # noqa: S314  (our own)
    assert suite.attrib == {"name": "comparison", "tests": "2", "failures": "0", "errors": "1"}
    assert "broken.rpm: it is truncated" in suite[0][0].attrib["message"]
    assert "- found: broken.rpm: it is truncated" in report_summary(report, "md")


def test_they_stand_beside_the_report(folder: Path) -> None:
    assert (folder / "report/report.md").read_text().startswith("**IDENTICAL: comparison: ")
    suite = ElementTree.parse(folder / "report/report.xml").getroot()  # noqa: S314  (our own)
    assert suite.attrib == {"name": "comparison", "tests": "2", "failures": "0", "errors": "0"}
