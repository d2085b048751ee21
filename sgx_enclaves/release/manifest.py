# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build leaves behind, and the record of how it came to be.

A built directory holds, for each enclave that was built, `libsgx_FILE.so` (unsigned)
and `libsgx_FILE.config.xml`; the logs under `logs/`; and `manifest.json`, which is
written last, so that a build that was ended early leaves none.

Data and writing only. `manifest_reader` reads it back, `built` the files beside it.

Read a built directory: its manifest, and each file held against it.

From `manifest.json` to its data, checked: a manifest is input like any other.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, Optional, TypeVar

from sgx_enclaves.errors import CatalogueError, ManifestError
from sgx_enclaves.files import make_folder, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB, Limits
from sgx_enclaves.plain import printable
from sgx_enclaves.release.table import NAME, Table
from sgx_enclaves.release.toolchain import (
    RECORD_SCHEMA,
    FoundPackage,
    FoundTool,
    Part,
    State,
    ToolchainRecord,
)

_MAX_MANIFEST = 16 * MIB


@dataclass(frozen=True)
class BuiltEnclave:
    """An enclave that was built.

    Attributes:
        name: such as `ide`.
        file: such as `id_enclave`.
        unsigned: the enclave file.
        config: its `config.xml`.
    """

    name: str
    file: str
    unsigned: bytes
    config: bytes


@dataclass(frozen=True)
class Built:
    """A built directory, checked.

    Attributes:
        directory: where it is.
        manifest: its record, which also tells of the enclaves that were not built.
        enclaves: those that were, in the order of the manifest.
    """

    directory: Path
    manifest: Manifest
    enclaves: tuple[BuiltEnclave, ...]

    def enclave(self, name: str) -> Optional[BuiltEnclave]:
        """The enclave of that name; None if it was not built."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)


def load_manifest(directory: Path) -> Manifest:
    """Read the manifest of a built directory.

    Raises:
        ManifestError: there is none, or it is wrong.
        InputError: it cannot be read.
        LimitError: it is too large.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise ManifestError(
            "holds no manifest, so no build ended here",
            file=str(directory),
            hint="build into a new directory with `sgx-enclaves build`",
        )
    return read_manifest(read_file(str(path), _MAX_MANIFEST), str(path))


def load_built(directory: Path, limits: Limits = DEFAULT_LIMITS) -> Built:
    """Read a built directory; each file must have the digest that the manifest gives.

    Raises:
        ManifestError: no manifest, a wrong one, or a file that is not what it says.
        InputError: a file cannot be read.
        LimitError: a file is too large.
    """
    manifest = load_manifest(directory)
    enclaves = (load_enclave(directory, record, limits) for record in manifest.enclaves)
    return Built(directory, manifest, tuple(enclave for enclave in enclaves if enclave))


def load_enclave(
    directory: Path, record: EnclaveRecord, limits: Limits = DEFAULT_LIMITS
) -> Optional[BuiltEnclave]:
    """Read one enclave of a built directory; None if it was not built.

    Raises:
        ManifestError, InputError, LimitError: as `load_built`.
    """
    if record.unsigned is None or record.config is None:
        return None
    return BuiltEnclave(
        record.name,
        record.file,
        _read(directory, record.unsigned, limits.file_size),
        _read(directory, record.config, limits.config_size),
    )


def set_apart(directory: Path, manifest: Manifest, name: str) -> Path:
    """Make a built directory of one enclave alone, within the one that it was built in.

    Args:
        directory: what `build_release` made.
        manifest: its record.
        name: of an enclave that was built.

    Returns:
        The new directory, called after the enclave.

    Raises:
        SgxEnclavesError: a file cannot be read or written, or is not what was built.
    """
    own = manifest.only(name)
    into = directory / name
    make_folder(into)
    for enclave in own.enclaves:
        for record in (enclave.unsigned, enclave.config):
            if record is not None:
                write_file(str(into / record.file), _read(directory, record, record.size))
    write_manifest(into, own)
    return into


def _read(directory: Path, record: FileRecord, limit: int) -> bytes:
    path = str(directory / record.file)
    data = read_file(path, limit)
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256 or len(data) != record.size:
        raise ManifestError(
            "is not the file that the manifest describes",
            file=path,
            expected=f"{record.size} bytes, sha256 {record.sha256}",
            found=f"{len(data)} bytes, sha256 {found}",
            hint="it was changed after the build; build anew",
        )
    return data


SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LOGS = "logs"
_LONGEST_TEXT = 4000


class ToolchainKind(enum.Enum):
    """Which toolchain a tree was built with."""

    DESIGNATED = "designated"
    HOST = "host"


class Outcome(enum.Enum):
    """How a step ended; `SKIPPED` means that one before it had failed."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class FileRecord:
    """A file of the built directory: its name there, SHA-256 in hexadecimal, bytes."""

    file: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SourceRecord:
    """What was laid out.

    Attributes:
        id: name within the release; `source-dir` for a ready-made tree.
        place: folder in the tree; empty for its root.
        filename: the archive's name, or that of the ready-made tree.
        sha256: digest of the archive, or of the ready-made tree's names and files.
        pinned: whether the release pins that digest, or that of its contents.
        contents_sha256: the release's pin of the archive's contents (see `contents`),
            which it fulfilled; None without one.
    """

    id: str
    place: str
    filename: str
    sha256: str
    pinned: bool
    contents_sha256: Optional[str] = None


@dataclass(frozen=True)
class ToolchainUse:
    """The toolchain of a tree.

    Attributes:
        kind: what the build was asked for.
        name: the designated toolchain, in words.
        record: what was there.
        parts: how it stands to the designated one.
    """

    kind: ToolchainKind
    name: str
    record: ToolchainRecord
    parts: tuple[Part, ...]

    @property
    def matches(self) -> bool:
        """Whether every part was seen and agrees with the designated one."""
        return bool(self.parts) and all(part.state is State.MATCH for part in self.parts)


@dataclass(frozen=True)
class StepRecord:
    """One command of the build.

    Attributes:
        id: name within the tree; an enclave's make is `make-NAME`.
        enclave: the enclave that it is for; None if for all of the tree.
        outcome: see `Outcome`.
        milliseconds: how long it took.
        log: its log, relative to the built directory; None if it was skipped.
        message: what went wrong; None if nothing.
    """

    id: str
    enclave: Optional[str]
    outcome: Outcome
    milliseconds: int
    log: Optional[str]
    message: Optional[str]


@dataclass(frozen=True)
class TreeRecord:
    """One source tree that was built in: the release's own, or that of an older release.

    Attributes:
        release: whose tree.
        root: the path that it had while it was built.
        fixed_path: whether that is the path that the release asks for.
        network: whether the steps could reach a network.
        environment: variables of every step, sorted, as NAME=VALUE.
        umask: file mode mask of every step.
        sources: in the order of the release.
        toolchain: see `ToolchainUse`.
        steps: in the order in which they were run.
    """

    release: str
    root: str
    fixed_path: bool
    network: bool
    environment: tuple[str, ...]
    umask: int
    sources: tuple[SourceRecord, ...]
    toolchain: ToolchainUse
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class EnclaveRecord:
    """What became of one enclave.

    Attributes:
        name: such as `ide`.
        file: such as `id_enclave`.
        tree: the release whose tree it was built in.
        unsigned: the result; None if there is none.
        config: its `config.xml`; None if there is no result.
        problem: why there is no result; None if there is one.
    """

    name: str
    file: str
    tree: str
    unsigned: Optional[FileRecord]
    config: Optional[FileRecord]
    problem: Optional[str]

    @property
    def built(self) -> bool:
        """Whether there is a result."""
        return self.unsigned is not None


@dataclass(frozen=True)
class Difference:
    """One stretch in which the second build of an enclave differs.

    Attributes:
        file: the file of the built directory.
        offset: where the stretch starts; None if the second build has no such file.
        size: its bytes.
        section: the ELF section that it begins in; None outside of all.
    """

    file: str
    offset: Optional[int]
    size: int
    section: Optional[str]


@dataclass(frozen=True)
class SecondBuild:
    """What building again elsewhere showed.

    Attributes:
        varied: what was different on purpose, such as `path`.
        not_varied: what should have been, and why it was not.
        differences: none if every file is the same.
    """

    varied: tuple[str, ...]
    not_varied: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Manifest:
    """The record of a build.

    Attributes:
        release: what was built.
        started: seconds since 1970, UTC.
        milliseconds: how long it took.
        trees: the source trees that were built in.
        enclaves: those that were asked for, in the order of the release.
        second: None if it was built once.
    """

    release: str
    started: int
    milliseconds: int
    trees: tuple[TreeRecord, ...]
    enclaves: tuple[EnclaveRecord, ...]
    second: Optional[SecondBuild]

    @property
    def reproducible(self) -> Optional[bool]:
        """Whether the second build was the same; None if there was none."""
        if self.second is None:
            return None
        return not self.second.differences and self.complete

    @property
    def complete(self) -> bool:
        """Whether every enclave that was asked for was built."""
        return bool(self.enclaves) and all(enclave.built for enclave in self.enclaves)

    @property
    def designated(self) -> bool:
        """Whether every tree was built with the designated toolchain, all of it seen."""
        return bool(self.trees) and all(
            tree.toolchain.kind is ToolchainKind.DESIGNATED and tree.toolchain.matches
            for tree in self.trees
        )

    @property
    def pinned(self) -> bool:
        """Whether every source had the digest that its release pins."""
        return bool(self.trees) and all(
            source.pinned for tree in self.trees for source in tree.sources
        )

    def enclave(self, name: str) -> Optional[EnclaveRecord]:
        """The record of that enclave."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)

    def tree(self, release: str) -> Optional[TreeRecord]:
        """The record of that release's tree."""
        return next((tree for tree in self.trees if tree.release == release), None)

    def only(self, name: str) -> Manifest:
        """The record of one enclave, as packages ship it: without what never recurs.

        That is times, and HOME, which is a scratch folder of that one build.
        """
        enclaves = tuple(enclave for enclave in self.enclaves if enclave.name == name)
        used = {enclave.tree for enclave in enclaves}
        files = {record.file for e in enclaves for record in (e.unsigned, e.config) if record}
        second = self.second
        if second is not None:
            kept = tuple(item for item in second.differences if item.file in files)
            second = dataclasses.replace(second, differences=kept)
        trees = tuple(_tree_for(tree, name) for tree in self.trees if tree.release in used)
        return Manifest(self.release, 0, 0, trees, enclaves, second)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as a plain mapping for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            **_plain(self),
            "reproducible": self.reproducible,
        }


def _tree_for(tree: TreeRecord, enclave: str) -> TreeRecord:
    """The tree with the steps that this enclave needed."""
    steps = (step for step in tree.steps if step.enclave in (None, enclave))
    return dataclasses.replace(
        tree,
        environment=tuple(item for item in tree.environment if not item.startswith("HOME=")),
        steps=tuple(dataclasses.replace(step, milliseconds=0, log=None) for step in steps),
    )


def unsigned_name(file: str) -> str:
    """The unsigned enclave in a built directory; `file` as in `Enclave.file`."""
    return f"libsgx_{file}.so"


def config_name(file: str) -> str:
    """Its `config.xml` in a built directory."""
    return f"libsgx_{file}.config.xml"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps(manifest.as_dict(), indent=1, ensure_ascii=True) + "\n"
    write_file(str(directory / MANIFEST), text.encode("ascii"))


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str):
        # tools' messages may hold anything; one line of text is what a reader accepts
        return printable(value)[:_LONGEST_TEXT] or None
    return value


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
