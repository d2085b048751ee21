# SPDX-License-Identifier: GPL-2.0-or-later
"""The check of fedora-review, run as fedora-review runs a script of its shell interface."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.enclaves.compiled import have_toolchain
from tests.integration.linting import Shop, shop_of
from tests.support.keys import mrsigner, vendor_key

CHECK = Path(__file__).resolve().parents[2] / "packaging" / "fedora-review.sh"
PASS, FAIL, PENDING, NOT_APPLICABLE = 80, 81, 82, 83
# What fedora-review gives to a script. Its `attach` relies on a pattern that matches nothing.
ENVIRONMENT = """
PATH={path}:/usr/bin:/bin
export HOME={home}; cd $HOME
declare -A FR_FLAGS; FR_FLAGS[SGX_REFERENCE]='{reference}'
FR_PASS=80 FR_FAIL=81 FR_PENDING=82 FR_NOT_APPLICABLE=83
get_used_rpms() {{
    files=($(ls results/*.rpm 2> /dev/null | grep -v .src.rpm)) || return 1
    echo "${{files[@]}}"
}}
attach() {{
    if test -e .attachments/*0; then echo 'too many attachments' >&2; exit 1; fi
    cat > .attachments/"$1;$2;0"
}}
"""

pytestmark = [
    pytest.mark.skipif(not shutil.which("rpmbuild"), reason="rpmbuild is not installed"),
    pytest.mark.skipif(not have_toolchain(), reason="gcc, ld, strip or make is not installed"),
]


@pytest.fixture(scope="module", name="shop")
def _shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shop_of(tmp_path_factory)


def review(home: Path, packages: list[Path], reference: object = "") -> tuple[int, str, str]:
    """Status, remark and attachment of the check on these packages."""
    for folder in ("results", ".attachments", "bin"):
        (home / folder).mkdir()
    for package in packages:
        shutil.copy(package, home / "results")
    command = home / "bin" / "sgx-enclaves"
    signer = f"--signer {mrsigner(vendor_key())} --any-product --min-isvsvn 0"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sgx_enclaves "$@" {signer}\n')
    command.chmod(0o755)
    (home / "review-env.sh").write_text(
        ENVIRONMENT.format(path=command.parent, home=home, reference=reference)
    )
    done = subprocess.run(
        ["bash", "-c", f"source ./review-env.sh; source {CHECK}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=home,
        env={"PYTHONPATH": str(CHECK.parents[1])},
    )
    # anything on standard error makes "Test run failed" of every status
    assert done.stderr == ""
    attached = [path.read_text() for path in (home / ".attachments").iterdir()]
    return done.returncode, done.stdout, "".join(attached)


def test_our_build_and_a_signature_pass(shop: Shop, tmp_path: Path) -> None:
    status, remark, attached = review(tmp_path, [shop.signed_rpm()], shop.unsigned_rpm())
    assert (status, remark) == (PASS, "")
    assert "IDENTICAL" in attached


def test_another_byte_fails(shop: Shop, tmp_path: Path) -> None:
    package = shop.signed_rpm("tampered", shop.tampered()[0])
    status, remark, attached = review(tmp_path, [package], shop.unsigned_rpm())
    assert status == FAIL
    assert "see attachment" in remark
    assert "DIFFERS" in attached


def test_without_anything_to_compare_with_the_reviewer_decides(shop: Shop, tmp_path: Path) -> None:
    status, remark, attached = review(tmp_path, [shop.signed_rpm()])
    assert status == PENDING
    assert "Nothing was proved" in remark
    assert "no reference has an unsigned counterpart" in attached


def test_packages_without_enclaves_are_not_judged(shop: Shop, tmp_path: Path) -> None:
    plain = shop.rpm("plain", {"/usr/share/plain": b"text"}, ["plain-text"])
    for name, packages in (("plain", [plain]), ("none", [])):
        home = tmp_path / name
        home.mkdir()
        assert review(home, packages) == (NOT_APPLICABLE, "", "")
