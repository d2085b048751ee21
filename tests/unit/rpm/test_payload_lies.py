# SPDX-License-Identifier: GPL-2.0-or-later
"""A payload that says something else than the header is an error, whoever looks at it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sgx_enclaves_rpmlint.session import Session

from sgx_enclaves.enclave.policy import Policy, policy_for
from sgx_enclaves.gate.inspect import inspect_package
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import FolderReference
from sgx_enclaves.rpm.scan import ScanSettings, scan_one
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, cpio_of, link, write_rpm
from tests.unit.rpmlint.test_session import DATABASE, LIFTED, Output, Pkg

CASE = signed_enclave("2.25")
BASE = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so"
FILE = RpmFile(f"{BASE}.1.25.100.1", CASE.signed)
MAJOR = link(f"{BASE}.1", "libsgx_pce.signed.so.1.25.100.1")
PLAIN = link(BASE, "libsgx_pce.signed.so.1")
HONEST = (FILE, MAJOR, PLAIN)
STRAY = RpmFile(f"{ENCLAVE_FOLDER}libsgx_qe3.signed.so.1.22.100.1", CASE.signed)

# What each payload holds; the header says HONEST.
PAYLOADS: dict[str, tuple[RpmFile, ...]] = {
    "a member twice": (FILE, *HONEST),
    "another file of the same name first": (replace(FILE, cpio_data=CASE.built), *HONEST),
    "a link twice": (*HONEST, PLAIN),
    "a link's target": (FILE, replace(MAJOR, cpio_data=b"/opt/else"), PLAIN),
    "one of the same length": (FILE, MAJOR, replace(PLAIN, cpio_data=b"libsgx_pce.signed.so.2")),
    "a file instead of a link": (
        FILE,
        replace(MAJOR, cpio_mode=0o100755, cpio_data=CASE.signed),
        PLAIN,
    ),
    "a file of the link's size": (FILE, MAJOR, replace(PLAIN, cpio_mode=0o100755)),
    "a member that is not listed": (*HONEST, STRAY),
    "a directory that is not listed": (*HONEST, RpmFile("/opt", mode=0o040755)),
    "a member that is missing": (FILE, MAJOR),
}


def packed_as(files: tuple[RpmFile, ...]) -> bytes:
    return write_rpm(HONEST, payload=gzip.compress(cpio_of(files)))


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATABASE, lambda _provide: [])


@pytest.fixture(name="reference")
def _reference(tmp_path: Path) -> str:
    folder = tmp_path / "reference"
    folder.mkdir()
    (folder / "libsgx_pce.so").write_bytes(CASE.built)
    (folder / "config.xml").write_bytes(CASE.config)
    return str(folder)


def policy(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


def says_check_rpm(path: str, reference: str) -> bool:
    """Whether it accepts the package."""
    return not check_package(path, [FolderReference(reference)], policy).exit_status


def says_scan(path: str, reference: str) -> bool:
    check = partial(check_package, policy_of=policy)
    settings = ScanSettings((reference,), check, lambda r: {"exit_status": r.exit_status})
    _, report = scan_one(settings, (path, None))
    return report is None or not report["exit_status"]


def says_rpmlint(path: str, reference: str) -> bool:
    output = Output()
    table = {"reference": reference, "signers": {"pce": mrsigner(vendor_key())}, **LIFTED}
    session = Session(table, output)
    session.note(Pkg(path))
    session.conclude()
    return not any(level == "E" for level, _id, _details in output.found)


def says_gate(path: str, _reference: str) -> bool:
    return inspect_package(path).problem is None


JUDGES = (says_check_rpm, says_scan, says_rpmlint, says_gate)


@pytest.mark.parametrize("says", JUDGES)
def test_an_honest_package_is_accepted(
    tmp_path: Path, reference: str, says: Callable[[str, str], bool]
) -> None:
    path = tmp_path / "sample-1.0-1.x86_64.rpm"
    path.write_bytes(packed_as(HONEST))
    assert says(str(path), reference)


@pytest.mark.parametrize("says", JUDGES)
@pytest.mark.parametrize("lie", PAYLOADS)
def test_a_payload_that_lies_is_an_error(
    tmp_path: Path, reference: str, lie: str, says: Callable[[str, str], bool]
) -> None:
    path = tmp_path / "sample-1.0-1.x86_64.rpm"
    path.write_bytes(packed_as(PAYLOADS[lie]))
    assert not says(str(path), reference)
