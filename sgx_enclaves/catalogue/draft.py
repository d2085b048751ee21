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
from dataclasses import replace
from typing import Optional

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import as_tables, release_form, unknown_facts
from sgx_enclaves.catalogue.records import (
    Build,
    Catalogue,
    Enclave,
    OwnBuild,
    Patch,
    Release,
    Source,
    SoVersion,
    Step,
    Toolchain,
    ToolPin,
    VendorArchive,
)
from sgx_enclaves.catalogue.writing import SourceTree
from sgx_enclaves.enclave.policy import pin_named
from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.plain import record

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
    """What a draft is made from: the second stands in the first, as a build lays them out."""

    sgx: SourceTree
    dcap: SourceTree

    def find(self, path: str) -> str:
        """The text of a file of a build; empty if there is none."""
        inside = path.startswith(f"{_DCAP_PLACE}/")
        return self.dcap.find(path[len(_DCAP_PLACE) + 1 :]) if inside else self.sgx.find(path)


def draft_release(trees: Trees, catalogue: Catalogue) -> Release:
    """An entry whose form is right; its facts are a draft."""
    base, build, toolchain = _newest_with_build(catalogue)
    sgx, dcap = _numbers(trees.sgx.tag), _numbers(trees.dcap.tag)
    name = f"sgx-{sgx}-dcap-{dcap}"
    order = {enclave.name: number for number, enclave in enumerate(base.enclaves)}
    listing = _listing(trees)
    enclaves = tuple(
        _enclave(trees, catalogue, *found)
        for found in sorted(_origins(listing), key=lambda found: order.get(found[0], len(order)))
    )
    builds = [r.build for r in catalogue.releases.values() if r.build is not None]
    sources = list(_sources(trees, {(s.place, s.commit): s for b in builds for s in b.sources}))
    unknown = [source.place for source in sources if source.commit is None]
    sources += _ssl_sources(trees)
    sources += _nested(sources, builds)
    is_built = any(enclave.build is not None for enclave in enclaves)
    made = replace(
        base,
        name=name,
        title=f"Intel SGX {sgx} with DCAP {dcap}",
        sgx=sgx,
        dcap=dcap,
        enclaves=enclaves,
        vendor=(_vendor(dcap),),
        build=Build(
            build.root,
            tuple(_linked(source, enclaves) for source in sources),
            tuple(_patches(trees.sgx)),
            tuple(_steps(build, trees.sgx)),
        )
        if is_built
        else None,
        toolchain=_toolchain(toolchain, trees.sgx, name) if is_built else None,
        notes=(
            f"which tag each enclave was built from: {_README} of {listing.tag}",
            f"steps: {_BUILD_SCRIPT}; tools: {_CONTAINER}",
            *(f"drafted; look at: {fact}" for fact in BY_HAND),
            *(f"drafted; unknown: the commit of sub-module {place}" for place in unknown),
        ),
        shipped=0,
        runs=(),
    )
    made = replace(made, unpinned=tuple(unknown_facts(made)))
    return release_form(as_tables(made), name)


def _listing(trees: Trees) -> SourceTree:
    """The tree with the list of the signed enclaves: the release's, if that is here."""
    release = trees.dcap.release
    return release if release is not None and release.find(_README) else trees.dcap


def _newest_with_build(catalogue: Catalogue) -> tuple[Release, Build, Toolchain]:
    releases = catalogue.releases.values()
    able = [(release, *release.own_tree()) for release in releases if release.build is not None]
    if not able:
        raise CatalogueError("the catalogue has no release with a build to carry over")
    return max(able, key=lambda r: [int(n) for n in re.findall(r"\d+", f"{r[0].sgx}.{r[0].dcap}")])


def _numbers(tag: str) -> str:
    version = _first(r"(\d+(\.\d+)+)", tag)
    if not version:
        raise InputError(f"{tag!r} names no version", hint="name the tag, as DIR@TAG")
    return version


def _sources(trees: Trees, known: Mapping[tuple[str, Optional[str]], Source]) -> Iterator[Source]:
    for tree, place, name, repository in (
        (trees.sgx, ".", "linux-sgx", "linux-sgx"),
        (trees.dcap, _DCAP_PLACE, "dcap", "SGXDataCenterAttestationPrimitives"),
    ):
        filename = f"{tree.tag}.tar.gz"
        base = "https://github.com/intel"
        repos = (repository, _RENAMED[repository])
        urls = tuple(f"{base}/{repo}/archive/refs/tags/{filename}" for repo in repos)
        version = _numbers(tree.tag) if name == "dcap" else None
        commit = tree.commit or None
        yield Source(name, Artifact(filename, urls), place, commit=commit, version=version)
    # what upstream copies, to patch it differently
    copies = {
        posixpath.join(where, words[2]): posixpath.join(where, words[3])
        for where, words in _commands(trees.sgx)
        if words[:2] == ["cp", "-r"] and len(words) == 4
    }
    for tree, above in ((trees.sgx, ""), (trees.dcap, f"{_DCAP_PLACE}/")):
        for path, url, commit in tree.modules():
            *_, owner, repo = ["", *url.removesuffix(".git").split("/")]
            # a relative URL is a neighbour of Intel's own repository
            owner = "intel" if url.startswith("..") else owner
            place = above + path
            if repo in _UNUSED or place == _DCAP_PLACE:
                continue
            file = f"{commit or _COMMIT}.tar.gz"
            called = filter(None, (repo, _RENAMED.get(repo)))
            urls = tuple(f"https://github.com/{owner}/{r}/archive/{file}" for r in called)
            # what is known of the commit is so wherever it is used
            new = Source(repo.lower(), Artifact("", ()), place, commit=commit or None)
            source = known.get((place, commit), new)
            artifact = replace(source.artifact, filename=f"{repo}-{file}", urls=urls)
            for prefix, where in (("", place), ("sgx-", copies.get(place))):
                if where is not None:
                    name = prefix + repo.lower()
                    yield replace(source, id=name, artifact=artifact, place=where)


def _ssl_sources(trees: Trees) -> Iterator[Source]:
    """What the quote verification enclave fetches by a script of its own."""
    said = dict(re.findall(r"^(\w+)=(\S+)$", trees.dcap.find(_SSL), re.MULTILINE))
    if "sgxssl_file_name" not in said or "openssl_ver_name" not in said:
        return
    place = f"{_DCAP_PLACE}/QuoteVerification/sgxssl"
    tag, openssl = said["sgxssl_file_name"], said["openssl_ver_name"]
    url = f"https://github.com/intel/intel-sgx-ssl/archive/{tag}.tar.gz"
    yield Source("sgxssl", Artifact(f"intel-sgx-ssl-{tag}.tar.gz", (url,)), place)
    old = f"old/{'.'.join(re.findall(r'[0-9]+', openssl)[:2])}/"
    urls = tuple(f"https://www.openssl.org/source/{way}{openssl}.tar.gz" for way in ("", old))
    # some tags ask the server for the digest
    artifact = Artifact(f"{openssl}.tar.gz", urls, said.get("openssl_chksum"))
    version = openssl.removeprefix("openssl-") or None
    yield Source("openssl", artifact, f"{place}/openssl_source", version=version, unpack=False)


def _nested(sources: Sequence[Source], builds: Sequence[Build]) -> Iterator[Source]:
    """Sub-modules of sub-modules: known where a release has the outer one at the same commit."""
    here = {(source.place, source.commit) for source in sources}
    for build in builds:
        for source in build.sources:
            outer = build.source_of(posixpath.dirname(source.place))
            nested = outer.place not in (".", _DCAP_PLACE, source.place)
            same = outer.commit is not None and (outer.place, outer.commit) in here
            if nested and same and (source.place, source.commit) not in here:
                here.add((source.place, source.commit))
                yield source


def _linked(source: Source, enclaves: Sequence[Enclave]) -> Source:
    """The same; another release may have more enclaves that link it."""
    if source.linked_by is None:
        return source
    names = [enclave.name for enclave in enclaves]
    return replace(source, linked_by=tuple(name for name in source.linked_by if name in names))


def _commands(tree: SourceTree) -> Iterator[tuple[str, list[str]]]:
    """Directory and words of each command that upstream's Makefile prepares its tree with."""
    makefile = tree.read("Makefile").replace("\\\n", " ")
    for line in _first(r"^preparation:.*\n((?:[\t#].*\n)+)", makefile).splitlines():
        where = ""
        for command in re.split(r"&&|\|\||;", line.strip()):
            words = [word for word in command.split() if not word.startswith((">", "2>"))]
            if words[:1] == ["cd"] and len(words) > 1:
                where = posixpath.normpath(posixpath.join(where, words[1]))
            elif words:
                yield where, words


def _patches(tree: SourceTree) -> Iterator[Patch]:
    for where, words in _commands(tree):
        if words[:2] == ["git", "apply"] and not {"-R", "--check"} & set(words):
            file = posixpath.join(where, "".join(words[2:3]).partition(">")[0])
            yield Patch(posixpath.normpath(file), where)


def _steps(build: Build, tree: SourceTree) -> Iterator[Step]:
    text = tree.read(_VERSIONS)
    numbers = [_macro(text, f"SGX_{part}_VERSION") for part in ("MAJOR", "MINOR", "REVISION")]
    version = f"sgx_linux_x64_sdk_{'.'.join(numbers)}.1.bin"
    for step in build.steps:
        words = (re.sub(r"sgx_linux_x64_sdk_[\d.]+\.bin", version, word) for word in step.command)
        yield replace(step, command=tuple(words))


def _macro(text: str, name: str) -> str:
    return _first(rf'^#define\s+{name}\s+"?([\d.]+)"?', text)


def _first(pattern: str, text: str) -> str:
    """What the pattern's first group finds; empty if nothing."""
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match is not None else ""


def _toolchain(old: Toolchain, tree: SourceTree, name: str) -> Toolchain:
    container = tree.read(_CONTAINER)
    sources = {(pin.name, pin.version): pin.source for pin in old.tools}
    tools: dict[str, ToolPin] = {}
    for path, package, version, dev in re.findall(
        r"(/nix/store/[0-9a-z]{32}-([a-z][a-z0-9-]*?)-(\d[\w.-]*?)(-dev)?)\s", container
    ):
        tool = package.removesuffix("-wrapper") + dev
        tools.setdefault(tool, ToolPin(tool, version, path, sources.get((tool, version))))
    nix = _first(r"/nix-([\d.]+)/install", container)
    glibc = tools.get("glibc")
    return replace(
        old,
        name=f"Nix {nix}" if nix else old.name,
        tools=tuple(tools.values()),
        interpreter=f"{glibc.path}/lib/ld-linux-x86-64.so.2" if glibc is not None else None,
        environment={**old.environment, "SOURCE_DATE_EPOCH": tree.time},
        prefix=f"/usr/lib/sgx-toolchain/{name}",
    )


def _vendor(version: str) -> VendorArchive:
    file, sums = f"prebuilt_dcap_{version}.tar.gz", f"SHA256SUM_prebuilt_dcap_{version}.cfg"
    url = f"https://download.01.org/intel-sgx/sgx-dcap/{version}/linux/"
    return VendorArchive("dcap", Artifact(file, (url + file,)), Artifact(sums, (url + sums,)))


def _origins(tree: SourceTree) -> Iterator[tuple[str, str, str]]:
    """Name, file and tag of each enclave, as the list of the signed ones says."""
    for part in re.split(r"^# ", tree.read(_README), flags=re.MULTILINE)[1:]:
        file = _first(r"libsgx_(\w+)\.signed\.so", part)
        tag = _first(r"\[(sgx_[\d.]+_reproducible)\]", part)
        if file and tag:
            yield part.split()[0].lower(), file, tag


def _enclave(trees: Trees, catalogue: Catalogue, name: str, file: str, tag: str) -> Enclave:
    pin, own = pin_named(name), _own_build(trees, file)
    config = trees.find(own.config) if own is not None else ""
    known = [enclave for r in catalogue.releases.values() if (enclave := r.enclave(name))]
    made = Enclave(
        name,
        file,
        "dcap",
        f"psw/ae/data/prebuilt/libsgx_{file}.signed.so",
        pin.mrsigner if pin is not None else _NO_SIGNER,
        isvprodid=_number(config, "ProdID"),
        least_isvsvn=_number(config, "ISVSVN"),
        so_version=_so_version(trees, name),
    )
    if known and known[-1].reason:
        old = known[-1]
        made = replace(made, required=old.required, may_ship=old.may_ship, reason=old.reason)
    if tag != trees.sgx.tag:
        releases = [r for r in catalogue.releases.values() if r.build is not None]
        built = [r.name for r in releases if r.sources()[0].filename == f"{tag}.tar.gz"]
        if not built:
            words = f"no release of the catalogue is built from {tag}"
            raise CatalogueError(words, hint="draft it first")
        return replace(made, built_in=built[0])
    if own is None:
        raise InputError(f"{_BUILD_SCRIPT} of {trees.sgx.tag} does not build {file}")
    return replace(made, build=own)


def _number(config: str, field: str) -> Optional[int]:
    number = "0[xX][0-9a-fA-F]{1,4}|[1-9][0-9]{0,4}|0"
    found = _first(rf"<{field}>\s*({number})\s*</{field}>", config)
    return int(found, 0) if found else None


def _own_build(trees: Trees, file: str) -> Optional[OwnBuild]:
    """Where upstream's build script makes the enclave, if it does."""
    script = trees.sgx.read(_BUILD_SCRIPT)
    files = [*trees.sgx.names, *(f"{_DCAP_PLACE}/{name}" for name in trees.dcap.names)]
    for place, made in re.findall(r"cd \$sgx_repo/(\S+) && make\n\s*cp (\S+\.so) ", script):
        if made in (f"{file}.so", f"libsgx_{file}.so"):
            inner = (name for name in files if name.startswith(f"{place}/"))
            configs = [n for n in inner if n.endswith("/config.xml") and "/win/" not in n]
            config = min(configs, key=len, default=f"{place}/config.xml")
            makefile = trees.find(f"{place}/Makefile")
            mitigation = _first(r"^MITIGATION-CVE-2020-0551\s*:?=\s*(LOAD|CF)$", makefile)
            return OwnBuild(config, place, made, f"{place}/{made}", mitigation)
    return None


def _so_version(trees: Trees, name: str) -> Optional[SoVersion]:
    macro = f"{name.upper()}_VERSION"
    for tree, file in ((trees.sgx.release, _VERSIONS), (trees.dcap.release, _DCAP_VERSIONS)):
        if tree is not None and (value := _macro(tree.find(file), macro)):
            return SoVersion(value, tree.tag, file, macro)
    return None
