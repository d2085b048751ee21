# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a site of the core's builder: toolchain, places, packages.

Steps run inside without a network and without the rights to leave, as far as the
buildroot's own programs can take these away; what could not be is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.errors import BuildError, SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.releases.build_sandbox import Command, Ended, Isolation, describe, log_header
from sgx_enclaves.releases.installed import InstalledPackage, installed_packages
from sgx_enclaves.releases.place import Place
from sgx_enclaves.releases.toolchain import ToolchainRecord
from sgx_enclaves.releases.toolchain_inside import record_inside
from sgx_enclaves.releases.toolchain_probe import resolve_in_root

from .chroot import Chroot, copy_log

_PROBE_TIMEOUT = 20.0
_KILL_AFTER = 10
_MAX_LOG = 256 * MIB
_TIMED_OUT, _KILLED = 124, 137
_UNSHARE = ("unshare", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--")
# Installers that run as root unpack with owners; nothing else is needed.
_SETPRIV = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid",
    "--inh-caps=-all",
)
_ROUTES = ("cat", "/proc/self/net/route", "/proc/self/net/ipv6_route")
_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")


@dataclass(frozen=True)
class Shutters:
    """How far steps can be shut off in a buildroot.

    Attributes:
        prefix: what comes before each command.
        network: whether steps can reach one.
        missing: what could not be done, in words.
    """

    prefix: tuple[str, ...]
    network: bool
    missing: tuple[str, ...]


def find_shutters(chroot: Chroot) -> Shutters:
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
    return Shutters(prefix, network, tuple(missing))


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


class KojiSite:
    """One buildroot; see `Site` and `Inside` of the core.

    Args:
        chroot: the buildroot.
        say: told what should be known.
    """

    isolation = Isolation.ROOT

    def __init__(self, chroot: Chroot, say: Callable[[str], None]) -> None:
        self.chroot = chroot
        self._records: dict[tuple[tuple[str, ...], str], ToolchainRecord] = {}
        self._packages: Optional[tuple[InstalledPackage, ...]] = None
        self.shutters = find_shutters(chroot)
        for missing in self.shutters.missing:
            say(f"warning: this buildroot gives the steps no {missing}")
        if self.shutters.network:
            say("warning: steps can reach a network in this buildroot")

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """See `Site`; looked at once, since only we run anything in there."""
        key = (tuple(names), path)
        if key not in self._records:
            self._records[key] = record_inside(names, path, self)
        return self._records[key]

    def open(self, scratch: Path, root: str) -> Place:
        """See `Site`."""
        return KojiPlace(self.chroot, self.shutters, scratch.name, root)

    def run_all(self, commands: Sequence[Sequence[str]], timeout: float) -> Any:
        """See `Inside`."""
        return self.chroot.run_all(commands, timeout)

    def put(self, name: str, data: bytes) -> str:
        """See `Inside`."""
        return self.chroot.put(name, data)

    def get(self, name: str, limit: int) -> bytes:
        """See `Inside`."""
        return self.chroot.get(name, limit)

    def packages(self) -> tuple[InstalledPackage, ...]:
        """See `Inside`: what RPM's database in the buildroot says, as it was before any step."""
        if self._packages is None:
            folders = [self.chroot.root / name for name in _DATABASES]
            here = next((folder for folder in folders if folder.is_dir()), None)
            self._packages = installed_packages(dbpath=str(here)) if here is not None else ()
        return self._packages


class KojiPlace:
    """Where one tree stands in a buildroot; see `Place` of the core.

    kojid removes the buildroot with the tree: by name it must not be done after
    strangers' programs have run there.

    Args:
        chroot: the buildroot.
        shutters: what shuts steps off.
        name: of this place among those of the buildroot.
        root: the path that the tree should have.
    """

    def __init__(self, chroot: Chroot, shutters: Shutters, name: str, root: str) -> None:
        self._chroot = chroot
        self._shutters = shutters
        self._name = name
        self.network = shutters.network
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
    def tree(self) -> Path:
        """See `Place`.

        Raises:
            BuildError: a step has moved it away and put a link in its place.
        """
        if self._tree.resolve() != self._real:
            raise BuildError("a step has put a link in the tree's place", file=self.root)
        return self._tree

    def run(self, command: Command, log: Path) -> Ended:
        """See `Place`."""
        start = time.monotonic()
        self._steps += 1
        name = f"{self._name}-{self._steps}"
        words = [f"{key}={value}" for key, value in command.environment.items()]
        argv = ["timeout", "-k", str(_KILL_AFTER), f"{command.timeout:g}"]
        argv += [*self._shutters.prefix, "env", "-i", *words, *command.argv]
        try:
            with self._chroot.create(f"{name}.log") as said:
                self._chroot.show(f"{name}.log", f"step-{log.name}")
                names = (f"{name}.log", f"{name}.status")
                how = self._chroot.launch(
                    argv, command.folder, command.umask, names, command.timeout
                )
                took = time.monotonic() - start
                ended = how_ended(self._status(names[1]), how, took, command.timeout)
                tail = f"# {describe(ended)} after {took:.1f} s\n"
                copy_log(said, log, log_header(command), tail, _MAX_LOG)
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
        """See `Place`; kojid removes what there is."""


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
