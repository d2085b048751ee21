# SPDX-License-Identifier: GPL-2.0-or-later
"""What both tasks share: their configuration, their log, files of builds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import koji
import koji.tasks

from sgx_enclaves import __version__
from sgx_enclaves.releases.artifact import Lookaside
from sgx_enclaves.releases.cache import Cache, digest_file
from sgx_enclaves.releases.download import FetchSettings
from sgx_enclaves.releases.fetch import Fetcher
from sgx_enclaves.releases.progress import PlainProgress
from sgx_enclaves.releases.transport import HttpsTransport, TransportSettings

from .config import Config, load_config
from .tasklog import TaskLog
from .words import koji_errors

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
