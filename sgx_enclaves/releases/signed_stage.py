# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendor's signed enclaves: out of the vendor's archives, out of a repacked
one, or out of a folder that the user gives.

Never looks into an enclave: whose it is and what is in it, the comparison says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.releases.acquire import fetch_signed, read_repacked
from sgx_enclaves.releases.archive import digest_members, list_members, read_members
from sgx_enclaves.releases.cache import digest_file
from sgx_enclaves.releases.fetch import Fetcher
from sgx_enclaves.releases.outcome import StageState, note
from sgx_enclaves.releases.release import Enclave, Release, VendorArchive
from sgx_enclaves.releases.stage_log import Done, StageLog
from sgx_enclaves.releases.stages import Kept, StageStore
from sgx_enclaves.verdict.compare import finding_of
from sgx_enclaves.verdict.model import Finding, Severity


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
