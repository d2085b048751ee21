# SPDX-License-Identifier: GPL-2.0-or-later
"""Read releases from TOML files: ours, and what users add in directories of their own.

A file's form is written down in `schema.json`. What a schema cannot say is
checked here too: ids that name nothing, facts that are missing without being listed as
`unpinned`, facts that are listed and given. Of two releases with one name the later one
counts, never silently. What a release is, is `records`' part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, Optional

from sgx_enclaves.catalogue.artifact import Artifact, check_url
from sgx_enclaves.catalogue.records import MAKERS, Build, Catalogue, Enclave, Release
from sgx_enclaves.errors import CatalogueError, InputError, LimitError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import from_plain, parse_toml, read_schema, validate

SCHEMA = 1
OWN_FOLDER = Path(__file__).with_name("releases")
USER_FOLDER = Path("/etc/sgx-enclaves/releases.d")
_LONGEST_LINE = 4096
_BUILDERS_STEPS = ("make-", "patch-")
_ARTIFACT_KEYS = frozenset(field.name for field in fields(Artifact))


def load_catalogue(folders: Sequence[Path] = (OWN_FOLDER, USER_FOLDER)) -> Catalogue:
    """Read every `*.toml` of the directories, sorted by name within each; a file stands for itself.

    Later ones win; those that do not exist are passed over. A broken catalogue decides nothing: if
    any file is wrong, it is a CatalogueError.
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
        for enclave in release.enclaves:
            if enclave.built_in is not None:
                catalogue.build_of(release, enclave)
    return catalogue


def catalogue_from(files: Mapping[str, bytes]) -> Catalogue:
    """A catalogue of exactly these releases: what to call each in messages, to its TOML."""
    releases: dict[str, Release] = {}
    for name, data in files.items():
        release = read_release(data, name)
        if release.name in releases:
            message = f"there are two releases {release.name!r}"
            raise CatalogueError(message, file=name, hint="leave one")
        releases[release.name] = release
    return Catalogue(releases)


def read_release_file(path: Path) -> Release:
    """Read one release from its file."""
    if not path.is_file():
        raise CatalogueError("there is no such file", file=str(path), hint="name a TOML file")
    try:
        return read_release(read_file(str(path), MIB), str(path))
    except (InputError, LimitError) as error:
        raise CatalogueError(error.message, file=str(path)) from None


def read_release(data: bytes, file: str) -> Release:
    """Check a TOML file and make a release of it; a CatalogueError names file, key and reason."""
    return release_from(parse_toml(data, file=file, error=CatalogueError), file)


def release_from(parsed: Mapping[str, Any], file: str) -> Release:
    """Like `read_release`, of a file that is parsed already."""
    release = release_form(parsed, file)
    _cross_check(release)
    return release


def release_form(parsed: Mapping[str, Any], file: str) -> Release:
    """A release whose form is right; what it says may still contradict itself."""
    if isinstance(parsed.get("schema"), bool) or parsed.get("schema") != SCHEMA:
        _refuse(file, f"schema: must be {SCHEMA}", parsed.get("schema"))
    validate(parsed, read_schema(__file__, "schema.json"), file=file, error=CatalogueError)
    _check_lines(parsed, "", file)
    return from_plain(Release, _as_records(parsed, file), file=file, error=CatalogueError)


def _refuse(file: str, message: str, found: Optional[object] = None) -> NoReturn:
    raise CatalogueError(message, file=file, found=None if found is None else repr(found)[:200])


def _check_lines(value: object, place: str, file: str) -> None:
    """Refuse text with control characters, which a schema's patterns would let pass."""
    if isinstance(value, str):
        if len(value) > _LONGEST_LINE or not value.isprintable():
            _refuse(file, f"{place}: must be one line of text", value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_lines(key, place, file)
            _check_lines(item, f"{place}.{key}" if place else key, file)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_lines(item, f"{place}[{number}]", file)


def _as_records(parsed: Mapping[str, Any], file: str) -> dict[str, Any]:
    """A file's tables, arranged and named as the records are."""
    made = {key: parsed[key] for key in parsed if key not in ("schema", "enclave", "run")}
    made["runs"] = parsed.get("run", ())
    made["file"] = file
    made["enclaves"] = [
        {**table, "build": {**table["build"], **_place(table["build"], "make_directory")}}
        if "build" in table
        else table
        for table in parsed["enclave"]
    ]
    made["vendor"] = [_with_artifact(table) for table in parsed.get("vendor", ())]
    if "build" in parsed:
        build = parsed["build"]
        made["build"] = {
            "root": build["root"],
            "sources": [{**_with_artifact(t), **_place(t)} for t in build["source"]],
            "patches": [{**table, **_place(table)} for table in build.get("patch", ())],
            "steps": [{**table, **_place(table)} for table in build.get("step", ())],
            "routes": [
                {
                    **{key: value for key, value in way.items() if key != "step"},
                    "steps": [{**table, **_place(table)} for table in way["step"]],
                }
                for way in build.get("route", ())
            ],
        }
    if "toolchain" in parsed:
        tools = {key: value for key, value in parsed["toolchain"].items() if key != "tool"}
        made["toolchain"] = {**tools, "tools": parsed["toolchain"]["tool"]}
    return made


def _with_artifact(table: Mapping[str, Any]) -> dict[str, Any]:
    keys = {key for key in table if key in _ARTIFACT_KEYS}
    own = {key: table[key] for key in table if key not in keys}
    return {**own, "artifact": {key: table[key] for key in keys}}


def _place(table: Mapping[str, Any], key: str = "place") -> dict[str, str]:
    """A directory below the tree, in which `.` is the tree itself."""
    return {key: "" if table[key] == "." else table[key]}


def _cross_check(release: Release) -> None:
    """Check what a schema cannot say."""
    if release.build is not None:
        _check_build(release, release.build)
    if release.toolchain is not None:
        _check_unique(release, "toolchain.tool", (tool.name for tool in release.toolchain.tools))
    if (release.build is None) != (release.toolchain is None):
        _refuse(release.file, "build: and toolchain go together")
    repacks = tuple(archive.repack for archive in release.vendor if archive.repack is not None)
    for artifact in (*release.sources(), *release.signed(), *repacks):
        for url in artifact.urls:
            try:
                check_url(url)
            except CatalogueError as error:
                _refuse(release.file, f"{artifact.filename}: {error.message}", url)
    _check_unique(release, "vendor", (archive.id for archive in release.vendor))
    _check_unique(release, "enclave", (enclave.name for enclave in release.enclaves))
    for enclave in release.enclaves:
        _check_enclave(release, enclave)
    for run in release.runs:
        if release.enclave(run.enclave) is None:
            _refuse(release.file, "run.enclave: is no enclave of the release", run.enclave)
    unknown = set(unknown_facts(release))
    for fact in sorted(unknown - set(release.unpinned)):
        _refuse(release.file, f"unpinned: must list {fact}, which is not given")
    for fact in sorted(set(release.unpinned) - unknown):
        _refuse(
            release.file, f"unpinned: lists {fact}, which is given or is no fact of this release"
        )


def _check_unique(release: Release, place: str, values: Iterable[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            _refuse(release.file, f"{place}: is there twice", value)


def _check_build(release: Release, build: Build) -> None:
    if build.sources[0].place:
        _refuse(release.file, "build.source: must begin with the one whose place is '.'")
    if any(not source.place for source in build.sources[1:]):
        _refuse(release.file, "build.source: only the first may have the place '.'")
    _check_unique(release, "build.source", (source.id for source in build.sources))
    _check_unique(release, "build.source", (source.place for source in build.sources))
    _check_unique(release, "build.step", (step.id for step in build.steps))
    _check_routes(release, build)
    for source in build.sources:
        for name in source.linked_by or ():
            if release.enclave(name) is None:
                _refuse(release.file, f"source {source.id}.linked_by: there is no such one", name)
    for step in (*build.steps, *(step for route in build.routes for step in route.steps)):
        if step.id.startswith(_BUILDERS_STEPS):
            _refuse(release.file, f"step {step.id}: the builder itself gives such names")
    for source in build.sources:
        # below another directory, or packed, the build would see what the digest does not cover
        if source.artifact.contents_sha256 and not (source.unpack and source.strip == 1):
            _refuse(
                release.file,
                f"source {source.id}.contents_sha256: goes with unpack = true and strip = 1 only",
            )


def _check_routes(release: Release, build: Build) -> None:
    _check_unique(release, "build.route", (MAKERS, *(route.id for route in build.routes)))
    known = {source.id for source in build.sources}
    built = {enclave.name for enclave in release.enclaves if enclave.build is not None}
    for step in build.steps:
        if step.enclaves:
            _refuse(release.file, f"step {step.id}.enclaves: the makers' route builds them all")
    for route in build.routes:
        _check_unique(release, f"route {route.id}.step", (step.id for step in route.steps))
        if build.sources[0].id not in route.sources:
            _refuse(release.file, f"route {route.id}.sources: must have {build.sources[0].id}")
        for key, names, there in (
            ("sources", route.sources, known),
            ("enclaves", route.enclaves, built),
            ("more_sources", tuple(route.more_sources), set(route.enclaves)),
            *(("more_sources", more, known) for more in route.more_sources.values()),
            *((f"step {s.id}.enclaves", s.enclaves, set(route.enclaves)) for s in route.steps),
        ):
            for name in names:
                if name not in there:
                    _refuse(release.file, f"route {route.id}.{key}: there is no such one", name)


def _check_enclave(release: Release, enclave: Enclave) -> None:
    def refuse(key: str, reason: str, found: Optional[str] = None) -> NoReturn:
        _refuse(release.file, f"enclave {enclave.name}.{key}: {reason}", found)

    ways = (enclave.build, enclave.built_in, enclave.not_reproducible)
    if sum(way is not None for way in ways) != 1:
        refuse("build", "exactly one of build, built_in and not_reproducible must be given")
    if release.archive(enclave.vendor) is None:
        refuse("vendor", "names no archive", enclave.vendor)
    if enclave.build is not None and release.build is None:
        refuse("build", "needs the release's own build")
    if enclave.built_in == release.name:
        refuse("built_in", "must be another release")
    if not (enclave.required and enclave.may_ship) and not enclave.reason:
        refuse("reason", "must say why it is not required or may not be shipped")
    if enclave.required and enclave.not_reproducible is not None:
        refuse("required", "must be false for what nobody can build")


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
