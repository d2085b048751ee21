# SPDX-License-Identifier: GPL-2.0-or-later
"""A builder (kojid) and the repository daemon (kojira)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from tests.koji.harness.daemon import Daemon, environment
from tests.koji.harness.hub import Hub
from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import MACHINE, STAND_IN, SYSTEM_PYTHON
from tests.koji.harness.source import KojiSource

_PLUGIN_OF_OURS = "harness_kojid"
_KOJID_CONF = """[kojid]
server = {hub.xmlrpc}
topurl = {hub.files}
topdir = {topdir}
workdir = {folder}/work
mockdir = {folder}/mock
mockuser = root
user = {host}
password = {host}-pw
sleeptime = 1
maxjobs = 10
minspace = 200
task_avail_delay = 1
retry_interval = 2
offline_retry_interval = 2
allowed_scms = *:*:no:
smtphost = 127.0.0.1
pluginpath = {plugin_path}
plugin = {plugins}
"""
_KOJIRA_CONF = """[kojira]
server = {hub.xmlrpc}
topdir = {topdir}
logfile = {folder}/kojira.log
sleeptime = 1
retry_interval = 2
offline_retry_interval = 2
"""


def _python_path(paths: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, paths))


class Builder:
    """A real kojid.

    Args:
        host: its name, and its user's.
        layout, hub: the Koji that it belongs to.
        koji: Koji's programs.
        python_path: folders that Koji, the plugins and the core are imported from.
        plugin_path, plugins: of the builder plugins.
        real_mock: a real mock for build tags named real-*, or None.
        extra: more environment, for a real mock's sake.
    """

    def __init__(
        self,
        host: str,
        layout: Layout,
        hub: Hub,
        koji: KojiSource,
        python_path: Sequence[Path],
        plugin_path: Sequence[Path],
        plugins: Sequence[str],
        real_mock: Optional[Path],
        extra: Mapping[str, str],
    ) -> None:
        self.host = host
        self.folder = layout.builder(host)
        self._layout = layout
        for name in ("work", "mock"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._conf = self.folder / "kojid.conf"
        plugin_folders = [MACHINE / "kojid_plugins", *plugin_path]
        self._text = _KOJID_CONF.format(
            hub=hub,
            topdir=layout.topdir,
            folder=self.folder,
            host=host,
            plugin_path=":".join(map(str, plugin_folders)),
            plugins=" ".join([_PLUGIN_OF_OURS, *plugins]),
        )
        argv = [str(SYSTEM_PYTHON), str(koji.kojid), "-c", str(self._conf)]
        argv += ["-f", "-v", "--debug-task", "--force-lock"]
        if real_mock is not None:
            extra = {**extra, "HARNESS_REAL_MOCK": str(real_mock)}
        self.daemon = Daemon(
            f"kojid-{host}",
            layout,
            argv,
            environment(HARNESS_MOCK=str(STAND_IN), PYTHONPATH=_python_path(python_path), **extra),
        )

    @property
    def mock_log(self) -> Path:
        """Where the stand-in for mock notes each call, one JSON object a line."""
        return self.folder / "mock-calls.jsonl"

    def start(self) -> None:
        """Write kojid.conf and start; `Site.wait_builder` waits until it has checked in."""
        self._conf.write_text(self._text, encoding="utf-8")
        self.daemon.start()

    def stop(self) -> None:
        """Stop it in good order."""
        self.daemon.stop()

    def kill(self) -> None:
        """Cut its power: kill -9 to kojid, its tasks, mock and the builds in it, all at once."""
        self.daemon.kill()

    def crash(self) -> None:
        """kill -9 to kojid alone, and a new kojid beside the tasks that live on.

        Koji's own service is set up so: a restart of kojid ends no task.
        """
        self.daemon.crash()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def plugin_conf(self, name: str, text: Optional[str]) -> None:
        """Write /etc/kojid/plugins/NAME as builders see it, or remove it; restart for it."""
        path = self._layout.etc / "kojid/plugins" / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text, encoding="utf-8")
        if self.daemon.running:
            self.restart()


def kojira(layout: Layout, hub: Hub, koji: KojiSource, python_path: Sequence[Path]) -> Daemon:
    """A kojira, which makes the repositories that builders wait for; not started yet."""
    folder = layout.root / "kojira"
    folder.mkdir(exist_ok=True)
    conf = folder / "kojira.conf"
    text = _KOJIRA_CONF.format(hub=hub, topdir=layout.topdir, folder=folder)
    conf.write_text(text, encoding="utf-8")
    argv = [str(SYSTEM_PYTHON), str(koji.kojira), "-c", str(conf)]
    argv += ["-f", "-v", "--force-lock", "--user", "kojira", "--password", "kojira-pw"]
    return Daemon("kojira", layout, argv, environment(PYTHONPATH=_python_path(python_path)))
