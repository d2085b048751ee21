# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/koji.md quotes messages and names settings: they must be those of the code."""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs/koji.md").read_text(encoding="utf-8")
# A quoted message of Koji's or the database's own.
_ELSEWHERES = (
    "configuration error",
    "Invalid method",
    "Error running preTag callback",
    "policy violation",
    "sgx-enclaves permission required",
)


def source() -> str:
    """All that the plugins and the core may say, strings joined over lines."""
    folders = ("sgx_enclaves", "koji_plugin")
    text = "".join(
        path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py")
    )
    return re.sub(r'"\s*\n\s*f?"', "", text)


def pieces(quote: str) -> list[str]:
    """The fixed parts of a quoted message: what stands between ellipses."""
    return [part.strip(" ,") for part in quote.split("…") if part.strip(" ,")]


def missing(quotes: Iterable[str]) -> list[str]:
    code = source()
    return [part for quote in quotes for part in pieces(quote) if part not in code]


def test_each_message_that_is_explained_is_one_that_is_said() -> None:
    section = DOCS.partition("3 a.m.")[2].partition("\n## ")[0]
    seen = [row.split("|")[1] for row in section.splitlines() if row.startswith("| ")]
    quotes = [quote for cell in seen for quote in re.findall(r'"([^"]+)"', cell)]
    own = [quote for quote in quotes if not quote.startswith(_ELSEWHERES)]
    assert len(own) > 5
    assert missing(own) == []


def test_a_message_that_nobody_says_is_seen() -> None:
    assert missing(["holds signed enclaves that were … for ever and ever"]) == ["for ever and ever"]


@pytest.mark.parametrize("half", ["builder", "hub"])
def test_each_setting_that_is_named_is_in_the_configuration(half: str) -> None:
    conf = (ROOT / f"koji_plugin/{half}/sgx_enclaves.conf").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {half} \| (`\[.*?) \|", DOCS, re.MULTILINE)
    assert rows
    for row in rows:
        section, *keys = re.findall(r"[\w\[\]]+", row)
        assert section in conf
        assert [key for key in keys if not re.search(rf"^#?{key} = ", conf, re.MULTILINE)] == []


def schema_of(half: str) -> Mapping[str, Any]:
    file = ROOT / f"koji_plugin/{half}/sgx_enclaves_{half}/config.schema.json"
    sections: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["properties"]
    return sections


@pytest.mark.parametrize("half", ["builder", "hub"])
def test_the_shipped_configuration_shows_each_option_of_the_schema(half: str) -> None:
    text = (ROOT / f"koji_plugin/{half}/sgx_enclaves.conf").read_text(encoding="utf-8")
    shown = configparser.ConfigParser(interpolation=None, default_section="", delimiters=("=",))
    shown.read_string(re.sub(r"^#(?=\S+ =)", "", text, flags=re.MULTILINE))
    schema = schema_of(half)
    assert set(shown.sections()) == set(schema)
    for name, section in schema.items():
        assert "properties" not in section or set(shown[name]) == set(section["properties"])


@pytest.mark.parametrize("half", ["builder", "hub"])
def test_the_schema_says_what_each_option_is(half: str) -> None:
    """The description is what a message names as expected: where it is missing, nothing is said."""
    for section in schema_of(half).values():
        others = section["additionalProperties"]
        for option in (*section.get("properties", {}).values(), *filter(None, [others])):
            assert "description" in option.get("items", option)
            assert "minItems" not in option or "description" in option
