# SPDX-License-Identifier: GPL-2.0-or-later
"""`graft --release`: the catalogue says who must have signed, as what, and how recently."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sign import extract
from tests.support.intel import INTEL_PCE
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import SMALL_OPTIONS, signed_enclave

NEWEST = "sgx-2.25-dcap-1.22"
NAME = "libsgx_pce.signed.so"


class Bench:
    """A build, its signatures, and a release that can be described otherwise."""

    def __init__(self, folder: Path) -> None:
        self.case = signed_enclave("2.25")
        self.folder = folder
        (folder / "pce.so").write_bytes(self.case.built)
        (folder / "config.xml").write_bytes(self.case.config)
        signatures = extract(Descriptor.parse(self.case.descriptor))
        (folder / "pce.sig").write_bytes(b"".join(s.serialise() for s in signatures))

    def graft(
        self,
        *more: str,
        signer: str = mrsigner(vendor_key()),
        isvprodid: int = SMALL_OPTIONS["ProdID"],
        isvsvn: int = SMALL_OPTIONS["ISVSVN"],
        output: str = NAME,
        pinned: str = "",
    ) -> int:
        """Run the verb with a release that demands this of the pce."""
        text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8").replace(NEWEST, "own")
        head, pce = text.split('name = "pce"')
        pce = pce.replace(INTEL_PCE, signer, 1)
        # The release pins Intel's file: what this bench makes is another one.
        pce = re.sub("signed_sha256 = .*\n", pinned, pce, count=1)
        pce = pce.replace("isvprodid = 1", f"isvprodid = {isvprodid}", 1)
        pce = pce.replace("least_isvsvn = 16", f"least_isvsvn = {isvsvn}", 1)
        (self.folder / "own.toml").write_text(f'{head}name = "pce"{pce}', "utf-8")
        return main(
            [
                *("graft", str(self.folder / "pce.so"), str(self.folder / "pce.sig")),
                *("--config", str(self.folder / "config.xml")),
                *("--release", "own", "--catalogue", str(self.folder / "own.toml")),
                *("-o", str(self.folder / output), *more),
            ]
        )


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_the_release_demands_holds(bench: Bench) -> None:
    assert bench.graft() == 0
    assert (bench.folder / NAME).read_bytes() == bench.case.signed


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ({"signer": "0" * 64}, "by another signer"),
        ({"isvprodid": 4}, "product"),
        ({"isvsvn": 8}, "ISVSVN"),
    ],
)
def test_what_it_demands_otherwise_is_refused(
    bench: Bench, demand: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.graft(**demand) != 0  # type: ignore[arg-type]
    assert words in capsys.readouterr().err
    assert not (bench.folder / NAME).exists()


def test_the_name_says_which_enclave(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.graft(output="libsgx_qe3.signed.so") != 0
    assert "by another signer" in capsys.readouterr().err
    assert bench.graft(output="libsgx_other.signed.so") == 2
    assert "own has no enclave of this name" in capsys.readouterr().err


def test_the_file_that_the_release_pins_must_match(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    right = hashlib.sha256(bench.case.signed).hexdigest()
    assert bench.graft(pinned=f'signed_sha256 = "{right}"\n') == 0
    assert bench.graft("--force", pinned=f'signed_sha256 = "{"0" * 64}"\n') != 0
    assert "another one than the pinned" in capsys.readouterr().err


def test_the_enclave_may_be_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The output need not be called as the vendor calls it."""
    assert bench.graft("--enclave", "pce", output="out.so") == 0
    assert bench.graft("--enclave", "qe3", output="other.so") != 0
    assert "by another signer" in capsys.readouterr().err


def test_the_signed_enclave_brings_its_signatures(bench: Bench) -> None:
    signed = bench.folder / "pce.sig"
    signed.write_bytes(bench.case.signed)
    assert bench.graft() == 0
    assert (bench.folder / NAME).read_bytes() == bench.case.signed


@pytest.mark.parametrize(
    "more",
    [("--signer", "0" * 64), ("--min-isvsvn", "0"), ("--allow-debug",), ("--any-product",)],
)
def test_the_release_alone_decides(
    bench: Bench, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.graft(*more) == 2
    assert "a release decides who must have signed" in capsys.readouterr().err
