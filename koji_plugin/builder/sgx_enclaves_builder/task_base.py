# SPDX-License-Identifier: GPL-2.0-or-later
"""What both tasks share: their log, how errors leave, files of builds, waiting, uploads."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional
from xmlrpc.client import Fault

import koji
import koji.tasks
from koji.daemon import incremental_upload

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.artifact import Lookaside
from sgx_enclaves.errors import ArgumentError, AttestationError, SgxEnclavesError
from sgx_enclaves.evidence.envelope import load_signing_key
from sgx_enclaves.evidence.report import files_of
from sgx_enclaves.evidence.statements import TOOL, attestation, enveloped, statements_of
from sgx_enclaves.files import digest_file, read_file, sha256_of, write_file
from sgx_enclaves.gate.arguments import SIGNATURES
from sgx_enclaves.gate.record import time_text
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.progress import PlainProgress
from sgx_enclaves.release.fetch import Fetcher
from sgx_enclaves.release.manifest import Manifest
from sgx_enclaves.release.transport import HttpsTransport

from .config import load_config

# Lets policies see parameters by their names.
koji.tasks.LEGACY_SIGNATURES.update(SIGNATURES)

X86_64 = "x86_64"
LOG = "sgx-enclaves.log"
REPORT = "sgx-enclaves-report.json"
ATTESTATION = "sgx-enclaves-attestation.jsonl"
TEXT, HTML = "sgx-enclaves-report.txt", "sgx-enclaves-report.html"
_ASK_EVERY = 60.0
_DEADLOCKS = 6


@contextmanager
def koji_errors() -> Iterator[None]:
    """Let errors of the core and of the system out as Koji's, with the same words."""
    try:
        yield
    except ArgumentError as error:
        raise koji.ParameterError(str(error)) from error
    except SgxEnclavesError as error:
        raise koji.GenericError(str(error)) from error
    except FileNotFoundError as error:
        raise koji.GenericError(
            f"a file of this task has vanished: {error.filename}; a task that a killed kojid left "
            "behind removes the directories of its successor when it ends: verify again"
        ) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise koji.GenericError(
            f"the builder cannot continue: {error.strerror or error}{where}; "
            "check its disk, then start the verification again"
        ) from error


def despite_deadlocks(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call the hub; again, when its database ended the call because of a deadlock, and undid it.

    Koji's own calls for waiting tasks lock rows in different orders: under load it happens.
    """
    for attempt in range(1, _DEADLOCKS):
        try:
            return call(*arguments)
        except (koji.GenericError, Fault) as error:
            if "deadlock detected" not in str(error):
                raise
        time.sleep(attempt * random.random())  # noqa: S311  (not two builders at once again)
    return call(*arguments)


class TaskLog(io.TextIOBase):
    """A stream into a log of the task's output, each line of which is uploaded: steps take long."""

    def __init__(self, session: Any, folder: Path, upload_path: str) -> None:
        self._session, self._path, self._upload_path = session, folder / LOG, upload_path
        self._sent = 0

    def __call__(self, text: str) -> None:
        """Add a line, with the time."""
        self.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {text}\n")

    def write(self, text: str) -> int:
        """Add text, and upload it."""
        with self._path.open("a+b") as file:
            written = file.write(text.encode("utf-8", "replace"))
            file.seek(self._sent)
            incremental_upload(self._session, LOG, file, self._upload_path)
            self._sent = file.tell()
        return written


class SgxTask(koji.tasks.BaseTaskHandler):
    """Base of our tasks; it handles none itself."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With `config`, `log`, and `outputs` for what is uploaded; errors leave as Koji's."""
        with koji_errors():
            self.outputs = Path(self.workdir) / "outputs"
            self.log = TaskLog(self.session, Path(self.workdir), self.getUploadDir())
            self.log(f"task {self.id}, {self.method}, sgx-enclaves {__version__}")
            try:
                self.config = load_config()
                yield
            except Exception as error:
                self.log(f"ended: {error}")
                raise

    def fetcher(self, *, allow_unpinned: bool = False) -> Fetcher:
        """Fetches within the configured bounds, and writes into the log how it goes."""
        config = self.config
        url = config.fetch_lookaside
        lookaside = Lookaside(url, config.fetch_lookaside_package) if url is not None else None
        return Fetcher(
            config.fetch_cache,
            HttpsTransport(
                total_timeout=config.fetch_timeout,
                ca_file=config.fetch_ca_file,
                hosts=config.fetch_hosts,
            ),
            attempts=config.fetch_attempts,
            max_size=config.fetch_max_mib * MIB,
            progress=PlainProgress(self.log),  # type: ignore[arg-type]
            lookaside=lookaside,
            allow_unpinned=allow_unpinned,
        )

    def build_file(self, relative: str, sha256: str = "") -> Path:
        """A file below the hub's top folder, brought here if need be, with that digest if any."""
        path = Path(self.localPath(relative))
        if sha256 and digest_file(path) != sha256:
            raise koji.GenericError(
                f"{relative} is not the file that this verification began with "
                f"(expected sha256 {sha256}); start a new one"
            )
        return path

    def complete_build(self, build: Any) -> dict[str, Any]:
        """A build, by NVR or id."""
        binfo: dict[str, Any] = self.session.getBuild(build, strict=True)
        if binfo["state"] != koji.BUILD_STATES["COMPLETE"]:
            raise koji.GenericError(f"{binfo['nvr']} is not complete, so nothing can be said of it")
        return binfo

    def rpms_of(self, build: Any, *, source: bool = False) -> dict[str, Optional[int]]:
        """The binary packages of a build, or its source packages, sorted by their names: paths
        below the hub's top directory, each with the id of the buildroot that it was made in.
        """
        folder = os.path.relpath(koji.pathinfo.build(build), koji.pathinfo.topdir)
        found = {
            f"{folder}/{koji.pathinfo.rpm(rpm)}": rpm["buildroot_id"]
            for rpm in self.session.listRPMs(buildID=build["id"])
            if (rpm["arch"] in ("src", "nosrc")) == source
        }
        return {path: found[path] for path in sorted(found, key=os.path.basename)}

    def upload(self, name: str, data: bytes | str, mode: int = 0o644) -> None:
        """Upload a file, whose name may have one directory in front; a text ends with a newline."""
        path = self.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, str):
            data = f"{data.rstrip()}\n".encode()
        write_file(str(path), data, mode)
        self.uploadFile(str(path), relPath=name.rpartition("/")[0] or None)

    def upload_report(self, report: dict[str, Any], manifest: Optional[Manifest] = None) -> str:
        """Upload a report and what stands beside it, signed where there is a key; its SHA-256."""
        when = time_text()
        files = files_of(report, when, manifest, REPORT)
        digest = sha256_of(files[REPORT])
        for name, data in files.items():
            self.upload(name, data)
        if (file := self.config.attest_key) is not None:
            key = load_signing_key(read_file(file, DEFAULT_LIMITS.config_size), file, None)
            builder = self.config.attest_builder or TOOL
            try:
                made = statements_of(report, digest, builder=builder, time=when)
            except AttestationError as error:
                self.log(f"no attestation: {error}")
            else:
                self.upload(ATTESTATION, attestation(map(enveloped, made), *key))
        return digest

    def rpms_of_task(self, task_id: int) -> list[str]:
        """The binary packages that a build task has made, as `rpms_of` has them."""
        found: dict[str, str] = {}
        for child in self.session.getTaskChildren(task_id):
            if child["method"] == "buildArch":
                folder = f"work/{koji.pathinfo.taskrelpath(child['id'])}"
                for name in self.session.listTaskOutput(child["id"]):
                    if name.endswith(".rpm") and not name.endswith((".src.rpm", ".nosrc.rpm")):
                        found.setdefault(name, f"{folder}/{name}")
        return [found[name] for name in sorted(found)]

    def wait_for(self, subtasks: Sequence[int], seconds: float) -> dict[int, Any]:
        """Wait until all subtasks have ended, or cancel those that have not in time; their results.

        Koji's own `wait` starts its timeout again whenever a subtask ends. kojid wakes us
        by SIGUSR2, and again until we have asked the hub; we ask now and then without it.
        """
        host, ids = self.session.host, list(subtasks)
        deadline = time.monotonic() + seconds
        despite_deadlocks(host.taskSetWait, self.id, ids)
        while late := list(host.taskWait(self.id)[1]):
            left = deadline - time.monotonic()
            if left <= 0:
                despite_deadlocks(self.session.cancelTaskChildren, self.id)
                break
            signal.sigtimedwait([signal.SIGUSR2], min(left, _ASK_EVERY))
        fault = {"faultCode": 1, "faultString": f"not done within {seconds:g} s, and cancelled"}
        return {
            **dict(host.taskWaitResults(self.id, ids, canfail=ids)),
            **dict.fromkeys(late, fault),
        }
