# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole tree of packages: which carry enclaves, and each one's verdict.

A package without enclaves costs only the reading of its headers. Work is done
in several processes, and what is done can be kept in a file of JSON lines, so
that a scan that was stopped goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves.errors import InputError, LimitError, SgxEnclavesError
from sgx_enclaves.files import write_file
from sgx_enclaves.packages.check import PackageResult, check_package, package_finding
from sgx_enclaves.packages.enclaves import may_carry_enclaves
from sgx_enclaves.packages.glance import is_plain
from sgx_enclaves.packages.package import open_package
from sgx_enclaves.packages.references import Reference, open_reference
from sgx_enclaves.signing.generation import Generation
from sgx_enclaves.verdict.policy import Policy
from sgx_enclaves.workers import end_with_parent

_BATCH = 64
# Batches that wait for a process; bounds the memory of a scan of millions.
_WAITING = 4

_KEY = "scan"
_KEY_SIZE = 1 << 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScanSettings:
    """How packages are judged; goes to every process.

    Attributes:
        references: packages and folders of unsigned enclaves, in order.
        policy_of: the policy for an enclave, by its path.
        record: a result as a mapping that `json.dumps` takes, with its `exit_status`.
        permitted: see `check_package`.
        generation: see `check_package`.
        deep: read every payload, so that an enclave under an innocent name is found.
    """

    references: tuple[str, ...]
    policy_of: Callable[[str], Policy]
    record: Callable[[PackageResult], dict[str, Any]]
    permitted: tuple[str, ...] = ()
    generation: Optional[Generation] = None
    deep: bool = False


@dataclass(frozen=True)
class Scanned:
    """One package of a scan.

    Attributes:
        file: the package file.
        stamp: size in bytes and time of change in ns: another stamp, another file.
        report: as `ScanSettings.record` gives it; None for a package without enclaves.
    """

    file: str
    stamp: tuple[int, int]
    report: Optional[dict[str, Any]]

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return int(self.report["exit_status"]) if self.report else 0


def find_packages(folder: str) -> list[str]:
    """Every `*.rpm` below a folder, sorted; links to folders are not followed.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot be read: {error.strerror}", file=error.filename) from None

    found = []
    for parent, _folders, files in os.walk(folder, onerror=refuse):
        found += [str(Path(parent, name)) for name in files if name.endswith(".rpm")]
    return sorted(found)


def scan(
    paths: Sequence[str],
    settings: ScanSettings,
    *,
    jobs: int = 1,
    state: Optional[State] = None,
    progress: Progress = lambda _done, _total: None,
) -> Iterator[Scanned]:
    """Yield a result for each package, as they come.

    Args:
        paths: package files.
        settings: how they are judged.
        jobs: processes; 1 works in this one.
        state: what an earlier scan found; new results are added to it.
        progress: told how many of how many packages are done.

    Raises:
        SgxEnclavesError: a reference cannot be read, or the state cannot be written.
    """
    done = 0
    pending = []
    for path in paths:
        known = state.known(path) if state is not None else None
        if known is None:
            pending.append(path)
            continue
        done += 1
        progress(done, len(paths))
        yield known
    for batch in _batches(pending, settings, jobs):
        for scanned in batch:
            if state is not None:
                state.add(scanned)
            done += 1
            progress(done, len(paths))
            yield scanned


def _batches(
    paths: Sequence[str], settings: ScanSettings, jobs: int
) -> Iterator[Iterable[Scanned]]:
    # Here too, so that a bad reference is an error and not a result.
    references = tuple(open_reference(path) for path in settings.references)
    if jobs == 1:
        yield (scan_one(path, settings, references) for path in paths)
        return
    pieces = iter([paths[at : at + _BATCH] for at in range(0, len(paths), _BATCH)])
    with ProcessPoolExecutor(jobs, initializer=end_with_parent) as pool:
        running: set[Future[list[Scanned]]] = set()
        try:
            while True:
                for piece in pieces:
                    running.add(pool.submit(_scan_batch, piece, settings))
                    if len(running) >= jobs * _WAITING:
                        break
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise LimitError(
                "a process of the scan died, perhaps for want of memory",
                hint="scan again with fewer --jobs; what was done is in the --state file",
            ) from None
        finally:
            for future in running:
                future.cancel()


@functools.lru_cache(maxsize=1)
def _opened(paths: tuple[str, ...]) -> tuple[Reference, ...]:
    """The references, opened once in each process."""
    return tuple(open_reference(path) for path in paths)


def _scan_batch(paths: Sequence[str], settings: ScanSettings) -> list[Scanned]:
    references = _opened(settings.references)
    return [scan_one(path, settings, references) for path in paths]


def scan_one(path: str, settings: ScanSettings, references: Sequence[Reference]) -> Scanned:
    """Look at one package; whatever is wrong with it is in the result."""
    stamp = stamp_of(path)
    if not settings.deep and is_plain(path):
        return Scanned(path, stamp, None)
    try:
        with open_package(path) as (package, _stream):
            reason = settings.deep or may_carry_enclaves(package)
        if not reason:
            return Scanned(path, stamp, None)
    except SgxEnclavesError as error:
        result = PackageResult(path, None, (), (package_finding(error, path),))
        return Scanned(path, stamp, settings.record(result))
    result = check_package(
        path,
        references,
        settings.policy_of,
        permitted=settings.permitted,
        generation=settings.generation,
    )
    empty = not result.enclaves and not result.findings
    return Scanned(path, stamp, None if empty else settings.record(result))


def stamp_of(path: str) -> tuple[int, int]:
    """Size and time of change of a file; zeros when it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


def stamps_below(path: str) -> str:
    """Digest of the stamps of a file, or of all files of a folder: another one, other results."""
    digest = hashlib.sha256(repr(stamp_of(path)).encode())
    for parent, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(parent, name)
            digest.update(repr((file, stamp_of(file))).encode())
    return digest.hexdigest()


class State:
    """What was scanned already, in a file of JSON lines.

    The first line says with which settings. With others, the file starts anew.

    Args:
        path: the file; made when it is not there.
        key: whatever the results depend on, as text.

    Raises:
        InputError: it cannot be read or written.
    """

    def __init__(self, path: str, key: str) -> None:
        self._path = path
        self._known: dict[str, Scanned] = {}
        header = json.dumps({_KEY: key})
        lines = self._lines()
        kept = bool(lines) and lines[0] == header
        # A scan that was killed may have left half a line: it is left out.
        whole = [line for line in lines[1:] if self._learn(line)] if kept else []
        write_file(path, "".join(f"{line}\n" for line in (header, *whole)).encode())
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def _lines(self) -> list[str]:
        if not os.path.exists(self._path):
            return []
        try:
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                first = stream.readline(_KEY_SIZE).rstrip("\n")
                if not first.startswith(f'{{"{_KEY}": '):
                    raise InputError(
                        "not the state of a scan, and so not written over",
                        file=self._path,
                        hint="name a file that is not there yet",
                    )
                return [first, *stream.read().splitlines()]
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self._path) from None

    def _learn(self, line: str) -> bool:
        try:
            record = json.loads(line)
            size, changed = record["stamp"]
            scanned = Scanned(record["file"], (size, changed), record["report"])
            _ = scanned.exit_status
        except (ValueError, KeyError, TypeError):
            return False
        self._known[scanned.file] = scanned
        return True

    def known(self, path: str) -> Optional[Scanned]:
        """The earlier result for a file that has not changed since."""
        scanned = self._known.get(path)
        return scanned if scanned is not None and scanned.stamp == stamp_of(path) else None

    def add(self, scanned: Scanned) -> None:
        """Keep a result.

        Raises:
            InputError: it cannot be written.
        """
        record = {"file": scanned.file, "stamp": scanned.stamp, "report": scanned.report}
        try:
            self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()
        except OSError as error:
            raise InputError(
                f"the state cannot be kept: {error.strerror or error}", file=self._path
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
