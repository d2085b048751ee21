# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclave`: build enclaves of one source tree, or take one from a build, and compare.

The parent names the release's very bytes and the packages' digests, so that all
subtasks work from the same. What is wrong with sources, vendor or packages is a
verdict; only what keeps the machinery from working fails the task.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from sgx_enclaves.arguments import (
    CHILD,
    CHILD_OPTIONS,
    argument,
    checked,
    list_of,
    name_or_id,
    text,
)
from sgx_enclaves.catalogue.reader import catalogue_from
from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release
from sgx_enclaves.enclave.verdict import Finding
from sgx_enclaves.errors import ArgumentError
from sgx_enclaves.files import read_file
from sgx_enclaves.gate.collect import Answer, buildroot_doubt, digest_of
from sgx_enclaves.gate.origin import Origin, judge_origin, packages_digest
from sgx_enclaves.gate.subjects import (
    FileVerdict,
    outcome_for,
    overall,
    package_subjects,
    vendor_subject,
    without_ours,
)
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.installed import BuildrootLock, LockedPackage, dump_lock, parse_lock
from sgx_enclaves.release.manifest import config_name, unsigned_name
from sgx_enclaves.release.outcome import ReleaseVerdict, note
from sgx_enclaves.release.store import StageStore
from sgx_enclaves.release.verify import BuildOrigin, Request, Verified, verify_release

from .buildroot import KojiBuildroot
from .config import Config
from .provenance import take_unsigned
from .task_base import X86_64, SgxTask, TaskLog, fetcher_of
from .uploads import (
    LOCK,
    REPORT,
    TOOLCHAIN,
    Uploads,
    add_signatures,
    add_verdicts,
)

_MAX_LOCK = 64 * MIB
# a step's log, where only this builder has it
_LOG = re.compile(r"\S*/logs/(\S+\.log)")


class SgxEnclaveTask(SgxTask):
    """See the top of this module."""

    Methods: ClassVar[list[str]] = [CHILD]
    _taskWeight = 2.0

    def checkHost(self, hostdata: Any) -> bool:
        """Only x86_64 hosts can run this."""
        return X86_64 in hostdata["arches"].split()

    def handler(
        self,
        release: str,
        enclaves: list[str],
        build_tag: Any,
        build: Any = None,
        opts: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Give the answer about each enclave, as `sgx_enclaves.gate.collect` reads it."""
        with self.at_work() as (config, log):
            options = checked(opts, CHILD_OPTIONS)
            if "releases" not in options or "repo_id" not in options:
                raise ArgumentError(f"{CHILD} is started by its parent, and is incomplete so")
            catalogue = catalogue_from(
                {name: data.encode() for name, data in options["releases"].items()}
            )
            names = argument(enclaves, "enclaves", list_of(text, 64))
            part = catalogue.release(release).only(names)
            tag = argument(build_tag, "build_tag", name_or_id)
            with KojiBuildroot(self, config, log, tag, options["repo_id"]) as buildroot:
                answers = EnclaveVerification(
                    self, config, log, options, buildroot, catalogue, part
                ).run()
            for answer in answers:
                log(f"{answer.enclave} {answer.verdict}: {answer.claim}")
            return {"answers": {answer.enclave: answer.as_mapping() for answer in answers}}


@dataclass
class EnclaveVerification:
    """The work of one task: get ours, get the vendor's, compare, upload, answer.

    Attributes:
        task: its handler.
        options: of the task, checked.
        buildroot: where the enclave is built.
        catalogue: the release and those whose trees it is built in.
        release: cut down to the enclaves.
        lock: the packages that the buildroot must have; None if they are not pinned.
        lock_sha256: of the lock's text.
        origin: of the build that the one enclave was taken from; None if they were built.
    """

    task: SgxTask
    config: Config
    log: TaskLog
    options: Mapping[str, Any]
    buildroot: KojiBuildroot
    catalogue: Catalogue
    release: Release
    lock: Optional[BuildrootLock] = None
    lock_sha256: Optional[str] = None
    origin: Optional[Origin] = None

    def __post_init__(self) -> None:
        self._folder = Path(self.task.workdir)

    def run(self) -> list[Answer]:
        """Do it."""
        self._read_lock()
        request = Request(
            self.catalogue,
            self.release,
            lock=self.lock,
            allow_unpinned=self.options.get("allow_unpinned", False),
            jobs=1,
            make_timeout=self.config.make_timeout,
        )
        if "unsigned_build" in self.options:
            origin = self._take(self.options["unsigned_build"])
            request = replace(request, built=self._folder / "given", origin=origin)
        verified = verify_release(
            request,
            place=self.buildroot,
            fetcher=fetcher_of(self.config, self.log),
            # nothing that is kept outlives this task
            store=StageStore(self._folder / "stages"),
            say=self.log,
        )
        verified = _with_uploaded_logs(verified)
        verdicts = {
            enclave.name: self._doubted(
                outcome_for(verified.verdict, self.catalogue, self.release, enclave.name)
            )
            for enclave in self.release.enclaves
        }
        verified = replace(verified, verdict=self._doubted(verified.verdict))
        built = self._write_built(verified)
        files = {
            enclave.name: self._compare_packages(enclave, verdicts[enclave.name], built)
            for enclave in self.release.enclaves
        }
        report = self._upload(verified, [file for found in files.values() for file in found])
        return [
            self._answer(enclave, verified, verdicts[enclave.name], files[enclave.name], report)
            for enclave in self.release.enclaves
        ]

    def _read_lock(self) -> None:
        """The release's lock: the hub's, or else this builder's."""
        kept = self.task.session.getSgxLock(self.release.name)
        text, where = b"", "the hub's lock"
        if kept is not None:
            text = kept["lock"].encode()
        elif self.config.locks is not None:
            path = self.config.locks / f"{self.release.name}.json"
            if path.exists():
                text, where = read_file(str(path), _MAX_LOCK), str(path)
        if text:
            self.lock = parse_lock(text, where)
            self.lock_sha256 = hashlib.sha256(text).hexdigest()

    def _take(self, build: Any) -> BuildOrigin:
        """The enclave out of a build, and what is to be said of it."""
        (enclave,) = self.release.enclaves
        given = self._folder / "given"
        given.mkdir()
        self.log(f"taking the unsigned enclave from {build}")
        tree, _own = self.catalogue.build_of(self.release, enclave)
        history, problems = take_unsigned(self.task, build, enclave, tree, given)
        self.origin = judge_origin(history, [tree], self.lock)
        self.log(self.origin.says)
        notes = [note("package-not-taken", problem) for problem in problems]
        objections = self.origin.objections
        return BuildOrigin(self.origin.says, (*objections, *notes) if objections else ())

    def _doubted(self, verdict: ReleaseVerdict) -> ReleaseVerdict:
        """The same; not reproducible if anybody could fill the buildroot."""
        allowed = self.options.get("tag_allowed", False)
        doubt = buildroot_doubt(str(self.buildroot.build_tag), allowed, self.lock_sha256)
        if not verdict.reproducible or doubt is None:
            return verdict
        return replace(verdict, reproducible=False, claim=f"{verdict.claim}; {doubt}")

    def _write_built(self, verified: Verified) -> Path:
        """A directory with our enclaves."""
        built = self._folder / "built"
        built.mkdir()
        for ours in verified.built.files.values():
            (built / unsigned_name(ours.file)).write_bytes(ours.unsigned)
            (built / config_name(ours.file)).write_bytes(ours.config)
        return built

    def _compare_packages(
        self, enclave: Enclave, verdict: ReleaseVerdict, built: Path
    ) -> list[FileVerdict]:
        """The vendor's file, then every file of the build's packages that is this enclave."""
        vendor = vendor_subject(verdict.enclaves[0], verdict.outcome)
        files = [vendor]
        ours = (built / unsigned_name(enclave.file)).exists()
        for rpm in self.options.get("rpms", []):
            self.log(f"comparing {enclave.name} with {rpm['name']}")
            path = self.task.build_file(rpm["relative"], rpm["sha256"])
            found = package_subjects(path, rpm["name"], self.release, enclave, built)
            if not ours:
                # nothing was compared with it, for the reason that the vendor's file has
                found = [without_ours(item, vendor) for item in found]
            files += found
        return files

    def _packages(self) -> Sequence[LockedPackage]:
        """Of the buildroot, or of those that the given build was made in."""
        if self.buildroot.made:
            return [item.locked for item in self.buildroot.packages()]
        return self.origin.buildroot if self.origin is not None else ()

    def _upload(self, verified: Verified, files: Sequence[FileVerdict]) -> bytes:
        uploads = Uploads(self.task, self._folder / "outputs")
        for ours in verified.built.files.values():
            uploads.add(unsigned_name(ours.file), ours.unsigned, 0o755)
            uploads.add(config_name(ours.file), ours.config)
        for enclave in self.release.enclaves:
            theirs = verified.signed.files.get(enclave.name)
            if theirs is not None:
                add_signatures(uploads, enclave.signed_file, theirs.data)
                if enclave.may_ship:
                    uploads.add(enclave.signed_file, theirs.data, 0o755)
        if self.buildroot.made:
            seen = {name: record.as_dict() for name, record in verified.toolchains.items()}
            uploads.add_text(TOOLCHAIN, json.dumps(seen, indent=1))
        if self.buildroot.made or self.origin is not None:
            lock = BuildrootLock(tuple(self._packages()), {"target_arch": X86_64})
            uploads.add_text(LOCK, dump_lock(lock))
        return add_verdicts(uploads, verified.verdict, files)

    def _answer(
        self,
        enclave: Enclave,
        verified: Verified,
        verdict: ReleaseVerdict,
        files: Sequence[FileVerdict],
        report: bytes,
    ) -> Answer:
        ours = verified.built.files.get(enclave.name)
        subjects = tuple(item.subject for item in files)
        claim = verdict.claim
        digests: list[Optional[str]] = [r.digest() for r in verified.toolchains.values()]
        if self.origin is not None:
            claim += f"; of that build {self.origin.says}"
            digests.append(self.origin.toolchain_sha256)
        return Answer(
            enclave=enclave.name,
            verdict=overall(subjects).value,
            reproducible=verdict.reproducible,
            claim=claim,
            task_id=self.task.id,
            subjects=subjects,
            built_sha256=hashlib.sha256(ours.unsigned).hexdigest() if ours is not None else None,
            config_sha256=hashlib.sha256(ours.config).hexdigest() if ours is not None else None,
            toolchain_sha256=digest_of(digests),
            buildroot_sha256=packages_digest(self._packages()),
            lock_sha256=self.lock_sha256,
            release_sha256=self.options.get("release_sha256"),
            report=REPORT,
            report_sha256=hashlib.sha256(report).hexdigest(),
        )


def _with_uploaded_logs(verified: Verified) -> Verified:
    """The same, with each log under the name that it has in the task's output."""

    def renamed(finding: Finding) -> Finding:
        hint = _LOG.sub(r"step-\1 of this task", finding.hint) if finding.hint else finding.hint
        return replace(finding, hint=hint)

    enclaves = tuple(
        replace(item, findings=tuple(renamed(finding) for finding in item.findings))
        for item in verified.verdict.enclaves
    )
    return replace(verified, verdict=replace(verified.verdict, enclaves=enclaves))
