# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the unsigned enclaves of a release from source, and record how.

The order: is the toolchain the designated one; the sources; then for each tree its
layout, patches, steps and enclaves; a second time if wanted; the manifest last.
A built directory without a manifest is one whose build was ended.

What a build asks of the place that it is done in.

A place runs the steps of one tree: `build_sandbox.Sandbox` on this machine, or a
buildroot of somebody else's making. A site gives a place for each tree, and lets the
toolchain that will be used there be looked at.

Run the steps of a tree, then each enclave's make; a failure hides no other.

Each step has a log, a deadline and a record. When a step of the tree fails, those
after it are skipped; when an enclave fails, the others go on.

What a build will do: which trees, which enclaves in each, with which variables.

Decides only; touches no file and starts no process.

Make the source tree of a build, and take the results out of it.

Knows files only. Whatever the sources or the steps have put there, nothing is read
or written outside of the tree through a link in it.

What a second build does otherwise, and how its results compare with the first's.

A build is reproducible when path, time, umask, locale, time zone and host name leave
no trace in it. SOURCE_DATE_EPOCH stays: it is how a build is told the time.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Optional, Protocol, Union

from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.verdict import scan
from sgx_enclaves.errors import (
    BuildError,
    CatalogueError,
    FormatError,
    InputError,
    SgxEnclavesError,
)
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.explain.file_map import FileMap
from sgx_enclaves.files import digest_file, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.release.archive import check_same, unpack_tree
from sgx_enclaves.release.build_init import HIDDEN
from sgx_enclaves.release.catalogue import (
    Artifact,
    Build,
    Catalogue,
    Enclave,
    OwnBuild,
    Release,
    Toolchain,
)
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.manifest import (
    LOGS,
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
    write_manifest,
)
from sgx_enclaves.release.sandbox import (
    SYSTEM,
    Command,
    Ended,
    Isolation,
    Output,
    Sandbox,
    describe,
    find_isolation,
    remove_tree,
    run_tool,
)
from sgx_enclaves.release.toolchain import State, ToolchainRecord, check_toolchain, record_toolchain


class Place(Protocol):
    """Where one tree stands, and its steps run."""

    @property
    def root(self) -> str:
        """The path that the tree has for the commands."""

    @property
    def fixed(self) -> bool:
        """Whether that is the path that was asked for."""

    @property
    def tree(self) -> Path:
        """The same folder as this process sees it; it is not made yet at first."""

    @property
    def home(self) -> str:
        """A folder for HOME as the commands see it."""

    @property
    def network(self) -> bool:
        """Whether commands can reach a network."""

    def run(self, command: Command, log: Path) -> Ended:
        """Run a command to its end, whatever that is; `log` gets what it prints."""

    def close(self) -> None:
        """Remove everything that was made for the tree."""


class Site(Protocol):
    """Where all trees of a build are built."""

    @property
    def isolation(self) -> Isolation:
        """How far its places shut steps off."""

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """Look at the toolchain of its places.

        Args:
            names: tools, as in the catalogue.
            path: folders to look in, as in PATH.
        """

    def open(self, scratch: Path, root: str) -> Place:
        """Make a place.

        Args:
            scratch: a folder on this machine that may be made and used; it is removed later.
            root: the path that the tree should have.
        """


_PATCH_TIMEOUT = 300
# below this a disk counts as full
_LITTLE_ROOM = MIB
# as distributions ship enclaves
_UNSIGNED_MODE = 0o755


@dataclass(frozen=True)
class StepSettings:
    """What all steps of a tree share.

    Attributes:
        environment: all their variables.
        umask: their file mode mask.
        hostname: the name of their machine, where it can be set.
        prefix: words that come before each command.
        make_timeout: seconds for each enclave's make.
        jobs: makes that may run at once, if they are independent.
        log_prefix: what the names of the logs begin with.
    """

    environment: Mapping[str, str]
    umask: int
    hostname: str
    prefix: tuple[str, ...]
    make_timeout: int
    jobs: int
    log_prefix: str


@dataclass
class TreeBuilder:
    """Builds in one tree that has been laid out.

    Attributes:
        plan: what to build.
        sandbox: where the tree stands.
        settings: see `StepSettings`.
        into: the built directory.
        tell: told what is being done.
        steps: the records so far.
    """

    plan: TreePlan
    sandbox: Place
    settings: StepSettings
    into: Path
    tell: Callable[[str], None]
    steps: list[StepRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._relocate = Relocation(self.plan.build.root, self.sandbox.root)

    def run(self, patched_already: bool) -> list[EnclaveRecord]:
        """Patch, prepare, make.

        Args:
            patched_already: whether patches may be in the tree; those are skipped.

        Returns:
            One record for each enclave of the plan, in its order.
        """
        failed = self._patch(patched_already)
        configs = self._read_configs()
        failed = self._prepare(failed)
        if failed is not None:
            problem = f"{failed.id} {failed.message}; see {failed.log}"
            return [self._failed(enclave, problem) for enclave in self.plan.enclaves]
        groups = independent(self.plan.enclaves)
        records = {record.name: record for record in self._make_all(groups, configs)}
        order = {f"make-{enclave.name}": n for n, enclave in enumerate(self.plan.enclaves)}
        self.steps.sort(key=lambda step: order.get(step.id, -1))
        return [records[enclave.name] for enclave in self.plan.enclaves]

    def _make_all(
        self,
        groups: Sequence[Sequence[EnclavePlan]],
        configs: Mapping[str, Union[bytes, SgxEnclavesError]],
    ) -> list[EnclaveRecord]:
        def make(group: Sequence[EnclavePlan]) -> list[EnclaveRecord]:
            return [self._make(item, configs) for item in group]

        if self.settings.jobs <= 1:
            # without a thread, since not every place may be used from another one
            return [record for group in groups for record in make(group)]
        with ThreadPoolExecutor(self.settings.jobs) as pool:
            return [record for group in pool.map(make, groups) for record in group]

    def _patch(self, patched_already: bool) -> Optional[StepRecord]:
        """Apply the patches; gives the one that failed."""
        for number, patch in enumerate(self.plan.build.patches, 1):
            name = patch_id(number)
            file = os.path.join(self.sandbox.root, patch.file)
            argv = ["patch", f"-p{patch.strip}", "--batch", "--forward", f"--input={file}"]
            if patched_already and self._is_in(patch.place, argv):
                continue
            record = self._step(name, argv, patch.place, _PATCH_TIMEOUT)
            if record.outcome is not Outcome.OK:
                return record
        return None

    def _is_in(self, place: str, argv: Sequence[str]) -> bool:
        log = self.into / LOGS / ".patch-check.log"
        # --batch would turn a patch round by itself
        backwards = [item for item in argv if item not in ("--batch", "--forward")]
        backwards += ["--force", "--reverse", "--dry-run"]
        command = self._command(backwards, place, _PATCH_TIMEOUT)
        try:
            return self.sandbox.run(command, log).status == 0
        finally:
            log.unlink(missing_ok=True)

    def _prepare(self, failed: Optional[StepRecord]) -> Optional[StepRecord]:
        """Run the release's steps; gives the one that failed."""
        for step in self.plan.build.steps:
            if failed is not None:
                self.steps.append(
                    StepRecord(step.id, None, Outcome.SKIPPED, 0, None, f"{failed.id} had failed")
                )
                continue
            argv = [self._relocate(word) for word in step.command]
            record = self._step(step.id, argv, step.place, step.timeout)
            if record.outcome is not Outcome.OK:
                failed = record
        return failed

    def _read_configs(self) -> dict[str, Union[bytes, SgxEnclavesError]]:
        """Each `config.xml` as the patched sources have it, before any step could change it."""
        configs: dict[str, Union[bytes, SgxEnclavesError]] = {}
        for enclave in self.plan.enclaves:
            try:
                configs[enclave.name] = read_config(self.sandbox.tree, enclave.build)
            except SgxEnclavesError as error:
                configs[enclave.name] = error
        return configs

    def _make(
        self, enclave: EnclavePlan, configs: Mapping[str, Union[bytes, SgxEnclavesError]]
    ) -> EnclaveRecord:
        build = enclave.build
        step = self._step(
            f"make-{enclave.name}",
            make_command(build),
            build.make_directory,
            self.settings.make_timeout,
            enclave.name,
        )
        if step.outcome is not Outcome.OK:
            return self._failed(enclave, f"{step.id} {step.message}; see {step.log}")
        config = configs[enclave.name]
        if isinstance(config, SgxEnclavesError):
            return self._failed(enclave, str(config))
        try:
            unsigned = read_unsigned(self.sandbox.tree, build)
        except SgxEnclavesError as error:
            return self._failed(enclave, f"{step.id} gave no unsigned enclave: {error}; {step.log}")
        try:
            return EnclaveRecord(
                enclave.name,
                enclave.file,
                self.plan.release.name,
                self._keep(unsigned_name(enclave.file), unsigned, _UNSIGNED_MODE),
                self._keep(config_name(enclave.file), config, 0o644),
                None,
            )
        except InputError as error:
            return self._failed(enclave, f"cannot be kept: {error}")

    def _keep(self, name: str, data: bytes, mode: int) -> FileRecord:
        write_file(str(self.into / name), data, mode)
        return FileRecord(name, hashlib.sha256(data).hexdigest(), len(data))

    def _failed(self, enclave: EnclavePlan, problem: str) -> EnclaveRecord:
        tree = self.plan.release.name
        return EnclaveRecord(enclave.name, enclave.file, tree, None, None, problem)

    def _command(self, argv: Sequence[str], place: str, timeout: float) -> Command:
        return Command(
            argv=[*self.settings.prefix, *argv],
            folder=os.path.join(self.sandbox.root, place) if place else self.sandbox.root,
            environment=self.settings.environment,
            umask=self.settings.umask,
            timeout=timeout,
            hostname=self.settings.hostname,
        )

    def _step(
        self,
        name: str,
        argv: Sequence[str],
        place: str,
        timeout: float,
        enclave: Optional[str] = None,
    ) -> StepRecord:
        self.tell(f"{name}: {' '.join(argv)}")
        log = f"{LOGS}/{self.settings.log_prefix}{name}.log"
        ended = self.sandbox.run(self._command(argv, place, timeout), self.into / log)
        outcome = Outcome.OK if ended.status == 0 else Outcome.FAILED
        if ended.timed_out:
            outcome = Outcome.TIMED_OUT
        message = None if outcome is Outcome.OK else self._problem(ended, timeout)
        if message is not None:
            self.tell(f"{name} {message}; see {self.into / log}")
        record = StepRecord(name, enclave, outcome, ended.milliseconds, log, message)
        self.steps.append(record)
        return record

    def _problem(self, ended: Ended, timeout: float) -> str:
        said = describe(ended)
        if ended.timed_out:
            said += f" (after {timeout:g} s)"
        elif ended.status is not None and ended.status >= 0:
            said = f"failed with {said}"
        for folder in (self.sandbox.tree, self.into):
            if _is_full(folder):
                said += f"; {os.strerror(errno.ENOSPC)}: {folder}"
                break
        return said


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _LITTLE_ROOM
    except OSError:
        return False


_WORK = ".work"
_SECOND = "second"


@dataclass(frozen=True)
class BuildRequest:
    """What to build and how.

    Attributes:
        catalogue: see `plan_trees`.
        release: what to build.
        into: the built directory: a new or an empty folder.
        enclaves: names; none stands for those that the release requires.
        toolchain: `HOST` takes whatever is there; the result is no reproducible build.
        source_dir: a ready-made tree to build from instead of the pinned sources.
        twice: build a second time, otherwise, and compare.
        jobs: makes that may run at once.
        make_timeout: seconds for each enclave's make.
        keep: keep the trees.
        isolation: how far to shut the steps off; None for as far as can be.
        site: where to build; None for this machine.
    """

    catalogue: Catalogue
    release: Release
    into: Path
    enclaves: tuple[str, ...] = ()
    toolchain: ToolchainKind = ToolchainKind.DESIGNATED
    source_dir: Optional[Path] = None
    twice: bool = False
    jobs: int = 1
    make_timeout: int = 7200
    keep: bool = False
    isolation: Optional[Isolation] = None
    site: Optional[Site] = None


@dataclass(frozen=True)
class _Prepared:
    """A tree whose toolchain was checked and whose sources are here."""

    plan: TreePlan
    toolchain: ToolchainUse
    path: str
    archives: dict[str, Fetched]


def build_release(
    request: BuildRequest,
    fetch: Callable[[Artifact], Fetched],
    tell: Callable[[str], None],
) -> Manifest:
    """Build, and write the built directory.

    Args:
        request: see `BuildRequest`.
        fetch: gives a source archive.
        tell: told what is being done, a line each time.

    Returns:
        The manifest, as written. Enclaves that could not be built are told of there.

    Raises:
        BuildError: the toolchain is not the designated one, or the built directory or
            a source tree cannot be made.
        SgxEnclavesError: a source cannot be had, is broken or hostile.
    """
    started, clock = int(time.time()), time.monotonic()
    plans = plan_trees(request.catalogue, request.release, request.enclaves)
    if request.source_dir is not None and len(plans) > 1:
        raise BuildError(
            "one source tree cannot serve several releases",
            found=", ".join(plan.release.name for plan in plans),
            hint="name enclaves of one of them",
        )
    into = Path(os.path.abspath(request.into))
    _check_empty(into)
    prepared = [_prepare(plan, request, fetch, tell) for plan in plans]
    work = _make_folder(into)
    try:
        site = request.site or Machine(_choose_isolation(request, work, tell))
        job = _Job(request, into, work, site, tell)
        trees, enclaves = [], []
        for item in prepared:
            tree, built = job.build(item, job.first(item), into)
            trees.append(tree)
            enclaves += built
        second = job.again(prepared, enclaves) if request.twice else None
    finally:
        if not request.keep:
            remove_tree(work)
            _remove_if_empty(into)
    order = [enclave.name for enclave in request.release.enclaves]
    manifest = Manifest(
        release=request.release.name,
        started=started,
        milliseconds=int((time.monotonic() - clock) * 1000),
        trees=tuple(trees),
        enclaves=tuple(sorted(enclaves, key=lambda enclave: order.index(enclave.name))),
        second=second,
    )
    write_manifest(into, manifest)
    return manifest


def _check_empty(into: Path) -> None:
    if os.path.lexists(into) and not (into.is_dir() and not any(into.iterdir())):
        raise InputError(
            "the folder to build into is not empty",
            file=str(into),
            hint="give a new one, or remove what an earlier build left",
        )


def _make_folder(into: Path) -> Path:
    """Make the built directory; gives the folder for what is removed in the end."""
    work = into / _WORK
    try:
        (into / LOGS).mkdir(parents=True)
        work.mkdir()
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=str(into)) from None
    return work


def _remove_if_empty(into: Path) -> None:
    """A build that never came to its first step leaves nothing in the way of the next."""
    for folder in (into / LOGS, into):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _choose_isolation(request: BuildRequest, work: Path, tell: Callable[[str], None]) -> Isolation:
    if request.isolation is not None:
        return request.isolation
    isolation, reason = find_isolation(work)
    if isolation is Isolation.NONE:
        tell(f"warning: the steps cannot be shut off from machine and network here: {reason}")
    return isolation


def _prepare(
    plan: TreePlan,
    request: BuildRequest,
    fetch: Callable[[Artifact], Fetched],
    tell: Callable[[str], None],
) -> _Prepared:
    tell(f"{plan.release.name}: looking at the toolchain")
    path = search_path(plan.toolchain, request.toolchain)
    looker = request.site.record if request.site is not None else record_here
    toolchain = _look_at_toolchain(plan.toolchain, request.toolchain, looker, path)
    archives: dict[str, Fetched] = {}
    if request.source_dir is None:
        archives = {source.id: fetch(source.artifact) for source in plan.build.sources}
    return _Prepared(plan, toolchain, path, archives)


def _look_at_toolchain(
    pinned: Toolchain,
    kind: ToolchainKind,
    looker: Callable[[Sequence[str], str], ToolchainRecord],
    path: str,
) -> ToolchainUse:
    record = looker([tool.name for tool in pinned.tools], path)
    check = check_toolchain(pinned, record)
    if kind is ToolchainKind.DESIGNATED and not check.matches:
        wrong = [part for part in check.parts if part.state is not State.MATCH]
        raise BuildError(
            "this is not the release's designated toolchain",
            expected=", ".join(f"{part.name} {part.expected}" for part in wrong),
            found=", ".join(f"{part.name} {part.found or part.state.value}" for part in wrong),
            hint="build where that toolchain is, or experiment with --toolchain=host",
        )
    return ToolchainUse(kind, check.toolchain, record, check.parts)


def record_here(names: Sequence[str], path: str) -> ToolchainRecord:
    """Look at this machine's toolchain, as a build with that PATH will see it."""
    return record_toolchain(names, run=functools.partial(_run_in, path), path=path)


def _run_in(path: str, command: Sequence[str], timeout: float) -> Output:
    return run_tool(command, timeout, environment={"PATH": path})


class Machine:
    """This machine as a site."""

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """See `Site`."""
        return record_here(names, path)

    def open(self, scratch: Path, root: str) -> Place:
        """See `Site`."""
        return Sandbox(scratch, root, self.isolation)


class _Job:
    """The builds of one request: once, or twice."""

    def __init__(
        self,
        request: BuildRequest,
        into: Path,
        work: Path,
        site: Site,
        tell: Callable[[str], None],
    ) -> None:
        self._request = request
        self._into = into
        self._work = work
        self._site = site
        self._tell = tell

    def first(self, item: _Prepared) -> Variation:
        return first_variation(item.plan.build.root, item.plan.toolchain.umask)

    def build(
        self, item: _Prepared, variation: Variation, into: Path
    ) -> tuple[TreeRecord, list[EnclaveRecord]]:
        """Build all that one tree has to give, in one variation."""
        release, request = item.plan.release, self._request
        turn = "first" if into == self._into else "second"
        scratch = self._work / f"{turn}-{release.name}"
        sandbox = self._site.open(scratch, variation.root)
        if not sandbox.fixed:
            taken = "is taken" if os.path.lexists(variation.root) else "cannot be made"
            self._tell(f"warning: {variation.root} {taken}, so the tree is in {sandbox.root}")
        usual = step_environment(
            item.plan.toolchain, item.path, sandbox.home, variation.environment
        )
        relocate = Relocation(item.plan.build.root, sandbox.root)
        environment = {name: relocate(value) for name, value in usual.items()}
        own = release.name == request.release.name
        settings = StepSettings(
            environment=environment,
            umask=variation.umask,
            hostname=variation.hostname,
            prefix=variation.prefix,
            make_timeout=request.make_timeout,
            jobs=request.jobs,
            log_prefix="" if own else f"{release.name}.",
        )
        builder = TreeBuilder(item.plan, sandbox, settings, into, self._tell)
        try:
            sources = self._lay_out(item, sandbox)
            enclaves = builder.run(patched_already=request.source_dir is not None)
        finally:
            if not request.keep:
                sandbox.close()
        record = TreeRecord(
            release=release.name,
            root=sandbox.root,
            fixed_path=sandbox.fixed,
            network=sandbox.network,
            environment=tuple(f"{k}={v}" for k, v in sorted(environment.items())),
            umask=variation.umask,
            sources=sources,
            toolchain=item.toolchain,
            steps=tuple(builder.steps),
        )
        return record, enclaves

    def _lay_out(self, item: _Prepared, sandbox: Place) -> tuple[SourceRecord, ...]:
        plan, source_dir = item.plan, self._request.source_dir
        self._tell(f"{plan.release.name}: laying the sources out")
        sandbox.tree.mkdir(parents=True, exist_ok=True)
        sources: tuple[SourceRecord, ...]
        if source_dir is not None:
            digest = copy_tree(source_dir, sandbox.tree)
            name = Path(os.path.abspath(source_dir)).name or "/"
            sources = (SourceRecord("source-dir", "", name, digest, False),)
        else:
            lay_out(sandbox.tree, plan.build, item.archives)
            sources = tuple(
                SourceRecord(
                    source.id,
                    source.place,
                    source.artifact.filename,
                    item.archives[source.id].sha256,
                    item.archives[source.id].pinned,
                    item.archives[source.id].contents_sha256,
                )
                for source in plan.build.sources
            )
        for enclave in plan.enclaves:
            remove_prebuilt(sandbox.tree, enclave.build)
        return sources

    def again(self, prepared: list[_Prepared], enclaves: list[EnclaveRecord]) -> SecondBuild:
        """Build everything again, otherwise; what it made is kept only if it differs."""
        self._tell("building a second time, in another path and otherwise different")
        into = self._into / _SECOND
        (into / LOGS).mkdir(parents=True)
        others: dict[str, EnclaveRecord] = {}
        variation: Optional[Variation] = None
        moved = True
        for item in prepared:
            root, umask = item.plan.build.root, item.plan.toolchain.umask
            variation = second_variation(root, umask, self._site.isolation, self._work)
            tree, built = self.build(item, variation, into)
            moved = moved and tree.root != root
            others.update({enclave.name: enclave for enclave in built})
        if variation is None or not moved:
            raise BuildError("the second build could not be made in another path")
        pairs = tuple((enclave, others[enclave.name]) for enclave in enclaves)
        second = compare_builds(self._into, into, pairs, variation)
        if not second.differences:
            remove_tree(into)
        return second


STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# the first moment of 1980: every tool and archive format can say it
_EPOCH = "315532800"
# from a path's start to its end, not within a longer one
_BEFORE, _AFTER = r"(?<![\w.+/-])", r"(?=[/:\s\"']|$)"


@dataclass(frozen=True)
class EnclavePlan:
    """One enclave to build.

    Attributes:
        name: in the release that was asked for.
        file: such as `id_enclave`.
        build: how it is built in its tree.
    """

    name: str
    file: str
    build: OwnBuild


@dataclass(frozen=True)
class TreePlan:
    """One tree to build in.

    Attributes:
        release: whose tree.
        build: how it is made.
        toolchain: that release's.
        enclaves: what is built in it.
    """

    release: Release
    build: Build
    toolchain: Toolchain
    enclaves: tuple[EnclavePlan, ...]


def plan_trees(
    catalogue: Catalogue, release: Release, names: Sequence[str] = ()
) -> tuple[TreePlan, ...]:
    """Find the trees that the enclaves of a release are built in.

    Args:
        catalogue: where other releases' trees are described.
        release: what was asked for.
        names: its enclaves to build; none stands for those that it requires.

    Raises:
        CatalogueError: an enclave is unknown or cannot be built by outsiders.
    """
    known = {enclave.name: enclave for enclave in release.enclaves}
    for name in names:
        if name not in known:
            raise CatalogueError(
                f"{release.name} has no enclave {name!r}", hint="it has " + ", ".join(known)
            )
    chosen = [item for item in release.enclaves if (item.name in names if names else item.required)]
    if not chosen:
        raise CatalogueError(
            f"{release.name} requires no enclave", hint="name those to build: " + ", ".join(known)
        )
    trees: dict[str, tuple[Release, list[EnclavePlan]]] = {}
    for enclave in chosen:
        tree, own = catalogue.build_of(release, enclave)
        _tree, plans = trees.setdefault(tree.name, (tree, []))
        plans.append(EnclavePlan(enclave.name, enclave.file, _own_build(own)))
    return tuple(_tree_plan(tree, plans) for tree, plans in trees.values())


def _own_build(enclave: Enclave) -> OwnBuild:
    if enclave.build is None:
        raise CatalogueError(f"nothing says how {enclave.name} is built")
    return enclave.build


def _tree_plan(release: Release, enclaves: Sequence[EnclavePlan]) -> TreePlan:
    if release.build is None or release.toolchain is None:
        raise CatalogueError(f"{release.name} has no tree to build in", file=release.file)
    ids = [f"make-{enclave.name}" for enclave in enclaves]
    ids += [patch_id(number) for number, _patch in enumerate(release.build.patches, 1)]
    for step in release.build.steps:
        if step.id in ids:
            raise BuildError(
                f"step {step.id} has a name that the builder itself uses",
                file=release.file,
                hint="call it otherwise",
            )
    return TreePlan(release, release.build, release.toolchain, tuple(enclaves))


def patch_id(number: int) -> str:
    """The step that applies a release's patch of that number, counted from 1."""
    return f"patch-{number}"


def make_command(build: OwnBuild) -> list[str]:
    """The command that builds an enclave, in its make directory."""
    options = [f"MITIGATION-CVE-2020-0551={build.mitigation}"] if build.mitigation else []
    return ["make", build.make_target, *options]


def search_path(toolchain: Toolchain, kind: ToolchainKind) -> str:
    """The PATH of every step, which the toolchain is looked for in as well.

    The caller's own PATH never matters: it is part of no release.
    """
    given = toolchain.environment.get("PATH")
    if given is not None:
        return given
    if kind is ToolchainKind.HOST:
        return STANDARD_PATH
    own = [f"{tool.path}/bin" for tool in toolchain.tools if tool.path is not None]
    return ":".join([*own, STANDARD_PATH])


def step_environment(
    toolchain: Toolchain, path: str, home: str, changes: Mapping[str, str]
) -> dict[str, str]:
    """All variables of every step.

    Args:
        toolchain: the release's, whose variables come before the usual ones.
        path: from `search_path`.
        home: a folder of the build's own.
        changes: what a second build does otherwise.
    """
    usual = {"LC_ALL": "C", "SOURCE_DATE_EPOCH": _EPOCH}
    return {**usual, **toolchain.environment, "PATH": path, "HOME": home, **changes}


class Relocation:
    """Rewrites paths when the tree does not stand where the release wants it.

    Steps may also use the folder that the tree lies in, for instance to install the
    SDK beside it; that folder moves along, unless it is one of the machine's own.

    Args:
        wanted: the path that the release asks for.
        actual: the path that the tree has.
    """

    def __init__(self, wanted: str, actual: str) -> None:
        moves = [(wanted.rstrip("/"), actual)]
        parent = PurePosixPath(wanted).parent
        top = parent.parts[1:2]
        machines = not top or top[0] in SYSTEM or (top[0] in HIDDEN and len(parent.parts) == 2)
        if not machines:
            moves.append((str(parent), str(PurePosixPath(actual).parent)))
        self._moves = dict(moves) if wanted != actual else {}
        sources = "|".join(re.escape(source) for source in self._moves)
        self._pattern = re.compile(f"{_BEFORE}(?:{sources}){_AFTER}")

    def __call__(self, text: str) -> str:
        """The text with the tree's path, and that of its folder, as they are."""
        if not self._moves:
            return text
        return self._pattern.sub(lambda found: self._moves[found[0]], text)


def independent(enclaves: Sequence[EnclavePlan]) -> list[list[EnclavePlan]]:
    """Sort enclaves into groups whose make directories lie apart from each other.

    Within a group makes run one after the other: they would write the same files.
    """
    groups: list[list[EnclavePlan]] = []
    for enclave in enclaves:
        near = [group for group in groups if any(_overlap(enclave, other) for other in group)]
        merged = [item for group in near for item in group] + [enclave]
        groups = [group for group in groups if group not in near] + [merged]
    return groups


def _overlap(one: EnclavePlan, other: EnclavePlan) -> bool:
    left = PurePosixPath(one.build.make_directory).parts
    right = PurePosixPath(other.build.make_directory).parts
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]


_GIT = ".git"
_CHUNK = 1 << 20
# Contents that are pinned have no times; a fixed one keeps `make` from seeing what the
# packer chose. Not 1970: some tools take early times for none.
_NO_TIME = 315_619_200  # 1980-01-02


def lay_out(tree: Path, build: Build, archives: Mapping[str, Fetched]) -> None:
    """Unpack the sources into their places.

    Args:
        tree: the folder to make; it may be there and empty.
        build: the release's.
        archives: the file of each source, by its id.

    Raises:
        BuildError: a place is not within the tree, or taken.
        DigestError: a file is no longer what was fetched.
        SgxEnclavesError: an archive is broken or hostile, or the disk is full.
    """
    for source in build.sources:
        dest = tree / source.place
        if source.place:
            _check_inside(tree, dest.parent, source.id)
        here = archives[source.id]
        if source.unpack:
            untimed = source.artifact.sha256 is None and source.artifact.pinned
            unpack_tree(
                here.path,
                dest,
                strip=source.strip,
                sha256=here.sha256,
                mtime=_NO_TIME if untimed else None,
            )
            continue
        try:
            _check_inside(tree, dest, source.id)
            dest.mkdir(parents=True, exist_ok=True)
            _copy(here, dest / source.artifact.filename)
        except OSError as error:
            raise BuildError(
                f"source {source.id} cannot be put there: {error.strerror}", file=str(dest)
            ) from None


def _copy(here: Fetched, target: Path) -> None:
    """Copy a fetched file, and see that the copy is what was fetched."""
    digest = hashlib.sha256()
    with here.path.open("rb") as data, target.open("xb") as out:
        while True:
            chunk = data.read(_CHUNK)
            if not chunk:
                break
            digest.update(chunk)
            out.write(chunk)
    check_same(here.path, here.sha256, digest)


def copy_tree(source: Path, tree: Path) -> str:
    """Copy a ready-made tree, without its `.git`.

    Returns:
        SHA-256 in hexadecimal over its names, kinds and contents.

    Raises:
        BuildError: it cannot be copied.
    """
    if not source.is_dir():
        raise BuildError("there is no such source tree", file=str(source))
    try:
        shutil.copytree(
            source,
            tree,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=lambda _folder, names: [name for name in names if name == _GIT],
        )
        return _digest_tree(tree)
    except shutil.Error as error:
        path, _target, reason = error.args[0][0]
        raise BuildError(f"cannot be copied: {reason}", file=str(path)) from None
    except OSError as error:
        raise BuildError(f"cannot be copied: {error.strerror}", file=str(source)) from None


def _digest_tree(tree: Path) -> str:
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                line = f"link {path.relative_to(tree)} {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                kind = "program" if mode & stat.S_IXUSR else "file"
                line = f"{kind} {path.relative_to(tree)} {digest_file(path)}"
            else:
                raise BuildError("neither file, folder nor link", file=str(path))
            digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def remove_prebuilt(tree: Path, build: OwnBuild) -> None:
    """Remove a result that came with the sources: it must not be taken for ours.

    Raises:
        BuildError: it cannot be removed.
    """
    path = tree / build.unsigned
    if not os.path.lexists(path):
        return
    _check_inside(tree, path.parent, "the result")
    try:
        path.unlink()
    except OSError as error:
        raise BuildError(
            f"came with the sources and cannot be removed: {error.strerror}", file=str(path)
        ) from None


def read_config(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's `config.xml` from the sources, checked to be one.

    Raises:
        SgxEnclavesError: it is missing or wrong.
    """
    data = _read(tree, build.config, DEFAULT_LIMITS.config_size)
    Config.parse(data, build.config)
    return data


def read_unsigned(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's build result, checked to be an unsigned enclave.

    Raises:
        SgxEnclavesError: it is missing, or something else.
    """
    data = _read(tree, build.unsigned, DEFAULT_LIMITS.file_size)
    image = EnclaveImage.parse(data, build.unsigned)
    if Descriptor.parse(image.descriptor).is_signed:
        raise FormatError("the result is signed already", file=build.unsigned)
    return data


def _read(tree: Path, name: str, limit: int) -> bytes:
    path = tree / name
    if not os.path.lexists(path):
        raise BuildError("is not there", file=name)
    _check_inside(tree, path, name)
    if not path.is_file():
        raise BuildError("is no file", file=name)
    return read_file(str(path), limit)


def _check_inside(tree: Path, path: Path, what: str) -> None:
    if not path.resolve().is_relative_to(tree.resolve()):
        raise BuildError(f"{what}: a link leads out of the tree", file=str(path))


_SECOND_PLACE = "/sgx-enclaves-second"
_MOST = 64
# a little over a year, so that year, month, day, weekday and hour are all others
_LATER = "+34567890s"


@dataclass(frozen=True)
class Variation:
    """How one build is done.

    Attributes:
        root: path of its tree.
        umask: file mode mask.
        environment: variables that are other than usual.
        hostname: name of its machine.
        prefix: words that come before each command.
        varied: what is other than in the first build.
        not_varied: what should be other and is not, and why.
    """

    root: str
    umask: int
    environment: Mapping[str, str]
    hostname: str
    prefix: tuple[str, ...]
    varied: tuple[str, ...]
    not_varied: tuple[str, ...]


def first_variation(root: str, umask: int) -> Variation:
    """The build as the release describes it."""
    return Variation(root, umask, {}, "localhost", (), (), ())


def second_variation(root: str, umask: int, isolation: Isolation, scratch: Path) -> Variation:
    """The same build with everything otherwise that should not matter.

    Args:
        root: path of the tree in the first build.
        umask: mask of the first build.
        isolation: what can be changed here.
        scratch: where the tree is put if its path cannot be chosen.
    """
    varied = ["path", "umask", "locale", "timezone"]
    not_varied = []
    prefix: tuple[str, ...] = ()
    if isolation is Isolation.NONE:
        place = str(scratch / "second-place" / root.strip("/"))
        not_varied.append("hostname: it cannot be changed here")
    else:
        place = _SECOND_PLACE + root
        varied.append("hostname")
    faketime = shutil.which("faketime")
    if faketime is None:
        not_varied.append("time: faketime is not installed, so it is only a little later")
    else:
        prefix = (faketime, "-f", _LATER)
        varied.append("time")
    return Variation(
        root=place,
        umask=0o077 if umask != 0o077 else 0o022,
        environment={"LC_ALL": "C.UTF-8", "TZ": "SECOND-13:37"},
        hostname="second",
        prefix=prefix,
        varied=tuple(varied),
        not_varied=tuple(not_varied),
    )


def compare_builds(
    first: Path,
    second: Path,
    enclaves: tuple[tuple[EnclaveRecord, EnclaveRecord], ...],
    variation: Variation,
) -> SecondBuild:
    """Hold the results of two builds against each other.

    Args:
        first: the built directory.
        second: that of the second build.
        enclaves: the records of both, pair by pair.
        variation: of the second build.

    Raises:
        SgxEnclavesError: a result cannot be read.
    """
    differences: list[Difference] = []
    for one, other in enclaves:
        for kept, again in ((one.unsigned, other.unsigned), (one.config, other.config)):
            if kept is None:
                continue
            if again is None:
                differences.append(Difference(kept.file, None, 0, None))
            elif kept.sha256 != again.sha256:
                limit = DEFAULT_LIMITS.file_size
                left = read_file(str(first / kept.file), limit)
                right = read_file(str(second / again.file), limit)
                differences += find_differences(kept.file, left, right)
    return SecondBuild(variation.varied, variation.not_varied, tuple(differences))


def find_differences(file: str, left: bytes, right: bytes) -> list[Difference]:
    """The first stretches in which two files differ; sections are those of the first."""
    common = min(len(left), len(right))
    ranges = list(scan(left, right, [(0, common)], _MOST).ranges)
    if len(left) != len(right):
        ranges.append((common, max(len(left), len(right))))
    try:
        places = FileMap(EnclaveImage.parse(left, file), describe_file(left, file))
    except SgxEnclavesError:
        return [Difference(file, start, end - start, None) for start, end in ranges]
    return [Difference(file, start, end - start, places.section(start)) for start, end in ranges]
