# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference is made from the code and leaves nothing out."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import reference_pages

from sgx_enclaves import limits
from sgx_enclaves.cli.declare import VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: "\n".join(lines) for name, lines in reference_pages.pages().items()}


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "docs/index.md").read_text("utf-8").splitlines()
    for name in PAGES:
        assert name.removesuffix(".md") in contents


def test_tables_are_whole() -> None:
    for name, text in PAGES.items():
        for table in re.findall(r"^\|.*(?:\n\|.*)*", text, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(widths) == 1, f"{name}: {table[:200]}"


def test_every_verb_and_what_it_says_of_its_status() -> None:
    for verb in VERBS:
        assert f"## {verb}\n" in PAGES["verbs.md"]
    statuses = PAGES["exit-status.md"]
    assert "| measure | Exit status 1 when a block" in statuses
    assert "| contents | With --expect the exit status is 1" in statuses
    assert "| show |" not in statuses


def test_every_key_of_a_schema() -> None:
    text = PAGES["release-keys.md"]
    for key in ("name", "build.source[].sha256", "enclave[].least_isvsvn", "run[].verdict"):
        assert f"| `{key}` |" in text
    for file in reference_pages.REPORTS.values():
        schema = json.loads((ROOT / "sgx_enclaves" / file).read_text("utf-8"))
        for key in schema.get("properties", {}):
            assert f"| `{key}` |" in PAGES["reports.md"]
    schemas = {
        str(p.relative_to(ROOT / "sgx_enclaves")) for p in ROOT.glob("sgx_enclaves/*/*.json")
    }
    pages = {*reference_pages.REPORTS.values(), reference_pages.ARGUMENTS}
    assert schemas == {*pages, "catalogue/schema.json"}


def test_every_call_of_the_hub() -> None:
    for argument in ("opts.allow_unpinned", "verdict", "queryOpts.limit"):
        assert f"| `{argument}` |" in PAGES["rpcs.md"]
    exported = [
        node.name
        for path in (ROOT / "koji_plugin/hub/sgx_enclaves_hub").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any("export" in ast.unparse(d) for d in node.decorator_list)
    ]
    assert len(exported) > 5
    for name in exported:
        assert re.search(rf"^## (host\.)?{name}$", PAGES["rpcs.md"], re.MULTILINE)


def test_every_limit_has_a_meaning() -> None:
    text = PAGES["limits.md"]
    for name in ("Limits", "ArchiveLimits", "PackageLimits"):
        assert f"## {name}\n" in text
        for field in vars(limits)[name]._record_fields:
            assert re.search(rf"^\| `{field}` \| .* \| \S.* \|$", text, re.MULTILINE), field


@pytest.mark.parametrize("key", ["reference", "signers", "least_isvsvn", "any_product", "quiet"])
def test_rpmlints_table(key: str) -> None:
    assert f"| `{key}` |" in PAGES["configuration.md"]


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {
        "properties": {"a": {"$ref": "#/definitions/node"}},
        "definitions": {
            "node": {"type": "object", "properties": {"b": {"$ref": "#/definitions/node"}}}
        },
    }
    assert [path for path, _, _ in reference_pages.keys_of(schema, schema, "", ())] == ["a", "a.b"]
