# SPDX-License-Identifier: GPL-2.0-or-later
"""The rendered source packages in a real mock, one after the other as in a build system.

MOCK names the program, MOCK_ROOT a configuration of it (a name or a file) whose repositories
have what the packages require, but for our own packages, which are built here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from demo.command import ROOT
from demo.packages import Workshop, install
from demo.release import ENCLAVE_LIST, VERSION
from demo.source_packages import KINDS, Stock, make_source_packages, pack, prepare, write_spec
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER

_NAMED = {name: os.environ.get(name, "") for name in ("MOCK", "MOCK_ROOT")}
_OURS = ("python3-sgx-enclaves-", "sgx-enclaves-")
_DEADLINE = 1800

pytestmark = [
    pytest.mark.skipif(not all(_NAMED.values()), reason="needs a mock: MOCK and MOCK_ROOT"),
    pytest.mark.skipif(not shutil.which("createrepo_c"), reason="createrepo_c is not installed"),
]


@dataclass(frozen=True)
class Buildroot:
    """Builds source packages in mock, each with the packages that were built before it."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    def add(self, packages: list[Path]) -> None:
        self.repository.mkdir(exist_ok=True)
        for package in packages:
            shutil.copy(package, self.repository)
        subprocess.run(["createrepo_c", "--quiet", self.repository], check=True)

    def build(self, source: Path, name: str) -> tuple[int, str, list[Path]]:
        """Exit status, the build's log and mock's words, and the packages."""
        results = self.folder / name
        results.mkdir()
        results.chmod(0o777)
        argv = [_NAMED["MOCK"], "--root", _NAMED["MOCK_ROOT"], "--resultdir", str(results)]
        argv += ["--addrepo", self.repository.as_uri(), "--rebuild", str(source)]
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=_DEADLINE, cwd="/"
        )
        log = results / "build.log"
        text = (log.read_text(errors="replace") if log.exists() else "") + done.stdout + done.stderr
        built = [path for path in results.glob("*.rpm") if not path.name.endswith(".src.rpm")]
        return done.returncode, text, built


@pytest.fixture(scope="module", name="stock")
def _stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return prepare(tmp_path_factory.mktemp("vendor"))


@pytest.fixture(scope="module", name="buildroot")
def _buildroot() -> Iterator[Buildroot]:
    # mock reads and writes as an ordinary user, to whom pytest's own directories are closed
    with TemporaryDirectory(prefix="sgx-enclaves-mock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield _with_own_packages(folder)


def _with_own_packages(folder: Path) -> Buildroot:
    command = ["packaging/build-rpm", str(folder / "own"), "--nocheck", "--without", "tests"]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
    )
    buildroot = Buildroot(folder)
    own = [p for p in (folder / "own").glob("RPMS/*/*.rpm") if p.name.startswith(_OURS)]
    buildroot.add(own)
    return buildroot


def test_each_kind_is_built_and_what_differs_is_not(
    stock: Stock, buildroot: Buildroot, tmp_path: Path
) -> None:
    sources = make_source_packages(buildroot.folder / "honest", stock)
    for kind in KINDS:
        status, log, packages = buildroot.build(getattr(sources, kind), kind)
        assert status == 0, log[-4000:]
        assert len(packages) == len(ENCLAVE_LIST) + 1
        if kind == "reproducible":
            buildroot.add(packages)
            continue
        done = install(packages, tmp_path / kind)
        assert done.status == 0, done.text
        for enclave in ENCLAVE_LIST:
            file = tmp_path / kind / f"{ENCLAVE_FOLDER[1:]}{enclave.signed}.{VERSION}"
            assert file.read_bytes() == stock.signed[enclave.signed]

    pce = ENCLAVE_LIST[0].signed
    forged = replace(stock, signed={**stock.signed, pce: stock.forged})
    laid = forged.lay_out(tmp_path / "forged")
    package = pack(Workshop(buildroot.folder, tmp_path), write_spec("prebuilt", laid), laid)
    status, log, packages = buildroot.build(package, "forged")
    assert status != 0
    assert "DIFFERS" in log
    assert "(%check)" in log
    assert packages == []
