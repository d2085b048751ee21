# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs run inside a buildroot by mock, within a deadline, and a directory of ours in there.

Whoever builds in the buildroot is root in it and may change every name. So the
directory is held open, and no link is followed in it. The shell program below is a
constant; what it works on are its arguments.

kojid itself waits for mock without a deadline. When ours passes, the programs that were
started are ended, and kojid's own waiting sees them end. Nothing is raised into kojid's
code, which may be talking to the hub.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Optional

from sgx_enclaves.errors import BuildError, InputError, LimitError
from sgx_enclaves.release.place import Output

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
_MAX_OUTPUT = 16 << 20
# to enter and leave the buildroot, however slow the disk
_ENTRY = 300.0


@contextlib.contextmanager
def children_end_within(seconds: float) -> Iterator[threading.Event]:
    """End all children of this process if the block takes longer; sets the event then.

    They are asked to, and killed some time later. For the main thread.
    """
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
    """A `BuildRoot` of kojid's that is ready."""

    def __init__(self, broot: Any) -> None:
        self._broot = broot
        self.root = Path(broot.rootdir())
        self.inside = f"{broot.tmpdir(within=True)}/{_OWN}"
        self.folder = Path(broot.tmpdir()) / _OWN
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
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
        place = Path(self._broot.resultdir()) / as_name
        with contextlib.suppress(OSError):
            place.unlink(missing_ok=True)
            os.link(name, place, src_dir_fd=self._fd, follow_symlinks=False)
            return True
        return False

    def upload(self, path: Path, as_name: str) -> None:
        """Upload a log that is whole."""
        self._broot.single_log(str(path), name=as_name)

    def get(self, name: str, limit: int) -> bytes:
        """Read a file of our folder."""
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
        limit = ["timeout", "-k", "5", f"{timeout:g}"]
        named = {f"ask-{number}": [*limit, *command] for number, command in enumerate(commands)}
        for name in named:
            self.create(f"{name}.log").close()
        how = self.run(named, timeout * len(named))
        try:
            return [
                Output(
                    int(self.get(f"{name}.status", 16)),
                    self.get(f"{name}.log", _MAX_OUTPUT).decode("utf-8", "replace"),
                )
                for name in named
            ]
        except (InputError, ValueError):
            raise BuildError(
                f"programs cannot be run in the buildroot: mock {how}",
                hint="read mock_output.log and root.log of this task",
            ) from None

    def run(self, commands: Mapping[str, Sequence[str]], timeout: float) -> str:
        """Run commands by their names, one after the other, in one entry; how mock ended, in words.

        The output of each is added to `NAME.log` of ours, its status is in `NAME.status`. Some
        time after `timeout` seconds mock itself is ended.
        """
        for name, words in commands.items():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{name}.status", dir_fd=self._fd)
            with self.create(name) as file:
                file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        argv = ["/bin/bash", "-c", _BATCH, _OWN, self.inside, *commands]
        with children_end_within(timeout + _ENTRY) as passed:
            status = self._broot.mock(["--chroot", "--", *argv])
        if passed.is_set():
            return f"did not end within {timeout + _ENTRY:g} s and was ended"
        if os.WIFSIGNALED(status):
            return f"was killed by signal {os.WTERMSIG(status)}"
        return f"ended with status {os.WEXITSTATUS(status)}"
