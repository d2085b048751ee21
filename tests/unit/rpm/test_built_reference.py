# SPDX-License-Identifier: GPL-2.0-or-later
"""What `sgx-enclaves build` made, as a reference: by enclave, by version, as it was built."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import load_catalogue
from sgx_enclaves.enclave.policy import Policy, policy_for
from sgx_enclaves.errors import ManifestError
from sgx_enclaves.release.manifest import (
    MANIFEST,
    EnclaveRecord,
    FileRecord,
    Manifest,
    load_manifest,
    write_manifest,
)
from sgx_enclaves.release.toolchain import ToolchainKind
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER
from sgx_enclaves.rpm.references import BuiltReference, FolderReference, Reference, open_reference
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm
from tests.unit.release.test_manifest import sample

CASE = signed_enclave("2.25")
RELEASE = "sgx-2.25-dcap-1.22"
PCE = ENCLAVE_FOLDER + "libsgx_pce.signed.so"
VERSION = "1.25.100.1"


def record(name: str, data: bytes) -> FileRecord:
    return FileRecord(name, hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture(name="built")
def _built(tmp_path: Path) -> Path:
    """A built directory with a PCE, and without the QE3 that was asked for."""
    where = tmp_path / "built"
    where.mkdir()
    (where / "libsgx_pce.so").write_bytes(CASE.built)
    (where / "libsgx_pce.config.xml").write_bytes(CASE.config)
    pce = EnclaveRecord(
        "pce",
        "pce",
        RELEASE,
        record("libsgx_pce.so", CASE.built),
        record("libsgx_pce.config.xml", CASE.config),
        None,
    )
    qe3 = EnclaveRecord("qe3", "qe3", RELEASE, None, None, "its make took too long")
    tree = replace(sample().trees[0], release=RELEASE)
    write_manifest(where, Manifest(RELEASE, 1, 1, (tree,), (pce, qe3), None))
    return where


def vendor_policy(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


def codes(reference: Reference, folder: Path, path: str = f"{PCE}.{VERSION}") -> list[str]:
    """What speaks against a package with the signed enclave at this path."""
    package = folder / "x.rpm"
    package.write_bytes(write_rpm([RpmFile(path, CASE.signed)]))
    result = check_package(str(package), [reference], vendor_policy)
    (enclave,) = result.enclaves
    # Conventions are tested elsewhere.
    notes = ("-unconventional",)
    found = [f for f in (*result.findings, *enclave.findings) if not f.code.endswith(notes)]
    return [f.code for f in (*found, *(enclave.verdict.findings if enclave.verdict else ()))]


def test_a_directory_and_its_manifest_are_the_same_reference(built: Path, tmp_path: Path) -> None:
    for place in (built, built / MANIFEST):
        reference = open_reference(str(place))
        assert isinstance(reference, BuiltReference)
        assert codes(reference, tmp_path) == []
        (counterpart,) = reference.counterparts(f"{PCE}.{VERSION}")
        assert counterpart.name == (
            f"{built}/libsgx_pce.so ({VERSION} of {RELEASE}, built with the designated toolchain)"
        )
        assert counterpart.data == CASE.built
    (built / MANIFEST).unlink()
    assert isinstance(open_reference(str(built)), FolderReference)


def test_the_version_is_the_releases(built: Path, tmp_path: Path) -> None:
    release = load_catalogue().release(RELEASE)
    known = next(e.so_version for e in release.enclaves if e.name == "pce")
    assert known is not None
    assert known.value == VERSION
    reference = open_reference(str(built))
    assert codes(reference, tmp_path, PCE) == []
    for other in ("1", "1.25.100.2", "1.24.100.1"):
        assert codes(reference, tmp_path, f"{PCE}.{other}") == ["not-reproduced"]


def test_a_directory_inside_of_a_folder_is_what_its_manifest_says(built: Path) -> None:
    folder = FolderReference(str(built.parent))
    (found,) = folder.counterparts(PCE)
    assert (found.label, found.version) == ("2.25", VERSION)
    assert not list(folder.counterparts(f"{PCE}.1.24.100.1"))
    (known,) = FolderReference(str(built.parent), ("2.26", "1.26")).counterparts(PCE)
    assert (known.label, known.version) == ("2.26", "1.26")
    (built / "libsgx_pce.so").write_bytes(CASE.built + b"?")
    with pytest.raises(ManifestError, match="not the file that the manifest describes"):
        list(folder.counterparts(PCE))


def test_an_unknown_release_has_no_version(built: Path, tmp_path: Path) -> None:
    manifest = (built / MANIFEST).read_text().replace(f'"{RELEASE}"', '"my-own"')
    (built / MANIFEST).write_text(manifest)
    reference = open_reference(str(built))
    assert codes(reference, tmp_path, f"{PCE}.9.9") == []
    (found,) = reference.counterparts(PCE)
    assert found.name.endswith("/libsgx_pce.so (my-own, built with the designated toolchain)")


def test_the_version_is_that_of_the_enclave_itself(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = load_catalogue().release(RELEASE)
    last = replace(release, enclaves=release.enclaves[::-1])
    assert last.enclaves[0].so_version not in (None, release.enclaves[0].so_version)
    catalogue = replace(load_catalogue(), releases={RELEASE: last})
    monkeypatch.setattr("sgx_enclaves.catalogue.reader.load_catalogue", lambda: catalogue)
    (found,) = BuiltReference(str(built)).counterparts(PCE)
    assert found.version == VERSION


def test_an_enclave_of_unknown_version_has_none(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = load_catalogue().release(RELEASE)
    unknown = replace(
        release, enclaves=tuple(replace(e, so_version=None) for e in release.enclaves)
    )
    catalogue = replace(load_catalogue(), releases={RELEASE: unknown})
    monkeypatch.setattr("sgx_enclaves.catalogue.reader.load_catalogue", lambda: catalogue)
    (found,) = BuiltReference(str(built)).counterparts(PCE)
    assert (found.label, found.version) == ("", None)


def test_another_toolchain_is_said(built: Path) -> None:
    manifest = load_manifest(built)
    (tree,) = manifest.trees
    host = replace(tree.toolchain, kind=ToolchainKind.HOST)
    write_manifest(built, replace(manifest, trees=(replace(tree, toolchain=host),)))
    (found,) = BuiltReference(str(built)).counterparts(PCE)
    assert found.name.endswith(f" of {RELEASE}, built with another toolchain)")


def test_other_enclaves_have_no_counterpart(built: Path, tmp_path: Path) -> None:
    reference = open_reference(str(built))
    for file in ("qe3", "tdqe", "own"):
        path = f"{ENCLAVE_FOLDER}libsgx_{file}.signed.so"
        assert "not-reproduced" in codes(reference, tmp_path, path)


@pytest.mark.parametrize("file", ["libsgx_pce.so", "libsgx_pce.config.xml"])
def test_a_file_that_was_changed_after_the_build_is_refused(
    built: Path, tmp_path: Path, file: str
) -> None:
    path = built / file
    path.write_bytes(path.read_bytes() + b" ")
    assert codes(open_reference(str(built)), tmp_path) == ["reference-unusable", "not-reproduced"]


def test_a_manifest_that_is_wrong_is_an_error(built: Path) -> None:
    (built / MANIFEST).write_text("{}")
    with pytest.raises(ManifestError):
        open_reference(str(built))


def test_another_build_differs(built: Path, tmp_path: Path) -> None:
    other = signed_enclave("2.25", code=b"\xc3").built
    (built / "libsgx_pce.so").write_bytes(other)
    manifest = BuiltReference(str(built))._manifest
    pce = replace(manifest.enclaves[0], unsigned=record("libsgx_pce.so", other))
    write_manifest(built, replace(manifest, enclaves=(pce, *manifest.enclaves[1:])))
    assert "payload-differs" in codes(open_reference(str(built)), tmp_path)
