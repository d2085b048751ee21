# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the unsigned enclaves of a release from source in a place, and record how.

The order: is the toolchain the designated one; the sources; then for each tree its
layout, patches, steps and enclaves; a second time if wanted; the manifest last.
A built directory without a manifest is one whose build was ended.

A build is reproducible when path, time, umask, locale, time zone and host name leave
no trace in it. SOURCE_DATE_EPOCH stays: it is how a build knows the time.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import MAKERS, Release
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.errors import BuildError, SgxEnclavesError
from sgx_enclaves.explain.description import Description
from sgx_enclaves.explain.file_map import Side, scan
from sgx_enclaves.files import make_folder, read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.plain import as_plain, some
from sgx_enclaves.progress import duration
from sgx_enclaves.release.build_tree import BuildRequest, TreeBuilder, TreeInputs, step_environment
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.manifest import (
    LOGS,
    BuildDifference,
    EnclaveRecord,
    Manifest,
    SecondBuild,
    TreeRecord,
    left_in,
    write_manifest,
)
from sgx_enclaves.release.outcome import Say
from sgx_enclaves.release.place import Command, Tree, describe
from sgx_enclaves.release.sandbox import remove_tree
from sgx_enclaves.release.store import BuildStore
from sgx_enclaves.release.toolchain import ToolchainKind, digest_of, look_at_toolchain, search_path

_FEW = 3
_WORK, _SECOND = ".work", "second"
_MOST_DIFFERENCES = 64
_TARGETS_TIMEOUT = 60
_SHELL_TIMEOUT = 600.0
_WITH_VALUE = ("-f", "-o", "-C")
_NOTHING = ".sgx-enclaves-nothing"
_SECOND_PLACE = "/sgx-enclaves-second"
# a little over a year, so that year, month, day, weekday and hour are all others
_LATER = "+34567890s"


def build_inputs(request: BuildRequest, inputs: Sequence[TreeInputs]) -> dict[str, Any]:
    """Everything that the result of a build depends on, as plain data."""
    trees = {}
    for item in inputs:
        build, toolchain = item.release.own_tree()
        trees[item.release.name] = {
            "build": replace(build, sources=()),
            "sources": [
                [s.id, item.archives[s.id].sha256, s.place, s.strip, s.unpack]
                for s in build.sources
            ],
            "toolchain": toolchain,
            "found": item.toolchain.record.digest(),
            "variables": item.variables,
            "enclaves": [(e.name, e.file, e.build) for e in item.release.enclaves],
        }
    return {
        "program": __version__,
        "release": request.release.name,
        "toolchain": request.toolchain.value,
        "tools": request.tools,
        "isolated": request.place.isolated,
        "trees": as_plain(trees),
    }


def build_release(
    request: BuildRequest,
    into: Path,
    fetch: Callable[[Artifact], Fetched],
    store: Optional[BuildStore] = None,
) -> Manifest:
    """Write the built directory, which is new, empty, or of a build that did not end well.

    The manifest, which is returned as written, says which enclaves could not be built, and why.
    Where nothing can be built, since the toolchain is another or a source is not to be had, it is
    an error. The store is not used for a ready-made tree, or if trees are kept.
    """
    plans = request.catalogue.plan(request.release, request.route)
    if request.source_dir is not None and len(plans) > 1:
        raise BuildError(
            "one source tree cannot serve several releases",
            found=", ".join(plan.name for plan in plans),
            hint="name enclaves of one of them",
        )
    left_in(into)
    inputs = []
    for plan in plans:
        request.say(f"{plan.name}: looking at the toolchain")
        seen = look_at_tree(request, plan, {})
        wrong = seen.toolchain.findings
        if wrong and request.toolchain is ToolchainKind.DESIGNATED:
            raise BuildError(
                "this is not the release's designated toolchain",
                expected=some((str(finding.expected) for finding in wrong), _FEW),
                found=some((str(finding.found) for finding in wrong), _FEW),
                hint=f"`sgx-enclaves toolchain check {plan.name}` compares every part; its maker's "
                "container image has them (docs/releases.md); or experiment with --toolchain=host",
            )
        for finding in wrong:
            request.say(f"toolchain: expected {finding.expected}, found {finding.found}")
        sources = plan.own_tree()[0].sources if request.source_dir is None else ()
        archives = {source.id: fetch(source.artifact) for source in sources}
        inputs.append(replace(seen, archives=archives))
    if request.source_dir is not None or request.keep:
        store = None
    return build_trees(request, inputs, into, store)


def look_at_tree(
    request: BuildRequest, release: Release, archives: Mapping[str, Fetched]
) -> TreeInputs:
    """Look at a tree's toolchain; where it is the makers', by their route, enter their shell."""
    build, toolchain = release.own_tree()
    use = look_at_toolchain(toolchain, request.toolchain, request.place, request.tools)
    variables: dict[str, str] = {}
    if use.designated and build.route == MAKERS and toolchain.shell:
        tools = " ".join(tool.path for tool in toolchain.tools if tool.path is not None)
        command = [word.replace("{tools}", tools) for word in toolchain.shell]
        (output,) = request.place.ask([command], _SHELL_TIMEOUT)
        said = output.text.split("\0") if output.status == 0 else []
        variables = dict(item.split("=", 1) for item in said if "=" in item)
        way = "in the makers' shell" if variables else "not in the makers' shell, which is not here"
        request.say(f"{release.name}: the steps run {way}")
    return TreeInputs(release, use, archives, variables)


def build_trees(
    request: BuildRequest,
    inputs: Sequence[TreeInputs],
    into: Path,
    store: Optional[BuildStore] = None,
) -> Manifest:
    """Build from inputs that are here; see `build_release`.

    A build in which something failed leaves its trees in the store, if there is one, and the next
    one with the same inputs resumes at that step. Otherwise they are in `into`, and removed.
    """
    started, clock = int(time.time()), time.monotonic()
    into = Path(os.path.abspath(into))
    held: AbstractContextManager[Path] = nullcontext(into / _WORK)
    # on the machine itself a tree's path is somebody else's until the next run
    if store is not None and request.place.isolated:
        held = store.trees(*trees_name(request, inputs))
    trees: list[TreeRecord] = []
    enclaves: list[EnclaveRecord] = []
    with held as work:
        whole = work == into / _WORK
        for path in left_in(into):
            remove_tree(path)
        make_folder(into / LOGS)
        make_folder(work, 0o700)
        _report_costs(inputs, work, request.say)
        try:
            for item in inputs:
                build, toolchain = item.release.own_tree()
                scratch = work / f"first-{item.release.name}"
                usual = Command((), build.root, {}, toolchain.umask)
                tree, built = TreeBuilder(request, item, usual, scratch, into).build()
                trees.append(tree)
                enclaves += built
            whole = whole or all(enclave.built for enclave in enclaves)
        finally:
            if whole and not request.keep:
                remove_tree(work)
            else:
                why = ", as asked" if whole else ": the next run resumes there; remove it otherwise"
                request.say(f"the trees are kept in {work}{why}")
            # a build that never came to its first step leaves nothing in the way of the next
            for folder in (into / LOGS, into) if not request.keep else ():
                with suppress(OSError):
                    folder.rmdir()
    second = _build_again(request, inputs, enclaves, into) if request.twice else None
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


def trees_name(request: BuildRequest, inputs: Sequence[TreeInputs]) -> tuple[str, dict[str, Any]]:
    """What the trees of a build are called in the store: their subject and their inputs."""
    names = sorted(enclave.name for item in inputs for enclave in item.release.enclaves)
    wanted = digest_of({"toolchain": request.toolchain.value, "enclaves": names})
    return f"{request.release.name}-{wanted[:12]}", build_inputs(request, inputs)


def _report_costs(inputs: Sequence[TreeInputs], work: Path, say: Say) -> None:
    """What a build may take, before it begins."""
    builds = [item.release.own_tree()[0] for item in inputs]
    steps = [step for build in builds for step in build.steps]
    makes = [enclave.name for item in inputs for enclave in item.release.enclaves]
    seen = [step.seconds for step in steps]
    took = duration(sum(seconds or 0 for seconds in seen))
    usual = f"about {took} on two cores" if None not in seen else "not all of them ever timed"
    most = duration(sum(step.limit for step in steps))
    free, sizes = shutil.disk_usage(work).free >> 20, [build.mib for build in builds]
    needed = sum(size or 0 for size in sizes)
    room = f"about {needed} MiB" if None not in sizes else "an unknown size"
    say(
        f"{len(steps)} steps, {usual}, at most {most}; then the make of {', '.join(makes)}; "
        f"trees of {room}, {free} MiB free"
    )
    if needed > free:
        say(f"warning: there is too little room in {work}")


def _build_again(
    request: BuildRequest,
    inputs: Sequence[TreeInputs],
    enclaves: Sequence[EnclaveRecord],
    into: Path,
) -> SecondBuild:
    """Build everything again, otherwise; what it made is kept only if it differs."""
    request.say("building a second time, in another path and otherwise different")
    second, work = into / _SECOND, into / _SECOND / _WORK
    make_folder(second / LOGS)
    others: list[EnclaveRecord] = []
    try:
        for item in inputs:
            like, showed = _otherwise(item.release, request.place.isolated, work)
            scratch = work / f"second-{item.release.name}"
            _, built = TreeBuilder(request, item, like, scratch, second).build()
            others += built
    finally:
        if not request.keep:
            remove_tree(work)
    differences: list[BuildDifference] = []
    for one, other in zip(enclaves, others):
        for kept, again in ((one.unsigned, other.unsigned), (one.config, other.config)):
            if kept is not None and again is None:
                differences.append(BuildDifference(kept.file, None, 0, None))
            elif kept is not None and kept != again:
                paths = (str(folder / kept.file) for folder in (into, second))
                files = (read_file(path, DEFAULT_LIMITS.file_size) for path in paths)
                differences += find_differences(kept.file, *files)
    if not differences:
        remove_tree(second)
    return replace(showed, differences=tuple(differences))


def _otherwise(release: Release, isolated: bool, scratch: Path) -> tuple[Command, SecondBuild]:
    """What commands are like if all is otherwise that should not matter, and what that is."""
    build, toolchain = release.own_tree()
    faketime = shutil.which("faketime")
    kept = {}
    if not isolated:
        kept["hostname"] = "it cannot be changed here"
    if faketime is None:
        kept["time"] = "faketime is not installed, so it is only a little later"
    place = _SECOND_PLACE if isolated else f"{scratch}/second-place"
    like = Command(
        argv=(faketime, "-f", _LATER) if faketime is not None else (),
        folder=place + build.root,
        environment={"LC_ALL": "C.UTF-8", "TZ": "SECOND-13:37"},
        umask=0o077 if toolchain.umask != 0o077 else 0o022,
        hostname="second",
    )
    varied = ("path", "umask", "locale", "timezone", "hostname", "time")
    not_varied = tuple(f"{what}: {why}" for what, why in kept.items())
    return like, SecondBuild(tuple(what for what in varied if what not in kept), not_varied, ())


def find_differences(file: str, left: bytes, right: bytes) -> list[BuildDifference]:
    """The first stretches in which two files differ; sections are those of the first."""
    common = min(len(left), len(right))
    ranges = list(scan(left, right, [(0, common)], _MOST_DIFFERENCES).ranges)
    if len(left) != len(right):
        ranges.append((common, max(len(left), len(right))))
    places: Optional[Side] = None
    # of what is no enclave nobody knows the sections
    with suppress(SgxEnclavesError):
        places = Side(EnclaveImage.parse(left, file), Description())
    return [
        BuildDifference(file, start, end - start, places.section(start) if places else None)
        for start, end in ranges
    ]


def find_targets(release: Release, tree: Tree, log: Path) -> Iterator[tuple[str, str]]:
    """Have `make` read the makefiles of steps and enclaves, and make nothing: each step or enclave
    with its targets, and what is wrong with them, if anything is. A directory that only a step
    makes is left out.
    """
    build, toolchain = release.own_tree()
    path = search_path(toolchain, ToolchainKind.HOST)
    environment = step_environment(toolchain, path, tree.home, {})
    made = [(f"step {s.id}", s.place, s.command) for s in build.steps if s.command[0] == "make"]
    for enclave in release.enclaves:
        if enclave.build is not None:
            own = enclave.build
            made.append((f"enclave {enclave.name}", own.make_directory, ("make", own.make_target)))
    for what, place, command in made:
        options: list[str] = []
        targets: list[str] = []
        for before, word in zip(command, command[1:]):
            option = word.startswith("-") or "=" in word or before in _WITH_VALUE
            (options if option else targets).append(word.replace("{jobs}", "1"))
        if not targets or not (tree.path / place).is_dir():
            continue
        argv = ["make", "-pq", f"--eval={_NOTHING}: ;", _NOTHING, *options]
        folder = f"{tree.root}/{place}"
        ended = tree.run(Command(argv, folder, environment, toolchain.umask, _TARGETS_TIMEOUT), log)
        known = log.read_text("utf-8", "replace")
        lost = [t for t in targets if not re.search(rf"(?m)^{re.escape(t)} *:", known)]
        stopped = re.search(r"\*\*\* .*", known)
        problem = f"make knows no {', '.join(lost)}" if lost else ""
        if lost and (stopped is not None or ended.status is None):
            problem += f": {stopped[0] if stopped is not None else describe(ended)}"
        yield f"{what}: {', '.join(targets)}", problem
