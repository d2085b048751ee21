# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a build is done: what the core asks of a place, and how it runs programs.

Three things are places: this machine and a root directory on it (`sandbox.Machine`), and a
buildroot that somebody else made, as a Koji subtask does. Who has one gives it to
`verify.verify_release` or `build.build_release` in the request. The core knows no other way to run
a program there, and calls nothing else of its owner. A place may be entered when it is first
asked: a release whose build is given never asks.

A lock pins a place to its packages, in the format of mock's `buildroot_lock` plugin. Source:
`buildroot-lock-schema-1.1.0.json` of rpm-software-management/mock. Mock reads every 1.Y.Z and so
does this; 1.1.0 is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Optional, Protocol

from sgx_enclaves.errors import FormatError, InputError, UnsupportedError
from sgx_enclaves.plain import parse_json, read_schema, record, validate

_TAIL_BYTES, _TAIL_LINES = 8192, 8
MAX_OUTPUT = 16 << 20
_POLL = 0.5
# until what is asked to end is killed
_GRACE = 5.0
# the directories of programs in every place, for who brings no PATH
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@record
class Output:
    """What a short program printed, errors too, and its exit status, negative for a signal."""

    status: int
    text: str


@record
class Command:
    """A step of a build: in which directory, as the step sees it, with which variables, none but
    these, and for how many seconds until it and all that it started are killed.
    """

    argv: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    umask: int
    timeout: float = 3600
    hostname: str = "localhost"


@record
class Ended:
    """How a command ended; its status is negative for a signal, None if it was ended or never
    began.

    `problem` is why it could not be run, or was ended otherwise than by its deadline.
    """

    status: Optional[int]
    timed_out: bool
    problem: Optional[str]
    milliseconds: int


class Tree(Protocol):
    """Where one source tree stands, and its steps run.

    Its path for the steps is `root`, the one that was asked for if it is `fixed`; `home` is a
    directory for HOME as they see it. `network` is whether they can reach one.
    """

    root: str
    fixed: bool
    home: str
    network: bool

    @property
    def path(self) -> Path:
        """The tree's directory as this process sees it; at first it is not made yet. A BuildError
        if a step has put something else in its place.
        """

    def run(self, command: Command, log: Path) -> Ended:
        """Run a command to its end, whatever that is; nothing of it is left running.

        The log gets `log_header`, what the command prints, and how it ended.
        """

    def close(self) -> None:
        """Remove what was made for the tree outside of its scratch directory."""


class Place(Protocol):
    """Where all trees of a build are built, and its toolchain lies.

    It is `isolated` if steps can change nothing that outlives their tree: only then can a
    verdict be *reproducible*.
    """

    isolated: bool

    def ask(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        """Run short programs one after another, all in one entry; one output for each.

        One that needs variables begins with `env`; one without a path is looked for in the
        place's usual directories; one that is not there has a status that is not 0. The timeout,
        in seconds, is for each. An error is raised only where no program can be run at all.
        """

    def packages(self) -> Iterable[LockedPackage]:
        """The packages that are installed; none where there is no RPM. An error if that fails, or
        if the packages are not to be used.
        """

    def open(self, scratch: Path, root: str) -> Tree:
        """Make a tree that has the path `root`, if it can be, for its steps.

        `scratch` is a directory on this machine that may be made and used; whoever asks
        removes it later. Its name is this tree's own.
        """


def describe(ended: Ended) -> str:
    """How a command ended, in words."""
    if ended.status is None:
        return ended.problem or "took too long and was killed with all that it had started"
    if ended.status < 0:
        names = {int(item): item.name for item in signal.Signals}
        return f"was killed by {names.get(-ended.status, f'signal {-ended.status}')}"
    return f"exit status {ended.status}"


def log_header(command: Command) -> str:
    """What a step's log begins with."""
    lines = [f"# in {command.folder}", "# " + " ".join(command.argv)]
    lines += [f"# {name}={value}" for name, value in sorted(command.environment.items())]
    return "".join(f"{line}\n" for line in lines)


def log_tail(log: Path) -> list[str]:
    """The last lines that a step printed; none if its log cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if not line.startswith("# ")][-_TAIL_LINES:]


def run_program(
    argv: Sequence[str],
    environment: Mapping[str, str],
    timeout: float,
    out: BinaryIO,
    most: int,
    umask: int = -1,
) -> Ended:
    """Run a program to its end or to its deadline, in seconds; its process group never outlives it.

    What it prints, standard output and error together, goes into the file `out`; when that has more
    than `most` bytes, the program is ended. By default the umask is ours.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            umask=umask,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(None, False, f"{argv[0]} cannot be started: {error.strerror}", 0)
    problem: Optional[str] = None
    left = timeout
    try:
        while process.returncode is None and problem is None and left > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left, _POLL))
            left = started + timeout - time.monotonic()
            if os.fstat(out.fileno()).st_size > most:
                problem = f"printed more than {most} bytes"
        late = process.returncode is None and problem is None
    finally:
        _end(process)
    status = None if late or problem is not None else process.returncode
    return Ended(status, late, problem, int((time.monotonic() - started) * 1000))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its group; a supervisor or a sandbox is asked first, to end its own."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_tool(
    command: Sequence[str], timeout: float, environment: Optional[Mapping[str, str]] = None
) -> Output:
    """Run a short program to its end; `environment` is besides PATH, HOME and a plain locale.

    One that cannot be started, ran too long or printed too much has the status 127, as of a shell,
    and its text says so.
    """
    variables = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    # tools print their versions in the language of the user otherwise
    variables.update({"LC_ALL": "C", "LANGUAGE": "C", "TZ": "UTC"}, **(environment or {}))
    with tempfile.TemporaryFile() as out:
        ended = run_program(command, variables, timeout, out, MAX_OUTPUT)
        out.seek(0)
        said = out.read(MAX_OUTPUT)
    if ended.status is None:
        return Output(127, ended.problem or f"{command[0]} did not end within {timeout:g} s")
    return Output(ended.status, said.decode("utf-8", "replace"))


# those of `LockedPackage` without its URL, which goes before the last; no value has a tab
_FORMAT = (
    "%{NAME}\\t%{ARCH}\\t%{VERSION}\\t%{RELEASE}\\t%{EPOCH}\\t"
    "%{SIGMD5}\\t%{SIGPGP:pgpsig}\\t%{LICENSE}\\t%{PAYLOADDIGEST}\\n"
)
_INSTALLED_TIMEOUT = 120.0
_KEY_ID = re.compile(r"Key ID ([0-9a-f]{8,64})")


def installed_packages(
    root: Optional[str] = None,
    urls: Optional[Mapping[str, str]] = None,
    dbpath: Optional[str] = None,
) -> tuple[LockedPackage, ...]:
    """Ask RPM for every installed package of this machine, or of a buildroot; keys are none.

    `urls` says, by NEVRA, where a package was got, which the database does not know. `dbpath` is
    the directory of the database; by default RPM's own choice within the root.
    """
    command = ["rpm", "-qa", *(["--root", root] if root is not None else [])]
    command += [*(["--dbpath", dbpath] if dbpath is not None else []), "--qf", _FORMAT]
    output = run_tool(command, _INSTALLED_TIMEOUT)
    if output.status != 0:
        raise InputError(
            f"rpm failed with status {output.status}",
            file=dbpath or root,
            found=output.text[:200].strip(),
            hint="run `rpm -qa` there, and mend its database",
        )
    packages = []
    for number, line in enumerate(output.text.splitlines(), 1):
        values = ["" if value == "(none)" else value for value in line.split("\t")]
        if len(values) != _FORMAT.count("%") or not values[0]:
            raise FormatError(f"line {number} of rpm's answer is odd", found=repr(line[:100]))
        if values[0] == "gpg-pubkey":
            continue
        name, arch, version, release, epoch, sigmd5, signature, licence, payload = values
        key = _KEY_ID.search(signature)
        signer = key[1][-8:] if key is not None else None
        rest = (epoch or None, sigmd5, signer, licence, "", payload or None)
        package = LockedPackage(name, arch, version, release, *rest)
        packages.append(replace(package, url=(urls or {}).get(package.nevra, "")))
    return tuple(sorted(packages, key=lambda package: package.nevra))


@record
class LockedPackage:
    """One package of a buildroot; all names but the last are those of the format.

    `sigmd5` is the MD5 of header and payload: it distinguishes builds, it does not authenticate
    them. `signature` has the last eight digits of the key's id; `url` is empty if it is not known.
    `payload_sha256` is of the packed files; None in a lock, and before RPM 4.14.
    """

    name: str
    arch: str
    version: str
    release: str
    epoch: Optional[str]
    sigmd5: str
    signature: Optional[str]
    license: str
    url: str
    payload_sha256: Optional[str] = None

    @property
    def nevra(self) -> str:
        """Name, epoch, version, release and architecture in RPM's notation."""
        epoch = f"{self.epoch}:" if self.epoch not in (None, "0") else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"


WRITTEN_VERSION = "1.1.0"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
MAX_LOCK = 64 << 20
_PACKAGE_KEYS = tuple(LockedPackage.__annotations__)[:-1]


def parse_lock(data: bytes, file: str) -> tuple[LockedPackage, ...]:
    """The packages of a lock file; a FormatError if it is none, an UnsupportedError for another
    version. Mock's own options in it, and the image that it began with, are not compared.
    """
    top = parse_json(data, file=file, error=FormatError, most=MAX_LOCK)
    version = top.get("version") if isinstance(top, dict) else None
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise FormatError("its version is no version", file=file, found=repr(version))
    if match[1] != "1":
        message = "a buildroot lock of another major version"
        raise UnsupportedError(message, file=file, expected="1.Y.Z", found=version)
    schema = read_schema(__file__, "lock.schema.json")
    if int(match[2]) > 1:
        schema = _open(schema)
        schema["properties"]["bootstrap"]["additionalProperties"] = {"type": "string"}
    validate(top, schema, file=file, error=FormatError)
    # the schema has looked at each
    packages = [LockedPackage(*map(item.get, _PACKAGE_KEYS)) for item in top["buildroot"]["rpms"]]
    for name, count in Counter(package.nevra for package in packages).items():
        if count > 1:
            raise FormatError(f"buildroot.rpms has {name} twice", file=file)
    return tuple(sorted(packages, key=_order))


def _open(schema: Any) -> Any:
    """The schema without a ban on keys: a newer minor version may have some that we do not know."""
    if not isinstance(schema, dict):
        return schema
    return {key: _open(value) for key, value in schema.items() if value is not False}


def _order(package: LockedPackage) -> tuple[str, ...]:
    return (package.name, package.arch, package.version, package.release, package.epoch or "")


def dump_lock(packages: Iterable[LockedPackage], **config: str) -> str:
    """A lock as mock writes it: sorted keys, four blanks, a newline at the end; `config` has its
    options.
    """
    locked = sorted(packages, key=_order)
    rpms = [{key: getattr(package, key) for key in _PACKAGE_KEYS} for package in locked]
    data = {"version": WRITTEN_VERSION, "buildroot": {"rpms": rpms}, "config": config}
    return json.dumps(data, indent=4, sort_keys=True) + "\n"
