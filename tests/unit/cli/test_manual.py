# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: complete, and without a complaint from groff."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.cli.main import parser_of

pytest.importorskip("argparse_manpage", reason="argparse-manpage is not installed")

import man_pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    man_pages.main(folder)
    return folder


def groff(page: str) -> tuple[str, str]:
    """The page as words on a terminal, and what groff complains about."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    result = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=200n", "-rHY=0"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    return " ".join(result.stdout.split()), result.stderr


def test_there_is_a_page_of_the_program_and_one_a_verb(pages: Path) -> None:
    expected = {"sgx-enclaves.1", *(f"sgx-enclaves-{verb}.1" for verb in VERBS)}
    assert {page.name for page in pages.iterdir()} == expected
    program = (pages / "sgx-enclaves.1").read_text()
    for verb in VERBS:
        assert f".BR {man_pages.escaped(f'sgx-enclaves-{verb}')} (1)" in program


def test_groff_has_no_complaint(pages: Path) -> None:
    for page in pages.iterdir():
        assert groff(page.read_text())[1] == "", page.name


def test_groff_complains_of_a_bad_page() -> None:
    assert groff('.TH X 1\n.SH NAME\nx \\- y\n.IPP "unclosed\n')[1] != ""


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_has_all_that_help_says(pages: Path, verb: str) -> None:
    shown, _ = groff((pages / f"sgx-enclaves-{verb}.1").read_text())
    assert f"NAME sgx-enclaves-{verb} - {VERBS[verb].summary}" in shown
    for word in (parser_of(verb).description or "").split():
        assert word in shown
    options = set(re.findall(r"--[a-z-]+", parser_of(verb).format_help()))
    for option in options - {"--help"}:  # it would say nothing on a page of the manual
        assert option in shown
    assert "exit status" in shown.lower()


def test_tables_become_lists() -> None:
    text = "A table:\n\n  same      yes\n  not same  no\n\nMore\nwords."
    assert man_pages.roff(text) == (
        "A table:\n.TP\n.B same\nyes\n.TP\n.B not same\nno\n.PP\nMore\nwords."
    )


def test_examples_keep_their_lines() -> None:
    assert man_pages.roff("    a \\\n      b") == ".IP\n.EX\na \\e\n  b\n.EE"


@pytest.mark.parametrize("text", [".so /etc/passwd", "'br"])
def test_a_line_of_text_is_never_a_request(text: str) -> None:
    assert man_pages.roff(text) == f"\\&{text}"
    assert text in groff(f".TH X 1\n.SH X\n{man_pages.roff(text)}\n")[0]
