# SPDX-License-Identifier: GPL-2.0-or-later
"""A release of the catalogue as the spec file of a source package.

Decides what goes in; every number, name, URL and digest comes from the catalogue, and
every other word from the templates in spec-templates/. Reads no other file.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release, ToolPin
from sgx_enclaves.enclave.policy import signer_name
from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.plain import printable

if TYPE_CHECKING:
    import jinja2

# The templates, the macros and the file attributes: where setup.py puts them, or in a checkout.
_INSTALLED = Path(__file__).with_name("spec_templates")
_CHECKOUT = Path(__file__).resolve().parents[1] / "spec-templates"
TEMPLATES = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


class SpecKind(enum.Enum):
    """What a source package is for."""

    REPRODUCIBLE = "reproducible"
    PREBUILT = "prebuilt"
    GRAFTED = "grafted"
    TOOLCHAIN = "toolchain"


@dataclass(frozen=True)
class SpecRequest:
    """What spec file to write.

    Attributes:
        packager: `NAME <ADDRESS>`, for the changelog.
        toolchain_packages: BuildRequires that bring the designated toolchain.
        allow_unpinned: let the build accept what the release does not pin.
    """

    catalogue: Catalogue
    release: Release
    kind: SpecKind
    packager: str
    date: datetime.date
    toolchain_packages: tuple[str, ...] = ()
    allow_unpinned: bool = False


def render(request: SpecRequest) -> str:
    """The spec file; a CatalogueError if the release lacks what a package needs."""
    chosen = _toolchain if request.kind is SpecKind.TOOLCHAIN else _values
    template = _environment(TEMPLATES).get_template(f"{request.kind.value}.spec.j2")
    return template.render(
        release=request.release,
        date=request.date.strftime("%a %b %d %Y"),
        packager=request.packager,
        **chosen(request),
    )


@cache
def _environment(folder: Path) -> jinja2.Environment:
    """Of the templates of a directory; it keeps what it has compiled, which is most of the time."""
    import jinja2  # noqa: PLC0415  (only this needs it, and it is slow to import)

    # `{{` and `%{` are rpm's. Nothing is HTML: `_escaped` says what is harmless here.
    return jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(str(folder)),
        variable_start_string="@{",
        variable_end_string="}",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escaped,
    )


def _packaged(request: SpecRequest) -> tuple[tuple[Enclave, ...], list[str]]:
    """The enclaves that packages can have, and why others are left out."""
    release = request.release
    chosen, left_out = [], []
    for enclave in release.enclaves:
        why = enclave.not_reproducible
        if why is None and enclave.so_version is None:
            why = "the version of its file is not known"
        if why is None and request.kind is SpecKind.PREBUILT:
            why = enclave.misnamed or (None if enclave.may_ship else enclave.reason)
        if why is None:
            chosen.append(enclave)
        else:
            left_out.append(f"{enclave.name} is left out: {why}")
    if not chosen:
        message = f"{release.name} has no enclave that can be packaged"
        raise CatalogueError(message, found="; ".join(left_out))
    return tuple(chosen), left_out


def _trees(request: SpecRequest, enclaves: Iterable[Enclave]) -> tuple[Release, ...]:
    """The releases whose sources some enclaves are built from, each by the shortest way."""
    wanted = request.release.only(enclave.name for enclave in enclaves)
    return request.catalogue.plan(wanted) if wanted.enclaves else ()


def sources_of(request: SpecRequest) -> dict[Artifact, tuple[str, ...]]:
    """The archives that unsigned enclaves are built from, those of one name once.

    With the enclaves without which each is not needed; none if one that is always built needs it.
    """
    enclaves, _left_out = _packaged(request)
    always = [enclave for enclave in enclaves if enclave.may_ship and enclave.required]
    groups = [("", always), *((e.name, [e]) for e in enclaves if e not in always)]
    found: dict[str, tuple[Artifact, dict[str, None]]] = {}
    for name, group in groups:
        for artifact in (item for tree in _trees(request, group) for item in tree.sources()):
            _, needed_by = found.setdefault(artifact.filename, (artifact, {}))
            needed_by[name] = None
    return {artifact: () if "" in names else tuple(names) for artifact, names in found.values()}


def _values(request: SpecRequest) -> Mapping[str, object]:
    """What the templates put in, by name."""
    release = request.release
    enclaves, notes = _packaged(request)
    if release.license is None:
        message = f"{release.name} names no licence"
        raise CatalogueError(message, file=release.file, hint="add the key license")
    unpinned = request.catalogue.unpinned_digests(release)
    if unpinned:
        what = "accepts them all the same" if request.allow_unpinned else "refuses them"
        notes.append(f"NOT PINNED by the release; the build {what}:")
        notes += [f"  {fact}" for fact in unpinned]
    sources = _sources(request, enclaves)
    trees = _trees(request, enclaves)
    # Whose keys the enclaves are signed with; a name is used where all are known as one's.
    vendors = {signer_name(enclave.signer).partition(" (")[0] for enclave in release.enclaves}
    toolchains = [(tree, tree.toolchain) for tree in trees if tree.toolchain]
    packaged = {tree.name: _packaged_tools(tree) for tree, _found in toolchains}
    brought = [f"sgx-toolchain({name})" for name, tools in packaged.items() if tools]
    others = (
        {tool.name for tool in found.tools} - packaged[tree.name].keys()
        for tree, found in toolchains
    )
    return {
        "kind": request.kind.value,
        "arguments": _arguments(request, len(sources) - 1),
        "vendor": "Intel" if vendors == {"Intel"} else "the vendor",
        "url": _home(release, trees),
        "notes": notes,
        "enclaves": enclaves,
        "bundled": {enclave.name: _bundled(request, enclave) for enclave in enclaves},
        "sources": sources,
        "licences": _licences(request, trees),
        "toolchain": ", ".join(sorted({found.name for _tree, found in toolchains})),
        "tools": sorted(set().union(*others)),
        "toolchain_packages": [*brought, *request.toolchain_packages],
    }


def _home(release: Release, trees: Iterable[Release]) -> str:
    """The page of the sources, by the newest place of the first; else where the vendor's are."""
    places = [tree.sources()[0].urls[-1] for tree in trees]
    places += [archive.artifact.urls[0] for archive in release.vendor]
    page, archive, _rest = places[0].partition("/archive/")
    return page if archive else f"{places[0].rpartition('/')[0]}/"


def _bundled(request: SpecRequest, enclave: Enclave) -> Mapping[str, str]:
    """The version of each library in the enclave, as distributions write it."""
    (tree,) = _trees(request, [enclave])
    build, _ = tree.own_tree()
    found = dict(tree.bundled)
    for source in {item.artifact.filename: item for item in reversed(build.sources)}.values():
        if source.place and (source.linked_by is None or enclave.name in source.linked_by):
            snapshot = f"0^git{source.commit[:7]}" if source.commit else ""
            found[source.id] = source.version or snapshot
    return dict(sorted(found.items()))


def _licences(
    request: SpecRequest, trees: Iterable[Release]
) -> Mapping[tuple[int, str, int], Sequence[str]]:
    """Texts of licences by where they are: source, directory to put them in, parts to strip."""
    names = [artifact.filename for artifact in sources_of(request)]
    found: dict[tuple[int, str, int], list[str]] = {}
    for tree in trees:
        build, _ = tree.own_tree()
        for file in tree.license_files:
            source = build.source_of(file)
            folder = f"licences/{tree.name}/{source.place}".rstrip("/")
            key = (names.index(source.artifact.filename), quote(folder), source.strip)
            inside = file.removeprefix(f"{source.place}/")
            found.setdefault(key, []).append(quote("*/" * source.strip + inside))
    return found


# gcc last: the others come first on the path while it is configured
_TOOLS = ("nasm", "binutils", "gcc")


def _packaged_tools(release: Release) -> dict[str, ToolPin]:
    """The tools that come as a package of their own, by name; maybe none."""
    toolchain = release.toolchain
    if toolchain is None or toolchain.prefix is None:
        return {}
    known = {tool.name: tool for tool in toolchain.tools if tool.source is not None}
    return {name: known[name] for name in _TOOLS if name in known}


def _toolchain(request: SpecRequest) -> Mapping[str, object]:
    """What the template of the designated toolchain puts in, by name."""
    release = request.release
    build, toolchain = release.own_tree()
    tools = _packaged_tools(release)
    lost = [f"toolchain.{key}" for key in ("prefix", "interpreter") if not getattr(toolchain, key)]
    lost += [f"the source of {name}" for name in _TOOLS if name not in tools]
    if lost:
        message = f"{release.name} does not say what its toolchain is packaged from"
        raise CatalogueError(message, file=release.file, expected=", ".join(lost))
    place = build.root.rpartition("/")[0]
    sources = _sources(request, ())
    return {"toolchain": toolchain, "tools": tools, "sources": sources, "place": place}


class _Macros(str):
    """A value that is meant as it stands, macros and all."""


def _escaped(value: object) -> str:
    """A value in a spec file: one line, and no macro, for macros work even in comments."""
    if isinstance(value, _Macros):
        return value
    return printable(str(value)).replace("%", "%%")


def _arguments(request: SpecRequest, last: int) -> _Macros:
    """What every macro gets first; a release that is a source itself is the last one."""
    unpinned = "-u " if request.allow_unpinned else ""
    source = "" if _is_own(request.release) else f"-c %{{SOURCE{last}}} "
    return _Macros(f"{unpinned}{source}{request.release.name}")


def _is_own(release: Release) -> bool:
    """Whether the installed program knows it by itself."""
    return Path(release.file).parent == OWN_FOLDER


def _sources(request: SpecRequest, enclaves: Sequence[Enclave]) -> list[Mapping[str, object]]:
    """Of each source: its number, its place, a comment about it, and when it is needed."""
    release = request.release
    lines: list[tuple[str, str, Sequence[str]]] = []
    if request.kind is SpecKind.REPRODUCIBLE:
        lines += [(*_source(a), needed_by) for a, needed_by in sources_of(request).items()]
    elif request.kind is SpecKind.PREBUILT:
        place = f"{release.name}-signed.tar"
        about = f"made by sgx-enclaves releases repack {release.name} -o {place}"
        named = [archive.repack for archive in release.vendor if archive.repack is not None]
        lines.append((*_source(named[0]), ()) if len(named) == 1 else (about, place, ()))
    elif request.kind is SpecKind.GRAFTED:
        command = f"sgx-enclaves fetch {release.name} --what signed --signatures-into DIR"
        for enclave in enclaves:
            needed_by = () if enclave.may_ship and enclave.required else (enclave.name,)
            lines.append((f"made by {command}", enclave.signature_file, needed_by))
    else:
        tools = _packaged_tools(release)
        lines += [(*_source(tool.source), ()) for tool in tools.values() if tool.source]
    if request.kind is not SpecKind.TOOLCHAIN and not _is_own(release):
        about = "what the release is; not in the installed catalogue"
        lines.append((about, Path(release.file).name, ()))
    return [
        {
            "number": number,
            "about": about,
            "place": place,
            "condition": _Macros(" || ".join(f"%{{with {name}}}" for name in needed_by)),
        }
        for number, (about, place, needed_by) in enumerate(lines)
    ]


def _source(artifact: Artifact) -> tuple[str, str]:
    """Its pin; its first place, with the file's name where the URL ends otherwise."""
    url = artifact.urls[0]
    if url.rpartition("/")[2] != artifact.filename:
        url = f"{url}#/{artifact.filename}"
    return artifact.pin or "no digest is pinned", url
