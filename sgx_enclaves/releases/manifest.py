# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build leaves behind, and the record of how it came to be.

A built directory holds, for each enclave that was built, `libsgx_FILE.so` (unsigned)
and `libsgx_FILE.config.xml`; the logs under `logs/`; and `manifest.json`, which is
written last, so that a build that was ended early leaves none.

Data and writing only. `manifest_reader` reads it back, `built` the files beside it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.files import write_file
from sgx_enclaves.releases.toolchain import Part, State, ToolchainRecord

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
        return "".join(c if c.isprintable() else "\ufffd" for c in value[:_LONGEST_TEXT]) or None
    return value
