# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build leaves behind, and the record of how it came to be.

A built directory holds, for each enclave that was built, `libsgx_FILE.so` (unsigned) and
`libsgx_FILE.config.xml`; the logs under `logs/`; and `manifest.json`, which is written last, so
that a build that was ended early leaves none. A manifest that is read is input like any other
(`manifest.schema.json`), and each file beside it is compared with it.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.errors import InputError, ManifestError
from sgx_enclaves.files import make_folder, read_file, sha256_of, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.plain import as_plain, from_plain, parse_json, printable, read_schema, validate
from sgx_enclaves.release.toolchain import ToolchainKind, ToolchainUse

_MAX_MANIFEST = 16 * MIB
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LOGS = "logs"
_LONGEST_TEXT = 4096
# what a build writes into its directory
_LEFT = re.compile(
    r"logs|second|\.work|manifest\.json|libsgx_\w+(\.config\.xml|(\.unstripped)?\.so)"
)


class StepOutcome(enum.Enum):
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
    """What was laid out in the directory `place` of the tree: an archive, pinned by its digest or
    by that of its contents, which it had if it is given; or a ready-made tree, whose id is
    `source-dir`, and the digest that of its names and files.
    """

    id: str
    place: str
    filename: str
    sha256: str
    pinned: bool
    contents_sha256: Optional[str] = None


@dataclass(frozen=True)
class StepRecord:
    """One command of the build, for one enclave (its make is `make-NAME`) or for all of the tree
    (None); its log is relative to the built directory, None if it was skipped; the message says
    what went wrong.
    """

    id: str
    enclave: Optional[str]
    outcome: StepOutcome
    milliseconds: int
    log: Optional[str]
    message: Optional[str]


@dataclass(frozen=True)
class TreeRecord:
    """One source tree that was built in, at `root`: the release's own, or that of an older release.

    That is the path that the release asks for if it is the `fixed_path`; see `Place` and `Tree` for
    `isolated` and `network`. `environment` is sorted, each variable as NAME=VALUE.
    """

    release: str
    route: str
    root: str
    fixed_path: bool
    isolated: bool
    network: bool
    environment: tuple[str, ...]
    umask: int
    sources: tuple[SourceRecord, ...]
    toolchain: ToolchainUse
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class EnclaveRecord:
    """What became of one enclave, in the tree of which release: the result, its `config.xml`, and
    the result with its symbols, if the build leaves such a file; or the problem.
    """

    name: str
    file: str
    tree: str
    unsigned: Optional[FileRecord]
    config: Optional[FileRecord]
    problem: Optional[str]
    unstripped: Optional[FileRecord] = None

    @property
    def built(self) -> bool:
        """Whether there is a result."""
        return self.unsigned is not None


@dataclass(frozen=True)
class BuildDifference:
    """Bytes in which the second build of a file differs, and the ELF section in which they begin;
    without an offset the second build has no such file.
    """

    file: str
    offset: Optional[int]
    size: int
    section: Optional[str]


@dataclass(frozen=True)
class SecondBuild:
    """What building again showed: what was other, what was not and why, where results differ."""

    varied: tuple[str, ...]
    not_varied: tuple[str, ...]
    differences: tuple[BuildDifference, ...]


@dataclass(frozen=True)
class Manifest:
    """The record of a build, which started so many seconds after 1970, UTC, with each enclave that
    was asked for, in the order of the release.
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
        return bool(self.trees) and all(tree.toolchain.designated for tree in self.trees)

    @property
    def pinned(self) -> bool:
        """Whether every source had the digest that its release pins."""
        sources = [source for tree in self.trees for source in tree.sources]
        return bool(sources) and all(source.pinned for source in sources)

    def only(self, name: str) -> Manifest:
        """The lasting record of one enclave, as packages ship it, and of the steps it needed."""
        enclaves = tuple(replace(e, unstripped=None) for e in self.enclaves if e.name == name)
        used = {enclave.tree for enclave in enclaves}
        files = {record.file for e in enclaves for record in (e.unsigned, e.config) if record}
        second = self.second
        if second is not None:
            own = (item for item in second.differences if item.file in files)
            second = replace(second, differences=tuple(own))
        trees = tuple(
            replace(tree, steps=tuple(s for s in tree.steps if s.enclave in (None, name)))
            for tree in self.trees
            if tree.release in used
        )
        return replace(self, trees=trees, enclaves=enclaves, second=second).lasting()

    def lasting(self) -> Manifest:
        """Without what never recurs: times, logs, and HOME, a scratch directory of that build."""
        trees = tuple(
            replace(
                tree,
                environment=tuple(x for x in tree.environment if not x.startswith("HOME=")),
                steps=tuple(replace(step, milliseconds=0, log=None) for step in tree.steps),
            )
            for tree in self.trees
        )
        return replace(self, started=0, milliseconds=0, trees=trees)

    def as_dict(self) -> dict[str, Any]:
        """The manifest as a plain mapping for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            **_one_line(as_plain(self)),
            "reproducible": self.reproducible,
        }


# Files of a built directory by `Enclave.file`: unsigned, its config.xml, and with symbols.
unsigned_name = "libsgx_{}.so".format
config_name = "libsgx_{}.config.xml".format
unstripped_name = "libsgx_{}.unstripped.so".format


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all."""
    text = json.dumps(manifest.as_dict(), indent=1, ensure_ascii=True) + "\n"
    write_file(str(directory / MANIFEST), text.encode("ascii"))


def _one_line(value: Any) -> Any:
    """Plain data whose texts are one line each: tools' messages may hold anything."""
    if isinstance(value, dict):
        return {key: _one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_one_line(item) for item in value]
    return printable(value)[:_LONGEST_TEXT] if isinstance(value, str) else value


def read_manifest(data: bytes, file: str) -> Manifest:
    """Read a manifest from JSON; a ManifestError if an entry is wrong or contradicts another."""
    top = parse_json(data, file=file, error=ManifestError, most=_MAX_MANIFEST)
    validate(top, read_schema(__file__, "manifest.schema.json"), file=file, error=ManifestError)
    if _one_line(top) != top:
        raise ManifestError("a text is not one line", file=file)
    claimed = top.pop("reproducible")
    del top["schema_version"]
    manifest = from_plain(Manifest, top)
    for problem in _contradictions(manifest, claimed):
        raise ManifestError(problem, file=file)
    return manifest


def _contradictions(manifest: Manifest, reproducible: Optional[bool]) -> Iterator[str]:
    """In what a manifest contradicts itself."""
    names = [enclave.name for enclave in manifest.enclaves]
    trees = [tree.release for tree in manifest.trees]
    yield from _twice("trees", trees)
    yield from _twice("enclaves", names)
    yield from _twice("enclaves", [enclave.file for enclave in manifest.enclaves])
    for enclave in manifest.enclaves:
        where = f"enclaves.{enclave.name}"
        if enclave.tree not in trees:
            yield f"{where}.tree names no tree: {enclave.tree}"
        if (enclave.unsigned is None) != (enclave.config is None):
            yield f"{where}.config must be there exactly if the unsigned enclave is"
        if enclave.built != (enclave.problem is None):
            yield f"{where}.problem must be there exactly if nothing was built"
        records = (enclave.unsigned, enclave.config, enclave.unstripped)
        for record, name_of in zip(records, (unsigned_name, config_name, unstripped_name)):
            if record is not None and record.file != name_of(enclave.file):
                yield f"{where}: the name of the file {record.file} must be {name_of(enclave.file)}"
    for tree in manifest.trees:
        where = f"trees.{tree.release}"
        yield from _twice(f"{where}.steps", [step.id for step in tree.steps])
        for step in tree.steps:
            if step.enclave is not None and step.enclave not in names:
                yield f"{where}.steps.{step.id} names no enclave: {step.enclave}"
            if (step.outcome is StepOutcome.OK) != (step.message is None):
                yield f"{where}.steps.{step.id}.message must be there exactly if it went wrong"
        if tree.toolchain.kind is ToolchainKind.DESIGNATED and not tree.toolchain.designated:
            yield f"{where}.toolchain says designated, but its parts do not all match"
    if reproducible is not manifest.reproducible:
        yield "reproducible contradicts the second build"


def _twice(what: str, values: Sequence[str]) -> list[str]:
    return [f"{what}: {v} is there twice" for v in sorted(set(values)) if values.count(v) > 1]


@dataclass(frozen=True)
class BuiltEnclave:
    """An enclave that was built: names, unsigned file, `config.xml`, the file with its symbols."""

    name: str
    file: str
    unsigned: bytes
    config: bytes
    unstripped: Optional[bytes] = None


@dataclass(frozen=True)
class Built:
    """A built directory, checked: its record, and the enclaves that were built."""

    directory: Path
    manifest: Manifest
    enclaves: tuple[BuiltEnclave, ...]

    def enclave(self, name: str) -> Optional[BuiltEnclave]:
        """The enclave of that name; None if it was not built."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)


def load_manifest(directory: Path) -> Manifest:
    """Read the manifest of a built directory."""
    path = directory / MANIFEST
    if not path.is_file():
        raise ManifestError(
            "holds no manifest, so no build ended here",
            file=str(directory),
            hint="build into a new directory with `sgx-enclaves build`",
        )
    return read_manifest(read_file(str(path), _MAX_MANIFEST), str(path))


def left_in(into: Path) -> list[Path]:
    """What a build left that did not end well; an InputError if anything else lies there."""
    left = sorted(into.iterdir()) if into.is_dir() else [into] if os.path.lexists(into) else []
    whole = (into / MANIFEST).exists() and load_manifest(into).complete
    if whole or not all(path.parent == into and _LEFT.fullmatch(path.name) for path in left):
        raise InputError(
            "the directory to build into is not empty",
            file=str(into),
            hint="give a new one, or remove what an earlier build left",
        )
    return left


def load_built(directory: Path) -> Built:
    """Read a built directory; a ManifestError unless each file is as the manifest says."""
    manifest = load_manifest(directory)
    enclaves = (load_enclave(directory, record) for record in manifest.enclaves)
    return Built(directory, manifest, tuple(enclave for enclave in enclaves if enclave))


# of a build that is given without one
NO_MANIFEST = Manifest("", 0, 0, (), (), None)


def load_given(directory: Path, release: Release) -> Built:
    """Read a build of the release that somebody made, with a manifest or `NO_MANIFEST`."""
    if not directory.is_dir():
        raise InputError("there is no such directory", file=str(directory), hint="correct --built")
    if (directory / MANIFEST).exists():
        built = load_built(directory)
        if built.manifest.release != release.name:
            raise InputError(
                "this is a build of another release",
                file=str(directory),
                expected=release.name,
                found=built.manifest.release,
                hint="correct --built",
            )
        return built
    found = []
    for enclave in release.enclaves:
        unsigned = directory / unsigned_name(enclave.file)
        config = directory / config_name(enclave.file)
        if unsigned.is_file() and config.is_file():
            data = read_file(str(unsigned), DEFAULT_LIMITS.file_size)
            xml = read_file(str(config), DEFAULT_LIMITS.config_size)
            found.append(BuiltEnclave(enclave.name, enclave.file, data, xml))
    return Built(directory, NO_MANIFEST, tuple(found))


def load_enclave(directory: Path, record: EnclaveRecord) -> Optional[BuiltEnclave]:
    """Read one enclave of a built directory, as `load_built` does; None if it was not built."""
    if record.unsigned is None or record.config is None:
        return None
    most = DEFAULT_LIMITS.file_size
    unsigned = _read(directory, record.unsigned, most)
    config = _read(directory, record.config, DEFAULT_LIMITS.config_size)
    unstripped = _read(directory, record.unstripped, most) if record.unstripped else None
    return BuiltEnclave(record.name, record.file, unsigned, config, unstripped)


def _read(directory: Path, record: FileRecord, limit: int) -> bytes:
    path = str(directory / record.file)
    data = read_file(path, limit)
    found = sha256_of(data)
    if found != record.sha256 or len(data) != record.size:
        raise ManifestError(
            "is not the file that the manifest describes",
            file=path,
            expected=f"{record.size} bytes, sha256 {record.sha256}",
            found=f"{len(data)} bytes, sha256 {found}",
            hint="it was changed after the build; build again",
        )
    return data


def set_apart(directory: Path, manifest: Manifest, name: str) -> Path:
    """Make a built directory of one enclave alone, within the one that it was built in."""
    own = manifest.only(name)
    into = directory / name
    make_folder(into)
    for built in filter(None, (load_enclave(directory, record) for record in own.enclaves)):
        # an enclave is a program, its config.xml is not
        write_file(str(into / unsigned_name(built.file)), built.unsigned, 0o755)
        write_file(str(into / config_name(built.file)), built.config)
    write_manifest(into, own)
    return into
