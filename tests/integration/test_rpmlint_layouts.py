# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to install the check, and installed packages to look at."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.integration.linting import (
    SIGNED_NAME,
    VERIFIED_BY_A_NEIGHBOUR,
    VERSIONS,
    Lint,
    Rpmlint,
    Shop,
    build_wheel,
    make_environment,
    needs_tools,
    rpmlint_home,
    rpmlint_with_wheel,
    shop_of,
    site_packages,
)
from tests.integration.test_check_rpm import ROOT
from tests.support.once import made_once

pytestmark = needs_tools

CHECKS = ROOT / "rpmlint_checks" / "sgx_enclaves_rpmlint"
SYSTEM_RPMLINT = Path("/usr/bin/rpmlint")
SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shop_of(tmp_path_factory)


@pytest.fixture(name="distribution", params=VERSIONS)
def _distribution(request: pytest.FixtureRequest, tmp_path: Path) -> Rpmlint:
    """As a distribution's package does it: no hook, the check among rpmlint's own."""
    home = rpmlint_home(request.param)
    site = tmp_path / "site"
    shutil.copytree(site_packages(home) / "rpmlint", site / "rpmlint")
    shutil.copy(CHECKS / "SgxEnclaveCheck.py", site / "rpmlint" / "checks")
    shutil.copytree(ROOT / "sgx_enclaves", site / "sgx_enclaves")
    shutil.copytree(
        CHECKS,
        site / "sgx_enclaves_rpmlint",
        ignore=shutil.ignore_patterns("SgxEnclaveCheck.py", "hook.py", "__main__.py", "xdg"),
    )
    configuration = tmp_path / "etc-xdg" / "rpmlint"
    configuration.mkdir(parents=True)
    shutil.copy(CHECKS / "xdg" / "rpmlint" / "SgxEnclave.toml", configuration)
    python = home / "bin" / "python"
    settings = {"PYTHONPATH": str(site), "XDG_CONFIG_DIRS": str(configuration.parent)}
    return Rpmlint(request.param, python, home / "bin" / "rpmlint", tmp_path, settings)


def test_a_distributions_package(distribution: Rpmlint, shop: Shop) -> None:
    lint = distribution(shop.signed_rpm(), shop.unsigned_rpm())
    assert lint.ours == VERIFIED_BY_A_NEIGHBOUR, lint.text
    assert "etc-xdg/rpmlint/SgxEnclave.toml" in lint.text
    data, _at = shop.tampered()
    lint = distribution(shop.signed_rpm("tampered", data), shop.unsigned_rpm())
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text


def test_without_its_configuration_the_check_does_not_run(
    distribution: Rpmlint, shop: Shop
) -> None:
    """What the last test proves only if the file in the XDG folder is what loads the check."""
    Path(distribution.settings["XDG_CONFIG_DIRS"], "rpmlint", "SgxEnclave.toml").unlink()
    assert distribution(shop.signed_rpm(), only=False).ours == set()


def test_debians_own_rpmlint(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> None:
    """apt-get install rpmlint; our wheel in an environment that sees the system's packages."""
    if not SYSTEM_RPMLINT.exists():
        pytest.skip("the distribution's rpmlint is not installed")
    folder = tmp_path_factory.mktemp("debian")
    venv = folder / "venv"
    wheel = next(made_once(tmp_path_factory, "wheel", build_wheel).glob("*.whl"))
    make_environment(SYSTEM_PYTHON, wheel, venv)
    python = venv / "bin" / "python"
    rpmlint = Rpmlint("the system's", python, SYSTEM_RPMLINT, folder)
    lint = rpmlint(shop.signed_rpm(), shop.unsigned_rpm())
    assert lint.ours == VERIFIED_BY_A_NEIGHBOUR, lint.text
    data, _at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data), shop.unsigned_rpm())
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text


@pytest.fixture(scope="module", name="rpmlint", params=VERSIONS)
def _rpmlint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rpmlint:
    return rpmlint_with_wheel(request.param, tmp_path_factory)


@pytest.fixture(name="root")
def _root(shop: Shop, tmp_path: Path) -> Path:
    """Both packages installed, relocated, because a test must not install into the system."""
    argv = ["rpm", "--install", "--nodeps", "--noscripts", "--ignorearch"]
    argv += ["--dbpath", str(tmp_path / "db"), "--relocate", f"/usr={tmp_path}/usr"]
    argv += [str(shop.signed_rpm()), str(shop.unsigned_rpm())]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"rpm cannot install here: {done.stderr}")
    return tmp_path


def installed(rpmlint: Rpmlint, root: Path, *packages: Path) -> Lint:
    """`rpmlint -i` of the signed package."""
    # The option takes all that follows, up to the next option.
    options = ["--installed", SIGNED_NAME, "--permissive"]
    return rpmlint(*packages, options=options, rpmmacros=f"%_dbpath {root / 'db'}\n")


def test_an_installed_package(rpmlint: Rpmlint, root: Path) -> None:
    lint = installed(rpmlint, root)
    assert ("I", "sgx-enclave-verified") in lint.ours, lint.text
    assert {level for level, _kind in lint.ours} == {"I", "W"}
    file = next(root.glob("usr/**/libsgx_pce.signed.so.1.25.100.1"))
    # The folder, which is long here, gives way to what else is said.
    assert f"…/{file.name}; " in lint.of("sgx-enclave-verified")[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    lint = installed(rpmlint, root)
    assert ("E", "sgx-enclave-package-damaged") in lint.ours, lint.text
    assert "sgx-enclave-verified" not in lint.text


@pytest.mark.parametrize("kind", ["unsigned:latest", "signed", "signed:prebuilt"])
def test_an_installed_package_that_proves_nothing(
    rpmlint: Rpmlint, shop: Shop, tmp_path: Path, kind: str
) -> None:
    """It says that it is reproducible, too, and is no reference all the same."""
    files: dict[str, bytes | str] = {
        f"{ENCLAVE_FOLDER}libsgx_pce.so": shop.unsigned,
        "/usr/share/sgx-enclaves/pce.config.xml": shop.config,
    }
    provides = [f"sgx-enclave(pce:{k}) = 2.25" for k in (kind, "unsigned:reproducible")]
    name = "sgx-enclave-reproducible-pce-unsigned"
    package = shop.rpm(f"also-{kind}".replace(":", "-"), files, provides, name=name)
    argv = ["rpm", "--install", "--nodeps", "--noscripts", "--ignorearch"]
    argv += ["--dbpath", str(tmp_path / "db"), "--relocate", f"/usr={tmp_path}/usr", str(package)]
    subprocess.run(argv, check=True, capture_output=True)
    lint = rpmlint(shop.signed_rpm(), rpmmacros=f"%_dbpath {tmp_path / 'db'}\n")
    assert lint.ours == {("E", "sgx-enclave-not-reproduced")}, lint.text
    # On the command line it is no reference either.
    lint = rpmlint(shop.signed_rpm(), package)
    assert ("E", "sgx-enclave-not-reproduced") in lint.ours, lint.text
