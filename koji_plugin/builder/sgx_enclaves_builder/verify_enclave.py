# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclave`: build one enclave, or take it from a build, and compare signed files with it.

The parent names the release's very bytes and the packages' digests, so that all
subtasks work from the same. What is wrong with sources, vendor or packages is a
verdict; only what keeps the machinery from working fails the task.

The work on one enclave: get ours, get the vendor's, compare, upload, answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from sgx_enclaves.arguments import CHILD, CHILD_OPTIONS, argument, checked, name_or_id
from sgx_enclaves.catalogue.reader import catalogue_from
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.errors import ArgumentError
from sgx_enclaves.gate.collect import Answer, digest_of
from sgx_enclaves.gate.origin import Origin, judge_origin
from sgx_enclaves.gate.subjects import (
    FileVerdict,
    overall,
    package_subjects,
    vendor_subject,
    without_ours,
)
from sgx_enclaves.release.manifest import config_name, unsigned_name
from sgx_enclaves.release.outcome import note
from sgx_enclaves.release.store import StageStore
from sgx_enclaves.release.verify import BuildOrigin, Request, Verified, verify_release

from .outputs import (
    REPORT,
    Outputs,
    add_built,
    add_lock,
    add_signatures,
    add_toolchain,
    add_verdicts,
)
from .parent import X86_64, SgxTask, fetcher_of
from .provenance import take_unsigned
from .workshop import Workshop


@dataclass
class EnclaveJob:
    """The work on one enclave.

    Attributes:
        workshop: where it is built.
        catalogue: the release and those whose trees it is built in.
        release: cut down to the enclave.
        origin: of the build that the enclave was taken from; None if it was built.
    """

    workshop: Workshop
    catalogue: Catalogue
    release: Release
    origin: Optional[Origin] = None

    def __post_init__(self) -> None:
        self.task = self.workshop.task
        self.log = self.workshop.log
        self.enclave = self.release.enclaves[0]
        self._folder = Path(self.task.workdir)

    def run(self, options: dict[str, Any]) -> Answer:
        """Do it; options are those of the subtask, checked."""
        unpinned = options.get("allow_unpinned", False)
        config = self.workshop.config
        request = Request(
            self.catalogue,
            self.release,
            lock=self.workshop.lock(),
            allow_unpinned=unpinned,
            jobs=1,
            make_timeout=config.make_timeout,
        )
        if "unsigned_build" in options:
            origin = self._take(options["unsigned_build"])
            request = replace(request, built=self._folder / "given", origin=origin)
        # nothing that is kept outlives this task
        store = StageStore(self._folder / "stages")
        fetcher = fetcher_of(config, self.log)
        verified = verify_release(
            request, place=self.workshop, fetcher=fetcher, store=store, say=self.log
        )
        judged = self._judge(verified, options.get("rpms", []))
        report = self._upload(verified, judged)
        return self._answer(verified, judged, report, options.get("release_sha256"))

    def _take(self, build: Any) -> BuildOrigin:
        """The enclave out of a build, and what is to be said of it."""
        given = self._folder / "given"
        given.mkdir()
        self.log(f"taking the unsigned enclave from {build}")
        tree, _own = self.catalogue.build_of(self.release, self.enclave)
        taken = take_unsigned(self.task, build, self.enclave, tree, given)
        self.origin = judge_origin(taken.history, [tree], self.workshop.lock())
        self.log(self.origin.says)
        notes = [note("package-not-taken", problem) for problem in taken.problems]
        objections = self.origin.objections
        return BuildOrigin(self.origin.says, (*objections, *notes) if objections else ())

    def _judge(self, verified: Verified, rpms: list[dict[str, str]]) -> list[FileVerdict]:
        judged = [vendor_subject(verified.verdict.enclaves[0], verified.verdict.outcome)]
        built = self._folder / "built"
        built.mkdir()
        ours = verified.built.files.get(self.enclave.name)
        if ours is not None:
            (built / unsigned_name(ours.file)).write_bytes(ours.unsigned)
            (built / config_name(ours.file)).write_bytes(ours.config)
        for rpm in rpms:
            self.log(f"comparing with {rpm['name']}")
            path = self.task.build_file(rpm["relative"], rpm["sha256"])
            found = package_subjects(path, rpm["name"], self.release, self.enclave, built)
            if ours is None:
                # nothing was compared with it, for the reason that the vendor's file has
                found = [without_ours(item, judged[0]) for item in found]
            judged += found
        return judged

    def _upload(self, verified: Verified, judged: list[FileVerdict]) -> bytes:
        outputs = Outputs(self.task, self._folder / "outputs")
        enclave = self.enclave
        ours = verified.built.files.get(enclave.name)
        theirs = verified.signed.files.get(enclave.name)
        if ours is not None:
            add_built(outputs, ours)
        if theirs is not None:
            add_signatures(outputs, enclave.signed_file, theirs.data)
            if enclave.may_ship:
                outputs.add(enclave.signed_file, theirs.data, 0o755)
        site = self.workshop.site
        if site is not None:
            add_toolchain(outputs, verified.toolchains)
            add_lock(outputs, [item.locked for item in site.packages()], X86_64)
        elif self.origin is not None:
            add_lock(outputs, self.origin.buildroot, X86_64)
        return add_verdicts(outputs, verified.verdict, judged)

    def _claim(self, verified: Verified) -> str:
        claim = verified.verdict.claim
        return claim if self.origin is None else f"{claim}; of that build {self.origin.says}"

    def _answer(
        self,
        verified: Verified,
        judged: list[FileVerdict],
        report: bytes,
        release_sha256: Optional[str],
    ) -> Answer:
        enclave = self.enclave
        ours = verified.built.files.get(enclave.name)
        subjects = tuple(item.subject for item in judged)
        outcome = overall(subjects)
        digests: list[Optional[str]] = [r.digest() for r in verified.toolchains.values()]
        if self.origin is not None:
            digests.append(self.origin.toolchain_sha256)
        return Answer(
            enclave=enclave.name,
            verdict=outcome.value,
            reproducible=verified.verdict.reproducible,
            claim=self._claim(verified),
            subjects=subjects,
            built_sha256=hashlib.sha256(ours.unsigned).hexdigest() if ours is not None else None,
            config_sha256=hashlib.sha256(ours.config).hexdigest() if ours is not None else None,
            toolchain_sha256=digest_of(digests),
            release_sha256=release_sha256,
            report=REPORT,
            report_sha256=hashlib.sha256(report).hexdigest(),
            task_id=self.task.id,
        )


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
        with self.at_work() as (config, log):
            options = checked(opts, CHILD_OPTIONS)
            if "releases" not in options or "repo_id" not in options:
                raise ArgumentError(f"{CHILD} is started by its parent, and is incomplete so")
            catalogue = catalogue_from(
                {name: data.encode() for name, data in options["releases"].items()}
            )
            part = catalogue.release(release).only([enclave])
            tag = argument(build_tag, "build_tag", name_or_id)
            with Workshop(self, config, log, part.name, tag, options["repo_id"]) as workshop:
                answer = EnclaveJob(workshop, catalogue, part).run(options)
            log(f"{answer.verdict}: {answer.claim}")
            return answer.as_mapping()
