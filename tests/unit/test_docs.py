# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents name is there: links lead somewhere, paths and verbs exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.cli.declare import VERBS
from sgx_enclaves.enclave.sdk import GENERATIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(#[^)]*)?\)")
_TOP = "sgx_enclaves|koji_plugin|rpmlint_checks|packaging|spec-templates|demo|benchmarks|tests|docs"
_PATH = re.compile(rf"`((?:{_TOP})/[^`*{{}}<>… ]*)`")
_VERB = re.compile(r"(?<![\w/`.-])sgx-enclaves ([a-z][a-z-]+)")


def names(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in _LINK.findall(page.read_text("utf-8"))]
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_paths_exist(page: Path) -> None:
    paths = _PATH.findall(page.read_text("utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_are_verbs(page: Path) -> None:
    blocks = re.findall(r"^(?: {4}|\$ ).*$", page.read_text("utf-8"), re.MULTILINE)
    used = {verb for line in blocks if "koji sgx" not in line for verb in _VERB.findall(line)}
    assert used - set(VERBS) == set()


def test_the_readme_says_which_releases_and_sdks_are_known() -> None:
    status = (ROOT / "README.md").read_text("utf-8").partition("## Status")[2]
    releases = load_catalogue((OWN_FOLDER,)).releases.values()
    pinned = {release.name for release in releases if not release.unpinned}
    assert set(re.findall(r"`(sgx-\d[^`]*)`", status.partition("- **SDKs")[0])) == pinned
    newest, oldest = GENERATIONS[0].releases[-1], GENERATIONS[-1].name
    assert f"SDK {oldest} to {newest}" in status


def test_the_readers_of_documents_say_no(tmp_path: Path) -> None:
    text = "[x](no.md) `docs/no.md`\n    sgx-enclaves frobnicate x\n"
    assert _LINK.findall(text)[0][0] == "no.md"
    assert _PATH.findall(text) == ["docs/no.md"]
    assert _VERB.findall(text) == ["frobnicate"]
