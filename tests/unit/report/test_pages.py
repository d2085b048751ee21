# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML report is one file, holds no script, and cannot be broken out of."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.enclave.verdict import NOT_PROVED, ByteRange, Origin, Verdict
from sgx_enclaves.report.templated import verdict_html
from tests.unit.report.verdicts import DIFFERS, IDENTICAL, OURS, UNVERIFIABLE, evil

ROOT = Path(__file__).resolve().parents[3]
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
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not {a for a in page.attributes if a.startswith("on") or a == "src"}
    # a link is followed by who clicks on it
    (link,) = re.findall(r'href="(.*?)"', text)
    home = re.search("^url = (.*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert home is not None
    assert link == home[1]
    assert "docs/fesco.md of <a" in text
    assert (ROOT / "docs" / "fesco.md").is_file()
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
    undecided = Page(verdict_html(UNVERIFIABLE)).text
    assert "it is undecided whether" in undecided
    assert "Proved:nothing." in undecided


def test_the_page_stays_small_however_many_ranges_there_are() -> None:
    origins = (Origin.BUILT, Origin.UNEXPLAINED)
    ranges = tuple(ByteRange(n, n + 1, origins[n % 2]) for n in range(20_000))
    signed = replace(DIFFERS.signed, size=20_000)
    text = verdict_html(replace(DIFFERS, byte_map=ranges, signed=signed))
    assert len(text) < 20_000


def test_a_single_foreign_byte_is_seen_in_the_picture() -> None:
    ranges = (
        ByteRange(0, 1 << 20, Origin.BUILT),
        ByteRange(1 << 20, (1 << 20) + 1, Origin.UNEXPLAINED),
        ByteRange((1 << 20) + 1, 2 << 20, Origin.BUILT),
    )
    signed = replace(DIFFERS.signed, size=2 << 20)
    text = verdict_html(replace(DIFFERS, byte_map=ranges, signed=signed))
    bar = re.search(r'<rect class="unexplained" x="(\d+)" y="0" width="(\d+)" height="40"/>', text)
    assert bar is not None
    assert int(bar[1]) == 500
    assert int(bar[2]) >= 3


def test_the_picture_is_in_scale_and_magnifies_the_metadata() -> None:
    text = verdict_html(IDENTICAL)
    whole, magnified = re.findall(r'<svg class="map".*?</svg>', text, re.S)
    bars = re.findall(r'class="(\S+)" x="(\d+)" y="\d+" width="(\d+)"', whole)
    assert bars == [
        ("built", "0", "500"),
        ("regenerated", "500", "450"),
        ("signature", "950", "50"),
    ]
    assert 'class="built"' not in magnified
    assert "0x3e8" in text
    assert "0x7d0" in text


def test_the_policy_in_force_and_what_is_taken_on_trust_are_on_the_page() -> None:
    said = Page(verdict_html(IDENTICAL)).text
    for part in (
        "Not proved",
        *NOT_PROVED,
        "Policy in force",
        "16 or more",
        "catalogue",
        "refused",
    ):
        assert part in said
    lenient = policy_for(None, mrsigners=["ab" * 32], allow_debug=True)
    said = Page(verdict_html(replace(IDENTICAL, policy=lenient))).text
    for part in ("ab" * 32, "not asked", "accepted on purpose", "option", "not named"):
        assert part in said


def contrast(one: str, other: str) -> float:
    """As WCAG 2 computes it of two #rrggbb."""

    def linear(part: int) -> float:
        value = part / 255
        return value / 12.92 if value <= 0.03928 else float(((value + 0.055) / 1.055) ** 2.4)

    def luminance(colour: str) -> float:
        red, green, blue = (linear(int(colour[at : at + 2], 16)) for at in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_shapes_stand_out_in_both_palettes() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", verdict_html(IDENTICAL), re.S)
    for palette in (light, dark):
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", palette))
        for name in ("text", "faint", "link", "ok", "bad", "unsure"):
            assert contrast(colours[name], colours["page"]) >= 4.5, name
        for name in ("built", "regenerated", "signature", "second", "bad"):
            assert contrast(colours[name], colours["page"]) >= 3, name


def test_tables_have_captions_and_heads_and_the_page_landmarks() -> None:
    text = verdict_html(DIFFERS)
    assert text.count("<caption>") == text.count("<table")
    assert text.count("<th ") == text.count('<th scope="col">')
    assert {"header", "main", "footer"} <= Page(text).tags
    assert text.count("<svg") == text.count('role="img" aria-label="') + text.count("aria-hidden")


def test_an_empty_file_has_a_page() -> None:
    empty = replace(UNVERIFIABLE, signed=replace(UNVERIFIABLE.signed, size=0), byte_map=())
    Page(verdict_html(empty))
