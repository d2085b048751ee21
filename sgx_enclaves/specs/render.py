# SPDX-License-Identifier: GPL-2.0-or-later
"""A release of the catalogue as the spec file of a source package.

Decides what goes in; every number, name, URL and digest comes from the catalogue.
Reads no file but the template.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.catalogue import OWN_FOLDER, Catalogue
from sgx_enclaves.releases.release import Enclave, Release
from sgx_enclaves.releases.verify import unpinned_digests
from sgx_enclaves.specs.places import Kind, read_template
from sgx_enclaves.specs.template import Fields, Values, fill

# where the values of tags stand
_COLUMN = 16
_HOME = "https://github.com/intel/linux-sgx"


@dataclass(frozen=True)
class SpecRequest:
    """What spec file to write.

    Attributes:
        catalogue: the release's, and where its trees are.
        release: the release.
        kind: see `Kind`.
        packager: `NAME <ADDRESS>`, for the changelog.
        date: of the changelog's entry.
        toolchain_packages: BuildRequires that bring the designated toolchain.
        allow_unpinned: let the build accept what the release does not pin.
    """

    catalogue: Catalogue
    release: Release
    kind: Kind
    packager: str
    date: datetime.date
    toolchain_packages: tuple[str, ...] = ()
    allow_unpinned: bool = False


def render(request: SpecRequest) -> str:
    """The spec file.

    Raises:
        CatalogueError: the release lacks what a package needs.
        InputError: the template is not there.
    """
    template, path = read_template(request.kind)
    return fill(template, _fields(request), path)


def packaged(catalogue: Catalogue, release: Release) -> tuple[tuple[Enclave, ...], list[str]]:
    """The enclaves that packages can have, and why others are left out.

    Raises:
        CatalogueError: none is left.
    """
    chosen, left_out = [], []
    for enclave in release.enclaves:
        if enclave.not_reproducible is not None:
            left_out.append(f"{enclave.name} is left out: {enclave.not_reproducible}")
        elif enclave.so_version is None:
            left_out.append(f"{enclave.name} is left out: the version of its file is not known")
        else:
            catalogue.build_of(release, enclave)
            chosen.append(enclave)
    if not chosen:
        raise CatalogueError(
            f"{release.name} has no enclave that can be packaged", found="; ".join(left_out)
        )
    return tuple(chosen), left_out


def sources_of(request: SpecRequest) -> tuple[Artifact, ...]:
    """The files that are fetched before the build; those of one name once."""
    release = request.release
    enclaves, _left_out = packaged(request.catalogue, release)
    artifacts: list[Artifact] = []
    if request.kind is Kind.REPRODUCIBLE:
        for tree in _trees(request.catalogue, release, enclaves):
            artifacts += tree.sources()
    elif request.kind is Kind.PREBUILT:
        used = {enclave.vendor for enclave in enclaves}
        for archive in release.vendor:
            if archive.id in used:
                artifacts.append(archive.artifact)
                artifacts += [archive.checksums] if archive.checksums is not None else []
    return tuple({artifact.filename: artifact for artifact in artifacts}.values())


def _trees(
    catalogue: Catalogue, release: Release, enclaves: Iterable[Enclave]
) -> tuple[Release, ...]:
    trees = (catalogue.build_of(release, enclave)[0] for enclave in enclaves)
    return tuple({tree.name: tree for tree in trees}.values())


def _fields(request: SpecRequest) -> Fields:
    release = request.release
    enclaves, notes = packaged(request.catalogue, release)
    notes += _unpinned_notes(request)
    items = [_enclave(enclave) for enclave in enclaves]
    sources = _sources(request, enclaves)
    if release.license is None:
        raise CatalogueError(
            f"{release.name} names no licence", file=release.file, hint="add the key license"
        )
    toolchains = {
        tree.toolchain.name
        for tree in _trees(request.catalogue, release, enclaves)
        if tree.toolchain is not None
    }
    return {
        "release": release.name,
        "title": _escaped(release.title),
        "toolchain": _escaped(", ".join(sorted(toolchains))),
        "sgx": release.sgx,
        "dcap": release.dcap,
        "license": release.license,
        "url": _HOME,
        "arguments": _arguments(request, len(sources) - 1),
        "date": request.date.strftime("%a %b %d %Y"),
        "packager": request.packager,
        "names": " ".join(f"%{{?with_{item['name']}:{item['name']}}}" for item in items),
        "versions": " ".join(f"{i['name']}=%{{{i['component']}_version}}" for i in items),
        "notes": [{"note": _escaped(note)} for note in notes],
        "enclaves": items,
        "licences": [{"licence": name} for name in release.license_files],
        "license_line": _license_line(release),
        "sources": sources,
        "toolchain_packages": [{"package": name} for name in request.toolchain_packages],
    }


def _escaped(text: str) -> str:
    """Free text for a spec file, where macros work even in comments."""
    return "".join(c if c.isprintable() else " " for c in text).replace("%", "%%")


def _license_line(release: Release) -> str:
    if not release.license_files:
        return "# the release names no file with its licence"
    return "%license " + " ".join(release.license_files)


def _enclave(enclave: Enclave) -> Values:
    version = enclave.so_version.value if enclave.so_version is not None else ""
    return {
        "name": enclave.name,
        "NAME": enclave.name.upper(),
        "file": enclave.file,
        "component": enclave.component,
        "bcond": "without" if enclave.may_ship and enclave.required else "with",
        "so_version": version,
        "so_major": version.partition(".")[0],
    }


def _unpinned_notes(request: SpecRequest) -> list[str]:
    facts = unpinned_digests(request.catalogue, request.release)
    if not facts:
        return []
    what = "accepts them all the same" if request.allow_unpinned else "refuses them"
    return [f"NOT PINNED by the release; the build {what}:", *(f"  {fact}" for fact in facts)]


def _arguments(request: SpecRequest, last: int) -> str:
    """What every macro gets first; a release that is a source itself is the last one."""
    options = ["-u"] if request.allow_unpinned else []
    if not _is_own(request.release):
        options.append(f"-c %{{SOURCE{last}}}")
    return " ".join([*options, request.release.name])


def _is_own(release: Release) -> bool:
    """Whether the installed program knows it by itself."""
    return Path(release.file).parent == OWN_FOLDER


def _sources(request: SpecRequest, enclaves: Sequence[Enclave]) -> list[Values]:
    lines = [(_digest(artifact), _url(artifact)) for artifact in sources_of(request)]
    if request.kind is Kind.GRAFTED:
        command = f"sgx-enclaves fetch {request.release.name} --what signed --signatures-into DIR"
        lines += [(f"# made by {command}", enclave.signature_file) for enclave in enclaves]
    if not _is_own(request.release):
        name = Path(request.release.file).name
        lines.append(("# what the release is; not in the installed catalogue", name))
    return [
        {"tag": f"Source{number}:".ljust(_COLUMN), "digest": digest, "source": source}
        for number, (digest, source) in enumerate(lines)
    ]


def _digest(artifact: Artifact) -> str:
    return f"# {artifact.pin or 'no digest is pinned'}"


def _url(artifact: Artifact) -> str:
    """The first place; with the name that the file gets, where the URL ends otherwise."""
    url = artifact.urls[0]
    if url.rpartition("/")[2] == artifact.filename:
        return _escaped(url)
    return f"{_escaped(url)}#/{artifact.filename}"
