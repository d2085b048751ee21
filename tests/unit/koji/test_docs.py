# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/koji.md quotes messages and names settings: they must be those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

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
