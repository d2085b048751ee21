# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs build and fetch, as a user calls them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from sgx_enclaves.cli.main import main
from sgx_enclaves.release.manifest import load_built
from sgx_enclaves.release.sandbox import Isolation, best_isolation
from tests.enclaves.compiled import have_toolchain
from tests.integration.release.building import SmallRelease, wrapper
from tests.vendor_server import Authority, VendorServer

pytestmark = pytest.mark.skipif(not have_toolchain(), reason="needs gcc, ld, strip and make")


def run_build(small: SmallRelease, into: Path, *more: str, release: str = "small-1") -> int:
    small.catalogue()
    # as in chroots, and in most containers
    alone = best_isolation()[0] is not Isolation.NONE
    return main(
        [
            *("build", release, *more, *([] if alone else ["--allow-no-isolation"])),
            *("--into", str(into)),
            *("--catalogue", str(small.releases), "--cache", str(small.cache), "--offline"),
        ]
    )


def test_build_says_what_was_built(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_build(small, into) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    for line, enclave in zip(lines, load_built(into).enclaves):
        assert line.startswith(f"{enclave.name}: {into}/libsgx_{enclave.file}.so")
        assert line.endswith(hashlib.sha256(enclave.unsigned).hexdigest())
    assert "built with the designated toolchain from pinned sources" in output.out
    assert "NOT BUILT" not in output.out
    assert "make-pce: make pce" in output.err


def test_build_as_json_is_the_manifest(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_build(small, into, "pce", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((into / "manifest.json").read_text())
    assert [enclave["name"] for enclave in said["enclaves"]] == ["pce"]


def test_a_failed_enclave_is_status_2(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.files["GNUmakefile"] = wrapper("test $@ = pce")
    assert run_build(small, into) == 2
    out = capsys.readouterr().out
    assert (
        f"qe3: NOT BUILT: make-qe3 failed with exit status 2; see {into}/logs/make-qe3.log" in out
    )
    assert "pce: NOT BUILT" not in out


def test_a_failed_build_is_resumed_by_the_same_command(
    small: SmallRelease, into: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if best_isolation()[0] is Isolation.NONE:
        pytest.skip("without isolation nothing is kept")
    small.steps = {
        "first": ["sh", "-c", "echo once >>first.txt; cat first.txt"],
        "second": ["sh", "-c", "test -e ../again || { touch ../again; exit 3; }"],
    }
    assert run_build(small, into) == 2
    (trees,) = (small.cache / "work" / "trees").glob("*/*")
    assert f"the trees are kept in {trees}" in capsys.readouterr().err
    assert run_build(small, into) == 0
    assert "first: finished in an earlier run" in capsys.readouterr().err
    assert (into / "logs" / "first.log").read_text().count("\nonce") == 1
    assert not any((small.cache / "work" / "trees").iterdir())
    # what is whole is never built over
    assert run_build(small, into) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    assert run_build(small, tmp_path / "other") == 2


def test_a_tree_in_which_all_was_built_is_resumed_beside_one_that_failed(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if best_isolation()[0] is Isolation.NONE:
        pytest.skip("without isolation nothing is kept")
    newer = SmallRelease(small.folder, root="/newer-build/tree")
    newer.steps = {"late": ["sh", "-c", "test -e ../again || { touch ../again; exit 3; }"]}
    text = newer.toml().replace('name = "small-1"', 'name = "small-2"')
    head, _build, rest = text.partition("[enclave.build]")
    _pce, enclave, qe3 = rest.partition("[[enclave]]")
    small.catalogue()
    text = head + 'built_in = "small-1"\n\n' + enclave + qe3
    (small.releases / "newer.toml").write_text(text)
    assert run_build(small, into, release="small-2") == 2
    assert run_build(small, into, release="small-2") == 0
    assert "make-pce: finished in an earlier run" in capsys.readouterr().err


def test_trees_whose_inputs_changed_do_not_stay(small: SmallRelease, into: Path) -> None:
    if best_isolation()[0] is Isolation.NONE:
        pytest.skip("without isolation nothing is kept")
    kept: list[Path] = []
    for status in (3, 4):
        small.steps = {"fails": ["sh", "-c", f"exit {status}"]}
        assert run_build(small, into) == 2
        kept += (small.cache / "work" / "trees").glob("*/*")
    assert len(set(kept)) == 2
    assert not kept[0].exists()
    # other enclaves are another matter
    assert run_build(small, into, "pce") == 2
    assert kept[1].exists()


def test_another_toolchain_is_status_2_and_host_says_so(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.gcc = "9.5.0"
    assert run_build(small, into) == 2
    assert "expected gcc 9.5.0" in capsys.readouterr().err
    assert run_build(small, into, "--toolchain=host") == 0
    assert "built with ANOTHER TOOLCHAIN" in capsys.readouterr().out


def test_not_reproducible_is_status_1_and_says_where(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = 'EXTRA = "CFLAGS_EXTRA=-DBUILD_STAMP=\'\\"$(CURDIR)\\"\'"\n'
    small.files["GNUmakefile"] = extra.encode() + wrapper()
    assert run_build(small, into, "pce", "--twice") == 1
    out = capsys.readouterr().out
    assert "NOT REPRODUCIBLE with other path" in out
    assert "  libsgx_pce.so at 0x" in out
    assert ".rodata" in out


def test_reproducible_is_said(
    small: SmallRelease, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_build(small, into, "pce", "--twice") == 0
    assert "\nreproducible: the same again with other path" in capsys.readouterr().out
    left = {path.name for path in into.iterdir() if "libsgx" not in path.name}
    assert left == {"logs", "manifest.json"}


def test_a_tree_of_our_own_is_reported_as_unpinned(
    small: SmallRelease, into: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in small.files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert run_build(small, into, "--source-dir", str(tmp_path / "tree")) == 0
    assert "from UNPINNED SOURCES" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--jobs=0", "--make-timeout=-1", "--jobs=x"])
def test_senseless_numbers_are_refused(small: SmallRelease, into: Path, option: str) -> None:
    assert run_build(small, into, option) == 2
    assert not into.exists()


class Vendor:
    """A release whose files a server has."""

    def __init__(self, small: SmallRelease, server: VendorServer, authority: Authority) -> None:
        self.source, self.signed = b"source archive", b"signed archive"
        toml = small.toml()
        url = server.put("/v.tar.gz", self.signed)
        main_url = server.put("/main.tar.gz", self.source)
        digest = toml.split('sha256 = "')[1][:64]
        toml = toml.replace(digest, hashlib.sha256(self.source).hexdigest())
        toml = toml.replace("https://v.invalid/main.tar.gz", main_url)
        toml = toml.replace(
            'urls = ["https://v.invalid/v.tar.gz"]',
            f'urls = ["{url}"]\nsha256 = "{hashlib.sha256(self.signed).hexdigest()}"',
        )
        toml = toml.replace('"vendor.v", ', "")
        small.releases.mkdir(parents=True)
        (small.releases / "small.toml").write_text(toml)
        self._arguments = [
            *("fetch", "small-1", "--catalogue", str(small.releases)),
            *("--cache", str(small.folder / "empty"), "--ca-file", str(authority.ca_file)),
            *("--attempts", "1"),
        ]

    def fetch(self, *more: str) -> int:
        return main([*self._arguments, *more])


@pytest.fixture
def served(small: SmallRelease, vendor: VendorServer, authority: Authority) -> Vendor:
    return Vendor(small, vendor, authority)


def _files(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return list(json.loads(capsys.readouterr().out)["files"])


@pytest.mark.parametrize(
    ("what", "kinds"),
    [("all", ["source", "signed"]), ("sources", ["source"]), ("signed", ["signed"])],
)
def test_fetch_brings_what_is_asked_for(
    served: Vendor,
    vendor: VendorServer,
    what: str,
    kinds: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert served.fetch("--what", what, "--json") == 0
    files = _files(capsys)
    assert [item["kind"] for item in files] == kinds
    for item in files:
        content = served.source if item["kind"] == "source" else served.signed
        assert Path(item["path"]).read_bytes() == content
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        assert item["pinned"] is True
    assert bool(vendor.asked("/main.tar.gz")) == ("source" in kinds)
    assert bool(vendor.asked("/v.tar.gz")) == ("signed" in kinds)


def test_what_is_here_is_not_fetched_again_and_serves_offline(
    served: Vendor, vendor: VendorServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.fetch() == 0
    assert "source main: " in capsys.readouterr().out
    assert served.fetch("--offline") == 0
    assert len(vendor.asked("/main.tar.gz")) == 1


def test_offline_without_the_file_is_refused(
    served: Vendor, vendor: VendorServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.fetch("--offline") == 2
    assert "is not in the cache" in capsys.readouterr().err
    assert not vendor.asked("/main.tar.gz")


def test_another_file_than_the_pinned_one_is_refused(
    served: Vendor, vendor: VendorServer, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor.put("/main.tar.gz", b"source archivf")
    assert served.fetch() == 2
    err = capsys.readouterr().err
    assert hashlib.sha256(b"source archive").hexdigest() in err
    assert hashlib.sha256(b"source archivf").hexdigest() in err


def test_an_unpinned_archive_must_be_allowed(
    served: Vendor, small: SmallRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.releases / "small.toml"
    text = path.read_text()
    pin = f'\nsha256 = "{hashlib.sha256(served.signed).hexdigest()}"'
    path.write_text(text.replace(pin, "").replace("unpinned = [", 'unpinned = ["vendor.v", '))
    assert served.fetch("--what", "signed") == 2
    assert "has no pinned digest" in capsys.readouterr().err
    assert served.fetch("--what", "signed", "--allow-unpinned") == 0
    assert "NOT PINNED" in capsys.readouterr().out


def test_of_an_unknown_release_it_is_said_what_lists_them(
    served: Vendor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served.fetch() == 0
    assert main(["fetch", "sgx-9.9"]) == 2
    assert "`releases list` lists all" in capsys.readouterr().err


@pytest.mark.skipif(best_isolation()[0] is Isolation.NONE, reason="needs a sandbox")
def test_releases_check_asks_make_for_the_targets_and_makes_nothing(
    small: SmallRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("releases", "check", "small-1", "pce", "--catalogue", str(small.releases)),
        *("--cache", str(small.cache), "--offline"),
    ]
    small.files["GNUmakefile"] = wrapper() + b"$(shell echo made > made)\n"
    small.steps = {"one": ["make", "-f", "Makefile", "list", "OUT=b"]}
    small.catalogue()
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [
        "step one: list: as it says",
        "enclave pce: pce: as it says",
        "small-1: nothing of that is wrong",
    ]
    small.files["GNUmakefile"] = b"other:\n\techo $@\n"
    small.steps = {"one": ["make", "-f", "Makefile", "list", "gone", "OUT=b"]}
    small.catalogue()
    assert main(words) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [
        "step one: list, gone: make knows no gone",
        "enclave pce: pce: make knows no pce",
        "small-1: 2 of that is wrong",
    ]
