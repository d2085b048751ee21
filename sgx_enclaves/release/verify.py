# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole job for a release: get the sources, build, get the vendor's files, compare.

A build is kept (see `store`), the comparison never is: a verdict is made again from
the bytes in each run, so that nothing that lies on a disk can pass for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Release, policy_of
from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.verdict import Finding, Outcome, Verdict, finding_of
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.release import build, vendor
from sgx_enclaves.release.build_tree import BuildRequest, TreeInputs
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.manifest import (
    LOGS,
    NO_MANIFEST,
    Built,
    BuiltEnclave,
    EnclaveRecord,
    Manifest,
    config_name,
    load_given,
    unsigned_name,
)
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveOutcome,
    Files,
    ReleaseVerdict,
    StageLog,
    StageState,
    decide,
    note,
    unverifiable,
)
from sgx_enclaves.release.place import LockedPackage, log_tail
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.release.toolchain import PartState, ToolchainKind, ToolchainRecord, require_lock

_LINES = 3
_LOG = re.compile(rf"(?<![\w/]){LOGS}/\S+\.log")


@dataclass(frozen=True)
class Request(BuildRequest):
    """What is asked for; see also `BuildRequest`.

    Attributes:
        built: a directory with our enclaves, ready-made; None builds them.
        says: what somebody else says of that directory; empty for what it says itself.
        objections: why that directory must not be taken, if so.
        signed: a directory with the vendor's files, ready-made; None fetches them.
        repacked: repacked archives, by the id of a vendor's archive of the release.
        lock: the packages that the place must have, if they are pinned.
        allow_unpinned: accept a verdict with files and policies that are not pinned; the
            fetcher refuses such files or not by itself.
        everything: build and compare the enclaves that are not required too.
        resume: keep the trees, to resume there at the step that failed in an earlier run.
        log_words: what findings call a step's log, if not by its path here.
    """

    built: Optional[Path] = None
    says: str = ""
    objections: tuple[Finding, ...] = ()
    signed: Optional[Path] = None
    repacked: Mapping[str, Path] = field(default_factory=dict)
    lock: Optional[Sequence[LockedPackage]] = None
    allow_unpinned: bool = False
    everything: bool = False
    resume: bool = False
    log_words: Callable[[Path], str] = str


@dataclass(frozen=True)
class Verified:
    """A verdict, and what it is about: our enclaves and the vendor's files, as far as there are
    any, each toolchain that was seen, and how our enclaves were built, if that is known.
    """

    verdict: ReleaseVerdict
    built: Files[BuiltEnclave]
    signed: vendor.SignedFiles
    toolchains: Mapping[str, ToolchainRecord]
    manifest: Optional[Manifest] = None

    def compared(self) -> Iterator[tuple[str, Verdict, bytes, bytes]]:
        """Of each enclave that was compared: name, verdict, our bytes, the vendor's."""
        for item in self.verdict.enclaves:
            ours, theirs = self.built.files.get(item.name), self.signed.files.get(item.name)
            if item.verdict is not None and ours is not None and theirs is not None:
                yield item.name, item.verdict, ours.unsigned, theirs.data


def verify_release(request: Request, *, fetcher: Fetcher, store: BuildStore) -> Verified:
    """Do the whole job; only arguments that make no sense are an exception.

    What goes wrong in a stage is in the verdict. If the build is given, the place is not asked for
    anything. `request.say` also gets the name of each stage as it begins.
    """
    _check_request(request)
    release, catalogue, log = request.release, request.catalogue, StageLog(request.say)
    ours = Files[BuiltEnclave]()
    plans = _plan(request, ours)
    inputs: list[TreeInputs] = []
    if request.built is not None:
        built, facts = _read_given(request, request.built, plans, log)
    else:
        inputs = _gather(request, plans, fetcher, log)
        built = _build(request, inputs, store, log)
        facts = [_facts_of_build(item, built) for item in inputs]
    if built is not None:
        _take_built(request, built, ours)
    ours.refuse_rest(release.enclaves, *log.stages)
    if request.signed is not None:
        theirs = vendor.signed_of_directory(release, request.signed, log)
    else:
        theirs = vendor.signed_of_archives(release, fetcher, log, request.repacked)
    results = _compare_all(release, ours, theirs, log)
    same = {result.name for result in results if result.bytes_outcome is Outcome.IDENTICAL}
    if unproved := [e.name for e in release.enclaves if e.name in theirs.to_prove - same]:
        finding = unverifiable(
            "repack-unproved",
            "the repack's enclaves are neither the vendor's own bytes nor proved by comparison",
            found=", ".join(unproved),
            hint="repack the vendor's archive again, and only leave things out",
        )
        for stage in log.stages:
            if stage.name == "repack":
                stage.refuse(finding)
    verdict = decide(
        ReleaseVerdict(
            release.name,
            release.title,
            catalogue.unpinned_digests(release),
            request.allow_unpinned,
            tuple(facts) or (BuildFacts(release.name, BuildKind.NONE, "", ()),),
            tuple(log.stages),
            tuple(results),
            catalogue.notices(release),
        )
    )
    seen = {item.toolchain.name: item.toolchain.record for item in inputs}
    manifest = built.manifest if built and built.manifest is not NO_MANIFEST else None
    return Verified(verdict, ours, theirs, seen, manifest)


def _check_request(request: Request) -> None:
    if request.keep and not (request.place.isolated and request.resume):
        raise InputError(
            "trees can only be kept where steps are separated from this machine",
            hint="install bubblewrap, or drop --keep",
        )
    if request.repacked and request.signed is not None:
        raise InputError(
            "a repacked archive and a directory of signed files exclude each other",
            hint="drop --repacked or --signed",
        )


def _plan(request: Request, ours: Files[BuiltEnclave]) -> tuple[Release, ...]:
    """Where the enclaves are built; why others are not is noted."""
    catalogue, release, names = request.catalogue, request.release, []
    for enclave in release.enclaves:
        if not (enclave.required or request.everything or request.built is not None):
            words = f"{enclave.name} is not required, so it was not built"
            finding = unverifiable("not-asked-for", words, hint="--all builds it too")
            ours.refuse(enclave.name, "build", finding)
            continue
        try:
            catalogue.build_of(release, enclave)
            names.append(enclave.name)
        except SgxEnclavesError as error:
            ours.refuse(enclave.name, "catalogue", finding_of(error, "not-buildable"))
    return catalogue.plan(release.only(names), request.route) if names else ()


def _gather(
    request: Request, plans: Sequence[Release], fetcher: Fetcher, log: StageLog
) -> list[TreeInputs]:
    """Get the sources, and look at the toolchain."""
    archives: dict[str, dict[str, Fetched]] = {}
    inputs: list[TreeInputs] = []
    with log.stage("sources") as stage:
        for plan in plans:
            archives[plan.name] = vendor.fetch_sources(plan, fetcher)
        files = [file for tree in archives.values() for file in tree.values()]
        loose = sum(not file.pinned for file in files)
        kept = sum(file.url is None for file in files)
        stage.detail = f"{len(files)} archive{'s' if len(files) != 1 else ''}, {kept} in the cache"
        stage.detail += f", {loose} NOT PINNED" if loose else ", each as pinned"
    with log.stage("toolchain") as stage:
        if request.lock is not None:
            require_lock(request.lock, request.place)
        for plan in plans:
            inputs.append(build.look_at_tree(request, plan, archives.get(plan.name, {})))
        wrong = [finding for item in inputs for finding in item.toolchain.findings]
        parts = [part for item in inputs for part in item.toolchain.parts]
        others = sum(part.state is PartState.OTHER for part in parts)
        good = len(parts) - len(wrong) - others
        stage.detail = f"{good} of {len(parts)} parts are as designated"
        if others:
            stage.detail += f", {others} of another version, which makes no difference"
        if wrong and request.toolchain is not ToolchainKind.HOST:
            stage.refuse(*wrong)
        elif wrong:
            stage.findings += tuple(wrong)
            stage.detail += "; this machine's toolchain is used all the same, as asked"
    return inputs


def _build(
    request: Request, inputs: Sequence[TreeInputs], store: BuildStore, log: StageLog
) -> Optional[Built]:
    """Build, or take what an earlier run built from the same; refused if one is missing."""
    refused = any(stage.state is StageState.REFUSED for stage in log.stages)
    if refused or not inputs:
        nothing = "no enclave of this release can be built"
        log.skip("build", "needs the sources and the toolchain" if refused else nothing)
        return None
    names = [enclave.name for item in inputs for enclave in item.release.enclaves]
    required = [e.name for e in request.release.enclaves if e.required and e.name in names]
    trees = store if request.resume else None

    def is_whole(built: Built) -> bool:
        # what failed once may go well now
        kept = not request.keep or store.trees_place(*build.trees_name(request, inputs)).exists()
        return kept and all(built.enclave(name) for name in required)

    with log.stage("build") as stage:
        built, reused, notice = store.build(
            build.build_inputs(request, inputs),
            lambda into: build.build_trees(request, inputs, into, trees),
            is_whole,
        )
        stage.state = StageState.KEPT if reused else StageState.DONE
        stage.detail = f"{len(built.enclaves)} of {len(names)} enclaves, and their manifest"
        if notice:
            stage.findings += (note("kept-result-dropped", notice),)
        for tree in built.manifest.trees:
            if tree.network:
                words = f"{tree.release}: the build's steps could reach a network"
                stage.findings += (note("network-open", words),)
        if not all(built.enclave(name) for name in required):
            # each enclave has its own reason
            stage.refuse()
        return built
    return None


def _read_given(
    request: Request, folder: Path, plans: Sequence[Release], log: StageLog
) -> tuple[Optional[Built], list[BuildFacts]]:
    """A build that is given, and what it or others say of it; nothing of that is proved here."""
    with log.stage("build") as stage:
        if request.objections:
            stage.detail = "the build that is given must not be taken"
            stage.refuse(*request.objections)
            return None, []
        built = load_given(folder, request.release)
        stage.state = StageState.GIVEN
        stage.detail = f"{len(built.enclaves)} enclaves of {folder}, as given"
        says = request.says or _says(built.manifest)
        return built, [
            BuildFacts(plan.name, BuildKind.GIVEN, plan.own_tree()[1].name, (), says)
            for plan in plans
            if built.enclaves
        ]
    return None, []


def _says(manifest: Manifest) -> str:
    if manifest is NO_MANIFEST:
        return "it has no manifest, so it says nothing of how it was made"
    toolchain = "the designated toolchain" if manifest.designated else "another toolchain"
    sources = "pinned sources" if manifest.pinned else "sources without a pinned digest"
    return f"its manifest says: built with {toolchain} from {sources}"


def _take_built(request: Request, built: Built, ours: Files[BuiltEnclave]) -> None:
    """Our enclaves, and why others are not there."""
    ours.files.update({enclave.name: enclave for enclave in built.enclaves})
    for record in built.manifest.enclaves:
        if record.problem is not None:
            ours.refuse(record.name, "build", _build_failed(request, built, record))
    for enclave in request.release.enclaves if request.built is not None else ():
        if enclave.name not in ours.files and enclave.name not in ours.refused:
            finding = unverifiable(
                "built-file-missing",
                f"{request.built} has no unsigned {enclave.name}",
                expected=f"{unsigned_name(enclave.file)} and {config_name(enclave.file)}",
                hint="put both there, or drop --built",
            )
            ours.refuse(enclave.name, "build", finding)


def _build_failed(request: Request, built: Built, record: EnclaveRecord) -> Finding:
    """Why an enclave was not built, with the end of the log that shows it."""
    trees = [tree for tree in built.manifest.trees if tree.release == record.tree]
    steps = [s for tree in trees for s in tree.steps if s.log and s.enclave in (None, record.name)]
    log = built.directory / (steps[-1].log or "") if steps else built.directory / LOGS
    tail = " | ".join(log_tail(log)[-_LINES:])
    # in the manifest it is relative to that
    problem = _LOG.sub(
        lambda found: request.log_words(built.directory / found[0]), str(record.problem)
    )
    return unverifiable(
        "build-failed",
        f"{record.name} was not built: {problem}",
        found=f"the log ends with: {tail}" if tail else None,
        hint=f"read {request.log_words(log) if steps else log}",
    )


def _facts_of_build(item: TreeInputs, built: Optional[Built]) -> BuildFacts:
    """What was seen before the build of a tree, compared with the builder's own record."""
    name, use = item.release.name, item.toolchain
    kind = BuildKind.DESIGNATED if use.designated else BuildKind.HOST
    words = [part.words for part in use.wrong]
    trees = built.manifest.trees if built is not None else ()
    tree = next((tree for tree in trees if tree.release == name), None)
    if built is None or not built.enclaves:
        kind = BuildKind.NONE
    elif tree is None:
        kind, words = BuildKind.HOST, ["the manifest has no such tree"]
    elif not tree.fixed_path:
        kind = BuildKind.HOST
        words.append(f"the tree was built in {tree.root}, not in the designated path")
    elif not tree.toolchain.designated:
        kind = BuildKind.HOST
    elif kind is BuildKind.DESIGNATED and not tree.isolated:
        kind = BuildKind.OPEN
    return BuildFacts(name, kind, use.name, tuple(words), route=tree.route if tree else "")


def _compare_all(
    release: Release, ours: Files[BuiltEnclave], theirs: vendor.SignedFiles, log: StageLog
) -> list[EnclaveOutcome]:
    """The verdict on each enclave that is there twice, and why there is none on the others."""
    both = [e for e in release.enclaves if e.name in ours.files and e.name in theirs.files]
    verdicts: dict[str, Verdict] = {}
    if both:
        with log.stage("compare") as stage:
            for enclave in both:
                built, signed = ours.files[enclave.name], theirs.files[enclave.name]
                names = (unsigned_name(built.file), signed.name, config_name(built.file))
                files = (built.unsigned, signed.data, built.config)
                verdict = compare(*files, policy_of(enclave), names=names)
                verdicts[enclave.name] = explained(verdict, *files, symbols=built.unstripped)
            same = [verdict.outcome for verdict in verdicts.values()].count(Outcome.IDENTICAL)
            stage.detail = f"{same} of {len(both)} are identical"
    else:
        log.skip("compare", "no enclave is there twice, built and signed")
    results = []
    for enclave in release.enclaves:
        name = enclave.name
        refused = [r[name] for r in (ours.refused, theirs.refused) if name in r]
        if name in verdicts:
            refused = [("", ())]
        elif not refused:
            words = f"{name} was not compared, since an earlier stage gave nothing for it"
            refused = [("compare", (unverifiable("not-compared", words),))]
        findings = tuple(finding for _stage, reasons in refused for finding in reasons)
        results.append(EnclaveOutcome(enclave, refused[0][0], findings, verdicts.get(name)))
    return results
