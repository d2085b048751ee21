# SPDX-License-Identifier: GPL-2.0-or-later
"""Conventions of packages with enclaves, and scripts: what is noted, and where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from sgx_enclaves.enclave.policy import AskedBy, Policy, digest_of_version, pin_named, policy_for
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.rpm.check import EnclaveResult, check_package
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER, enclave_name
from sgx_enclaves.rpm.rules import another_file, finding, mislabelled, named_as_another
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, link, write_rpm
from tests.unit.rpm.test_neighbours import versions

CASE = signed_enclave("2.25")
BASE = f"{ENCLAVE_FOLDER}libsgx_pce.signed.so"
FILE = f"{BASE}.1.25.100.1"
LINKS = (
    link(f"{BASE}.1", "libsgx_pce.signed.so.1.25.100.1"),
    link(BASE, "libsgx_pce.signed.so.1"),
)
SIGNED = (RpmFile(FILE, CASE.signed), *LINKS)
UNSIGNED = RpmFile(f"{ENCLAVE_FOLDER}libsgx_pce.so", CASE.built)
NAME = "sgx-enclave-prebuilt-pce-signed"
GOOD = (("pce:signed", "2.25"), ("pce:signed:prebuilt", "2.25"))


def vendor(_path: str) -> Policy:
    return policy_for(None, mrsigners=[mrsigner(vendor_key())])


def test_a_finding_has_the_severity_of_the_table_and_no_empty_text() -> None:
    texts = ("expected", "found", "do this")
    whole = Finding("enclave-missing", Severity.UNVERIFIABLE, "message", None, 7, *texts)
    assert finding("enclave-missing", "message", *texts, 7) == whole
    assert finding("script-unjudged", "m") == Finding("script-unjudged", Severity.NOTE, "m")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return tmp_path


def noted(
    folder: Path,
    files: Sequence[RpmFile] = SIGNED,
    name: str = NAME,
    provides: Sequence[tuple[str, str]] = GOOD,
    **tags: Any,
) -> list[Finding]:
    """Every note about a package and its enclaves."""
    path = folder / "x.rpm"
    more: dict[Any, Any] = {int(tag[1:]): value for tag, value in tags.items()}
    # Of a source package the payload's names are the header's.
    plain = any(not file.path.startswith("/") for file in files)
    all_tags = {**versions(*provides), **more}
    path.write_bytes(write_rpm(files, name=name, tags=all_tags, stripped=plain))
    result = check_package(str(path), [], vendor)
    assert result.enclaves
    found = [*result.findings, *(f for e in result.enclaves for f in e.findings)]
    return [f for f in found if f.severity is Severity.NOTE]


def said(notes: Sequence[Finding]) -> list[str]:
    return [f"{note.code}: {note.message}" for note in notes]


def test_a_package_as_it_should_be(folder: Path) -> None:
    assert noted(folder) == []


def test_a_source_package_has_no_conventions(folder: Path) -> None:
    for name in ("odd.signed.so", "libsgx_pce.signed.so"):
        assert noted(folder, [RpmFile(name, CASE.signed)], t1044=None) == []
        assert noted(folder, [RpmFile(f"/{name}", CASE.signed)]) != []


def test_what_debuggers_read_has_no_conventions(folder: Path) -> None:
    """The file that an enclave's symbols were split off to; a signed one has no business there."""
    place = "/usr/lib/debug/libsgx_pce.so.debug"
    assert noted(folder, [RpmFile(place, CASE.built), *SIGNED]) == []
    elsewhere = said(noted(folder, [RpmFile("/usr/lib/libsgx_pce.so.debug", CASE.built), *SIGNED]))
    assert "unsigned-in-signed-package: it is unsigned, in a package with signed enclaves" in (
        elsewhere
    )
    assert any(text.startswith("name-unconventional") for text in elsewhere)
    assert said(noted(folder, [RpmFile(place, CASE.signed)])) == [
        "name-unconventional: it is not called as enclaves are"
    ]


def test_what_is_no_enclave_has_no_conventions(folder: Path) -> None:
    """It is reported as malformed, which says all that there is to say."""
    assert noted(folder, [RpmFile("/opt/odd.signed.so", CASE.signed)]) != []
    assert noted(folder, [RpmFile("/opt/odd.signed.so", CASE.signed[:-1000])]) == []


def test_an_unsigned_enclave_alone_is_where_it_belongs(folder: Path) -> None:
    provides = (("pce:unsigned", "2.25"),)
    name = "sgx-enclave-reproducible-pce-unsigned"
    assert noted(folder, [UNSIGNED], name, provides) == []
    assert said(noted(folder, [UNSIGNED, *SIGNED])) != []


def test_an_enclave_without_a_name_has_one_note(folder: Path) -> None:
    (note,) = noted(folder, [RpmFile("/opt/some.signed.so", CASE.signed)])
    assert (note.code, note.message) == (
        "name-unconventional",
        "it is not called as enclaves are",
    )
    assert (note.expected, note.found) == (
        f"{ENCLAVE_FOLDER}libsgx_FILE.signed.so.VERSION",
        None,
    )


@pytest.mark.parametrize(
    ("changes", "code", "message", "expected", "found"),
    [
        (
            {"name": "some"},
            "name-unconventional",
            "it is in the package some",
            "sgx-enclave-KIND-pce-signed",
            None,
        ),
        (
            {"files": SIGNED[:2]},
            "links-unconventional",
            f"no link {BASE}",
            None,
            None,
        ),
        (
            {"files": (*SIGNED, link("/opt/x.so", FILE))},
            "links-unconventional",
            "unexpected link /opt/x.so",
            None,
            None,
        ),
        (
            {"files": (RpmFile(BASE, CASE.signed),)},
            "version-unconventional",
            "the file name has no version",
            None,
            None,
        ),
        (
            {"provides": (("qe3:signed", "2.25"),)},
            "provides-unconventional",
            "no Provides: sgx-enclave(pce:signed)",
            None,
            None,
        ),
        (
            {"provides": (GOOD[0], ("pce:signed:prebuilt", "2.26-1"))},
            "version-unconventional",
            "Provides: sgx-enclave(pce:signed:...) has another version than "
            "sgx-enclave(pce:signed)",
            "2.25",
            "2.26",
        ),
        (
            {"provides": (("pce:signed", ""),)},
            "version-unconventional",
            "Provides: sgx-enclave(pce:signed) has no version",
            None,
            None,
        ),
        (
            {"provides": (("pce:signed", "1.25.100.1"),)},
            "version-unconventional",
            "Provides: sgx-enclave(pce:signed) has the version of the file, 1.25.100.1, "
            "instead of the release's",
            None,
            None,
        ),
        (
            {"provides": (("pce:signed", "1:2.24-3"),)},
            "version-unconventional",
            "Provides: sgx-enclave(pce:signed) is of release 2.24, older than the file, 1.25.100.1",
            None,
            None,
        ),
        (
            {"t1023": "exit 0"},
            "script-unjudged",
            "the package runs %pre, which nobody judges",
            None,
            None,
        ),
    ],
)
def test_one_convention_broken(
    folder: Path,
    changes: dict[str, Any],
    code: str,
    message: str,
    expected: str,
    found: str,
) -> None:
    notes = noted(folder, **changes)
    assert (code, message, expected, found) in [
        (n.code, n.message, n.expected, n.found) for n in notes
    ]
    assert len(notes) == 1


def test_an_unsigned_enclave_elsewhere(folder: Path) -> None:
    place = RpmFile("/opt/libsgx_pce.so", CASE.built)
    provides = (("pce:unsigned", "2.25"),)
    (note,) = noted(folder, [place], "sgx-enclave-reproducible-pce-unsigned", provides)
    assert note.expected == f"{ENCLAVE_FOLDER}libsgx_FILE.so"


def test_versions_of_other_enclaves_are_their_own(folder: Path) -> None:
    assert noted(folder, provides=(*GOOD, ("qe3:signed", "9.9"))) == []


def test_only_intel_numbers_release_and_file_together(folder: Path) -> None:
    base = f"{ENCLAVE_FOLDER}libsgx_own.signed.so"
    links = (link(f"{base}.1", "libsgx_own.signed.so.1.30"), link(base, "libsgx_own.signed.so.1"))
    files = (RpmFile(f"{base}.1.30", CASE.signed), *links)
    provides = (("own:signed", "2.25"),)
    assert noted(folder, files, "sgx-enclave-prebuilt-own-signed", provides) == []


def test_a_link_by_build_id_is_none_of_the_convention(folder: Path) -> None:
    extra = link("/usr/lib/.build-id/12/34", FILE)
    assert noted(folder, (*SIGNED, extra)) == []


def test_a_release_is_older_by_its_second_number(folder: Path) -> None:
    for release, notes in (("2.25", 0), ("2.26", 0), ("3", 0), ("2.9", 1)):
        provides = (("pce:signed", release),)
        assert len(noted(folder, provides=provides)) == notes, release


@pytest.mark.parametrize(
    ("file", "label", "version", "wrong", "unchecked"),
    [
        # Only Intel counts the second number of release and file up together.
        ("libsgx_own.signed.so.1.30", "2.25", None, 0, ["the version 1.30 in the name of"]),
        ("libsgx_pce.signed.so.1.30", "2.25", None, 1, []),
        ("libsgx_pce.signed.so.1.25", "2.25", None, 0, ["the version 1.25 in the name of"]),
        ("libsgx_pce.signed.so", "", None, 0, []),
        ("libsgx_pce.signed.so", "2.25", "1.25.100.1", 0, []),
        ("libsgx_pce.signed.so.1.25", "2.25", "1.25.100.1", 0, []),
        ("libsgx_pce.signed.so.1.2", "2.25", "1.25.100.1", 1, []),
    ],
)
def test_versions_in_names_that_say_less_than_is_known(
    file: str, label: str, version: Optional[str], wrong: int, unchecked: list[str]
) -> None:
    path = ENCLAVE_FOLDER + file
    name = enclave_name(path)
    enclave = EnclaveResult(path, (), name, True, 1, "0" * 64)
    package: Any = SimpleNamespace(provides=[])
    found, open_ = mislabelled(package, enclave, label, version)
    assert [f.code for f in found] == ["version-mislabelled"] * wrong
    assert [text[: len(start)] for text, start in zip(open_, unchecked)] == unchecked
    assert len(open_) == len(unchecked)


@pytest.mark.parametrize(
    ("label", "version", "provided", "wrong", "unchecked"),
    [
        ("", "1.25.100.1", "2.25", "", ""),
        ("", "1.25.100.1", "2.22", "a release with 1.25.100.1, not 2.22", ""),
        ("2.25", "1.25.100.1", "2.22", "2.25, as the reference has it, not 2.22", ""),
        ("2.25", "1.25.100.1", "9.9", "2.25, as the reference has it, not 9.9", ""),
        # No catalogue has the release, or the file.
        ("", "1.25.100.1", "9.9", "", "9.9"),
        ("", None, "2.22", "", "2.22"),
    ],
)
def test_releases_that_a_package_provides(
    label: str, version: Optional[str], provided: str, wrong: str, unchecked: str
) -> None:
    pin = pin_named("pce")
    assert pin is not None
    verdict: Any = SimpleNamespace(blocks=[SimpleNamespace(mrsigner=pin.mrsigner)])
    enclave = EnclaveResult(BASE, (), "pce", True, 1, "0" * 64, verdict=verdict)
    provides = [SimpleNamespace(name="sgx-enclave(pce:signed)", version=provided)]
    package: Any = SimpleNamespace(provides=provides)
    found, open_ = mislabelled(package, enclave, label, version)
    said = [f"{f.expected}, not {f.found}" for f in found]
    assert said == ([f"sgx-enclave(pce:signed) = {wrong}"] if wrong else [])
    words = f"the version {unchecked} in which the package provides it"
    assert open_ == ([words] if unchecked else [])


@pytest.mark.parametrize(
    ("version", "label", "claimed", "asked_by", "of"),
    [
        # The reference's word comes first, then its release, then the name.
        ("1.19.100.1", "2.25", "", AskedBy.CATALOGUE, "1.19.100.1"),
        (None, "2.25", ".1.19.100.1", AskedBy.CATALOGUE, "1.25.100.1"),
        (None, "", ".1.19.100.1", AskedBy.CATALOGUE, "1.19.100.1"),
        (None, "9.9", "", AskedBy.CATALOGUE, None),
        (None, "", ".9.9", AskedBy.CATALOGUE, None),
        ("1.25.100.1", "2.25", "", AskedBy.OPTION, None),
    ],
)
def test_a_file_is_the_one_that_its_release_pins(
    version: Optional[str], label: str, claimed: str, asked_by: AskedBy, of: Optional[str]
) -> None:
    pin = pin_named("pce")
    assert pin is not None
    verdict: Any = SimpleNamespace(
        blocks=[SimpleNamespace(mrsigner=pin.mrsigner)], policy=SimpleNamespace(file_from=asked_by)
    )
    enclave = EnclaveResult(BASE + claimed, (), "pce", True, 1, "0" * 64, verdict=verdict)
    said = [finding.expected for finding in another_file(enclave, label, version)]
    assert said == ([f"SHA-256 {digest_of_version('pce', of)}"] if of else [])


@pytest.mark.parametrize(
    ("file", "expected"), [("/opt/x", "no enclave's name"), ("/opt/libsgx_pce.so", "pce")]
)
def test_a_link_with_the_name_of_another_enclave(file: str, expected: str) -> None:
    links = (f"{file}.1", "/opt/libsgx_qe3.signed.so", "/opt/libsgx_own.so")
    packed: Any = SimpleNamespace(path=file, links=links)
    said = [(f.found, f.expected) for f in named_as_another(packed)]
    assert said == [("qe3", expected)]


def test_nothing_is_provided_for_a_file_without_an_enclaves_name() -> None:
    provides = [SimpleNamespace(name="sgx-enclave(None:signed)", version="9")]
    enclave = EnclaveResult("/opt/file", (), None, True, 1, "0" * 64)
    package: Any = SimpleNamespace(provides=provides)
    assert mislabelled(package, enclave, "", None) == ([], [])
