# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a place of the core: its programs, its packages, the trees that are built.

Steps are shut off in it: no network, no rights to leave. Koji and mock may have seen to that
already; here it is done by the buildroot's own util-linux besides, and the result is checked.

Whoever builds in the buildroot is root in it and may change every name. So a directory of ours
is held open in it, and no link is followed there. The shell programs below are constants; what
they work on are their arguments.

kojid itself waits for mock without a deadline. When ours passes, the programs that were started
are ended: nothing is raised into kojid's code, which may be talking to the hub.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Optional

from sgx_enclaves.errors import BuildError
from sgx_enclaves.limits import MIB, at_most
from sgx_enclaves.release import place
from sgx_enclaves.release.sandbox import MAX_LOG, PROBE_TIMEOUT, RPM_DATABASES

from .provenance import component_urls
from .task_base import X86_64, SgxTask

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
_TIMED_OUT, _KILLED = 124, 137
# mock cleans up after itself when it is asked to end, if it is given the time
_GRACE = 20.0
_OWN = "sgx-enclaves"
# folder, then files of one command each, its words ended by NUL
_BATCH = """\
cd "$1" || exit 125
shift
for file; do
    mapfile -d '' -t words <"$file"
    "${words[@]}" >>"$file.log" 2>&1 </dev/null
    echo "$?" >"$file.status"
done
"""
# to enter and leave the buildroot, however slow the disk
_ENTRY = 300.0


@contextlib.contextmanager
def children_end_within(seconds: float) -> Iterator[threading.Event]:
    """Ask all children to end if the block takes longer, which sets the event; kill them later."""
    passed = threading.Event()

    def ring(_number: int, _frame: Optional[FrameType]) -> None:
        how = signal.SIGKILL if passed.is_set() else signal.SIGTERM
        passed.set()
        for process in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(process, how)
        signal.setitimer(signal.ITIMER_REAL, _GRACE)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield passed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def descendants(process: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name before may hold anything, even brackets
            parents[int(path.parent.name)] = int(path.read_bytes().rpartition(b")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


class Chroot:
    """A `BuildRoot` of kojid's that is ready; see `Place` of the core."""

    # Koji makes it for one task alone.
    isolated = True
    # what shuts a step off, before its command; whether steps can reach a network all the same
    prefix: tuple[str, ...] = ()
    network = True

    def __init__(self, broot: Any) -> None:
        self.broot = broot
        self.root = Path(broot.rootdir())
        self.inside = f"{broot.tmpdir(within=True)}/{_OWN}"
        self.folder = Path(broot.tmpdir()) / _OWN
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        # before any step, which could change them
        folders = [self.root / name for name in RPM_DATABASES]
        here = next((str(folder) for folder in folders if folder.is_dir()), None)
        urls = component_urls(broot.session, broot.id, broot.options.topurl)
        self._packages = () if here is None else place.installed_packages(urls=urls, dbpath=here)
        self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def make_folder(self, name: str) -> str:
        """Make a directory in ours; returns its path as seen from inside."""
        os.mkdir(name, 0o755, dir_fd=self._fd)
        return f"{self.inside}/{name}"

    def create(self, name: str) -> IO[bytes]:
        """Make a file in our directory, to be written and read; an older one is left unlinked."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o644, dir_fd=self._fd), "w+b")

    def show(self, name: str, as_name: str) -> bool:
        """Let kojid's watcher see a file of ours grow; false where it is on another file system."""
        shown = Path(self.broot.resultdir()) / as_name
        with contextlib.suppress(OSError):
            shown.unlink(missing_ok=True)
            os.link(name, shown, src_dir_fd=self._fd, follow_symlinks=False)
            return True
        return False

    def packages(self) -> tuple[place.LockedPackage, ...]:
        """See `Place`: what RPM's database in the buildroot said before any step."""
        return self._packages

    def open(self, scratch: Path, root: str) -> place.Tree:
        """See `Place`."""
        return BuildrootTree(self, scratch.name, root)

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[place.Output]:
        """See `Place`."""
        limit = ["timeout", "-k", "5", f"{timeout:g}"]
        named = {f"ask-{number}": [*limit, *command] for number, command in enumerate(commands)}
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(self.create(f"{name}.log")) for name in named]
            how, statuses = self.run(named, timeout * len(named))
            if not all(map(str.isdigit, statuses)):
                raise BuildError(
                    f"programs cannot be run in the buildroot: mock {how}",
                    hint="read mock_output.log and root.log of this task",
                )
            return [place.Output(int(status), _text(log)) for status, log in zip(statuses, logs)]

    def run(
        self, commands: Mapping[str, Sequence[str]], timeout: float
    ) -> tuple[str, Sequence[str]]:
        """Run commands by their names, one after the other, in one entry; each adds to `NAME.log`.

        Some time after `timeout` seconds mock itself is ended. Returns how mock ended, in words,
        and the status of each command; empty if it has none.
        """
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(self.create(f"{name}.status")) for name in commands]
            for name, words in commands.items():
                with self.create(name) as file:
                    file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
            argv = ["/bin/bash", "-c", _BATCH, _OWN, self.inside, *commands]
            with children_end_within(timeout + _ENTRY) as passed:
                status = self.broot.mock(["--chroot", "--", *argv])
            statuses = [file.read(16).decode("ascii", "replace").strip() for file in files]
        if passed.is_set():
            return f"did not end within {timeout + _ENTRY:g} s and was ended", statuses
        if os.WIFSIGNALED(status):
            return f"was killed by signal {os.WTERMSIG(status)}", statuses
        return f"ended with status {os.WEXITSTATUS(status)}", statuses

    def shut_off(self, warn: Callable[[str], object]) -> None:
        """Try what the buildroot's programs can do to shut steps off, and use that."""
        commands = [[*_UNSHARE, "true"], [*_SETPRIV, "true"], [*_UNSHARE, *_ROUTES], _ROUTES]
        unshare, setpriv, inner, outer = self.ask(commands, PROBE_TIMEOUT)
        for answer, words, what in (
            (unshare, _UNSHARE, "processes of their own"),
            (setpriv, _SETPRIV, "fewer rights"),
        ):
            if answer.status == 0:
                self.prefix += words
            else:
                why = " ".join(answer.text.split())[:200]
                warn(f"warning: this buildroot gives the steps no {what}: {why}")
        routes = inner if unshare.status == 0 else outer
        # what cannot be seen counts as a way out
        self.network = routes.status != 0 or has_routes(routes.text)
        if self.network:
            warn("warning: steps can reach a network in this buildroot")


@contextlib.contextmanager
def koji_buildroot(task: SgxTask, build_tag: str, repo_id: int) -> Iterator[Chroot]:
    """A buildroot of that tag and repo for a task; it is given back, and kojid removes it."""
    session = task.session
    task.log(f"buildroot of tag {build_tag}, repo {repo_id}")
    # kojid is a program, not a module: its classes are in `__main__`
    kojid: Any = sys.modules["__main__"]
    broot = kojid.BuildRoot(session, task.options, build_tag, X86_64, task.id, repo_id=repo_id)
    broot.workdir = task.workdir
    try:
        broot.init()
        session.host.setBuildRootState(broot.id, "BUILDING")
        task.log(f"buildroot {broot.id}, {broot.name}")
        with contextlib.closing(Chroot(broot)) as chroot:
            chroot.shut_off(task.log)
            yield chroot
    finally:
        broot.expire()


def _text(log: IO[bytes]) -> str:
    """What a short program printed; the file is ours, whatever stands under its name."""
    data = log.read(place.MAX_OUTPUT + 1)
    at_most(place.MAX_OUTPUT, len(data), "a program in the buildroot prints too much", "bytes")
    return data.decode("utf-8", "replace")


def has_routes(text: str) -> bool:
    """Whether the routing tables lead away from the machine: `/proc/net/route`, `…/ipv6_route`."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return any(line[0] not in ("Iface", "lo") and line[-1] != "lo" for line in lines)


def place_in_root(root: Path, path: str) -> Path:
    """Where a path of the buildroot is; no link on the way may lead out of it."""
    found = Path(os.path.realpath(f"{root}/{path}"))
    if not found.is_relative_to(os.path.realpath(root)):
        raise BuildError("a link on the way leads out of the buildroot", file=path)
    return found


class BuildrootTree:
    """Where one tree stands in a buildroot; see `Tree` of the core."""

    def __init__(self, chroot: Chroot, name: str, root: str) -> None:
        self._chroot = chroot
        self._name = name
        self._steps = 0
        self.network = chroot.network
        self.home = chroot.make_folder(f"home-{name}")
        self.root = os.path.normpath(root)
        self._tree = place_in_root(chroot.root, self.root)
        self.fixed = not self._tree.exists()
        if not self.fixed:
            self.root = f"{chroot.make_folder(f'place-{name}')}/tree"
            self._tree = place_in_root(chroot.root, self.root)
        self._tree.parent.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """See `Tree`."""
        if self._tree.is_symlink() or os.path.realpath(self._tree) != str(self._tree):
            raise BuildError("a step has put a link in the tree's place", file=self.root)
        return self._tree

    def run(self, command: place.Command, log: Path) -> place.Ended:
        """See `Tree`."""
        start = time.monotonic()
        self._steps += 1
        name, chroot = f"{self._name}-{self._steps}", self._chroot
        argv = ["/bin/sh", "-c", _STEP, "sh", f"{command.umask:04o}", command.folder]
        argv += ["timeout", "-k", "10", f"{command.timeout:g}", *chroot.prefix, "env", "-i"]
        argv += [f"{key}={value}" for key, value in command.environment.items()]
        try:
            with chroot.create(f"{name}.log") as said:
                # so that whoever watches sees at once what has begun
                said.write(place.log_header(command).encode("utf-8", "replace"))
                said.flush()
                shown = chroot.show(f"{name}.log", f"step-{log.name}")
                how, (status,) = chroot.run({name: [*argv, *command.argv]}, command.timeout)
                ended = how_ended(status, how, time.monotonic() - start, command.timeout)
                seconds = ended.milliseconds / 1000
                _copy_log(said, log, f"# {place.describe(ended)} after {seconds:.1f} s\n")
                if not shown:
                    chroot.broot.single_log(str(log), name=f"step-{log.name}")
                return ended
        except OSError as error:
            took = int((time.monotonic() - start) * 1000)
            return place.Ended(None, False, f"cannot be run and logged: {error.strerror}", took)

    def close(self) -> None:
        """See `Tree`: kojid removes it; after strangers' programs it must not be done by name."""


def _copy_log(source: IO[bytes], target: Path, tail: str) -> None:
    """Write a log: what the source holds, up to a limit, then the tail."""
    source.seek(0)
    with target.open("wb") as out:
        left = MAX_LOG
        while left and (chunk := source.read(min(MIB, left))):
            out.write(chunk)
            left -= len(chunk)
        out.write(tail.encode("utf-8", "replace"))


def how_ended(status: str, mock: str, seconds: float, timeout: float) -> place.Ended:
    """From the status that a shell wrote down, if it did, and how mock ended, in words."""
    took = int(seconds * 1000)
    if not status.isdigit():
        problem = f"did not come to its end: mock {mock}; see mock_output.log and root.log"
        return place.Ended(None, False, problem, took)
    code = int(status)
    if code in (_TIMED_OUT, _KILLED) and seconds >= timeout:
        return place.Ended(None, True, None, took)
    # a shell's way to say that a signal ended it
    return place.Ended(128 - code if code > 128 else code, False, None, took)
