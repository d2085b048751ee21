# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a place of the core: its programs, its packages, the trees that are built.

Steps are shut off in it: no network, no rights to leave. Koji and mock may have seen to that
already; here it is done by the buildroot's own util-linux besides, and the result is checked.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Optional

import koji

from sgx_enclaves.errors import BuildError, SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.installed import InstalledPackage, installed_packages
from sgx_enclaves.release.place import Command, Ended, Output, Tree, describe, log_header

from .config import Config
from .mock import Chroot
from .provenance import component_urls
from .task_base import X86_64, SgxTask, TaskLog

_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_CHUNK = 1 << 20


def new_buildroot(*args: Any, **keywords: Any) -> Any:
    """A new `BuildRoot` of kojid's, with the arguments that it takes.

    kojid is a program, not a module: its classes are in `__main__` once it has started.
    Tests put stand-ins there.
    """
    return importlib.import_module("__main__").BuildRoot(*args, **keywords)


class KojiBuildroot:
    """The buildroot of a task; see `Place` of the core.

    It is made when the core first asks for anything, and given back at the end of a `with`
    block; kojid removes it.

    Args:
        task: the task handler.
        config: the plugin's.
        log: where it is written how it goes.
        build_tag: name of the tag whose repository makes it.
        repo_id: of that repository.
    """

    # Koji makes it for this task alone.
    isolated = True

    def __init__(
        self, task: SgxTask, config: Config, log: TaskLog, build_tag: str, repo_id: int
    ) -> None:
        self.build_tag = build_tag
        self.repo_id = repo_id
        self._task = task
        self._config = config
        self._log = log
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
        chroot, _isolation = self._enter()
        return chroot.run_all(commands, timeout)

    def packages(self) -> tuple[InstalledPackage, ...]:
        """See `Place`: what RPM's database in the buildroot says, as it was before any step."""
        if self._packages is None:
            chroot, _isolation = self._enter()
            folders = [chroot.root / name for name in _DATABASES]
            here = next((folder for folder in folders if folder.is_dir()), None)
            session, options = self._task.session, self._task.options
            urls = component_urls(session, self._broot.id, options.topurl)
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
                self._log(f"warning: this buildroot gives the steps no {missing}")
            if isolation.network:
                self._log("warning: steps can reach a network in this buildroot")
            self._entered = chroot, isolation
        return self._entered

    def _make(self) -> Chroot:
        options, session = self._task.options, self._task.session
        free = free_space(Path(options.mockdir))
        if free < self._config.min_space:
            raise koji.BuildrootError(
                f"too little room in {options.mockdir}: {free} bytes are free, "
                f"{self._config.min_space} are wanted ([build] min_space_mib)"
            )
        self._log(f"buildroot of tag {self.build_tag}, repo {self.repo_id}")
        self._broot = new_buildroot(
            session, options, self.build_tag, X86_64, self._task.id, repo_id=self.repo_id
        )
        self._broot.workdir = self._task.workdir
        self._broot.init()
        session.host.setBuildRootState(self._broot.id, "BUILDING")
        self._log(f"buildroot {self._broot.id}, {self._broot.name}")
        return Chroot(self._broot)


def free_space(folder: Path) -> int:
    """Bytes that are free where a directory is, or will be."""
    here = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(here).free


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


@dataclass(frozen=True)
class Isolation:
    """How far steps can be shut off in a buildroot.

    Attributes:
        prefix: what comes before each command.
        network: whether steps can reach one.
        missing: what could not be done, in words.
    """

    prefix: tuple[str, ...]
    network: bool
    missing: tuple[str, ...]


def probe_isolation(chroot: Chroot) -> Isolation:
    """Try what the buildroot's programs can do."""
    commands = [[*_UNSHARE, "true"], [*_SETPRIV, "true"], [*_UNSHARE, *_ROUTES], _ROUTES]
    unshare, setpriv, inner, outer = chroot.run_all(commands, _PROBE_TIMEOUT)
    prefix: tuple[str, ...] = ()
    missing = []
    routes = outer
    if unshare.status == 0:
        prefix, routes = _UNSHARE, inner
    else:
        missing.append(f"processes of their own: {_short(unshare.text)}")
    if setpriv.status == 0:
        prefix += _SETPRIV
    else:
        missing.append(f"fewer rights: {_short(setpriv.text)}")
    # what cannot be seen counts as a way out
    network = routes.status != 0 or has_routes(routes.text)
    return Isolation(prefix, network, tuple(missing))


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def has_routes(text: str) -> bool:
    """Whether the kernel's routing tables lead anywhere but to the machine itself.

    Args:
        text: `/proc/net/route`, which has a header unless there is no table at all,
            then `/proc/net/ipv6_route`.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return any(line[0] not in ("Iface", "lo") and line[-1] != "lo" for line in lines)


def copy_log(source: IO[bytes], target: Path, tail: str, most: int) -> None:
    """Write a log: what the source holds up to a number of bytes, then the tail.

    Raises:
        OSError: it cannot be written.
    """
    source.seek(0)
    with target.open("wb") as out:
        left = most
        while left > 0:
            chunk = source.read(min(_CHUNK, left))
            if not chunk:
                break
            out.write(chunk)
            left -= len(chunk)
        out.write(tail.encode("utf-8", "replace"))


_KILL_AFTER = 10
_MAX_LOG = 256 * MIB
_TIMED_OUT, _KILLED = 124, 137
_LINKS = 40


def resolve_in_root(root: str, path: str) -> Optional[str]:
    """Follow symbolic links as a process inside the root would; None if it leads nowhere."""
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            del done[len(done) - (part == "..") :]
            continue
        here = f"{root}/{'/'.join([*done, part])}"
        try:
            target = os.readlink(here)
        except OSError:
            if not os.path.lexists(here):
                return None
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        if target.startswith("/"):
            done = []
        pending = [piece for piece in target.split("/") if piece] + pending
    return "/" + "/".join(done)


class BuildrootTree:
    """Where one tree stands in a buildroot; see `Tree` of the core.

    kojid removes the buildroot with the tree: by name it must not be done after
    strangers' programs have run there.

    Args:
        chroot: the buildroot.
        isolation: what shuts steps off.
        name: of this tree among those of the buildroot.
        root: the path that the tree should have.
    """

    def __init__(self, chroot: Chroot, isolation: Isolation, name: str, root: str) -> None:
        self._chroot = chroot
        self._isolation = isolation
        self._name = name
        self.network = isolation.network
        self.home = chroot.make_folder(f"home-{name}")
        self.root = os.path.normpath(root)
        self.fixed = self._is_free(self.root)
        if not self.fixed:
            self.root = f"{chroot.make_folder(f'place-{name}')}/tree"
        self._tree = self._outside(self.root)
        self._tree.parent.mkdir(parents=True, exist_ok=True)
        self._real = self._tree.resolve()
        self._steps = 0

    def _is_free(self, root: str) -> bool:
        return resolve_in_root(str(self._chroot.root), root) is None

    def _outside(self, path: str) -> Path:
        """A path that is not there yet, as this process sees it; links are the buildroot's."""
        base = str(self._chroot.root)
        here, rest = path, ""
        while True:
            found = resolve_in_root(base, here)
            if found is not None:
                return Path(f"{base}{found}{rest}")
            here, _, name = here.rpartition("/")
            rest = f"/{name}{rest}"

    @property
    def path(self) -> Path:
        """See `Tree`.

        Raises:
            BuildError: a step has moved it away and put a link in its place.
        """
        if self._tree.resolve() != self._real:
            raise BuildError("a step has put a link in the tree's place", file=self.root)
        return self._tree

    def run(self, command: Command, log: Path) -> Ended:
        """See `Tree`."""
        start = time.monotonic()
        self._steps += 1
        name = f"{self._name}-{self._steps}"
        words = [f"{key}={value}" for key, value in command.environment.items()]
        argv = ["timeout", "-k", str(_KILL_AFTER), f"{command.timeout:g}"]
        argv += [*self._isolation.prefix, "env", "-i", *words, *command.argv]
        try:
            with self._chroot.create(f"{name}.log") as said:
                # so that whoever watches sees at once what has begun
                said.write(log_header(command).encode("utf-8", "replace"))
                said.flush()
                shown = self._chroot.show(f"{name}.log", f"step-{log.name}")
                names = (f"{name}.log", f"{name}.status")
                how = self._chroot.launch(
                    argv, command.folder, command.umask, names, command.timeout
                )
                took = time.monotonic() - start
                ended = how_ended(self._status(names[1]), how, took, command.timeout)
                tail = f"# {describe(ended)} after {took:.1f} s\n"
                copy_log(said, log, tail, _MAX_LOG)
                if not shown:
                    self._chroot.upload(log, f"step-{log.name}")
                return ended
        except OSError as error:
            took = time.monotonic() - start
            problem = f"cannot be run and logged: {error.strerror}"
            return Ended(None, False, problem, int(took * 1000))

    def _status(self, name: str) -> str:
        try:
            return self._chroot.get(name, 16).decode("ascii", "replace").strip()
        except SgxEnclavesError:
            return ""

    def close(self) -> None:
        """See `Tree`; kojid removes what there is."""


def how_ended(status: str, mock: str, seconds: float, timeout: float) -> Ended:
    """From the status that a shell wrote down.

    Args:
        status: the text; empty if none was written.
        mock: how mock itself ended, in words.
        seconds: how long it took.
        timeout: how long it might.
    """
    took = int(seconds * 1000)
    if not status.isdigit():
        problem = f"did not come to its end: mock {mock}; see mock_output.log and root.log"
        return Ended(None, False, problem, took)
    code = int(status)
    if code in (_TIMED_OUT, _KILLED) and seconds >= timeout:
        return Ended(None, True, None, took)
    # a shell's way to say that a signal ended it
    return Ended(128 - code if code > 128 else code, False, None, took)
