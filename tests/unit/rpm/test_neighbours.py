# SPDX-License-Identifier: GPL-2.0-or-later
"""What a package beside the judged one is worth as a reference: `Neighbours`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.policy import Pin, Policy, pin_named, policy_for
from sgx_enclaves.rpm import rules
from sgx_enclaves.rpm.check import PackageResult, check_package
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.payload import installed
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import (
    FolderReference,
    Neighbours,
    PackageReference,
    Reference,
    neighbours_among,
)
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import Case, signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm
from tests.unit.evidence.conftest import as_built_here, edited

GOOD = signed_enclave("2.25")
EVIL = signed_enclave("2.25", code=b"\xc3")
SIGNED = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.25.100.1"
UNSIGNED = ENCLAVE_FOLDER + "libsgx_pce.so"
CONFIG = "/usr/share/sgx-enclaves/pce.config.xml"
PROVIDES = ["sgx-enclave(pce:unsigned)", "sgx-enclave(pce:unsigned:reproducible)"]


class Street:
    """Packages of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, files: list[RpmFile], **changes: Any) -> str:
        path = self.folder / f"{name}-1.0-1.x86_64.rpm"
        path.write_bytes(write_rpm(files, name=name, **changes))
        return str(path)

    def signed(self, case: Case, **changes: Any) -> str:
        return self.put("pce-signed", [RpmFile(SIGNED, case.signed)], **changes)

    def unsigned(self, case: Case, name: str = "pce-unsigned", **changes: Any) -> str:
        files = [RpmFile(UNSIGNED, case.built), RpmFile(CONFIG, case.config)]
        return self.put(name, files, **{"provides": PROVIDES, **changes})

    def reference(self, case: Case) -> FolderReference:
        """A folder that the site names."""
        folder = self.folder / "reference"
        folder.mkdir()
        (folder / "libsgx_pce.so").write_bytes(case.built)
        (folder / "libsgx_pce.config.xml").write_bytes(case.config)
        return FolderReference(str(folder))


@pytest.fixture(name="street")
def _street(tmp_path: Path) -> Street:
    return Street(tmp_path)


def vendor(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


def judged(
    path: str, *references: Reference, beside: tuple[str, ...] = (), **worth: Any
) -> PackageResult:
    return check_package(
        path, references, vendor, neighbours=Neighbours(neighbours_among(beside), **worth)
    )


def codes(result: PackageResult) -> list[str]:
    """What is found, apart from conventions."""
    found = [f.code for f in result.findings]
    for enclave in result.enclaves:
        found += [f.code for f in enclave.findings if not f.code.endswith("-unconventional")]
    return found


def test_a_configured_reference_decides_alone(street: Street) -> None:
    """One attacker's two packages, which fit each other and not our build."""
    beside = (street.unsigned(EVIL),)
    result = judged(street.signed(EVIL), street.reference(GOOD), beside=beside)
    assert result.exit_status == 1
    assert codes(result) == ["reference-disagrees"]


def test_a_neighbour_that_disagrees_is_an_error_for_a_good_enclave_too(street: Street) -> None:
    reference = street.reference(GOOD)
    beside = (street.unsigned(EVIL),)
    result = judged(street.signed(GOOD), reference, beside=beside)
    assert (result.exit_status, codes(result)) == (1, ["reference-disagrees"])
    beside = (street.unsigned(GOOD),)
    result = judged(street.signed(GOOD), reference, beside=beside)
    assert (result.exit_status, codes(result)) == (0, [])


def test_a_reference_that_cannot_be_used_is_not_replaced(street: Street) -> None:
    reference = street.reference(GOOD)
    (street.folder / "reference" / "libsgx_pce.so").unlink()
    result = judged(street.signed(GOOD), reference, beside=(street.unsigned(GOOD),))
    assert (result.exit_status, codes(result)[0]) == (2, "reference-unusable")


def test_a_neighbour_of_the_same_source_package_never_counts(street: Street) -> None:
    source = "linux-sgx-1-1.src.rpm"
    beside = (street.unsigned(GOOD, tags={1044: source}),)
    result = judged(street.signed(GOOD, tags={1044: source}), beside=beside)
    assert (result.exit_status, codes(result)) == (2, ["not-reproduced"])


@pytest.mark.parametrize("path", ["/opt/a", ENCLAVE_FOLDER + "libsgx_other.so"])
def test_a_package_that_holds_a_signed_enclave_never_counts(street: Street, path: str) -> None:
    files = [
        RpmFile(UNSIGNED, GOOD.built),
        RpmFile(CONFIG, GOOD.config),
        RpmFile(path, GOOD.signed),
    ]
    package = street.put("both-unsigned", files, provides=PROVIDES)
    again = street.folder / "again.rpm"
    again.symlink_to(package)
    result = judged(package, beside=(package, str(again)))
    assert result.exit_status == 2
    assert "sgx-enclave-verified" not in codes(result)
    assert judged(street.signed(GOOD), beside=(package,)).exit_status == 2


def test_one_that_promises_a_signed_enclave_never_counts(street: Street) -> None:
    beside = street.unsigned(GOOD, provides=[*PROVIDES, "sgx-enclave(qe3:signed)"])
    assert neighbours_among([beside]) == ()


def test_a_neighbour_that_nobody_signed_is_said_to_be(street: Street) -> None:
    signed, beside = street.signed(GOOD), (street.unsigned(GOOD),)
    result = judged(signed, beside=beside)
    assert (result.exit_status, codes(result)) == (0, ["reference-unauthenticated"])
    result = judged(signed, beside=beside, trusted=True)
    assert (result.exit_status, codes(result)) == (0, [])
    result = judged(signed, beside=beside, signed=True)
    assert (result.exit_status, codes(result)) == (2, ["reference-refused"])


def in_database(path: str) -> bytes:
    """The header of a package as the RPM database has it: with the signatures."""
    transaction = librpm().TransactionSet()
    transaction.setVSFlags(-1)
    with open(path, "rb") as stream:
        found: bytes = transaction.hdrFromFdno(stream.fileno()).unload()
    return found


def changed(header: bytes, at: int) -> bytes:
    return header[:at] + bytes([header[at] ^ 2]) + header[at + 1 :]


def from_database(header: bytes) -> PackageReference:
    return PackageReference("installed x", partial(installed, header))


def test_a_key_of_rpms_keyring_makes_a_neighbour_count(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("gpg", "rpmsign", "rpmkeys"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    home, database, empty = (street.folder / name for name in ("gnupg", "rpmdb", "empty"))
    home.mkdir(mode=0o700)
    database.mkdir()
    empty.mkdir()
    monkeypatch.setenv("GNUPGHOME", str(home))

    def run(*argv: object) -> None:
        subprocess.run([str(a) for a in argv], check=True, capture_output=True)

    batch = ("gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "")
    run(*batch, "--quick-gen-key", "Builder <builder@example.invalid>", "rsa2048", "sign", "never")
    key = street.folder / "key.asc"
    run("gpg", "--batch", "--armor", "--output", key, "--export")
    beside = street.unsigned(GOOD)
    unsigned = in_database(beside)
    gpg = ("--define", f"__gpg {shutil.which('gpg')}", "--define", "_gpg_name Builder")
    run("rpmsign", *gpg, "--resign", beside)
    whole = in_database(beside)
    librpm().addMacro("_dbpath", str(empty))
    try:
        assert not PackageReference(beside).is_authenticated
        # That a header has a signature, and that rpm has installed it, proves nothing.
        assert not from_database(whole).is_authenticated
        run("rpmkeys", "--dbpath", database, "--import", key)
        librpm().delMacro("_dbpath")
        librpm().addMacro("_dbpath", str(database))
        assert PackageReference(beside).is_authenticated
        result = judged(street.signed(GOOD), beside=(beside,), signed=True)
        assert (result.exit_status, codes(result)) == (0, [])
        assert from_database(whole).is_authenticated
        signature = bytes(librpm().hdr(whole)[268])
        for forged in (
            unsigned,
            changed(whole, whole.rindex(b"pce-unsigned")),
            changed(whole, whole.index(signature) + len(signature) - 5),
        ):
            assert not from_database(forged).is_authenticated
    finally:
        librpm().delMacro("_dbpath")
        run("gpgconf", "--kill", "all")


ARGUMENTS = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")


def test_check_rpm_and_scan_agree(street: Street, capsys: pytest.CaptureFixture[str]) -> None:
    signed, unsigned = street.signed(GOOD), street.unsigned(GOOD)
    for more, status in (((), 0), (("--signed-neighbours",), 2), (("--trust-neighbours",), 0)):
        said = []
        for words in (("check-rpm", signed, unsigned), ("scan", street.folder, "--jobs", "1")):
            assert main([*map(str, words), *ARGUMENTS, *more]) == status
            out = capsys.readouterr().out
            said.append("that no key of rpm's keyring has signed" in out)
        assert said == [more != ("--trust-neighbours",)] * 2


def test_a_scan_pairs_packages_whatever_their_files_are_called(
    street: Street, capsys: pytest.CaptureFixture[str]
) -> None:
    street.signed(GOOD)
    unsigned = Path(street.unsigned(GOOD, name="built-here"))
    unsigned.rename(street.folder / "x.rpm")
    assert main(["scan", str(street.folder), "--jobs", "1", "--trust-neighbours", *ARGUMENTS]) == 0
    assert "x.rpm:" in capsys.readouterr().out


def test_a_scan_of_nothing_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scan", str(tmp_path)]) == 2
    assert "no package to scan" in capsys.readouterr().err


def test_a_link_to_the_judged_package_is_no_reference(street: Street) -> None:
    package = street.put("x-unsigned", [RpmFile(SIGNED, GOOD.signed), link("/a", "b")])
    assert judged(package, beside=(package,)).exit_status == 2


def versions(*named: tuple[str, str]) -> dict[int, Any]:
    """The tags of Provides with versions."""
    names = [f"sgx-enclave({name})" for name, _version in named]
    return {1047: names, 1112: [8] * len(named), 1113: [version for _name, version in named]}


@pytest.fixture(name="vendors")
def _vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's vendor is the catalogue's signer."""
    ours = replace(pin(), mrsigner=mrsigner(vendor_key()))
    monkeypatch.setattr(rules, "pin_named", lambda _name: ours)
    monkeypatch.setattr(rules, "digest_of_version", lambda _enclave, _version: None)


def labelled(street: Street, path: str, *provides: tuple[str, str]) -> str:
    tags = versions(*((f"pce:{state}", version) for state, version in provides))
    return street.put("pce-signed", [RpmFile(path, GOOD.signed)], tags=tags if provides else {})


BASE = ENCLAVE_FOLDER + "libsgx_pce.signed.so"


@pytest.mark.usefixtures("vendors")
@pytest.mark.parametrize(
    ("path", "provides", "right"),
    [
        (SIGNED, (("signed", "2.25"),), True),
        (SIGNED, (("signed", "2.25"), ("signed:prebuilt", "1.25.100.1")), True),
        # Later releases ship the same file.
        (SIGNED, (("signed", "2.28"),), True),
        (f"{BASE}.1", (("signed", "2.25"),), True),
        (BASE, (("signed", "2.25"),), True),
        (SIGNED, (), True),
        (SIGNED, (("signed", "2.99"),), False),
        (SIGNED, (("signed", "2.24"),), False),
        # What asks for a newer one finds it.
        (SIGNED, (("signed", "2.25"), ("signed", "2.99")), False),
        (SIGNED, (("signed", "2.25"), ("signed:prebuilt", "2.99")), False),
        (f"{BASE}.1.99.100.1", (("signed", "2.25"),), False),
        (f"{BASE}.1.25.100.2", (("signed", "2.25"),), False),
        (f"{BASE}.1.2", (("signed", "2.25"),), False),
        (f"{BASE}.1.99.100.1", (), False),
    ],
)
def test_the_label_must_be_the_references(
    street: Street, path: str, provides: tuple[tuple[str, str], ...], right: bool
) -> None:
    """An old enclave, shipped as a new one."""
    beside = street.unsigned(GOOD, tags=versions(("pce:unsigned", "2.25")))
    package = labelled(street, path, *provides)
    for result in (
        judged(package, beside=(beside,), trusted=True),
        judged(package, PackageReference(beside)),
    ):
        assert (result.exit_status == 0) is right, codes(result)
        assert ("version-mislabelled" not in codes(result)) is right


@pytest.mark.parametrize("label", ["2.98", "2.10"])
def test_the_label_of_a_release_that_is_not_known(street: Street, label: str) -> None:
    """Intel counts the second number of release and file up together."""
    reference = PackageReference(street.unsigned(GOOD, tags=versions(("pce:unsigned", label))))
    for path, right in ((f"{BASE}.1.98.100.1", label == "2.98"), (f"{BASE}.1.99.100.1", False)):
        result = judged(labelled(street, path, ("signed", label)), reference)
        assert ("version-mislabelled" not in codes(result)) is right


def test_another_vendors_versions_are_not_those_of_the_catalogue(street: Street) -> None:
    beside = street.unsigned(GOOD, tags=versions(("pce:unsigned", "2.25")))
    own = labelled(street, f"{BASE}.1.0.0.0", ("signed", "2.25"))
    result = judged(own, beside=(beside,), trusted=True)
    assert result.exit_status == 0
    assert "the version 1.0.0.0 in the name of" in unproved(result)


def unproved(result: PackageResult) -> str:
    (enclave,) = result.enclaves
    assert enclave.verdict is not None
    return "; ".join(enclave.verdict.not_proved)


@pytest.mark.usefixtures("vendors")
@pytest.mark.parametrize("nested", [False, True])
def test_the_label_beside_a_folder(street: Street, nested: bool) -> None:
    reference = street.reference(GOOD)
    path = labelled(street, f"{BASE}.1.99.100.1", ("signed", "2.99"))
    result = judged(path, reference)
    # Nothing says which version it is; that is said.
    assert result.exit_status == 0
    assert "the version 1.99.100.1 in the name of" in unproved(result)
    assert "the version 2.99 in which the package provides it" in unproved(result)
    place = Path(reference.name)
    if nested:
        place = place / "pce"
        place.mkdir()
        for file in Path(reference.name).glob("*.*"):
            file.rename(place / file.name)
    (place / "libsgx_pce.so").rename(place / "libsgx_pce.so.1.25.100.1")
    result = judged(path, FolderReference(reference.name))
    assert "version-mislabelled" in codes(result)
    right = judged(labelled(street, SIGNED, ("signed", "2.25")), FolderReference(reference.name))
    assert right.exit_status == 0
    assert "the version" not in unproved(right)


def test_an_attackers_label_of_the_same_file(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue pins the vendor's file of a version: neither another file nor another name."""
    digest = hashlib.sha256(GOOD.signed).hexdigest()
    pinned = replace(pin(), mrsigner=mrsigner(vendor_key()))
    monkeypatch.setattr(rules, "pin_named", lambda _name: pinned)
    reference = street.reference(GOOD)
    path = labelled(street, SIGNED, ("signed", "2.25"))
    # Intel's, whose digest is on record.
    assert "file-not-pinned" in codes(judged(path, reference))
    monkeypatch.setattr(rules, "digest_of_version", lambda _enclave, _version: digest)
    assert "file-not-pinned" not in codes(judged(path, reference))
    monkeypatch.setattr(rules, "digest_of_version", lambda _enclave, _version: "0" * 64)
    result = judged(path, reference)
    assert (result.exit_status, "file-not-pinned" in codes(result)) == (1, True)
    # A signer that was accepted on purpose signs other files.
    monkeypatch.setattr(rules, "pin_named", lambda _name: pin())
    assert "file-not-pinned" not in codes(judged(path, reference))
    known = {digest: "1.25.100.1"}
    monkeypatch.setattr(rules, "version_of_digest", lambda _enclave, sha256: known.get(sha256))
    wrong = labelled(street, f"{BASE}.1.99.100.1")
    assert "version-mislabelled" in codes(judged(wrong, reference))


def pin() -> Pin:
    found = pin_named("pce")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tags", "code", "status"),
    [
        ({1024: "cp /x /usr/x86_64-intel-sgx/lib64/libsgx_pce.so"}, "script-names-enclaves", 2),
        ({1023: "a=pce.signed.so"}, "script-names-enclaves", 2),
        ({1065: ["true", "ls /usr/x86_64-intel-sgx"]}, "script-names-enclaves", 2),
        ({5066: ["find .signed.so"]}, "script-names-enclaves", 2),
        ({1024: "ldconfig"}, "script-unjudged", 0),
        ({1086: ["/sbin/ldconfig"]}, "script-unjudged", 0),
        ({}, None, 0),
    ],
)
def test_scripts_are_reported(
    street: Street, tags: dict[int, Any], code: Optional[str], status: int
) -> None:
    package = street.signed(GOOD, tags=tags)
    result = judged(package, street.reference(GOOD))
    assert result.exit_status == status
    assert [f.code for f in result.findings] == ([code] if code else [])


def test_scripts_of_other_packages_are_no_matter(street: Street) -> None:
    package = street.put("plain", [RpmFile("/usr/bin/x", b"x")], tags={1024: "rm .signed.so"})
    assert judged(package).findings == ()


def test_a_reference_is_authenticated_by_an_attestation(street: Street) -> None:
    good, evil = (hashlib.sha256(case.built).hexdigest() for case in (GOOD, EVIL))
    beside = (street.unsigned(GOOD),)
    package = street.signed(GOOD)
    result = judged(package, beside=beside, attested=frozenset({good, evil}))
    assert (result.exit_status, codes(result)) == (0, [])
    for attested in ((), (evil,)):
        result = judged(package, beside=beside, attested=frozenset(attested), trusted=True)
        assert (result.exit_status, codes(result)) == (2, ["reference-refused"])
        (finding,) = (f for e in result.enclaves for f in e.findings if f.code.startswith("ref"))
        assert good in (finding.found or "")
    # A directory that somebody handed on, too.
    result = judged(package, street.reference(GOOD), attested=frozenset({good}))
    assert (result.exit_status, codes(result)) == (0, [])
    result = judged(
        package, FolderReference(str(street.folder / "reference")), attested=frozenset()
    )
    assert (result.exit_status, codes(result)) == (2, ["reference-refused"])


@pytest.mark.parametrize("verb", ["check-rpm", "scan"])
def test_an_attestation_on_the_command_line(
    street: Street, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, data in {
        "key.pem": pem,
        "b.so": GOOD.built,
        "s.so": GOOD.signed,
        "c.xml": GOOD.config,
    }.items():
        (kept / name).write_bytes(data)
    signer = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
    files = [str(kept / name) for name in ("b.so", "s.so")]
    config = ("--config", str(kept / "c.xml"))
    report = str(kept / "report")
    assert main(["compare", *files, *config, *signer, "--report", report]) == 0
    attestation, private = str(kept / "attestation"), str(kept / "key.pem")
    lazy, built = str(kept / "lazy"), str(edited(kept, as_built_here, "built"))
    for made, into in ((f"{report}/report.json", lazy), (built, attestation)):
        assert main(["attest", made, "--key", private, "-o", into]) == 0
    beside, package = street.unsigned(GOOD), street.signed(GOOD)
    what = [package, beside] if verb == "check-rpm" else [str(street.folder)]
    by = ("--attestation", attestation, "--key", private)
    capsys.readouterr()
    assert main([verb, *what, *signer, *by]) == 0
    assert "no key of rpm's keyring" not in capsys.readouterr().out
    assert main([verb, *what, *signer, *by, "--threshold", "2"]) == 2
    assert "too few signers" in capsys.readouterr().err
    assert main([verb, *what, *signer, "--attestation", lazy, "--key", private]) == 2
    assert "none says that he built it" in capsys.readouterr().err
    assert main([verb, *what, *signer, "--attestation", attestation]) == 2
    assert "nobody is trusted" in capsys.readouterr().err
