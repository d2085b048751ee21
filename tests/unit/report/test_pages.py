# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML report is one file, holds no script, and cannot be broken out of."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sgx_enclaves.enclave.verdict import ByteRange, Origin, Verdict
from sgx_enclaves.report.templated import verdict_html
from tests.unit.report.verdicts import DIFFERS, IDENTICAL, OURS, UNVERIFIABLE, evil

VOID = {"meta", "br"}
ALL = pytest.mark.parametrize("verdict", [IDENTICAL, DIFFERS, UNVERIFIABLE, evil()])


class Page(HTMLParser):
    """Reads a page; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@ALL
def test_a_page_is_well_formed_and_loads_nothing(verdict: Verdict) -> None:
    text = verdict_html(verdict)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base", "a"}
    assert not {a for a in page.attributes if a.startswith("on") or a in ("src", "href")}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src &#x27;none&#x27;" in text


def test_hostile_names_are_text() -> None:
    text = verdict_html(evil())
    assert "<script" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in Page(text).text
    assert "\\x1b[2J" in text


def test_it_says_all_that_matters() -> None:
    said = Page(verdict_html(DIFFERS)).text
    for part in (
        "DIFFERS: libsgx_pce.signed.so is not our build plus a signature",
        "23" * 32,
        OURS,
        "the claim about the policy",
        "payload-differs",
        "0x204",
        "interpreter-path",
        "PT_INTERP is /a in the vendor's file, /b in ours",
        "block 0 SIGSTRUCT.isvsvn",
        "12 more not listed",
        "Intel (PCE)",
        "unexplained",
    ):
        assert part in said
    assert "nothing else" in Page(verdict_html(IDENTICAL)).text
    assert "nothing else" not in Page(verdict_html(UNVERIFIABLE)).text


def test_the_page_stays_small_however_many_ranges_there_are() -> None:
    origins = (Origin.BUILT, Origin.UNEXPLAINED)
    ranges = tuple(ByteRange(n, n + 1, origins[n % 2]) for n in range(20_000))
    signed = replace(DIFFERS.signed, size=20_000)
    text = verdict_html(replace(DIFFERS, byte_map=ranges, signed=signed))
    assert len(text) < 100_000
    assert "19800 more ranges are not drawn" in text


def test_an_empty_file_has_a_page() -> None:
    empty = replace(UNVERIFIABLE, signed=replace(UNVERIFIABLE.signed, size=0), byte_map=())
    Page(verdict_html(empty))
