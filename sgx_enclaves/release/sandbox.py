# SPDX-License-Identifier: GPL-2.0-or-later
"""This machine, or a root directory on it, as a `Place`; its steps run in a sandbox.

bubblewrap gives each step a root of its own: of the machine's directories only those that
hold tools, read-only; of /etc what tools read; no network, no other processes, no rights
over the machine. The tree stands at the path that the release asks for; it and /tmp are all
that a step can write. Where bubblewrap cannot do that, steps run on the machine as it is, if
the user asks for it; nothing is then promised but that no process of a step is left.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import BuildError, InputError
from sgx_enclaves.limits import MIB
from sgx_enclaves.release import place

RPM_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
MAX_LOG = 256 * MIB
PROBE_TIMEOUT = 20.0
_ENV = "/usr/bin/env"
_SIGNALLED = 128
# what the programs around a step end with if they cannot start it
_NOT_STARTED = (("bwrap", 1), (_ENV, 125), (_ENV, 127))
# what holds tools; a tree can stand below the second kind, which is then its own
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix", "gnu")
_ADDED = ("opt",)
# where no tree can stand
_RESERVED = frozenset((*_SYSTEM, "boot", "dev", "etc", "proc", "sys"))
# what compilers, shells and scripting languages read; no secret, no state of the machine
_ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "passwd", "group"),
    *("nsswitch.conf", "hosts", "host.conf", "localtime", "os-release", "debian_version"),
    *("ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies", "perl", "magic", "mime.types"),
)
# Installers that run as root unpack with owners.
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID")
# what root could change the kernel with
_KERNEL = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_EMPTY = ("home", "root", "run", "sys", "var")
# from a path's start to its end, not within a longer one
_BEFORE, _AFTER = r"(?<![\w.+/-])", r"(?=[/:\s\"']|$)"
# what lies in these is the machine's own; in those of the second kind only at their top
_MACHINES = _RESERVED.union(_ADDED, ("media", "mnt", "srv", "var"))
_SHARED = frozenset(("home", "root", "run", "tmp"))
# The parent of a step and of all its orphans, which has no more than the limits allow. It ends
# them when the step ends, when it is asked to, and when the builder is gone.
_SUPERVISOR = """\
import ctypes, os, resource, signal, sys
for name, most in (("CORE", 0), ("NOFILE", 1 << 16), ("NPROC", 1 << 15), ("FSIZE", 64 << 30)):
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
libc = ctypes.CDLL(None)
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
libc.prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
def kill_all(*_):
    while True:
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                        os.kill(int(name), signal.SIGKILL)
            except (OSError, IndexError):
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
def ended(*_):
    kill_all()
    os._exit(1)
signal.signal(signal.SIGTERM, ended)
step = os.fork()
if step == 0:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
pid = 0
while pid != step:
    pid, status = os.waitpid(-1, 0)
kill_all()
code = os.waitstatus_to_exitcode(status)
os._exit(code if code >= 0 else 128 - code)
"""
_SUPERVISE = (sys.executable, "-I", "-S", "-c", _SUPERVISOR)


class Isolation(enum.Enum):
    """How far a step can be separated from this machine."""

    ROOT = "namespaces"
    USER = "namespaces of an ordinary user"
    NONE = "none"


class Machine:
    """This machine as a place, or a root directory on it, which can only be asked; steps may read
    the directories `visible` besides those that hold tools.
    """

    def __init__(
        self,
        root: Optional[str] = None,
        isolation: Isolation = Isolation.NONE,
        visible: Sequence[str] = (),
    ) -> None:
        if root is not None and not Path(root).is_dir():
            raise InputError("there is no such buildroot", file=root, hint="correct --root")
        self._root = root
        # a user namespace lets others than root enter another root
        as_root = () if os.geteuid() == 0 else ("unshare", "--map-root-user")
        self._enter = () if root is None else (*as_root, "chroot", root)
        self._isolation = isolation
        self.isolated = isolation is not Isolation.NONE
        self._visible = tuple(visible)

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[place.Output]:
        """See `Place`."""
        path = {"PATH": place.STANDARD_PATH}
        return [place.run_tool([*self._enter, *command], timeout, path) for command in commands]

    def packages(self) -> Sequence[place.LockedPackage]:
        """See `Place`; a machine with rpm but without its database is no RPM machine."""
        folders = [Path(self._root or "/", name) for name in RPM_DATABASES]
        there = any((f / "Packages").exists() or any(f.glob("*.sqlite")) for f in folders)
        if shutil.which("rpm") is None or not there:
            return ()
        return place.installed_packages(self._root)

    def open(self, scratch: Path, root: str) -> place.Tree:
        """See `Place`; the path must be one that a tree can have."""
        return Sandbox(scratch, root, self._isolation, self._visible)


class Sandbox:
    """A tree on this machine (see `Place.open`); all that its steps write is in `scratch`, which is
    new or of an earlier build of the same tree.
    """

    def __init__(
        self, scratch: Path, root: str, isolation: Isolation, visible: Sequence[str] = ()
    ) -> None:
        self.network = isolation is Isolation.NONE
        self._scratch = Path(os.path.abspath(scratch))
        self._remove: Optional[Path] = None
        self._enter: list[str] = []
        self.root = os.path.normpath(root)
        top = Path(self.root).parts[1:2]
        if not top or (top[0] in _RESERVED and not self.network):
            raise BuildError("a tree cannot stand among the machine's own files", file=root)
        # nobody else may reach what steps make, such as a program with the set-user-id bit
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        tmp = self._scratch / "tmp"
        (tmp / "home").mkdir(parents=True, exist_ok=True)
        if self.network:
            self.path, self.home = Path(self.root), str(tmp / "home")
            missing = [p for p in (self.path, *self.path.parents) if not os.path.lexists(p)]
            # the path on the machine itself is taken if it is free and may be made
            with contextlib.suppress(OSError):
                self.path.mkdir(parents=True)
                self._remove = missing[-1]
            self.fixed = self._remove is not None
            if not self.fixed:
                self.path = self._scratch / "tree"
                self.root = str(self.path)
            return
        self.fixed, self.home = True, "/tmp/home"  # noqa: S108 - the step's own
        area = tmp if top[0] == "tmp" else self._scratch / "area"
        area.mkdir(exist_ok=True)
        self.path = area.joinpath(*Path(self.root).parts[2:])
        binds = ["--bind", str(tmp), "/tmp", "--bind", str(area), f"/{top[0]}"]  # noqa: S108
        for folder in visible:
            if Path(folder).parts[1:2] not in [(name,) for name in _SYSTEM]:
                binds += ["--ro-bind-try", folder, folder]
        self._enter = bubblewrap(isolation, binds)

    def close(self) -> None:
        """See `Tree`."""
        if self._remove is not None:
            remove_tree(self._remove)

    def run(self, command: place.Command, log: Path) -> place.Ended:
        """See `Tree`."""
        enter = [*self._enter, "--hostname", command.hostname] if self._enter else []
        variables = [f"{name}={value}" for name, value in command.environment.items()]
        argv = [*_SUPERVISE, *enter, _ENV, "-i", f"--chdir={command.folder}", "--", *variables]
        try:
            with log.open("wb") as out:
                out.write(place.log_header(command).encode("utf-8", "replace"))
                out.flush()
                ended = place.run_program(
                    [*argv, *command.argv], {}, command.timeout, out, MAX_LOG, command.umask
                )
                ended = _as_step(ended, command, place.log_tail(log)[-1:])
                with contextlib.suppress(OSError):
                    seconds = ended.milliseconds / 1000
                    out.write(f"# {place.describe(ended)} after {seconds:.1f} s\n".encode())
                return ended
        except OSError as error:
            return place.Ended(None, False, f"cannot be run and logged: {error.strerror}", 0)


def _as_step(ended: place.Ended, command: place.Command, last: Sequence[str]) -> place.Ended:
    """What the programs around the step report of it, by the last line that it printed."""
    who, _, reason = "".join(last).partition(": ")
    if (who, ended.status) in _NOT_STARTED:
        reason = reason.rpartition(": ")[2]
        problem = f"{command.argv[0]} cannot be started in {command.folder}: {reason}"
        return replace(ended, status=None, problem=problem)
    if ended.status is not None and ended.status > _SIGNALLED:
        # the way to say that a signal ended it, as a shell does
        return replace(ended, status=_SIGNALLED - ended.status)
    return ended


def bubblewrap(isolation: Isolation, binds: Sequence[str]) -> list[str]:
    """The words before a command that give it a root of its own; `binds` are more arguments."""
    words = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session"]
    words += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    if isolation is Isolation.USER:
        words += ["--unshare-user", "--uid", "0", "--gid", "0"]
    words += ["--cap-drop", "ALL"]
    words += [word for name in _CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
    # a /proc of the step's own; the machine's where a container allows no new one
    proc = ["--proc", "/proc"]
    user = ["--unshare-user"] if isolation is Isolation.USER else []
    probe = ["bwrap", "--unshare-pid", *user, "--ro-bind", "/", "/", *proc, "true"]
    # bubblewrap's refusal; of a machine that is only slow nothing is known
    if place.run_tool(probe, PROBE_TIMEOUT).status == 1:
        proc = ["--ro-bind", "/proc", "/proc"]
    for folder in (f"/{name}" for name in (*_SYSTEM, *_ADDED)):
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder) and folder not in binds:
            words += ["--ro-bind", folder, folder]
    shown = [*(f"/etc/{name}" for name in _ETC), *(f"/proc/{name}" for name in _KERNEL)]
    words += [*proc, "--dev", "/dev", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    words += [word for path in shown for word in ("--ro-bind-try", path, path)]
    words += [word for name in _EMPTY for word in ("--dir", f"/{name}")]
    return [*words, *binds, "--remount-ro", "/"]


def best_isolation() -> tuple[Isolation, str]:
    """The best way to separate a step from this machine that works; if none, why, and the cure."""
    if shutil.which("bwrap") is None:
        return Isolation.NONE, "bubblewrap is not here; install the package bubblewrap"
    said = ""
    kinds = (Isolation.ROOT, Isolation.USER) if os.geteuid() == 0 else (Isolation.USER,)
    for kind in kinds:
        # all that a step asks for: Podman's containers allow namespaces, but no hostname in them
        words = bubblewrap(kind, ["--hostname", "localhost"])
        output = place.run_tool([*words, _ENV, "true"], PROBE_TIMEOUT)
        if output.status == 0:
            return kind, ""
        said = said or output.text.strip()
    if "Invalid argument" in said:
        cure = "/ is no mount point, as in a chroot: `mount --bind DIR DIR` on it before entering"
    else:
        cure = "this user or container may make no namespaces; give it that right"
    return Isolation.NONE, f"{said}; {cure}"


def choose_isolation(*, allow_none: bool = False) -> tuple[Isolation, str]:
    """How steps are to be separated from this machine, and why not better; empty if that is good.
    A BuildError where none is possible, unless the user allows that.
    """
    if not os.path.exists("/proc/self/mountinfo"):
        raise BuildError(
            "/proc is not mounted, so nothing can be built here",
            hint="in a chroot: `mount -t proc proc DIR/proc` before entering DIR",
        )
    isolation, reason = best_isolation()
    if isolation is Isolation.NONE and not allow_none:
        raise BuildError(
            "the steps of a build cannot be separated from this machine and its network",
            found=reason,
            hint="mend that; --allow-no-isolation builds all the same, and is never the "
            "reproducible verdict",
        )
    return isolation, reason


def relocation(wanted: str, actual: str) -> Callable[[str], str]:
    """What rewrites paths in a text when the tree does not stand where the release wants it; the
    directory around it, where steps may install the SDK, moves along, unless it is the machine's.
    """
    wanted = wanted.rstrip("/")
    parent = os.path.dirname(wanted)
    top, *deeper = parent.split("/")[1:]
    moves = {wanted: actual}
    if top and top not in _MACHINES and (deeper or top not in _SHARED):
        moves[parent] = os.path.dirname(actual)
    pattern = re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, moves))}){_AFTER}")
    return lambda text: pattern.sub(lambda found: moves[found[0]], text)


def remove_tree(folder: Path) -> None:
    """Remove a directory, also where a build has taken away the right to, or a file or link there;
    a BuildError, and nothing is removed, where something is mounted in it.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounted = [line.split(" ")[4] for line in file]
    if any(point.startswith(f"{folder.resolve()}/") for point in mounted):
        raise BuildError(
            "something is mounted in the build's scratch directory, so it is kept",
            file=str(folder),
            hint="unmount it, then remove the directory",
        )
    folders = [str(folder)]
    for path in folders:
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
            here = os.scandir(path)
            folders += [item.path for item in here if item.is_dir(follow_symlinks=False)]
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        raise BuildError(
            "directories in the build's scratch directory lie too deep, so it is kept",
            file=str(folder),
            hint="remove it with rm -rf",
        ) from None
