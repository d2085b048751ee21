# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate takes attestations as check-rpm, scan and rpmlint do, and refuses what they refuse."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sgx_enclaves_hub.config import read_settings
from sgx_enclaves_hub.doctor import TABLES, checkSgxSetup
from sgx_enclaves_hub.gate import getSgxGateStatus
from sgx_enclaves_hub.records import recordSgxVerification

from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.statements import attested
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.references import FolderReference, Neighbours
from tests.support.attested import Rebuilder
from tests.support.keys import mrsigner, vendor_key
from tests.support.records import A, B
from tests.support.signed import signed_enclave
from tests.unit.koji.hub.fakehub import TASK, FakeHub
from tests.unit.koji.hub.test_gate import MARK, tag

CASE = signed_enclave()
BUILT = hashlib.sha256(CASE.built).hexdigest()


@pytest.fixture(name="ready")
def _ready(hub: FakeHub) -> FakeHub:
    """A hub with a gated tag, and a build with an enclave."""
    hub.add_tag(extra={MARK: "true"})
    hub.add_package(hub.add_build())
    return hub


def verify(hub: FakeHub, built: str) -> None:
    """A verification whose own build of the enclave has that digest."""
    record = hub.record(hub.builds[7])
    for enclave in record["enclaves"]:
        enclave["built_sha256"] = built
    hub.open_task("x-1.0-1")
    recordSgxVerification(TASK, record)


class Site:
    """A hub with two rebuilders, both of whom must vouch for an enclave."""

    def __init__(self, folder: Path, conf: Path) -> None:
        self.folder = folder / "kept"
        self.folder.mkdir()
        self.two = [Rebuilder(folder, name) for name in "ab"]
        self.keys = [str(one.key) for one in self.two]
        conf.write_text(
            f"[gate]\nattestations = {self.folder}\nattestation_keys = {' '.join(self.keys)}\n"
            "attestation_threshold = 2\n"
        )

    def attest(self, *digests: str) -> None:
        """What the rebuilders say of pce, one digest each."""
        for one, digest in zip(self.two, digests):
            one.attest(self.folder / one.key.stem, {"pce": digest})


@pytest.fixture(name="site")
def _site(tmp_path: Path, conf: Path) -> Site:
    return Site(tmp_path, conf)


def test_an_attested_enclave_passes(ready: FakeHub, site: Site) -> None:
    verify(ready, A)
    site.attest(A, A)
    assert tag(ready) == ""
    assert getSgxGateStatus(7, 4)["allowed"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((B, B), "no attestation names the unsigned enclave that it was compared with"),
        ((A, B), "the signers disagree about pce"),
        ((A,), "too few signers vouch for pce"),
        ((), "no statement names an unsigned enclave"),
    ],
)
def test_others_do_not(ready: FakeHub, site: Site, said: tuple[str, ...], reason: str) -> None:
    verify(ready, A)
    site.attest(*said)
    words = tag(ready)
    assert reason in words
    assert "x-1.0-1" in words


def test_rebuilders_who_only_compared(ready: FakeHub, site: Site) -> None:
    verify(ready, A)
    for one in site.two:
        one.compare(site.folder / one.key.stem, {"pce": A})
    assert "2 signers compared pce, none says that he built it" in tag(ready)
    site.two[0].attest(site.folder / "built", {"pce": A})
    assert "too few signers vouch for pce" in tag(ready)
    site.two[1].attest(site.folder / "also", {"pce": A})
    assert tag(ready) == ""


def test_what_nobody_or_somebody_else_has_signed(
    ready: FakeHub, site: Site, tmp_path: Path
) -> None:
    verify(ready, A)
    site.attest(A, A)
    Rebuilder(tmp_path, "stranger").attest(site.folder / "c", {"pce": A})
    assert "no signature is by one of the keys" in tag(ready)


def test_without_enclaves_attestations_are_not_read(ready: FakeHub, site: Site) -> None:
    site.folder.rmdir()
    assert "no attestation" not in tag(ready)
    ready.packages[7].clear()
    assert tag(ready) == ""


def test_the_doctor_reads_them(ready: FakeHub, site: Site) -> None:
    ready.permissions.add("sgx-enclaves")
    ready.answers["pg_class"] = [{"it": name} for name in TABLES]

    def says() -> dict[str, object]:
        return next(item for item in checkSgxSetup() if item["what"] == "attestations")

    site.attest(A, A)
    assert says() == {"what": "attestations", "good": True, "says": "of 1 unsigned enclaves"}
    site.attest(A, B)
    assert says()["good"] is False


@pytest.mark.parametrize("said", [(BUILT, BUILT), (B, B)])
def test_the_gate_and_check_rpm_never_disagree(
    ready: FakeHub, site: Site, tmp_path: Path, said: tuple[str, str]
) -> None:
    """The record rests on the same build that is named as a reference."""
    verify(ready, BUILT)
    site.attest(*said)
    for name, data in {"libsgx_pce.so": CASE.built, "config.xml": CASE.config}.items():
        (tmp_path / "reference").mkdir(exist_ok=True)
        (tmp_path / "reference" / name).write_bytes(data)
    names = attested([str(site.folder)], site.keys, None, 2)
    result = check_package(
        str(next(Path(ready.build_folder(ready.builds[7])).rglob("*.rpm"))),
        [FolderReference(str(tmp_path / "reference"))],
        lambda _path: policy_for(None, mrsigners=[mrsigner(vendor_key())]),
        neighbours=Neighbours(attested=names),
    )
    refused = [f.message for e in result.enclaves for f in e.findings if "attest" in f.message]
    assert bool(refused) == (said[0] == B)
    assert all(message in tag(ready) for message in refused)
    assert (tag(ready) == "") == (not refused)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("attestations = /a\n", "attestations without keys"),
        ("attestation_keys = /a\n", "keys without attestations"),
        ("attestations = a\nattestation_keys = /k\n", "an absolute path"),
        (
            "attestations = /a\nattestation_keys = /k\nattestation_threshold = 0\n",
            "expected at least 1, found 0",
        ),
        ("attestation = /a\n", "attestation_threshold, found attestation"),
    ],
)
def test_what_is_wrong_in_the_configuration(conf: Path, lines: str, reason: str) -> None:
    conf.write_text(f"[gate]\n{lines}")
    with pytest.raises(SgxEnclavesError, match=reason):
        read_settings(str(conf))
