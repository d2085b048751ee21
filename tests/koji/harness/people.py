# SPDX-License-Identifier: GPL-2.0-or-later
"""How people meet the hub: sessions of the client library, and Koji's command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import koji

from tests.koji.harness import world
from tests.koji.harness.daemon import PATIENCE, environment
from tests.koji.harness.hub import Hub
from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import SYSTEM_PYTHON
from tests.koji.harness.source import KojiSource

_CONF = """[koji]
server = {hub.xmlrpc}
topurl = {hub.files}
weburl = {hub.url}/koji
topdir = {topdir}
authtype = password
poll_interval = 1
plugin_paths = {plugins}
"""


def session(url: str, user: str) -> Any:
    """A session at a hub; anonymous for an empty `user`.

    It retries a hub that restarts, for half a minute; not one that calls itself offline, as a
    hub does whose plugins did not load.
    """
    options: dict[str, Any] = {
        "max_retries": 15,
        "retry_interval": 2,
        "anon_retry": True,
    }
    if not user:
        return koji.ClientSession(url, opts=options)
    options.update(user=user, password=world.password(user))
    made = koji.ClientSession(url, opts=options)
    made.login()
    return made


@dataclass(frozen=True)
class Done:
    """A command that ended: exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All it printed."""
        return self.out + self.err


@dataclass(frozen=True)
class Command:
    """Koji's own command line, with plugins from `plugins`."""

    koji: KojiSource
    python_path: Sequence[Path]
    plugins: Path
    hub: Hub
    layout: Layout

    def run(self, user: str, arguments: Sequence[str]) -> Done:
        """Run `koji ARGUMENTS` as a user.

        Raises:
            subprocess.TimeoutExpired: it did not end within `PATIENCE`.
        """
        conf = self.layout.root / "koji.conf"
        text = _CONF.format(hub=self.hub, topdir=self.layout.topdir, plugins=self.plugins)
        conf.write_text(text, encoding="utf-8")
        argv = [str(SYSTEM_PYTHON), str(self.koji.cli), "-c", str(conf)]
        argv += ["--user", user, "--password", world.password(user), *arguments]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=self.layout.root,
            stdin=subprocess.DEVNULL,
            env=environment(PYTHONPATH=os.pathsep.join(map(str, self.python_path))),
        )
        return Done(done.returncode, done.stdout, done.stderr)
