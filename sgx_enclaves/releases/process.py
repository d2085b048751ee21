# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a short tool and read what it prints: no shell, a deadline, bounded output."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Callable, Optional

from sgx_enclaves.errors import InputError, LimitError

_CHUNK = 64 << 10
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
            chunk = os.read(stdout.fileno(), _CHUNK)
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
