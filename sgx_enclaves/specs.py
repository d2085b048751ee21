# SPDX-License-Identifier: GPL-2.0-or-later
"""A release of the catalogue as the spec file of a source package.

Decides what goes in; every number, name, URL and digest comes from the catalogue, and
every other word from the templates in spec-templates/. Reads no other file.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release
from sgx_enclaves.errors import CatalogueError, InputError
from sgx_enclaves.plain import printable

# setup.py puts the folder spec-templates/ there.
_INSTALLED = Path(__file__).with_name("spec_templates")
_CHECKOUT = Path(__file__).resolve().parents[1] / "spec-templates"
_HOME = "https://github.com/intel/linux-sgx"


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
        "the spec templates are not there", file=str(_INSTALLED), hint="install sgx-enclaves again"
    )


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
        InputError: a template is not there.
    """
    import jinja2  # noqa: PLC0415  (only this needs it, and it is slow to import)

    folder = templates_folder()
    # `{{` and `%{` are rpm's. Nothing is HTML: `_escaped` says what is harmless here.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(str(folder)),
        variable_start_string="@{",
        variable_end_string="}",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_escaped,
    )
    values = _values(request)
    try:
        return environment.get_template(f"{request.kind.value}.spec.j2").render(values)
    except jinja2.TemplateNotFound as error:
        raise InputError(
            "the spec template cannot be read",
            file=str(folder / (error.name or "")),
            hint="install sgx-enclaves again",
        ) from None


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
        for tree in request.catalogue.trees_of(release, enclaves):
            artifacts += tree.sources()
    elif request.kind is Kind.PREBUILT:
        used = {enclave.vendor for enclave in enclaves}
        for archive in release.vendor:
            if archive.id in used:
                artifacts.append(archive.artifact)
                artifacts += [archive.checksums] if archive.checksums is not None else []
    return tuple({artifact.filename: artifact for artifact in artifacts}.values())


def _values(request: SpecRequest) -> Mapping[str, object]:
    """What the templates put in, by name."""
    release = request.release
    enclaves, notes = packaged(request.catalogue, release)
    if release.license is None:
        raise CatalogueError(
            f"{release.name} names no licence", file=release.file, hint="add the key license"
        )
    unpinned = request.catalogue.unpinned_digests(release)
    if unpinned:
        what = "accepts them all the same" if request.allow_unpinned else "refuses them"
        notes.append(f"NOT PINNED by the release; the build {what}:")
        notes += [f"  {fact}" for fact in unpinned]
    trees = request.catalogue.trees_of(release, enclaves)
    sources = _sources(request, enclaves)
    toolchains = {tree.toolchain.name for tree in trees if tree.toolchain is not None}
    return {
        "kind": request.kind.value,
        "release": release,
        "arguments": _arguments(request, len(sources) - 1),
        "toolchain": ", ".join(sorted(toolchains)),
        "toolchain_packages": request.toolchain_packages,
        "url": _HOME,
        "date": request.date.strftime("%a %b %d %Y"),
        "packager": request.packager,
        "notes": notes,
        "enclaves": enclaves,
        "sources": sources,
    }


class _Macros(str):
    """A value that is meant as it stands, macros and all."""


def _escaped(value: object) -> str:
    """A value in a spec file: one line, and no macro, for macros work even in comments."""
    if isinstance(value, _Macros):
        return value
    return printable(str(value)).replace("%", "%%")


def _arguments(request: SpecRequest, last: int) -> _Macros:
    """What every macro gets first; a release that is a source itself is the last one."""
    words = ["-u"] if request.allow_unpinned else []
    if not _is_own(request.release):
        words.append(f"-c %{{SOURCE{last}}}")
    return _Macros(" ".join([*words, request.release.name]))


def _is_own(release: Release) -> bool:
    """Whether the installed program knows it by itself."""
    return Path(release.file).parent == OWN_FOLDER


def _sources(request: SpecRequest, enclaves: Sequence[Enclave]) -> list[Mapping[str, str]]:
    """Of each source: its place, and a comment about it."""
    release = request.release
    lines = [(a.pin or "no digest is pinned", _url(a)) for a in sources_of(request)]
    if request.kind is Kind.GRAFTED:
        command = f"sgx-enclaves fetch {release.name} --what signed --signatures-into DIR"
        lines += [(f"made by {command}", enclave.signature_file) for enclave in enclaves]
    if not _is_own(release):
        lines.append(
            ("what the release is; not in the installed catalogue", Path(release.file).name)
        )
    return [{"about": about, "place": place} for about, place in lines]


def _url(artifact: Artifact) -> str:
    """The first place; with the name that the file gets, where the URL ends otherwise."""
    url = artifact.urls[0]
    return url if url.rpartition("/")[2] == artifact.filename else f"{url}#/{artifact.filename}"
