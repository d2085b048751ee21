# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclave`: build one enclave, or take it from a build, and hold signed files against it.

The parent names the release's very bytes and the packages' digests, so that all
subtasks work from the same. What is wrong with sources, vendor or packages is a
verdict; only what keeps the machinery from working fails the task.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Optional

import koji

from sgx_enclaves.gate.collect import Answer
from sgx_enclaves.packages.subjects import Judged, overall, package_subjects, vendor_subject
from sgx_enclaves.releases.build_stage import BuildOrder, BuildTools, builder, recorder_at
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.manifest import ToolchainKind
from sgx_enclaves.releases.narrow import catalogue_from, only
from sgx_enclaves.releases.release import Release, Toolchain
from sgx_enclaves.releases.stages import StageStore
from sgx_enclaves.releases.toolchain import ToolchainRecord
from sgx_enclaves.releases.verify import Request, Verified, verify_files

from .buildroot import KojiSite
from .chroot import Chroot, free_space
from .config import Config
from .kojid import new_buildroot
from .outputs import (
    REPORT,
    Outputs,
    add_built,
    add_lock,
    add_signatures,
    add_toolchain,
    add_verdicts,
)
from .signatures import CHILD
from .tasklog import TaskLog
from .words import checked, name_or_id, number, text, truth, wrong
from .work import X86_64, SgxTask, fetcher_of


def _files(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise wrong(name, "a mapping of names to texts", value)
    return {text(key, name): data for key, data in value.items()}


def _rpms(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    known = {"name": text, "relative": text, "sha256": text}
    return [checked(item, known, name) for item in value]


_OPTIONS = {
    "repo_id": number,
    "releases": _files,
    "release_sha256": text,
    "rpms": _rpms,
    "allow_unpinned": truth,
    "unsigned_build": name_or_id,
}


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
        enclave: str,
        build_tag: Any,
        build: Any = None,
        opts: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Give the answer about one enclave, as `sgx_enclaves.gate.collect` reads it."""
        options = checked(opts, _OPTIONS)
        if "releases" not in options or "repo_id" not in options:
            raise koji.ParameterError(f"{CHILD} is started by its parent, and is incomplete so")
        with self.at_work() as (config, log):
            catalogue = catalogue_from(
                {name: data.encode() for name, data in options["releases"].items()}
            )
            job = EnclaveJob(
                self, config, log, catalogue, only(catalogue.release(release), enclave)
            )
            answer = job.run(name_or_id(build_tag, "build_tag"), options)
            log(f"{answer.verdict}: {answer.claim}")
            mapping = answer.as_mapping()
            del mapping["task_id"]
            return mapping


@dataclass
class EnclaveJob:
    """The work on one enclave.

    Attributes:
        task: the task handler.
        config: the plugin's.
        log: told how it goes.
        catalogue: the release and those whose trees it is built in.
        release: cut down to the enclave.
        site: the buildroot; None until it is needed.
        records: what was seen of the toolchain, by its name.
    """

    task: SgxEnclaveTask
    config: Config
    log: TaskLog
    catalogue: Catalogue
    release: Release
    site: Optional[KojiSite] = None
    records: dict[str, ToolchainRecord] = field(default_factory=dict)

    def run(self, build_tag: Any, options: dict[str, Any]) -> Answer:
        """Build, compare, upload."""
        folder = Path(self.task.workdir)
        outputs = Outputs(self.task, folder / "outputs")
        broot: list[Any] = []
        try:
            verified = self._verify(folder, build_tag, options, broot)
            judged = self._judge(verified, options.get("rpms", []), folder)
            report = self._upload(outputs, verified, judged)
        finally:
            for root in broot:
                root.expire()
            if self.site is not None:
                self.site.chroot.close()
        return self._answer(verified, judged, report, options)

    def _verify(
        self, folder: Path, build_tag: Any, options: dict[str, Any], broot: list[Any]
    ) -> Verified:
        unpinned = options.get("allow_unpinned", False)
        request = Request(self.catalogue, self.release, allow_unpinned=unpinned, jobs=1)

        def site() -> KojiSite:
            if self.site is None:
                self.site = self._enter(build_tag, options["repo_id"], broot)
            return self.site

        def record(pinned: Toolchain, kind: ToolchainKind) -> ToolchainRecord:
            found = recorder_at(site())(pinned, kind)
            self.records[pinned.name] = found
            return found

        def build(order: BuildOrder, into: Path) -> None:
            make = builder(self.log, site(), make_timeout=self.config.make_timeout)
            make(order, into)

        tools = BuildTools(
            fetcher_of(self.config, self.log),
            StageStore(folder / "stages"),
            record,
            build,
        )
        return verify_files(request, tools, self.log)

    def _enter(self, build_tag: Any, repo_id: int, broot: list[Any]) -> KojiSite:
        """A buildroot, ready for us."""
        free = free_space(Path(self.task.options.mockdir))
        if free < self.config.min_space:
            raise koji.BuildrootError(
                f"too little room in {self.task.options.mockdir}: {free} bytes are free, "
                f"{self.config.min_space} are wanted ([build] min_space_mib)"
            )
        session = self.task.session
        self.log(f"buildroot of tag {build_tag}, repo {repo_id}")
        root = new_buildroot(
            session, self.task.options, build_tag, X86_64, self.task.id, repo_id=repo_id
        )
        root.workdir = self.task.workdir
        broot.append(root)
        root.init()
        session.host.setBuildRootState(root.id, "BUILDING")
        self.log(f"buildroot {root.id}, {root.name}")
        return KojiSite(Chroot(root), self.log)

    def _judge(self, verified: Verified, rpms: list[dict[str, str]], folder: Path) -> list[Judged]:
        enclave = self.release.enclaves[0]
        judged = [vendor_subject(verified.verdict.enclaves[0], verified.verdict.outcome)]
        built = folder / "built"
        built.mkdir()
        ours = verified.built.files.get(enclave.name)
        if ours is not None:
            (built / f"libsgx_{ours.file}.so").write_bytes(ours.unsigned)
            (built / f"libsgx_{ours.file}.config.xml").write_bytes(ours.config)
        for rpm in rpms:
            self.log(f"comparing with {rpm['name']}")
            path = self.task.build_file(rpm["relative"], rpm["sha256"])
            judged += package_subjects(path, rpm["name"], self.release, enclave, built)
        return judged

    def _upload(self, outputs: Outputs, verified: Verified, judged: list[Judged]) -> bytes:
        enclave = self.release.enclaves[0]
        ours = verified.built.files.get(enclave.name)
        theirs = verified.signed.files.get(enclave.name)
        if ours is not None:
            add_built(outputs, ours)
        if theirs is not None:
            add_signatures(outputs, enclave.signed_file, theirs.data)
            if enclave.may_ship:
                outputs.add(enclave.signed_file, theirs.data, 0o755)
        if self.site is not None:
            add_toolchain(outputs, self.records)
            add_lock(outputs, self.site.packages(), X86_64)
        return add_verdicts(outputs, verified.verdict, judged)

    def _answer(
        self,
        verified: Verified,
        judged: list[Judged],
        report: bytes,
        options: dict[str, Any],
    ) -> Answer:
        enclave = self.release.enclaves[0]
        ours = verified.built.files.get(enclave.name)
        subjects = tuple(item.subject for item in judged)
        outcome = overall(subjects)
        digests = sorted({record.digest() for record in self.records.values()})
        return Answer(
            enclave=enclave.name,
            verdict=outcome.value,
            reproducible=verified.verdict.reproducible,
            claim=verified.verdict.claim,
            subjects=subjects,
            built_sha256=hashlib.sha256(ours.unsigned).hexdigest() if ours is not None else None,
            config_sha256=hashlib.sha256(ours.config).hexdigest() if ours is not None else None,
            toolchain_sha256=_one_digest(digests),
            release_sha256=options.get("release_sha256"),
            report=REPORT,
            report_sha256=hashlib.sha256(report).hexdigest(),
            task_id=self.task.id,
        )


def _one_digest(digests: list[str]) -> Optional[str]:
    if len(digests) < 2:
        return digests[0] if digests else None
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
