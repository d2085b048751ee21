# SPDX-License-Identifier: GPL-2.0-or-later
"""The scratch folder of one Koji: names its parts, makes them, and the private /etc."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

_KOJI_FOLDERS = ("packages", "repos", "work", "scratch", "repos-dist")
# kojid looks up a group of this name, whatever mock it runs; a real mock becomes such a user.
_MOCK_GROUP = "mock:x:987:\n"
MOCK_UID = 986
_MOCK_USER = f"kojibuilder:x:{MOCK_UID}:987::/builddir:/bin/bash\n"


@dataclass(frozen=True)
class Layout:
    """Paths below one scratch folder.

    The PostgreSQL socket is one of them, so the root's own path must stay short (a socket's
    path has at most 107 bytes).
    """

    root: Path

    @property
    def etc(self) -> Path:
        """What hub, builder and kojira see as /etc."""
        return self.root / "etc"

    @property
    def var_log(self) -> Path:
        """What they see as /var/log."""
        return self.root / "var-log"

    @property
    def logs(self) -> Path:
        """Output of each daemon: NAME.log."""
        return self.root / "log"

    @property
    def topdir(self) -> Path:
        """The hub's folder: /mnt/koji elsewhere."""
        return self.root / "koji"

    @property
    def cluster(self) -> Path:
        """The data of PostgreSQL."""
        return self.root / "pg"

    @property
    def socket(self) -> Path:
        """Folder of PostgreSQL's socket."""
        return self.root / "pgsock"

    @property
    def hub_conf(self) -> Path:
        """hub.conf."""
        return self.etc / "koji-hub/hub.conf"

    def builder(self, host: str) -> Path:
        """Folder of one builder: its work, mock's roots, its configuration."""
        return self.root / "builders" / host

    def make(self) -> None:
        """Make all of it, once."""
        self.root.mkdir(parents=True, exist_ok=True)
        # PostgreSQL's user must reach its cluster below.
        self.root.chmod(0o755)
        for folder in (self.var_log, self.logs, self.socket):
            folder.mkdir(exist_ok=True)
        for name in _KOJI_FOLDERS:
            (self.topdir / name).mkdir(parents=True, exist_ok=True)
        if not self.etc.exists():
            shutil.copytree("/etc", self.etc, symlinks=True)
            self._complete_etc()

    def _complete_etc(self) -> None:
        for name in ("mock/koji", "koji-hub/plugins", "kojid/plugins", "koji/plugins"):
            (self.etc / name).mkdir(parents=True, exist_ok=True)
        # The hub asks for the address of a client on its own machine by the machine's name.
        with (self.etc / "hosts").open("a", encoding="utf-8") as hosts:
            hosts.write(f"\n127.0.0.1 {socket.gethostname()}\n")
        for name, line in (("group", _MOCK_GROUP), ("passwd", _MOCK_USER)):
            path = self.etc / name
            text = path.read_text(encoding="utf-8")
            if f"\n{line.partition(':')[0]}:" not in text:
                path.write_text(text + line, encoding="utf-8")
