# SPDX-License-Identifier: GPL-2.0-or-later
"""One source tree of a build: what is built in it, how its steps run, what is taken out of it.

Whatever the sources or the steps have put there, nothing is read or written outside of the
tree through a link in it. Each step has a log, a deadline and a record. When a step of the
tree fails, those after it are skipped; when an enclave fails, the others continue.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Optional

from sgx_enclaves.catalogue.records import Catalogue, OwnBuild, Release, Step, Toolchain
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.errors import BuildError, FormatError, InputError, SgxEnclavesError
from sgx_enclaves.files import read_file, sha256_of, system_errors, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.plain import record
from sgx_enclaves.progress import Progress, elapsed, silent
from sgx_enclaves.release.archive import check_inside, copy_tree, lay_out
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.manifest import (
    LOGS,
    EnclaveRecord,
    FileRecord,
    SourceRecord,
    StepOutcome,
    StepRecord,
    TreeRecord,
    config_name,
    unsigned_name,
    unstripped_name,
)
from sgx_enclaves.release.outcome import Say
from sgx_enclaves.release.place import Command, Ended, Place, describe, log_tail
from sgx_enclaves.release.sandbox import relocation, remove_tree
from sgx_enclaves.release.store import TreeProgress
from sgx_enclaves.release.toolchain import ToolchainKind, ToolchainUse, search_path

_PATCH_TIMEOUT = 300
# below this a disk counts as full
_LITTLE_ROOM = MIB
# milliseconds from which on a step's time is said
_WORTH_A_LINE = 10_000
# as distributions ship enclaves
_UNSIGNED_MODE = 0o755
# the first moment of 1980: every tool and archive format can say it
_EPOCH = "315532800"


@dataclass(frozen=True)
class BuildRequest:
    """What to build, the enclaves that a release requires, where and how.

    Attributes:
        catalogue: all releases; some enclaves are built in the tree of another one.
        say: gets what is being done, a line each time.
        toolchain: `HOST` takes whatever is there, first in the prefixes `tools`.
        route: which way the trees are made; see `Release.along`.
        source_dir: a ready-made tree to build from instead of the pinned sources.
        twice: build a second time, otherwise, and compare.
        jobs: makes that may run at once.
        processors: how many a step may use; it stands for `{jobs}` in its command.
        make_timeout: seconds for each enclave's make.
        keep: do not remove the trees.
    """

    catalogue: Catalogue
    release: Release
    place: Place
    say: Say
    toolchain: ToolchainKind = ToolchainKind.DESIGNATED
    tools: tuple[str, ...] = ()
    route: Optional[str] = None
    source_dir: Optional[Path] = None
    twice: bool = False
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    processors: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    make_timeout: int = 7200
    keep: bool = False
    progress: Progress = silent


@record
class TreeInputs:
    """What one tree is built from: its release, as `Catalogue.plan` cuts it down; its toolchain, as
    it was seen; the file of each source by its id (none for a ready-made tree); and the variables
    of the makers' shell, if that was entered.
    """

    release: Release
    toolchain: ToolchainUse
    archives: Mapping[str, Fetched]
    variables: Mapping[str, str]


def step_environment(
    toolchain: Toolchain, path: str, home: str, shell: Mapping[str, str]
) -> dict[str, str]:
    """The variables of every step: the usual ones, the makers' shell's, the release's, our own."""
    usual = {"LC_ALL": "C", "SOURCE_DATE_EPOCH": _EPOCH, **shell}
    return {**usual, **toolchain.environment, "PATH": path, "HOME": home}


def independent(builds: Mapping[str, OwnBuild]) -> list[list[str]]:
    """Groups of enclaves, by name, whose makes would write the same files, so that they run in
    turn: their make directories lie within one another.
    """
    folders = {name: PurePosixPath(own.make_directory) for name, own in builds.items()}
    groups: dict[PurePosixPath, list[str]] = {}
    for name, folder in folders.items():
        around = [other for other in folders.values() if folder.is_relative_to(other)]
        groups.setdefault(min(around, key=lambda path: len(path.parts)), []).append(name)
    return list(groups.values())


@dataclass
class TreeBuilder:
    """Builds all that one tree has to give, in a directory of its own.

    `like` has the words before each command, the path that the tree should have, and the variables
    that are other than usual.
    """

    request: BuildRequest
    inputs: TreeInputs
    like: Command
    scratch: Path
    into: Path

    def __post_init__(self) -> None:
        release, self.say = self.inputs.release, self.request.say
        self.plan, self.toolchain = release.own_tree()
        self.builds = {e.name: e.build for e in release.enclaves if e.build is not None}
        self.files = {e.name: e.file for e in release.enclaves}
        self._name = release.name
        self._log_prefix = "" if self._name == self.request.release.name else f"{self._name}."
        self.steps: list[StepRecord] = []
        self.wrong_configs: dict[str, str] = {}
        self.progress = TreeProgress(self.scratch.with_name(f"{self.scratch.name}.progress"))

    def build(self) -> tuple[TreeRecord, list[EnclaveRecord]]:
        """Lay the tree out, patch, prepare, make; one record for each enclave, in order."""
        if not self.progress.resumed:
            # of a run that was ended before its sources lay there
            remove_tree(self.scratch)
        tree = self.tree = self.request.place.open(self.scratch, self.like.folder)
        try:
            if not tree.fixed:
                taken = "is taken" if os.path.lexists(self.like.folder) else "cannot be made"
                self.say(f"warning: {self.like.folder} {taken}, so the tree is in {tree.root}")
            self.relocate = relocation(self.plan.root, tree.root)
            path = search_path(self.toolchain, self.request.toolchain, self.request.tools)
            usual = step_environment(self.toolchain, path, tree.home, self.inputs.variables)
            usual.update(self.like.environment)
            variables = {name: self.relocate(value) for name, value in usual.items()}
            self.usual = replace(self.like, environment=variables)
            sources = self._lay_out()
            enclaves = self._run()
        finally:
            if not self.request.keep:
                tree.close()
        record = TreeRecord(
            release=self._name,
            route=self.plan.route,
            root=tree.root,
            fixed_path=tree.fixed,
            isolated=self.request.place.isolated,
            network=tree.network,
            environment=tuple(f"{k}={v}" for k, v in sorted(variables.items())),
            umask=self.like.umask,
            sources=sources,
            toolchain=self.inputs.toolchain,
            steps=tuple(self.steps),
        )
        return record, enclaves

    def _lay_out(self) -> tuple[SourceRecord, ...]:
        """Lay the sources out, unless an earlier run did; what lies there."""
        tree, source_dir = self.tree.path, self.request.source_dir
        files = self.inputs.archives
        sources = tuple(
            SourceRecord(s.id, s.place, s.artifact.filename, f.sha256, f.pinned, f.contents_sha256)
            for s, f in ((s, files[s.id]) for s in self.plan.sources if source_dir is None)
        )
        if self.progress.resumed:
            count = len(self.progress.steps)
            self.say(f"{self._name}: resuming an earlier run; finished steps: {count}")
            return sources
        self.say(f"{self._name}: laying the sources out")
        tree.mkdir(parents=True, exist_ok=True)
        if source_dir is not None:
            digest = copy_tree(source_dir, tree)
            name = Path(os.path.abspath(source_dir)).name or "/"
            sources = (SourceRecord("source-dir", "", name, digest, False),)
        else:
            lay_out(tree, self.plan, files, self.request.progress)
        for own in self.builds.values():
            # what came with the sources must not be taken for ours
            path, problem = tree / own.unsigned, "came with the sources and cannot be removed"
            check_inside(tree, path.parent, "the result")
            with system_errors(str(path), problem, error=BuildError):
                path.unlink(missing_ok=True)
        self.progress.add(None, self.into)
        return sources

    def _run(self) -> list[EnclaveRecord]:
        jobs = self.request.jobs
        failed = self._prepare(self._patches(), None)
        self._read_configs()
        failed = self._prepare(self.plan.steps, failed)
        if failed is not None:
            problem = f"{failed.id} {failed.message}; see {failed.log}"
            return [self._failed(name, problem) for name in self.builds]
        with ThreadPoolExecutor(jobs) as pool:
            # without a thread for one job, since not every place may be used from another one
            made = (pool.map if jobs > 1 else map)(
                lambda group: [self._make(name) for name in group], independent(self.builds)
            )
            records = [record for group in made for record in group]
        order = {name: number for number, name in enumerate(self.builds)}
        self.steps.sort(key=lambda step: order.get(step.enclave or "", -1))
        return records

    def _patches(self) -> Iterator[Step]:
        """What applies the patches, but for those that a ready-made tree has."""
        for number, patch in enumerate(self.plan.patches, 1):
            argv = tuple(patch.command(self.plan.root))
            step = Step(f"patch-{number}", patch.place, argv, _PATCH_TIMEOUT)
            if self.request.source_dir is None or not self._is_in(step):
                yield step

    def _is_in(self, patch: Step) -> bool:
        log = self.into / LOGS / ".patch-check.log"
        # --batch would turn a patch round by itself
        words = (word for word in patch.command if word not in ("--batch", "--forward"))
        backwards = replace(patch, command=(*words, "--force", "--reverse", "--dry-run"))
        try:
            return self.tree.run(self._command(backwards), log).status == 0
        finally:
            log.unlink(missing_ok=True)

    def _prepare(self, steps: Iterable[Step], failed: Optional[StepRecord]) -> Optional[StepRecord]:
        """Run steps until one fails, and none if one had failed before; the one that failed."""
        for step in steps:
            if failed is not None:
                why = f"{failed.id} had failed"
                self.steps.append(StepRecord(step.id, None, StepOutcome.SKIPPED, 0, None, why))
                continue
            record = self._step(step)
            failed = None if record.outcome is StepOutcome.OK else record
        return failed

    def _read_configs(self) -> None:
        """Read each `config.xml` as the patched sources have it: a step could change it."""
        configs = self.progress.configs
        for name, own in self.builds.items():
            try:
                if name not in configs:
                    data = _read(self.tree.path, own.config, DEFAULT_LIMITS.config_size)
                    Config.parse(data, own.config)
                    configs[name] = data
            except SgxEnclavesError as error:
                self.wrong_configs[name] = str(error)

    def _make(self, name: str) -> EnclaveRecord:
        own, file = self.builds[name], self.files[name]
        make, argv = f"make-{name}", tuple(own.make_command)
        step = self._step(Step(make, own.make_directory, argv, self.request.make_timeout), name)
        if step.outcome is not StepOutcome.OK:
            return self._failed(name, f"{make} {step.message}; see {step.log}")
        if name in self.wrong_configs:
            return self._failed(name, self.wrong_configs[name])
        try:
            unsigned = _read(self.tree.path, own.unsigned, DEFAULT_LIMITS.file_size)
            image = EnclaveImage.parse(unsigned, own.unsigned)
            if Descriptor.parse(image.descriptor).is_signed:
                raise FormatError("the result is signed already", file=own.unsigned)
        except SgxEnclavesError as error:
            return self._failed(name, f"{make} gave no unsigned enclave: {error}; {step.log}")
        results = {unsigned_name(file): unsigned, config_name(file): self.progress.configs[name]}
        # only for explanations: what is not there, or no enclave, is not kept
        with contextlib.suppress(SgxEnclavesError):
            data = _read(self.tree.path, own.unstripped, DEFAULT_LIMITS.file_size)
            EnclaveImage.parse(data, own.unstripped)
            results[unstripped_name(file)] = data
        try:
            for path, data in results.items():
                mode = 0o644 if path == config_name(file) else _UNSIGNED_MODE
                write_file(str(self.into / path), data, mode)
        except InputError as error:
            return self._failed(name, f"cannot be kept: {error}")
        made, config, *more = (FileRecord(p, sha256_of(d), len(d)) for p, d in results.items())
        return EnclaveRecord(name, file, self._name, made, config, None, *more)

    def _failed(self, name: str, problem: str) -> EnclaveRecord:
        return EnclaveRecord(name, self.files[name], self._name, None, None, problem)

    def _command(self, step: Step) -> Command:
        jobs = str(self.request.processors)
        argv = [self.relocate(word).replace("{jobs}", jobs) for word in step.command]
        folder = os.path.join(self.tree.root, step.place) if step.place else self.tree.root
        return replace(self.usual, argv=[*self.like.argv, *argv], folder=folder, timeout=step.limit)

    def _step(self, step: Step, enclave: Optional[str] = None) -> StepRecord:
        """Run a command in the tree, unless an earlier run has finished it."""
        name, command = step.id, self._command(step)
        earlier = self.progress.resume(name, self.into)
        if earlier is not None:
            self.say(f"{name}: finished in an earlier run")
            self.steps.append(earlier)
            return earlier
        # the log has the whole command
        log = f"{LOGS}/{self._log_prefix}{name}.log"
        most = max(40, shutil.get_terminal_size((120, 0)).columns - 40)
        words = shorten(" ".join(command.argv), most, placeholder="...")
        self.say(f"{name}: {words}; log: {self.into / log}")
        with elapsed(self.request.progress, name):
            ended = self.tree.run(command, self.into / log)
        message = self._problem(ended, step.limit)
        bad = StepOutcome.TIMED_OUT if ended.timed_out else StepOutcome.FAILED
        outcome = StepOutcome.OK if message is None else bad
        record = StepRecord(name, enclave, outcome, ended.milliseconds, log, message)
        self.steps.append(record)
        if message is not None:
            self.say(f"{name} {message}; its log ends with:")
            for line in log_tail(self.into / log):
                self.say(f"    {line}")
            return record
        self.progress.add(record, self.into)
        if ended.milliseconds >= _WORTH_A_LINE:
            count = len(self.plan.patches) + len(self.plan.steps) + len(self.builds)
            done = f"{len(self.steps)} of {count} are done"
            self.say(f"{name} took {ended.milliseconds / 1000:.0f} s; {done}")
        return record

    def _problem(self, ended: Ended, timeout: float) -> Optional[str]:
        """What went wrong with a step; None if nothing did."""
        if ended.status == 0:
            return None
        said = describe(ended)
        if ended.timed_out:
            said += f" (after {timeout:g} s)"
        elif ended.status is not None and ended.status > 0:
            said = f"failed with {said}"
        for folder in (self.tree.path, self.into):
            with contextlib.suppress(OSError):
                if shutil.disk_usage(folder).free < _LITTLE_ROOM:
                    return f"{said}; {os.strerror(errno.ENOSPC)}: {folder}"
        return said


def _read(tree: Path, name: str, limit: int) -> bytes:
    """A file of the tree, not through a link that leads out of it."""
    path = tree / name
    if not os.path.lexists(path):
        raise BuildError("is not there", file=name)
    check_inside(tree, path, name)
    if not path.is_file():
        raise BuildError("is no file", file=name)
    return read_file(str(path), limit)
