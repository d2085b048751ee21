# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclaves`: one subtask for each source tree, one verdict, one record for the build.

Koji shares the subtasks out. A task that is freed and runs again finds its
subtasks by their labels. A verdict, whatever it is, ends the task normally: it
fails only when the machinery does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import koji
from koji.daemon import SCM
from requests.exceptions import RequestException

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.reader import OWN_FOLDER, USER_FOLDER, load_catalogue, read_release
from sgx_enclaves.catalogue.records import Catalogue, Release
from sgx_enclaves.cli.arguments import today
from sgx_enclaves.errors import RecordError, SgxEnclavesError
from sgx_enclaves.evidence.report import MAX_REPORT, of_build, read_report
from sgx_enclaves.files import read_file, sha256_of
from sgx_enclaves.gate.arguments import CHILD, PARENT, argument, options
from sgx_enclaves.gate.collect import Answer, Combined, combine, failed, read_answer, record_of
from sgx_enclaves.gate.inspect import PackageFacts, inspect_package
from sgx_enclaves.gate.record import CATALOGUE
from sgx_enclaves.gate.subjects import built_together, enclaves_to_verify, release_of
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import as_plain
from sgx_enclaves.report.templated import combined_html, filled

from .task_base import HTML, LOG, REPORT, TEXT, X86_64, SgxTask, despite_deadlocks


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
        with self.at_work():
            self.asked = options(opts, "parent_opts")
            name = argument(release, "release")
            tag = self.session.getTag(argument(build_tag, "build_tag"), strict=True)
            self.build_tag = tag["name"]
            # as the request calls it, and as the hub has it
            self.build, self.binfo = build, None
            if build is not None:
                self.binfo = self.complete_build(argument(build, "build"))
            self.repo_id = self.asked.get("repo_id") or self.getRepo(tag["name"])["id"]
            packages, places = self._inspect()
            paths = [path for package in packages for path in package.signed]
            self.catalogue, found, self.origin = resolve(name, paths, self)
            self.release = found
            # its own text, and those of the releases whose trees it is built in
            self.texts = {
                tree.name: read_file(tree.file, MIB).decode("utf-8")
                for tree in (found, *self.catalogue.trees_of(found))
            }
            self.release_sha256 = sha256_of(self.texts[found.name].encode())
            self.log(f"release {found.name}, sha256 {self.release_sha256}, {self.origin}")
            only = self.asked.get("enclaves")
            wanted = enclaves_to_verify(found, paths, only, self.what is not None)
            answers, reports = self._ask(wanted, places)
            combined = combine(found.name, self.what, answers, packages)
            self.log(f"{combined.verdict}: {combined.claim}")
            return self._finish(combined, reports)

    def _inspect(self) -> tuple[list[PackageFacts], dict[str, str]]:
        """What each binary package holds; path and SHA-256 of those with signed enclaves."""
        rpms: Iterable[str] = ()
        # what is compared with the release; None for the release alone
        self.what: Optional[str] = None
        if self.binfo is not None:
            self.what, rpms = self.binfo["nvr"], self.rpms_of(self.binfo)
        elif (task := self.asked.get("task_id")) is not None:
            self.what, rpms = f"task {task}", self.rpms_of_task(task)
        packages, places = [], {}
        for path in rpms:
            facts = inspect_package(str(self.build_file(path)))
            packages.append(facts)
            self.log(f"{facts.name}: {len(facts.signed)} signed enclave(s) {facts.problem or ''}")
            if facts.signed and facts.digests is not None:
                places[path] = facts.digests.file
        return packages, places

    def _ask(
        self, wanted: Sequence[str], places: Mapping[str, str]
    ) -> tuple[list[Answer], dict[int, dict[str, Any]]]:
        """The subtasks' answers in that order, and their reports."""
        handed_on = ("allow_unpinned", "unsigned_build", "tag_allowed")
        shared = {key: self.asked[key] for key in handed_on if key in self.asked}
        shared |= {"repo_id": self.repo_id, "rpms": places}
        shared |= {"releases": self.texts, "release_sha256": self.release_sha256}
        # where nothing is built there is no preparation to share
        split = self.asked.get("split", False) or "unsigned_build" in self.asked
        trees = built_together(self.catalogue, self.release, wanted, split)
        patience = self.asked.get("timeout", self.config.build_wait_timeout)
        deadline = time.monotonic() + patience
        tasks = self._give_out(trees, shared, "")
        results = self.wait_for([*tasks], patience)
        # A restarted hub or database, or what a killed kojid left behind, can fail any task.
        states = {number: self.session.getTaskInfo(number)["state"] for number in tasks}
        failed_ones = [n for n, state in states.items() if state == koji.TASK_STATES["FAILED"]]
        for number in failed_ones:
            self.log(f"task {number} failed: {results[number]['faultString']}; once more")
        if failed_ones:
            again = self._give_out([tasks.pop(number) for number in failed_ones], shared, " again")
            tasks |= again
            results |= self.wait_for([*again], deadline - time.monotonic())
        answers: dict[str, Answer] = {}
        reports = {}
        for number, names in tasks.items():
            own, report = self._answers_of(number, names, results.get(number))
            answers.update(zip(names, own))
            reports.update({number: report} if report else {})
        return [answers[name] for name in wanted], reports

    def _give_out(
        self, trees: Iterable[list[str]], shared: Mapping[str, Any], suffix: str
    ) -> dict[int, list[str]]:
        """A subtask for each source tree, or the one that an earlier run of this task has made."""
        tasks = {}
        for names in trees:
            arguments = [self.release.name, names, self.build_tag, self.build, shared]
            label = f"{','.join(names)}{suffix}"
            number = self.subtask(CHILD, arguments, label=label, arch=X86_64)
            tasks[number] = names
            self.log(f"{label}: task {number}")
        return tasks

    def _answers_of(
        self, number: int, names: Sequence[str], result: Any
    ) -> tuple[list[Answer], dict[str, Any]]:
        """What a subtask says of its enclaves, and its report; without either it proves nothing."""
        given = result if isinstance(result, dict) else {}
        why = f"task {number} failed: {given.get('faultString')}"
        try:
            if "faultString" not in given:
                release = self.release_sha256
                own = [read_answer(given.get(name), name, number, release) for name in names]
                place = f"work/{koji.pathinfo.taskrelpath(number)}/{REPORT}"
                path = self.build_file(place, str(own[0].report_sha256))
                return own, read_report(read_file(str(path), MAX_REPORT), REPORT)
        except (koji.GenericError, OSError, RequestException, SgxEnclavesError) as error:
            why = f"task {number} proves nothing: {error}"
        return [failed(name, number, why) for name in names], {}

    def _finish(self, combined: Combined, reports: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        digest, origin = self.release_sha256, self.origin
        where = {"build_tag": self.build_tag, "repo_id": self.repo_id}
        buildroot = {**where, "lock_sha256": combined.lock_sha256}
        buildroot["packages_sha256"] = combined.digest("buildroot_sha256")
        release = {"name": combined.release, "sha256": digest, "origin": origin}
        plain = of_build(combined, release, buildroot, reports)
        around = {"release_sha256": digest, "origin": origin, **where, "task_id": self.id}
        around["report_sha256"] = self.upload_report(plain)
        self.upload(TEXT, filled("combined.txt", combined=combined))
        self.upload(HTML, combined_html(combined, plain, today().isoformat()))
        record = None
        try:
            if self.binfo is not None:
                around |= {"build_id": self.binfo["id"], "partial": "enclaves" in self.asked}
                record = self._keep(as_plain(record_of(combined, **around)))
        except RecordError as error:
            self.log(f"no record is made: {error}")
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
        """Have the hub keep the record; a run before this one may have done it."""
        try:
            for known in self.session.listSgxVerifications(record["build_id"]):
                if known["task_id"] == self.id:
                    self.log(f"record {known['id']} was made before this task was run again")
                    return int(known["id"])
            keep = self.session.host.recordSgxVerification
            made = int(despite_deadlocks(keep, self.id, record))
        except koji.GenericError as error:
            if "Invalid method" not in str(error):
                raise
            self.log("the hub has no plugin sgx_enclaves_hub any more, so no record is kept")
            return None
        self.log(f"record {made}")
        return made


def resolve(
    asked: Optional[str], paths: Sequence[str], task: SgxTask
) -> tuple[Catalogue, Release, str]:
    """The catalogue, the release in it that is asked for or fits the paths, and its origin."""
    catalogue = load_catalogue((OWN_FOLDER, USER_FOLDER, *task.config.catalogue_folders))
    if asked is None:
        return catalogue, release_of(catalogue, paths), CATALOGUE
    if "://" not in asked:
        return catalogue, catalogue.release(asked), CATALOGUE
    path = _fetched(asked, task)
    release = read_release(read_file(str(path), MIB), str(path))
    added = {**catalogue.releases, release.name: release}
    return Catalogue(added, catalogue.replaced), release, asked


def _fetched(url: str, task: SgxTask) -> Path:
    """The file that a URL names: `https://…`, or `git+https://HOST/REPO?FILE#COMMIT`."""
    options, plain = task.options, url.startswith("https://")
    # Koji's rules are about repositories; a plain file's place must fit them too
    scm = SCM(
        f"git+{url}#file" if plain else url,
        allow_password=getattr(options, "allow_password_in_scm_url", False),
    )
    scm.assert_allowed(
        allowed=options.allowed_scms,
        session=task.session,
        by_config=options.allowed_scms_use_config,
        by_policy=options.allowed_scms_use_policy,
        policy_data={"user_id": task.taskinfo["owner"], "scratch": False},
    )
    if not plain:
        return _checked_out(scm, task)
    # from one of the allowed hosts; nobody pins what is being asked for
    name = url.partition("?")[0].rpartition("/")[2] or "release.toml"
    artifact = Artifact(name, (url,), sha256=None, max_size=MIB)
    return task.fetcher(allow_unpinned=True).fetch(artifact).path


def _checked_out(scm: Any, task: SgxTask) -> Path:
    """A file of a repository."""
    file: str = scm.module
    if not file.endswith(".toml"):
        raise koji.GenericError(
            f"{scm.url} names no release: put the path of its TOML file behind the question mark"
        )
    # Koji checks out a directory, and would look for a Makefile's `common` beside it
    scm.module, scm.use_common = os.path.dirname(file), False
    folder = Path(task.workdir) / "scm"
    folder.mkdir()
    log = str(Path(task.workdir) / "checkout.log")
    there: str = scm.checkout(str(folder), task.session, task.getUploadDir(), log)
    path = Path(there) / os.path.basename(file)
    # neither the URL nor a link in the repository may lead to a file of the builder's
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    if path.is_symlink() or not path.is_file() or not inside:
        raise koji.GenericError(f"{scm.url}: there is no such file in the repository")
    return path
