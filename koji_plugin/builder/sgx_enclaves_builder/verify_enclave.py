# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclave`: build enclaves of one source tree, or take one from a build, and compare.

The parent names the release's very bytes and the packages' digests, so that all
subtasks work from the same. What is wrong with sources, vendor or packages is a
verdict; only what keeps the machinery from working fails the task.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Optional

from sgx_enclaves.catalogue.reader import catalogue_from
from sgx_enclaves.cli.arguments import today
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sign import extract
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.report import of_file, of_release, package_at
from sgx_enclaves.explain.picture import picture_of
from sgx_enclaves.files import sha256_of
from sgx_enclaves.gate.arguments import CHILD, argument, options
from sgx_enclaves.gate.collect import Answer, digest_of
from sgx_enclaves.gate.origin import OriginJudgement, judge_origin, packages_digest
from sgx_enclaves.gate.record import overall
from sgx_enclaves.gate.subjects import FileVerdict, compared_files, outcome_for
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.manifest import config_name, unsigned_name
from sgx_enclaves.release.outcome import ReleaseVerdict
from sgx_enclaves.release.place import Place, dump_lock, parse_lock
from sgx_enclaves.release.sandbox import Machine
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.release.verify import Request, Verified, verify_release
from sgx_enclaves.report.forms import verdict_dict, verdict_text
from sgx_enclaves.report.templated import release_html, release_text, verdict_html

from .buildroot import koji_buildroot
from .provenance import take_unsigned
from .task_base import HTML, TEXT, X86_64, SgxTask

LOCK, TOOLCHAIN = "buildroot_lock.json", "toolchain.json"


class SgxEnclaveTask(SgxTask):
    """See the top of this module."""

    Methods: ClassVar[list[str]] = [CHILD]
    _taskWeight = 2.0

    def handler(
        self,
        release: str,
        enclaves: list[str],
        build_tag: Any,
        build: Any = None,
        opts: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Give the answer about each enclave, as `sgx_enclaves.gate.collect` reads it."""
        with self.at_work():
            self.asked = options(opts, "child_opts")
            files = {name: data.encode() for name, data in self.asked["releases"].items()}
            self.catalogue = catalogue_from(files)
            names = argument(enclaves, "enclaves")
            self.release = self.catalogue.release(release).only(names)
            # the packages that the buildroot must have, as the hub keeps them for the release
            kept = self.session.getSgxLock(self.release.name)
            self.lock = parse_lock(kept["lock"].encode(), "the hub's lock") if kept else None
            self.lock_sha256 = sha256_of(kept["lock"].encode()) if kept else None
            rpms = (self.build_file(*rpm) for rpm in self.asked.get("rpms", {}).items())
            self.rpms = sorted(rpms, key=lambda path: path.name)
            self.build_tag = str(argument(build_tag, "build_tag"))
            place: AbstractContextManager[Place] = nullcontext(Machine())
            # which is not asked for anything where the build is given
            if "unsigned_build" not in self.asked:
                place = koji_buildroot(self, self.build_tag, self.asked["repo_id"])
            with place as entered:
                answers = self._verify(entered)
            for answer in answers:
                self.log(f"{answer.enclave} {answer.verdict}: {answer.claim}")
            return {answer.enclave: as_plain(answer) for answer in answers}

    def _verify(self, place: Place) -> list[Answer]:
        """Get ours, get the vendor's, compare, upload, answer."""
        request = Request(
            self.catalogue,
            self.release,
            place,
            self.log,
            lock=self.lock,
            allow_unpinned=self.asked.get("allow_unpinned", False),
            jobs=1,
            make_timeout=self.config.build_make_timeout,
            log_words=lambda log: f"step-{log.name} of this task",
        )
        origin: Optional[OriginJudgement] = None
        if "unsigned_build" in self.asked:
            origin = self._take(self.asked["unsigned_build"])
            request = replace(
                request, built=self._given, says=origin.says, objections=origin.objections
            )
        verified = verify_release(
            request,
            fetcher=self.fetcher(allow_unpinned=request.allow_unpinned),
            # nothing that is kept outlives this task
            store=BuildStore(Path(self.workdir) / "stages"),
        )
        if origin is None:
            packages, more = tuple(place.packages()), ""
            toolchain = digest_of(seen.digest() for seen in verified.toolchains.values())
        else:
            packages, more = origin.buildroot, f"; of that build {origin.says}"
            toolchain = origin.toolchain_sha256
        self.outputs.mkdir()
        for ours in verified.built.files.values():
            self.upload(unsigned_name(ours.file), ours.unsigned, 0o755)
            self.upload(config_name(ours.file), ours.config)
        shared = {
            "toolchain_sha256": toolchain,
            "buildroot_sha256": packages_digest(packages),
            "lock_sha256": self.lock_sha256,
            "release_sha256": self.asked.get("release_sha256"),
        }
        answers, files = [], []
        for enclave in self.release.enclaves:
            verdict = self._doubted(
                outcome_for(verified.verdict, self.catalogue, self.release, enclave.name)
            )
            own = compared_files(enclave, verdict, self.release, self.rpms, self.outputs)
            files += own
            claim, subjects = verdict.claim + more, tuple(subject for subject, _found in own)
            answers.append(
                Answer(enclave.name, self.id, verdict.reproducible, claim, subjects, **shared)
            )
        verified = replace(verified, verdict=self._doubted(verified.verdict))
        report = self._report(verified, files, shared["buildroot_sha256"])
        self.upload(LOCK, dump_lock(packages, target_arch=X86_64))
        self._upload(verified, files, report)
        digest = self.upload_report(report, verified.manifest)
        return [replace(answer, report_sha256=digest) for answer in answers]

    def _take(self, build: Any) -> OriginJudgement:
        """The enclave out of a build, and what is to be said of it."""
        (enclave,) = self.release.enclaves
        self._given = Path(self.workdir) / "given"
        self._given.mkdir()
        self.log(f"taking the unsigned enclave from {build}")
        (tree,) = self.catalogue.plan(self.release)
        history = take_unsigned(self, build, enclave, tree, self._given)
        origin = judge_origin(history, tree, self.lock)
        self.log(origin.says)
        return origin

    def _doubted(self, verdict: ReleaseVerdict) -> ReleaseVerdict:
        """The same; not reproducible if anybody could choose the buildroot's programs."""
        trusted = self.asked.get("tag_allowed", False) or self.lock_sha256 is not None
        if trusted or not verdict.reproducible:
            return verdict
        doubt = (
            "not the reproducible verdict: no lock pins the buildroot's packages, and its tag "
            f"{self.build_tag} is not among the hub's [tasks] build_tags"
        )
        return replace(verdict, reproducible=False, claim=f"{verdict.claim}; {doubt}")

    def _upload(
        self, verified: Verified, files: Sequence[FileVerdict], report: dict[str, Any]
    ) -> None:
        """Everything that was seen or compared, besides what was made."""
        upload = self.upload
        for enclave in self.release.enclaves:
            theirs = verified.signed.files.get(enclave.name)
            if theirs is not None:
                self._upload_signatures(enclave.signed_file, theirs.data)
                if enclave.may_ship:
                    upload(enclave.signed_file, theirs.data, 0o755)
        if verified.toolchains:
            seen = {name: record.as_dict() for name, record in verified.toolchains.items()}
            upload(TOOLCHAIN, json.dumps(seen, indent=1))
        for subject, comparison in files:
            if comparison is not None:
                name = f"{subject.rpm or 'vendor'}/{subject.path.rpartition('/')[2]}"
                upload(f"{name}.txt", verdict_text(comparison, full=True))
                upload(f"{name}.json", json.dumps(verdict_dict(comparison)))
                upload(f"{name}.html", verdict_html(comparison))
        upload(TEXT, release_text(verified.verdict))
        pictures = {
            name: picture_of(verdict, *both) for name, verdict, *both in verified.compared()
        }
        upload(HTML, release_html(verified.verdict, pictures, report, today().isoformat()))

    def _report(
        self, verified: Verified, files: Sequence[FileVerdict], packages_sha256: Optional[str]
    ) -> dict[str, Any]:
        """The report for programs."""
        verdict = overall(subject for subject, _found in files)
        digest = self.asked.get("release_sha256")
        return of_release(
            verified,
            self.release,
            self.catalogue,
            kind="koji",
            folders=[self.workdir, self.config.fetch_cache],
            verdict=verdict.value,
            reproducible=verified.verdict.reproducible and not verdict.exit_status,
            release={"name": self.release.name, "sha256": digest, "origin": "its parent task"},
            buildroot={
                "build_tag": self.build_tag,
                "repo_id": self.asked["repo_id"],
                "packages_sha256": packages_sha256,
                "lock_sha256": self.lock_sha256,
            },
            packages=[package_at(str(path)) for path in self.rpms],
            files=[of_file(*file) for file in files if file[0].rpm is not None],
        )

    def _upload_signatures(self, name: str, signed: bytes) -> None:
        """The signatures in a vendor's file; none are in one that is broken."""
        try:
            found = extract(Descriptor.parse(EnclaveImage.parse(signed, name).descriptor))
        except SgxEnclavesError:
            return
        self.upload(f"{name}.sig", b"".join(item.serialise() for item in found))
