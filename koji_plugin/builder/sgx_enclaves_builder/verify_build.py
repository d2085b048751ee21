# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclaves`: one subtask for each source tree, one verdict, one record for the build.

Koji shares the subtasks out. A task that is freed and runs again finds its
subtasks by their labels. A verdict, whatever it is, ends the task normally: it
fails only when the machinery does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Optional

import koji

from sgx_enclaves.arguments import (
    CHILD,
    PARENT,
    PARENT_OPTIONS,
    argument,
    checked,
    name_or_id,
    optional_text,
)
from sgx_enclaves.gate.collect import (
    Answer,
    Combined,
    combine,
    failed,
    read_answer,
    record_of,
    report_text,
)
from sgx_enclaves.gate.inspect import BuildFile, PackageFacts, inspect_package
from sgx_enclaves.gate.subjects import built_together, enclaves_to_verify
from sgx_enclaves.report.templated import filled

from .config import Config
from .release_source import ResolvedRelease, resolve
from .task_base import (
    LOG,
    X86_64,
    SgxTask,
    TaskLog,
    despite_deadlocks,
    fetcher_of,
    rpms_of_task,
    wait_for,
)
from .uploads import HTML, REPORT, TEXT, Uploads


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
        with self.at_work() as (config, log):
            options = checked(opts, PARENT_OPTIONS)
            asked = optional_text(release, "release")
            tag = self.session.getTag(argument(build_tag, "build_tag", name_or_id), strict=True)
            binfo = None
            if build is not None:
                binfo = self.complete_build(argument(build, "build", name_or_id))
            repo_id = options.get("repo_id") or self.getRepo(tag["name"])["id"]
            return BuildVerification(
                self, config, log, options, tag["name"], repo_id, build, binfo
            ).run(asked)


@dataclass
class BuildVerification:
    """The work of one task.

    Attributes:
        task: its handler.
        options: as asked for, checked.
        build_tag, repo_id: of the repository that makes the buildroots.
        build: what the request calls the build; None if there is none.
        binfo: the build as the hub has it.
    """

    task: SgxTask
    config: Config
    log: TaskLog
    options: Mapping[str, Any]
    build_tag: str
    repo_id: int
    build: Any
    binfo: Optional[Mapping[str, Any]]

    def run(self, asked: Optional[str]) -> dict[str, Any]:
        """Verify; the task's result."""
        packages, places = self._inspect()
        paths = [file.path for package in packages for file in package.signed]
        fetcher = fetcher_of(self.config, self.log)
        resolved = resolve(asked, paths, self.config, self.task, fetcher)
        release = resolved.release
        self.log(f"release {release.name}, sha256 {resolved.sha256}, {resolved.origin}")
        enclaves = self.options.get("enclaves")
        wanted = enclaves_to_verify(release, paths, enclaves, self._what() is not None)
        answers = self._ask(wanted, resolved, places)
        combined = combine(release.name, self._what(), answers, packages)
        self.log(f"{combined.verdict}: {combined.claim}")
        return self._finish(combined, resolved)

    def _what(self) -> Optional[str]:
        """What is compared with the release; None for the release alone."""
        if self.binfo is not None:
            return str(self.binfo["nvr"])
        return f"task {self.options['task_id']}" if "task_id" in self.options else None

    def _inspect(self) -> tuple[list[PackageFacts], list[dict[str, str]]]:
        """What each binary package holds; where those with signed enclaves are to be had."""
        rpms: list[dict[str, Any]] = []
        if self.binfo is not None:
            rpms = self.task.binary_rpms(self.binfo)
        elif "task_id" in self.options:
            rpms = rpms_of_task(self.task.session, self.options["task_id"])
        packages, places = [], []
        for rpm in rpms:
            path = self.task.build_file(rpm["relative"])
            facts = inspect_package(BuildFile(rpm["name"], str(path)))
            packages.append(facts)
            count = f"{len(facts.signed)} signed enclave(s)"
            self.log(f"{rpm['name']}: {count} {facts.problem or ''}")
            if facts.signed and facts.digests is not None:
                place = {"name": rpm["name"], "relative": rpm["relative"]}
                places.append({**place, "sha256": facts.digests.file})
        return packages, places

    def _ask(
        self, wanted: Sequence[str], resolved: ResolvedRelease, places: Sequence[dict[str, str]]
    ) -> list[Answer]:
        shared = {
            "repo_id": self.repo_id,
            "releases": dict(resolved.files),
            "release_sha256": resolved.sha256,
            "rpms": list(places),
        }
        for key in ("allow_unpinned", "unsigned_build", "tag_allowed"):
            if key in self.options:
                shared[key] = self.options[key]
        # where nothing is built there is no preparation to share
        split = self.options.get("split", False) or "unsigned_build" in self.options
        release = resolved.release
        tasks: dict[int, list[str]] = {}
        for names in built_together(resolved.catalogue, release, wanted, split):
            label = ",".join(names)
            arguments = [release.name, names, self.build_tag, self.build, shared]
            number = self.task.subtask(CHILD, arguments, label=label, arch=X86_64)
            tasks[number] = names
            self.log(f"{', '.join(names)}: task {number}")
        seconds = self.options.get("timeout", self.config.wait_timeout)
        results = wait_for(self.task, list(tasks), seconds)
        answers = {
            name: _answer(name, number, results.get(number), resolved.sha256)
            for number, names in tasks.items()
            for name in names
        }
        return [answers[name] for name in wanted]

    def _finish(self, combined: Combined, resolved: ResolvedRelease) -> dict[str, Any]:
        uploads = Uploads(self.task, Path(self.task.workdir) / "outputs")
        report = report_text(combined, self.task.id, self.build_tag, self.repo_id).encode()
        uploads.add(REPORT, report)
        uploads.add_text(TEXT, filled("combined.txt", combined=combined))
        uploads.add_text(HTML, filled("combined.html", combined=combined))
        record = None
        unread = [package.name for package in combined.packages if package.digests is None]
        if unread:
            self.log(f"no record is made, since {', '.join(unread)} cannot be read")
        elif self.binfo is not None:
            made = record_of(
                combined,
                release_sha256=resolved.sha256,
                build_id=self.binfo["id"],
                task_id=self.task.id,
                report_sha256=hashlib.sha256(report).hexdigest(),
                build_tag=self.build_tag,
                repo_id=self.repo_id,
                partial="enclaves" in self.options,
                origin=resolved.origin,
            )
            record = self._keep(made.as_mapping())
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

    def _keep(self, record: dict[str, Any]) -> Optional[int]:
        """Have the hub keep the record; a run before this one may have done it.

        Returns:
            The record's id; None if the hub has lost its plugin, since the verdict is not to be
            lost with it.
        """
        session = self.task.session
        try:
            for known in session.listSgxVerifications(record["build_id"]):
                if known["task_id"] == self.task.id:
                    self.log(f"record {known['id']} was made before this task was run again")
                    return int(known["id"])
            keep = session.host.recordSgxVerification
            made = int(despite_deadlocks(keep, self.task.id, record))
        except koji.GenericError as error:
            if "Invalid method" not in str(error):
                raise
            self.log("the hub has no plugin sgx_enclaves_hub any more, so no record is kept")
            return None
        self.log(f"record {made}")
        return made


def _answer(name: str, task_id: int, result: Any, release_sha256: str) -> Answer:
    """What a subtask says of one of its enclaves."""
    if isinstance(result, dict) and "faultString" in result:
        return failed(name, task_id, f"task {task_id} failed: {result['faultString']}")
    given = result.get("answers") if isinstance(result, dict) else None
    found = given.get(name) if isinstance(given, dict) else None
    return read_answer(found, name, task_id, release_sha256)
