# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of findings has what the product reports, and nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgx_enclaves.enclave.verdict import Severity
from sgx_enclaves.findings import SEVERITIES, as_markdown, kinds

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("sgx_enclaves", "koji_plugin", "rpmlint_checks")
DASHED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
# The first argument of these is a code, with or without a dash.
REPORTERS = ("Finding", "Cause", "finding_of", "note", "report")
# Codes that are put together where they are reported: f"{stage}-failed".
STAGES = ("sources", "toolchain", "build", "signed", "repack", "compare")

# Words with a dash that are no codes; a new code does not belong here but into findings.toml.
OTHER_WORDS = {
    # names of things of other people
    *("64-bit", "x86-64", "utf-8", "gpg-pubkey", "sysrq-trigger", "linux-sgx-enclaves-prebuilt"),
    *("gmp-dev", "gmp-devel", "linux-headers", "kernel-headers", "ocaml-ocamlbuild"),
    *("openssl-dev", "openssl-devel", "crypto-policies", "os-release"),
    # names of ours: the product, verbs, states, places
    *("sgx-enclaves", "verify-signature", "extract-signature", "verify-release", "check-rpm"),
    *("check-built", "rpm-provides", "gate-status", "source-dir", "second-place", "timed-out"),
    *("time-out", "spec-templates"),
}


def sources(root: Path) -> Iterator[Path]:
    for folder in PRODUCT:
        yield from sorted((root / folder).rglob("*.py"))


def words_of(path: Path) -> Iterator[tuple[str, str]]:
    """Every word of a module that is or looks like a code, and where it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if DASHED.fullmatch(node.value):
                yield node.value, where
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            first = node.args[0]
            if name in REPORTERS and isinstance(first, ast.Constant):
                yield str(first.value), where


def severities_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Code, severity and place of each finding that is written out in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "Finding":
            continue
        code, severity = [*node.args, None, None][:2]
        if isinstance(code, ast.Constant) and isinstance(severity, ast.Attribute):
            yield str(code.value), severity.attr.lower(), f"{path.name}:{node.lineno}"


def test_every_code_in_the_sources_is_in_the_table() -> None:
    known = {*kinds(), *OTHER_WORDS}
    unknown = {
        f"{word} ({where})"
        for path in sources(ROOT)
        for word, where in words_of(path)
        if word not in known
    }
    assert not unknown, "add the codes to sgx_enclaves/findings.toml, other words to OTHER_WORDS"


def test_every_row_of_the_table_is_reported_somewhere() -> None:
    reported = {word for path in sources(ROOT) for word, _ in words_of(path)}
    reported |= {f"{stage}-failed" for stage in STAGES}
    # The rpmlint id of a row is reported with the row.
    reported |= {kinds()[code].rpmlint for code in reported if code in kinds()}
    assert set(kinds()) - reported == set()


def test_a_finding_has_the_severity_of_its_row() -> None:
    wrong = {
        (code, severity, where)
        for path in sources(ROOT)
        for code, severity, where in severities_of(path)
        if kinds()[code].severity != severity
    }
    assert not wrong


def test_the_collector_sees_codes_of_every_kind(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('Finding("a-b", Severity.NOTE, "")\nCause("single", "")\nx = ("c-d", 1)\n')
    assert {word for word, _ in words_of(module)} == {"a-b", "single", "c-d"}
    assert list(severities_of(module)) == [("a-b", "note", "module.py:1")]


@pytest.mark.parametrize("code", kinds())
def test_a_row_is_complete(code: str) -> None:
    kind = kinds()[code]
    assert kind.severity in SEVERITIES
    assert kind.meaning[0].isupper()
    assert kind.meaning.endswith(".")
    assert kind.do.endswith(".")
    assert "|" not in kind.meaning + kind.do
    if kind.rpmlint:
        assert kinds()[kind.rpmlint].severity in ("error", "warning", "info")
    assert code.startswith("sgx-enclave-") == (kind.severity in ("error", "warning", "info"))


def test_the_severities_of_the_verdict_are_those_of_the_table() -> None:
    assert {s.value for s in Severity} <= set(SEVERITIES)


def test_the_page_of_findings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: make docs"
