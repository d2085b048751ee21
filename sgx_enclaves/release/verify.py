# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole job for a release: get the sources, build, get the vendor's files, compare.

Stages are kept (see `stages`), the comparison never is: a verdict is made anew from
the bytes in each run, so that nothing that lies on a disk can pass for one.

Runs stages one after the other and writes down how each ended.

An error ends its stage and nothing else: what comes after says for itself what
it lacks, so that one run tells everything that is wrong.

The vendor's signed enclaves: out of the vendor's archives, out of a repacked
one, or out of a folder that the user gives.

Never looks into an enclave: whose it is and what is in it, the comparison says.

Our own enclaves: sources fetched, toolchain checked, built; or a build that is given.

The build itself is `build`'s matter. Here is decided whether it may be done at
all, whether an earlier one may be used again, and what can be said of it.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Generic, Optional, TypeVar

from sgx_enclaves import __version__
from sgx_enclaves.enclave.compare import compare, finding_of
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.verdict import Finding, Outcome, Severity, Verdict
from sgx_enclaves.errors import InputError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.explain.explain import explained
from sgx_enclaves.files import digest_file, end_with_parent, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.release.archive import digest_members, list_members, read_members
from sgx_enclaves.release.build import BuildRequest, Site, build_release, search_path
from sgx_enclaves.release.catalogue import (
    Catalogue,
    Enclave,
    Release,
    Source,
    Toolchain,
    VendorArchive,
    policy_of,
)
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.manifest import (
    MANIFEST,
    Built,
    BuiltEnclave,
    Manifest,
    ToolchainKind,
    config_name,
    load_built,
    unsigned_name,
)
from sgx_enclaves.release.outcome import (
    BuildFacts,
    BuildKind,
    EnclaveOutcome,
    ReleaseVerdict,
    Stage,
    StageState,
    decide,
    note,
)
from sgx_enclaves.release.sandbox import Output, run_tool
from sgx_enclaves.release.store import Kept, StageStore
from sgx_enclaves.release.toolchain import (
    Part,
    State,
    ToolchainRecord,
    check_toolchain,
    record_toolchain,
)
from sgx_enclaves.release.vendor import fetch_signed, fetch_sources, read_repacked

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a stage made.

    Attributes:
        value: the result.
        detail: what was done, in a few words.
        state: done, kept or given; refused if the findings say so.
        findings: why it was refused, or notes.
    """

    value: T
    detail: str
    state: StageState = StageState.DONE
    findings: tuple[Finding, ...] = ()


class StageLog:
    """The stages so far.

    Args:
        say: told what begins, for people who wait.
    """

    def __init__(self, say: Say) -> None:
        self.stages: list[Stage] = []
        self._say = say

    def attempt(self, name: str, work: Callable[[], Done[T]]) -> Optional[T]:
        """Run a stage; None if an error ended it."""
        self._say(name)
        started = time.monotonic()
        try:
            done = work()
        except SgxEnclavesError as error:
            self._add(name, StageState.REFUSED, "", started, (finding_of(error, f"{name}-failed"),))
            return None
        self._add(name, done.state, done.detail, started, done.findings)
        return None if done.state is StageState.REFUSED else done.value

    def skip(self, name: str, why: str) -> None:
        """Write down that a stage had to be left out."""
        self.stages.append(Stage(name, StageState.SKIPPED, why, 0.0))

    def _add(
        self,
        name: str,
        state: StageState,
        detail: str,
        started: float,
        findings: tuple[Finding, ...],
    ) -> None:
        seconds = round(time.monotonic() - started, 3)
        self.stages.append(Stage(name, state, detail, seconds, findings))


@dataclass(frozen=True)
class NamedData:
    """A file's content, read once, and what to call it."""

    name: str
    data: bytes


@dataclass
class SignedFiles:
    """The vendor's files as far as they could be had.

    Attributes:
        files: by enclave.
        refused: by enclave, the stage and the reasons why there is no file.
        to_prove: enclaves of a repacked archive that only a comparison can vouch for.
    """

    files: dict[str, NamedData] = field(default_factory=dict)
    refused: dict[str, tuple[str, tuple[Finding, ...]]] = field(default_factory=dict)
    to_prove: set[str] = field(default_factory=set)


class SignedStage:
    """Gets the vendor's files of a release.

    Args:
        release: whose files.
        fetcher: brings the archives.
        store: keeps the members.
        log: told how each stage ended.
        allow_unpinned: accept archives whose digest nobody pinned.
    """

    def __init__(
        self,
        release: Release,
        fetcher: Fetcher,
        store: StageStore,
        log: StageLog,
        *,
        allow_unpinned: bool = False,
    ) -> None:
        self._release = release
        self._fetcher = fetcher
        self._store = store
        self._log = log
        self._allow_unpinned = allow_unpinned
        self._result = SignedFiles()

    def run(self, given: Optional[Path], repacked: Mapping[str, Path]) -> SignedFiles:
        """Get every file.

        Args:
            given: a folder that has them already.
            repacked: repacked archives, by the id of the vendor's archive.
        """
        if given is not None:
            self._log.attempt("signed", lambda: self._from_folder(given))
            self._refuse_rest("signed", self._release.enclaves)
            return self._result
        for archive in self._release.vendor:
            enclaves = [e for e in self._release.enclaves if e.vendor == archive.id]
            if enclaves:
                self._one_archive(archive, enclaves, repacked.get(archive.id))
        return self._result

    def _one_archive(
        self, archive: VendorArchive, enclaves: Sequence[Enclave], repack: Optional[Path]
    ) -> None:
        original = self._log.attempt("signed", lambda: self._from_archive(archive, enclaves))
        if repack is not None:
            self._log.attempt(
                "repack", lambda: self._from_repack(archive, repack, original, enclaves)
            )
            self._refuse_rest("repack", enclaves)
        elif original is not None:
            self._take(original, enclaves)
        self._refuse_rest("signed", enclaves)

    def _refuse_rest(self, stage: str, enclaves: Sequence[Enclave]) -> None:
        """Give the stage's reasons to each enclave that has neither a file nor a reason yet."""
        reasons = tuple(
            f
            for s in self._log.stages
            if s.name == stage and s.state is StageState.REFUSED
            for f in s.findings
            if f.severity is not Severity.NOTE
        )
        for enclave in enclaves:
            if enclave.name not in self._result.files:
                self._result.refused.setdefault(enclave.name, (stage, reasons))

    def _missing(self, stage: str, enclave: Enclave, where: str, hint: str) -> None:
        finding = Finding(
            "signed-file-missing",
            Severity.UNVERIFIABLE,
            f"{where} has no signed {enclave.name}",
            expected=enclave.member,
            hint=hint,
        )
        self._result.refused[enclave.name] = (stage, (finding,))

    def _from_folder(self, folder: Path) -> Done[None]:
        if not folder.is_dir():
            raise InputError("there is no such folder", file=str(folder), hint="correct --signed")
        for enclave in self._release.enclaves:
            try:
                path = signed_in(folder, enclave)
                if path is None:
                    self._missing("signed", enclave, str(folder), "put it there, or drop --signed")
                    continue
                data = read_file(str(path), DEFAULT_LIMITS.file_size)
            except SgxEnclavesError as error:
                finding = finding_of(error, "signed-failed")
                self._result.refused[enclave.name] = ("signed", (finding,))
                continue
            self._result.files[enclave.name] = NamedData(path.name, data)
        count = len(self._result.files)
        return Done(None, f"{count} files of {folder}, as given", StageState.GIVEN)

    def _from_archive(self, archive: VendorArchive, enclaves: Sequence[Enclave]) -> Done[_Original]:
        only = replace(self._release, vendor=(archive,))
        here = fetch_signed(only, self._fetcher, allow_unpinned=self._allow_unpinned)[archive.id]
        fetched = here.fetched
        notes = []
        if here.note:
            notes.append(note("not-cross-checked", here.note))
        members = {e.signed_file: e.member for e in enclaves}

        def make(into: Path) -> None:
            there = {member.name for member in list_members(fetched.path)}
            contents = read_members(fetched.path, there & set(members.values()))
            for file, member in members.items():
                if member in contents:
                    write_file(str(into / file), contents[member])

        kept = self._store.run("signed", {"archive": fetched.sha256, "members": members}, make)
        if kept.notice:
            notes.append(note("kept-result-dropped", kept.notice))
        pinned = "as pinned" if fetched.pinned else "NOT PINNED"
        listed = ", as the vendor's checksums file says" if here.cross_checked else ""
        detail = f"{archive.artifact.filename}, sha256 {fetched.sha256[:16]}, {pinned}{listed}"
        state = StageState.KEPT if kept.reused else StageState.DONE
        original = _Original(archive.artifact.filename, fetched.path, kept)
        return Done(original, detail, state, tuple(notes))

    def _take(self, original: _Original, enclaves: Sequence[Enclave]) -> None:
        for enclave in enclaves:
            file = enclave.signed_file
            if file not in original.kept.digests:
                hint = "list the archive and correct the release's member"
                self._missing("signed", enclave, original.filename, hint)
                continue
            try:
                data = original.kept.read(file, DEFAULT_LIMITS.file_size)
            except SgxEnclavesError as error:
                finding = finding_of(error, "signed-failed")
                self._result.refused[enclave.name] = ("signed", (finding,))
                continue
            self._result.files[enclave.name] = NamedData(file, data)

    def _from_repack(
        self,
        archive: VendorArchive,
        path: Path,
        original: Optional[_Original],
        enclaves: Sequence[Enclave],
    ) -> Done[None]:
        repacked = read_repacked(
            self._release, archive.id, path, original.path if original is not None else None
        )
        for enclave in enclaves:
            if enclave.name in repacked.enclaves:
                named = NamedData(enclave.signed_file, repacked.enclaves[enclave.name])
                self._result.files[enclave.name] = named
                if enclave.name not in repacked.proved:
                    self._result.to_prove.add(enclave.name)
            else:
                hint = "the repack leaves it out; give the vendor's archive to check it"
                self._missing("repack", enclave, str(path), hint)
        theirs = _contents(original.path) if original is not None else frozenset()
        ours = _contents(path)
        enclave_files = {enclave.signed_file for enclave in enclaves}
        foreign = sorted(name for name, _ in ours - theirs if name not in enclave_files)
        against = "the vendor's archive" if original is not None else "no original: it is not here"
        detail = (
            f"{path.name}, sha256 {digest_file(path)[:16]}, held against {against}: "
            f"{len(ours & theirs)} of {len(ours)} members are the vendor's"
        )
        if not foreign:
            return Done(None, detail)
        finding = Finding(
            "repack-unlike-original",
            Severity.UNVERIFIABLE,
            "the repack has members that are not the vendor's, and no enclave to compare",
            found=", ".join(repr(name) for name in foreign[:4]),
            hint="repack the vendor's archive again, and only leave things out",
        )
        return Done(None, detail, StageState.REFUSED, (finding,))


def _contents(archive: Path) -> frozenset[tuple[str, str]]:
    """File name without its folder, which a repack may rename, and digest of each member."""
    return frozenset(
        (name.rpartition("/")[2], digest) for name, digest in digest_members(archive).items()
    )


@dataclass(frozen=True)
class _Original:
    """The vendor's own archive and the members that were taken out of it."""

    filename: str
    path: Path
    kept: Kept


def signed_in(folder: Path, enclave: Enclave) -> Optional[Path]:
    """The signed enclave in a folder: under its plain name, or the one with a version.

    Raises:
        InputError: several versions and no plain name.
    """
    plain = folder / enclave.signed_file
    if plain.exists():
        return plain
    versions = {path.resolve() for path in folder.glob(f"{enclave.signed_file}.*")}
    if len(versions) > 1:
        raise InputError(
            f"more than one version of {enclave.signed_file}",
            file=str(folder),
            found=", ".join(sorted(path.name for path in versions)),
            hint="leave one",
        )
    return next(iter(versions), None)


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
        unpinned=request.catalogue.unpinned_digests(release),
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


@dataclass(frozen=True)
class _Job:
    """One comparison, as it goes to another process."""

    built: bytes
    signed: bytes
    config: bytes
    policy: Policy
    names: tuple[str, str, str]


def _compare_one(job: _Job) -> Verdict:
    verdict = compare(job.built, job.signed, job.config, job.policy, names=job.names)
    return explained(verdict, job.built, job.signed, job.config)


def _compare_all(
    release: Release, built: BuiltFiles, signed: SignedFiles, log: StageLog, jobs: int
) -> list[EnclaveOutcome]:
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
) -> EnclaveOutcome:
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
    return EnclaveOutcome(
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
    stages: Sequence[Stage], results: Sequence[EnclaveOutcome], signed: SignedFiles
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
