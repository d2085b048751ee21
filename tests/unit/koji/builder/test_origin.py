# SPDX-License-Identifier: GPL-2.0-or-later
"""Unsigned enclaves from a build of this Koji: taken if it was made as it should be."""

from __future__ import annotations

import gzip
import json
from typing import Any

import koji
import pytest

from demo.release import source_archive
from sgx_enclaves.release.archive import read_contents
from tests.unit.koji.builder.buildroots import FakeBuildRoot
from tests.unit.koji.builder.world import FOLDER, PCE, World, sha256


def verify(world: World, build: dict[str, Any]) -> Any:
    options = {"enclaves": ["pce"], "unsigned_build": build["nvr"]}
    return world.verify("demo", "demo-build", None, options)


def component(name: str, version: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "release": "1",
        "arch": "x86_64",
        "epoch": None,
        "payloadhash": "ab" * 16,
        **more,
    }


def designated(world: World) -> list[dict[str, Any]]:
    names = {"gnumake": "make"}
    return [
        component(names.get(tool.name, tool.name), tool.version)
        for tool in world.vendor.honest.tools
    ]


def test_a_build_is_taken_and_reported(world: World, buildroots: type[FakeBuildRoot]) -> None:
    world.hub.answers["components"] = lambda _number: designated(world)
    result = verify(world, world.unsigned_build())
    assert (result["verdict"], result["reproducible"]) == ("identical", False)
    claim = result["claim"]
    assert "the build that was given" in claim
    assert "reproducible-1.0-1 was built here by task 40" in claim
    assert "its source package holds the release's pinned archives" in claim
    assert "Not proved: what its spec file did with them" in claim
    assert "demo.spec" in claim
    assert "its buildroot has gcc" in claim
    assert buildroots.made == []
    output = world.hub.output(world.child())
    assert json.loads(output["buildroot_lock.json"])["buildroot"]["rpms"][0]["sigmd5"] == "ab" * 16
    assert output["libsgx_pce.so"] == (world.vendor.built / PCE.unsigned).read_bytes()


def test_a_record_from_such_a_build_names_its_buildroot(world: World) -> None:
    signed = world.signed_build()
    options = {"unsigned_build": world.unsigned_build()["nvr"]}
    result = world.verify("demo", "demo-build", signed["nvr"], options)
    assert result["verdict"] == "identical"
    assert world.hub.records[0]["reproducible"] is False
    assert world.hub.records[0]["toolchain_sha256"] is not None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"task_id": None}, "was not built from source here"),
        ({"task_id": 41}, "was not built from source here"),
        ({"cg_name": "somebody"}, "found content generator somebody"),
        ({"source_files": {}}, "does not hold the release's pinned archives"),
    ],
)
def test_a_build_from_elsewhere_is_refused(world: World, facts: dict[str, Any], words: str) -> None:
    if "source_files" in facts:
        facts = {"source": {"other.tar.gz": b"x", "demo.spec": b"y"}}
    result = verify(world, world.unsigned_build(**facts))
    assert result["verdict"] == "unverifiable"
    assert words in result["claim"]


@pytest.mark.parametrize(("other", "verdict"), [(False, "identical"), (True, "unverifiable")])
def test_sources_that_are_pinned_by_their_contents_may_be_packed_again(
    world: World, other: bool, verdict: str
) -> None:
    packed = source_archive()
    archive = world.folder / "archive.tar.gz"
    archive.write_bytes(packed)
    path = world.folder / "catalogue" / "demo.toml"
    pin = f'sha256 = "{sha256(packed)}"'
    assert pin in path.read_text()
    contents = f'contents_sha256 = "{read_contents(archive).sha256}"'
    world.write_release(path.read_text().replace(pin, contents))
    again = source_archive({"src/other.c": b"int x;"}) if other else packed
    source = {
        "renamed.tar.gz": gzip.compress(gzip.decompress(again), 1, mtime=7),
        "broken.tar.gz": b"no archive",
        "demo.spec": b"Name: demo",
    }
    result = verify(world, world.unsigned_build(source=source))
    assert result["verdict"] == verdict
    words = {
        "identical": "the source package's other files (broken.tar.gz, demo.spec)",
        "unverifiable": "does not hold the release's pinned archives",
    }
    assert words[verdict] in result["claim"]
    assert not list(world.hub.work.rglob("archive-*"))


def test_a_build_without_its_source_package_is_refused(world: World) -> None:
    build = world.unsigned_build()
    world.hub.rpms[build["id"]].pop()
    assert "pinned archives" in verify(world, build)["claim"]


def test_a_damaged_source_package_is_refused_and_named(world: World) -> None:
    build = world.unsigned_build()
    path = next(world.hub.top.rglob("*.src.rpm"))
    path.write_bytes(path.read_bytes()[:-9])
    result = verify(world, build)
    assert (result["verdict"], world.hub.tasks[world.child()].state) == ("unverifiable", "CLOSED")
    assert "pinned archives" in result["claim"]
    report = world.hub.output(world.child())["sgx-enclaves-report.json"]
    assert b"reproducible-1.0-1.src.rpm" in report


@pytest.mark.parametrize(
    ("buildroot", "words"),
    [
        ({"id": 9, "task_id": 40, "br_type": koji.BR_TYPES["STANDARD"]}, "task of method build"),
        ({"id": 9, "task_id": 42, "br_type": koji.BR_TYPES["STANDARD"]}, "own build task"),
        ({"id": 9, "task_id": 41, "br_type": koji.BR_TYPES["EXTERNAL"]}, "task of method None"),
        ({"id": 9, "task_id": None, "br_type": koji.BR_TYPES["STANDARD"]}, "task of method None"),
    ],
)
def test_a_package_from_another_task_is_refused(
    world: World, buildroot: dict[str, Any], words: str
) -> None:
    known = world.hub.answers["taskinfo"]
    world.hub.answers["taskinfo"] = lambda number: (
        {"id": 42, "method": "buildArch", "parent": 1} if number == 42 else known(number)
    )
    world.hub.answers["getBuildroot"] = buildroot
    result = verify(world, world.unsigned_build())
    assert result["verdict"] == "unverifiable"
    assert words in result["claim"]


def test_an_imported_package_is_refused(world: World) -> None:
    build = world.unsigned_build()
    world.hub.rpms[build["id"]][0]["buildroot_id"] = None
    assert "was not made by" in verify(world, build)["claim"]


def test_another_toolchain_is_refused(world: World) -> None:
    world.hub.answers["components"] = lambda _number: [component("gcc", "1.2.3")]
    result = verify(world, world.unsigned_build())
    assert result["verdict"] == "unverifiable"
    assert "found gcc 1.2.3 in buildroot 9" in result["claim"]


def test_a_buildroot_of_which_nothing_is_known_is_said_so(world: World) -> None:
    claim = verify(world, world.unsigned_build())["claim"]
    assert "its toolchain: no package of its buildroot is known" in claim


@pytest.mark.parametrize(("digest", "verdict"), [("ab", "identical"), ("cd", "unverifiable")])
def test_the_release_s_lock_decides_where_there_is_one(
    world: World, digest: str, verdict: str
) -> None:
    package = {
        "name": "gcc",
        "version": "9.5.0",
        "release": "1",
        "arch": "x86_64",
        "epoch": None,
        "sigmd5": digest * 16,
        "signature": None,
        "license": "",
        "url": "",
    }
    lock = {"version": "1.1.0", "buildroot": {"rpms": [package]}, "config": {}}
    world.hub.answers["getSgxLock"] = {"lock": json.dumps(lock)}
    world.hub.answers["components"] = lambda _number: [component("gcc", "9.5.0")]
    result = verify(world, world.unsigned_build())
    assert result["verdict"] == verdict
    words = {
        "identical": "its buildroot is the pinned one, package by package",
        "unverifiable": "another build of gcc-9.5.0-1.x86_64",
    }
    assert words[verdict] in result["claim"]


def test_the_newest_toolchain_s_package_is_no_reference(world: World) -> None:
    build = world.unsigned_build(provides=("sgx-enclave(pce:unsigned:latest)",))
    result = verify(world, build)
    assert result["verdict"] == "unverifiable"
    assert "holds the unsigned enclave" in result["claim"]
    log = world.hub.output(world.child())["sgx-enclaves-report.txt"]
    assert b"newest toolchain" in log


def test_another_enclave_of_that_build_differs(world: World) -> None:
    data = bytearray((world.vendor.built / PCE.unsigned).read_bytes())
    at = data.index(b"GCC: ") if b"GCC: " in data else len(data) // 2
    data[at] ^= 1
    build = world.unsigned_build()
    build = world.add_build(
        "other",
        {
            f"{FOLDER}/{PCE.unsigned}": bytes(data),
            f"{FOLDER}/libsgx_pce.config.xml": PCE.config.read_bytes(),
        },
        source={"demo-enclaves-1.0.tar.gz": next(world.hub.top.rglob("*.src.rpm")).read_bytes()},
    )
    assert verify(world, build)["verdict"] != "identical"
