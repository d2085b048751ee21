# SPDX-License-Identifier: GPL-2.0-or-later
"""The hub: its configuration, and the web server that it runs in."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import koji

from tests.koji.harness.daemon import Daemon, DaemonError, environment
from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import MACHINE, SYSTEM_PYTHON

_WORKERS = 3
_CONF = """[hub]
DBConnectionString = {connection}
KojiDir = {topdir}
LoginCreatesUser = Off
DisableNotifications = True
KojiWebURL = {url}/koji
PluginPath = {plugin_path}
Plugins = {plugins}
KojiTraceback = normal
VerbosePolicy = True
LogLevel = INFO
RunInterval = 1
RepoAutoLag = 0
RepoLag = 0

[policy]
{policy}
"""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def policy_text(policy: Mapping[str, str]) -> str:
    """Policies, name to rules, as a [policy] section has them."""
    lines = []
    for name, rules in policy.items():
        lines.append(f"{name} =")
        lines += [f"    {rule.strip()}" for rule in rules.strip().splitlines()]
    return "\n".join(lines)


class Hub:
    """A real kojihub behind a web server on 127.0.0.1.

    Args:
        layout: its scratch folder.
        connection: connection string of its database.
        python_path: folders that Koji, the plugins and the core are imported from.
        plugin_path: folders of hub plugins.
        plugins: their names.
    """

    def __init__(
        self,
        layout: Layout,
        connection: str,
        python_path: Sequence[Path],
        plugin_path: Sequence[Path],
        plugins: Sequence[str],
    ) -> None:
        self._layout = layout
        self._connection = connection
        self._plugin_path = list(plugin_path)
        self._plugins = list(plugins)
        self._policy: dict[str, str] = {}
        self.port = free_port()
        argv = [str(SYSTEM_PYTHON), "-m", "gunicorn", "--workers", str(_WORKERS)]
        argv += ["--bind", f"127.0.0.1:{self.port}", "--timeout", "300"]
        argv += ["--graceful-timeout", "5", "--worker-tmp-dir", str(layout.root)]
        argv += ["--log-level", "warning", "application:application"]
        self.daemon = Daemon(
            "hub",
            layout,
            argv,
            environment(
                HARNESS_HUB_CONF=str(layout.hub_conf),
                HARNESS_TOPDIR=str(layout.topdir),
                PYTHONPATH=os.pathsep.join(map(str, [MACHINE, *python_path])),
            ),
        )

    @property
    def url(self) -> str:
        """Where the web server is, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def xmlrpc(self) -> str:
        """The URL that clients call."""
        return f"{self.url}/kojihub"

    @property
    def files(self) -> str:
        """The URL of the hub's files, Koji's `topurl`."""
        return f"{self.url}/kojifiles"

    def start(self) -> None:
        """Write hub.conf, start, wait until it answers."""
        self._write_conf()
        self.daemon.start()
        self.daemon.wait_ready(self._answers)
        try:
            koji.ClientSession(self.xmlrpc).getAPIVersion()
        except koji.ServerOffline as error:
            raise DaemonError(
                f"the hub calls itself offline: {error}\n{self.daemon.tail()}"
            ) from None

    def stop(self) -> None:
        """Stop it; requests under way get a few seconds."""
        self.daemon.stop()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def set_policy(self, policy: Mapping[str, str]) -> None:
        """Have exactly these policies, and restart for it. Name to rules, one a line."""
        self._policy = dict(policy)
        if self.daemon.running:
            self.restart()

    def add_plugin(self, folder: Path, name: str) -> None:
        """Have one more plugin, and restart for it."""
        self._plugin_path.append(folder)
        self._plugins.append(name)
        self.restart()

    def remove_plugin(self, name: str) -> None:
        """Take a plugin out again, and restart for it."""
        self._plugins.remove(name)
        self.restart()

    def plugin_conf(self, name: str, text: Optional[str]) -> None:
        """Write /etc/koji-hub/plugins/NAME as the hub sees it, or remove it; restart for it."""
        path = self._layout.etc / "koji-hub/plugins" / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text, encoding="utf-8")
        if self.daemon.running:
            self.restart()

    def _write_conf(self) -> None:
        text = _CONF.format(
            connection=self._connection,
            topdir=self._layout.topdir,
            url=self.url,
            plugin_path=":".join(map(str, self._plugin_path)),
            plugins=" ".join(self._plugins),
            policy=policy_text(self._policy),
        )
        self._layout.hub_conf.write_text(text, encoding="utf-8")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.files + "/", timeout=5):  # noqa: S310 - http, ours
                return True
        except (urllib.error.URLError, OSError):
            return False
