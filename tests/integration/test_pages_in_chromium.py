# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages in a real headless Chromium: as wide as the screen, no request, and axe finds nothing.

Needs Chromium, and what drives it: `make pages`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.enclave.verdict import Origin
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.explain.picture import picture_of
from sgx_enclaves.release.outcome import EnclaveOutcome
from sgx_enclaves.report.templated import release_html, verdict_html
from tests.enclaves.compiled import PARTS, have_toolchain, variant_file
from tests.integration.test_check_rpm import signed_by_vendor
from tests.support.keys import mrsigner, vendor_key
from tests.support.once import built_enclaves
from tests.unit.release.test_verify_outcome import OPEN, judged

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
AXE = find_spec("axe_playwright_python")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
    pytest.mark.skipif(not find_spec("playwright"), reason="playwright is not installed"),
    pytest.mark.skipif(not AXE, reason="axe is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Here: else it takes memory in every process of a run, and each of their forks copies that.
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An identical enclave, one with another constant, and a release of both."""
    folder = tmp_path_factory.mktemp("pages")
    enclaves = built_enclaves(tmp_path_factory)
    config = PARTS["pce"].config.read_bytes()
    built = enclaves / PARTS["pce"].file
    policy = policy_for(None, mrsigners=[mrsigner(vendor_key())])
    texts, outcomes, pictures = {}, [], {}
    for name, source in (("identical", built), ("differs", variant_file(enclaves, "constant"))):
        files = (built.read_bytes(), signed_by_vendor(source, config))
        verdict = explained(compare(*files, config, policy), *files, config)
        assert verdict.outcome.value == name
        pictures[name] = picture_of(verdict, *files)
        texts[name] = verdict_html(verdict, pictures[name])
        outcomes.append(EnclaveOutcome(replace(OPEN.enclave, name=name), "", (), verdict))
    texts["release"] = release_html(judged(*outcomes), pictures, {}, "")
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["identical", "differs", "release"])
def test_a_page_fits_asks_for_nothing_and_is_accessible(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 900}
    # axe is a script; the page itself lets none run
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(pages[name].as_uri())
    assert requests == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    thinnest = page.evaluate(
        "Math.min(99, ...[...document.querySelectorAll('.map .unexplained')]"
        ".map(bar => bar.getBoundingClientRect().width))"
    )
    assert thinnest >= 3
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert AXE is not None
    assert AXE.origin is not None
    page.evaluate(Path(AXE.origin).with_name("axe.min.js").read_text())
    found = page.evaluate("axe.run()")
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    context.close()


@pytest.mark.parametrize("name", ["identical", "differs", "release"])
def test_a_page_is_printed_whole_and_black_on_white(
    browser: Any, pages: dict[str, Path], name: str
) -> None:
    """A sheet of A4 has 720 of these pixels; on a screen this page is dark."""
    context = browser.new_context(viewport={"width": 720, "height": 900}, color_scheme="dark")
    page = context.new_page()
    page.goto(pages[name].as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 720
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    assert page.evaluate(colour) == "rgb(21, 23, 26)"
    context.close()


def test_no_script_runs_in_a_page(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["identical"].read_text().replace("</main>", "<script>document.title='!'</script>")
    (tmp_path / "page.html").write_text(text)
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title().startswith("IDENTICAL")
    page.close()


def test_what_is_drawn(pages: dict[str, Path]) -> None:
    text = pages["differs"].read_text()
    for part in (
        "<mark>1f</mark>",
        "Segments of the vendor&#39;s file",
        ".text",
        "The address space",
        "HEAP_MIN",
        f'class="{Origin.UNEXPLAINED.value}"',
    ):
        assert part in text
    objdump: Optional[str] = shutil.which("objdump")
    assert ("The code at 0x" in text) is (objdump is not None)
