# SPDX-License-Identifier: GPL-2.0-or-later
"""One whole Koji: database, hub, builder, kojira, with the trio of plugins installed.

`Site.start` gives a Koji in which release engineers' daily work can be done; `Site.stop` leaves
nothing running. What tests ask of it besides is in `people.py` (sessions, the command) and
`work.py` (builds, tasks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.koji.harness import people, world
from tests.koji.harness.builder import Builder, kojira
from tests.koji.harness.daemon import Daemon, DaemonError, wait_until
from tests.koji.harness.database import Database
from tests.koji.harness.hub import Hub
from tests.koji.harness.layout import Layout
from tests.koji.harness.settings import ROOT, Settings

HUB_PLUGIN = "sgx_enclaves_hub"
BUILDER_PLUGIN = "sgx_enclaves_builder"
_PLUGINS = ROOT / "koji_plugin"
MIGRATIONS = _PLUGINS / "hub/sql"


class Site:
    """A Koji on this machine.

    Attributes:
        layout: its scratch folder.
        database, hub, builder, kojira: its parts.
        version: Koji's version, such as "1.35.3".

    Args:
        settings: which Koji, which mock.
        layout: an empty scratch folder, or one of an earlier run.
        extra: more environment for the builders.
    """

    def __init__(self, settings: Settings, layout: Layout, extra: Mapping[str, str]) -> None:
        self.layout = layout
        self.version = settings.koji.version
        self._settings = settings
        self._extra = dict(extra)
        layout.make()
        modules = [settings.modules] if settings.modules else []
        self._python_path = [*settings.koji.python_path, ROOT, *modules]
        self.database = Database(layout)
        self.hub = Hub(
            layout,
            self.database.connection,
            self._python_path,
            [_PLUGINS / "hub"],
            [HUB_PLUGIN] if settings.plugins else [],
        )
        self.builder = self.new_builder(world.BUILDER)
        self.kojira: Daemon = kojira(layout, self.hub, settings.koji, self._python_path)
        self._more: list[Builder] = []

    def new_builder(self, host: str) -> Builder:
        """A builder of that name; its user and host must exist. It is not started."""
        return Builder(
            host,
            self.layout,
            self.hub,
            self._settings.koji,
            self._python_path,
            [_PLUGINS / "builder"],
            [BUILDER_PLUGIN] if self._settings.plugins else [],
            self._settings.real_mock,
            self._extra,
        )

    def start(self) -> None:
        """Start everything and make users, tags and targets; returns when a build can begin.

        Raises:
            DaemonError: a part did not come up; with the end of its log.
        """
        fresh = self.database.start()
        if fresh:
            self.database.load(self._settings.koji.schema)
            world.add_users(self.database)
            self.migrate()
        self.hub.start()
        if fresh:
            admin = self.session(world.ADMIN)
            world.add_tags(admin, self.database)
            if self._settings.plugins:
                admin.grantPermission(world.RELENG, world.PERMISSION)
        self.builder.start()
        self.wait_builder(self.builder)
        self.kojira.start()
        if fresh:
            self.make_repo(world.BUILD_TAG)

    def stop(self) -> None:
        """Stop everything, whatever state it is in."""
        builders = [builder.daemon for builder in (self.builder, *self._more)]
        for daemon in (self.kojira, *builders, self.hub.daemon, self.database.daemon):
            daemon.stop()

    def keep(self, builder: Builder) -> None:
        """Have one more builder stopped at the end."""
        self._more.append(builder)

    def migrate(self) -> None:
        """Load the hub plugin's SQL, in order of its names."""
        for path in sorted(MIGRATIONS.glob("[0-9]*.sql")):
            self.database.load(path)

    def make_repo(self, tag: str) -> None:
        """Make a build tag's repository again; without one, a build waits for a minute.

        Raises:
            DaemonError: it could not be made.
        """
        # Koji's command knows how each version's hub is asked.
        done = self.cli(world.ADMIN, "regen-repo", "--wait", tag)
        if done.status != 0:
            raise DaemonError(f"no repository for {tag}: {done.text}\n{self.logs()}")

    def session(self, user: str) -> Any:
        """A session of Koji's client library, logged in as `user`."""
        return people.session(self.hub.xmlrpc, user)

    def cli(self, user: str, *arguments: str) -> people.Done:
        """Run Koji's command as `user`, with our plugin for it."""
        command = people.Command(
            self._settings.koji,
            self._python_path,
            _PLUGINS / "cli",
            self.hub,
            self.layout,
        )
        return command.run(user, arguments)

    def wait_builder(self, builder: Builder) -> None:
        """Wait until a started builder has checked in with the hub.

        Raises:
            DaemonError: it has not within `PATIENCE`.
        """
        session = people.session(self.hub.xmlrpc, "")
        host = session.getHost(builder.host, strict=True)["id"]
        before = session.getLastHostUpdate(host, ts=True)

        def checked_in() -> bool:
            return bool(session.getLastHostUpdate(host, ts=True) != before)

        builder.daemon.wait_ready(checked_in)

    def wait_gone(self, builder: Builder) -> None:
        """Wait until a stopped builder's process is gone."""
        wait_until(lambda: not builder.daemon.running, f"{builder.host} is gone")

    def logs(self) -> str:
        """The ends of all logs, for a failed test's report."""
        parts = (self.hub.daemon, self.builder.daemon, self.kojira)
        return "\n".join(part.tail() for part in parts)
