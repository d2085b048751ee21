# SPDX-License-Identifier: GPL-2.0-or-later
"""`show --html` draws a file, and `--open` opens a page where there is a desktop."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest

from sgx_enclaves.cli.main import main
from tests.golden import enclaves
from tests.support.signed import fips_enclave, signed_enclave
from tests.unit.report.test_pages import Page

EVIL = '<script>alert(1)</script>".so'


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    case = signed_enclave("2.17")
    files = {
        "signed.so": case.signed,
        "built.so": case.built,
        "fips.so": fips_enclave().signed,
        "elrange.so": enclaves.synthetic()["elrange"].signed,
        "config.xml": case.config,
        EVIL: case.signed,
    }
    for name, data in files.items():
        (tmp_path / name.replace("/", "_")).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["signed.so", "built.so", "fips.so", "elrange.so", EVIL])
def test_a_page_is_well_formed_and_loads_nothing(folder: Path, name: str) -> None:
    assert main(["show", name.replace("/", "_"), "--html", "page.html"]) == 0
    text = (folder / "page.html").read_text("utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base", "a"}
    assert not {a for a in page.attributes if a.startswith("on") or a in ("src", "href")}
    assert "Nothing on this page was verified" in page.text
    assert ("The address space" in page.text) is (name != "built.so")
    assert ("The signature" in page.text) is (name != "built.so")


def test_what_is_drawn(folder: Path) -> None:
    assert main(["show", "signed.so", "--html", "page.html"]) == 0
    text = (folder / "page.html").read_text("utf-8")
    for title in (
        "segment 0 r-x, 0x0 to ",
        "HEAP_MIN REG rw-",
        "TCS TCS",
        "enclavehash: MRENCLAVE",
    ):
        assert f"<title>{title}" in text
    for kind in ("code", "data", "heap", "threads", "metadata", "signed", "key-and-signature"):
        assert f'<rect class="{kind}"' in text


def test_a_page_is_not_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "page.html").write_text("mine")
    assert main(["show", "signed.so", "--html", "page.html"]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert (folder / "page.html").read_text() == "mine"
    assert main(["show", "signed.so", "--html", "page.html", "--force"]) == 0


RUNS = {
    "show signed.so --html page.html": "page.html",
    "compare built.so signed.so --config config.xml --report report": "report/verdict.html",
}


@pytest.mark.parametrize("run", RUNS)
def test_a_page_is_opened_on_a_desktop(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    main([*run.split(), "--open"])
    assert opened == []
    assert f"there is no desktop here: open {RUNS[run]} yourself" in capsys.readouterr().err
    monkeypatch.setenv("DISPLAY", ":0")
    main([*run.split(), "--open", *(["--force"] if run.startswith("show") else [])])
    assert opened == [(folder / RUNS[run]).as_uri()]


@pytest.mark.parametrize("run", [run.rpartition(" --")[0] for run in RUNS])
def test_nothing_to_open_is_a_mistake(
    folder: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    assert folder.is_dir()
    assert main([*run.split(), "--open"]) == 2
    assert "--open opens the page that is written; add --" in capsys.readouterr().err
