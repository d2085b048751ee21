# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own enclaves: sources fetched, toolchain checked, built; or a build that is given.

The build itself is `build`'s matter. Here is decided whether it may be done at
all, whether an earlier one may be used again, and what can be said of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional

from sgx_enclaves import __version__
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import read_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.releases.acquire import fetch_sources
from sgx_enclaves.releases.build import BuildRequest, build_release
from sgx_enclaves.releases.build_plan import search_path
from sgx_enclaves.releases.built import Built, BuiltEnclave, load_built
from sgx_enclaves.releases.catalogue import Catalogue
from sgx_enclaves.releases.download import Fetched
from sgx_enclaves.releases.fetch import Fetcher
from sgx_enclaves.releases.manifest import (
    MANIFEST,
    Manifest,
    ToolchainKind,
    config_name,
    unsigned_name,
)
from sgx_enclaves.releases.outcome import BuildFacts, BuildKind, StageState, note
from sgx_enclaves.releases.place import Site
from sgx_enclaves.releases.process import Output, run_tool
from sgx_enclaves.releases.release import Enclave, Release, Source, Toolchain
from sgx_enclaves.releases.stage_log import Done, Say, StageLog
from sgx_enclaves.releases.stages import StageStore
from sgx_enclaves.releases.toolchain import (
    Part,
    State,
    ToolchainRecord,
    check_toolchain,
)
from sgx_enclaves.releases.toolchain_probe import record_toolchain
from sgx_enclaves.verdict.compare import finding_of
from sgx_enclaves.verdict.model import Finding, Severity

Recorder = Callable[[Toolchain, ToolchainKind], ToolchainRecord]


@dataclass(frozen=True)
class BuildOrder:
    """What a builder is asked for.

    Attributes:
        catalogue: where the trees of other releases are.
        release: whose enclaves.
        enclaves: their names.
        sources: tree to source id to archive.
        toolchain: the designated one, or whatever is here.
    """

    catalogue: Catalogue
    release: Release
    enclaves: tuple[str, ...]
    sources: Mapping[str, Mapping[str, Fetched]]
    toolchain: ToolchainKind


Builder = Callable[[BuildOrder, Path], None]


def record_for(pinned: Toolchain, kind: ToolchainKind) -> ToolchainRecord:
    """Look at the toolchain on the path that the build will have."""
    path = search_path(pinned, kind)

    def run(command: Sequence[str], timeout: float) -> Output:
        return run_tool(command, timeout, environment={"PATH": path})

    return record_toolchain([tool.name for tool in pinned.tools], run=run, path=path)


def recorder_at(site: Site) -> Recorder:
    """Looks at the toolchain of a site as `record_for` does at this machine's."""

    def record(pinned: Toolchain, kind: ToolchainKind) -> ToolchainRecord:
        return site.record([tool.name for tool in pinned.tools], search_path(pinned, kind))

    return record


def builder(
    tell: Say, site: Optional[Site] = None, make_timeout: int = BuildRequest.make_timeout
) -> Builder:
    """The real one.

    Args:
        tell: hears what it is at.
        site: where to build; None for this machine.
        make_timeout: seconds for the make of each enclave.
    """

    def run(order: BuildOrder, into: Path) -> None:
        here = {
            source.artifact: order.sources[name][source.id]
            for name in order.sources
            for source in _sources_of(order.catalogue.release(name))
        }
        request = BuildRequest(
            order.catalogue,
            order.release,
            into,
            order.enclaves,
            order.toolchain,
            make_timeout=make_timeout,
            site=site,
        )
        build_release(request, here.__getitem__, tell)

    return run


def _sources_of(tree: Release) -> tuple[Source, ...]:
    return tree.build.sources if tree.build is not None else ()


@dataclass
class BuiltFiles:
    """Our enclaves as far as there are any.

    Attributes:
        files: by enclave.
        refused: by enclave, the stage and the reasons why there is none.
        facts: one for each tree.
    """

    files: dict[str, BuiltEnclave] = field(default_factory=dict)
    refused: dict[str, tuple[str, tuple[Finding, ...]]] = field(default_factory=dict)
    facts: list[BuildFacts] = field(default_factory=list)


@dataclass(frozen=True)
class BuildTools:
    """What a build stage works with.

    Attributes:
        fetcher: brings the sources.
        store: keeps the build.
        record: looks at the toolchain.
        build: builds.
    """

    fetcher: Fetcher
    store: StageStore
    record: Recorder
    build: Builder


@dataclass(frozen=True)
class Vouched:
    """What somebody else says of a build that is given.

    Attributes:
        says: what was proved of it, and what was not.
        objections: why it must not be taken; none if it may.
    """

    says: str
    objections: tuple[Finding, ...] = ()


class BuildStage:
    """Builds a release's enclaves.

    Args:
        catalogue: the release's, and where other trees are.
        release: whose enclaves.
        tools: see `BuildTools`.
        log: told how each stage ended.
        host_toolchain: build even if the toolchain is not the designated one.
        allow_unpinned: accept sources whose digest nobody pinned.
        everything: build the enclaves that are not required too.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        release: Release,
        tools: BuildTools,
        log: StageLog,
        *,
        host_toolchain: bool = False,
        allow_unpinned: bool = False,
        everything: bool = False,
    ) -> None:
        self._catalogue = catalogue
        self._release = release
        self._tools = tools
        self._log = log
        self._host = host_toolchain
        self._kind = ToolchainKind.HOST if host_toolchain else ToolchainKind.DESIGNATED
        self._allow_unpinned = allow_unpinned
        self._everything = everything
        self._result = BuiltFiles()
        self._trees: dict[str, Release] = {}
        self._buildable: dict[str, tuple[Release, Enclave]] = {}

    def run(self, given: Optional[Path], vouched: Optional[Vouched] = None) -> BuiltFiles:
        """Build, or read the folder that is given."""
        self._find_trees(everything=self._everything or given is not None)
        if given is not None:
            self._log.attempt("build", lambda: self._from_folder(given, vouched))
            self._refuse_rest("build")
            return self._result
        fetched = self._sources()
        records = self._toolchains()
        if not self._buildable:
            self._log.skip("build", "no enclave of this release can be built")
        elif fetched is None or records is None:
            self._log.skip("build", "needs the sources and the toolchain")
        else:
            self._log.attempt("build", lambda: self._build(fetched, records))
        for stage in ("sources", "toolchain", "build"):
            self._refuse_rest(stage)
        if not self._result.files:
            facts = self._result.facts
            self._result.facts = [replace(f, kind=BuildKind.NONE) for f in facts]
        return self._result

    def _find_trees(self, everything: bool) -> None:
        for enclave in self._release.enclaves:
            if not (enclave.required or everything):
                finding = Finding(
                    "not-asked-for",
                    Severity.UNVERIFIABLE,
                    f"{enclave.name} is not required, so it was not built",
                    hint="--all builds it too",
                )
                self._result.refused[enclave.name] = ("build", (finding,))
                continue
            try:
                tree, own = self._catalogue.build_of(self._release, enclave)
            except SgxEnclavesError as error:
                finding = finding_of(error, "not-buildable")
                self._result.refused[enclave.name] = ("catalogue", (finding,))
                continue
            self._trees[tree.name] = tree
            self._buildable[enclave.name] = (tree, own)

    def _refuse_rest(self, stage: str) -> None:
        """Give the stage's reasons to each enclave that has neither a file nor a reason yet."""
        found = [s for s in self._log.stages if s.name == stage and s.state is StageState.REFUSED]
        if not found:
            return
        reasons = tuple(f for s in found for f in s.findings if f.severity is not Severity.NOTE)
        for enclave in self._release.enclaves:
            if enclave.name not in self._result.files:
                self._result.refused.setdefault(enclave.name, (stage, reasons))

    def _sources(self) -> Optional[dict[str, dict[str, Fetched]]]:
        def work() -> Done[dict[str, dict[str, Fetched]]]:
            fetched = {
                name: fetch_sources(tree, self._tools.fetcher, allow_unpinned=self._allow_unpinned)
                for name, tree in self._trees.items()
            }
            files = [file for tree in fetched.values() for file in tree.values()]
            loose = sum(not file.pinned for file in files)
            here = sum(file.url is None for file in files)
            detail = f"{len(files)} archive{'s' if len(files) != 1 else ''}, {here} in the cache, "
            detail += f"{loose} NOT PINNED" if loose else "each as pinned"
            return Done(fetched, detail)

        return self._log.attempt("sources", work)

    def _toolchains(self) -> Optional[dict[str, ToolchainRecord]]:
        """A record for each tree; None if one is not as designated and that is not allowed."""

        def work() -> Done[dict[str, ToolchainRecord]]:
            records: dict[str, ToolchainRecord] = {}
            findings: list[Finding] = []
            matched = 0
            for name, tree in self._trees.items():
                pinned = _toolchain_of(tree)
                records[name] = self._tools.record(pinned, self._kind)
                check = check_toolchain(pinned, records[name])
                matched += sum(part.state is State.MATCH for part in check.parts)
                wrong = tuple(part for part in check.parts if part.state is not State.MATCH)
                kind = BuildKind.HOST if self._host or not check.matches else BuildKind.DESIGNATED
                words = tuple(part_words(part) for part in wrong)
                self._result.facts.append(BuildFacts(name, kind, pinned.name, words))
                findings += [self._toolchain_finding(pinned, part) for part in wrong]
            parts = matched + len(findings)
            detail = f"{matched} of {parts} parts are as designated"
            if findings and self._host:
                detail += "; this machine's toolchain is used all the same, as asked"
            state = StageState.DONE if self._host or not findings else StageState.REFUSED
            return Done(records, detail, state, tuple(findings))

        return self._log.attempt("toolchain", work)

    def _toolchain_finding(self, pinned: Toolchain, part: Part) -> Finding:
        severity = Severity.NOTE if self._host else Severity.UNVERIFIABLE
        return Finding(
            "toolchain-not-designated",
            severity,
            f"{part.name} is not as the designated toolchain ({pinned.name}) has it",
            expected=f"{part.name} {part.expected}",
            found={
                State.MISSING: "nothing",
                State.UNSEEN: f"nothing that could be compared {part.found}".strip(),
            }.get(part.state, f"{part.name} {part.found}"),
            hint="build in the designated buildroot; --toolchain=host builds here, for experiments",
        )

    def _build(
        self, fetched: Mapping[str, Mapping[str, Fetched]], records: Mapping[str, ToolchainRecord]
    ) -> Done[None]:
        names = tuple(self._buildable)
        order = BuildOrder(self._catalogue, self._release, names, fetched, self._kind)
        inputs = self._inputs(fetched, records)
        store = self._tools.store
        kept = store.run("build", inputs, lambda into: self._tools.build(order, into))
        if kept.reused and not self._has_required(load_built(kept.folder)):
            # what failed once may go well now
            store.forget("build", inputs)
            kept = store.run("build", inputs, lambda into: self._tools.build(order, into))
        built = load_built(kept.folder)
        notes = [note("kept-result-dropped", kept.notice)] if kept.notice else []
        self._take(built)
        self._result.facts = [_as_built(facts, built.manifest) for facts in self._result.facts]
        notes += [
            note("network-open", f"{tree.release}: the build's steps could reach a network")
            for tree in built.manifest.trees
            if tree.network
        ]
        detail = f"{len(built.enclaves)} of {len(names)} enclaves, and their manifest"
        state = StageState.KEPT if kept.reused else StageState.DONE
        if not self._has_required(built):
            # each enclave tells its own reason
            state = StageState.REFUSED
        return Done(None, detail, state, tuple(notes))

    def _has_required(self, built: Built) -> bool:
        required = [e.name for e in self._release.enclaves if e.required]
        return all(built.enclave(name) for name in required if name in self._buildable)

    def _take(self, built: Built) -> None:
        for enclave in built.enclaves:
            self._result.files[enclave.name] = enclave
        for record in built.manifest.enclaves:
            if record.problem is not None:
                finding = Finding(
                    "build-failed",
                    Severity.UNVERIFIABLE,
                    f"{record.name} was not built: {record.problem}",
                    hint=f"read the logs in {built.directory / 'logs'}",
                )
                self._result.refused[record.name] = ("build", (finding,))

    def _inputs(
        self, fetched: Mapping[str, Mapping[str, Fetched]], records: Mapping[str, ToolchainRecord]
    ) -> dict[str, Any]:
        """Everything that the result depends on, for the key."""
        trees = {}
        for name, tree in self._trees.items():
            build = tree.build
            trees[name] = {
                "root": build.root if build else None,
                "sources": [
                    [s.id, fetched[name][s.id].sha256, s.place, s.strip, s.unpack]
                    for s in _sources_of(tree)
                ],
                "patches": plain(build.patches if build else ()),
                "steps": plain(build.steps if build else ()),
                "environment": dict(_toolchain_of(tree).environment),
                "umask": _toolchain_of(tree).umask,
                "designated": plain(_toolchain_of(tree).tools),
                "interpreter": _toolchain_of(tree).interpreter,
                "toolchain": records[name].digest(),
            }
        return {
            "program": __version__,
            "release": self._release.name,
            "host": self._host,
            "trees": trees,
            "enclaves": {
                name: [tree.name, own.file, plain(own.build)]
                for name, (tree, own) in self._buildable.items()
            },
        }

    def _from_folder(self, folder: Path, vouched: Optional[Vouched]) -> Done[None]:
        if vouched is not None and vouched.objections:
            detail = "the build that is given must not be taken"
            return Done(None, detail, StageState.REFUSED, vouched.objections)
        if not folder.is_dir():
            raise InputError("there is no such folder", file=str(folder), hint="correct --built")
        if (folder / MANIFEST).exists():
            built = load_built(folder)
            self._check_owner(built)
            self._take(built)
            says = manifest_words(built.manifest)
        else:
            self._take_bare(folder)
            says = "it has no manifest, so it says nothing of how it was made"
        if vouched is not None:
            says = vouched.says
        for name, tree in self._trees.items():
            toolchain = _toolchain_of(tree).name
            self._result.facts.append(BuildFacts(name, BuildKind.GIVEN, toolchain, (), says))
        for enclave in self._release.enclaves:
            if enclave.name not in self._result.files:
                finding = Finding(
                    "built-file-missing",
                    Severity.UNVERIFIABLE,
                    f"{folder} has no unsigned {enclave.name}",
                    expected=f"{unsigned_name(enclave.file)} and {config_name(enclave.file)}",
                    hint="put both there, or drop --built",
                )
                self._result.refused.setdefault(enclave.name, ("build", (finding,)))
        detail = f"{len(self._result.files)} enclaves of {folder}, as given"
        return Done(None, detail, StageState.GIVEN)

    def _check_owner(self, built: Built) -> None:
        if built.manifest.release != self._release.name:
            raise InputError(
                "this is a build of another release",
                file=str(built.directory),
                expected=self._release.name,
                found=built.manifest.release,
                hint="correct --built",
            )

    def _take_bare(self, folder: Path) -> None:
        for enclave in self._release.enclaves:
            unsigned = folder / unsigned_name(enclave.file)
            config = folder / config_name(enclave.file)
            if unsigned.is_file() and config.is_file():
                self._result.files[enclave.name] = BuiltEnclave(
                    enclave.name,
                    enclave.file,
                    read_file(str(unsigned), DEFAULT_LIMITS.file_size),
                    read_file(str(config), DEFAULT_LIMITS.config_size),
                )


def _toolchain_of(tree: Release) -> Toolchain:
    if tree.toolchain is None:
        # the catalogue's reader lets nobody have the one without the other
        raise InputError("builds enclaves but designates no toolchain", file=tree.file)
    return tree.toolchain


def _as_built(facts: BuildFacts, manifest: Manifest) -> BuildFacts:
    """Hold what was checked before the build against the builder's own record."""
    tree = manifest.tree(facts.tree)
    if tree is None:
        return replace(facts, kind=BuildKind.HOST, mismatches=("the manifest has no such tree",))
    mismatches = facts.mismatches
    if not tree.fixed_path:
        mismatches += (f"the tree was built in {tree.root}, not in the designated path",)
    designated = tree.toolchain.kind is ToolchainKind.DESIGNATED and tree.toolchain.matches
    if facts.kind is BuildKind.DESIGNATED and (mismatches or not designated):
        return replace(facts, kind=BuildKind.HOST, mismatches=mismatches)
    return replace(facts, mismatches=mismatches)


def manifest_words(manifest: Manifest) -> str:
    """What a given build says of itself; nothing of it is proved here."""
    toolchain = "the designated toolchain" if manifest.designated else "another toolchain"
    sources = "pinned sources" if manifest.pinned else "sources without a pinned digest"
    return f"its manifest says: built with {toolchain} from {sources}"


def part_words(part: Part) -> str:
    """A part of a toolchain that is not as designated."""
    found = {State.MISSING: "is not here", State.UNSEEN: "could not be seen"}
    return f"{part.name} {part.expected}: {found.get(part.state, 'here ' + part.found)}"


def plain(value: object) -> Any:
    """Dataclasses, tuples and mappings as JSON knows them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value
