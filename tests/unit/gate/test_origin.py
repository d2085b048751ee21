# SPDX-License-Identifier: GPL-2.0-or-later
"""A buildroot's packages next to the designated toolchain."""

from __future__ import annotations

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.gate.origin import BuildHistory, MadeIn, judge_origin
from sgx_enclaves.release.place import LockedPackage

RELEASE = load_catalogue((OWN_FOLDER,)).release("sgx-2.25-dcap-1.22").only(["pce"]).along()
# what a distribution has today
TODAY = {"gcc": "15.2.1", "binutils": "2.45", "nasm": "2.16.03", "cmake": "3.31.6", "make": "4.4.1"}


def objections(packages: dict[str, str]) -> list[str]:
    """What is said against a build in a buildroot with these packages."""
    components = tuple(
        LockedPackage(name, "x86_64", version, "1", None, "ab", None, "GPL", "")
        for name, version in packages.items()
    )
    sources = {artifact.filename: [artifact.pin or ""] for artifact in RELEASE.sources()}
    made = MadeIn("enclave.rpm", 1, "buildArch", of_build=True, components=components)
    history = BuildHistory("x-1-1", 1, "build", None, None, made, sources)
    found = judge_origin(history, RELEASE, None).objections
    assert {finding.code for finding in found} <= {"toolchain-not-designated"}
    return [finding.expected or "" for finding in found]


def test_the_toolchains_own_package_is_the_designated_one() -> None:
    assert objections({**TODAY, f"sgx-toolchain-{RELEASE.name}": "9.5.0"}) == []


def test_the_distributions_tools_are_not() -> None:
    """Those count whose version decides bytes; nobody asks for the make of 2016."""
    assert objections(TODAY) == ["binutils 2.38", "gcc 9.5.0", "nasm 2.16.01"]


def test_the_toolchain_of_another_release_is_not() -> None:
    packages = {**TODAY, "sgx-toolchain-sgx-2.28-dcap-1.25": "9.5.0"}
    assert len(objections(packages)) == 3
