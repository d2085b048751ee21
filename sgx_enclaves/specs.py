# SPDX-License-Identifier: GPL-2.0-or-later
"""A release of the catalogue as the spec file of a source package.

Decides what goes in; every number, name, URL and digest comes from the catalogue.
Reads no file but the template.

Where the templates are: in an installed package, or in a checkout.

Fill a template: `@name@` is a value, and the lines between `@each name@` and `@end@`
stand once for each item of a list, with the item's values on top of all others.

Knows text only. A name that nobody gave is an error, and so is a value that is never
used: a template and its values cannot drift apart.
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.release.catalogue import OWN_FOLDER, Artifact, Catalogue, Enclave, Release
from sgx_enclaves.release.verify import unpinned_digests

# setup.py puts the folder spec-templates/ there.
_INSTALLED = Path(__file__).with_name("spec_templates")
_CHECKOUT = Path(__file__).resolve().parents[1] / "spec-templates"


class Kind(enum.Enum):
    """What a source package of enclaves is for."""

    REPRODUCIBLE = "reproducible"
    PREBUILT = "prebuilt"
    GRAFTED = "grafted"


def templates_folder() -> Path:
    """The folder with the templates, the macros and the file attributes.

    Raises:
        InputError: there is none, so the installation is not whole.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if folder.is_dir():
            return folder
    raise InputError(
        "the spec templates are not there", file=str(_INSTALLED), hint="install sgx-enclaves anew"
    )


def read_template(kind: Kind) -> tuple[str, str]:
    """The template's text and its path.

    Raises:
        InputError: it cannot be read.
    """
    path = templates_folder() / f"{kind.value}.spec.in"
    try:
        return path.read_text("utf-8"), str(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None


Values = Mapping[str, str]
Fields = Mapping[str, Union[str, Sequence[Values]]]

_NAME = re.compile(r"@([A-Za-z_]+)@")
_EACH = re.compile(r"@each ([a-z_]+)@\Z")
_END = "@end@"


def fill(template: str, fields: Fields, file: str) -> str:
    """The template with all values put in.

    Args:
        template: its text.
        fields: texts, and lists of mappings from name to text.
        file: its name, for messages.

    Raises:
        InputError: an unknown name, or a block that is not closed.
    """
    plain = {name: value for name, value in fields.items() if isinstance(value, str)}
    lines: list[str] = []
    for number, items, body in _blocks(template, fields, file):
        for item in items:
            values = {**plain, **item}
            lines += [_put(line, values, f"{file}:{number}") for line in body]
    return "\n".join(lines) + "\n"


def _blocks(
    template: str, fields: Fields, file: str
) -> Iterator[tuple[int, Sequence[Values], list[str]]]:
    """Line number, items and lines of each block; a line outside of all is one of its own."""
    body: list[str] = []
    items: Sequence[Values] = ()
    begun = 0
    for number, line in enumerate(template.splitlines(), 1):
        each = _EACH.match(line)
        if each is not None:
            found = fields.get(each[1])
            if begun or found is None or isinstance(found, str):
                raise InputError(f"line {number}: no list for this block", file=file, found=line)
            body, items, begun = [], found, number
        elif line == _END and begun:
            yield begun, items, body
            begun = 0
        elif begun:
            body.append(line)
        else:
            yield number, ({},), [line]
    if begun:
        raise InputError(f"the block of line {begun} does not end", file=file, expected=_END)


def _put(line: str, values: Values, where: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InputError("no value has this name", file=where, found=match[0])
        return values[match[1]]

    return _NAME.sub(value_of, line)


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
