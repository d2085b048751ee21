# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own enclaves: sources fetched, toolchain looked at, built; or a build that is given.

The build itself is `build`'s matter. Here is decided whether it may be done at all, whether
an earlier one may be used again, and what can be said of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.records import Catalogue, Enclave, Release, Toolchain
from sgx_enclaves.enclave.verdict import Finding, Severity, finding_of
from sgx_enclaves.errors import BuildError, InputError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.build import BuildRequest, TreeInputs, build_trees
from sgx_enclaves.release.build_tree import log_tail, plan_trees
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.installed import BuildrootLock
from sgx_enclaves.release.manifest import (
    LOGS,
    MANIFEST,
    BuiltEnclave,
    EnclaveRecord,
    Manifest,
    config_name,
    load_built,
    load_manifest,
    unsigned_name,
)
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    StageState,
    note,
)
from sgx_enclaves.release.place import Place
from sgx_enclaves.release.store import Done, Files, StageLog, StageStore, stage
from sgx_enclaves.release.toolchain import (
    Part,
    State,
    ToolchainKind,
    ToolchainUse,
    all_match,
    check_lock,
    look_at_toolchain,
)
from sgx_enclaves.release.vendor import fetch_sources as fetch_tree

_LINES = 3


@dataclass(frozen=True)
class BuildOrigin:
    """What somebody else says of a build that is given.

    Attributes:
        says: what was proved of it, and what was not.
        objections: why it must not be taken; none if it may.
    """

    says: str
    objections: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        catalogue: all releases.
        release: the one to verify.
        built: a directory with our enclaves, ready-made; None builds them.
        origin: what somebody else says of that directory; None for what it says itself.
        signed: a directory with the vendor's files, ready-made; None fetches them.
        repacked: repacked archives, by the id of the vendor's archive.
        toolchain: `HOST` builds with the place's toolchain, whatever it is.
        tools: prefixes whose programs come first in a build with `HOST`.
        lock: the packages that the place must have; None if they are not pinned.
        allow_unpinned: accept files and policies that are not pinned.
        everything: build and compare the enclaves that are not required too.
        jobs: comparisons at once.
        make_timeout: seconds for the make of each enclave.
        resume: resume at the step that failed in an earlier run; the trees are kept for that.
        route: which way the trees are made; see `Build.along`.
    """

    catalogue: Catalogue
    release: Release
    built: Optional[Path] = None
    origin: Optional[BuildOrigin] = None
    signed: Optional[Path] = None
    repacked: Mapping[str, Path] = field(default_factory=dict)
    toolchain: ToolchainKind = ToolchainKind.DESIGNATED
    tools: tuple[str, ...] = ()
    lock: Optional[BuildrootLock] = None
    allow_unpinned: bool = False
    everything: bool = False
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    make_timeout: int = BuildRequest.make_timeout
    resume: bool = False
    route: Optional[str] = None


@dataclass(frozen=True)
class OurBuild:
    """Our enclaves, built or given.

    Attributes:
        directory: where they lie.
        enclaves: those that are there.
        manifest: how they were built; None if a build that is given has none.
    """

    directory: Path
    enclaves: tuple[BuiltEnclave, ...]
    manifest: Optional[Manifest]


@dataclass(frozen=True)
class Trees:
    """Where the enclaves of a release are built.

    Attributes:
        trees: the releases whose trees they are, by name.
        enclaves: the enclave as that tree describes it, and the tree's name, by enclave.
        refused: by enclave, the stage and the reasons why it is not built.
    """

    trees: dict[str, Release]
    enclaves: dict[str, tuple[str, Enclave]]
    refused: dict[str, tuple[str, tuple[Finding, ...]]]


@dataclass(frozen=True)
class Job:
    """What the stages share; see `Request` and `verify_release`."""

    request: Request
    where: Trees
    place: Place
    fetcher: Fetcher
    store: StageStore
    log: StageLog

    @property
    def required(self) -> list[str]:
        """The names of the enclaves that the build stands or falls with."""
        enclaves = self.request.release.enclaves
        return [e.name for e in enclaves if e.required and e.name in self.where.enclaves]


Sources = Mapping[str, Mapping[str, Fetched]]
Uses = Mapping[str, ToolchainUse]


def find_trees(request: Request) -> Trees:
    """Where each enclave is built, and why others are not."""
    where = Trees({}, {}, {})
    for enclave in request.release.enclaves:
        if not (enclave.required or request.everything or request.built is not None):
            finding = Finding(
                "not-asked-for",
                Severity.UNVERIFIABLE,
                f"{enclave.name} is not required, so it was not built",
                hint="--all builds it too",
            )
            where.refused[enclave.name] = ("build", (finding,))
            continue
        try:
            tree, own = request.catalogue.build_of(request.release, enclave)
        except SgxEnclavesError as error:
            finding = finding_of(error, "not-buildable")
            where.refused[enclave.name] = ("catalogue", (finding,))
            continue
        where.trees[tree.name] = tree
        where.enclaves[enclave.name] = (tree.name, own)
    for name, tree in where.trees.items():
        names = [item for item, (whose, _own) in where.enclaves.items() if whose == name]
        where.trees[name] = tree.along(names, request.route)
    return where


@stage("sources")
def fetch_sources(job: Job) -> Done[Sources]:
    """The source archives of each tree."""
    unpinned = job.request.allow_unpinned
    fetched = {
        name: fetch_tree(tree, job.fetcher, allow_unpinned=unpinned)
        for name, tree in job.where.trees.items()
    }
    files = [file for tree in fetched.values() for file in tree.values()]
    loose = sum(not file.pinned for file in files)
    here = sum(file.url is None for file in files)
    detail = f"{len(files)} archive{'s' if len(files) != 1 else ''}, {here} in the cache, "
    detail += f"{loose} NOT PINNED" if loose else "each as pinned"
    return Done(fetched, detail)


@stage("toolchain")
def look_at_toolchains(job: Job) -> Done[Uses]:
    """What is there of each tree's toolchain; refused unless designated, or any may be used."""
    request = job.request
    uses: dict[str, ToolchainUse] = {}
    findings: list[Finding] = []
    if request.lock is not None:
        _check_lock(request.lock, job.place)
    for name, tree in job.where.trees.items():
        pinned = _toolchain_of(tree)
        uses[name] = look_at_toolchain(pinned, request.toolchain, job.place, request.tools)
        findings += [_toolchain_finding(request, pinned, part) for part in uses[name].wrong]
    parts = sum(len(use.parts) for use in uses.values())
    wrong = sum(len(use.wrong) for use in uses.values())
    detail = f"{parts - wrong} of {parts} parts are as designated"
    host = request.toolchain is ToolchainKind.HOST
    if findings and host:
        detail += "; this machine's toolchain is used all the same, as asked"
    bad = any(finding.severity is not Severity.NOTE for finding in findings)
    state = StageState.REFUSED if bad else StageState.DONE
    return Done(uses, detail, state, tuple(findings))


def _toolchain_finding(request: Request, pinned: Toolchain, part: Part) -> Finding:
    host = request.toolchain is ToolchainKind.HOST
    return Finding(
        "toolchain-not-designated",
        Severity.NOTE if host else Severity.UNVERIFIABLE,
        f"{part.name} is not as the designated toolchain ({pinned.name}) has it",
        expected=f"{part.name} {part.expected}",
        found={
            State.MISSING: "nothing",
            State.UNSEEN: f"nothing that could be compared {part.found}".strip(),
        }.get(part.state, f"{part.name} {part.found}"),
        hint="build in the designated buildroot; --toolchain=host builds here, for experiments",
    )


def _check_lock(lock: BuildrootLock, place: Place) -> None:
    parts = check_lock(lock, [item.locked for item in place.packages()])
    wrong = [part.name for part in parts if part.state is not State.MATCH]
    if not all_match(parts):
        raise BuildError(
            "the buildroot is not the pinned one",
            expected=f"the {len(lock.packages)} packages of the release's lock",
            found=f"{len(wrong)} others or missing: {', '.join(wrong[:6])}",
            hint="build in a place whose packages are those of the lock",
        )


@stage("build")
def build(job: Job, sources: Sources, uses: Uses) -> Done[OurBuild]:
    """Build, or take what an earlier run built from the same; refused if one is missing."""
    request, names = job.request, tuple(job.where.enclaves)
    plans = plan_trees(request.catalogue, request.release, names, request.route)
    inputs = [TreeInputs(p, uses[p.release.name], sources[p.release.name]) for p in plans]

    key_inputs = _key_inputs(job, inputs)
    trees = job.store.place_of("trees", key_inputs)

    def make(into: Path) -> None:
        order = BuildRequest(
            request.catalogue,
            request.release,
            into,
            names,
            request.toolchain,
            request.tools,
            make_timeout=request.make_timeout,
            jobs=request.jobs,
            # on the machine itself a tree's path is somebody else's until the next run
            work=trees if request.resume and job.place.isolated else None,
            route=request.route,
        )
        build_trees(order, inputs, job.place, job.log.say)

    def is_whole(folder: Path) -> bool:
        # what failed once may go well now
        manifest = load_manifest(folder)
        return all((e := manifest.enclave(name)) and e.built for name in job.required)

    kept = job.store.run("build", key_inputs, make, is_whole)
    built = load_built(kept.folder)
    notes = [note("kept-result-dropped", kept.notice)] if kept.notice else []
    notes += [
        note("network-open", f"{tree.release}: the build's steps could reach a network")
        for tree in built.manifest.trees
        if tree.network
    ]
    detail = f"{len(built.enclaves)} of {len(names)} enclaves, and their manifest"
    state = StageState.KEPT if kept.reused else StageState.DONE
    if not all(built.enclave(name) for name in job.required):
        # each enclave has its own reason
        state = StageState.REFUSED
    ours = OurBuild(built.directory, built.enclaves, built.manifest)
    return Done(ours, detail, state, tuple(notes))


def _key_inputs(job: Job, inputs: Sequence[TreeInputs]) -> dict[str, Any]:
    """Everything that the result depends on."""
    trees = {}
    for item in inputs:
        plan = item.plan
        trees[plan.release.name] = {
            "route": plan.build.route,
            "root": plan.build.root,
            "sources": [
                [s.id, item.archives[s.id].sha256, s.place, s.strip, s.unpack]
                for s in plan.build.sources
            ],
            "patches": as_plain(plan.build.patches),
            "steps": as_plain(plan.build.steps),
            "toolchain": as_plain(plan.toolchain),
            "found": item.toolchain.record.digest(),
            "tools": list(job.request.tools),
        }
    return {
        "program": __version__,
        "release": job.request.release.name,
        "toolchain": job.request.toolchain.value,
        "isolated": job.place.isolated,
        "trees": trees,
        "enclaves": {
            name: [tree, own.file, as_plain(own.build)]
            for name, (tree, own) in job.where.enclaves.items()
        },
    }


@stage("build")
def read_given(job: Job, folder: Path) -> Done[OurBuild]:
    """A build that is given, with or without a manifest."""
    origin, release = job.request.origin, job.request.release
    if origin is not None and origin.objections:
        detail = "the build that is given must not be taken"
        return Done(None, detail, StageState.REFUSED, origin.objections)
    if not folder.is_dir():
        raise InputError("there is no such directory", file=str(folder), hint="correct --built")
    if not (folder / MANIFEST).exists():
        ours = OurBuild(folder, _bare_enclaves(folder, release), None)
    else:
        built = load_built(folder)
        if built.manifest.release != release.name:
            raise InputError(
                "this is a build of another release",
                file=str(folder),
                expected=release.name,
                found=built.manifest.release,
                hint="correct --built",
            )
        ours = OurBuild(folder, built.enclaves, built.manifest)
    return Done(ours, f"{len(ours.enclaves)} enclaves of {folder}, as given", StageState.GIVEN)


def _bare_enclaves(folder: Path, release: Release) -> tuple[BuiltEnclave, ...]:
    found = []
    for enclave in release.enclaves:
        unsigned = folder / unsigned_name(enclave.file)
        config = folder / config_name(enclave.file)
        if unsigned.is_file() and config.is_file():
            data = read_file(str(unsigned), DEFAULT_LIMITS.file_size)
            xml = read_file(str(config), DEFAULT_LIMITS.config_size)
            found.append(BuiltEnclave(enclave.name, enclave.file, data, xml))
    return tuple(found)


def built_files(job: Job, built: Optional[OurBuild]) -> Files[BuiltEnclave]:
    """Our enclaves, and why others are not there."""
    request, files = job.request, Files[BuiltEnclave](refused=dict(job.where.refused))
    if built is not None:
        files.files.update({enclave.name: enclave for enclave in built.enclaves})
        for record in built.manifest.enclaves if built.manifest else ():
            if record.problem is not None:
                files.refuse(record.name, "build", _build_failed(built, record))
    if built is not None and request.built is not None:
        for enclave in request.release.enclaves:
            if enclave.name not in files.files and enclave.name not in files.refused:
                finding = Finding(
                    "built-file-missing",
                    Severity.UNVERIFIABLE,
                    f"{request.built} has no unsigned {enclave.name}",
                    expected=f"{unsigned_name(enclave.file)} and {config_name(enclave.file)}",
                    hint="put both there, or drop --built",
                )
                files.refuse(enclave.name, "build", finding)
    files.refuse_rest(request.release.enclaves, job.log, "sources", "toolchain", "build")
    return files


def _build_failed(built: OurBuild, record: EnclaveRecord) -> Finding:
    """Why an enclave was not built, with the end of the log that shows it."""
    tree = built.manifest.tree(record.tree) if built.manifest else None
    logs = [
        built.directory / step.log
        for step in (tree.steps if tree else ())
        if step.log and step.enclave in (None, record.name)
    ]
    tail = " | ".join(log_tail(logs[-1])[-_LINES:]) if logs else ""
    return Finding(
        "build-failed",
        Severity.UNVERIFIABLE,
        f"{record.name} was not built: {record.problem}",
        found=f"the log ends with: {tail}" if tail else None,
        hint=f"read {logs[-1] if logs else built.directory / LOGS}",
    )


def facts_of_given(job: Job, built: Optional[OurBuild]) -> list[BuildFacts]:
    """What a build that is given says of itself, or others say of it."""
    if built is None or not built.enclaves:
        return []
    says = "it has no manifest, so it says nothing of how it was made"
    if job.request.origin is not None:
        says = job.request.origin.says
    elif built.manifest is not None:
        says = manifest_words(built.manifest)
    return [
        BuildFacts(name, BuildKind.GIVEN, _toolchain_of(tree).name, (), says)
        for name, tree in job.where.trees.items()
    ]


def facts_of_build(job: Job, uses: Uses, built: Optional[OurBuild]) -> list[BuildFacts]:
    """What was seen before the build, compared with the builder's own record."""
    facts = []
    for name, use in uses.items():
        kind = BuildKind.HOST
        if use.kind is ToolchainKind.DESIGNATED and use.matches:
            kind = BuildKind.DESIGNATED
        words = [part_words(part) for part in use.wrong]
        tree = built.manifest.tree(name) if built is not None and built.manifest else None
        if built is None or not built.enclaves:
            kind = BuildKind.NONE
        elif tree is None:
            kind, words = BuildKind.HOST, ["the manifest has no such tree"]
        elif not tree.fixed_path:
            kind = BuildKind.HOST
            words.append(f"the tree was built in {tree.root}, not in the designated path")
        elif not (tree.toolchain.kind is use.kind and tree.toolchain.matches == use.matches):
            kind = BuildKind.HOST
        if kind is BuildKind.DESIGNATED and tree is not None and not tree.isolated:
            kind = BuildKind.OPEN
        route = tree.route if tree is not None else ""
        facts.append(BuildFacts(name, kind, use.name, tuple(words), route=route))
    return facts


def _toolchain_of(tree: Release) -> Toolchain:
    if tree.toolchain is None:
        # the catalogue's reader lets nobody have the one without the other
        raise InputError("builds enclaves but designates no toolchain", file=tree.file)
    return tree.toolchain


def manifest_words(manifest: Manifest) -> str:
    """What a given build says of itself; nothing of it is proved here."""
    toolchain = "the designated toolchain" if manifest.designated else "another toolchain"
    sources = "pinned sources" if manifest.pinned else "sources without a pinned digest"
    return f"its manifest says: built with {toolchain} from {sources}"


def part_words(part: Part) -> str:
    """A part of a toolchain that is not as designated."""
    found = {State.MISSING: "is not here", State.UNSEEN: "could not be seen"}
    return f"{part.name} {part.expected}: {found.get(part.state, 'here ' + part.found)}"
