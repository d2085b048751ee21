# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a subtask builds: a buildroot that is made when it is first needed, and given back.

It is a place of the core's: see `sgx_enclaves.release.place`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import koji

from sgx_enclaves.files import read_file
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.installed import BuildrootLock, InstalledPackage, parse_lock
from sgx_enclaves.release.place import Output, Tree

from .buildroot import Chroot, KojiSite, free_space
from .config import Config
from .kojid_api import new_buildroot
from .parent import X86_64, SgxTask, TaskLog
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

    # What the core asks of a place; the buildroot is made when the first thing is asked.

    isolated = True

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        """See `Place` of the core."""
        return self._entered().ask(commands, timeout)

    def packages(self) -> Sequence[InstalledPackage]:
        """See `Place` of the core."""
        return self._entered().packages()

    def open(self, scratch: Path, root: str) -> Tree:
        """See `Place` of the core."""
        return self._entered().open(scratch, root)

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
