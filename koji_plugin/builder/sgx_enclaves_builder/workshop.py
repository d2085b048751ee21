# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a subtask builds: a buildroot that is made when it is first needed, and given back.

The buildroot is held against the release's lock, if the builder has been given one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import koji

from sgx_enclaves.errors import BuildError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.catalogue import Toolchain
from sgx_enclaves.release.manifest import ToolchainKind
from sgx_enclaves.release.store import StageStore
from sgx_enclaves.release.toolchain import (
    BuildrootLock,
    State,
    ToolchainRecord,
    check_lock,
    parse_lock,
)
from sgx_enclaves.release.verify import BuildOrder, BuildTools, builder, recorder_at

from .buildroot import Chroot, KojiSite, free_space
from .config import Config
from .kojid_api import new_buildroot
from .parent import X86_64, SgxTask, TaskLog, fetcher_of
from .provenance import component_urls

_MAX_LOCK = 64 * MIB


class Workshop:
    """See the top of this module.

    Args:
        task: the task handler.
        config: the plugin's.
        log: told how it goes.
        release: name of the release.
        build_tag: name or id of the tag whose repo makes the buildroot.
        repo_id: of that repo.

    Attributes:
        records: what was seen of the toolchain, by its name.
        site: the buildroot; None until it is needed.
    """

    def __init__(
        self,
        task: SgxTask,
        config: Config,
        log: TaskLog,
        release: str,
        build_tag: Any,
        repo_id: int,
    ) -> None:
        self.task = task
        self.config = config
        self.log = log
        self.records: dict[str, ToolchainRecord] = {}
        self.site: Optional[KojiSite] = None
        self._release = release
        self._tag = build_tag
        self._repo_id = repo_id
        self._broot: Any = None

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the buildroot back; kojid removes it."""
        if self.site is not None:
            self.site.chroot.close()
        if self._broot is not None:
            self._broot.expire()

    def tools(self) -> BuildTools:
        """What the core works with; nothing that it keeps outlives this task."""
        return BuildTools(
            fetcher_of(self.config, self.log),
            StageStore(Path(self.task.workdir) / "stages"),
            self._record,
            self._build,
        )

    def _record(self, pinned: Toolchain, kind: ToolchainKind) -> ToolchainRecord:
        site = self._entered()
        self._check_lock(site)
        self.records[pinned.name] = recorder_at(site)(pinned, kind)
        return self.records[pinned.name]

    def _build(self, order: BuildOrder, into: Path) -> None:
        build = builder(self.log, self._entered(), make_timeout=self.config.make_timeout)
        build(order, into)

    def _entered(self) -> KojiSite:
        if self.site is None:
            self.site = self._enter()
        return self.site

    def _enter(self) -> KojiSite:
        options, session = self.task.options, self.task.session
        free = free_space(Path(options.mockdir))
        if free < self.config.min_space:
            raise koji.BuildrootError(
                f"too little room in {options.mockdir}: {free} bytes are free, "
                f"{self.config.min_space} are wanted ([build] min_space_mib)"
            )
        self.log(f"buildroot of tag {self._tag}, repo {self._repo_id}")
        self._broot = new_buildroot(
            session, options, self._tag, X86_64, self.task.id, repo_id=self._repo_id
        )
        self._broot.workdir = self.task.workdir
        self._broot.init()
        session.host.setBuildRootState(self._broot.id, "BUILDING")
        self.log(f"buildroot {self._broot.id}, {self._broot.name}")
        urls = component_urls(session, self._broot.id, options.topurl)
        return KojiSite(Chroot(self._broot), self.log, urls)

    def lock(self) -> Optional[BuildrootLock]:
        """The pinned packages of the release's buildroot, if the builder has been given any."""
        if self.config.locks is None:
            return None
        path = self.config.locks / f"{self._release}.json"
        if not path.exists():
            return None
        return parse_lock(read_file(str(path), _MAX_LOCK), str(path))

    def _check_lock(self, site: KojiSite) -> None:
        lock = self.lock()
        if lock is None:
            return
        check = check_lock(lock, [item.locked for item in site.packages()])
        if not check.matches:
            wrong = [part.name for part in check.parts if part.state is not State.MATCH]
            raise BuildError(
                "the buildroot is not the pinned one",
                expected=f"the {len(lock.packages)} packages of the release's lock",
                found=f"{len(wrong)} others or missing: {', '.join(wrong[:6])}",
                hint="build in a tag whose packages are those of the lock",
            )
