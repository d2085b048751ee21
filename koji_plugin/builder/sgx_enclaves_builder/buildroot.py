# SPDX-License-Identifier: GPL-2.0-or-later
"""A Koji buildroot as a site of the core's builder: its toolchain, packages and places.

A deadline on what kojid runs for us and waits for without one.

When it passes, the programs that were started are ended, and kojid's own waiting
sees them end. Nothing is raised into kojid's code, which may be talking to the hub.

How far steps are shut off inside a buildroot: no network, no rights to leave.

Koji and mock may have seen to that already; here it is done by the buildroot's own
util-linux besides, and what came of it is looked at.

Programs run inside a buildroot by mock, and a folder of ours in there.

Whoever builds in the buildroot is root in it and may change every name. So the
folder is held open, and no link is followed in it. The two shell programs below are
constants; what they work on are their arguments.

Where one tree stands in a buildroot, and its steps run; a tree of the core's builder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Optional

from sgx_enclaves.errors import BuildError, InputError, LimitError, SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.release.installed import InstalledPackage, installed_packages
from sgx_enclaves.release.place import Command, Ended, Output, Tree, describe, log_header

# mock cleans up after itself when it is asked to end, if it is given the time
_GRACE = 20.0


class Deadline:
    """Whether the deadline passed."""

    def __init__(self) -> None:
        self.passed = False


@contextlib.contextmanager
def children_end_within(seconds: float) -> Iterator[Deadline]:
    """End all children of this process if the block takes longer; for the main thread.

    Args:
        seconds: until they are asked to end; some time later they are killed.
    """
    deadline = Deadline()

    def ring(_number: int, _frame: Optional[FrameType]) -> None:
        how = signal.SIGKILL if deadline.passed else signal.SIGTERM
        deadline.passed = True
        for process in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(process, how)
        signal.setitimer(signal.ITIMER_REAL, _GRACE)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield deadline
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def descendants(process: int) -> list[int]:
    """Processes that a process has started, and those that they have, youngest last."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name before may hold anything, even brackets
            parent = int(path.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    pending = [process]
    while pending:
        here = children.get(pending.pop(), [])
        found += here
        pending += here
    return found


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


_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")


class KojiSite:
    """One buildroot; see `Place` of the core.

    Args:
        chroot: the buildroot.
        say: told what should be known.
        urls: NEVRA to where a package can be had, as far as anybody knows.
    """

    isolated = True

    def __init__(
        self,
        chroot: Chroot,
        say: Callable[[str], None],
        urls: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.chroot = chroot
        self._urls = dict(urls or {})
        self._packages: Optional[tuple[InstalledPackage, ...]] = None
        self.shutters = find_shutters(chroot)
        for missing in self.shutters.missing:
            say(f"warning: this buildroot gives the steps no {missing}")
        if self.shutters.network:
            say("warning: steps can reach a network in this buildroot")

    def open(self, scratch: Path, root: str) -> Tree:
        """See `Place` of the core."""
        return KojiPlace(self.chroot, self.shutters, scratch.name, root)

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        """See `Place` of the core."""
        return self.chroot.run_all(commands, timeout)

    def packages(self) -> tuple[InstalledPackage, ...]:
        """See `Place`: what RPM's database in the buildroot says, as it was before any step."""
        if self._packages is None:
            folders = [self.chroot.root / name for name in _DATABASES]
            here = next((folder for folder in folders if folder.is_dir()), None)
            self._packages = (
                () if here is None else installed_packages(urls=self._urls, dbpath=str(here))
            )
        return self._packages


_OWN = "sgx-enclaves"
# mask, folder, log, file for the status, command
_LAUNCH = """\
umask "$1" && cd "$2" && exec >>"$3" 2>&1 </dev/null || exit 125
status=$4
shift 4
"$@"
code=$?
echo "$code" >"$status"
exit "$code"
"""
# folder, then files of one command each, its words ended by NUL
_BATCH = """\
cd "$1" || exit 125
shift
for file in "$@"; do
    xargs -0 -a "$file" env >"$file.out" 2>&1 </dev/null
    echo "$?" >"$file.status"
done
"""
_MAX_OUTPUT = 16 << 20
# to enter and leave the buildroot, however slow the disk
_ENTRY = 300.0
_CHUNK = 1 << 20


class Chroot:
    """A buildroot of kojid's that is ready.

    Args:
        broot: kojid's `BuildRoot`, initialised.
    """

    def __init__(self, broot: Any) -> None:
        self._broot = broot
        self.root = Path(broot.rootdir())
        self.results = Path(broot.resultdir())
        self.inside = f"{broot.tmpdir(within=True)}/{_OWN}"
        self.folder = Path(broot.tmpdir()) / _OWN
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def make_folder(self, name: str) -> str:
        """Make a folder in ours; returns its path as seen from inside."""
        os.mkdir(name, 0o755, dir_fd=self._fd)
        return f"{self.inside}/{name}"

    def put(self, name: str, data: bytes) -> str:
        """Write a file into our folder; returns its path as seen from inside."""
        with self.create(name) as file:
            file.write(data)
        return f"{self.inside}/{name}"

    def create(self, name: str) -> IO[bytes]:
        """Make a file in our folder, to be written and read; an older one is left unlinked."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o644, dir_fd=self._fd), "w+b")

    def show(self, name: str, as_name: str) -> bool:
        """Let kojid's watcher see a file of ours as one of mock's logs, while it grows.

        Returns:
            Whether it will; not so where our folder is on another file system.
        """
        place = self.results / as_name
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
            os.link(name, place, src_dir_fd=self._fd, follow_symlinks=False)
            return True
        return False

    def upload(self, path: Path, as_name: str) -> None:
        """Upload a log that is whole."""
        self._broot.single_log(str(path), name=as_name)

    def get(self, name: str, limit: int) -> bytes:
        """Read a file of our folder.

        Raises:
            InputError: it is not there, or is no file.
            LimitError: it has more than `limit` bytes.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(name, flags, dir_fd=self._fd), "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=name) from None
        if len(data) > limit:
            raise LimitError("is too large", file=name, expected=f"at most {limit} bytes")
        return data

    def run_all(self, commands: Sequence[Sequence[str]], timeout: float) -> list[Output]:
        """Run commands one after the other in one entry; see `Place` of the core."""
        names = []
        for number, command in enumerate(commands):
            words = ["timeout", "-k", "5", f"{timeout:g}", *command]
            names.append(f"ask-{number}")
            self.put(names[-1], "".join(f"{word}\0" for word in words).encode())
        argv = ["/bin/sh", "-c", _BATCH, _OWN, self.inside, *names]
        how = self.mock(argv, timeout * len(commands) + _ENTRY)
        outputs = []
        for name in names:
            try:
                status = int(self.get(f"{name}.status", 16))
                text = self.get(f"{name}.out", _MAX_OUTPUT).decode("utf-8", "replace")
            except (InputError, ValueError):
                raise BuildError(
                    f"programs cannot be run in the buildroot: mock {how}",
                    hint="read mock_output.log and root.log of this task",
                ) from None
            outputs.append(Output(status, text))
        return outputs

    def launch(
        self,
        command: Sequence[str],
        folder: str,
        umask: int,
        names: tuple[str, str],
        timeout: float,
    ) -> str:
        """Run one command, with its output in a file of ours.

        Args:
            command: what to run.
            folder: where, as seen from inside.
            umask: its file mode mask.
            names: of the files for its output and its status.
            timeout: seconds after which mock itself is ended.

        Returns:
            How mock ended, in words.
        """
        log, status = (f"{self.inside}/{name}" for name in names)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(names[1], dir_fd=self._fd)
        argv = ["/bin/sh", "-c", _LAUNCH, _OWN, f"{umask:04o}", folder, log, status, *command]
        return self.mock(argv, timeout + _ENTRY)

    def mock(self, argv: Sequence[str], timeout: float) -> str:
        """Run a program inside by kojid's `mock`; how that ended, in words."""
        with children_end_within(timeout) as deadline:
            status = self._broot.mock(["--chroot", "--", *argv])
        if deadline.passed:
            return f"did not end within {timeout:g} s and was ended"
        if os.WIFSIGNALED(status):
            return f"was killed by signal {os.WTERMSIG(status)}"
        return f"ended with status {os.WEXITSTATUS(status)}"


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


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    here = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(here).free


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


class KojiPlace:
    """Where one tree stands in a buildroot; see `Tree` of the core.

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
