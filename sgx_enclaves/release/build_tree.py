# SPDX-License-Identifier: GPL-2.0-or-later
"""One source tree of a build: which steps and enclaves, and how they are run.

The plan decides only. The builder runs the steps and takes the enclaves out of the tree.

Whatever the sources or the steps have put there, nothing is read or written outside of the
tree through a link in it. Each step has a log, a deadline and a record. When a step of the
tree fails, those after it are skipped; when an enclave fails, the others continue.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Optional, Union

from sgx_enclaves.catalogue.records import Build, Catalogue, Enclave, OwnBuild, Release, Toolchain
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.errors import (
    BuildError,
    CatalogueError,
    FormatError,
    InputError,
    SgxEnclavesError,
)
from sgx_enclaves.files import read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.release.archive import check_inside
from sgx_enclaves.release.manifest import (
    LOGS,
    EnclaveRecord,
    FileRecord,
    Outcome,
    StepRecord,
    config_name,
    unsigned_name,
)
from sgx_enclaves.release.place import Command, Ended, Tree, describe
from sgx_enclaves.release.store import Progress

_PATCH_TIMEOUT = 300
# below this a disk counts as full
_LITTLE_ROOM = MIB
# as distributions ship enclaves
_UNSIGNED_MODE = 0o755
_TAIL_BYTES, _TAIL_LINES = 8192, 8
# the first moment of 1980: every tool and archive format can say it
_EPOCH = "315532800"
# from a path's start to its end, not within a longer one
_BEFORE, _AFTER = r"(?<![\w.+/-])", r"(?=[/:\s\"']|$)"
# top-level directories that hold a machine's own things
_SYSTEM = frozenset(
    (
        *("bin", "boot", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix"),
        *("opt", "sbin", "srv", "usr", "var"),
    )
)
_SHARED = frozenset(("tmp", "home", "root", "run", "sys", "proc", "dev"))


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

    @property
    def make_command(self) -> list[str]:
        """The command that builds it, in its make directory."""
        mitigation = self.build.mitigation
        options = [f"MITIGATION-CVE-2020-0551={mitigation}"] if mitigation else []
        return ["make", self.build.make_target, *options]


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
    catalogue: Catalogue, release: Release, names: Sequence[str] = (), route: Optional[str] = None
) -> tuple[TreePlan, ...]:
    """Find the trees that the enclaves of a release are built in.

    Args:
        catalogue: where other releases' trees are described.
        release: what was asked for.
        names: its enclaves to build; none stands for those that it requires.
        route: see `Build.along`.

    Raises:
        CatalogueError: an enclave or the route is unknown, or cannot be built by outsiders.
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
    return tuple(
        _tree_plan(tree.along([plan.name for plan in plans], route), plans)
        for tree, plans in trees.values()
    )


def _own_build(enclave: Enclave) -> OwnBuild:
    if enclave.build is None:
        raise CatalogueError(f"nothing says how {enclave.name} is built")
    return enclave.build


def _tree_plan(release: Release, enclaves: Sequence[EnclavePlan]) -> TreePlan:
    if release.build is None or release.toolchain is None:
        raise CatalogueError(f"{release.name} has no tree to build in", file=release.file)
    ids = [f"make-{enclave.name}" for enclave in enclaves]
    ids += [f"patch-{number}" for number, _patch in enumerate(release.build.patches, 1)]
    for step in release.build.steps:
        if step.id in ids:
            raise BuildError(
                f"step {step.id} has a name that the builder itself uses",
                file=release.file,
                hint="call it otherwise",
            )
    return TreePlan(release, release.build, release.toolchain, tuple(enclaves))


def step_environment(
    toolchain: Toolchain, path: str, home: str, changes: Mapping[str, str]
) -> dict[str, str]:
    """All variables of every step.

    Args:
        toolchain: the release's, whose variables come before the usual ones.
        path: from `toolchain.search_path`.
        home: a directory of the build's own.
        changes: what a second build does otherwise.
    """
    usual = {"LC_ALL": "C", "SOURCE_DATE_EPOCH": _EPOCH}
    return {**usual, **toolchain.environment, "PATH": path, "HOME": home, **changes}


class Relocation:
    """Rewrites paths when the tree does not stand where the release wants it.

    Steps may also use the directory that the tree lies in, for instance to install the
    SDK beside it; that directory moves along, unless it is one of the machine's own.

    Args:
        wanted: the path that the release asks for.
        actual: the path that the tree has.
    """

    def __init__(self, wanted: str, actual: str) -> None:
        moves = [(wanted.rstrip("/"), actual)]
        parent = PurePosixPath(wanted).parent
        top = parent.parts[1:2]
        machines = not top or top[0] in _SYSTEM or (top[0] in _SHARED and len(parent.parts) == 2)
        if not machines:
            moves.append((str(parent), str(PurePosixPath(actual).parent)))
        self._moves = dict(moves) if wanted != actual else {}
        sources = "|".join(re.escape(source) for source in self._moves)
        self._pattern = re.compile(f"{_BEFORE}(?:{sources}){_AFTER}")

    def __call__(self, text: str) -> str:
        """The text with the tree's path, and that of its directory, as they are."""
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


def _read_config(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's `config.xml` from the sources, checked to be one."""
    data = _read(tree, build.config, DEFAULT_LIMITS.config_size)
    Config.parse(data, build.config)
    return data


def _read_unsigned(tree: Path, build: OwnBuild) -> bytes:
    """An enclave's build result, checked to be an unsigned enclave."""
    data = _read(tree, build.unsigned, DEFAULT_LIMITS.file_size)
    image = EnclaveImage.parse(data, build.unsigned)
    if Descriptor.parse(image.descriptor).is_signed:
        raise FormatError("the result is signed already", file=build.unsigned)
    return data


def _read(tree: Path, name: str, limit: int) -> bytes:
    path = tree / name
    if not os.path.lexists(path):
        raise BuildError("is not there", file=name)
    check_inside(tree, path, name)
    if not path.is_file():
        raise BuildError("is no file", file=name)
    return read_file(str(path), limit)


@dataclass(frozen=True)
class Variation:
    """How one build is done; by default, as the release describes it.

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
    environment: Mapping[str, str] = field(default_factory=dict)
    hostname: str = "localhost"
    prefix: tuple[str, ...] = ()
    varied: tuple[str, ...] = ()
    not_varied: tuple[str, ...] = ()


Configs = Mapping[str, Union[bytes, SgxEnclavesError]]


@dataclass
class TreeBuilder:
    """Builds in one tree that has been laid out.

    Attributes:
        plan: what to build.
        tree: where it stands.
        variation: how the build is done.
        environment: all variables of every step.
        make_timeout: seconds for each enclave's make.
        jobs: makes that may run at once, if they are independent.
        into: the built directory.
        log_prefix: what the names of the logs begin with.
        say: hears what is being done.
        progress: what an earlier run has finished in this tree.
        steps: the records so far.
    """

    plan: TreePlan
    tree: Tree
    variation: Variation
    environment: Mapping[str, str]
    make_timeout: int
    jobs: int
    into: Path
    log_prefix: str
    say: Callable[[str], None]
    progress: Progress
    steps: list[StepRecord] = field(default_factory=list)

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
        records = {record.name: record for record in self._make_all(configs)}
        order = {f"make-{enclave.name}": n for n, enclave in enumerate(self.plan.enclaves)}
        self.steps.sort(key=lambda step: order.get(step.id, -1))
        return [records[enclave.name] for enclave in self.plan.enclaves]

    def _make_all(self, configs: Configs) -> list[EnclaveRecord]:
        def make(group: Sequence[EnclavePlan]) -> list[EnclaveRecord]:
            return [self._make(item, configs) for item in group]

        groups = independent(self.plan.enclaves)
        if self.jobs <= 1:
            # without a thread, since not every place may be used from another one
            return [record for group in groups for record in make(group)]
        with ThreadPoolExecutor(self.jobs) as pool:
            return [record for group in pool.map(make, groups) for record in group]

    def _patch(self, patched_already: bool) -> Optional[StepRecord]:
        """Apply the patches; returns the one that failed."""
        for number, patch in enumerate(self.plan.build.patches, 1):
            file = os.path.join(self.tree.root, patch.file)
            argv = ["patch", f"-p{patch.strip}", "--batch", "--forward", f"--input={file}"]
            if patched_already and self._is_in(patch.place, argv):
                continue
            record = self._step(f"patch-{number}", argv, patch.place, _PATCH_TIMEOUT)
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
            return self.tree.run(command, log).status == 0
        finally:
            log.unlink(missing_ok=True)

    def _prepare(self, failed: Optional[StepRecord]) -> Optional[StepRecord]:
        """Run the release's steps; returns the one that failed."""
        relocate = Relocation(self.plan.build.root, self.tree.root)
        for step in self.plan.build.steps:
            if failed is not None:
                self.steps.append(
                    StepRecord(step.id, None, Outcome.SKIPPED, 0, None, f"{failed.id} had failed")
                )
                continue
            argv = [relocate(word) for word in step.command]
            record = self._step(step.id, argv, step.place, step.timeout)
            if record.outcome is not Outcome.OK:
                failed = record
        return failed

    def _read_configs(self) -> Configs:
        """Each `config.xml` as the patched sources have it, before any step could change it."""
        kept = self.progress.configs
        configs: dict[str, Union[bytes, SgxEnclavesError]] = dict(kept)
        for enclave in self.plan.enclaves:
            try:
                if enclave.name not in kept:
                    kept[enclave.name] = _read_config(self.tree.path, enclave.build)
                configs[enclave.name] = kept[enclave.name]
            except SgxEnclavesError as error:
                configs[enclave.name] = error
        return configs

    def _make(self, enclave: EnclavePlan, configs: Configs) -> EnclaveRecord:
        build, timeout = enclave.build, self.make_timeout
        name = f"make-{enclave.name}"
        step = self._step(
            name, enclave.make_command, build.make_directory, timeout, enclave=enclave.name
        )
        if step.outcome is not Outcome.OK:
            return self._failed(enclave, f"{name} {step.message}; see {step.log}")
        config = configs[enclave.name]
        if isinstance(config, SgxEnclavesError):
            return self._failed(enclave, str(config))
        try:
            unsigned = _read_unsigned(self.tree.path, build)
        except SgxEnclavesError as error:
            return self._failed(enclave, f"{name} gave no unsigned enclave: {error}; {step.log}")
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
            argv=[*self.variation.prefix, *argv],
            folder=os.path.join(self.tree.root, place) if place else self.tree.root,
            environment=self.environment,
            umask=self.variation.umask,
            timeout=timeout,
            hostname=self.variation.hostname,
        )

    def _step(
        self,
        name: str,
        argv: Sequence[str],
        place: str,
        timeout: float,
        *,
        enclave: Optional[str] = None,
    ) -> StepRecord:
        earlier = self.progress.resume(name, self.into)
        if earlier is not None:
            self.say(f"{name}: finished in an earlier run")
            self.steps.append(earlier)
            return earlier
        self.say(f"{name}: {' '.join(argv)}")
        log = f"{LOGS}/{self.log_prefix}{name}.log"
        ended = self.tree.run(self._command(argv, place, timeout), self.into / log)
        outcome = Outcome.OK if ended.status == 0 else Outcome.FAILED
        if ended.timed_out:
            outcome = Outcome.TIMED_OUT
        message = None if outcome is Outcome.OK else self._problem(ended, timeout)
        if message is not None:
            self.say(f"{name} {message}; its log ends with:")
            for line in log_tail(self.into / log):
                self.say(f"    {line}")
        record = StepRecord(name, enclave, outcome, ended.milliseconds, log, message)
        self.steps.append(record)
        if outcome is Outcome.OK:
            self.progress.add(record, self.into)
        return record

    def _problem(self, ended: Ended, timeout: float) -> str:
        said = describe(ended)
        if ended.timed_out:
            said += f" (after {timeout:g} s)"
        elif ended.status is not None and ended.status >= 0:
            said = f"failed with {said}"
        for folder in (self.tree.path, self.into):
            if _is_full(folder):
                said += f"; {os.strerror(errno.ENOSPC)}: {folder}"
                break
        return said


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _LITTLE_ROOM
    except OSError:
        return False


def log_tail(log: Path) -> list[str]:
    """The last lines that a step printed; none if its log cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if not line.startswith("# ")][-_TAIL_LINES:]
