# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the unsigned enclaves of a release from source, and record how.

The order: is the toolchain the designated one; the sources; then for each tree its
layout, patches, steps and enclaves; a second time if wanted; the manifest last.
A built directory without a manifest is one whose build was ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import BuildError, InputError
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.build_plan import (
    Relocation,
    TreePlan,
    plan_trees,
    search_path,
    step_environment,
)
from sgx_enclaves.releases.build_sandbox import Isolation, Sandbox, find_isolation, remove_tree
from sgx_enclaves.releases.build_steps import StepSettings, TreeBuilder
from sgx_enclaves.releases.build_tree import copy_tree, lay_out, remove_prebuilt
from sgx_enclaves.releases.build_twice import (
    Variation,
    compare_builds,
    first_variation,
    second_variation,
)
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.download import Fetched
from sgx_enclaves.releases.manifest import (
    LOGS,
    EnclaveRecord,
    Manifest,
    SecondBuild,
    SourceRecord,
    ToolchainKind,
    ToolchainUse,
    TreeRecord,
    write_manifest,
)
from sgx_enclaves.releases.place import Place, Site
from sgx_enclaves.releases.process import Output, run_tool
from sgx_enclaves.releases.release import Release, Toolchain
from sgx_enclaves.releases.toolchain import State, ToolchainRecord, check_toolchain
from sgx_enclaves.releases.toolchain_probe import record_toolchain

_WORK = ".work"
_SECOND = "second"


@dataclass(frozen=True)
class BuildRequest:
    """What to build and how.

    Attributes:
        catalogue: see `plan_trees`.
        release: what to build.
        into: the built directory: a new or an empty folder.
        enclaves: names; none stands for those that the release requires.
        toolchain: `HOST` takes whatever is there; the result is no reproducible build.
        source_dir: a ready-made tree to build from instead of the pinned sources.
        twice: build a second time, otherwise, and compare.
        jobs: makes that may run at once.
        make_timeout: seconds for each enclave's make.
        keep: keep the trees.
        isolation: how far to shut the steps off; None for as far as can be.
        site: where to build; None for this machine.
    """

    catalogue: Catalogue
    release: Release
    into: Path
    enclaves: tuple[str, ...] = ()
    toolchain: ToolchainKind = ToolchainKind.DESIGNATED
    source_dir: Optional[Path] = None
    twice: bool = False
    jobs: int = 1
    make_timeout: int = 7200
    keep: bool = False
    isolation: Optional[Isolation] = None
    site: Optional[Site] = None


@dataclass(frozen=True)
class _Prepared:
    """A tree whose toolchain was checked and whose sources are here."""

    plan: TreePlan
    toolchain: ToolchainUse
    path: str
    archives: dict[str, Fetched]


def build_release(
    request: BuildRequest,
    fetch: Callable[[Artifact], Fetched],
    tell: Callable[[str], None],
) -> Manifest:
    """Build, and write the built directory.

    Args:
        request: see `BuildRequest`.
        fetch: gives a source archive.
        tell: told what is being done, a line each time.

    Returns:
        The manifest, as written. Enclaves that could not be built are told of there.

    Raises:
        BuildError: the toolchain is not the designated one, or the built directory or
            a source tree cannot be made.
        SgxEnclavesError: a source cannot be had, is broken or hostile.
    """
    started, clock = int(time.time()), time.monotonic()
    plans = plan_trees(request.catalogue, request.release, request.enclaves)
    if request.source_dir is not None and len(plans) > 1:
        raise BuildError(
            "one source tree cannot serve several releases",
            found=", ".join(plan.release.name for plan in plans),
            hint="name enclaves of one of them",
        )
    into = Path(os.path.abspath(request.into))
    _check_empty(into)
    prepared = [_prepare(plan, request, fetch, tell) for plan in plans]
    work = _make_folder(into)
    try:
        site = request.site or Machine(_choose_isolation(request, work, tell))
        job = _Job(request, into, work, site, tell)
        trees, enclaves = [], []
        for item in prepared:
            tree, built = job.build(item, job.first(item), into)
            trees.append(tree)
            enclaves += built
        second = job.again(prepared, enclaves) if request.twice else None
    finally:
        if not request.keep:
            remove_tree(work)
            _remove_if_empty(into)
    order = [enclave.name for enclave in request.release.enclaves]
    manifest = Manifest(
        release=request.release.name,
        started=started,
        milliseconds=int((time.monotonic() - clock) * 1000),
        trees=tuple(trees),
        enclaves=tuple(sorted(enclaves, key=lambda enclave: order.index(enclave.name))),
        second=second,
    )
    write_manifest(into, manifest)
    return manifest


def _check_empty(into: Path) -> None:
    if os.path.lexists(into) and not (into.is_dir() and not any(into.iterdir())):
        raise InputError(
            "the folder to build into is not empty",
            file=str(into),
            hint="give a new one, or remove what an earlier build left",
        )


def _make_folder(into: Path) -> Path:
    """Make the built directory; gives the folder for what is removed in the end."""
    work = into / _WORK
    try:
        (into / LOGS).mkdir(parents=True)
        work.mkdir()
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=str(into)) from None
    return work


def _remove_if_empty(into: Path) -> None:
    """A build that never came to its first step leaves nothing in the way of the next."""
    for folder in (into / LOGS, into):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _choose_isolation(request: BuildRequest, work: Path, tell: Callable[[str], None]) -> Isolation:
    if request.isolation is not None:
        return request.isolation
    isolation, reason = find_isolation(work)
    if isolation is Isolation.NONE:
        tell(f"warning: the steps cannot be shut off from machine and network here: {reason}")
    return isolation


def _prepare(
    plan: TreePlan,
    request: BuildRequest,
    fetch: Callable[[Artifact], Fetched],
    tell: Callable[[str], None],
) -> _Prepared:
    tell(f"{plan.release.name}: looking at the toolchain")
    path = search_path(plan.toolchain, request.toolchain)
    looker = request.site.record if request.site is not None else record_here
    toolchain = _look_at_toolchain(plan.toolchain, request.toolchain, looker, path)
    archives: dict[str, Fetched] = {}
    if request.source_dir is None:
        archives = {source.id: fetch(source.artifact) for source in plan.build.sources}
    return _Prepared(plan, toolchain, path, archives)


def _look_at_toolchain(
    pinned: Toolchain,
    kind: ToolchainKind,
    looker: Callable[[Sequence[str], str], ToolchainRecord],
    path: str,
) -> ToolchainUse:
    record = looker([tool.name for tool in pinned.tools], path)
    check = check_toolchain(pinned, record)
    if kind is ToolchainKind.DESIGNATED and not check.matches:
        wrong = [part for part in check.parts if part.state is not State.MATCH]
        raise BuildError(
            "this is not the release's designated toolchain",
            expected=", ".join(f"{part.name} {part.expected}" for part in wrong),
            found=", ".join(f"{part.name} {part.found or part.state.value}" for part in wrong),
            hint="build where that toolchain is, or experiment with --toolchain=host",
        )
    return ToolchainUse(kind, check.toolchain, record, check.parts)


def record_here(names: Sequence[str], path: str) -> ToolchainRecord:
    """Look at this machine's toolchain, as a build with that PATH will see it."""
    return record_toolchain(names, run=functools.partial(_run_in, path), path=path)


def _run_in(path: str, command: Sequence[str], timeout: float) -> Output:
    return run_tool(command, timeout, environment={"PATH": path})


class Machine:
    """This machine as a site."""

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation

    def record(self, names: Sequence[str], path: str) -> ToolchainRecord:
        """See `Site`."""
        return record_here(names, path)

    def open(self, scratch: Path, root: str) -> Place:
        """See `Site`."""
        return Sandbox(scratch, root, self.isolation)


class _Job:
    """The builds of one request: once, or twice."""

    def __init__(
        self,
        request: BuildRequest,
        into: Path,
        work: Path,
        site: Site,
        tell: Callable[[str], None],
    ) -> None:
        self._request = request
        self._into = into
        self._work = work
        self._site = site
        self._tell = tell

    def first(self, item: _Prepared) -> Variation:
        return first_variation(item.plan.build.root, item.plan.toolchain.umask)

    def build(
        self, item: _Prepared, variation: Variation, into: Path
    ) -> tuple[TreeRecord, list[EnclaveRecord]]:
        """Build all that one tree has to give, in one variation."""
        release, request = item.plan.release, self._request
        turn = "first" if into == self._into else "second"
        scratch = self._work / f"{turn}-{release.name}"
        sandbox = self._site.open(scratch, variation.root)
        if not sandbox.fixed:
            taken = "is taken" if os.path.lexists(variation.root) else "cannot be made"
            self._tell(f"warning: {variation.root} {taken}, so the tree is in {sandbox.root}")
        usual = step_environment(
            item.plan.toolchain, item.path, sandbox.home, variation.environment
        )
        relocate = Relocation(item.plan.build.root, sandbox.root)
        environment = {name: relocate(value) for name, value in usual.items()}
        own = release.name == request.release.name
        settings = StepSettings(
            environment=environment,
            umask=variation.umask,
            hostname=variation.hostname,
            prefix=variation.prefix,
            make_timeout=request.make_timeout,
            jobs=request.jobs,
            log_prefix="" if own else f"{release.name}.",
        )
        builder = TreeBuilder(item.plan, sandbox, settings, into, self._tell)
        try:
            sources = self._lay_out(item, sandbox)
            enclaves = builder.run(patched_already=request.source_dir is not None)
        finally:
            if not request.keep:
                sandbox.close()
        record = TreeRecord(
            release=release.name,
            root=sandbox.root,
            fixed_path=sandbox.fixed,
            network=sandbox.network,
            environment=tuple(f"{k}={v}" for k, v in sorted(environment.items())),
            umask=variation.umask,
            sources=sources,
            toolchain=item.toolchain,
            steps=tuple(builder.steps),
        )
        return record, enclaves

    def _lay_out(self, item: _Prepared, sandbox: Place) -> tuple[SourceRecord, ...]:
        plan, source_dir = item.plan, self._request.source_dir
        self._tell(f"{plan.release.name}: laying the sources out")
        sandbox.tree.mkdir(parents=True, exist_ok=True)
        sources: tuple[SourceRecord, ...]
        if source_dir is not None:
            digest = copy_tree(source_dir, sandbox.tree)
            name = Path(os.path.abspath(source_dir)).name or "/"
            sources = (SourceRecord("source-dir", "", name, digest, False),)
        else:
            lay_out(sandbox.tree, plan.build, item.archives)
            sources = tuple(
                SourceRecord(
                    source.id,
                    source.place,
                    source.artifact.filename,
                    item.archives[source.id].sha256,
                    item.archives[source.id].pinned,
                    item.archives[source.id].contents_sha256,
                )
                for source in plan.build.sources
            )
        for enclave in plan.enclaves:
            remove_prebuilt(sandbox.tree, enclave.build)
        return sources

    def again(self, prepared: list[_Prepared], enclaves: list[EnclaveRecord]) -> SecondBuild:
        """Build everything again, otherwise; what it made is kept only if it differs."""
        self._tell("building a second time, in another path and otherwise different")
        into = self._into / _SECOND
        (into / LOGS).mkdir(parents=True)
        others: dict[str, EnclaveRecord] = {}
        variation: Optional[Variation] = None
        moved = True
        for item in prepared:
            root, umask = item.plan.build.root, item.plan.toolchain.umask
            variation = second_variation(root, umask, self._site.isolation, self._work)
            tree, built = self.build(item, variation, into)
            moved = moved and tree.root != root
            others.update({enclave.name: enclave for enclave in built})
        if variation is None or not moved:
            raise BuildError("the second build could not be made in another path")
        pairs = tuple((enclave, others[enclave.name]) for enclave in enclaves)
        second = compare_builds(self._into, into, pairs, variation)
        if not second.differences:
            remove_tree(into)
        return second
