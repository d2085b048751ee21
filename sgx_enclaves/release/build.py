# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the unsigned enclaves of a release from source in a place, and record how.

The order: is the toolchain the designated one; the sources; then for each tree its
layout, patches, steps and enclaves; a second time if wanted; the manifest last.
A built directory without a manifest is one whose build was ended.

A build is reproducible when path, time, umask, locale, time zone and host name leave
no trace in it. SOURCE_DATE_EPOCH stays: it is how a build knows the time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import Build, Catalogue, Release
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.errors import BuildError, InputError, SgxEnclavesError
from sgx_enclaves.explain.description import describe_file
from sgx_enclaves.explain.file_map import FileMap, scan
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.release.archive import copy_tree, lay_out, remove_prebuilt
from sgx_enclaves.release.build_tree import (
    Relocation,
    TreeBuilder,
    TreePlan,
    Variation,
    plan_trees,
    step_environment,
)
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.manifest import (
    LOGS,
    Difference,
    EnclaveRecord,
    Manifest,
    SecondBuild,
    SourceRecord,
    TreeRecord,
    write_manifest,
)
from sgx_enclaves.release.place import Place
from sgx_enclaves.release.sandbox import remove_tree
from sgx_enclaves.release.store import Progress
from sgx_enclaves.release.toolchain import (
    ToolchainKind,
    ToolchainUse,
    look_at_toolchain,
    search_path,
)

Say = Callable[[str], None]
_FEW = 3
_WORK = ".work"
_SECOND = "second"


@dataclass(frozen=True)
class BuildRequest:
    """What to build and how.

    Attributes:
        catalogue: see `plan_trees`.
        release: what to build.
        into: the built directory: a new or an empty directory.
        enclaves: names; none stands for those that the release requires.
        toolchain: `HOST` takes whatever is there; the result is no reproducible build.
        tools: prefixes whose programs come first in a build with `HOST`.
        source_dir: a ready-made tree to build from instead of the pinned sources.
        twice: build a second time, otherwise, and compare.
        jobs: makes that may run at once.
        make_timeout: seconds for each enclave's make.
        keep: keep the trees.
        work: where the trees stand; a build in which something failed leaves them there, and
            the next one with the same inputs resumes at that step. None for a directory in
            `into`, which is removed.
        route: which way the trees are made; see `Build.along`.
    """

    catalogue: Catalogue
    release: Release
    into: Path
    enclaves: tuple[str, ...] = ()
    toolchain: ToolchainKind = ToolchainKind.DESIGNATED
    tools: tuple[str, ...] = ()
    source_dir: Optional[Path] = None
    twice: bool = False
    jobs: int = 1
    make_timeout: int = 7200
    keep: bool = False
    work: Optional[Path] = None
    route: Optional[str] = None


@dataclass(frozen=True)
class TreeInputs:
    """What one tree is built from.

    Attributes:
        plan: what is built in it.
        toolchain: what was seen of it, and how it stands to the designated one.
        archives: the file of each source, by its id; none for a ready-made tree.
    """

    plan: TreePlan
    toolchain: ToolchainUse
    archives: Mapping[str, Fetched]


def build_release(
    request: BuildRequest, place: Place, fetch: Callable[[Artifact], Fetched], say: Say
) -> Manifest:
    """Look at the toolchain, get the sources, build, and write the built directory.

    Args:
        request: see `BuildRequest`.
        place: where.
        fetch: gives a source archive.
        say: hears what is being done, a line each time.

    Returns:
        The manifest, as written. It says which enclaves could not be built, and why.

    Raises:
        BuildError: the toolchain is not the designated one, or the built directory or
            a source tree cannot be made.
        SgxEnclavesError: a source cannot be had, is broken or hostile.
    """
    plans = plan_trees(request.catalogue, request.release, request.enclaves, request.route)
    if request.source_dir is not None and len(plans) > 1:
        raise BuildError(
            "one source tree cannot serve several releases",
            found=", ".join(plan.release.name for plan in plans),
            hint="name enclaves of one of them",
        )
    _check_empty(request.into)
    inputs = []
    for plan in plans:
        say(f"{plan.release.name}: looking at the toolchain")
        use = look_at_toolchain(plan.toolchain, request.toolchain, place, request.tools)
        _check_toolchain(plan.release.name, use, say)
        sources = plan.build.sources if request.source_dir is None else ()
        archives = {source.id: fetch(source.artifact) for source in sources}
        inputs.append(TreeInputs(plan, use, archives))
    return build_trees(request, inputs, place, say)


def _check_toolchain(release: str, use: ToolchainUse, say: Say) -> None:
    wrong = use.wrong
    if use.kind is not ToolchainKind.DESIGNATED:
        for part in wrong:
            found = part.found or part.state.value
            say(f"toolchain: {part.name}: expected {part.expected}, found {found}")
    elif wrong:
        few = wrong[:_FEW]
        more = f", and {len(wrong) - _FEW} parts more" if len(wrong) > _FEW else ""
        raise BuildError(
            "this is not the release's designated toolchain",
            expected=", ".join(f"{part.name} {part.expected}" for part in few) + more,
            found=", ".join(f"{part.name} {part.found or part.state.value}" for part in few) + more,
            hint=f"`sgx-enclaves toolchain check {release}` compares every part; its maker's "
            "container image has them (docs/releases.md); or experiment with --toolchain=host",
        )


def build_trees(
    request: BuildRequest, inputs: Sequence[TreeInputs], place: Place, say: Say
) -> Manifest:
    """Build from inputs that are here; see `build_release`.

    Raises:
        BuildError: the built directory or a source tree cannot be made.
        SgxEnclavesError: a source is broken or hostile.
    """
    started, clock = int(time.time()), time.monotonic()
    into = Path(os.path.abspath(request.into))
    _check_empty(into)
    work = _make_built_directory(into, request.work)
    whole = request.work is None
    _tell_costs(inputs, work, say)
    try:
        trees, enclaves = [], []
        for item in inputs:
            root, umask = item.plan.build.root, item.plan.toolchain.umask
            variation = Variation(root, umask)
            scratch = work / f"first-{item.plan.release.name}"
            tree, built = _build_tree(request, item, variation, place, scratch, into, say)
            trees.append(tree)
            enclaves += built
        second = _build_again(request, inputs, enclaves, place, into, say)
        whole = whole or all(enclave.built for enclave in enclaves)
    finally:
        if whole and not request.keep:
            remove_tree(work)
        elif not whole:
            say(f"the trees are kept in {work}: the next run resumes there; remove it otherwise")
        if not request.keep:
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
            "the directory to build into is not empty",
            file=str(into),
            hint="give a new one, or remove what an earlier build left",
        )


def _make_built_directory(into: Path, work: Optional[Path]) -> Path:
    """Make the built directory, and the one that its trees stand in."""
    work = work or into / _WORK
    try:
        (into / LOGS).mkdir(parents=True)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=str(into)) from None
    return work


def _tell_costs(inputs: Sequence[TreeInputs], work: Path, say: Say) -> None:
    """What a build may take, before it begins."""
    steps = [step for item in inputs for step in item.plan.build.steps]
    hours = sum(step.timeout for step in steps) / 3600
    free = shutil.disk_usage(work).free >> 30
    makes = sum(len(item.plan.enclaves) for item in inputs)
    say(f"{len(steps)} steps, at most {hours:.1f} hours, then {makes} enclaves; {free} GiB free")


def _remove_if_empty(into: Path) -> None:
    """A build that never came to its first step leaves nothing in the way of the next."""
    for folder in (into / LOGS, into):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _build_tree(
    request: BuildRequest,
    item: TreeInputs,
    variation: Variation,
    place: Place,
    scratch: Path,
    into: Path,
    say: Say,
) -> tuple[TreeRecord, list[EnclaveRecord]]:
    """Build all that one tree has to give, in one variation."""
    plan, release = item.plan, item.plan.release
    keep = request.keep
    first = not variation.varied
    folder = scratch.parent / f"{scratch.name}.progress"
    progress = Progress(folder if request.work is not None and first else None)
    if not progress.resumed and scratch.exists():
        # of a run that was ended before its sources lay there
        remove_tree(scratch)
    tree = place.open(scratch, variation.root)
    try:
        if not tree.fixed:
            taken = "is taken" if os.path.lexists(variation.root) else "cannot be made"
            say(f"warning: {variation.root} {taken}, so the tree is in {tree.root}")
        path = search_path(plan.toolchain, request.toolchain, request.tools)
        usual = step_environment(plan.toolchain, path, tree.home, variation.environment)
        relocate = Relocation(plan.build.root, tree.root)
        environment = {name: relocate(value) for name, value in usual.items()}
        if progress.resumed:
            say(f"{release.name}: resuming an earlier run after {len(progress.steps)} steps")
            sources = _source_records(plan.build, item.archives)
        else:
            say(f"{release.name}: laying the sources out")
            sources = _lay_out(request, item, tree.path)
            progress.add(None, into)
        builder = TreeBuilder(
            plan=plan,
            tree=tree,
            variation=variation,
            environment=environment,
            make_timeout=request.make_timeout,
            jobs=request.jobs,
            into=into,
            log_prefix="" if release.name == request.release.name else f"{release.name}.",
            say=say,
            progress=progress,
        )
        enclaves = builder.run(patched_already=request.source_dir is not None)
        keep = keep or (request.work is not None and any(not e.built for e in enclaves))
    finally:
        if not keep:
            tree.close()
    record = TreeRecord(
        release=release.name,
        route=plan.build.route,
        root=tree.root,
        fixed_path=tree.fixed,
        isolated=place.isolated,
        network=tree.network,
        environment=tuple(f"{k}={v}" for k, v in sorted(environment.items())),
        umask=variation.umask,
        sources=sources,
        toolchain=item.toolchain,
        steps=tuple(builder.steps),
    )
    return record, enclaves


def _source_records(build: Build, archives: Mapping[str, Fetched]) -> tuple[SourceRecord, ...]:
    """What `lay_out` lays out."""
    records = []
    for source in build.sources:
        here = archives[source.id]
        record = (source.id, source.place, source.artifact.filename, here.sha256, here.pinned)
        records.append(SourceRecord(*record, here.contents_sha256))
    return tuple(records)


def _lay_out(request: BuildRequest, item: TreeInputs, tree: Path) -> tuple[SourceRecord, ...]:
    plan, source_dir = item.plan, request.source_dir
    tree.mkdir(parents=True, exist_ok=True)
    if source_dir is not None:
        digest = copy_tree(source_dir, tree)
        name = Path(os.path.abspath(source_dir)).name or "/"
        sources: tuple[SourceRecord, ...] = (SourceRecord("source-dir", "", name, digest, False),)
    else:
        lay_out(tree, plan.build, item.archives)
        sources = _source_records(plan.build, item.archives)
    for enclave in plan.enclaves:
        remove_prebuilt(tree, enclave.build)
    return sources


def _build_again(
    request: BuildRequest,
    inputs: Sequence[TreeInputs],
    enclaves: Sequence[EnclaveRecord],
    place: Place,
    into: Path,
    say: Say,
) -> Optional[SecondBuild]:
    """Build everything again, otherwise, if asked; what it made is kept only if it differs."""
    if not request.twice:
        return None
    say("building a second time, in another path and otherwise different")
    second_into, work = into / _SECOND, into / _WORK
    (second_into / LOGS).mkdir(parents=True)
    others: dict[str, EnclaveRecord] = {}
    for item in inputs:
        root, umask = item.plan.build.root, item.plan.toolchain.umask
        variation = second_variation(root, umask, isolated=place.isolated, scratch=work)
        scratch = work / f"second-{item.plan.release.name}"
        tree, built = _build_tree(request, item, variation, place, scratch, second_into, say)
        if tree.root == root:
            raise BuildError("the second build could not be made in another path", found=root)
        others.update({enclave.name: enclave for enclave in built})
    pairs = tuple((enclave, others[enclave.name]) for enclave in enclaves)
    second = _compare_builds(into, second_into, pairs, variation)
    if not second.differences:
        remove_tree(second_into)
    return second


_SECOND_PLACE = "/sgx-enclaves-second"
_MOST = 64
# a little over a year, so that year, month, day, weekday and hour are all others
_LATER = "+34567890s"


def second_variation(root: str, umask: int, *, isolated: bool, scratch: Path) -> Variation:
    """The same build with everything otherwise that should not matter.

    Args:
        root: path of the tree in the first build.
        umask: mask of the first build.
        isolated: whether its path and host name can be chosen.
        scratch: where the tree is put if its path cannot be chosen.
    """
    varied = ["path", "umask", "locale", "timezone"]
    not_varied = []
    prefix: tuple[str, ...] = ()
    if not isolated:
        place = str(scratch / "second-place" / root.strip("/"))
        not_varied.append("hostname: it cannot be changed here")
    else:
        place = _SECOND_PLACE + root
        varied.append("hostname")
    faketime = shutil.which("faketime")
    if faketime is None:
        not_varied.append("time: faketime is not installed, so it is only a little later")
    else:
        prefix = (faketime, "-f", _LATER)
        varied.append("time")
    return Variation(
        root=place,
        umask=0o077 if umask != 0o077 else 0o022,
        environment={"LC_ALL": "C.UTF-8", "TZ": "SECOND-13:37"},
        hostname="second",
        prefix=prefix,
        varied=tuple(varied),
        not_varied=tuple(not_varied),
    )


def _compare_builds(
    first: Path,
    second: Path,
    enclaves: Sequence[tuple[EnclaveRecord, EnclaveRecord]],
    variation: Variation,
) -> SecondBuild:
    """Compare the results in two built directories; the records come pair by pair."""
    differences: list[Difference] = []
    for one, other in enclaves:
        for kept, again in ((one.unsigned, other.unsigned), (one.config, other.config)):
            if kept is None:
                continue
            if again is None:
                differences.append(Difference(kept.file, None, 0, None))
            elif kept.sha256 != again.sha256:
                limit = DEFAULT_LIMITS.file_size
                left = read_file(str(first / kept.file), limit)
                right = read_file(str(second / again.file), limit)
                differences += find_differences(kept.file, left, right)
    return SecondBuild(variation.varied, variation.not_varied, tuple(differences))


def find_differences(file: str, left: bytes, right: bytes) -> list[Difference]:
    """The first stretches in which two files differ; sections are those of the first."""
    common = min(len(left), len(right))
    ranges = list(scan(left, right, [(0, common)], _MOST).ranges)
    if len(left) != len(right):
        ranges.append((common, max(len(left), len(right))))
    try:
        places = FileMap(EnclaveImage.parse(left, file), describe_file(left, file))
    except SgxEnclavesError:
        return [Difference(file, start, end - start, None) for start, end in ranges]
    return [Difference(file, start, end - start, places.section(start)) for start, end in ranges]
