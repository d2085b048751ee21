# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole job for a release: get the sources, build, get the vendor's files, compare.

Stages are kept (see `stages`), the comparison never is: a verdict is made anew from
the bytes in each run, so that nothing that lies on a disk can pass for one.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import InputError, UnsupportedError
from sgx_enclaves.releases.build_stage import BuildStage, BuildTools, BuiltFiles, Vouched
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.manifest import config_name, unsigned_name
from sgx_enclaves.releases.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveResult,
    ReleaseVerdict,
    Stage,
    StageState,
    decide,
)
from sgx_enclaves.releases.release import Enclave, Release
from sgx_enclaves.releases.signed_stage import SignedFiles, SignedStage
from sgx_enclaves.releases.stage_log import Done, Say, StageLog
from sgx_enclaves.verdict.compare import compare, finding_of
from sgx_enclaves.verdict.model import Finding, Outcome, Severity, Verdict
from sgx_enclaves.verdict.policy import AllOf, LeastSvn, NotDebug, Policy, ProductId, SignedBy
from sgx_enclaves.workers import end_with_parent

_POLICY_FACTS = ("isvprodid", "least_isvsvn")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        catalogue: all releases.
        release: the one to verify.
        built: a folder with our enclaves, ready-made; None builds them.
        vouched: what somebody else says of that folder; None for what it says itself.
        signed: a folder with the vendor's files, ready-made; None fetches them.
        repacked: repacked archives, by the id of the vendor's archive.
        host_toolchain: build with this machine's toolchain, whatever it is.
        allow_unpinned: accept files and policies that nobody pinned.
        everything: build and compare the enclaves that are not required too.
        jobs: comparisons at once.
    """

    catalogue: Catalogue
    release: Release
    built: Optional[Path] = None
    vouched: Optional[Vouched] = None
    signed: Optional[Path] = None
    repacked: Mapping[str, Path] = field(default_factory=dict)
    host_toolchain: bool = False
    allow_unpinned: bool = False
    everything: bool = False
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Verified:
    """A verdict, and the files that it is about.

    Attributes:
        verdict: see `ReleaseVerdict`.
        built: our enclaves, as far as there are any.
        signed: the vendor's files, as far as they could be had.
    """

    verdict: ReleaseVerdict
    built: BuiltFiles
    signed: SignedFiles


def verify_release(request: Request, tools: BuildTools, say: Say) -> ReleaseVerdict:
    """Do the whole job; see `verify_files`, which keeps the files too."""
    return verify_files(request, tools, say).verdict


def verify_files(request: Request, tools: BuildTools, say: Say) -> Verified:
    """Do the whole job.

    Args:
        request: see `Request`.
        tools: see `BuildTools`.
        say: told the name of each stage as it begins.

    Returns:
        The verdict and the files. What goes wrong in a stage is in the verdict, never
        an exception.

    Raises:
        InputError: the arguments make no sense.
    """
    release = request.release
    _check_request(request)
    log = StageLog(say)
    built = BuildStage(
        request.catalogue,
        release,
        tools,
        log,
        host_toolchain=request.host_toolchain,
        allow_unpinned=request.allow_unpinned,
        everything=request.everything,
    ).run(request.built, request.vouched)
    signed = SignedStage(
        release, tools.fetcher, tools.store, log, allow_unpinned=request.allow_unpinned
    ).run(request.signed, request.repacked)
    results = _compare_all(release, built, signed, log, request.jobs)
    verdict = decide(
        release.name,
        release.title,
        unpinned=unpinned_digests(request.catalogue, release),
        unpinned_allowed=request.allow_unpinned,
        builds=built.facts or [BuildFacts(release.name, BuildKind.NONE, "", ())],
        stages=_with_unproved(log.stages, results, signed),
        enclaves=results,
        notices=request.catalogue.notices,
    )
    return Verified(verdict, built, signed)


def _check_request(request: Request) -> None:
    known = [archive.id for archive in request.release.vendor]
    for vendor in request.repacked:
        if vendor not in known:
            raise InputError(
                f"the release has no vendor archive {vendor!r}", expected=" or ".join(known)
            )
    if request.repacked and request.signed is not None:
        raise InputError("a repacked archive and a folder of signed files exclude each other")


def unpinned_digests(catalogue: Catalogue, release: Release) -> tuple[str, ...]:
    """The files of the release, and of the trees that it is built in, without a pinned digest."""
    facts = [f for f in release.unpinned if f.startswith(("source.", "vendor."))]
    trees = {e.built_in for e in release.enclaves if e.built_in is not None}
    for name in sorted(trees):
        tree = catalogue.release(name)
        facts += [f"{name}: {f}" for f in tree.unpinned if f.startswith("source.")]
    return tuple(facts)


def policy_of(enclave: Enclave) -> Policy:
    """What the catalogue demands of the enclave's signature."""
    policies: list[Policy] = [SignedBy(frozenset({enclave.signer}))]
    if enclave.isvprodid is not None:
        policies.append(ProductId(enclave.isvprodid))
    if enclave.least_isvsvn is not None:
        policies.append(LeastSvn(enclave.least_isvsvn))
    policies.append(NotDebug())
    return AllOf(tuple(policies))


@dataclass(frozen=True)
class _Job:
    """One comparison, as it goes to another process."""

    built: bytes
    signed: bytes
    config: bytes
    policy: Policy
    names: tuple[str, str, str]


def _compare_one(job: _Job) -> Verdict:
    return compare(job.built, job.signed, job.config, job.policy, names=job.names)


def _compare_all(
    release: Release, built: BuiltFiles, signed: SignedFiles, log: StageLog, jobs: int
) -> list[EnclaveResult]:
    work: dict[str, _Job] = {}
    for enclave in release.enclaves:
        ours, theirs = built.files.get(enclave.name), signed.files.get(enclave.name)
        if ours is not None and theirs is not None:
            names = (unsigned_name(enclave.file), theirs.name, config_name(enclave.file))
            work[enclave.name] = _Job(
                ours.unsigned, theirs.data, ours.config, policy_of(enclave), names
            )
    verdicts: dict[str, Verdict] = {}
    failures: dict[str, Finding] = {}
    if not work:
        log.skip("compare", "no enclave is there twice, built and signed")
    else:
        log.attempt("compare", lambda: _run(work, jobs, verdicts, failures))
    return [_result(e, built, signed, verdicts, failures) for e in release.enclaves]


def _run(
    work: Mapping[str, _Job],
    jobs: int,
    verdicts: dict[str, Verdict],
    failures: dict[str, Finding],
) -> Done[None]:
    workers = max(1, min(jobs, len(work)))
    if workers == 1:
        verdicts.update({name: _compare_one(job) for name, job in work.items()})
    else:
        # a fork is quick, but must not meet another thread
        method = "fork" if threading.active_count() == 1 else "forkserver"
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
            futures = {name: pool.submit(_compare_one, job) for name, job in work.items()}
            for name, future in futures.items():
                try:
                    verdicts[name] = future.result()
                except (BrokenProcessPool, OSError, MemoryError):
                    error = UnsupportedError(
                        "the comparison's process ended early",
                        hint="is there enough memory? --jobs 1 needs the least",
                    )
                    failures[name] = finding_of(error, "compare-failed")
    same = sum(verdict.outcome is Outcome.IDENTICAL for verdict in verdicts.values())
    return Done(None, f"{same} of {len(work)} are identical, {workers} at once")


def _result(
    enclave: Enclave,
    built: BuiltFiles,
    signed: SignedFiles,
    verdicts: Mapping[str, Verdict],
    failures: Mapping[str, Finding],
) -> EnclaveResult:
    stage = ""
    findings: tuple[Finding, ...] = ()
    if enclave.name in failures:
        stage, findings = "compare", (failures[enclave.name],)
    elif enclave.name not in verdicts:
        blocked = [r for r in (built.refused, signed.refused) if enclave.name in r]
        if blocked:
            stage = blocked[0][enclave.name][0]
            findings = tuple(f for r in blocked for f in r[enclave.name][1])
        else:
            stage = "compare"
            findings = (_no_reason(enclave),)
    return EnclaveResult(
        enclave.name,
        enclave.signed_file,
        enclave.required,
        enclave.may_ship,
        enclave.reason,
        tuple(fact for fact in _POLICY_FACTS if getattr(enclave, fact) is None),
        stage,
        findings,
        verdicts.get(enclave.name),
    )


def _no_reason(enclave: Enclave) -> Finding:
    return Finding(
        "not-compared",
        Severity.UNVERIFIABLE,
        f"{enclave.name} was not compared, since an earlier stage gave nothing for it",
    )


def _with_unproved(
    stages: Sequence[Stage], results: Sequence[EnclaveResult], signed: SignedFiles
) -> list[Stage]:
    """Refuse a repack that holds an enclave which no comparison could vouch for."""
    unproved = [
        result.name
        for result in results
        if result.name in signed.to_prove and result.bytes_outcome is not Outcome.IDENTICAL
    ]
    if not unproved:
        return list(stages)
    finding = Finding(
        "repack-unproved",
        Severity.UNVERIFIABLE,
        "the repack's enclaves are neither the vendor's own bytes nor proved by comparison",
        found=", ".join(unproved),
        hint="repack the vendor's archive again, and only leave things out",
    )
    return [
        replace(s, state=StageState.REFUSED, findings=(*s.findings, finding))
        if s.name == "repack"
        else s
        for s in stages
    ]
