# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at many packages: which carry enclaves, and each one's verdict.

A package without enclaves costs only the reading of its headers. Work is done
in several processes, and what is done can be kept, see `scan_state.py`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.limits import MIB
from sgx_enclaves.packages.check import PackageResult, check_package, package_finding
from sgx_enclaves.packages.counterpart import Reference
from sgx_enclaves.packages.enclaves import may_carry_enclaves
from sgx_enclaves.packages.glance import is_plain
from sgx_enclaves.packages.package import open_package
from sgx_enclaves.packages.references import open_reference
from sgx_enclaves.packages.repodata import Listing
from sgx_enclaves.packages.scan_state import Scanned, State, stamp_of
from sgx_enclaves.packages.survey import Target
from sgx_enclaves.signing.generation import Generation
from sgx_enclaves.verdict.model import Finding, Severity
from sgx_enclaves.verdict.policy import Policy

_BATCH = 64

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


def scan(
    targets: Sequence[Target],
    settings: ScanSettings,
    *,
    jobs: int = 1,
    state: Optional[State] = None,
    progress: Progress = lambda _done, _total: None,
) -> Iterator[Scanned]:
    """Yield a result for each package, as they come.

    Args:
        targets: what to look at, from `survey`.
        settings: how it is judged.
        jobs: processes; 1 works in this one.
        state: what an earlier scan found; new results are added to it.
        progress: told how many of how many packages are done.

    Raises:
        SgxEnclavesError: a reference cannot be read, or the state cannot be written.
    """
    done = 0
    pending = []
    for target in targets:
        known = state.known(target.path) if state is not None else None
        if known is None:
            pending.append(target)
            continue
        done += 1
        progress(done, len(targets))
        yield known
    for batch in _batches(pending, settings, jobs):
        for scanned in batch:
            if state is not None:
                state.add(scanned)
            done += 1
            progress(done, len(targets))
            yield scanned


def _batches(
    targets: Sequence[Target], settings: ScanSettings, jobs: int
) -> Iterator[Iterable[Scanned]]:
    # Here too, so that a bad reference is an error and not a result.
    references = tuple(open_reference(path) for path in settings.references)
    if jobs == 1 or len(targets) < 2:
        yield (scan_one(target, settings, references) for target in targets)
        return
    # Costs start-up time, and is not needed for a few packages.
    from sgx_enclaves.packages.scan_pool import in_processes  # noqa: PLC0415

    # A few packages with enclaves are as much work as many without.
    size = max(1, min(_BATCH, len(targets) // (4 * jobs)))
    pieces = [targets[at : at + size] for at in range(0, len(targets), size)]
    yield from in_processes(functools.partial(_scan_batch, settings), pieces, jobs)


@functools.lru_cache(maxsize=1)
def _opened(paths: tuple[str, ...]) -> tuple[Reference, ...]:
    """The references, opened once in each process."""
    return tuple(open_reference(path) for path in paths)


def _scan_batch(settings: ScanSettings, targets: Sequence[Target]) -> list[Scanned]:
    references = _opened(settings.references)
    return [scan_one(target, settings, references) for target in targets]


def scan_one(target: Target, settings: ScanSettings, references: Sequence[Reference]) -> Scanned:
    """Look at one package; whatever is wrong with it is in the result."""
    path = target.path
    stamp = stamp_of(path)
    if not settings.deep and target.listing is None:
        if is_plain(path):
            return Scanned(path, stamp, None)
        try:
            with open_package(path) as (package, _stream):
                wanted = may_carry_enclaves(package)
        except SgxEnclavesError as error:
            result = PackageResult(path, None, (), (package_finding(error, path),))
            return Scanned(path, stamp, settings.record(result))
        if not wanted:
            return Scanned(path, stamp, None)
    result = check_package(
        path,
        references,
        settings.policy_of,
        permitted=settings.permitted,
        generation=settings.generation,
    )
    if target.listing is not None:
        result = replace(result, findings=(*result.findings, *_not_as_listed(path, target.listing)))
    empty = not result.enclaves and not result.findings
    return Scanned(path, stamp, None if empty else settings.record(result))


def _not_as_listed(path: str, listing: Listing) -> Iterator[Finding]:
    """Say so when the repodata describe another file than the one that was looked at."""
    digest = hashlib.new(listing.algorithm, usedforsecurity=False)
    try:
        with open(path, "rb") as stream:
            for chunk in iter(lambda: stream.read(MIB), b""):
                digest.update(chunk)
    except OSError:
        # It could be read a moment ago; the other findings are true of what was there.
        return
    if digest.hexdigest() != listing.digest:
        yield Finding(
            "repodata-differs",
            Severity.UNVERIFIABLE,
            "the package is not the one that the repodata describe",
            expected=f"{listing.algorithm} {listing.digest}",
            found=digest.hexdigest(),
            hint="make the repodata anew, or get the package again",
        )
