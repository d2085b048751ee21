# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build will do is decided before anything is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.catalogue.records import Catalogue, OwnBuild, Toolchain, ToolPin
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.release.build import find_differences
from sgx_enclaves.release.build_tree import independent, step_environment
from sgx_enclaves.release.place import STANDARD_PATH, Ended, describe
from sgx_enclaves.release.sandbox import relocation
from sgx_enclaves.release.toolchain import ToolchainKind, search_path


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue((OWN_FOLDER,))


def test_required_enclaves_are_built_by_default(catalogue: Catalogue) -> None:
    (tree,) = catalogue.plan(catalogue.release("sgx-2.25-dcap-1.22"))
    assert tree.name == "sgx-2.25-dcap-1.22"
    assert [enclave.name for enclave in tree.enclaves] == ["pce", "ide", "qe3", "tdqe"]


def test_an_enclave_that_is_not_required_is_built_if_named(catalogue: Catalogue) -> None:
    (tree,) = catalogue.plan(catalogue.release("sgx-2.25-dcap-1.22").only(["qve", "pce"]))
    assert [enclave.name for enclave in tree.enclaves] == ["qve", "pce"]


def test_enclaves_are_built_in_the_tree_that_they_were_signed_from(catalogue: Catalogue) -> None:
    release = catalogue.release("sgx-2.26-dcap-1.23")
    (tree,) = catalogue.plan(release)
    assert tree.name == "sgx-2.25-dcap-1.22"
    assert {enclave.name for enclave in tree.enclaves} == {"pce", "ide", "qe3", "tdqe"}


def test_an_unknown_enclave_is_refused_with_those_that_are_there(catalogue: Catalogue) -> None:
    with pytest.raises(CatalogueError, match="no enclave 'pse'") as caught:
        catalogue.plan(catalogue.release("sgx-2.25-dcap-1.22").only(["pse"]))
    assert "qe3" in str(caught.value.hint)


def test_a_release_that_requires_nothing_needs_names(catalogue: Catalogue) -> None:
    release = catalogue.release("sgx-2.25-dcap-1.22")
    lax = replace(release, enclaves=tuple(replace(e, required=False) for e in release.enclaves))
    with pytest.raises(CatalogueError, match="requires no enclave"):
        catalogue.plan(lax)


def _own(folder: str, mitigation: str = "") -> OwnBuild:
    return OwnBuild("config.xml", folder, "x.so", "x.so", mitigation)


def test_the_mitigation_is_passed_to_make() -> None:
    assert "LOAD" not in " ".join(_own("a").make_command)
    assert _own("a", "LOAD").make_command[-1] == "MITIGATION-CVE-2020-0551=LOAD"


def test_make_keeps_beside_the_result_what_the_makefile_strips() -> None:
    build = OwnBuild("config.xml", "psw/ae/pce", "pce.so", "psw/ae/pce/pce.so")
    assert build.make_command == ["make", "pce.so", "STRIP=cp $@ pce.unstripped.so; strip"]
    assert build.unstripped == "psw/ae/pce/pce.unstripped.so"


def _toolchain(**environment: str) -> Toolchain:
    tools = (ToolPin("gcc", "9.5.0", "/store/gcc"), ToolPin("nasm", "2.16", None))
    return Toolchain("Old", tools, None, environment, 0o022)


def test_the_designated_tools_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/somewhere/else")
    designated = search_path(_toolchain(), ToolchainKind.DESIGNATED)
    assert designated == f"/store/gcc/bin:{STANDARD_PATH}"
    assert search_path(_toolchain(), ToolchainKind.HOST) == STANDARD_PATH
    assert search_path(_toolchain(PATH="/opt/bin"), ToolchainKind.HOST) == "/opt/bin"
    # another compiler is for experiments only
    other = ["/opt/gcc-9"]
    assert search_path(_toolchain(), ToolchainKind.HOST, other).startswith("/opt/gcc-9/bin:/usr")
    assert search_path(_toolchain(), ToolchainKind.DESIGNATED, other) == designated


def test_the_releases_variables_come_before_the_usual_ones() -> None:
    toolchain = _toolchain(LC_ALL="C.UTF-8", X="1", HOME="/root")
    shell = {"LC_ALL": "C.UTF-7", "Y": "2"}
    environment = step_environment(toolchain, "/bin", "/tmp/home", shell)  # noqa: S108
    assert environment == {
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": "315532800",
        "X": "1",
        "Y": "2",
        "PATH": "/bin",
        "HOME": "/tmp/home",  # noqa: S108
    }


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("/linux-sgx/sgx", "/second/linux-sgx/sgx"),
        ("/linux-sgx/sgx/a.c", "/second/linux-sgx/sgx/a.c"),
        ("--prefix=/linux-sgx/", "--prefix=/second/linux-sgx/"),
        ("/linux-sgx/sgxsdk:/usr", "/second/linux-sgx/sgxsdk:/usr"),
        ("/opt/linux-sgx/sgx", "/opt/linux-sgx/sgx"),
        ("/linux-sgx-other", "/linux-sgx-other"),
        ("make", "make"),
    ],
)
def test_paths_move_with_the_tree(text: str, moved: str) -> None:
    assert relocation("/linux-sgx/sgx", "/second/linux-sgx/sgx")(text) == moved
    assert relocation("/linux-sgx/sgx", "/linux-sgx/sgx")(text) == text


def test_the_machines_own_folders_do_not_move() -> None:
    relocate = relocation("/usr/tree", "/second/usr/tree")
    assert relocate("/usr/bin/gcc") == "/usr/bin/gcc"
    assert relocate("/usr/tree/x") == "/second/usr/tree/x"
    assert relocation("/tmp/tree", "/second/tree")("/tmp/x") == "/tmp/x"  # noqa: S108
    assert relocation("/tree", "/second/tree")("/x /tree/y") == "/x /second/tree/y"


@pytest.mark.parametrize(
    ("folders", "groups"),
    [
        (("a", "b"), ["0", "1"]),
        (("a", "a"), ["01"]),
        (("a", "a/b", "c"), ["01", "2"]),
        (("a/b", "a/bc"), ["0", "1"]),
        (("a", "b", ""), ["012"]),
        (("a/b", "c", "a/d", "a"), ["023", "1"]),
    ],
)
def test_makes_in_folders_of_one_another_are_no_strangers(
    folders: tuple[str, ...], groups: list[str]
) -> None:
    found = independent({str(number): _own(folder) for number, folder in enumerate(folders)})
    assert ["".join(group) for group in found] == groups


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(3, False, None, 1), "exit status 3"),
        (Ended(-9, False, None, 1), "was killed by SIGKILL"),
        (Ended(-99, False, None, 1), "was killed by signal 99"),
        (Ended(None, True, None, 1), "took too long and was killed with all that it had started"),
        (Ended(None, False, "no log", 1), "no log"),
    ],
)
def test_every_end_has_words(ended: Ended, said: str) -> None:
    assert describe(ended) == said


def test_differences_of_what_is_no_enclave_have_no_section() -> None:
    found = find_differences("f", b"a" * 100, b"a" * 40 + b"b" + b"a" * 79)
    assert [(item.offset, item.size, item.section) for item in found] == [
        (40, 1, None),
        (100, 20, None),
    ]


def test_every_release_of_the_catalogue_has_a_plan(catalogue: Catalogue) -> None:
    for release in catalogue.releases.values():
        assert catalogue.plan(release), Path(release.file).name
