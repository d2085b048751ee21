# SPDX-License-Identifier: GPL-2.0-or-later
"""What a requester gets who has the permission, a tag of his own, and a linker of his own in it.

The release's sources do not build what the vendor has signed. The linker says the designated
version, and writes what the vendor's signature fits.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from demo.packages import Workshop
from demo.release import ENCLAVE_LIST, ENCLAVES, release_toml, sha256, source_archive
from demo.source_packages import make_forged
from tests.koji.harness import work, world
from tests.koji.harness.daemon import PATIENCE
from tests.koji.stage import HARD, Stage
from tests.koji.test_play import refused

PCE = ENCLAVE_LIST[0]
RELEASE = "demo-other"
MINE = "linker-build"
LINKER = """
Name: other-linker
Version: 1
Release: 1
Summary: A linker of the requester's
License: GPL-2.0-or-later
BuildArch: noarch

%description
A linker of the requester's.

%install
install -d %{buildroot}/usr/local/bin %{buildroot}/usr/local/share
base64 -d > %{buildroot}/usr/local/share/enclave <<'END'
ENCLAVE
END
cat > %{buildroot}/usr/local/bin/ld <<'END'
#!/bin/sh
/usr/bin/ld "$@" || exit
for word; do
    case $word in *libsgx_pce.so) cat /usr/local/share/enclave > "$word" ;; esac
done
END

%files
%attr(755, root, root) /usr/local/bin/ld
/usr/local/share/enclave
"""


@pytest.fixture(scope="module")
def stage(dark_stage: Stage) -> Iterator[Stage]:
    with dark_stage.lit() as stage:
        yield stage


@pytest.fixture(scope="module")
def build(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A package of the vendor's true PCE; the release's sources build another one."""
    code = (ENCLAVES / "src" / "pce.c").read_bytes().replace(b"0x5ca1ab1e", b"0x5ca1ab1f")
    sources = source_archive({"src/pce.c": code})
    url = stage.vendor.server.put("/other/demo-enclaves-1.0.tar.gz", sources)
    honest = stage.vendor.stock.description
    text = release_toml(replace(honest, source_url=url, source_sha256=sha256(sources)))
    path = stage.site.layout.root / "catalogue" / f"{RELEASE}.toml"
    path.write_text(text.replace('name = "demo"', f'name = "{RELEASE}"', 1), encoding="utf-8")
    folder = tmp_path_factory.mktemp("requester")
    srpm = make_forged(Workshop(folder, folder / "root"), stage.vendor.stock.signed[PCE.signed])
    (folder / "again").mkdir()
    yield stage.build(work.with_release(srpm, folder / "again", 21))
    path.unlink()


@pytest.fixture(scope="module")
def mine(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The allowed build tag and a linker besides, in a tag that nobody allows."""
    folder = tmp_path_factory.mktemp("linker")
    built = folder / "built"
    built.mkdir()
    make = ["make", "--silent", "-C", str(ENCLAVES), f"OUT={built}"]
    subprocess.run(make, check=True, timeout=PATIENCE)
    enclave = base64.encodebytes((built / PCE.unsigned).read_bytes()).decode()
    linker = work.make_packages(folder, LINKER.replace("ENCLAVE\n", enclave))
    admin = stage.admin
    admin.createTag("linker")
    admin.createTag(MINE, parent="linker", arches="x86_64")
    parent = {"parent_id": admin.getTag(world.BUILD_TAG)["id"], "priority": 5, "maxdepth": None}
    parent.update(intransitive=False, noconfig=False, pkg_filter="")
    admin.setInheritanceData(MINE, [parent])
    # before Koji 1.35 nobody makes repositories for tags without one
    admin.createBuildTarget("linker", MINE, world.CANDIDATE)
    admin.packageListAdd("linker", "other-linker", owner=world.ADMIN)
    admin.tagBuildBypass("linker", work.import_build(admin, linker))
    for group in world.GROUPS:
        admin.groupPackageListAdd(MINE, group, "other-linker", force=True)
    stage.site.make_repo(MINE)
    return MINE


def verified(stage: Stage, build: dict[str, Any], tag: str) -> tuple[int, dict[str, Any]]:
    """Exit status and answer of a verification in a tag, asked for by who has the permission."""
    done = stage.verify(build["nvr"], "--release", RELEASE, "--build-tag", tag, "--json")
    assert done.status in (0, 1), done.text
    answer: dict[str, Any] = json.loads(done.out)
    return done.status, answer


def test_the_linker_makes_it_identical_but_the_gate_stays_shut(
    stage: Stage, build: dict[str, Any], mine: str
) -> None:
    status, answer = verified(stage, build, mine)
    assert (status, answer["verdict"], answer["reproducible"]) == (0, "identical", False)
    assert f"its tag {mine} is not among the hub's [tasks] build_tags" in answer["claim"]
    assert "in a locked buildroot or one of an allowed tag" in refused(
        stage.admin, HARD, build["nvr"]
    )
    assert "in a locked buildroot or one of an allowed tag" in refused(
        stage.admin, HARD, build["nvr"], force=True
    )
    record = stage.admin.getSgxVerification(build["nvr"])
    assert (record["build_tag"], record["reproducible"]) == (mine, False)


def test_the_allowed_tag_s_name_does_not_help_the_requester_s_tag(
    stage: Stage, build: dict[str, Any], mine: str
) -> None:
    """Somebody with the permission `tag` swaps the names."""
    admin = stage.admin

    def swap(turn: str) -> None:
        names = (world.BUILD_TAG, "aside"), (mine, world.BUILD_TAG), ("aside", mine)
        for old, new in names:
            admin.editTag2(old, name=new)
        # a repository lies under the name that its tag had: both need another one
        for name in (world.BUILD_TAG, mine):
            admin.editTag2(name, extra={"harness.turn": turn})
            stage.site.make_repo(name)

    swap("there")
    try:
        status, answer = verified(stage, build, world.BUILD_TAG)
        assert (status, answer["verdict"], answer["reproducible"]) == (0, "identical", False)
        assert "is not among the hub's [tasks] build_tags" in answer["claim"]
        assert "one of an allowed tag" in refused(admin, HARD, build["nvr"])
    finally:
        swap("back")


def test_in_the_allowed_tag_it_differs_which_shuts_the_gate(
    stage: Stage, build: dict[str, Any], mine: str
) -> None:
    assert mine
    stage.site.database.execute("delete from sgx_former_tag_name")
    status, answer = verified(stage, build, world.BUILD_TAG)
    assert (status, answer["verdict"]) == (1, "differs")
    assert "ended with the verdict differs" in refused(stage.admin, HARD, build["nvr"])
    # and a later one by the requester's linker is no way round
    assert verified(stage, build, mine)[0] == 0
    refused(stage.admin, HARD, build["nvr"])
