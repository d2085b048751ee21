# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one command of a build: in a fixed path, alone, without a network, with a deadline.

Where the kernel allows it, the command sees a root of its own (see `build_init`): the
tree stands at the path that the release asks for, nothing else can be written, and
there is no network. Where it does not, the command runs on the machine as it is, and
the sandbox says what is missing. Knows nothing of releases.

Run a short tool and read what it prints: no shell, a deadline, bounded output.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Optional

from sgx_enclaves.errors import BuildError, InputError, LimitError
from sgx_enclaves.limits import MIB
from sgx_enclaves.release import build_init

_PROCESS_CHUNK = 64 << 10
# tools print their versions in the language of the user otherwise
_ENVIRONMENT = {"LC_ALL": "C", "LANGUAGE": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Output:
    """What a program left behind.

    Attributes:
        status: its exit status; negative for a signal.
        text: what it printed, standard output and error together.
    """

    status: int
    text: str


Runner = Callable[[Sequence[str], float], Output]


def run_tool(
    command: Sequence[str],
    timeout: float,
    *,
    max_output: int = 16 << 20,
    environment: Optional[Mapping[str, str]] = None,
) -> Output:
    """Run a program to its end.

    Args:
        command: program and arguments.
        timeout: seconds until it and its children are killed.
        max_output: bytes that it may print.
        environment: variables besides PATH, HOME and a plain locale.

    Raises:
        InputError: it cannot be started.
        LimitError: it ran too long or printed too much.
    """
    variables = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**variables, **_ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"cannot be started: {error.strerror}", file=command[0]) from None
    with process:
        try:
            stdout = process.stdout
            output = b"" if stdout is None else _read(stdout, command, timeout, max_output)
            # whoever closes its output and lingers gets a moment, not for ever
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            raise LimitError(
                "did not end after it had closed its output", file=command[0]
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return Output(status, output.decode("utf-8", "replace"))


def _read(stdout: IO[bytes], command: Sequence[str], timeout: float, max_output: int) -> bytes:
    deadline = time.monotonic() + timeout
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise LimitError(
                    f"did not end within {timeout:g} s", file=command[0], hint=" ".join(command)
                )
            chunk = os.read(stdout.fileno(), _PROCESS_CHUNK)
            if not chunk:
                return b"".join(parts)
            parts.append(chunk)
            size += len(chunk)
            if size > max_output:
                raise LimitError(f"printed more than {max_output} bytes", file=command[0])


def in_root(root: Optional[str], command: Sequence[str]) -> list[str]:
    """The command as it must be run to act inside a buildroot.

    Args:
        root: the buildroot's folder; None for this machine.
        command: program and arguments as seen from inside.
    """
    if root is None:
        return list(command)
    enter = ["chroot", root, *command]
    # a user namespace lets others than root do that
    return enter if os.geteuid() == 0 else ["unshare", "--map-root-user", *enter]


_INIT = Path(build_init.__file__)
_CHUNK = 64 << 10
_POLL = 0.5
# to end tidily once the leash is cut
_GRACE = 5.0
_PROBE_TIMEOUT = 20.0
_MAX_REPORT = 4096
_MAX_LOG = 256 * MIB
# top-level folders that hold a machine's own things
SYSTEM = frozenset(
    (
        *("bin", "boot", "etc", "gnu", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix"),
        *("opt", "sbin", "srv", "usr", "var"),
    )
)
_NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


class Isolation(enum.Enum):
    """How far a command can be shut off here."""

    ROOT = "namespaces"
    USER = "namespaces of an ordinary user"
    NONE = "none"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: its exit status; negative for the signal that killed it; None if it
            was ended or never began.
        timed_out: whether its deadline passed.
        problem: why it could not be run, or was ended otherwise; None if neither.
        milliseconds: how long it took.
    """

    status: Optional[int]
    timed_out: bool
    problem: Optional[str]
    milliseconds: int


@dataclass(frozen=True)
class Command:
    """What to run.

    Attributes:
        argv: program and arguments.
        folder: where, as the command sees it.
        environment: all its variables.
        umask: its file mode mask.
        timeout: seconds until it and all that it started are killed.
        hostname: name of its machine, where that can be set.
    """

    argv: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    umask: int
    timeout: float
    hostname: str = "localhost"


class Sandbox:
    """A place to build in.

    Args:
        scratch: an empty folder; the tree and all else that commands write is in there.
        root: the path that the tree should have.
        isolation: from `find_isolation`.

    Attributes:
        isolation: as given.
        root: the path that the tree has for the commands.
        fixed: whether that is the path that was asked for.
        tree: the same folder as this process sees it; it is not made yet.
        home: a folder for HOME as the commands see it.
    """

    def __init__(self, scratch: Path, root: str, isolation: Isolation) -> None:
        self.isolation = isolation
        self._scratch = Path(os.path.abspath(scratch))
        self._remove: Optional[Path] = None
        self._area, self._area_from = "", ""
        self._tmp = self._scratch / "tmp"
        self._new_root = self._scratch / "root"
        for folder in (self._tmp, self._new_root):
            folder.mkdir(parents=True)
        self.root = os.path.normpath(root)
        if isolation is Isolation.NONE:
            self.fixed = self._claim(Path(self.root))
            if not self.fixed:
                self.root = str(self._scratch / "tree")
            self.tree = Path(self.root)
            self.home = str(self._tmp / "home")
        else:
            self.fixed = True
            self.tree = self._place()
            self.home = "/tmp/home"  # noqa: S108 - the step's own
        (self._tmp / "home").mkdir()

    @property
    def network(self) -> bool:
        """Whether commands can reach a network."""
        return self.isolation is Isolation.NONE

    def _place(self) -> Path:
        """Choose the folder that is the steps' own, and where the tree stands in it."""
        parts = Path(self.root).parts[1:]
        if parts[0] == "tmp":
            return self._tmp.joinpath(*parts[1:])
        own = Path("/", parts[0])
        if parts[0] in SYSTEM:
            # as much of the way as is not the machine's
            missing = [path for path in Path(self.root).parents if not path.exists()]
            own = missing[-1] if missing else Path(self.root)
        area = self._scratch / "area"
        self._area, self._area_from = str(own), str(area)
        area.mkdir()
        return area / Path(self.root).relative_to(own)

    def _claim(self, root: Path) -> bool:
        """Take the path on the machine itself, if it is free and may be made."""
        missing = [path for path in (root, *root.parents) if not os.path.lexists(path)]
        if root not in missing:
            return False
        with contextlib.suppress(OSError):
            root.mkdir(parents=True)
            self._remove = missing[-1]
            return True
        return False

    def close(self) -> None:
        """Remove everything that the sandbox has made.

        Raises:
            BuildError: something is still mounted in there, so that nothing was removed.
        """
        for folder in (self._scratch, self._remove):
            if folder is not None:
                remove_tree(folder)

    def run(self, command: Command, log: Path) -> Ended:
        """Run a command to its end, whatever that is; nothing of it is left running.

        Args:
            command: see `Command`.
            log: gets what it prints; replaced if it is there.
        """
        start = time.monotonic()
        report_read, report_write = os.pipe()
        leash_read, leash_write = os.pipe()
        pipes = [report_read, report_write, leash_read, leash_write]
        try:
            with log.open("wb") as out:
                out.write(log_header(command).encode("utf-8", "replace"))
                process = self._start(command, report_write, leash_read)
                for descriptor in (report_write, leash_read):
                    pipes.remove(descriptor)
                    os.close(descriptor)
                try:
                    ending = _pump(process, out, start + command.timeout)
                finally:
                    pipes.remove(leash_write)
                    os.close(leash_write)
                    _end(process)
                    _drain(process, out)
                took = int((time.monotonic() - start) * 1000)
                os.set_blocking(report_read, False)
                ended = _ended(ending, _report(report_read), process.returncode, took)
                with contextlib.suppress(OSError):
                    out.write(f"# {describe(ended)} after {took / 1000:.1f} s\n".encode())
                return ended
        except OSError as error:
            took = int((time.monotonic() - start) * 1000)
            return Ended(None, False, f"cannot be run and logged: {error.strerror}", took)
        finally:
            for descriptor in pipes:
                os.close(descriptor)

    def _start(self, command: Command, report: int, leash: int) -> subprocess.Popen[bytes]:
        isolated = self.isolation is not Isolation.NONE
        spec = {
            "report": report,
            "leash": leash,
            "command": list(command.argv),
            "folder": command.folder,
            "environment": dict(command.environment),
            "umask": command.umask,
            "new_root": str(self._new_root) if isolated else "",
            "area": self._area,
            "area_from": self._area_from,
            "tmp": str(self._tmp),
            "hostname": command.hostname,
        }
        argv = [sys.executable, "-I", "-S", str(_INIT), json.dumps(spec)]
        return subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            [*_enter(self.isolation), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(report, leash),
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,
        )


def find_isolation(scratch: Path) -> tuple[Isolation, str]:
    """Try how far a command can be shut off on this machine.

    Args:
        scratch: an existing folder to try it in; left as it was.

    Returns:
        The best that works, and why not more; empty if there is no more.
    """
    if shutil.which("unshare") is None:
        return Isolation.NONE, "util-linux's unshare is not there"
    best = Isolation.ROOT if os.geteuid() == 0 else Isolation.USER
    folder = scratch / ".probe"
    sandbox = Sandbox(folder, "/sgx-enclaves-probe/tree", best)
    sandbox.tree.mkdir(parents=True)
    path = {"PATH": "/usr/bin:/bin"}
    log = scratch / ".probe.log"
    try:
        ended = sandbox.run(Command(["true"], sandbox.root, path, 0o022, _PROBE_TIMEOUT), log)
        if ended.status == 0:
            return best, ""
        text = log.read_text("utf-8", "replace").splitlines()
        said = next((line for line in text if not line.startswith("#")), "")
        return Isolation.NONE, ended.problem or said or describe(ended)
    finally:
        log.unlink(missing_ok=True)
        sandbox.close()


def describe(ended: Ended) -> str:
    """How a command ended, in words."""
    if ended.timed_out:
        return "took too long and was killed with all that it had started"
    if ended.problem is not None:
        return ended.problem
    if ended.status is None:
        return "vanished"
    if ended.status < 0:
        try:
            name = signal.Signals(-ended.status).name
        except ValueError:
            name = f"signal {-ended.status}"
        return f"was killed by {name}"
    return f"exit status {ended.status}"


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where a build has taken away the right to.

    Raises:
        BuildError: something is mounted in there, so that nothing was removed.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        mounted = [line.split(" ")[4] for line in file]
    if any(point.startswith(f"{folder.resolve()}/") for point in mounted):
        raise BuildError(
            "something is mounted in the build's scratch folder, so it is kept",
            file=str(folder),
            hint="unmount it, then remove the folder",
        )

    def allow(_function: object, path: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)

    shutil.rmtree(folder, onerror=allow)


def _enter(isolation: Isolation) -> list[str]:
    if isolation is Isolation.NONE:
        return []
    user = ["--user", "--map-root-user"] if isolation is Isolation.USER else []
    return ["unshare", *user, *_NAMESPACES, "--propagation", "private", "--"]


def log_header(command: Command) -> str:
    """What a step's log begins with."""
    lines = [f"# in {command.folder}", "# " + " ".join(command.argv)]
    lines += [f"# {name}={value}" for name, value in sorted(command.environment.items())]
    return "".join(f"{line}\n" for line in lines)


def _pump(process: subprocess.Popen[bytes], out: IO[bytes], deadline: float) -> Ended:
    """Copy output to the log until the process ends or must be ended."""
    stdout = process.stdout
    left_in_log = _MAX_LOG
    with selectors.DefaultSelector() as selector:
        if stdout is not None:
            selector.register(stdout, selectors.EVENT_READ)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return Ended(None, True, None, 0)
            if not selector.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, _POLL))
                continue
            for key, _events in selector.select(min(left, _POLL)):
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fileobj)
                try:
                    out.write(chunk[:left_in_log])
                    out.flush()
                except OSError as error:
                    return Ended(None, False, f"the log cannot be written: {error.strerror}", 0)
                left_in_log -= min(left_in_log, len(chunk))
    return Ended(process.returncode, False, None, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With the leash cut the init ends by itself; be sure of it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _drain(process: subprocess.Popen[bytes], out: IO[bytes]) -> None:
    """Log what is still in the pipe."""
    if process.stdout is None:
        return
    with process.stdout as stdout, contextlib.suppress(OSError):
        os.set_blocking(stdout.fileno(), False)
        chunk = os.read(stdout.fileno(), _CHUNK)
        while chunk:
            out.write(chunk)
            chunk = os.read(stdout.fileno(), _CHUNK)


def _report(descriptor: int) -> list[str]:
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, _MAX_REPORT).decode("utf-8", "replace").splitlines()
    return []


def _ended(ending: Ended, report: list[str], returncode: int, took: int) -> Ended:
    if ending.timed_out or ending.problem is not None:
        return Ended(None, ending.timed_out, ending.problem, took)
    told = dict(line.split(" ", 1) for line in report if " " in line)
    if "problem" in told:
        return Ended(None, False, told["problem"], took)
    if "signal" in told:
        return Ended(-int(told["signal"]), False, None, took)
    if "exit" in told:
        return Ended(int(told["exit"]), False, None, took)
    # the init itself was killed, or `unshare` refused and said why in the log
    status = returncode if returncode != 0 else None
    return Ended(status, False, None, took)
