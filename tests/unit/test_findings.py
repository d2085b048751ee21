# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of findings has what the product reports, and nothing else."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from findings_page import SEVERITIES, as_markdown

from sgx_enclaves.enclave.verdict import Severity
from sgx_enclaves.errors import InputError
from sgx_enclaves.findings import TABLE, FindingKind, kinds
from sgx_enclaves.plain import parse_toml

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("sgx_enclaves", "koji_plugin", "rpmlint_checks")
# What a parameter, field or variable is called that holds a code.
NAMES = ("code", "kind_id")
# Codes that are put together where they are reported: f"{stage}-failed".
STAGES = ("sources", "toolchain", "build", "signed", "repack", "compare")

_DASHED = re.compile(r"[a-z]+(-[a-z0-9]+)+")


def sources(root: Path) -> Iterator[Path]:
    for folder in PRODUCT:
        yield from sorted((root / folder).rglob("*.py"))


class Codes:
    """Every code that modules report: what is given to a parameter or variable called `code`."""

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        self._trees = trees
        # Which argument of a function, or field of a class, is a code; by its name.
        self._arguments: dict[str, int] = {}
        # Functions that give tuples.
        self._functions: dict[str, ast.FunctionDef] = {}
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self._functions[node.name] = node
                    names = [argument.arg for argument in node.args.args]
                    self._note(node.name, [n for n in names if n not in ("self", "cls")])
                elif isinstance(node, ast.ClassDef):
                    fields = [f.target for f in node.body if isinstance(f, ast.AnnAssign)]
                    self._note(node.name, [f.id for f in fields if isinstance(f, ast.Name)])

    def _note(self, name: str, parameters: list[str]) -> None:
        for index, parameter in enumerate(parameters):
            if parameter in NAMES:
                self._arguments[name] = index

    def found(self) -> Iterator[tuple[str, str]]:
        """Each code, and where it stands."""
        for file, tree in self._trees.items():
            for node in ast.walk(tree):
                for value in self._values(node):
                    for text in _texts(value):
                        yield text, f"{file}:{getattr(node, 'lineno', 0)}"

    def _values(self, node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.Call):
            index = self._arguments.get(_name(node.func))
            if index is not None and len(node.args) > index:
                yield node.args[index]
            yield from (keyword.value for keyword in node.keywords if keyword.arg in NAMES)
        elif isinstance(node, ast.Tuple) and len(node.elts) > 3:
            # The words of a finding, before they are made one.
            yield from (first for first in node.elts[:1] if _is_dashed(first))
        elif isinstance(node, ast.Assign) and any(_name(t) in NAMES for t in node.targets):
            yield node.value
        elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Tuple):
            indexes = [i for i, part in enumerate(node.target.elts) if _name(part) in NAMES]
            for row in self._rows(node.iter):
                yield from (row.elts[index] for index in indexes if index < len(row.elts))

    def _rows(self, given: ast.AST) -> Iterator[ast.Tuple]:
        rows = getattr(given, "elts", [])
        function = self._functions.get(_name(given.func)) if isinstance(given, ast.Call) else None
        if function is not None:
            ends = [n for n in ast.walk(function) if isinstance(n, (ast.Yield, ast.Return))]
            rows = [node.value for node in ends]
        yield from (row for row in rows if isinstance(row, ast.Tuple))


def _is_dashed(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and bool(_DASHED.fullmatch(str(node.value)))


def _name(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


def _texts(value: ast.AST) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)


def codes_of(paths: Iterator[Path]) -> set[tuple[str, str]]:
    """What modules report, and where."""
    return set(Codes({str(p): ast.parse(p.read_text(encoding="utf-8")) for p in paths}).found())


@functools.cache
def codes_of_the_product() -> set[tuple[str, str]]:
    return codes_of(sources(ROOT))


def severities_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Code, severity and place of each finding that is written out in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "Finding":
            continue
        code, severity = [*node.args, None, None][:2]
        if isinstance(code, ast.Constant) and isinstance(severity, ast.Attribute):
            yield str(code.value), severity.attr.lower(), f"{path.name}:{node.lineno}"


def test_every_code_in_the_sources_is_in_the_table() -> None:
    unknown = {found for found in codes_of_the_product() if found[0] not in kinds()}
    assert not unknown, "add them to sgx_enclaves/findings.toml, then: make docs"


def test_every_row_of_the_table_is_reported_somewhere() -> None:
    reported = {code for code, _ in codes_of_the_product()}
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
    module.write_text(
        "class Thing:\n    code: str\n"
        "def report(self, code): pass\n"
        "def pairs():\n    yield ('in-a-tuple', 1)\n"
        "Thing('in-a-class')\nreport('in-a-call')\nreport(code='by-name')\n"
        "code = 'in-a-variable' if 1 else 'or-else'\n"
        "[report(code) for code, _ in pairs()]\n"
        "words = ('first-of-words', 'message', 'expected', 'found')\n"
        "other('no-code')\nFinding('with-severity', Severity.NOTE)\n"
    )
    assert {code for code, _ in codes_of(iter([module]))} == {
        *("in-a-class", "in-a-call", "by-name", "in-a-variable", "or-else", "in-a-tuple"),
        "first-of-words",
    }
    assert list(severities_of(module)) == [("with-severity", "note", "module.py:13")]


@pytest.mark.parametrize("code", kinds())
def test_a_row_is_complete(code: str) -> None:
    kind = kinds()[code]
    assert kind.severity in SEVERITIES
    assert kind.meaning[0].isupper()
    assert kind.meaning.endswith(".")
    assert kind.do.endswith(".")
    assert "|" not in kind.meaning + kind.do
    assert bool(kind.says) == (kind.severity == "cause")
    if kind.rpmlint:
        assert kinds()[kind.rpmlint].severity in ("error", "warning", "info")
    assert code.startswith("sgx-enclave-") == (kind.severity in ("error", "warning", "info"))


def test_the_table_is_read_as_any_reader_of_toml_reads_it() -> None:
    rows = parse_toml(TABLE.read_bytes(), file=str(TABLE), error=InputError)
    assert list(rows) == list(kinds())
    for code, row in rows.items():
        assert kinds()[code] == FindingKind(code, **row)


def test_the_severities_of_the_verdict_are_those_of_the_table() -> None:
    assert {s.value for s in Severity} <= set(SEVERITIES)


def test_the_page_of_findings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run: make docs"
