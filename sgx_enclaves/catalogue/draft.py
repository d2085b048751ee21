# SPDX-License-Identifier: GPL-2.0-or-later
"""Draft a catalogue entry from two source trees, the SDK's and the attestation primitives'.

What the trees say is read there: versions, sub-module commits, patches, tools, which tag
each enclave was built from, its configuration, directory and mitigation. What they do not
say is carried over from the newest release that the catalogue has the build of (steps,
environment, who signs, what may be shipped, pins of the same commits) or left out and
listed as unpinned. `BY_HAND` names what a person must look at.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from sgx_enclaves.catalogue.reader import release_form, unknown_facts
from sgx_enclaves.catalogue.records import Catalogue, Release, Source, Toolchain
from sgx_enclaves.catalogue.writing import SourceTree
from sgx_enclaves.enclave.policy import pin_named
from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.plain import as_plain, record

BY_HAND = (
    "steps and environment (carried over from the newest release with a build; only the "
    "SDK's version and the date were replaced), and routes (there are none)",
    "sources within sub-modules, such as protobuf's abseil-cpp",
    "the signer of an enclave that no release holds yet, and which may be shipped",
    "licences and bundled parts (carried over), and which tools leave no trace (exact = false)",
)
_VERSIONS = "common/inc/internal/se_version.h"
_DCAP_VERSIONS = f"QuoteGeneration/{_VERSIONS}"
_README = "QuoteGeneration/psw/ae/data/prebuilt/README.md"
_SSL = "QuoteVerification/prepare_sgxssl.sh"
_BUILD_SCRIPT = "linux/reproducibility/start_build.sh.tmp"
_CONTAINER = "linux/reproducibility/Dockerfile"
_DCAP_PLACE = "external/dcap_source"
_NO_SIGNER = "0" * 64
# in the place of a commit that is not known
_COMMIT = "COMMIT"
# Sub-modules that no enclave is built from.
_UNUSED = frozenset(("googletest", "SGX-TDX-DCAP-QuoteVerificationService"))
_UNUSED |= {"confidential-computing.tee.dcap.pccs"}
# A repository's other name. Its archives have the present name inside.
_RENAMED = {
    "linux-sgx": "confidential-computing.sgx",
    "SGXDataCenterAttestationPrimitives": "confidential-computing.tee.dcap",
    "ipp-crypto": "cryptography-primitives",
    "SGX-TDX-DCAP-QuoteVerificationLibrary": "confidential-computing.tee.dcap.qvl",
}


@record
class Trees:
    """What a draft is made from: each tree at its reproducible tag, and at its release tag if that
    is here.
    """

    sgx: SourceTree
    dcap: SourceTree
    sgx_release: Optional[SourceTree]
    dcap_release: Optional[SourceTree]


def draft_release(trees: Trees, catalogue: Catalogue) -> dict[str, Any]:
    """An entry as the plain data of its TOML file; its form is right, its facts are a draft."""
    base = _newest_with_build(catalogue)
    sgx_version = _numbers(trees.sgx.tag)
    dcap_version = _numbers(trees.dcap.tag)
    name = f"sgx-{sgx_version}-dcap-{dcap_version}"
    known = _known_sources(catalogue)
    sources = list(_sources(trees, known))
    unknown = [source["place"] for source in sources if "commit" not in source]
    data: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "title": f"Intel SGX {sgx_version} with DCAP {dcap_version}",
        "sgx": sgx_version,
        "dcap": dcap_version,
        "license": base.license,
        "license_about": list(base.license_about),
        "license_files": list(base.license_files),
        "bundled": dict(base.bundled),
        "unpinned": [],
        "notes": [
            f"which tag each enclave was built from: {_README} of {_listing(trees).tag}",
            f"steps: {_BUILD_SCRIPT}; tools: {_CONTAINER}",
            *(f"drafted; look at: {fact}" for fact in BY_HAND),
            *(f"drafted; unknown: the commit of sub-module {place}" for place in unknown),
        ],
        "build": {
            "root": base.build.root if base.build else "",
            "source": [*sources, *_ssl_sources(trees)],
            "patch": _patches(trees.sgx),
            "step": _steps(base, trees.sgx),
        },
        "toolchain": _toolchain(base, trees.sgx, name),
        "vendor": [_vendor(dcap_version)],
    }
    data["build"]["source"] += _nested(data["build"]["source"], catalogue)
    order = {enclave.name: number for number, enclave in enumerate(base.enclaves)}
    data["enclave"] = [
        _enclave(trees, catalogue, *found)
        for found in sorted(_origins(trees), key=lambda found: order.get(found[0], len(order)))
    ]
    names = {enclave["name"] for enclave in data["enclave"]}
    for source in data["build"]["source"]:
        # another release may have more enclaves
        if "linked_by" in source:
            source["linked_by"] = [name for name in source["linked_by"] if name in names]
    if not any("build" in enclave for enclave in data["enclave"]):
        del data["build"], data["toolchain"]
    data["unpinned"] = unknown_facts(release_form(data, name))
    return data


def _listing(trees: Trees) -> SourceTree:
    """The tree with the list of the signed enclaves: the release's, if that is here."""
    release = trees.dcap_release
    return release if release is not None and release.find(_README) else trees.dcap


def _newest_with_build(catalogue: Catalogue) -> Release:
    able = [release for release in catalogue.releases.values() if release.build is not None]
    if not able:
        raise CatalogueError("the catalogue has no release with a build to carry over")
    return max(able, key=lambda r: [int(n) for n in re.findall(r"\d+", f"{r.sgx}.{r.dcap}")])


def _numbers(tag: str) -> str:
    match = re.search(r"\d+(\.\d+)+", tag)
    if match is None:
        raise InputError(f"{tag!r} names no version", hint="name the tag, as DIR@TAG")
    return match[0]


def _known_sources(catalogue: Catalogue) -> dict[tuple[str, str], Source]:
    """Every source of the catalogue, by place and commit."""
    return {
        (source.place, source.commit): source
        for release in catalogue.releases.values()
        for source in (release.build.sources if release.build is not None else ())
        if source.commit is not None
    }


def _source(
    name: str,
    place: str,
    filename: str,
    urls: Sequence[str],
    known: Optional[Source] = None,
    **more: Any,
) -> dict[str, Any]:
    """A source's table, with what is so of a known one wherever its commit is used."""
    made: dict[str, Any] = {"id": name, "place": place, "filename": filename, "urls": list(urls)}
    if known is not None:
        pins = ("sha256", "sha512", "contents_sha256", "lookaside_sha512")
        made |= {kind: as_plain(getattr(known.artifact, kind)) or None for kind in pins}
        made |= {"version": known.version, "linked_by": as_plain(known.linked_by)}
    return {key: item for key, item in {**made, **more}.items() if item not in (None, "")}


def _sources(trees: Trees, known: Mapping[tuple[str, str], Source]) -> Iterator[dict[str, Any]]:
    for tree, place, name, repository in (
        (trees.sgx, ".", "linux-sgx", "linux-sgx"),
        (trees.dcap, _DCAP_PLACE, "dcap", "SGXDataCenterAttestationPrimitives"),
    ):
        filename = f"{tree.tag}.tar.gz"
        base = "https://github.com/intel"
        repos = (repository, _RENAMED[repository])
        urls = [f"{base}/{repo}/archive/refs/tags/{filename}" for repo in repos]
        version = _numbers(tree.tag) if name == "dcap" else None
        yield _source(name, place, filename, urls, commit=tree.commit, version=version)
    copies = dict(_copied(trees.sgx))
    for tree, above in ((trees.sgx, ""), (trees.dcap, f"{_DCAP_PLACE}/")):
        for path, url, commit in tree.modules():
            owner, repo = _repository(url)
            place = above + path
            if repo in _UNUSED or place == _DCAP_PLACE:
                continue
            file = f"{commit or _COMMIT}.tar.gz"
            called = filter(None, (repo, _RENAMED.get(repo)))
            urls = [f"https://github.com/{owner}/{r}/archive/{file}" for r in called]
            source = known.get((place, commit))
            for prefix, where in (("", place), ("sgx-", copies.get(place))):
                if where is not None:
                    named = (prefix + repo.lower(), where, f"{repo}-{file}")
                    yield _source(*named, urls, source, commit=commit)


def _repository(url: str) -> tuple[str, str]:
    """Owner and name; a relative URL is a neighbour of Intel's own repository."""
    parts = url.removesuffix(".git").split("/")
    return ("intel" if url.startswith("..") else parts[-2]), parts[-1]


def _ssl_sources(trees: Trees) -> Iterator[dict[str, Any]]:
    """What the quote verification enclave fetches by a script of its own."""
    script = trees.dcap.find(_SSL)
    said = dict(re.findall(r"^(\w+)=(\S+)$", script, re.MULTILINE))
    if "sgxssl_file_name" not in said or "openssl_ver_name" not in said:
        return
    place = f"{_DCAP_PLACE}/QuoteVerification/sgxssl"
    tag, openssl = said["sgxssl_file_name"], said["openssl_ver_name"]
    url = f"https://github.com/intel/intel-sgx-ssl/archive/{tag}.tar.gz"
    yield _source("sgxssl", place, f"intel-sgx-ssl-{tag}.tar.gz", [url])
    old = f"old/{'.'.join(re.findall(r'[0-9]+', openssl)[:2])}/"
    urls = [f"https://www.openssl.org/source/{way}{openssl}.tar.gz" for way in ("", old)]
    yield _source(
        *("openssl", f"{place}/openssl_source", f"{openssl}.tar.gz", urls),
        version=openssl.removeprefix("openssl-"),
        # some tags ask the server for it
        sha256=said.get("openssl_chksum"),
        unpack=False,
    )


def _nested(sources: list[dict[str, Any]], catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """Sub-modules of sub-modules: known where a release has the outer one at the same commit."""
    here = {(source["place"], source.get("commit")) for source in sources}
    for build in filter(None, (release.build for release in catalogue.releases.values())):
        for source in build.sources:
            outer = build.source_of(posixpath.dirname(source.place))
            nested = outer.place not in (".", _DCAP_PLACE, source.place)
            same = outer.commit is not None and (outer.place, outer.commit) in here
            if nested and same and (source.place, source.commit) not in here:
                here.add((source.place, source.commit))
                artifact = source.artifact
                named = (source.id, source.place, artifact.filename, artifact.urls)
                yield _source(*named, source, commit=source.commit)


def _commands(tree: SourceTree) -> Iterator[tuple[str, list[str]]]:
    """Directory and words of each command that upstream's Makefile prepares its tree with."""
    makefile = tree.read("Makefile").replace("\\\n", " ")
    match = re.search(r"^preparation:.*\n((?:[\t#].*\n)+)", makefile, re.MULTILINE)
    for line in match[1].splitlines() if match is not None else ():
        where = ""
        for command in re.split(r"&&|\|\||;", line.strip()):
            words = [word for word in command.split() if not word.startswith((">", "2>"))]
            if words[:1] == ["cd"]:
                where = posixpath.normpath(posixpath.join(where, words[1]))
            elif words:
                yield where, words


def _patches(tree: SourceTree) -> list[dict[str, str]]:
    found = []
    for where, words in _commands(tree):
        if words[:2] == ["git", "apply"] and not {"-R", "--check"} & set(words):
            file = posixpath.normpath(posixpath.join(where, words[2].partition(">")[0]))
            found.append({"file": file, "place": where})
    return found


def _copied(tree: SourceTree) -> Iterator[tuple[str, str]]:
    """Sources that upstream copies, to patch them differently."""
    for where, words in _commands(tree):
        if words[:2] == ["cp", "-r"] and len(words) == 4:
            yield posixpath.join(where, words[2]), posixpath.join(where, words[3])


def _steps(base: Release, tree: SourceTree) -> list[dict[str, Any]]:
    text = tree.read(_VERSIONS)
    numbers = [_macro(text, f"SGX_{part}_VERSION") for part in ("MAJOR", "MINOR", "REVISION")]
    version = f"sgx_linux_x64_sdk_{'.'.join(numbers)}.1.bin"
    steps = []
    for step in base.build.steps if base.build is not None else ():
        words = [re.sub(r"sgx_linux_x64_sdk_[\d.]+\.bin", version, word) for word in step.command]
        unused = "timeout" if step.seconds is not None else "seconds"
        found = as_plain(step).items()
        table = {k: v for k, v in found if k != unused and v not in (None, [])}
        steps.append({**table, "place": step.place or ".", "command": words})
    return steps


def _macro(text: str, name: str) -> str:
    match = re.search(rf'^#define\s+{name}\s+"?([\d.]+)"?', text, re.MULTILINE)
    return match[1] if match is not None else ""


def _toolchain(base: Release, tree: SourceTree, name: str) -> dict[str, Any]:
    container = tree.read(_CONTAINER)
    tools: dict[str, dict[str, Any]] = {}
    for path, package, version, dev in re.findall(
        r"(/nix/store/[0-9a-z]{32}-([a-z][a-z0-9-]*?)-(\d[\w.-]*?)(-dev)?)\s", container
    ):
        tool = package.removesuffix("-wrapper") + dev
        tools.setdefault(tool, {"name": tool, "version": version, "path": path})
    nix = re.search(r"/nix-([\d.]+)/install", container)
    old = base.toolchain or Toolchain("", ())
    for pin in old.tools:
        tool = tools.get(pin.name, {})
        if pin.source is not None and tool.get("version") == pin.version:
            source = as_plain(pin.source)
            tool["source"] = {key: source[key] for key in ("filename", "urls", "sha256")}
    made: dict[str, Any] = {
        "name": f"Nix {nix[1]}" if nix is not None else old.name,
        "prefix": f"/usr/lib/sgx-toolchain/{name}",
        "umask": old.umask,
        "shell": list(old.shell),
        "environment": {**old.environment, "SOURCE_DATE_EPOCH": tree.time},
        "tool": list(tools.values()),
    }
    if "glibc" in tools:
        made["interpreter"] = f"{tools['glibc']['path']}/lib/ld-linux-x86-64.so.2"
    return made


def _vendor(version: str) -> dict[str, Any]:
    file = f"prebuilt_dcap_{version}"
    url = f"https://download.01.org/intel-sgx/sgx-dcap/{version}/linux/"
    sums = f"SHA256SUM_{file}.cfg"
    return {
        **{"id": "dcap", "filename": f"{file}.tar.gz", "urls": [f"{url}{file}.tar.gz"]},
        "checksums": {"filename": sums, "urls": [url + sums]},
    }


def _origins(trees: Trees) -> Iterator[tuple[str, str, str]]:
    """Name, file and tag of each enclave, as the list of the signed ones says."""
    listed = _listing(trees).read(_README)
    for part in re.split(r"^# ", listed, flags=re.MULTILINE)[1:]:
        file = re.search(r"libsgx_(\w+)\.signed\.so", part)
        tag = re.search(r"\[(sgx_[\d.]+_reproducible)\]", part)
        if file is not None and tag is not None:
            yield part.split()[0].lower(), file[1], tag[1]


def _enclave(trees: Trees, catalogue: Catalogue, name: str, file: str, tag: str) -> dict[str, Any]:
    pin = pin_named(name)
    before = [r.enclave(name) for r in catalogue.releases.values()]
    carried = next((enclave for enclave in reversed(before) if enclave is not None), None)
    made: dict[str, Any] = {
        **{"name": name, "file": file, "vendor": "dcap"},
        "member": f"psw/ae/data/prebuilt/libsgx_{file}.signed.so",
        "signer": pin.mrsigner if pin is not None else _NO_SIGNER,
    }
    own = _own_build(trees, file)
    path = own["config"] if own is not None else "?"
    config = trees.sgx.find(path) or trees.dcap.find(_below_dcap(path))
    for key, field in (("isvprodid", "ProdID"), ("least_isvsvn", "ISVSVN")):
        match = re.search(rf"<{field}>\s*(\w+)\s*</{field}>", config)
        if match is not None:
            made[key] = int(match[1], 0)
    if carried is not None and carried.reason:
        made |= {"required": carried.required, "may_ship": carried.may_ship}
        made["reason"] = carried.reason
    if tag != trees.sgx.tag:
        made["built_in"] = _release_of(catalogue, tag)
    elif own is None:
        raise InputError(f"{_BUILD_SCRIPT} of {trees.sgx.tag} does not build {file}")
    else:
        made["build"] = own
    version = _so_version(trees, name)
    if version is not None:
        made["so_version"] = version
    return made


def _below_dcap(path: str) -> str:
    return path.removeprefix(f"{_DCAP_PLACE}/")


def _release_of(catalogue: Catalogue, tag: str) -> str:
    for release in catalogue.releases.values():
        if release.build is not None and release.sources()[0].filename == f"{tag}.tar.gz":
            return release.name
    raise CatalogueError(f"no release of the catalogue is built from {tag}", hint="draft it first")


def _own_build(trees: Trees, file: str) -> Optional[dict[str, str]]:
    """Where upstream's build script makes the enclave, if it does."""
    script = trees.sgx.read(_BUILD_SCRIPT)
    steps = re.findall(r"cd \$sgx_repo/(\S+) && make\n\s*cp (\S+\.so) ", script)
    for place, made in steps:
        if made in (f"{file}.so", f"libsgx_{file}.so"):
            inside = place.startswith(f"{_DCAP_PLACE}/")
            tree, folder = (trees.dcap, _below_dcap(place)) if inside else (trees.sgx, place)
            configs = [
                name
                for name in tree.names
                if name.startswith(f"{folder}/") and name.endswith("/config.xml")
            ]
            configs = [name for name in configs if "/win/" not in name] or [f"{folder}/config.xml"]
            build = {
                "config": (f"{_DCAP_PLACE}/" if inside else "") + min(configs, key=len),
                "make_directory": place,
                "make_target": made,
                "unsigned": f"{place}/{made}",
            }
            makefile = tree.find(f"{folder}/Makefile")
            mitigation = re.search(
                r"^MITIGATION-CVE-2020-0551\s*:?=\s*(LOAD|CF)$", makefile, re.MULTILINE
            )
            return build if mitigation is None else {**build, "mitigation": mitigation[1]}
    return None


def _so_version(trees: Trees, name: str) -> Optional[dict[str, str]]:
    macro = f"{name.upper()}_VERSION"
    for tree, file in ((trees.sgx_release, _VERSIONS), (trees.dcap_release, _DCAP_VERSIONS)):
        value = _macro(tree.find(file), macro) if tree is not None else ""
        if tree is not None and value:
            return {"value": value, "tag": tree.tag, "file": file, "macro": macro}
    return None
