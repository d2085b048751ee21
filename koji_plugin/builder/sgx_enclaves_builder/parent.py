# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclaves`: one subtask for each enclave, one verdict, one record for the build.

Koji shares the subtasks out. A task that is freed and runs again finds its
subtasks by their labels. A verdict, whatever it is, ends the task normally: it
fails only when the machinery does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import koji

from sgx_enclaves.gate.collect import (
    Answer,
    Circumstances,
    Combined,
    combine,
    failed,
    read_answer,
    record_of,
    report_text,
)
from sgx_enclaves.gate.inspect import BuildFile, PackageFacts, inspect_package
from sgx_enclaves.gate.words import combined_html, combined_text
from sgx_enclaves.packages.subjects import enclave_at
from sgx_enclaves.releases.narrow import only
from sgx_enclaves.releases.release import Release

from .config import Config
from .outputs import HTML, REPORT, TEXT, Outputs
from .resolve import Resolved, resolve
from .signatures import CHILD, PARENT
from .tasklog import LOG, TaskLog
from .waiting import wait_for
from .words import checked, name_or_id, names, number, text, truth
from .work import X86_64, SgxTask, fetcher_of

_OPTIONS = {
    "unsigned_build": name_or_id,
    "enclaves": names,
    "repo_id": number,
    "timeout": number,
    "allow_unpinned": truth,
}


class SgxEnclavesTask(SgxTask):
    """See the top of this module."""

    Methods: ClassVar[list[str]] = [PARENT]
    # It mostly waits.
    _taskWeight = 0.5

    def handler(
        self,
        release: Optional[str],
        build_tag: Any,
        build: Any = None,
        opts: Optional[dict[str, Any]] = None,
    ) -> dict[str, Any]:
        """Verify a release, and a build if one is named."""
        options = checked(opts, _OPTIONS)
        asked = None if release is None else text(release, "release")
        tag = self.session.getTag(name_or_id(build_tag, "build_tag"), strict=True)
        with self.at_work() as (config, log):
            binfo = None if build is None else self._complete(build)
            files = [] if binfo is None else self._inspect(binfo, log)
            paths = [file.path for package, _ in files for file in package.signed]
            resolved = resolve(asked, paths, config, self, fetcher_of(config, log))
            log(f"release {resolved.release.name}, sha256 {resolved.sha256}, {resolved.origin}")
            wanted = choose(resolved.release, paths, options.get("enclaves"), binfo is not None)
            shared = self._shared(resolved, files, options, tag)
            answers = self._ask(wanted, resolved, tag, build, shared, config, options, log)
            packages = [package for package, _ in files]
            nvr = None if binfo is None else binfo["nvr"]
            combined = combine(resolved.release.name, nvr, answers, packages)
            log(f"{combined.verdict}: {combined.claim}")
            return self._finish(combined, resolved, binfo, log)

    def _complete(self, build: Any) -> dict[str, Any]:
        binfo: dict[str, Any] = self.session.getBuild(name_or_id(build, "build"), strict=True)
        if binfo["state"] != koji.BUILD_STATES["COMPLETE"]:
            raise koji.GenericError(f"{binfo['nvr']} is not complete, so it cannot be verified")
        return binfo

    def _inspect(
        self, binfo: dict[str, Any], log: TaskLog
    ) -> list[tuple[PackageFacts, dict[str, str]]]:
        """What each binary package holds, and where it is to be had."""
        found = []
        for rpm in self.binary_rpms(binfo):
            path = self.build_file(rpm["relative"], "")
            facts = inspect_package(BuildFile(rpm["name"], str(path)))
            sha256 = facts.digests.file if facts.digests is not None else ""
            place = {"name": rpm["name"], "relative": rpm["relative"], "sha256": sha256}
            found.append((facts, place))
            log(f"{rpm['name']}: {len(facts.signed)} signed enclave(s) {facts.problem or ''}")
        return found

    def _shared(
        self,
        resolved: Resolved,
        files: Sequence[tuple[PackageFacts, dict[str, str]]],
        options: dict[str, Any],
        tag: dict[str, Any],
    ) -> dict[str, Any]:
        """What all subtasks are given."""
        repo_id = options.get("repo_id") or self.getRepo(tag["name"])["id"]
        shared = {
            "repo_id": repo_id,
            "releases": dict(resolved.files),
            "release_sha256": resolved.sha256,
            "rpms": [rpm for package, rpm in files if package.signed],
        }
        for key in ("allow_unpinned", "unsigned_build"):
            if key in options:
                shared[key] = options[key]
        return shared

    def _ask(
        self,
        wanted: Sequence[str],
        resolved: Resolved,
        tag: dict[str, Any],
        build: Any,
        shared: dict[str, Any],
        config: Config,
        options: dict[str, Any],
        log: TaskLog,
    ) -> list[Answer]:
        tasks: dict[str, int] = {}
        for name in wanted:
            arguments = [resolved.release.name, name, tag["name"], build, shared]
            tasks[name] = self.subtask(CHILD, arguments, label=name, arch=X86_64)
            log(f"{name}: task {tasks[name]}")
        log.sync()
        seconds = options.get("timeout", config.wait_timeout)
        results = wait_for(self, list(tasks.values()), seconds)
        return [
            _answer(name, task_id, results.get(task_id), resolved.sha256)
            for name, task_id in tasks.items()
        ]

    def _finish(
        self,
        combined: Combined,
        resolved: Resolved,
        binfo: Optional[dict[str, Any]],
        log: TaskLog,
    ) -> dict[str, Any]:
        outputs = Outputs(self, Path(self.workdir) / "outputs")
        report = report_text(combined, self.id).encode()
        outputs.add(REPORT, report)
        outputs.add_text(TEXT, combined_text(combined))
        outputs.add_text(HTML, combined_html(combined))
        record = None
        unread = [package.name for package in combined.packages if package.digests is None]
        if unread:
            log(f"no record is made, since {', '.join(unread)} cannot be read")
        elif binfo is not None:
            around = Circumstances(
                release_sha256=resolved.sha256,
                build_id=binfo["id"],
                task_id=self.id,
                report_sha256=hashlib.sha256(report).hexdigest(),
                origin=resolved.origin,
            )
            record = self._record(record_of(combined, around).as_mapping(), log)
        return {
            "verdict": combined.verdict,
            "reproducible": combined.reproducible,
            "release": combined.release,
            "build": combined.nvr,
            "record": record,
            "claim": combined.claim,
            "enclaves": combined.rows(),
            "report": REPORT,
            "log": LOG,
        }

    def _record(self, record: dict[str, Any], log: TaskLog) -> int:
        """Have the hub keep the record; a run before this one may have done it."""
        for known in self.session.listSgxVerifications(record["build_id"]):
            if known["task_id"] == self.id:
                log(f"record {known['id']} was made before this task was run again")
                return int(known["id"])
        made = int(self.session.host.recordSgxVerification(self.id, record))
        log(f"record {made}")
        return made


def choose(
    release: Release, paths: Sequence[str], asked: Optional[Sequence[str]], has_build: bool
) -> list[str]:
    """The enclaves to verify.

    Args:
        release: whose.
        paths: of the signed enclaves of the build.
        asked: names; None for all that matter.
        has_build: whether a build is verified, or the release alone.

    Raises:
        koji.GenericError: none of the build's enclaves is the release's.
        CatalogueError: the release has no enclave of a name that is asked for.
    """
    if asked is not None:
        return [only(release, name).enclaves[0].name for name in asked]
    if not has_build:
        return [enclave.name for enclave in release.enclaves if enclave.required]
    found = [enclave_at(release, path) for path in paths]
    there = {enclave.name for enclave in found if enclave is not None}
    if not there:
        raise koji.GenericError(
            f"the build has no signed enclave of release {release.name}: "
            + (", ".join(paths) or "it has none at all")
        )
    return [enclave.name for enclave in release.enclaves if enclave.name in there]


def _answer(name: str, task_id: int, result: Any, release_sha256: str) -> Answer:
    if isinstance(result, dict) and "faultString" in result:
        return failed(name, task_id, f"task {task_id} failed: {result['faultString']}")
    return read_answer(result, name, task_id, release_sha256)
