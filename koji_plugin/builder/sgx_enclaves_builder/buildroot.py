# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a place of the core: its programs, its packages, the trees that are built.

Steps are shut off in it: no network, no rights to leave. Koji and mock may have seen to that
already; here it is done by the buildroot's own util-linux besides, and the result is checked.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Optional

import koji

from sgx_enclaves.errors import BuildError, SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.place import (
    Command,
    Ended,
    InstalledPackage,
    Output,
    Tree,
    describe,
    installed_packages,
    log_header,
)

from .mock import Chroot
from .provenance import component_urls
from .task_base import X86_64, SgxTask

_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_PROBE_TIMEOUT = 20.0
_UNSHARE = ("unshare", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--")
# Installers that run as root unpack with owners; nothing else is needed.
_SETPRIV = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid",
    "--inh-caps=-all",
)
_ROUTES = ("cat", "/proc/self/net/route", "/proc/self/net/ipv6_route")
# mask, folder, command
_STEP = 'umask "$1" && cd "$2" && shift 2 && exec "$@"'
_KILL_AFTER = 10
_MAX_LOG = 256 * MIB
_TIMED_OUT, _KILLED = 124, 137
_LINKS = 40


class KojiBuildroot:
    """The buildroot of a task; see `Place` of the core.

    It is made when the core first asks for anything, and given back at the end of a `with`
    block; kojid removes it.
    """

    # Koji makes it for this task alone.
    isolated = True

    def __init__(self, task: SgxTask, build_tag: str, repo_id: int) -> None:
        self.build_tag = build_tag
        self._repo_id = repo_id
        self._task = task
        self._broot: Any = None
        self._entered: Optional[tuple[Chroot, Isolation]] = None
        self._packages: Optional[tuple[InstalledPackage, ...]] = None

    def __enter__(self) -> KojiBuildroot:
        return self

    def __exit__(self, *_error: object) -> None:
        """Give it back."""
        if self._entered is not None:
            self._entered[0].close()
        if self._broot is not None:
            self._broot.expire()

    @property
    def made(self) -> bool:
        """Whether it was needed."""
        return self._entered is not None

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        """See `Place` of the core."""
        return self._enter()[0].run_all(commands, timeout)

    def packages(self) -> tuple[InstalledPackage, ...]:
        """See `Place`: what RPM's database in the buildroot says, as it was before any step."""
        if self._packages is None:
            root = self._enter()[0].root
            here = next((root / name for name in _DATABASES if (root / name).is_dir()), None)
            urls = component_urls(self._task.session, self._broot.id, self._task.options.topurl)
            self._packages = () if here is None else installed_packages(urls=urls, dbpath=str(here))
        return self._packages

    def open(self, scratch: Path, root: str) -> Tree:
        """See `Place` of the core."""
        # a step could change them
        self.packages()
        return BuildrootTree(*self._enter(), scratch.name, root)

    def _enter(self) -> tuple[Chroot, Isolation]:
        if self._entered is None:
            chroot = self._make()
            isolation = probe_isolation(chroot)
            for missing in isolation.missing:
                self._task.log(f"warning: this buildroot gives the steps no {missing}")
            if isolation.network:
                self._task.log("warning: steps can reach a network in this buildroot")
            self._entered = chroot, isolation
        return self._entered

    def _make(self) -> Chroot:
        options, session = self._task.options, self._task.session
        mockdir = Path(options.mockdir)
        there = next(path for path in (mockdir, *mockdir.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < self._task.config.min_space:
            raise koji.BuildrootError(
                f"too little room in {mockdir}: {free} bytes are free, "
                f"{self._task.config.min_space} are wanted ([build] min_space_mib)"
            )
        self._task.log(f"buildroot of tag {self.build_tag}, repo {self._repo_id}")
        # kojid is a program, not a module: its classes are in `__main__`
        kojid: Any = sys.modules["__main__"]
        self._broot = kojid.BuildRoot(
            session, options, self.build_tag, X86_64, self._task.id, repo_id=self._repo_id
        )
        self._broot.workdir = self._task.workdir
        self._broot.init()
        session.host.setBuildRootState(self._broot.id, "BUILDING")
        self._task.log(f"buildroot {self._broot.id}, {self._broot.name}")
        return Chroot(self._broot)


@dataclass(frozen=True)
class Isolation:
    """What shuts steps off: before each command; whether a network is left; what is missing."""

    prefix: tuple[str, ...]
    network: bool
    missing: tuple[str, ...]


def probe_isolation(chroot: Chroot) -> Isolation:
    """Try what the buildroot's programs can do."""
    commands = [[*_UNSHARE, "true"], [*_SETPRIV, "true"], [*_UNSHARE, *_ROUTES], _ROUTES]
    unshare, setpriv, inner, outer = chroot.run_all(commands, _PROBE_TIMEOUT)
    tried = (
        (unshare, _UNSHARE, "processes of their own"),
        (setpriv, _SETPRIV, "fewer rights"),
    )
    prefix = [word for answer, words, _what in tried if answer.status == 0 for word in words]
    missing = [
        f"{what}: {' '.join(answer.text.split())[:200]}"
        for answer, _words, what in tried
        if answer.status != 0
    ]
    routes = inner if unshare.status == 0 else outer
    # what cannot be seen counts as a way out
    network = routes.status != 0 or has_routes(routes.text)
    return Isolation(tuple(prefix), network, tuple(missing))


def has_routes(text: str) -> bool:
    """Whether the routing tables lead away from the machine: `/proc/net/route`, `…/ipv6_route`."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return any(line[0] not in ("Iface", "lo") and line[-1] != "lo" for line in lines)


def place_in_root(root: Path, path: str) -> Path:
    """Where a path leads for a process inside the root; what is missing there has no links."""
    pending, done, links = path.split("/")[::-1], [str(root)], 0
    while pending:
        part = pending.pop()
        if part == "..":
            del done[max(1, len(done) - 1) :]
        elif part not in ("", ".") and not os.path.islink("/".join([*done, part])):
            done.append(part)
        elif part not in ("", "."):
            target = os.readlink("/".join([*done, part]))
            links += 1
            if links > _LINKS:
                raise BuildError("leads through too many links", file=path)
            del done[1 if target.startswith("/") else len(done) :]
            pending += target.split("/")[::-1]
    return Path("/".join(done))


class BuildrootTree:
    """Where one tree stands in a buildroot; see `Tree` of the core.

    kojid removes the buildroot with the tree: by name it must not be done after
    strangers' programs have run there.
    """

    def __init__(self, chroot: Chroot, isolation: Isolation, name: str, root: str) -> None:
        self._chroot = chroot
        self._isolation = isolation
        self._name = name
        self.network = isolation.network
        self.home = chroot.make_folder(f"home-{name}")
        self.root = os.path.normpath(root)
        self._tree = place_in_root(chroot.root, self.root)
        self.fixed = not self._tree.exists()
        if not self.fixed:
            self.root = f"{chroot.make_folder(f'place-{name}')}/tree"
            self._tree = place_in_root(chroot.root, self.root)
        self._tree.parent.mkdir(parents=True, exist_ok=True)
        self._real = self._tree.resolve()
        self._steps = 0

    @property
    def path(self) -> Path:
        """See `Tree`."""
        if self._tree.resolve() != self._real:
            raise BuildError("a step has put a link in the tree's place", file=self.root)
        return self._tree

    def run(self, command: Command, log: Path) -> Ended:
        """See `Tree`."""
        start = time.monotonic()
        self._steps += 1
        name = f"{self._name}-{self._steps}"
        chroot, timeout = self._chroot, command.timeout
        argv = ["/bin/sh", "-c", _STEP, "sh", f"{command.umask:04o}", command.folder]
        argv += ["timeout", "-k", str(_KILL_AFTER), f"{timeout:g}", *self._isolation.prefix]
        argv += ["env", "-i", *(f"{key}={value}" for key, value in command.environment.items())]
        try:
            with chroot.create(f"{name}.log") as said:
                # so that whoever watches sees at once what has begun
                said.write(log_header(command).encode("utf-8", "replace"))
                said.flush()
                shown = chroot.show(f"{name}.log", f"step-{log.name}")
                how = chroot.run({name: [*argv, *command.argv]}, timeout)
                took = time.monotonic() - start
                ended = how_ended(self._status(name), how, took, timeout)
                _copy_log(said, log, f"# {describe(ended)} after {took:.1f} s\n")
                if not shown:
                    chroot.upload(log, f"step-{log.name}")
                return ended
        except OSError as error:
            took = time.monotonic() - start
            problem = f"cannot be run and logged: {error.strerror}"
            return Ended(None, False, problem, int(took * 1000))

    def _status(self, name: str) -> str:
        try:
            return self._chroot.get(f"{name}.status", 16).decode("ascii", "replace").strip()
        except SgxEnclavesError:
            return ""

    def close(self) -> None:
        """See `Tree`; kojid removes what there is."""


def _copy_log(source: IO[bytes], target: Path, tail: str) -> None:
    """Write a log: what the source holds, up to a limit, then the tail."""
    source.seek(0)
    with target.open("wb") as out:
        left = _MAX_LOG
        while left and (chunk := source.read(min(MIB, left))):
            out.write(chunk)
            left -= len(chunk)
        out.write(tail.encode("utf-8", "replace"))


def how_ended(status: str, mock: str, seconds: float, timeout: float) -> Ended:
    """From the status that a shell wrote down, if it did, and how mock ended, in words."""
    took = int(seconds * 1000)
    if not status.isdigit():
        problem = f"did not come to its end: mock {mock}; see mock_output.log and root.log"
        return Ended(None, False, problem, took)
    code = int(status)
    if code in (_TIMED_OUT, _KILLED) and seconds >= timeout:
        return Ended(None, True, None, took)
    # a shell's way to say that a signal ended it
    return Ended(128 - code if code > 128 else code, False, None, took)
