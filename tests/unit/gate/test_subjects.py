# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed files and the enclave that they claim to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release, SoVersion
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.gate.record import RecordedEnclave, overall
from sgx_enclaves.gate.subjects import (
    built_together,
    cause_of,
    enclave_at,
    enclaves_to_verify,
    package_subjects,
    release_of,
)

CATALOGUE = load_catalogue((OWN_FOLDER,))
RELEASE = CATALOGUE.release("sgx-2.25-dcap-1.22")


def subject(verdict: str) -> RecordedEnclave:
    return RecordedEnclave("x", "x.rpm", "/x", None, verdict)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["identical", "identical"], "identical"),
        (["identical", "unverifiable"], "unverifiable"),
        (["unverifiable", "differs", "identical"], "differs"),
        ([], "unverifiable"),
    ],
)
def test_the_verdict_on_all_files(verdicts: list[str], expected: str) -> None:
    assert overall([subject(verdict) for verdict in verdicts]).value == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/x86_64-intel-sgx/lib64/libsgx_id_enclave.signed.so.1.22.100.1", "ide"),
        ("/opt/libsgx_pce.signed.so", "pce"),
        ("/opt/libsgx_other.signed.so", None),
        ("/opt/pce.signed.so", None),
        ("/opt/libsgx_pce", "pce"),
    ],
)
def test_an_enclave_is_known_by_its_file_name(path: str, name: object) -> None:
    found = enclave_at(RELEASE, path)
    assert (found.name if found is not None else None) == name


def with_version(release: Release, name: str, version: str) -> Release:
    def changed(enclave: Enclave) -> Enclave:
        if enclave.name != name:
            return enclave
        return replace(enclave, so_version=SoVersion(version, "t", "f", "M"))

    return replace(release, enclaves=tuple(changed(e) for e in release.enclaves))


def test_a_release_is_known_by_all_versions_together() -> None:
    one = replace(with_version(with_version(RELEASE, "pce", "1.2"), "ide", "3.4"), name="one")
    two = replace(with_version(with_version(RELEASE, "pce", "1.2"), "ide", "5.6"), name="two")
    catalogue = Catalogue({"one": one, "two": two})
    pce, ide = "/l/libsgx_pce.signed.so.1.2", "/l/libsgx_id_enclave.signed.so.5.6"
    assert release_of(catalogue, [pce, ide]) is two
    with pytest.raises(CatalogueError, match="found one, two"):
        release_of(catalogue, [pce])
    other = "/l/libsgx_other.signed.so.1.2"
    for paths in ([pce, "/l/libsgx_pce.signed.so"], [other], []):
        with pytest.raises(CatalogueError, match=r"do not say which release.*found none"):
            release_of(catalogue, paths)


def test_which_enclaves_are_verified() -> None:
    pce, ide = "/l/libsgx_pce.signed.so.1.2", "/l/libsgx_id_enclave.signed.so"
    required = [enclave.name for enclave in RELEASE.enclaves if enclave.required]
    assert enclaves_to_verify(RELEASE, [], None, False) == required
    assert enclaves_to_verify(RELEASE, [ide, "/l/libsgx_other.signed.so", pce], None, True) == [
        enclave.name for enclave in RELEASE.enclaves if enclave.name in ("pce", "ide")
    ]
    assert enclaves_to_verify(RELEASE, [pce], ["ide"], True) == ["ide"]
    with pytest.raises(CatalogueError, match="has no enclave 'zzz'"):
        enclaves_to_verify(RELEASE, [], ["zzz"], False)
    with pytest.raises(InputError, match="none at all"):
        enclaves_to_verify(RELEASE, [], None, True)
    with pytest.raises(InputError, match=r"libsgx_other\.signed\.so"):
        enclaves_to_verify(RELEASE, ["/l/libsgx_other.signed.so"], None, True)


def test_a_file_that_is_no_package_is_one_subject_that_nobody_can_judge(tmp_path: Path) -> None:
    path = tmp_path / "x.rpm"
    path.write_bytes(b"no package")
    enclave = RELEASE.enclaves[0]
    ((judged, comparison),) = package_subjects(path, RELEASE, enclave, tmp_path)
    assert judged.verdict == "unverifiable"
    assert judged.rpm == "x.rpm"
    assert judged.cause
    assert comparison is None


def test_the_cause_is_what_weighs_most_in_one_printable_line() -> None:
    findings = [
        Finding("a", Severity.NOTE, "a note"),
        Finding("b", Severity.UNVERIFIABLE, "unsure"),
        Finding("c", Severity.DIFFERS, "other\nbytes", expected="00", found="01"),
    ]
    assert cause_of(None, findings) == "other\\x0abytes (expected 00, found 01)"
    assert cause_of(None, findings[:1]) == "nothing was compared"
    assert len(cause_of(None, [Finding("x", Severity.DIFFERS, "x" * 5000)])) == 1000


def test_what_is_built_together() -> None:
    here, names = RELEASE, [enclave.name for enclave in RELEASE.enclaves][:3]
    catalogue = Catalogue({here.name: here})
    assert built_together(catalogue, here, names, split=True) == [[name] for name in names]
    trees = built_together(catalogue, here, names, split=False)
    assert sorted(name for group in trees for name in group) == sorted(names)
    for group in trees:
        built_in = {enclave.built_in for enclave in here.enclaves if enclave.name in group}
        assert len(built_in) == 1
