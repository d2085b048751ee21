# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings of the real rpmlint, old and new, with our check from the project's wheel."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from tests.enclaves.compiled import PARTS, build_enclaves, variant_file
from tests.integration.linting import (
    ERRORS,
    FULL,
    TOO_BAD,
    VERIFIED_BY_A_NEIGHBOUR,
    VERSIONS,
    Lint,
    Rpmlint,
    Shop,
    needs_tools,
    rpmlint_home,
    rpmlint_with_wheel,
    shop_of,
)
from tests.integration.test_check_rpm import ROOT, signed_by_vendor

pytestmark = needs_tools


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shop_of(tmp_path_factory)


@pytest.fixture(scope="module", name="rpmlint", params=VERSIONS)
def _rpmlint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rpmlint:
    return rpmlint_with_wheel(request.param, tmp_path_factory)


def test_the_installed_version(rpmlint: Rpmlint) -> None:
    assert rpmlint(options=["--version"]).text.strip() == rpmlint.version


def assert_compared_with(detail: str) -> None:
    """With a package that nobody has signed: the line has room for what limits the good news."""
    words = "…/libsgx_pce.signed.so.1.25.100.1; reference unauthenticated; version not checked; "
    assert detail.strip().startswith(f"{words}policy: signer by option"), detail


def test_a_neighbour_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    lint = rpmlint(shop.signed_rpm(), shop.unsigned_rpm())
    assert lint.ours == VERIFIED_BY_A_NEIGHBOUR, lint.text
    assert lint.status == 0
    (detail,) = lint.of("sgx-enclave-verified")
    assert_compared_with(detail)


def test_a_configured_folder_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    folder = shop.folder / "reference"
    folder.mkdir(exist_ok=True)
    (folder / "libsgx_pce.so").write_bytes(shop.unsigned)
    (folder / "libsgx_pce.config.xml").write_bytes(shop.config)
    lint = rpmlint(shop.signed_rpm(), table=f'reference = "{folder}"')
    assert lint.ours == {("I", "sgx-enclave-verified")}, lint.text


def test_an_installed_package_verifies(rpmlint: Rpmlint, shop: Shop) -> None:
    """Relocated, because a test must not install into the system."""
    root = shop.folder / f"installed-{rpmlint.version}"
    database = root / "db"
    argv = ["rpm", "--install", "--nodeps", "--noscripts", "--ignorearch"]
    argv += ["--dbpath", str(database), "--relocate", f"/usr={root}/usr"]
    done = subprocess.run(
        [*argv, str(shop.unsigned_rpm())], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"rpm cannot install here: {done.stderr}")
    macros = f"%_dbpath {database}\n"
    lint = rpmlint(shop.signed_rpm(), rpmmacros=macros)
    assert lint.ours == VERIFIED_BY_A_NEIGHBOUR, lint.text
    assert_compared_with(lint.of("sgx-enclave-verified")[0])
    library = next(root.glob("usr/**/libsgx_pce.so"))
    library.write_bytes(shop.unsigned[:-1] + b"?")
    lint = rpmlint(shop.signed_rpm(), rpmmacros=macros)
    assert ("E", "sgx-enclave-reference-unusable") in lint.ours, lint.text


def test_no_counterpart(rpmlint: Rpmlint, shop: Shop) -> None:
    lint = rpmlint(shop.signed_rpm())
    assert lint.ours == {("E", "sgx-enclave-not-reproduced")}, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_the_newest_toolchain_is_never_a_reference(rpmlint: Rpmlint, shop: Shop) -> None:
    latest = shop.unsigned_rpm("sgx-enclave-latest-pce-unsigned", "latest")
    lint = rpmlint(shop.signed_rpm(), latest)
    assert lint.ours == {("E", "sgx-enclave-not-reproduced")}, lint.text


def test_one_changed_byte(rpmlint: Rpmlint, shop: Shop) -> None:
    data, at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data=data), shop.unsigned_rpm())
    assert lint.ours == {("E", "sgx-enclave-payload-differs")}, lint.text
    (detail,) = lint.of("sgx-enclave-payload-differs")
    assert "cause " in detail.split("; ")[0]
    assert f"; …/libsgx_pce.signed.so.1.25.100.1; offset 0x{at:x}" in detail
    assert lint.status in (ERRORS, TOO_BAD)


def test_stripped_by_rpmbuild(rpmlint: Rpmlint, shop: Shop) -> None:
    built = variant_file(shop.folder, "unstripped")
    if not built.exists():
        build_enclaves(shop.folder, "variant-unstripped")
        (built.parent / "libsgx_pce.config.xml").write_bytes(shop.config)
    stripped = shop.folder / "stripped.so"
    stripped.write_bytes(signed_by_vendor(built, shop.config))
    subprocess.run(["strip", "--strip-unneeded", str(stripped)], check=True, capture_output=True)
    package = shop.signed_rpm("stripped", data=stripped.read_bytes())
    lint = rpmlint(package, table=f'reference = "{built.parent}"')
    assert ("E", "sgx-enclave-stripped-differently") in lint.ours, lint.text
    assert ("E", "sgx-enclave-payload-differs") in lint.ours


def test_an_enclave_under_another_name(rpmlint: Rpmlint, shop: Shop) -> None:
    package = shop.rpm("pictures", {"/usr/share/picture.jpg": shop.signed}, [])
    lint = rpmlint(package, shop.unsigned_rpm())
    assert ("E", "sgx-enclave-not-reproduced") in lint.ours, lint.text
    assert ("W", "sgx-enclave-name-unconventional") in lint.ours


def test_an_ordinary_package_is_left_alone(rpmlint: Rpmlint, shop: Shop) -> None:
    program = Path("/bin/true").read_bytes()
    lint = rpmlint(shop.rpm("ordinary", {"/usr/bin/true": program}, ["something"]))
    assert lint.ours == set(), lint.text
    assert lint.status == 0


@pytest.mark.parametrize(
    "rc",
    [
        'addFilter("sgx-enclave")\naddFilter(".*")',
        'setBadness("sgx-enclave-payload-differs", 0)',
        "setBadness('sgx-enclave-payload-differs', 0)\naddFilter(r'.')",
    ],
)
def test_an_rpmlintrc_cannot_hide_an_error(rpmlint: Rpmlint, shop: Shop, rc: str) -> None:
    data, _at = shop.tampered()
    lint = rpmlint(shop.signed_rpm("tampered", data=data), shop.unsigned_rpm(), rc=rc)
    assert ("E", "sgx-enclave-payload-differs") in lint.ours, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_an_rpmlintrc_that_works_elsewhere(rpmlint: Rpmlint, shop: Shop) -> None:
    """What the last test proves only if filters and badness apply at all."""
    package = shop.rpm("pictures", {"/usr/share/picture.jpg": shop.signed}, [])
    lint = rpmlint(package, rc='addFilter("sgx-enclave-name-unconventional")')
    assert ("W", "sgx-enclave-name-unconventional") not in lint.ours, lint.text
    lint = rpmlint(package, rc='setBadness("sgx-enclave-name-unconventional", 1)')
    assert ("E", "sgx-enclave-name-unconventional") in lint.ours, lint.text


def test_a_truncated_package(rpmlint: Rpmlint, shop: Shop) -> None:
    good = shop.signed_rpm()
    short = shop.folder / "short" / good.name
    short.parent.mkdir(exist_ok=True)
    short.write_bytes(good.read_bytes()[:-2000])
    lint = rpmlint(short, shop.unsigned_rpm())
    assert lint.status != 0
    # The newest refuses the package itself; the oldest says nothing, so we must.
    if lint.found:
        assert ("E", "sgx-enclave-package-damaged") in lint.ours, lint.text
        assert ("I", "sgx-enclave-verified") not in lint.ours
    else:
        assert "fatal error" in lint.text


def test_a_malformed_enclave(rpmlint: Rpmlint, shop: Shop) -> None:
    data = shop.signed[:200] + bytes(300)
    lint = rpmlint(shop.signed_rpm("malformed", data=data), shop.unsigned_rpm())
    assert ("E", "sgx-enclave-malformed") in lint.ours, lint.text
    assert lint.status in (ERRORS, TOO_BAD)


def test_descriptions(rpmlint: Rpmlint) -> None:
    text = rpmlint(options=["--explain", "sgx-enclave-debug-allowed"]).text
    assert "Ship the production enclave." in " ".join(text.split())


QUIETED = ("library-without-ldconfig-postin", "statically-linked-binary", "executable-stack")


def test_stock_findings_are_withdrawn_only_when_verified(rpmlint: Rpmlint, shop: Shop) -> None:
    loud = rpmlint(shop.signed_rpm(), only=False)
    quiet = rpmlint(shop.signed_rpm(), shop.unsigned_rpm(), only=False)
    path = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so{FULL}"

    def about_it(lint: Lint) -> set[str]:
        return {kind for _level, kind, rest in lint.found if path in rest.split()}

    withdrawn = about_it(loud) - about_it(quiet) - {"sgx-enclave-not-reproduced"}
    assert withdrawn & set(QUIETED), loud.text
    assert not about_it(quiet) & set(QUIETED), quiet.text
    # The counts still agree with what is printed.
    for lint in (loud, quiet):
        counts = re.search(r"(\d+) errors, (\d+) warnings", lint.text)
        assert counts
        levels = [level for level, _kind, _rest in lint.found]
        assert (int(counts[1]), int(counts[2])) == (levels.count("E"), levels.count("W"))


def test_an_unsigned_enclave_has_the_soname_of_the_signed_one(
    rpmlint: Rpmlint, shop: Shop, tmp_path: Path
) -> None:
    """As Intel's makefiles link it; the link of that name is in the signed package."""
    build_enclaves(tmp_path, tools={"LDFLAGS_EXTRA": "-soname=libsgx_pce.signed.so.1"})
    data = (tmp_path / PARTS["pce"].file).read_bytes()
    unsigned = "sgx-enclave(pce:unsigned) = 2.25"

    def kinds(folder: str) -> set[str]:
        key = f"soname{folder.replace('/', '-')}"
        package = shop.rpm(key, {f"{folder}libsgx_pce.so": data}, [unsigned])
        return {kind for _level, kind, _rest in rpmlint(package, only=False).found}

    assert "no-ldconfig-symlink" in kinds("/usr/lib64/")
    assert "no-ldconfig-symlink" not in kinds(ENCLAVE_FOLDER)


def test_make_lint_rpm_needs_no_installation(shop: Shop) -> None:
    home = rpmlint_home("2.10.0")
    argv = [str(home / "bin" / "python"), "-m", "sgx_enclaves_rpmlint", str(shop.signed_rpm())]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'rpmlint_checks'}:{ROOT}",
        "HOME": str(shop.folder / "empty"),
        "XDG_CONFIG_DIRS": str(shop.folder / "empty"),
    }
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
    assert "sgx-enclave-not-reproduced" in done.stdout, done.stdout + done.stderr
    assert done.returncode in (ERRORS, TOO_BAD)
