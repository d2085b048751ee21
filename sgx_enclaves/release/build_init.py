# SPDX-License-Identifier: GPL-2.0-or-later
"""The first process around one step of a build; run as a program, never imported.

It makes the step's world and watches over it:

- in namespaces of its own (made by `unshare` before) it builds a root of read-only
  views of the machine's folders. /home, /root, /run and /sys are empty, /dev holds
  the harmless devices, /tmp and the folder of the tree are the step's own;
- it gives up every capability that a build has no use for;
- when the step ends, or when the builder does (the leash is a pipe that closes
  then), whatever the step has left running is killed, also what has gone into a
  session of its own.

Arguments: one JSON object, see `Spec` below. It tells how the step went on the
descriptor `report`: `exit N` or `signal N`, before that `problem TEXT` if it never began.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import select
import signal
import socket
import stat
import sys
from typing import Any, NoReturn

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_NOATIME, MS_NODIRATIME = 0x20, 0x400, 0x800
MS_BIND, MS_REC, MS_RELATIME = 0x1000, 0x4000, 0x200000
_OPTIONS = {
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
}

# linux/prctl.h
PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 24, 36, 38
# linux/capability.h: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID.
# Installers that run as root unpack with owners.
_KEPT_CAPABILITIES = frozenset((0, 1, 3, 4, 5, 6, 7))
_CAPABILITIES = 64

HIDDEN = frozenset(("tmp", "home", "root", "run", "sys", "proc", "dev"))
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# what root could change the kernel with
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_LIBC = ctypes.CDLL(None, use_errno=True)


class Spec:
    """What is to be done.

    Attributes:
        report: descriptor to tell on.
        leash: descriptor that becomes readable when the builder has gone.
        command: program and arguments.
        folder: where to run it, as the step sees it.
        environment: all its variables.
        umask: its file mode mask.
        new_root: an empty folder to build the root on; empty for the machine's own.
        area: the folder that the tree stands in, as the step sees it.
        area_from: the same as the machine sees it; empty if it lies below /tmp.
        tmp: the step's /tmp as the machine sees it.
        hostname: to set.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.report: int = data["report"]
        self.leash: int = data["leash"]
        self.command: list[str] = data["command"]
        self.folder: str = data["folder"]
        self.environment: dict[str, str] = data["environment"]
        self.umask: int = data["umask"]
        self.new_root: str = data["new_root"]
        self.area: str = data["area"]
        self.area_from: str = data["area_from"]
        self.tmp: str = data["tmp"]
        self.hostname: str = data["hostname"]


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = _LIBC.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _show(source: str, target: str) -> None:
    """Let a folder or file be seen at `target` too."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    _mount(source, target, "", MS_BIND | MS_REC)


def _mirror(host: str, new: str, way: list[str]) -> None:
    """Show all of a folder but the way to the area, which is made by hand."""
    for name in sorted(os.listdir(host)):
        source, target = os.path.join(host, name), os.path.join(new, name)
        if name in way[:1] or (host == "/" and name in HIDDEN):
            continue
        kind = os.lstat(source).st_mode
        if stat.S_ISLNK(kind):
            os.symlink(os.readlink(source), target)
        elif stat.S_ISDIR(kind) or stat.S_ISREG(kind):
            # what this user may not even see, the step need not either
            with contextlib.suppress(PermissionError):
                _show(source, target)
    if way:
        target = os.path.join(new, way[0])
        os.makedirs(target, exist_ok=True)
        inner = os.path.join(host, way[0])
        if len(way) > 1 and os.path.isdir(inner):
            _mirror(inner, target, way[1:])


def _make_root(spec: Spec) -> None:
    root = spec.new_root
    _mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=0755")
    way = spec.area.strip("/").split("/") if spec.area_from else []
    _mirror("/", root, way)
    for name in sorted(HIDDEN):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    for device in _DEVICES:
        if os.path.exists(f"/dev/{device}"):
            _show(f"/dev/{device}", f"{root}/dev/{device}")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    _read_only(root)
    shared = f"{root}/dev/shm"  # noqa: S108 - the step's own
    os.makedirs(shared)
    _mount("tmpfs", shared, "tmpfs", MS_NOSUID | MS_NODEV)
    _show(spec.tmp, f"{root}/tmp")  # noqa: S108 - the step's own
    if spec.area_from:
        _show(spec.area_from, root + spec.area)
    _make_proc(f"{root}/proc")
    _mount("", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)
    os.chroot(root)
    os.chdir("/")


def _make_proc(proc: str) -> None:
    try:
        _mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:
        # a container that hides parts of its /proc allows no new one
        _mount("/proc", proc, "", MS_BIND | MS_REC)
    for name in _PROC_READ_ONLY:
        path = f"{proc}/{name}"
        if os.path.exists(path):
            flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
            with contextlib.suppress(OSError):
                _mount(path, path, "", MS_BIND)
                _mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _read_only(root: str) -> None:
    """Make every mount below the root read-only, folders within folders too."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split(" ") for line in file]
    for fields in lines:
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        if point.startswith(root + "/"):
            # a user's namespace may not take these away
            flags = sum(_OPTIONS.get(option, 0) for option in fields[5].split(","))
            with contextlib.suppress(FileNotFoundError):
                _mount("", point, "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _drop_capabilities() -> None:
    for number in range(_CAPABILITIES):
        if number not in _KEPT_CAPABILITIES:
            # fails for numbers that this kernel does not know
            _LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _tell(spec: Spec, text: str) -> None:
    # the builder may have gone
    with contextlib.suppress(OSError):
        os.write(spec.report, (text + "\n").encode("utf-8", "replace"))


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the program.

    Not by `os.execvpe`: it imports, and Python's own folder may not be seen any more.
    """
    folders = environment.get("PATH", os.defpath).split(":")
    places = [command[0]] if "/" in command[0] else [f"{folder}/{command[0]}" for folder in folders]
    problem: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for place in places:
        try:
            os.execve(place, command, environment)  # noqa: S606 - no shell is wanted
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = error
    raise problem


def _run_step(spec: Spec) -> NoReturn:
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.set_inheritable(spec.report, False)
        os.set_inheritable(spec.leash, False)
        os.umask(spec.umask)
        os.chdir(spec.folder)
        _execute(spec.command, spec.environment)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _tell(spec, f"problem {spec.command[0]} cannot be started in {spec.folder}: {reason}")
    os._exit(127)


def _children() -> list[int]:
    """Processes whose parent this one is."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # the name before may hold anything, even brackets
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def _kill_all() -> None:
    """Kill what is left; orphans come to us as their parents go."""
    while True:
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _watch(spec: Spec, step: int) -> None:
    """Wait for the step or for the builder to go; then leave nothing running."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    status = None
    try:
        while status is None:
            while True:
                pid, found = os.waitpid(-1, os.WNOHANG)
                if pid == step:
                    status = found
                if pid in (0, step):
                    break
            if status is not None:
                break
            ready, _, _ = select.select([spec.leash, read], [], [], 1.0)
            if spec.leash in ready:
                break
            if read in ready:
                os.read(read, 512)
    finally:
        # in a process namespace the kernel does the rest when we end
        if not spec.new_root:
            _kill_all()
    if status is None:
        return
    if os.WIFSIGNALED(status):
        _tell(spec, f"signal {os.WTERMSIG(status)}")
    else:
        _tell(spec, f"exit {os.WEXITSTATUS(status)}")


def main() -> int:
    """Run the step that the argument describes."""
    spec = Spec(json.loads(sys.argv[1]))
    try:
        if spec.new_root:
            _make_root(spec)
            socket.sethostname(spec.hostname)
            _drop_capabilities()
        else:
            _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except OSError as error:
        _tell(spec, f"problem the step's root cannot be made: {error}")
        return 1
    step = os.fork()
    if step == 0:
        _run_step(spec)
    _watch(spec, step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
