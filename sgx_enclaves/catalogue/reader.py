# SPDX-License-Identifier: GPL-2.0-or-later
"""Read releases from TOML files: ours, and what users add in directories of their own.

`schema.json` has a file's form. What a schema cannot say is checked here: ids that name nothing,
facts that are missing without being listed as `unpinned`, facts that are listed and given. Of two
releases with one name the later one counts, never silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, Optional

from sgx_enclaves.catalogue.artifact import Artifact, check_url
from sgx_enclaves.catalogue.records import MAKERS, Build, Catalogue, Release
from sgx_enclaves.errors import CatalogueError, InputError, LimitError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import from_plain, parse_toml, read_schema, validate

SCHEMA = 1
OWN_FOLDER = Path(__file__).with_name("releases")
USER_FOLDER = Path("/etc/sgx-enclaves/releases.d")
_ARTIFACT_KEYS = {field.name for field in fields(Artifact)}
# what a file calls one of several tables, and the records all of them
_SEVERAL = {name: f"{name}s" for name in ("enclave", "run", "source", "step", "route", "tool")}
_SEVERAL["patch"] = "patches"
_ONE = {name: key for key, name in _SEVERAL.items()}
_DIRECTORIES = ("place", "make_directory")


def load_catalogue(folders: Sequence[Path] = (OWN_FOLDER, USER_FOLDER)) -> Catalogue:
    """Read every `*.toml` of the directories, sorted by name within each; a file stands for itself.

    Later ones win; those that do not exist are passed over. A CatalogueError if any file is wrong.
    """
    releases: dict[str, Release] = {}
    replaced: dict[str, str] = {}
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.glob("*.toml")):
            release = read_release_file(path)
            if release.name in releases:
                replaced[release.name] = releases[release.name].file
            releases[release.name] = release
    catalogue = Catalogue(releases, replaced)
    for release in releases.values():
        # each of them must be there
        catalogue.trees_of(release)
    return catalogue


def catalogue_from(files: Mapping[str, bytes]) -> Catalogue:
    """A catalogue of exactly these releases: what to call each in messages, to its TOML."""
    releases: dict[str, Release] = {}
    for name, data in files.items():
        release = read_release(data, name)
        if releases.setdefault(release.name, release) is not release:
            message = f"there are two releases {release.name!r}"
            raise CatalogueError(message, file=name, hint="leave one")
    return Catalogue(releases)


def read_release_file(path: Path) -> Release:
    """Read one release from its file."""
    if not path.is_file():
        raise CatalogueError("there is no such file", file=str(path), hint="name a TOML file")
    try:
        return read_release(read_file(str(path), MIB), str(path))
    except (InputError, LimitError) as error:
        raise CatalogueError(error.message, file=str(path)) from None


@lru_cache(maxsize=100)
def read_release(data: bytes, file: str) -> Release:
    """Check a TOML file and make a release of it; a CatalogueError names file, key and reason.

    Of the same bytes once: our own catalogue takes 0.15 s, and each built reference asks for it.
    """
    return release_from(parse_toml(data, file=file, error=CatalogueError), file)


def release_from(parsed: Mapping[str, Any], file: str) -> Release:
    """Like `read_release`, of a file that is parsed already."""
    release = release_form(parsed, file)
    for message, found in _mistakes(release):
        _refuse(file, message, found)
    return release


def release_form(parsed: Mapping[str, Any], file: str) -> Release:
    """A release whose form is right; what it says may still contradict itself."""
    if isinstance(parsed.get("schema"), bool) or parsed.get("schema") != SCHEMA:
        _refuse(file, f"schema: must be {SCHEMA}", parsed.get("schema"))
    validate(parsed, read_schema(__file__, "schema.json"), file=file, error=CatalogueError)
    made = {**_as_records(parsed), "file": file}
    del made["schema"]
    return from_plain(Release, made)


def _refuse(file: str, message: str, found: Optional[object] = None) -> NoReturn:
    raise CatalogueError(message, file=file, found=None if found is None else repr(found)[:200])


def _as_records(value: Any) -> Any:
    """A file's tables, arranged and named as the records are; the directory `.` is the tree."""
    if isinstance(value, list):
        return [_as_records(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = {}
    for key, item in value.items():
        several = isinstance(item, list) and all(isinstance(part, Mapping) for part in item)
        name = _SEVERAL.get(key, key) if several else key
        made[name] = "" if key in _DIRECTORIES and item == "." else _as_records(item)
    if "id" in made and "filename" in made:
        made["artifact"] = {key: made.pop(key) for key in _ARTIFACT_KEYS & made.keys()}
    return made


def as_tables(release: Release) -> dict[str, Any]:
    """The plain data of a release's file, in the schema's order, without what is so by default."""
    made = {"schema": SCHEMA, **_as_tables(release)}
    return {
        key: made[key] for key in read_schema(__file__, "schema.json")["properties"] if key in made
    }


def _as_tables(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_tables(item) for item in value]
    if not is_dataclass(value):
        return value
    made: dict[str, Any] = {}
    for field in fields(value):
        name, item = field.name, getattr(value, field.name)
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if name == "artifact":
            made |= _as_tables(item)
        elif item != usual:
            several = isinstance(item, tuple) and item and is_dataclass(item[0])
            name = _ONE.get(name, name) if several else name
            made[name] = "." if name in _DIRECTORIES and not item else _as_tables(item)
    return made


def _mistakes(release: Release) -> Iterator[tuple[str, object]]:
    """What a schema cannot say: what is wrong, and what there is instead."""
    yield from _in_build(release, release.build) if release.build is not None else ()
    if release.toolchain is not None:
        yield from _twice("toolchain.tool", (tool.name for tool in release.toolchain.tools))
    signed = (file for archive in release.vendor for file in (archive.artifact, archive.repack))
    for artifact in filter(None, (*release.sources(), *signed)):
        for url in artifact.urls:
            try:
                check_url(url)
            except CatalogueError as error:
                yield f"{artifact.filename}: {error.message}", url
    yield from _twice("vendor", (archive.id for archive in release.vendor))
    yield from _twice("enclave", (enclave.name for enclave in release.enclaves))
    for enclave in release.enclaves:
        where = f"enclave {enclave.name}"
        if enclave.vendor not in [archive.id for archive in release.vendor]:
            yield f"{where}.vendor: names no archive", enclave.vendor
        if enclave.build is not None and release.build is None:
            yield f"{where}.build: needs the release's own build", None
        if enclave.built_in == release.name:
            yield f"{where}.built_in: must be another release", None
        if not (enclave.required and enclave.may_ship) and not enclave.reason:
            why = "must say why it is not required or may not be shipped"
            yield f"{where}.reason: {why}", None
        if enclave.required and enclave.not_reproducible is not None:
            yield f"{where}.required: must be false for what nobody can build", None
    for run in release.runs:
        if release.enclave(run.enclave) is None:
            yield "run.enclave: is no enclave of the release", run.enclave
    unknown, listed = set(unknown_facts(release)), set(release.unpinned)
    for fact in sorted(unknown - listed):
        yield f"unpinned: must list {fact}, which is not given", None
    for fact in sorted(listed - unknown):
        yield f"unpinned: lists {fact}, which is given or is no fact of this release", None


def _twice(place: str, values: Iterable[str]) -> Iterator[tuple[str, object]]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{place}: is there twice", value


def _in_build(release: Release, build: Build) -> Iterator[tuple[str, object]]:
    if build.sources[0].place:
        yield "build.source: must begin with the one whose place is '.'", None
    if any(not source.place for source in build.sources[1:]):
        yield "build.source: only the first may have the place '.'", None
    yield from _twice("build.source", (source.id for source in build.sources))
    yield from _twice("build.source", (source.place for source in build.sources))
    yield from _twice("build.step", (step.id for step in build.steps))
    yield from _twice("build.route", (MAKERS, *(route.id for route in build.routes)))
    known = {source.id for source in build.sources}
    enclaves = {enclave.name for enclave in release.enclaves}
    built = {enclave.name for enclave in release.enclaves if enclave.build is not None}
    names: list[tuple[str, Iterable[str], set[str]]] = [
        (f"source {s.id}.linked_by", s.linked_by or (), enclaves) for s in build.sources
    ]
    for step in build.steps:
        if step.enclaves:
            yield f"step {step.id}.enclaves: the makers' route builds them all", None
    for route in build.routes:
        yield from _twice(f"route {route.id}.step", (step.id for step in route.steps))
        if build.sources[0].id not in route.sources:
            yield f"route {route.id}.sources: must have {build.sources[0].id}", None
        own = set(route.enclaves)
        names += [
            (f"route {route.id}.sources", route.sources, known),
            (f"route {route.id}.enclaves", route.enclaves, built),
            (f"route {route.id}.more_sources", route.more_sources, own),
            *((f"route {route.id}.more_sources", m, known) for m in route.more_sources.values()),
            *((f"route {route.id}.step {s.id}.enclaves", s.enclaves, own) for s in route.steps),
        ]
    for place, said, there in names:
        for name in said:
            if name not in there:
                yield f"{place}: there is no such one", name


def unknown_facts(release: Release) -> list[str]:
    """The facts that a verdict needs and the release does not give."""
    facts: list[tuple[str, Optional[object]]] = []
    if release.build is not None:
        facts += [(f"source.{item.id}", item.artifact.pin) for item in release.build.sources]
    if release.toolchain is not None:
        facts.append(("toolchain.interpreter", release.toolchain.interpreter))
    facts += [(f"vendor.{item.id}", item.artifact.pin) for item in release.vendor]
    for enclave in release.enclaves:
        facts += [
            (f"enclave.{enclave.name}.{key}", getattr(enclave, key))
            for key in ("so_version", "isvprodid", "least_isvsvn")
        ]
    return [name for name, value in facts if value is None]
