# SPDX-License-Identifier: GPL-2.0-or-later
"""From a release's TOML to its data, checked.

The form is written down for other tools in `catalogue.schema.json`. What a
schema cannot say is checked here too: ids that name nothing, facts that are
missing without being listed as `unpinned`, facts that are listed and there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.release import (
    Build,
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
from sgx_enclaves.releases.table import NAME, Table

SCHEMA = 1
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,5}")
_SO_VERSION = re.compile(r"[0-9]+(\.[0-9]+){3}")
# an SPDX expression: names, parentheses, AND, OR, WITH
_LICENSE = re.compile(r"[A-Za-z0-9.+()-]+( [A-Za-z0-9.+()-]+)*")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIGNER = re.compile(r"[0-9a-f]{64}")
_ABSOLUTE = re.compile(r"/[A-Za-z0-9._/+-]{1,255}")
_FILE = re.compile(r"[a-z0-9_]{1,32}")
_MACRO = re.compile(r"[A-Z0-9_]{1,64}")
_MITIGATION = re.compile(r"LOAD|CF")
_DAY = 24 * 3600


def read_release(data: Mapping[str, Any], file: str) -> Release:
    """Check a parsed TOML file and make a release of it.

    Args:
        data: the parsed file.
        file: its name, for messages.

    Raises:
        CatalogueError: any mistake; the message names file, key and reason.
    """
    top = Table(data, file)
    schema = top.maybe_integer("schema", 0, 1 << 30)
    if schema != SCHEMA:
        top.refuse("schema", f"must be {SCHEMA}", schema)
    build_table = top.table("build")
    toolchain_table = top.table("toolchain")
    if (build_table is None) != (toolchain_table is None):
        top.refuse("build", "and toolchain go together")
    release = Release(
        name=top.text("name", NAME),
        title=top.text("title"),
        sgx=top.text("sgx", _VERSION),
        dcap=top.text("dcap", _VERSION),
        build=None if build_table is None else _build(build_table),
        toolchain=None if toolchain_table is None else _toolchain(toolchain_table),
        vendor=tuple(_vendor(table) for table in top.tables("vendor")),
        enclaves=tuple(_enclave(table) for table in top.tables("enclave")),
        unpinned=top.texts("unpinned", required=False),
        notes=top.texts("notes", required=False),
        file=file,
        license=top.maybe_text("license", _LICENSE),
        license_files=_license_files(top),
    )
    top.done()
    _cross_check(release, top)
    return release


def _license_files(top: Table) -> tuple[str, ...]:
    names = top.texts("license_files", required=False)
    for name in names:
        if not _PLAIN.fullmatch(name):
            top.refuse("license_files", "must be names without a folder", name)
    return names


def _artifact(table: Table, contents_sha256: Optional[str] = None) -> Artifact:
    sha256, sha512 = table.maybe_text("sha256"), table.maybe_text("sha512")
    size = table.maybe_integer("size", 1, 1 << 40)
    filename, urls = table.text("filename"), table.texts("urls")
    if not urls:
        table.refuse("urls", "must name at least one place")
    try:
        return Artifact(filename, urls, sha256, sha512, size, contents_sha256=contents_sha256)
    except CatalogueError as error:
        table.refuse("", error.message, error.found)


def _build(table: Table) -> Build:
    build = Build(
        root=table.text("root", _ABSOLUTE),
        sources=tuple(_source(item) for item in table.tables("source")),
        patches=tuple(_patch(item) for item in table.tables("patch")),
        steps=tuple(_step(item) for item in table.tables("step")),
    )
    table.done()
    if not build.sources or build.sources[0].place:
        table.refuse("source", "must begin with the one whose place is '.'")
    if any(not source.place for source in build.sources[1:]):
        table.refuse("source", "only the first may have the place '.'")
    table.unique("source", (source.id for source in build.sources))
    table.unique("source", (source.place for source in build.sources))
    table.unique("step", (step.id for step in build.steps))
    return build


def _source(table: Table) -> Source:
    strip = table.maybe_integer("strip", 0, 16)
    source = Source(
        id=table.text("id", NAME),
        artifact=_artifact(table, table.maybe_text("contents_sha256")),
        place=table.place("place"),
        strip=1 if strip is None else strip,
        commit=table.maybe_text("commit", _COMMIT),
        unpack=table.boolean("unpack", True),
    )
    table.done()
    if source.artifact.contents_sha256 is not None and not (source.unpack and source.strip == 1):
        # below another folder, or packed, the build would see what the digest does not cover
        table.refuse("contents_sha256", "goes with unpack = true and strip = 1 only")
    return source


def _patch(table: Table) -> Patch:
    strip = table.maybe_integer("strip", 0, 16)
    patch = Patch(table.place("file"), table.place("place"), 1 if strip is None else strip)
    table.done()
    if not patch.file:
        table.refuse("file", "must name a file")
    return patch


def _step(table: Table) -> Step:
    timeout = table.maybe_integer("timeout", 1, _DAY)
    step = Step(
        id=table.text("id", NAME),
        place=table.place("place"),
        command=table.texts("command"),
        timeout=3600 if timeout is None else timeout,
    )
    table.done()
    if not step.command:
        table.refuse("command", "must name a program")
    return step


def _toolchain(table: Table) -> Toolchain:
    umask = table.maybe_integer("umask", 0, 0o777)
    toolchain = Toolchain(
        name=table.text("name"),
        tools=tuple(_tool(item) for item in table.tables("tool")),
        interpreter=table.maybe_text("interpreter", _ABSOLUTE),
        environment=table.strings("environment"),
        umask=0o022 if umask is None else umask,
        strip_flags=table.texts("strip_flags", required=False),
    )
    table.done()
    if not toolchain.tools:
        table.refuse("tool", "must name at least one")
    table.unique("tool", (tool.name for tool in toolchain.tools))
    return toolchain


def _tool(table: Table) -> ToolPin:
    tool = ToolPin(
        table.text("name", NAME), table.text("version"), table.maybe_text("path", _ABSOLUTE)
    )
    table.done()
    return tool


def _vendor(table: Table) -> VendorArchive:
    listed = table.table("checksums")
    archive = VendorArchive(
        id=table.text("id", NAME),
        artifact=_artifact(table),
        checksums=None if listed is None else _artifact(listed),
    )
    table.done()
    if listed is not None:
        listed.done()
    return archive


def _enclave(table: Table) -> Enclave:
    version = table.table("so_version")
    own = table.table("build")
    enclave = Enclave(
        name=table.text("name", NAME),
        file=table.text("file", _FILE),
        vendor=table.text("vendor", NAME),
        member=table.place("member"),
        build=None if own is None else _own_build(own),
        built_in=table.maybe_text("built_in", NAME),
        not_reproducible=table.maybe_text("not_reproducible"),
        so_version=None if version is None else _so_version(version),
        signer=table.text("signer", _SIGNER),
        isvprodid=table.maybe_integer("isvprodid", 0, 0xFFFF),
        least_isvsvn=table.maybe_integer("least_isvsvn", 0, 0xFFFF),
        required=table.boolean("required", True),
        may_ship=table.boolean("may_ship", True),
        reason=table.maybe_text("reason") or "",
    )
    table.done()
    ways = (enclave.build, enclave.built_in, enclave.not_reproducible)
    if sum(way is not None for way in ways) != 1:
        table.refuse("build", "exactly one of build, built_in and not_reproducible must be given")
    if not (enclave.required and enclave.may_ship) and not enclave.reason:
        table.refuse("reason", "must say why it is not required or may not be shipped")
    if enclave.required and enclave.not_reproducible is not None:
        table.refuse("required", "must be false for what nobody can build")
    return enclave


def _own_build(table: Table) -> OwnBuild:
    build = OwnBuild(
        config=table.place("config"),
        make_directory=table.place("make_directory"),
        make_target=table.text("make_target"),
        unsigned=table.place("unsigned"),
        mitigation=table.maybe_text("mitigation", _MITIGATION) or "",
    )
    table.done()
    return build


def _so_version(table: Table) -> SoVersion:
    version = SoVersion(
        value=table.text("value", _SO_VERSION),
        tag=table.text("tag"),
        file=table.place("file"),
        macro=table.text("macro", _MACRO),
    )
    table.done()
    return version


def _cross_check(release: Release, top: Table) -> None:
    if not release.enclaves:
        top.refuse("enclave", "must name at least one")
    top.unique("vendor", (archive.id for archive in release.vendor))
    top.unique("enclave", (enclave.name for enclave in release.enclaves))
    for enclave in release.enclaves:
        if release.archive(enclave.vendor) is None:
            top.refuse(f"enclave {enclave.name}.vendor", "names no archive", enclave.vendor)
        if enclave.build is not None and release.build is None:
            top.refuse(f"enclave {enclave.name}.build", "needs the release's own build")
        if enclave.built_in == release.name:
            top.refuse(f"enclave {enclave.name}.built_in", "must be another release")
    top.unique("unpinned", release.unpinned)
    unknown = set(unknown_facts(release))
    for fact in sorted(unknown - set(release.unpinned)):
        top.refuse("unpinned", f"must list {fact}, which is not given")
    for fact in sorted(set(release.unpinned) - unknown):
        top.refuse("unpinned", f"lists {fact}, which is given or is no fact of this release")


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
