# SPDX-License-Identifier: GPL-2.0-or-later
"""A shorter way to some enclaves: what it takes of a release, and what it must not be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest

from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue, release_from
from sgx_enclaves.catalogue.records import MAKERS, Build, Catalogue, Release
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.plain import parse_toml

HEX = "ab" * 32


def source(name: str, place: str) -> str:
    return f"""
[[build.source]]
id = "{name}"
place = "{place}"
filename = "{name}.tar.gz"
urls = ["https://example.org/{name}.tar.gz"]
sha256 = "{HEX}"
"""


def enclave(name: str) -> str:
    return f"""
[[enclave]]
name = "{name}"
file = "{name}"
vendor = "v"
member = "{name}"
signer = "{HEX}"
isvprodid = 1
least_isvsvn = 1
[enclave.build]
config = "{name}/config.xml"
make_directory = "{name}"
make_target = "{name}.so"
unsigned = "{name}/{name}.so"
[enclave.so_version]
value = "1.25.100.1"
tag = "t"
file = "f"
macro = "M"
"""


TOML = f"""
schema = 1
name = "routes"
title = "A release with two routes"
sgx = "2.25"
dcap = "1.22"
[build]
root = "/build/tree"
{source("main", ".")}{source("sub", "sub")}{source("deep", "sub/deep")}{source("other", "other")}
[[build.patch]]
file = "top.patch"
place = "."
[[build.patch]]
file = "sub.patch"
place = "sub/folder"
[[build.patch]]
file = "deep.patch"
place = "sub/deep"
[[build.patch]]
file = "other.patch"
place = "other"
[[build.step]]
id = "everything"
place = "."
command = ["make"]
[[build.route]]
id = "short"
enclaves = ["one", "two"]
sources = ["main", "sub"]
[[build.route.step]]
id = "both"
place = "sub"
command = ["make", "both"]
[[build.route.step]]
id = "only-two"
place = "."
command = ["make", "two"]
enclaves = ["two"]
[toolchain]
name = "gcc"
interpreter = "/lib64/ld.so"
[[toolchain.tool]]
name = "gcc"
version = "9"
[[vendor]]
id = "v"
filename = "v.tar.gz"
urls = ["https://example.org/v.tar.gz"]
sha256 = "{HEX}"
{enclave("one")}{enclave("two")}{enclave("three")}
"""


def parsed() -> dict[str, Any]:
    return parse_toml(TOML.encode(), file="routes.toml", error=CatalogueError)


RELEASE = release_from(parsed(), "routes.toml")
CATALOGUE = Catalogue({RELEASE.name: RELEASE})


def planned(catalogue: Catalogue, release: Release, route: Optional[str] = None) -> Build:
    """How the only tree is made that the release is built in."""
    (tree,) = catalogue.plan(release, route)
    return tree.own_tree()[0]


def test_the_first_route_that_leads_to_all_enclaves_is_taken() -> None:
    plan = planned(CATALOGUE, RELEASE.only(["one"]))
    assert plan.route == "short"
    assert [item.id for item in plan.sources] == ["main", "sub"]
    assert [item.id for item in plan.steps] == ["both"]
    plan = planned(CATALOGUE, RELEASE.only(["one", "two"]))
    assert [item.id for item in plan.steps] == ["both", "only-two"]


def test_patches_go_with_the_innermost_source_around_them() -> None:
    plan = planned(CATALOGUE, RELEASE.only(["one"]))
    assert [patch.file for patch in plan.patches] == ["top.patch", "sub.patch"]


@pytest.mark.parametrize(
    ("names", "route"), [((), None), (("one", "three"), None), (("one",), MAKERS)]
)
def test_the_makers_route_has_everything(names: tuple[str, ...], route: Optional[str]) -> None:
    plan = planned(CATALOGUE, RELEASE.only(names) if names else RELEASE, route)
    assert plan.route == MAKERS
    assert [item.id for item in plan.sources] == ["main", "sub", "deep", "other"]
    assert [item.id for item in plan.steps] == ["everything"]
    assert len(plan.patches) == 4


def test_an_unpinned_source_stands_in_the_way_of_its_own_route_only() -> None:
    data = parsed()
    del data["build"]["source"][3]["sha256"]
    data["unpinned"] = ["source.other"]
    release = release_from(data, "routes.toml")
    assert release.only(["one"]).along().unpinned == ()
    assert release.only(["three"]).along().unpinned == ("source.other",)


@pytest.mark.parametrize("name", ["pce", "ide", "qe3", "tdqe"])
def test_the_shipped_narrow_route_needs_four_sources_and_one_patch(name: str) -> None:
    catalogue = load_catalogue((OWN_FOLDER,))
    release = catalogue.release("sgx-2.25-dcap-1.22")
    plan = planned(catalogue, release.only([name]))
    assert plan.route == "narrow"
    assert [s.id for s in plan.sources] == ["linux-sgx", "dcap", "ipp-crypto", "sgx-emm"]
    assert [p.place for p in plan.patches] == ["external/ippcp_internal/ipp-crypto"]
    mitigated = {step.id for step in plan.steps if step.command[-1].endswith("=LOAD")}
    assert bool(mitigated) is (name != "tdqe")
    # the designated toolchain's own make, ar and the like: nothing is named by its path
    programs = {step.command[0] for step in plan.steps}
    assert plan.steps[0].id == "needs"
    assert programs <= {"make", "sh", "mv", "./external/sgx-emm/create_symlink.sh"}
    # QvE needs four sources more, and nothing of it is built for the others
    wide = planned(catalogue, release.only([name, "qve"]))
    assert (wide.route, len(wide.sources)) == ("narrow", 8)
    own = {"pthread", "sgxssl-openssl", "sgxssl"}
    assert own <= {step.id for step in wide.steps}
    assert not own & {step.id for step in plan.steps}


@pytest.mark.parametrize("route", ["narrow", MAKERS])
def test_what_the_steps_need_and_is_not_here_is_said_by_the_first(
    tmp_path: Path, route: str
) -> None:
    release = load_catalogue((OWN_FOLDER,)).release("sgx-2.25-dcap-1.22")
    plan = planned(Catalogue({release.name: release}), release.only(["pce"]), route)
    needs = plan.steps[0].command
    names = needs[needs.index("needs") + 1 :]
    for name in names:
        path = tmp_path / "tree" / name if "/" in name else tmp_path / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    command = [shutil.which(needs[0]) or "", *needs[1:]]
    options: dict[str, Any] = {
        "cwd": tmp_path / "tree" if route == MAKERS else tmp_path,
        "env": {"PATH": str(tmp_path / "bin")},
        "capture_output": True,
        "text": True,
    }
    assert subprocess.run(command, check=False, **options).returncode == 0
    (tmp_path / "bin/python").unlink()
    (tmp_path / "bin/nasm").unlink()
    ended = subprocess.run(command, check=False, **options)
    assert (ended.returncode, ended.stdout) == (1, "not here: nasm python\n")


def test_one_enclave_may_need_more_sources_than_the_others() -> None:
    data = parsed()
    data["build"]["route"][0]["more_sources"] = {"two": ["other"]}
    release = release_from(data, "routes.toml")
    catalogue = Catalogue({release.name: release})
    plan = planned(catalogue, release.only(["one"]))
    assert [item.id for item in plan.sources] == ["main", "sub"]
    assert "other.patch" not in [patch.file for patch in plan.patches]
    plan = planned(catalogue, release.only(["one", "two"]))
    assert [item.id for item in plan.sources] == ["main", "sub", "other"]
    assert "other.patch" in [patch.file for patch in plan.patches]


def test_what_cannot_be_gone_is_refused_by_name() -> None:
    with pytest.raises(CatalogueError, match="no route 'long' leads to one") as caught:
        CATALOGUE.plan(RELEASE.only(["one"]), "long")
    assert caught.value.hint == "there are short to one, two; maker to all"
    assert caught.value.file == "routes.toml"
    with pytest.raises(CatalogueError, match="no route 'short' leads to three, two"):
        CATALOGUE.plan(RELEASE.only(["two", "three"]), "short")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("id", MAKERS, "build.route: is there twice"),
        ("id", "Short", "build.route"),
        ("enclaves", [], "build.route"),
        ("enclaves", ["one", "four"], "route short.enclaves: there is no such one"),
        ("enclaves", ["one"], "route short.step only-two.enclaves: there is no such one"),
        ("sources", ["main", "lost"], "route short.sources: there is no such one"),
        ("sources", ["sub"], "route short.sources: must have main"),
        ("more_sources", {"three": ["other"]}, "route short.more_sources: there is no such one"),
        ("more_sources", {"two": ["lost"]}, "route short.more_sources: there is no such one"),
        ("more_sources", {"two": []}, "build.route"),
        ("surprise", 1, "surprise"),
    ],
)
def test_mistakes_are_refused(key: str, value: object, words: str) -> None:
    data = parsed()
    data["build"]["route"][0][key] = value
    with pytest.raises(CatalogueError, match=re.escape(words)):
        release_from(data, "routes.toml")


def test_code_is_linked_by_enclaves_of_the_release() -> None:
    data = parsed()
    data["build"]["source"][0]["linked_by"] = ["lost"]
    with pytest.raises(CatalogueError, match=r"source main\.linked_by: there is no such one"):
        release_from(data, "routes.toml")


def test_steps_have_names_of_their_own() -> None:
    data = parsed()
    data["build"]["route"][0]["step"][1]["id"] = "both"
    with pytest.raises(CatalogueError, match=r"route short\.step: is there twice"):
        release_from(data, "routes.toml")


@pytest.mark.parametrize("name", ["make-one", "patch-1"])
def test_a_step_must_not_have_the_name_of_our_own(name: str) -> None:
    for route in (False, True):
        data = parsed()
        build = data["build"]["route"][0] if route else data["build"]
        build["step"][0]["id"] = name
        with pytest.raises(
            CatalogueError, match=rf"step\[0\]\.id .*the builder itself.*found {name}"
        ):
            release_from(data, "own.toml")


def test_the_makers_steps_are_for_all() -> None:
    data = parsed()
    data["build"]["step"][0]["enclaves"] = ["one"]
    with pytest.raises(CatalogueError, match=r"step everything\.enclaves"):
        release_from(data, "routes.toml")


def test_no_step_says_itself_how_many_processors_it_may_use() -> None:
    catalogue = load_catalogue((OWN_FOLDER,))
    for release in catalogue.releases.values():
        for build in (release.build,) if release.build is not None else ():
            for step in (*build.steps, *(step for route in build.routes for step in route.steps)):
                assert not any(re.fullmatch(r"-j\d*", word) for word in step.command), step.id


@pytest.mark.skipif(not shutil.which("ar"), reason="ar is not installed")
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("mitigation", ["load", "none"])
def test_the_narrow_route_archives_what_was_built_in_the_archives_order(
    tmp_path: Path, quote: str, mitigation: str
) -> None:
    """Newer releases of CMake put file names in quotes."""
    release = (
        load_catalogue((OWN_FOLDER,)).release("sgx-2.25-dcap-1.22").only(["pce", "tdqe"]).along()
    )
    assert release.build is not None
    (step,) = (step for step in release.build.steps if step.id == f"ipp-{mitigation}-archive")
    place = tmp_path / "build" / "sources" / "ippcp"
    (place / "CMakeFiles" / "ippcp_s.dir").mkdir(parents=True)
    names = ["z.c.o", "left-out.c.o", "a.asm.o"]
    words = ["ar", "qc", "lib.a", *(f"{quote}{name}{quote}" for name in names)]
    (place / "CMakeFiles/ippcp_s.dir/link.txt").write_text(" ".join(words) + "\n")
    for name in ("z.c.o", "a.asm.o"):
        (place / name).write_text(name)
    archive = tmp_path / "build/.build/RELEASE/lib/libippcp.a"
    archive.parent.mkdir(parents=True)
    # upstream's `make clean` does not see .build: what was built with the other mitigation is there
    subprocess.run(["ar", "qcD", archive, "z.c.o"], cwd=place, check=True)
    subprocess.run(step.command, cwd=place, check=True)
    listed = subprocess.run(
        ["ar", "t", archive],
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.split() == ["z.c.o", "a.asm.o"]
