# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the steps of a tree, then each enclave's make; a failure hides no other.

Each step has a log, a deadline and a record. When a step of the tree fails, those
after it are skipped; when an enclave fails, the others go on.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional, Union

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import write_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.releases.build_plan import (
    EnclavePlan,
    Relocation,
    TreePlan,
    independent,
    make_command,
    patch_id,
)
from sgx_enclaves.releases.build_sandbox import Command, Ended, describe
from sgx_enclaves.releases.build_tree import read_config, read_unsigned
from sgx_enclaves.releases.manifest import (
    LOGS,
    EnclaveRecord,
    FileRecord,
    Outcome,
    StepRecord,
    config_name,
    unsigned_name,
)
from sgx_enclaves.releases.place import Place

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
