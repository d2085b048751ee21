# SPDX-License-Identifier: GPL-2.0-or-later
"""Spec files say what the catalogue says, nothing is typed twice, and gaps are reported."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from sgx_enclaves import specs as places
from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import OWN_FOLDER, load_catalogue
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.cli.main import main
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.specs import TEMPLATES, SpecKind, SpecRequest, render, sources_of

CATALOGUE = load_catalogue((OWN_FOLDER,))
NEWEST = "sgx-2.25-dcap-1.22"
BUILT_ELSEWHERE = "sgx-2.26-dcap-1.23"
DATE = datetime.date(2026, 1, 2)
ENCLAVES = [kind for kind in SpecKind if kind is not SpecKind.TOOLCHAIN]
EVERY = [(name, kind) for name in CATALOGUE.releases for kind in ENCLAVES]
PACKAGED = [r.name for r in CATALOGUE.releases.values() if r.toolchain and r.toolchain.prefix]


def spec(name: str = NEWEST, kind: SpecKind = SpecKind.PREBUILT, **changes: object) -> str:
    """The spec file of a release of ours, which may be changed first."""
    release = replace(CATALOGUE.release(name), **changes)  # type: ignore[arg-type]
    return rendered(Catalogue({**CATALOGUE.releases, name: release}), release, kind)


def rendered(
    catalogue: Catalogue, release: Release, kind: SpecKind, *, allow_unpinned: bool = False
) -> str:
    request = SpecRequest(
        catalogue, release, kind, "Jane Doe <jane@example.org>", DATE, ("a", "b"), allow_unpinned
    )
    return render(request)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_release_has_every_kind(name: str, kind: SpecKind) -> None:
    release = CATALOGUE.release(name)
    text = spec(name, kind)
    assert f"%global sgx_version {release.sgx}\n" in text
    assert f"%global dcap_version {release.dcap}\n" in text
    assert f"License:        {release.license}\n" in text
    assert "ExclusiveArch:  x86_64\n" in text
    number = release.shipped + 1
    assert f"* Fri Jan 02 2026 Jane Doe <jane@example.org> - {release.sgx}-{number}\n" in text
    assert f"Release:        {number}%{{?dist}}\n" in text
    request = SpecRequest(CATALOGUE, release, kind, "", DATE)
    if kind is not SpecKind.REPRODUCIBLE:
        assert "Source0:        https" not in text
        return
    numbered = re.findall(r"^Source(\d+): +(\S+)$", text, re.MULTILINE)
    urls = [url for _number, url in sorted(numbered, key=lambda item: int(item[0]))]
    artifacts = sources_of(request)
    assert [u.rpartition("/")[2] for u in urls] == [a.filename for a in artifacts]
    for artifact in artifacts:
        assert artifact.urls[0] in text
        assert (artifact.pin or "no digest is pinned") in text


@pytest.mark.parametrize("kind", ENCLAVES)
def test_names_and_provides_are_fedoras(kind: SpecKind) -> None:
    text = spec(kind=kind)
    state = "unsigned" if kind is SpecKind.REPRODUCIBLE else "signed"
    for name, version in (("pce", "sgx"), ("ide", "dcap"), ("qe3", "dcap"), ("tdqe", "dcap")):
        assert f"%package -n sgx-enclave-{kind.value}-{name}-{state}\n" in text
        provides = f"sgx-enclave({name}:{state}:{kind.value}) = %{{{version}_version}}\n"
        assert f"Provides:       {provides}" in text
        assert f" {name}=%{{{version}_version}}" in text
        assert f"%bcond_without {name}\n" in text
    # no source package may have what may not be shipped
    assert ("%bcond_with qve\n" in text) == (kind is not SpecKind.PREBUILT)
    assert ("# qve is left out: Fedora" in text) == (kind is SpecKind.PREBUILT)


def test_files_have_the_version_of_the_release() -> None:
    text = spec()
    for file, version in (("pce", "1.25.100.1"), ("id_enclave", "1.22.100.1")):
        assert f"%{{sgx_libdir}}/libsgx_{file}.signed.so\n" in text
        assert f"%{{sgx_libdir}}/libsgx_{file}.signed.so.1\n" in text
        assert f"%{{sgx_libdir}}/libsgx_{file}.signed.so.{version}\n" in text
        assert f" {file} {version}\n" in text


def test_the_signed_packages_require_the_reproducible_one() -> None:
    for kind in (SpecKind.PREBUILT, SpecKind.GRAFTED):
        text = spec(kind=kind)
        assert "BuildRequires:  sgx-enclave(ide:unsigned:reproducible) = %{dcap_version}\n" in text
    assert ":unsigned:reproducible) = %{dcap_version}" in spec(kind=SpecKind.REPRODUCIBLE)
    assert "BuildRequires:  sgx-enclave(" not in spec(kind=SpecKind.REPRODUCIBLE)


def test_the_designated_toolchains_packages() -> None:
    text = spec(kind=SpecKind.REPRODUCIBLE)
    assert f"BuildRequires:  sgx-toolchain({NEWEST})\n" in text
    assert "BuildRequires:  a\nBuildRequires:  b\n" in text
    for package in ("m4", "make", "ocaml-ocamlbuild", "perl-interpreter"):
        assert f"BuildRequires:  {package}\n" in text
    # they are in the toolchain's own package
    for package in ("gcc", "binutils", "nasm"):
        assert f"BuildRequires:  {package}\n" not in text
    assert "BuildRequires:  a\n" not in spec(kind=SpecKind.PREBUILT)
    assert "BuildRequires:  gcc\n" in spec("sgx-2.24-dcap-1.21", SpecKind.REPRODUCIBLE)


def test_two_trees_need_both_toolchains() -> None:
    text = spec("sgx-2.28-dcap-1.25", SpecKind.REPRODUCIBLE)
    assert f"BuildRequires:  sgx-toolchain({NEWEST})\n" in text
    assert "BuildRequires:  sgx-toolchain(sgx-2.28-dcap-1.25)\n" in text


# --- what a reviewer asks for ---


@pytest.mark.parametrize("kind", ENCLAVES)
def test_each_enclave_says_what_is_bundled_in_it(kind: SpecKind) -> None:
    text = spec(kind=kind)
    packages = re.split(r"^%package ", text, flags=re.MULTILINE)[2:]
    assert len(packages) == (4 if kind is SpecKind.PREBUILT else 5)
    for package in packages:
        assert (
            f"Requires:       sgx-enclave-{kind.value}-common = %{{version}}-%{{release}}\n"
            in package
        )
        assert "Provides:       bundled(ipp-crypto) = 2021.12.1\n" in package
        assert "Provides:       bundled(libcxx) = 12.0\n" in package
        # of no known version
        assert "Provides:       bundled(gdtoa)\n" in package
        assert ("bundled(openssl) = 3.0.14" in package) == ("-qve-" in package)
    assert f"%files -n sgx-enclave-{kind.value}-common\n%license licences/*\n" in text


def test_what_the_sdk_has_and_an_enclave_does_not_link_is_not_bundled_in_it() -> None:
    """By the makers' route TDQE is built from all sources."""
    text = spec("sgx-2.28-dcap-1.25", SpecKind.REPRODUCIBLE)
    bundled = {
        package.split("-")[4]: re.findall(r"bundled\(([^)]+)\)", package)
        for package in re.split(r"^%package ", text, flags=re.MULTILINE)[2:]
    }
    own = ["compiler-rt", "dcap", "dlmalloc", "gdtoa", "ipp-crypto", "libcxx", "libcxxrt"]
    assert bundled["tdqe"] == [*own, "libunwind", "sgx-emm"]
    assert {"openssl", "sgxssl"} <= set(bundled["qve"])
    assert "wasm-micro-runtime" not in bundled["qve"]
    assert "wasm-micro-runtime" in bundled["qae"]


def test_a_bundled_snapshot_is_written_as_distributions_do() -> None:
    name = "sgx-tdx-dcap-quoteverificationlibrary"
    assert f"bundled({name}) = 0^git7e5b2a1\n" in spec(kind=SpecKind.GRAFTED)


def test_sources_of_what_may_not_be_shipped_are_asked_for() -> None:
    text = spec(kind=SpecKind.REPRODUCIBLE)
    always, asked = text.split("%if %{with qve}\n", 1)
    for name in ("sgx_2.25_reproducible", "ipp-crypto", "sgx-emm"):
        assert f"{name}" in always
    for name in ("openssl-3.0.14", "jwt-cpp", "QuoteVerificationLibrary"):
        assert name not in always
        assert name in asked.split("%endif", 1)[0]


def test_packages_that_nobody_verified_are_replaced() -> None:
    text = spec(kind=SpecKind.GRAFTED)
    assert "Release:        4%{?dist}\n" in text
    for name in ("common", "pce-signed", "tdqe-signed"):
        # as it stands: a later Release of ours must not replace those that were verified
        assert f"Obsoletes:      sgx-enclave-prebuilt-{name} < 2.25-4\n" in text
    assert "Obsoletes:" not in spec()
    assert "Release:        1%{?dist}\n" in spec("sgx-2.28-dcap-1.25")


def test_the_licence_names_all_that_is_linked_in() -> None:
    text = spec()
    (licence,) = re.findall(r"^License: +(.*)$", text, re.MULTILINE)
    assert len(licence.split(" AND ")) == 13
    assert "Apache-2.0 WITH LLVM-exception" in licence
    assert "#   Apache-2.0 WITH LLVM-exception: libc++\n" in text
    prep = spec(kind=SpecKind.REPRODUCIBLE).partition("%prep")[2]
    assert "'*/sdk/tlibcxx/LICENSE.TXT'" in prep
    assert f"-C licences/{NEWEST}/external/ippcp_internal/ipp-crypto " in prep


# --- the toolchain ---


@pytest.mark.parametrize("name", PACKAGED)
def test_the_toolchain_is_packaged_from_the_pins(name: str) -> None:
    release = CATALOGUE.release(name)
    assert release.toolchain is not None
    text = spec(name, SpecKind.TOOLCHAIN)
    assert f"Name:           sgx-toolchain-{name}\n" in text
    assert f"Provides:       sgx-toolchain({name}) = 9.5.0\n" in text
    assert f"%global toolchain_prefix /usr/lib/sgx-toolchain/{name}\n" in text
    assert "--enable-languages=c,c++ --with-linker-hash-style=both" in text
    assert f"ld-linux-x86-64.so.2 %{{buildroot}}{release.toolchain.interpreter}\n" in text
    for tool in release.toolchain.tools:
        if tool.source is not None:
            assert f"/{tool.source.filename}\n" in text
            assert f"echo '{tool.source.sha256}  %{{SOURCE" in text
            assert f"Provides:       bundled({tool.name}) = {tool.version}\n" in text
    assert "* Fri Jan 02 2026 Jane Doe <jane@example.org> - 9.5.0-1\n" in text


def test_a_toolchain_with_the_distributions_loader_has_no_link_to_it() -> None:
    toolchain = CATALOGUE.release(NEWEST).toolchain
    assert toolchain is not None
    text = spec(kind=SpecKind.TOOLCHAIN)
    assert "%dir /nix\n%dir /nix/store\n" in text
    loader = "/lib64/ld-linux-x86-64.so.2"
    text = spec(kind=SpecKind.TOOLCHAIN, toolchain=replace(toolchain, interpreter=loader))
    assert "%dir /lib64" not in text
    assert "ln -s --relative" not in text
    assert f"grep -F '{loader}]'" in text


def test_a_toolchain_without_sources_is_not_packaged() -> None:
    with pytest.raises(CatalogueError, match="what its toolchain is packaged from") as caught:
        spec("sgx-2.17-dcap-1.14", SpecKind.TOOLCHAIN)
    assert "toolchain.prefix, toolchain.interpreter, the source of nasm" in str(caught.value)
    with pytest.raises(CatalogueError, match="designates no toolchain") as caught:
        spec(BUILT_ELSEWHERE, SpecKind.TOOLCHAIN)
    assert f"built in: {NEWEST}" in str(caught.value)


def test_the_repack_that_the_catalogue_names_is_the_source() -> None:
    (archive,) = CATALOGUE.release(NEWEST).vendor
    url = "https://example.org/2.25-signed.tar"
    repack = Artifact("2.25-signed.tar", (url,), sha256="ab" * 32)
    text = spec(vendor=(replace(archive, repack=repack),))
    assert re.findall(r"^Source\d+: +(\S+)$", text, re.MULTILINE) == [url]
    assert f"# sha256 {'ab' * 32}\n" in text


def test_the_grafted_package_has_signatures_for_sources() -> None:
    text = spec(kind=SpecKind.GRAFTED)
    sources = re.findall(r"^Source\d+: +(\S+)$", text, re.MULTILINE)
    names = ("pce", "id_enclave", "qe3", "tdqe", "qve")
    assert sources == [f"libsgx_{name}.sig" for name in names]
    assert f"sgx-enclaves fetch {NEWEST} --what signed --signatures-into DIR" in text


def test_enclaves_of_another_tree_bring_its_sources() -> None:
    text = spec(BUILT_ELSEWHERE, SpecKind.REPRODUCIBLE)
    assert "sgx_2.25_reproducible.tar.gz" in text
    assert "%global sgx_version 2.26\n" in text


def test_a_file_with_another_name_than_its_url() -> None:
    text = spec("sgx-2.24-dcap-1.21", SpecKind.REPRODUCIBLE)
    assert re.search(r"/archive/[0-9a-f]{40}\.tar\.gz#/libcbor-[0-9a-f]{40}\.tar\.gz\n", text)
    # One file, although two places of the tree get it.
    assert text.count("#/libcbor-") == 1


def test_what_cannot_be_built_or_named_is_left_out_and_reported() -> None:
    pce, ide, *others = CATALOGUE.release(NEWEST).enclaves
    enclaves = (
        replace(pce, build=None, not_reproducible="from an internal branch"),
        replace(ide, so_version=None),
        *others,
    )
    text = spec(enclaves=enclaves)
    assert "# pce is left out: from an internal branch\n" in text
    assert "# ide is left out: the version of its file is not known\n" in text
    assert "sgx-enclave-prebuilt-pce-signed" not in text
    assert "sgx-enclave-prebuilt-qe3-signed" in text
    with pytest.raises(CatalogueError, match="no enclave that can be packaged"):
        spec(enclaves=enclaves[:2])


def test_a_file_of_another_name_is_shipped_by_no_prebuilt_package() -> None:
    pce, *others = CATALOGUE.release(NEWEST).enclaves
    enclaves = (replace(pce, member="bin/pce.dll"), *others)
    why = (
        "# pce is left out: its member is called pce.dll, and packages ship libsgx_pce.signed.so\n"
    )
    assert why in spec(enclaves=enclaves)
    assert "is left out" not in spec(enclaves=enclaves, kind=SpecKind.GRAFTED)


def test_an_enclave_that_may_not_be_shipped_is_off() -> None:
    pce, *others = CATALOGUE.release(NEWEST).enclaves
    text = spec(enclaves=(replace(pce, may_ship=False), *others), kind=SpecKind.GRAFTED)
    assert "%bcond_with pce\n" in text
    assert "%bcond_without pce\n" not in text


def test_without_a_licence_there_is_no_package() -> None:
    with pytest.raises(CatalogueError, match="names no licence"):
        spec(license=None)
    for kind in ENCLAVES:
        text = spec(kind=kind, license_files=())
        assert "%license" not in text
        assert "%sgx_enclave_licences" not in text
        assert "names no file with its licence" in text


def test_what_is_not_pinned_is_reported_and_allowed_only_on_request(tmp_path: Path) -> None:
    release = replace(CATALOGUE.release(NEWEST), unpinned=("source.linux-sgx",))
    catalogue = Catalogue({**CATALOGUE.releases, NEWEST: release})
    text = rendered(catalogue, release, SpecKind.PREBUILT)
    assert "# NOT PINNED by the release; the build refuses them:\n#   source.linux-sgx\n" in text
    text = rendered(catalogue, release, SpecKind.PREBUILT, allow_unpinned=True)
    assert "the build accepts them all the same" in text
    assert f"%sgx_enclave_verify -u {NEWEST} " in text


@pytest.mark.parametrize("kind", ENCLAVES)
def test_free_text_is_no_macro_and_one_line(kind: SpecKind) -> None:
    """rpm expands macros in comments, too."""
    title = "100 %(touch /tmp/x)\n%global x\u2028 y"
    text = spec(kind=kind, title=title)
    assert "100 %%(touch /tmp/x)\\x0a%%global x\\u2028 y" in text
    assert not re.search(r"(?<!%)(%%)*%(\(touch|global x)", text)


def test_a_url_with_a_percent_sign() -> None:
    build = CATALOGUE.release(NEWEST).build
    assert build is not None
    first, *others = build.sources
    url = f"https://example.org/a%20b/{first.artifact.filename}"
    first = replace(first, artifact=replace(first.artifact, urls=(url,)))
    text = spec(kind=SpecKind.REPRODUCIBLE, build=replace(build, sources=(first, *others)))
    assert f"https://example.org/a%%20b/{first.artifact.filename}\n" in text


@pytest.mark.parametrize("kind", ENCLAVES)
def test_a_release_of_ones_own_is_a_source(tmp_path: Path, kind: SpecKind) -> None:
    text = (OWN_FOLDER / f"{NEWEST}.toml").read_text("utf-8").replace(NEWEST, "own")
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    catalogue = load_catalogue((OWN_FOLDER, path))
    found = rendered(catalogue, catalogue.release("own"), kind)
    (number,) = re.findall(r"^Source(\d+): +own\.toml$", found, re.MULTILINE)
    assert f" -c %{{SOURCE{number}}} own " in found
    assert "%{_sourcedir}" not in found


@pytest.mark.parametrize("kind", SpecKind)
def test_the_package_of_another_vendor_does_not_name_intel(kind: SpecKind) -> None:
    release = CATALOGUE.release(NEWEST)
    assert release.build is not None
    assert "Intel" in spec(kind=kind)
    first, *others = release.build.sources
    first = replace(first, artifact=replace(first.artifact, urls=("https://example.org/s/a.tgz",)))
    own = replace(
        release,
        name="acme-7",
        title="Acme's enclaves 7",
        sgx="7.1",
        enclaves=tuple(replace(enclave, signer="ab" * 32) for enclave in release.enclaves),
        build=replace(release.build, sources=(first, *others)),
        license_about=(),
    )
    text = rendered(Catalogue({"acme-7": own}), own, kind)
    said = [
        line for line in text.splitlines() if not re.match(r"Source\d|Provides: |%{!\?sgx_p", line)
    ]
    assert not re.findall("(?i).*intel.*|.*FESCo.*", "\n".join(said))
    if kind is SpecKind.TOOLCHAIN:
        return
    assert "%global sgx_version 7.1\n" in text
    assert "URL:            https://example.org/s/\n" in text
    assert "The enclaves of Acme's enclaves 7," in text


# --- the verb ---


def test_the_verb_writes_the_same_each_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    path = tmp_path / "x.spec"
    arguments = ["spec", NEWEST, "--kind", "prebuilt"]
    assert main([*arguments, "-o", str(path)]) == 0
    assert main(arguments) == 0
    assert capsys.readouterr().out == path.read_text("utf-8")
    # the date of the release's tag
    assert "* Thu Sep 26 2024 sgx-enclaves <sgx-enclaves@localhost> - 2.25-4" in path.read_text()


@pytest.mark.parametrize(
    ("epoch", "arguments", "date"),
    [
        ("1000000000", [], "Sun Sep 09 2001"),
        ("1000000000", ["--date", "2020-02-29"], "Sat Feb 29 2020"),
    ],
)
def test_the_date_can_be_chosen(
    epoch: str,
    arguments: list[str],
    date: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert main(["spec", NEWEST, "--kind", "grafted", *arguments]) == 0
    assert f"* {date} " in capsys.readouterr().out


def test_a_release_without_a_date_gets_todays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert main(["spec", BUILT_ELSEWHERE, "--kind", "grafted"]) == 0
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y")
    assert re.search(rf"^\* \w+ \w+ \d+ {today} ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--packager", "nobody"], "must be NAME <ADDRESS>"),
        (["--packager", "Jane %(id) <jane@example.org>"], "must be NAME <ADDRESS>"),
        (["--packager", "Jane\n* x <jane@example.org>"], "must be NAME <ADDRESS>"),
        (["--date", "yesterday"], "no date like"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spec", NEWEST, "--kind", "grafted", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_wrong_epoch_or_release(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    assert main(["spec", NEWEST, "--kind", "grafted"]) == 2
    assert "SOURCE_DATE_EPOCH is no date" in capsys.readouterr().err
    assert main(["spec", "sgx-0", "--kind", "grafted"]) == 2
    assert "there is no release" in capsys.readouterr().err


# --- where the templates are ---


def test_the_checkouts_templates_are_found() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == {
        *(f"{kind.value}.spec.j2" for kind in SpecKind),
        "base.spec.j2",
        "enclaves.rpmlintrc",
        "macros.sgx-enclaves",
        "fileattrs",
    }


@pytest.mark.parametrize("line", ["@{nobody}", "@{release.nobody}", "{% for x in nobody %}"])
def test_a_template_that_asks_for_what_nobody_gives(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates and values cannot drift apart in silence."""
    end = "{% endfor %}" if "{%" in line else ""
    (tmp_path / "grafted.spec.j2").write_text(f"{line}{end}\n", "utf-8")
    monkeypatch.setattr(places, "TEMPLATES", tmp_path)
    with pytest.raises(jinja2.UndefinedError):
        spec(kind=SpecKind.GRAFTED)


def test_a_value_is_never_looked_into() -> None:
    text = spec(title="@{release.name} {% raw %}", kind=SpecKind.GRAFTED)
    assert "our own build of @{release.name} {%% raw %%}.\n" in text
