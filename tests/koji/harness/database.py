# SPDX-License-Identifier: GPL-2.0-or-later
"""A PostgreSQL cluster of our own, on a unix socket only."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.koji.harness.daemon import PATIENCE, Daemon, DaemonError, environment
from tests.koji.harness.layout import Layout

_PORT = "5599"
_USER = "postgres"
# It is thrown away: a crash of the machine may lose it.
_CONF = """
listen_addresses = ''
port = {port}
unix_socket_directories = '{socket}'
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 100
"""


def _program(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps off the PATH."""
    for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True):
        return str(path)
    found = shutil.which(name)
    if found is None:
        raise DaemonError(f"PostgreSQL's {name} is not installed")
    return found


class Database:
    """Koji's database: start it, then `load` Koji's schema and what the plugins bring."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fresh = not layout.cluster.exists()
        self.daemon = Daemon(
            "postgres",
            layout,
            [_program("postgres"), "-D", str(layout.cluster)],
            environment(),
            user=_USER,
            stop_signal=signal.SIGINT,
        )

    @property
    def connection(self) -> str:
        """The connection string for hub.conf."""
        return f"dbname=koji user=koji host={self._layout.socket} port={_PORT}"

    def start(self) -> bool:
        """Start it; true if it is empty still."""
        if self._fresh:
            self._create()
        self.daemon.start()
        self.daemon.wait_ready(self._answers)
        if not self._fresh:
            return False
        self._psql("postgres", "create role koji login; create database koji owner koji", _USER)
        self._fresh = False
        return True

    def another(self, name: str) -> None:
        """Make one more, empty database, for what must not touch the hub's."""
        self._psql("postgres", f"create database {name} owner koji", _USER)

    def load(self, path: Path, database: str = "koji") -> None:
        """Run a file of SQL as Koji's own user, until its first error."""
        self._psql(database, path.read_text(encoding="utf-8"), "koji")

    def execute(self, sql: str, database: str = "koji") -> None:
        """Run statements.

        Raises:
            DaemonError: the database refuses one.
        """
        self._psql(database, sql, "koji")

    def query(self, sql: str, database: str = "koji") -> list[dict[str, Any]]:
        """The rows of one SELECT."""
        wrapped = f"select coalesce(json_agg(q), '[]') from ({sql}) q"  # noqa: S608 - the tests' own
        text = self._psql(database, wrapped, "koji")
        rows: list[dict[str, Any]] = json.loads(text)
        return rows

    def _create(self) -> None:
        cluster = self._layout.cluster
        cluster.mkdir(mode=0o700)
        shutil.chown(cluster, _USER, _USER)
        shutil.chown(self._layout.socket, _USER, _USER)
        argv = [_program("initdb"), "-D", str(cluster), "-A", "trust", "-E", "UTF8", "--no-sync"]
        self._run([*argv, "--locale=C.UTF-8"])
        with (cluster / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(_CONF.format(port=_PORT, socket=self._layout.socket))

    def _answers(self) -> bool:
        try:
            self._psql("postgres", "select 1", _USER)
        except DaemonError:
            return False
        return True

    def _psql(self, database: str, sql: str, user: str) -> str:
        argv = [_program("psql"), "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"]
        argv += ["-h", str(self._layout.socket), "-p", _PORT, "-U", user, database]
        return self._run(argv, sql)

    def _run(self, argv: list[str], text: str = "") -> str:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd="/",
            env=environment(),
            user=_USER,
            group=_USER,
            extra_groups=[],
        )
        if done.returncode != 0:
            raise DaemonError(f"{Path(argv[0]).name}: {done.stderr.strip()}")
        return done.stdout.strip()
