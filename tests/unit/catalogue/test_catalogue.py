# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue: our files are right, each mistake is refused by name, folders extend."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st

from sgx_enclaves.catalogue.reader import (
    OWN_FOLDER,
    load_catalogue,
    read_release_file,
    release_from,
    unknown_facts,
)
from sgx_enclaves.catalogue.records import Catalogue
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.plain import parse_toml

SCHEMA = json.loads((OWN_FOLDER.parent / "schema.json").read_text("utf-8"))
OWN_FILES = sorted(OWN_FOLDER.glob("*.toml"))
SIGNER = "ab" * 32
NEWEST = "sgx-2.25-dcap-1.22"

SMALL = f"""
schema = 1
name = "small"
title = "A small release"
sgx = "2.25"
dcap = "1.22"
unpinned = ["toolchain.interpreter", "enclave.two.so_version"]

[build]
root = "/build/tree"
[[build.source]]
id = "main"
place = "."
filename = "main.tar.gz"
urls = ["https://example.org/main.tar.gz"]
sha256 = "{SIGNER}"
[[build.source]]
id = "sub"
place = "external/sub"
filename = "sub.tar.gz"
urls = ["https://example.org/sub.tar.gz"]
sha256 = "{SIGNER}"
[[build.patch]]
file = "a.patch"
place = "external/sub"
[[build.step]]
id = "sdk"
place = "."
command = ["make", "sdk"]

[toolchain]
name = "some"
[[toolchain.tool]]
name = "gcc"
version = "9.5.0"
[toolchain.environment]
LC_ALL = "C"

[[vendor]]
id = "signed"
filename = "signed.tar.gz"
urls = ["https://example.org/signed.tar.gz"]
sha256 = "{SIGNER}"
[vendor.checksums]
filename = "SUMS"
urls = ["https://example.org/SUMS"]

[[enclave]]
name = "one"
file = "one_enclave"
vendor = "signed"
member = "a/libsgx_one_enclave.signed.so"
signer = "{SIGNER}"
isvprodid = 1
least_isvsvn = 2
[enclave.build]
config = "one/config.xml"
make_directory = "one"
make_target = "one.so"
unsigned = "one/one.so"
mitigation = "LOAD"
[enclave.so_version]
value = "1.2.3.4"
tag = "v1"
file = "version.h"
macro = "ONE_VERSION"

[[enclave]]
name = "two"
file = "two"
vendor = "signed"
member = "a/libsgx_two.signed.so"
signer = "{SIGNER}"
isvprodid = 1
least_isvsvn = 0
not_reproducible = "internal branch"
required = false
reason = "cannot be built"
"""


def small() -> dict[str, Any]:
    return parse_toml(SMALL.encode(), file="small.toml", error=CatalogueError)


def parsed(path: Path) -> dict[str, Any]:
    return parse_toml(path.read_bytes(), file=path.name, error=CatalogueError)


def test_small_release_is_read() -> None:
    release = release_from(small(), "small.toml")
    assert release.build is not None
    assert release.toolchain is not None
    assert [source.place for source in release.build.sources] == ["", "external/sub"]
    assert release.build.steps[0].command == ("make", "sdk")
    assert release.toolchain.umask == 0o022
    one = release.enclave("one")
    assert one is not None
    assert one.signed_file == "libsgx_one_enclave.signed.so"
    assert release.enclave("three") is None
    assert [artifact.filename for artifact in release.sources()] == ["main.tar.gz", "sub.tar.gz"]
    assert [artifact.filename for artifact in (v.artifact for v in release.vendor)] == [
        "signed.tar.gz"
    ]
    jsonschema.validate(small(), SCHEMA)


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.stem)
def test_own_files_fit_the_schema_and_the_reader(path: Path) -> None:
    jsonschema.validate(parsed(path), SCHEMA)
    release = read_release_file(path)
    assert release.name == path.stem
    new = {"qae"} if release.dcap == "1.25" else set()
    names = {enclave.name for enclave in release.enclaves}
    assert names == {"pce", "ide", "qe3", "tdqe", "qve"} | new
    for enclave in release.enclaves:
        assert (enclave.name in ("qve", "qae")) == (not enclave.may_ship)
        assert enclave.signed_file == enclave.member.rpartition("/")[2]


def test_own_catalogue_is_whole() -> None:
    catalogue = load_catalogue([OWN_FOLDER])
    assert not catalogue.replaced
    assert len(catalogue.releases) == len(OWN_FILES) >= 10
    newest = catalogue.release(NEWEST)
    pce = newest.enclave("pce")
    assert pce is not None
    assert pce.so_version is not None
    assert pce.so_version.value == "1.25.100.1"
    assert pce.least_isvsvn == 16
    assert catalogue.build_of(newest, pce) == (newest, pce.build)
    later = catalogue.release("sgx-2.26-dcap-1.23")
    assert later.build is None
    assert catalogue.build_of(later, later.enclaves[0]) == (newest, pce.build)
    internal = catalogue.release("sgx-2.21-dcap-1.18").enclave("tdqe")
    assert internal is not None
    with pytest.raises(CatalogueError, match="internal branch"):
        catalogue.build_of(catalogue.release("sgx-2.21-dcap-1.18"), internal)
    with pytest.raises(CatalogueError, match=r"did you mean sgx-2\.25-dcap-1\.22\?"):
        catalogue.release("sgx-2.25")


def test_what_is_not_pinned_of_a_release_and_of_its_trees() -> None:
    catalogue = load_catalogue([OWN_FOLDER])
    newest = catalogue.release(NEWEST)
    assert catalogue.unpinned_digests(newest) == ()
    later = catalogue.release("sgx-2.26-dcap-1.23")
    assert catalogue.unpinned_digests(later) == ("vendor.dcap",)
    loose = replace(newest, unpinned=("source.sgx-emm", "toolchain.interpreter"))
    both = Catalogue({loose.name: loose, later.name: later})
    assert both.unpinned_digests(later) == ("vendor.dcap", f"{NEWEST}: source.sgx-emm")
    assert both.trees_of(later) == (loose,)
    internal = catalogue.release("sgx-2.21-dcap-1.18")
    assert internal.name in {tree.name for tree in catalogue.trees_of(internal)}


def test_origins_and_floors_of_the_newest_releases() -> None:
    """An enclave is built from the tag that the vendor's README names."""
    catalogue = load_catalogue([OWN_FOLDER])
    own = {"sgx-2.27-dcap-1.24": {"qve"}, "sgx-2.28-dcap-1.25": {"qve", "tdqe", "qae"}}
    own["sgx-2.29-dcap-1.25"] = set()
    for name, built_here in own.items():
        release = catalogue.release(name)
        assert {e.name for e in release.enclaves if e.build is not None} == built_here
        for enclave in release.enclaves:
            tree, _ = catalogue.build_of(release, enclave)
            built = tree.enclave(enclave.name)
            if enclave.name in ("pce", "ide", "qe3"):
                assert tree.name == NEWEST
            assert built is not None
            assert (built.signer, built.isvprodid) == (enclave.signer, enclave.isvprodid)
    newest = catalogue.release("sgx-2.29-dcap-1.25")
    floors = {e.name: (e.isvprodid, e.least_isvsvn) for e in newest.enclaves}
    assert floors == {
        **{"pce": (1, 16), "qe3": (1, 11), "ide": (1, 5)},
        **{"tdqe": (2, 7), "qve": (2, 14), "qae": (3, 13)},
    }
    qae = newest.enclave("qae")
    assert qae is not None
    assert catalogue.build_of(newest, qae)[0].name == "sgx-2.28-dcap-1.25"


def test_digests_that_are_known_are_pinned() -> None:
    release = load_catalogue([OWN_FOLDER]).release(NEWEST)
    pins = {
        item.filename: item.sha256
        for item in (*release.sources(), *(v.artifact for v in release.vendor))
    }
    assert pins["sgx_2.25_reproducible.tar.gz"] is not None
    assert pins["sgx_2.25_reproducible.tar.gz"].startswith("57c1e463")
    assert pins["prebuilt_dcap_1.22.tar.gz"] is not None
    assert pins["prebuilt_dcap_1.22.tar.gz"].startswith("453a4943")
    assert release.unpinned == ()


def test_one_commit_has_one_content() -> None:
    """An archive that several releases share is pinned alike in all of them."""
    pins: dict[str, set[Optional[str]]] = {}
    for release in load_catalogue([OWN_FOLDER]).releases.values():
        for source in release.build.sources if release.build else ():
            assert source.artifact.pinned or f"source.{source.id}" in release.unpinned
            if source.commit is not None and source.artifact.sha256 is None:
                pins.setdefault(source.commit, set()).add(source.artifact.contents_sha256)
    assert len(pins) >= 30
    assert {commit: found for commit, found in pins.items() if len(found) != 1} == {}
    known = [pin for found in pins.values() for pin in found if pin is not None]
    assert len(known) == len(set(known))


def test_contents_are_a_pin() -> None:
    data = small()
    put("build/source/1/sha256", None)(data)
    with pytest.raises(CatalogueError, match=r"must list source\.sub"):
        release_from(data, "small.toml")
    put("build/source/1/contents_sha256", "cd" * 32)(data)
    jsonschema.validate(data, SCHEMA)
    release = release_from(data, "small.toml")
    assert release.sources()[1].contents_sha256 == "cd" * 32
    assert release.sources()[1].pinned
    assert "source.sub" not in unknown_facts(release)
    data["unpinned"].append("source.sub")
    with pytest.raises(CatalogueError, match=r"lists source\.sub, which is given"):
        release_from(data, "small.toml")


Edit = Callable[[dict[str, Any]], object]


def put(path: str, value: object) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        *way, last = path.split("/")
        place: Any = data
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return edit


def contents_with(key: str, value: object) -> Edit:
    def edit(data: dict[str, Any]) -> None:
        data["build"]["source"][1].update({"contents_sha256": "ab" * 32, key: value})

    return edit


# mistakes that the schema sees as well: edit, what the message must say
BOTH: dict[str, tuple[Edit, str]] = {
    "contents of a packed archive": (
        contents_with("unpack", False),
        "build.source[1].unpack does not fit (expected true, since contents_sha256",
    ),
    "contents below another folder": (contents_with("strip", 2), "expected 1, since contents_"),
    "contents with the top folder": (contents_with("strip", 0), "expected 1, since contents_"),
    "no schema": (put("schema", None), "schema: must be 1"),
    "newer schema": (put("schema", 2), "schema: must be 1"),
    "no name": (put("name", None), "name does not fit (expected a value"),
    "bad name": (
        put("name", "A b"),
        "name does not fit (expected a name of lower-case letters, digits, '.', '_' and '-'",
    ),
    "number for a name": (
        put("name", 5),
        "name does not fit (expected a name of lower-case letters, digits, '.', '_' and '-'",
    ),
    "unknown key": (put("colour", "red"), "toolchain, vendor, run, enclave, found colour)"),
    "unknown key below": (put("enclave/0/svn", 1), "may_ship, reason, found svn)"),
    "no enclave": (
        put("enclave", []),
        "enclave does not fit (expected a list of at least one enclave",
    ),
    "table for a list": (
        put("enclave", {}),
        "enclave does not fit (expected a list of at least one enclave",
    ),
    "short digest": (
        put("build/source/0/sha256", "ab"),
        "build.source[0].sha256 does not fit (expected SHA-256: 64 lower-case hexadecimal digits",
    ),
    "short digest of contents": (
        put("build/source/1/contents_sha256", "ab"),
        "build.source[1].contents_sha256 does not fit (expected SHA-256: 64 lower-case",
    ),
    "contents of a vendor's archive": (
        put("vendor/0/contents_sha256", "ab" * 32),
        "vendor[0] does not fit (expected one of ",
    ),
    "upper-case digest": (put("vendor/0/sha256", "AB" * 32), "vendor[0]"),
    "plain HTTP": (
        put("build/source/1/urls", ["http://example.org/a"]),
        "build.source[1].urls[0] does not fit (expected an https URL with a host, which must",
    ),
    "no place at all": (
        put("vendor/0/urls", []),
        "vendor[0].urls does not fit (expected a list of at least one place where it may",
    ),
    "file name with a folder": (
        put("vendor/0/filename", "a/b"),
        "vendor[0].filename does not fit (expected a plain file name, without a directory",
    ),
    "absolute place": (put("build/source/1/place", "/etc"), "build.source[1].place"),
    "dot-dot place": (put("build/source/1/place", "a/../../b"), "plain relative path"),
    "dot-dot member": (put("enclave/0/member", "../a"), "enclave[0].member"),
    "short commit": (
        put("build/source/0/commit", "abc"),
        "build.source[0].commit does not fit (expected a git commit: 40 lower-case",
    ),
    "relative root": (
        put("build/root", "tree"),
        "build.root does not fit (expected an absolute path of plain characters",
    ),
    "no source": (put("build/source", []), "build.source"),
    "shell string": (
        put("build/step/0/command", "make sdk"),
        "build.step[0].command does not fit (expected a list of text, a program and its arguments",
    ),
    "empty command": (
        put("build/step/0/command", []),
        "build.step[0].command does not fit (expected a list of text, a program and its arguments",
    ),
    "no deadline": (
        put("build/step/0/timeout", 0),
        "build.step[0].timeout does not fit (expected at least 1",
    ),
    "toolchain without a build": (
        put("build", None),
        "the content does not fit (expected build and toolchain together",
    ),
    "build without a toolchain": (
        put("toolchain", None),
        "the content does not fit (expected build and toolchain together",
    ),
    "no tools": (
        put("toolchain/tool", []),
        "toolchain.tool does not fit (expected a list of at least one tool",
    ),
    "number in the environment": (put("toolchain/environment/A", 1), "environment.A"),
    "bad variable": (
        put("toolchain/environment/A=B", "x"),
        "toolchain.environment does not fit (expected the name of a variable",
    ),
    "short signer": (put("enclave/0/signer", "ab"), "enclave[0].signer"),
    "no signer": (
        put("enclave/0/signer", None),
        "enclave[0].signer does not fit (expected a value",
    ),
    "negative svn": (
        put("enclave/0/least_isvsvn", -1),
        "enclave[0].least_isvsvn does not fit (expected at least 0",
    ),
    "large product id": (
        put("enclave/0/isvprodid", 65536),
        "enclave[0].isvprodid does not fit (expected at most 65535",
    ),
    "true for a number": (
        put("enclave/0/isvprodid", True),
        "enclave[0].isvprodid does not fit (expected a number from 0 to 65535",
    ),
    "text for true": (
        put("enclave/0/required", "yes"),
        "enclave[0].required does not fit (expected true or false",
    ),
    "two ways to build": (put("enclave/0/built_in", "other"), "exactly one of"),
    "no way to build": (put("enclave/0/build", None), "exactly one of"),
    "unknown mitigation": (put("enclave/0/build/mitigation", "ALL"), "mitigation"),
    "bad so-version": (put("enclave/0/so_version/value", "1.2"), "so_version.value"),
    "umask": (put("toolchain/umask", 0o1000), "toolchain.umask"),
}


# mistakes that need more than a schema
URLS_REFUSED = [
    *("http://example.org/a", "ftp://example.org/a", "file:///etc/passwd", "https:///a", ""),
    *("https://user@example.org/a", "https://example.org:x/a", "https://example.org/a b"),
    *("https://example.org/\n", "https://[::1/a"),
]
NAMES_REFUSED = ["", "../a", "a/b", ".hidden", "a\nb", "-x", "a" * 201]
DIGESTS_REFUSED = ["", "ab", "AB" * 32, "zz" * 32, "ab" * 64, " " + "ab" * 32, "ab" * 32 + "\n"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("urls", [url]) for url in URLS_REFUSED),
        *(("filename", name) for name in NAMES_REFUSED),
        *(("sha256", digest) for digest in DIGESTS_REFUSED),
    ],
)
@pytest.mark.parametrize("place", ["build/source/0", "vendor/0"])
def test_files_that_are_not_fetched(place: str, key: str, value: object) -> None:
    data = small()
    put(f"{place}/{key}", value)(data)
    with pytest.raises(CatalogueError) as caught:
        release_from(data, "small.toml")
    assert caught.value.file == "small.toml"


RUN: dict[str, Any] = dict.fromkeys(("by", "route", "toolchain", "record"), "x")
RUN |= {"date": "2026-11-29", "verdict": "identical", "reproducible": False}
READER_ONLY: dict[str, tuple[Edit, str]] = {
    "url with a password": (
        put("vendor/0/urls", ["https://me:pw@example.org/a"]),
        "must hold no password",
    ),
    "first source is not the tree": (put("build/source/0/place", "x"), "begin with the one"),
    "two trees": (put("build/source/1/place", "."), "only the first"),
    "id twice": (put("build/source/1/id", "main"), "build.source: is there twice"),
    "enclave twice": (put("enclave/1/name", "one"), "enclave: is there twice"),
    "archive that is not there": (put("enclave/0/vendor", "x"), "names no archive"),
    "required but not buildable": (put("enclave/1/required", True), "required: must be false"),
    "no reason": (put("enclave/1/reason", None), "reason: must say why"),
    "not shipped without a reason": (put("enclave/0/may_ship", False), "reason: must say why"),
    "digest neither given nor listed": (
        put("vendor/0/sha256", None),
        "unpinned: must list vendor.signed",
    ),
    "so-version neither given nor listed": (
        put("enclave/0/so_version", None),
        "unpinned: must list enclave.one.so_version",
    ),
    "listed though given": (
        put("unpinned", ["toolchain.interpreter", "enclave.two.so_version", "vendor.signed"]),
        "unpinned: lists vendor.signed",
    ),
    "listed though no fact": (
        put("unpinned", ["toolchain.interpreter", "enclave.two.so_version", "weather"]),
        "unpinned: lists weather",
    ),
    "run of another release": (
        put("run", [{**RUN, "enclave": "three"}]),
        "run.enclave: is no enclave of the release",
    ),
    "own build of a release without one": (
        lambda data: (data.pop("build"), data.pop("toolchain")),
        "enclave one.build: needs the release's own build",
    ),
    "control character": (put("title", "a\nb"), "title does not fit (expected a line of at most"),
    "newline at the end": (put("name", "small\n"), "name does not fit"),
    "line that is too long": (put("title", "a" * 4097), "title does not fit"),
    "change of direction": (put("toolchain/environment/A", "a\u202eb"), "environment.A does not"),
}


@pytest.mark.parametrize("case", sorted(BOTH))
def test_mistakes_are_refused_by_reader_and_schema(case: str) -> None:
    edit, words = BOTH[case]
    data = small()
    edit(data)
    with pytest.raises(CatalogueError) as caught:
        release_from(data, "small.toml")
    assert str(caught.value).startswith("small.toml: ")
    assert words in str(caught.value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


@pytest.mark.parametrize("case", sorted(READER_ONLY))
def test_mistakes_that_only_the_reader_sees(case: str) -> None:
    edit, words = READER_ONLY[case]
    data = small()
    edit(data)
    with pytest.raises(CatalogueError) as caught:
        release_from(data, "small.toml")
    assert words in str(caught.value)


def test_built_in_must_lead_to_a_build(tmp_path: Path) -> None:
    data = SMALL.replace(
        'not_reproducible = "internal branch"\nrequired = false\nreason = "cannot be built"',
        'built_in = "other"',
    )
    (tmp_path / "small.toml").write_text(data)
    with pytest.raises(CatalogueError, match="names no release that builds it"):
        load_catalogue([tmp_path])
    # the other release is there, but does not build it either
    (tmp_path / "other.toml").write_text(SMALL.replace('name = "small"', 'name = "other"'))
    with pytest.raises(CatalogueError, match="names no release that builds it"):
        load_catalogue([tmp_path])
    (tmp_path / "small.toml").write_text(data.replace('"other"', '"small"'))
    with pytest.raises(CatalogueError, match="must be another release"):
        load_catalogue([tmp_path])


def test_user_folders_extend_and_replace_loudly(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "a.toml").write_text(SMALL)
    (theirs / "b.toml").write_text(SMALL.replace('name = "small"', 'name = "more"'))
    (theirs / "note.txt").write_text("not a release")
    catalogue = load_catalogue([ours, theirs, tmp_path / "missing"])
    assert sorted(catalogue.releases) == ["more", "small"]
    assert catalogue.release("small").file == str(theirs / "a.toml")
    own = f"small: {theirs / 'a.toml'} replaces {ours / 'a.toml'}"
    assert catalogue.notices(catalogue.release("small")) == (own,)
    others = ("1 other releases of the catalogue are replaced too",)
    assert catalogue.notices(catalogue.release("more")) == others


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"[" * 5000, "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"#", "too large"),
    ],
)
def test_files_that_are_no_toml(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content * (2 << 20) if words == "too large" else content)
    with pytest.raises(CatalogueError, match=words) as caught:
        read_release_file(path)
    assert caught.value.file == str(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(CatalogueError, match="no such file"):
        load_catalogue([tmp_path])


def test_without_a_toml_reader_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(CatalogueError, match="python3-tomli"):
        parse_toml(b"", file="a.toml", error=CatalogueError)


def test_both_toml_readers_agree() -> None:
    tomli = pytest.importorskip("tomli")
    for path in OWN_FILES:
        text = path.read_text("utf-8")
        assert tomli.loads(text) == parsed(path)


def test_a_file_stands_for_a_catalogue(tmp_path: Path) -> None:
    text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8")
    path = tmp_path / "own.toml"
    path.write_text(text.replace(NEWEST, "own"), "utf-8")
    (tmp_path / "other.toml").write_text("is no release")
    assert list(load_catalogue((path,)).releases) == ["own"]
    with pytest.raises(CatalogueError):
        load_catalogue((tmp_path,))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('license = "Apache-2.0', 'license = "Apache 2; or so', "license"),
        ('"License.txt"', '"../License.txt"', "license_files"),
        ('"sdk/tlibcxx/LICENSE.TXT"', '"sdk/../../LICENSE.TXT"', "license_files"),
        ('"License.txt"', '"-x"', "license_files"),
    ],
)
def test_licences_have_a_form(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8")
    assert old in text
    (tmp_path / "own.toml").write_text(text.replace(old, new), "utf-8")
    with pytest.raises(CatalogueError, match=words):
        load_catalogue((tmp_path,))


def test_unknown_facts_are_all_of_them() -> None:
    data = small()
    for path in (
        "vendor/0/sha256",
        "build/source/0/sha256",
        "enclave/0/isvprodid",
        "enclave/0/least_isvsvn",
    ):
        put(path, None)(data)
    data["unpinned"] += [
        "vendor.signed",
        "source.main",
        "enclave.one.isvprodid",
        "enclave.one.least_isvsvn",
    ]
    release = release_from(data, "small.toml")
    assert sorted(unknown_facts(release)) == sorted(release.unpinned)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def paths_of(data: object, way: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    found = [way] if way else []
    if isinstance(data, dict):
        for key, value in data.items():
            found += paths_of(value, (*way, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            found += paths_of(value, (*way, number))
    return found


@settings(max_examples=150, deadline=None)
@given(where=st.sampled_from(paths_of(small())), value=JUNK)
def test_junk_anywhere_is_refused_or_read(where: tuple[Any, ...], value: object) -> None:
    data: Any = copy.deepcopy(small())
    place = data
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    try:
        release_from(data, "small.toml")
    except CatalogueError as error:
        assert error.file == "small.toml"
