# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for kojid's BuildRoot: this machine is the buildroot, and mock runs programs on it.

So the plugin's own programs, and the steps, are really run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import koji


class FakeBuildRoot:
    """kojid's class, as far as the plugin uses it.

    Attributes:
        folder: what is in the buildroot's /chroot_tmpdir.
        fails: what `init` raises.
        instead: gives mock's wait status in the place of running anything.
        made: all that were made.
    """

    folder: Path
    fails: Optional[Exception] = None
    instead: Optional[Callable[[Sequence[str]], int]] = None
    made: list[FakeBuildRoot]

    def __init__(
        self, session: Any, options: Any, tag: Any, arch: str, task_id: int, repo_id: int
    ) -> None:
        self.session, self.options = session, options
        self.asked = (tag, arch, task_id, repo_id)
        type(self).made.append(self)
        self.id = len(type(self).made)
        self.name = f"demo-build-{self.id}-{repo_id}"
        self.own = self.folder / str(self.id)
        self.uploaded: list[str] = []
        self.states: list[str] = []
        Path(self.resultdir()).mkdir(parents=True)
        Path(self.tmpdir()).mkdir()

    def init(self) -> None:
        """Make it."""
        if self.fails is not None:
            raise self.fails

    def rootdir(self) -> str:
        """Its root: that of this machine."""
        return "/"

    def resultdir(self) -> str:
        """Where mock's logs are."""
        return str(self.own / "result")

    def tmpdir(self, within: bool = False) -> str:
        """The same path from inside and outside."""
        return str(self.own / "tmp")

    def single_log(self, path: str, name: str) -> None:
        """Upload a log."""
        self.uploaded.append(name)

    def mock(self, args: Sequence[str]) -> int:
        """Run a program; a wait status as `os.waitpid` gives it."""
        assert args[:2] == ["--chroot", "--"]
        if self.instead is not None:
            return self.instead(args[2:])
        process = subprocess.Popen(args[2:], stdin=subprocess.DEVNULL)
        _pid, status = os.waitpid(process.pid, 0)
        process.returncode = 0
        return status

    def expire(self) -> None:
        """Give it back; kojid removes it with all that was built in it."""
        self.states.append("EXPIRED")
        shutil.rmtree(self.folder.parent / "place", ignore_errors=True)


def no_buildroot() -> koji.BuildrootError:
    """What kojid raises when mock fails."""
    return koji.BuildrootError("could not init mock buildroot, mock exited with status 30")
