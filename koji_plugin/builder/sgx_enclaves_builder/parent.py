# SPDX-License-Identifier: GPL-2.0-or-later
"""Task `sgxEnclaves`: one subtask for each enclave, one verdict, one record for the build.

Koji shares the subtasks out. A task that is freed and runs again finds its
subtasks by their labels. A verdict, whatever it is, ends the task normally: it
fails only when the machinery does.

Names and parameters of our tasks, as hub policies and `koji taskinfo` see them.

The hub plugin has the same table.

Wait for subtasks, with a deadline that holds.

Koji's own `wait` begins its timeout anew whenever a subtask ends. kojid wakes us
by SIGUSR2, and again until we have asked the hub; we ask now and then without it.

What a task tells while it runs: one log that grows in the task's output.

What both tasks share: their configuration, their log, files of builds.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, ClassVar, Optional

import koji
import koji.tasks
from koji.daemon import incremental_upload

from sgx_enclaves import __version__
from sgx_enclaves.arguments import (
    CHILD,
    OPTIONS,
    PARENT,
    SIGNATURES,
    argument,
    checked,
    name_or_id,
    optional_text,
)
from sgx_enclaves.files import digest_file
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
from sgx_enclaves.gate.subjects import enclaves_to_verify
from sgx_enclaves.progress import PlainProgress
from sgx_enclaves.release.cache import Cache
from sgx_enclaves.release.fetch import Fetcher, FetchSettings, Lookaside
from sgx_enclaves.release.transport import HttpsTransport, TransportSettings
from sgx_enclaves.report.templated import combined_html, combined_text

from .config import Config, load_config
from .kojid_api import koji_errors
from .outputs import HTML, REPORT, TEXT, Outputs
from .resolve import Resolved, resolve

koji.tasks.LEGACY_SIGNATURES.update(SIGNATURES)


_AT_LEAST_EVERY = 60.0


def wait_for(task: Any, subtasks: Sequence[int], seconds: float) -> dict[int, Any]:
    """Wait until all subtasks have ended, or cancel those that have not in time.

    Args:
        task: the task handler.
        subtasks: their ids.
        seconds: how long.

    Returns:
        The result of each; a mapping with `faultString` of one that failed or was cancelled.
    """
    host, ids = task.session.host, list(subtasks)
    deadline = time.monotonic() + seconds
    late: list[int] = []
    host.taskSetWait(task.id, ids)
    while True:
        _finished, unfinished = host.taskWait(task.id)
        left = deadline - time.monotonic()
        if not unfinished:
            break
        if left <= 0:
            late = list(unfinished)
            task.session.cancelTaskChildren(task.id)
            break
        signal.sigtimedwait([signal.SIGUSR2], min(left, _AT_LEAST_EVERY))
    results = dict(host.taskWaitResults(task.id, ids, canfail=ids))
    for task_id in late:
        words = f"not done within {seconds:g} s, and cancelled"
        results[task_id] = {"faultCode": 1, "faultString": words}
    return results


LOG = "sgx-enclaves.log"
_EVERY = 5.0


class TaskLog:
    """Text that is uploaded as it grows; written to like a stream.

    Args:
        session: the task's.
        folder: where the log is kept on the builder.
        upload_path: the task's folder on the hub.
        clock: for tests.
    """

    def __init__(
        self,
        session: Any,
        folder: Path,
        upload_path: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / LOG
        self._session = session
        self._upload_path = upload_path
        self._clock = clock
        self._out = self.path.open("w", encoding="utf-8", errors="replace")
        self._in = self.path.open("rb")
        self._last = clock() - _EVERY

    def __call__(self, text: str) -> None:
        """Add a line, with the time, and upload: what it tells of may take long."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.write(f"{stamp} {text}\n")
        self.sync()

    def write(self, text: str) -> int:
        """Add text."""
        return self._out.write(text)

    def flush(self) -> None:
        """Upload what is new, unless that was done a moment ago: downloads tell much."""
        self._out.flush()
        if self._clock() - self._last >= _EVERY:
            self.sync()

    def sync(self) -> None:
        """Upload what is new."""
        self._out.flush()
        incremental_upload(self._session, LOG, self._in, self._upload_path)
        self._last = self._clock()

    def __enter__(self) -> TaskLog:
        return self

    def __exit__(self, *_error: object) -> None:
        """Upload the rest."""
        with self._out, self._in:
            self.sync()


X86_64 = "x86_64"


class SgxTask(koji.tasks.BaseTaskHandler):
    """Base of our tasks; it handles none itself."""

    Methods: ClassVar[list[str]] = []

    @contextmanager
    def at_work(self) -> Iterator[tuple[Config, TaskLog]]:
        """Configuration and log; errors of the core leave as Koji's, words and all."""
        folder = Path(self.workdir)
        with koji_errors(), TaskLog(self.session, folder, self.getUploadDir()) as log:
            log(f"task {self.id}, {self.method}, sgx-enclaves {__version__}")
            try:
                yield load_config(), log
            except Exception as error:
                log(f"ended: {error}")
                raise

    def build_file(self, relative: str, sha256: str) -> Path:
        """A file of a build, brought here if need be, with the digest that it must have.

        Args:
            relative: its path below the hub's top folder.
            sha256: hexadecimal; empty for any.

        Raises:
            koji.GenericError: it is another file, or cannot be had.
        """
        path = Path(self.localPath(relative))
        if sha256 and digest_file(path) != sha256:
            raise koji.GenericError(
                f"{relative} is not the file that this verification began with "
                f"(expected sha256 {sha256}); start a new one"
            )
        return path

    def binary_rpms(self, build: Any) -> list[dict[str, Any]]:
        """The packages of a build but for source packages; see `rpms_of`."""
        return [rpm for rpm in self.rpms_of(build) if rpm["arch"] not in ("src", "nosrc")]

    def rpms_of(self, build: Any) -> list[dict[str, Any]]:
        """The packages of a build.

        Returns:
            One mapping each: `name` of the file, `relative` path of it below the hub's
            top folder, `arch`, and the id of the `buildroot_id` that it was made in.
        """
        folder = koji.pathinfo.build(build)[len(koji.pathinfo.topdir) :].lstrip("/")
        found = []
        for rpm in self.session.listRPMs(buildID=build["id"]):
            place = koji.pathinfo.rpm(rpm)
            found.append(
                {
                    "name": place.rpartition("/")[2],
                    "relative": f"{folder}/{place}",
                    "arch": rpm["arch"],
                    "buildroot_id": rpm["buildroot_id"],
                }
            )
        return sorted(found, key=lambda rpm: rpm["name"])


def fetcher_of(config: Config, log: TaskLog) -> Fetcher:
    """Fetches within the configured bounds, and tells the log how it goes.

    Raises:
        SgxEnclavesError: the certificates or the look-aside cache's URL cannot be used.
    """
    lookaside = None
    if config.lookaside is not None:
        lookaside = Lookaside(config.lookaside, config.lookaside_package)
    hosts = config.hosts
    return Fetcher(
        Cache(config.cache),
        HttpsTransport(TransportSettings(ca_file=config.ca_file, hosts=hosts)),
        FetchSettings(
            attempts=config.attempts,
            total_timeout=config.fetch_timeout,
            max_size=config.max_size,
        ),
        progress=PlainProgress(log),  # type: ignore[arg-type]
        lookaside=lookaside,
    )


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
            options = checked(opts, OPTIONS)
            asked = optional_text(release, "release")
            tag = self.session.getTag(argument(build_tag, "build_tag", name_or_id), strict=True)
            binfo = None if build is None else self._complete(build)
            files = [] if binfo is None else self._inspect(binfo, log)
            paths = [file.path for package, _ in files for file in package.signed]
            resolved = resolve(asked, paths, config, self, fetcher_of(config, log))
            log(f"release {resolved.release.name}, sha256 {resolved.sha256}, {resolved.origin}")
            wanted = enclaves_to_verify(
                resolved.release, paths, options.get("enclaves"), binfo is not None
            )
            shared = self._shared(resolved, files, options, tag)
            answers = self._ask(wanted, resolved, tag, build, shared, config, options, log)
            packages = [package for package, _ in files]
            nvr = None if binfo is None else binfo["nvr"]
            combined = combine(resolved.release.name, nvr, answers, packages)
            log(f"{combined.verdict}: {combined.claim}")
            return self._finish(combined, resolved, binfo, log)

    def _complete(self, build: Any) -> dict[str, Any]:
        binfo: dict[str, Any] = self.session.getBuild(
            argument(build, "build", name_or_id), strict=True
        )
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


def _answer(name: str, task_id: int, result: Any, release_sha256: str) -> Answer:
    if isinstance(result, dict) and "faultString" in result:
        return failed(name, task_id, f"task {task_id} failed: {result['faultString']}")
    return read_answer(result, name, task_id, release_sha256)
