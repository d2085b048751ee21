# SPDX-License-Identifier: GPL-2.0-or-later
"""The chroot: makes it, puts packages in, runs commands in it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Optional

from tests.koji.machine import namespaces
from tests.koji.machine.standin.repository import Offer, Repository, download
from tests.koji.machine.standin.request import Config

_FOLDERS = ("usr/bin", "etc", "dev", "proc", "sys", "run", "root", "opt", "builddir", "var/log")
_BUILD = ("BUILD", "BUILDROOT", "RPMS", "SRPMS", "SOURCES", "SPECS", "originals")
_OPEN = ("tmp", "var/tmp", "chroot_tmpdir")
_LINKS = ("bin", "sbin", "lib", "lib64")
_DATABASE = "var/lib/rpm"
# What RPM-based distributions have as /bin/sh; Koji's own tasks rely on it.
_SHELL = "bash"


class Chroot:
    """One buildroot."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.root = config.root

    def make(self, say: Callable[[str], None]) -> None:
        """Make it and install the packages of its group."""
        for name in (*_FOLDERS, *_OPEN, _DATABASE, *(f"builddir/build/{n}" for n in _BUILD)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in _OPEN:
            (self.root / name).chmod(0o1777)
        for name in _LINKS:
            link = self.root / name
            if Path("/", name).is_symlink() and not link.is_symlink():
                link.symlink_to(os.readlink(f"/{name}"))
        shell = self.root / "usr/bin/sh"
        if not shell.is_symlink():
            shell.symlink_to(_SHELL)
        macros = [f"{name} {value}\n" for name, value in sorted(self._config.macros.items())]
        (self.root / "builddir/.rpmmacros").write_text("".join(macros), encoding="utf-8")
        subprocess.run(["rpmdb", "--dbpath", str(self.root / _DATABASE), "--initdb"], check=True)
        for repository in self._repositories():
            self._install(repository.satisfying(repository.group(self._config.group)), say)

    def install(self, wanted: Iterable[str], say: Callable[[str], None]) -> None:
        """Install what provides these names, if a repository has it."""
        names = list(wanted)
        for repository in self._repositories():
            self._install(repository.satisfying(names), say)

    def _repositories(self) -> list[Repository]:
        return [Repository(url) for url in self._config.repositories]

    def _install(self, offers: Sequence[Offer], say: Callable[[str], None]) -> None:
        """Unpack packages and register them."""
        with tempfile.TemporaryDirectory() as folder:
            for offer in offers:
                path = download(offer.url, Path(folder, offer.url.rpartition("/")[2]))
                if self._registered(path):
                    continue
                say(f"installing {path.name}")
                self._unpack(path)
                database = ["--dbpath", str(self.root / _DATABASE), "--justdb"]
                checks = ["--nodeps", "--noscripts", "--nosignature", "--ignorearch", "--ignoreos"]
                subprocess.run(["rpm", *database, *checks, "-i", str(path)], check=True)

    def _registered(self, path: Path) -> bool:
        query = ["rpm", "-qp", "--nosignature", "--qf", "%{NAME}-%{VERSION}-%{RELEASE}", str(path)]
        nvr = subprocess.run(query, check=True, capture_output=True, text=True).stdout
        asked = ["rpm", "--dbpath", str(self.root / _DATABASE), "-q", nvr]
        return subprocess.run(asked, check=False, capture_output=True).returncode == 0

    def _unpack(self, path: Path) -> None:
        cpio = ["cpio", "--extract", "--make-directories", "--unconditional", "--quiet"]
        with subprocess.Popen(["rpm2cpio", str(path)], stdout=subprocess.PIPE) as payload:
            subprocess.run(
                [*cpio, "--preserve-modification-time"],
                stdin=payload.stdout,
                cwd=self.root,
                check=True,
            )

    def run(self, argv: Sequence[str], cwd: str, log: Optional[Path] = None) -> int:
        """Run a command in it; its exit status.

        Args:
            argv: program and arguments.
            cwd: a folder of the chroot.
            log: file that gets its output; ours by default.
        """
        environ = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/builddir", "LANG": "C.UTF-8"}
        environ.update(TERM="vt100", SHELL="/bin/bash", HOSTNAME="mock")
        environ.update(self._config.environment)
        if log is None:
            return self._fork(argv, cwd, environ, None)
        with log.open("ab") as file:
            file.write(f"running {' '.join(argv)}\n".encode())
            file.flush()
            return self._fork(argv, cwd, environ, file.fileno())

    def _fork(
        self, argv: Sequence[str], cwd: str, environ: dict[str, str], output: Optional[int]
    ) -> int:
        """Run it in a grandchild: the child has the namespaces, its child is first in them."""
        pid = os.fork()
        if pid != 0:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = 127
        try:
            namespaces.die_with_parent()
            if output is not None:
                os.dup2(output, 1)
                os.dup2(output, 2)
            network = 0 if self._config.network else namespaces.NEW_NETWORK
            namespaces.unshare(namespaces.NEW_MOUNTS | namespaces.NEW_PIDS | network)
            first = os.fork()
            if first == 0:
                namespaces.die_with_parent()
                self._enter(cwd)
                os.execvpe(argv[0], list(argv), environ)  # noqa: S606 - argv, no shell
            code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
            status = code if code >= 0 else 128 - code
        except OSError as error:
            os.write(2, f"{argv[0]}: {error}\n".encode())
        os._exit(status)

    def _enter(self, cwd: str) -> None:
        for name in ("usr", "etc"):
            folder = self.root / name
            namespaces.lay_over(folder, Path("/", name), folder)
        namespaces.bind(Path("/dev"), self.root / "dev", deep=True)
        namespaces.mount_proc(self.root / "proc")
        os.chroot(self.root)
        os.chdir(cwd)
