# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one tree stands in a buildroot, and its steps run; a place of the core's builder."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sgx_enclaves.errors import BuildError, SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.releases.build_sandbox import Command, Ended, describe, log_header
from sgx_enclaves.releases.toolchain_probe import resolve_in_root

from .chroot import Chroot, copy_log
from .shutters import Shutters

_KILL_AFTER = 10
_MAX_LOG = 256 * MIB
_TIMED_OUT, _KILLED = 124, 137


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
