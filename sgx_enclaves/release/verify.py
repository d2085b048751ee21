# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole job for a release: get the sources, build, get the vendor's files, compare.

Stages are kept (see `store`), the comparison never is: a verdict is made again from
the bytes in each run, so that nothing that lies on a disk can pass for one.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Optional, Union

from sgx_enclaves.catalogue.records import Enclave, Release, policy_of
from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.verdict import Finding, Outcome, Severity, Verdict, finding_of
from sgx_enclaves.errors import InputError, UnsupportedError
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.files import can_have_workers, end_with_parent
from sgx_enclaves.release.build_stage import (
    BuildOrigin,
    Job,
    OurBuild,
    Request,
    Uses,
    build,
    built_files,
    facts_of_build,
    facts_of_given,
    fetch_sources,
    find_trees,
    look_at_toolchains,
    read_given,
)
from sgx_enclaves.release.fetch import Fetcher
from sgx_enclaves.release.manifest import BuiltEnclave, Manifest, config_name, unsigned_name
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveOutcome,
    ReleaseVerdict,
    Stage,
    StageState,
    decide,
)
from sgx_enclaves.release.place import Place
from sgx_enclaves.release.store import Done, Files, Say, StageLog, StageStore, stage
from sgx_enclaves.release.toolchain import ToolchainRecord
from sgx_enclaves.release.vendor import SignedFiles, VendorFiles

__all__ = ["BuildOrigin", "Request", "Verified", "verify_release"]
_POLICY_FACTS = ("isvprodid", "least_isvsvn")


@dataclass(frozen=True)
class Verified:
    """A verdict, and what it is about.

    Attributes:
        verdict: see `ReleaseVerdict`.
        built: our enclaves, as far as there are any.
        signed: the vendor's files, as far as they could be had.
        toolchains: what was seen of each toolchain, by its name; none if the build was given.
        manifest: how our enclaves were built; None if nothing says so.
    """

    verdict: ReleaseVerdict
    built: Files[BuiltEnclave]
    signed: SignedFiles
    toolchains: Mapping[str, ToolchainRecord]
    manifest: Optional[Manifest] = None


def verify_release(
    request: Request, *, place: Place, fetcher: Fetcher, store: StageStore, say: Say
) -> Verified:
    """Do the whole job.

    Args:
        request: see `Request`.
        place: where to build; it is not asked for anything if the build is given.
        fetcher: brings sources and the vendor's archives.
        store: keeps the results of stages.
        say: hears the name of each stage as it begins, and what a build is doing.

    Returns:
        The verdict and what it is about. What goes wrong in a stage is in the verdict,
        never an exception.

    Raises:
        InputError: the arguments make no sense.
    """
    _check_request(request)
    release, log = request.release, StageLog(say)
    job = Job(request, find_trees(request), place, fetcher, store, log)
    built: Optional[OurBuild] = None
    uses: Uses = {}
    if request.built is not None:
        given = read_given(job, request.built)
        log.record("build", given)
        built = given.value
        facts = facts_of_given(job, built)
    else:
        sources = log.record("sources", fetch_sources(job))
        looked = look_at_toolchains(job)
        uses = looked.value or {}
        usable = log.record("toolchain", looked)
        if not job.where.enclaves:
            log.skip("build", "no enclave of this release can be built")
        elif sources is None or usable is None:
            log.skip("build", "needs the sources and the toolchain")
        else:
            done = build(job, sources, usable)
            log.record("build", done)
            built = done.value
        facts = facts_of_build(job, uses, built)
    ours = built_files(job, built)
    vendors = VendorFiles(release, fetcher, store, log, request.allow_unpinned)
    theirs = vendors.get(request.signed, request.repacked)
    pairs = _pairs(release, ours, theirs)
    verdicts: Verdicts = {}
    if pairs:
        verdicts = log.record("compare", compare_all(job, pairs)) or {}
    else:
        log.skip("compare", "no enclave is there twice, built and signed")
    results = [_result(enclave, ours, theirs, verdicts) for enclave in release.enclaves]
    verdict = decide(
        release.name,
        release.title,
        unpinned=request.catalogue.unpinned_digests(release),
        unpinned_allowed=request.allow_unpinned,
        builds=facts or [BuildFacts(release.name, BuildKind.NONE, "", ())],
        stages=_with_unproved(log.stages, results, theirs),
        enclaves=results,
        notices=request.catalogue.notices,
    )
    seen = {use.name: use.record for use in uses.values()}
    return Verified(verdict, ours, theirs, seen, built.manifest if built is not None else None)


def _check_request(request: Request) -> None:
    known = [archive.id for archive in request.release.vendor]
    for vendor in request.repacked:
        if vendor not in known:
            raise InputError(
                f"the release has no vendor archive {vendor!r}", expected=" or ".join(known)
            )
    if request.repacked and request.signed is not None:
        raise InputError("a repacked archive and a directory of signed files exclude each other")


@dataclass(frozen=True)
class _Pair:
    """One comparison, as it goes to another process."""

    built: bytes
    signed: bytes
    config: bytes
    policy: Policy
    names: tuple[str, str, str]


def _compare_one(pair: _Pair) -> Verdict:
    verdict = compare(pair.built, pair.signed, pair.config, pair.policy, names=pair.names)
    return explained(verdict, pair.built, pair.signed, pair.config)


Pairs = Mapping[str, _Pair]
Verdicts = Mapping[str, Union[Verdict, Finding]]


def _pairs(release: Release, ours: Files[BuiltEnclave], theirs: SignedFiles) -> Pairs:
    """What is to be compared, by enclave."""
    pairs = {}
    for enclave in release.enclaves:
        built, signed = ours.files.get(enclave.name), theirs.files.get(enclave.name)
        if built is not None and signed is not None:
            names = (unsigned_name(enclave.file), signed.name, config_name(enclave.file))
            pairs[enclave.name] = _Pair(
                built.unsigned, signed.data, built.config, policy_of(enclave), names
            )
    return pairs


@stage("compare")
def compare_all(job: Job, pairs: Pairs) -> Done[Verdicts]:
    """A verdict for each enclave, or why its comparison did not end."""
    verdicts: dict[str, Union[Verdict, Finding]] = {}
    workers = max(1, min(job.request.jobs, len(pairs)))
    if workers == 1 or not can_have_workers():
        workers = 1
        verdicts.update({name: _compare_one(pair) for name, pair in pairs.items()})
    else:
        # a fork is quick, but must not meet another thread
        method = "fork" if threading.active_count() == 1 else "forkserver"
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
            futures = {name: pool.submit(_compare_one, pair) for name, pair in pairs.items()}
            for name, future in futures.items():
                try:
                    verdicts[name] = future.result()
                except (BrokenProcessPool, OSError, MemoryError):
                    error = UnsupportedError(
                        "the comparison's process ended early",
                        hint="is there enough memory? --jobs 1 needs the least",
                    )
                    verdicts[name] = finding_of(error, "compare-failed")
    same = sum(
        isinstance(verdict, Verdict) and verdict.outcome is Outcome.IDENTICAL
        for verdict in verdicts.values()
    )
    return Done(verdicts, f"{same} of {len(pairs)} are identical, {workers} at once")


def _result(
    enclave: Enclave, ours: Files[BuiltEnclave], theirs: SignedFiles, verdicts: Verdicts
) -> EnclaveOutcome:
    refused_by = ""
    findings: tuple[Finding, ...] = ()
    verdict = verdicts.get(enclave.name)
    blocked = [r for r in (ours.refused, theirs.refused) if enclave.name in r]
    if isinstance(verdict, Finding):
        refused_by, findings, verdict = "compare", (verdict,), None
    elif verdict is None and blocked:
        refused_by = blocked[0][enclave.name][0]
        findings = tuple(f for r in blocked for f in r[enclave.name][1])
    elif verdict is None:
        refused_by, findings = "compare", (_no_reason(enclave),)
    return EnclaveOutcome(
        enclave.name,
        enclave.signed_file,
        enclave.required,
        enclave.may_ship,
        enclave.reason,
        tuple(fact for fact in _POLICY_FACTS if getattr(enclave, fact) is None),
        refused_by,
        findings,
        verdict,
    )


def _no_reason(enclave: Enclave) -> Finding:
    return Finding(
        "not-compared",
        Severity.UNVERIFIABLE,
        f"{enclave.name} was not compared, since an earlier stage gave nothing for it",
    )


def _with_unproved(
    stages: Sequence[Stage], results: Sequence[EnclaveOutcome], theirs: SignedFiles
) -> list[Stage]:
    """Refuse a repack that holds an enclave which no comparison could vouch for."""
    unproved = [
        result.name
        for result in results
        if result.name in theirs.to_prove and result.bytes_outcome is not Outcome.IDENTICAL
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
