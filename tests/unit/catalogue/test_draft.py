# SPDX-License-Identifier: GPL-2.0-or-later
"""A release is drafted from two source trees, pinned, and checked against its own sources."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.draft import Trees, draft_release
from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue, read_release
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.catalogue.writing import (
    check_tree,
    source_tree,
    toml_of,
    write_pins,
)
from sgx_enclaves.cli.main import main
from sgx_enclaves.errors import CatalogueError, InputError
from tests.unit.release import tarmaker as tm

COMMIT = "ab" * 20
LIBCBOR = "efa6c0886bae46bdaef9b679f61f4b9d8bc296ae"
STORE = "/nix/store/" + "x" * 32
SGX = {
    "common/inc/internal/se_version.h": "#define SGX_MAJOR_VERSION 9\n"
    "#define SGX_MINOR_VERSION 1\n#define SGX_REVISION_VERSION 100\n"
    '#define PCE_VERSION "1.9.100.1"\n',
    "Makefile": "all:\npreparation:\n\tgit submodule update\n"
    "\tcd external/cbor && cp -r libcbor sgx_libcbor\n"
    "\tcd external/cbor/libcbor && git apply ../raw.patch >/dev/null 2>&1 || \\\n"
    "\t\tgit apply ../raw.patch --check -R\n\nother:\n\tcd x && git apply ../not-this.patch\n",
    "psw/ae/pce/config.xml": "<ProdID>0x1</ProdID><ISVSVN>0x12</ISVSVN>",
    "psw/ae/pce/Makefile": "MITIGATION-CVE-2020-0551=LOAD\n",
    "linux/reproducibility/Dockerfile": "RUN curl https://releases.nixos.org/nix/nix-9.9.0/install"
    f" \n {STORE}-gcc-wrapper-13.1.0 \n {STORE}-openssl-3.1.4-dev \n {STORE}-glibc-2.40-1 \n",
    "linux/reproducibility/start_build.sh.tmp": "    cd $sgx_repo/psw/ae/pce && make\n"
    "    cp pce.so $ae_out\n    cd $sgx_repo/external/dcap_source/ae/new && make\n"
    "    cp libsgx_new.so $ae_out\n",
    ".gitmodules": '[submodule "cbor"]\n\tpath = external/cbor/libcbor\n'
    "\turl = https://github.com/PJK/libcbor.git\n"
    '[submodule "dcap"]\n\tpath = external/dcap_source\n\turl = ../dcap.git\n',
    "external/cbor/raw.patch": "x",
}
DCAP = {
    "QuoteGeneration/psw/ae/data/prebuilt/README.md": "# PCE source code\nlibsgx_pce.signed.so in"
    " [sgx_9.1_reproducible](x)\n# QE3 source code\nlibsgx_qe3.signed.so in"
    " [sgx_2.25_reproducible](x)\n# NEW source code\nlibsgx_new.signed.so in"
    " [sgx_9.1_reproducible](x)\n",
    "QuoteGeneration/common/inc/internal/se_version.h": '#define QE3_VERSION "1.8.100.1"\n',
    "QuoteVerification/prepare_sgxssl.sh": "sgxssl_file_name=3.0_Rev9\n"
    f"openssl_ver_name=openssl-3.0.99\nopenssl_chksum={'cd' * 32}\n",
    "ae/new/config.xml": "<ProdID>7</ProdID>",
    ".gitmodules": '[submodule "qvl"]\n\tpath = QVL\n\turl = ../SGX-TDX-DCAP-QuoteVerificationLib'
    'rary.git\n[submodule "gtest"]\n\tpath = gtest\n\turl = https://github.com/google/googletest\n',
}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.hooksPath="]
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "GIT_COMMITTER_DATE": "@1700000000 +0"},
    )
    return done.stdout


def repository(folder: Path, files: dict[str, str], links: dict[str, str], *tags: str) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", ".")
    for place, commit in links.items():
        git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{place}")
    git(folder, "commit", "--quiet", "--message=x", "--no-gpg-sign")
    for tag in tags:
        git(folder, "tag", tag)
    return folder


@pytest.fixture(name="places")
def _places(tmp_path: Path) -> tuple[str, str]:
    links = {"external/cbor/libcbor": LIBCBOR, "external/dcap_source": COMMIT}
    sgx = repository(tmp_path / "sgx", SGX, links, "sgx_9.1_reproducible", "sgx_9.1")
    own = {"QVL": COMMIT, "gtest": COMMIT}
    dcap = repository(tmp_path / "dcap", DCAP, own, "dcap_8.1_reproducible", "DCAP_8.1")
    return f"{sgx}@sgx_9.1_reproducible", f"{dcap}@dcap_8.1_reproducible"


def trees_of(places: tuple[str, str], asked: tuple[str | None, str | None] = (None, None)) -> Trees:
    return Trees(*map(source_tree, places, asked))


def drafted(places: tuple[str, str]) -> Release:
    text = toml_of(draft_release(trees_of(places), load_catalogue((OWN_FOLDER,))))
    return read_release(text.encode(), "drafted")


def test_what_the_trees_say_is_in_the_draft(places: tuple[str, str]) -> None:
    release = drafted(places)
    assert release.name == "sgx-9.1-dcap-8.1"
    assert release.build is not None
    sources = {source.id: source for source in release.build.sources}
    assert list(sources) == [
        *("linux-sgx", "dcap", "libcbor", "sgx-libcbor"),
        *("sgx-tdx-dcap-quoteverificationlibrary", "sgxssl", "openssl"),
    ]
    assert sources["linux-sgx"].artifact.filename == "sgx_9.1_reproducible.tar.gz"
    assert sources["sgx-libcbor"].place == "external/cbor/sgx_libcbor"
    # the same commit was used before, so what it holds is known
    assert sources["libcbor"].artifact.contents_sha256 is not None
    assert sources["openssl"].artifact.sha256 == "cd" * 32
    assert [(patch.file, patch.place) for patch in release.build.patches] == [
        ("external/cbor/raw.patch", "external/cbor/libcbor")
    ]
    assert release.build.steps[-1].command[0].endswith("sgx_linux_x64_sdk_9.1.100.1.bin")
    assert release.toolchain is not None
    assert release.toolchain.name == "Nix 9.9.0"
    tools = {tool.name: tool.version for tool in release.toolchain.tools}
    assert tools == {"gcc": "13.1.0", "openssl-dev": "3.1.4", "glibc": "2.40-1"}
    interpreter = f"{STORE}-glibc-2.40-1/lib/ld-linux-x86-64.so.2"
    assert release.toolchain.interpreter == interpreter
    assert release.toolchain.environment["SOURCE_DATE_EPOCH"] == "1700000000"


def test_each_enclave_has_its_own_origin_and_numbers(places: tuple[str, str]) -> None:
    release = drafted(places)
    pce, qe3, new = release.enclaves
    assert pce.build is not None
    assert (pce.build.mitigation, pce.build.make_directory) == ("LOAD", "psw/ae/pce")
    assert (pce.isvprodid, pce.least_isvsvn) == (1, 0x12)
    assert pce.so_version is not None
    assert (pce.so_version.value, pce.so_version.tag) == ("1.9.100.1", "sgx_9.1")
    assert (qe3.build, qe3.built_in) == (None, "sgx-2.25-dcap-1.22")
    assert new.build is not None
    assert new.build.config == "external/dcap_source/ae/new/config.xml"
    assert new.isvprodid == 7
    assert new.signer == "0" * 64
    assert {f for f in release.unpinned if f.startswith("enclave.")} == {
        *("enclave.qe3.isvprodid", "enclave.qe3.least_isvsvn"),
        *("enclave.new.least_isvsvn", "enclave.new.so_version"),
    }
    assert {f for f in release.unpinned if not f.startswith("enclave.")} == {
        *("source.linux-sgx", "source.dcap", "source.sgxssl", "vendor.dcap"),
        "source.sgx-tdx-dcap-quoteverificationlibrary",
    }


def test_trees_that_cannot_be_drafted_from(places: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="git"):
        source_tree(f"{places[0]}-not")
    with pytest.raises(InputError, match="git"):
        source_tree(str(tmp_path))
    trees = trees_of(places)
    with pytest.raises(CatalogueError, match="no release with a build"):
        draft_release(trees, Catalogue({}))
    with pytest.raises(InputError, match=r"neither a tag nor an archive 'sgx_9\.2'"):
        trees_of(places, ("sgx_9.2", None))
    swapped = Trees(trees.sgx, trees.sgx)
    with pytest.raises(InputError, match="has no QuoteGeneration"):
        draft_release(swapped, load_catalogue((OWN_FOLDER,)))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("Makefile", "preparation:\n\tcd\n\tgit apply\n", r"patch\[0\]\.file does not fit"),
        ("psw/ae/pce/config.xml", "<ProdID>08</ProdID>", ""),
        (".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = x\n', ""),
    ],
)
def test_what_makes_no_sense_in_a_tree_is_left_out_or_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    sgx = repository(tmp_path / "s", {**SGX, name: text}, {}, "sgx_9.1_reproducible")
    places = f"{sgx}@sgx_9.1_reproducible", str(repository(tmp_path / "d", DCAP, {}, "dcap_8.1"))
    if words:
        with pytest.raises(CatalogueError, match=words):
            drafted(places)
    else:
        assert ("enclave.pce.isvprodid" in drafted(places).unpinned) is name.endswith(".xml")


def test_the_verb_drafts(places: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "new.toml"
    words = ["--sgx", places[0], "--dcap", places[1], "--output", str(target)]
    assert main(["releases", "new", *words]) == 0
    assert read_release(target.read_bytes(), "x") == drafted(places).__class__(
        **{**drafted(places).__dict__, "file": "x"}
    )
    assert main(["releases", "new", "--sgx", places[0]]) == 2


@pytest.fixture(name="archives")
def _archives(places: tuple[str, str], tmp_path: Path) -> tuple[str, str]:
    """The same trees as archives, as a server makes them of a tag."""
    made = []
    for place, name in zip(places, ("linux-sgx", "dcap")):
        folder, _, tag = place.partition("@")
        path = tmp_path / f"{tag}.tar.gz"
        git(Path(folder), "archive", f"--prefix={name}-{tag}/", f"--output={path}", tag)
        made.append(str(path))
    return made[0], made[1]


@pytest.mark.parametrize("protobuf", ["a74f54b724bdc2fe0bfc271f4dc0ceb159805625", COMMIT])
def test_sub_modules_of_a_sub_module_are_those_of_its_commit(tmp_path: Path, protobuf: str) -> None:
    """And a script that names no digest, but asks the server for it, leaves it unpinned."""
    place = "external/protobuf/protobuf_code"
    modules = f'[submodule "p"]\n\tpath = {place}\n\turl = https://github.com/x/protobuf\n'
    files = {**SGX, ".gitmodules": modules}
    sgx = repository(tmp_path / "s", files, {place: protobuf}, "sgx_9.1_reproducible", "sgx_9.1")
    ssl = {
        "QuoteVerification/prepare_sgxssl.sh": "sgxssl_file_name=1\nopenssl_ver_name=openssl-3\n"
    }
    tags = "dcap_8.1_reproducible", "DCAP_8.1"
    dcap = repository(tmp_path / "d", {**DCAP, **ssl}, {"QVL": COMMIT}, *tags)
    release = drafted((f"{sgx}@sgx_9.1_reproducible", f"{dcap}@{tags[0]}"))
    assert release.build is not None
    sources = {source.id: source for source in release.build.sources}
    assert ("abseil-cpp" in sources) == (protobuf != COMMIT)
    assert sources["openssl"].artifact.sha256 is None
    assert "source.openssl" in release.unpinned


def test_archives_say_what_repositories_say_but_sub_modules_commits(
    places: tuple[str, str], archives: tuple[str, str], tmp_path: Path
) -> None:
    asked = tmp_path / "sgx_9.1.tar.gz", tmp_path / "DCAP_8.1.tar.gz"
    for place, path in zip(places, asked):
        tag = path.name.partition(".tar")[0]
        git(Path(place.partition("@")[0]), "archive", f"--prefix={tag}/", f"--output={path}", tag)
    catalogue = load_catalogue((OWN_FOLDER,))
    known = draft_release(trees_of(places), catalogue)
    found = draft_release(trees_of(archives, (str(asked[0]), str(asked[1]))), catalogue)
    assert known.build is not None
    assert found.build is not None
    assert found.notes == known.notes + tuple(
        f"drafted; unknown: the commit of sub-module {place}"
        for place in (
            *("external/cbor/libcbor", "external/cbor/sgx_libcbor"),
            "external/dcap_source/QVL",
        )
    )
    for source, whole in zip(found.build.sources, known.build.sources):
        if source.id in ("linux-sgx", "dcap", "sgxssl", "openssl"):
            assert source == whole
        else:
            commit = str(whole.commit)
            urls = tuple(url.replace(commit, "COMMIT") for url in whole.artifact.urls)
            assert (source.place, source.commit) == (whole.place, None)
            filename = whole.artifact.filename.replace(commit, "COMMIT")
            assert source.artifact == Artifact(filename, urls)
    for key in ("toolchain", "enclaves", "vendor", "license", "sgx", "dcap"):
        assert getattr(found, key) == getattr(known, key)
    assert set(known.unpinned) < set(found.unpinned)
    assert read_release(toml_of(found).encode(), found.file) == found


def test_an_archive_that_is_none_is_refused(
    archives: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cut.tar.gz").write_bytes(Path(archives[0]).read_bytes()[:500])
    (tmp_path / "link.tar").write_bytes(tm.symlink("top/l", "../../etc/passwd") + tm.END)
    for name in ("cut.tar.gz", "link.tar"):
        words = ["--sgx", str(tmp_path / name), "--dcap", archives[1]]
        assert main(["releases", "new", *words]) == 2
        assert name in capsys.readouterr().err
    monkeypatch.setattr("sgx_enclaves.catalogue.writing._MOST_TEXT", 100)
    assert main(["releases", "new", "--sgx", archives[0], "--dcap", archives[1]]) == 2
    assert "too large together" in capsys.readouterr().err
    monkeypatch.undo()
    words = ["--sgx", archives[0], "--dcap", archives[1], "-o", str(tmp_path / "new.toml")]
    assert main(["releases", "new", *words]) == 0
    release = read_release((tmp_path / "new.toml").read_bytes(), "x")
    # the archives of the release tags are not here, so nothing says the versions in file names
    assert all(enclave.so_version is None for enclave in release.enclaves)


PATCH = "--- a/one.c\n+++ b/one.c\n@@ -1 +1 @@\n-int a;\n+int b;\n"
ARCHIVE = gzip.compress(
    b"".join(
        [
            tm.file("top/one.c", b"int a;\n"),
            tm.file("top/fix.patch", PATCH.encode()),
            tm.file("top/Makefile", b"sdk:\nx:\n"),
            tm.file("top/License.txt", b"free"),
            tm.file("top/e/config.xml", b"<x/>"),
            tm.file("top/e/Makefile", b"x:\n"),
            tm.END,
        ]
    ),
    mtime=0,
)
SIGNED = tm.file("libsgx_one.signed.so", b"signed") + tm.END
TOML = """
schema = 1
name = "small"
title = "A small release"
sgx = "2.25"
dcap = "1.22"
license_files = ["License.txt"]
unpinned = ["source.main", "toolchain.interpreter", "vendor.v", "enclave.one.so_version"]

[build]
root = "/b"
# kept: a comment
[[build.source]]
id = "main"
place = "."
filename = "main.tar.gz"
urls = ["https://example.invalid/main.tar.gz"]
[[build.patch]]
file = "fix.patch"
place = "."
[[build.step]]
id = "sdk"
place = "."
command = ["make", "sdk"]

[toolchain]
name = "some"
[[toolchain.tool]]
name = "gcc"
version = "9"

[[vendor]]
id = "v"
filename = "v.tar.gz"
urls = ["https://example.invalid/v.tar.gz"]

[[enclave]]
name = "one"
file = "one"
vendor = "v"
member = "libsgx_one.signed.so"
signer = "SIGNER"
isvprodid = 1
least_isvsvn = 1
build = {config = "e/config.xml", make_directory = "e", make_target = "x", unsigned = "e/x"}
""".replace("SIGNER", "ab" * 32)


@pytest.fixture(name="options")
def _options(tmp_path: Path) -> list[str]:
    (tmp_path / "small.toml").write_text(TOML)
    local = tmp_path / "local"
    local.mkdir()
    (local / "main.tar.gz").write_bytes(ARCHIVE)
    (local / "v.tar.gz").write_bytes(SIGNED)
    where = ["--local", str(local), "--offline", "--cache", str(tmp_path / "cache")]
    return ["--catalogue", str(tmp_path / "small.toml"), *where]


def test_what_is_unpinned_is_pinned_and_the_rest_stays(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "pinned.toml"
    assert main(["releases", "pin", "small", *options, "-o", str(target)]) == 0
    text = target.read_text()
    assert "# kept: a comment" in text
    release = read_release(text.encode(), "x")
    assert release.unpinned == ("toolchain.interpreter", "enclave.one.so_version")
    (main_source,) = release.sources()
    signed = release.vendor[0].artifact
    assert main_source.sha256 == hashlib.sha256(ARCHIVE).hexdigest()
    assert main_source.sha512 == hashlib.sha512(ARCHIVE).hexdigest()
    assert main_source.contents_sha256 is not None
    assert (signed.sha256, signed.contents_sha256) == (hashlib.sha256(SIGNED).hexdigest(), None)
    assert release.enclaves[0].signed_sha256 == hashlib.sha256(b"signed").hexdigest()
    (tmp_path / "local" / "v.tar.gz").unlink()
    assert main(["releases", "pin", "small", *options, "-o", str(target), "--force"]) == 2
    assert read_release(target.read_bytes(), "x").unpinned[1] == "vendor.v"
    assert "vendor.v is left as it is: " in capsys.readouterr().err
    # once more changes nothing: a pin is never replaced
    assert write_pins(text, {"source.main": {"sha256": "0" * 64}}) == text


def test_a_release_that_says_right_of_its_sources(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["releases", "check", "small", *options]) == 2
    assert "has no pinned digest" in capsys.readouterr().err
    assert main(["releases", "check", "small", *options, "--allow-unpinned"]) == 0
    assert "small: nothing of that is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('file = "fix.patch"', 'file = "other.patch"', "patch other.patch: other.patch is not"),
        ('file = "fix.patch"', 'file = "one.c"', "patch one.c: does not apply"),
        ('"License.txt"', '"COPYING"', "licence COPYING: COPYING is not there"),
        ('["make", "sdk"]', '["./run"]', "step sdk: run is not there"),
        ("e/config.xml", "e/config.xlm", "enclave one: config.xlm is not there"),
        (
            'member = "libsgx_one.signed.so"',
            'member = "psw/one.so"',
            "archive: its member is called one.so, and packages ship libsgx_one.signed.so",
        ),
        ('make_directory = "e"', 'make_directory = "."', ""),
        ('make_directory = "e"', 'make_directory = "f"', "enclave one: there is no makefile"),
    ],
)
def test_what_is_wrong_is_named(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    words: str,
) -> None:
    assert old in TOML
    (tmp_path / "small.toml").write_text(TOML.replace(old, new))
    status = main(["releases", "check", "small", *options, "--allow-unpinned"])
    assert status == (1 if words else 0)
    assert words in capsys.readouterr().out


def test_a_route_is_checked_as_far_as_its_steps_need_no_earlier_one(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = "".join(
        f'[[build.route.step]]\nid = "{name}"\nplace = "{place}"\ncommand = {command}\n'
        for name, place, command in (
            ("lost", "lost", '["true"]'),
            ("first", ".", '["make"]'),
            ("made", "made", '["make"]'),
        )
    )
    route = f'[[build.route]]\nid = "short"\nenclaves = ["one"]\nsources = ["main"]\n{steps}'
    (tmp_path / "small.toml").write_text(TOML.replace("\n[toolchain]", f"{route}\n[toolchain]"))
    command = ["releases", "check", "small", *options, "--allow-unpinned"]
    assert main([*command, "--route", "short"]) == 1
    said = capsys.readouterr().out
    assert "step lost: lost is not there" in said
    assert "step first: as it says" in said
    assert "step made" not in said
    assert "step sdk" not in said
    assert main([*command, "--route", "maker"]) == 0
    assert "step sdk: as it says" in capsys.readouterr().out
    assert main([*command, "--route", "long"]) == 2


def test_without_a_release_or_a_build(options: list[str]) -> None:
    assert main(["releases", "check", *options]) == 2
    assert main(["releases", "check", "sgx-2.29-dcap-1.25", *options]) == 2


def test_a_written_release_is_read_again() -> None:
    for release in load_catalogue((OWN_FOLDER,)).releases.values():
        assert read_release(toml_of(release).encode(), release.file) == release


def test_nothing_is_run_but_patch(tmp_path: Path) -> None:
    release = read_release(TOML.encode(), "x")
    assert release.build is not None
    problems = dict(check_tree(release, tmp_path / "no"))
    assert problems["step sdk"] == "no is not there"


def test_what_may_be_shipped_is_packed_again(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["releases", "repack", "small", *options, "--allow-unpinned"]
    assert main(words) == 2
    for name in ("one.tar", "two.tar"):
        assert main([*words, "-o", str(tmp_path / name)]) == 0
    data = (tmp_path / "one.tar").read_bytes()
    assert (tmp_path / "two.tar").read_bytes() == data
    assert b"libsgx_one.signed.so" in data
    said = capsys.readouterr().out
    assert hashlib.sha512(data).hexdigest() in said
    assert "libsgx_one.signed.so, sha256 " in said
    assert "NOT PINNED: give it signed_sha256" in said
    other = (tmp_path / "small.toml").read_text().replace('"libsgx_one.signed.so"', '"two.so"')
    (tmp_path / "small.toml").write_text(other)
    assert main([*words, "-o", str(tmp_path / "three.tar")]) == 2
    assert "no member 'two.so'" in capsys.readouterr().err
