# SPDX-License-Identifier: GPL-2.0-or-later
"""From `manifest.json` to its data, checked: a manifest is input like any other."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, NoReturn, Optional, TypeVar

from sgx_enclaves.errors import CatalogueError, ManifestError
from sgx_enclaves.releases.manifest import (
    SCHEMA_VERSION,
    Difference,
    EnclaveRecord,
    FileRecord,
    Manifest,
    Outcome,
    SecondBuild,
    SourceRecord,
    StepRecord,
    ToolchainKind,
    ToolchainUse,
    TreeRecord,
    config_name,
    unsigned_name,
)
from sgx_enclaves.releases.table import NAME, Table
from sgx_enclaves.releases.toolchain import (
    RECORD_SCHEMA,
    FoundPackage,
    FoundTool,
    Part,
    State,
    ToolchainRecord,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[a-z0-9_]{1,32}")
_LOG = re.compile(r"logs/[a-z0-9][A-Za-z0-9._+-]{0,199}\.log")
_ABSOLUTE = re.compile(r"/[^\x00-\x1f]{0,4094}")
_STEP = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
_FAR = 1 << 53
_Kind = TypeVar("_Kind", bound=Enum)


def read_manifest(data: bytes, file: str) -> Manifest:
    """Read a manifest; unknown, missing, doubled and contradicting entries are refused.

    Args:
        data: the JSON.
        file: its name, for messages.

    Raises:
        ManifestError: any of that; the message names file, key and reason.
    """
    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=_mapping, parse_constant=_no)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {error}", file=file) from None
    if not isinstance(parsed, dict):
        raise ManifestError("not a manifest: it must be a JSON object", file=file)
    try:
        return _manifest(Table(parsed, file))
    except CatalogueError as error:
        raise ManifestError(
            error.message,
            file=file,
            found=error.found,
            hint="build anew: a manifest is not edited by hand",
        ) from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _value in pairs}) != len(pairs):
        raise ValueError("a key is there twice")
    # null says the same as a key that is not there
    return {key: value for key, value in pairs if value is not None}


def _no(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _manifest(top: Table) -> Manifest:
    version = top.maybe_integer("schema_version", 0, _FAR)
    if version != SCHEMA_VERSION:
        top.refuse("schema_version", f"must be {SCHEMA_VERSION}", version)
    second = top.table("second")
    claims_same = top.boolean("reproducible", False)
    manifest = Manifest(
        release=top.text("release", NAME),
        started=_integer(top, "started", 0, _FAR),
        milliseconds=_integer(top, "milliseconds", 0, _FAR),
        trees=tuple(_tree(table) for table in top.tables("trees")),
        enclaves=tuple(_enclave(table) for table in top.tables("enclaves")),
        second=None if second is None else _second(second),
    )
    top.done()
    if claims_same != (manifest.reproducible is True):
        top.refuse("reproducible", "contradicts the second build", claims_same)
    if not manifest.enclaves:
        top.refuse("enclaves", "must name at least one")
    top.unique("trees", (tree.release for tree in manifest.trees))
    top.unique("enclaves", (enclave.name for enclave in manifest.enclaves))
    top.unique("enclaves", (enclave.file for enclave in manifest.enclaves))
    names = {enclave.name for enclave in manifest.enclaves}
    for enclave in manifest.enclaves:
        if manifest.tree(enclave.tree) is None:
            top.refuse(f"enclaves.{enclave.name}.tree", "names no tree", enclave.tree)
    for tree in manifest.trees:
        for step in tree.steps:
            if step.enclave is not None and step.enclave not in names:
                top.refuse(f"trees.{tree.release}.steps", "names no enclave", step.enclave)
    return manifest


def _tree(table: Table) -> TreeRecord:
    toolchain = table.table("toolchain")
    if toolchain is None:
        table.refuse("toolchain", "is missing")
    tree = TreeRecord(
        release=table.text("release", NAME),
        root=table.text("root", _ABSOLUTE),
        fixed_path=table.boolean("fixed_path", False),
        # what is not said counts as the worse
        network=table.boolean("network", True),
        environment=table.texts("environment"),
        umask=_integer(table, "umask", 0, 0o777),
        sources=tuple(_source(item) for item in table.tables("sources")),
        toolchain=_toolchain(toolchain),
        steps=tuple(_step(item) for item in table.tables("steps")),
    )
    table.done()
    if not tree.sources:
        table.refuse("sources", "must name at least one")
    table.unique("steps", (step.id for step in tree.steps))
    return tree


def _source(table: Table) -> SourceRecord:
    source = SourceRecord(
        id=table.text("id", NAME),
        place=table.maybe_text("place") or "",
        filename=table.text("filename"),
        sha256=table.text("sha256", _SHA256),
        pinned=table.boolean("pinned", False),
        contents_sha256=table.maybe_text("contents_sha256", _SHA256),
    )
    table.done()
    return source


def _toolchain(table: Table) -> ToolchainUse:
    record = table.table("record")
    if record is None:
        table.refuse("record", "is missing")
    use = ToolchainUse(
        kind=_choice(table, "kind", ToolchainKind),
        name=table.text("name"),
        record=_record(record),
        parts=tuple(_part(item) for item in table.tables("parts")),
    )
    table.done()
    if use.kind is ToolchainKind.DESIGNATED and not use.matches:
        table.refuse("kind", "says designated, but its parts do not all match")
    return use


def _record(table: Table) -> ToolchainRecord:
    if table.maybe_integer("schema", 0, _FAR) not in (None, RECORD_SCHEMA):
        table.refuse("schema", f"must be {RECORD_SCHEMA}")
    record = ToolchainRecord(
        tools=tuple(_tool(item) for item in table.tables("tools")),
        interpreter=table.maybe_text("interpreter"),
        packages=tuple(_package(item) for item in table.tables("packages")),
        machine=table.text("machine"),
    )
    table.done()
    return record


def _tool(table: Table) -> FoundTool:
    tool = FoundTool(
        name=table.text("name", NAME),
        version=table.maybe_text("version"),
        path=table.maybe_text("path", _ABSOLUTE),
        sha256=table.maybe_text("sha256", _SHA256),
    )
    table.done()
    return tool


def _package(table: Table) -> FoundPackage:
    package = FoundPackage(
        nevra=table.text("nevra"),
        sigmd5=table.maybe_text("sigmd5") or "",
        payload_sha256=table.maybe_text("payload_sha256"),
    )
    table.done()
    return package


def _part(table: Table) -> Part:
    part = Part(
        name=table.text("name"),
        state=_choice(table, "state", State),
        expected=table.maybe_text("expected") or "",
        found=table.maybe_text("found") or "",
    )
    table.done()
    return part


def _step(table: Table) -> StepRecord:
    step = StepRecord(
        id=table.text("id", _STEP),
        enclave=table.maybe_text("enclave", NAME),
        outcome=_choice(table, "outcome", Outcome),
        milliseconds=_integer(table, "milliseconds", 0, _FAR),
        log=table.maybe_text("log", _LOG),
        message=table.maybe_text("message"),
    )
    table.done()
    if (step.outcome is Outcome.OK) != (step.message is None):
        table.refuse("message", "must be there exactly if the step went wrong", step.message)
    return step


def _enclave(table: Table) -> EnclaveRecord:
    name, file = table.text("name", NAME), table.text("file", _FILE)
    enclave = EnclaveRecord(
        name=name,
        file=file,
        tree=table.text("tree", NAME),
        unsigned=_file(table, "unsigned", unsigned_name(file)),
        config=_file(table, "config", config_name(file)),
        problem=table.maybe_text("problem"),
    )
    table.done()
    if (enclave.unsigned is None) != (enclave.config is None):
        table.refuse("config", "must be there exactly if the unsigned enclave is")
    if enclave.built != (enclave.problem is None):
        table.refuse("problem", "must be there exactly if nothing was built", enclave.problem)
    return enclave


def _file(parent: Table, key: str, name: str) -> Optional[FileRecord]:
    table = parent.table(key)
    if table is None:
        return None
    record = FileRecord(
        file=table.text("file"),
        sha256=table.text("sha256", _SHA256),
        size=_integer(table, "size", 0, _FAR),
    )
    table.done()
    if record.file != name:
        table.refuse("file", f"must be {name}", record.file)
    return record


def _second(table: Table) -> SecondBuild:
    second = SecondBuild(
        varied=table.texts("varied"),
        not_varied=table.texts("not_varied"),
        differences=tuple(_difference(item) for item in table.tables("differences")),
    )
    table.done()
    return second


def _difference(table: Table) -> Difference:
    difference = Difference(
        file=table.text("file"),
        offset=table.maybe_integer("offset", 0, _FAR),
        size=_integer(table, "size", 0, _FAR),
        section=table.maybe_text("section"),
    )
    table.done()
    return difference


def _integer(table: Table, key: str, low: int, high: int) -> int:
    value = table.maybe_integer(key, low, high)
    if value is None:
        table.refuse(key, "is missing")
    return value


def _choice(table: Table, key: str, kind: type[_Kind]) -> _Kind:
    text = table.text(key)
    for member in kind:
        if member.value == text:
            return member
    table.refuse(key, f"must be one of {', '.join(member.value for member in kind)}", text)
