# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendor's signed enclaves: out of the vendor's archives, out of a repacked one, or out
of a directory that the user gives.

Never looks into an enclave: whose it is and what is in it, the comparison says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Enclave, Release, VendorArchive
from sgx_enclaves.enclave.compare import finding_of
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.files import digest_file, read_file, write_file
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.release.archive import digest_members, list_members, read_members
from sgx_enclaves.release.fetch import Fetcher
from sgx_enclaves.release.outcome import StageState, note
from sgx_enclaves.release.store import Done, Files, Kept, StageLog, StageStore, stage
from sgx_enclaves.release.vendor import fetch_signed, read_repacked


@dataclass(frozen=True)
class NamedData:
    """A file's content, read once, and what to call it."""

    name: str
    data: bytes


@dataclass
class SignedFiles(Files[NamedData]):
    """The vendor's files as far as they could be had.

    Attributes:
        to_prove: enclaves of a repacked archive that only a comparison can vouch for.
    """

    to_prove: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Original:
    """The vendor's own archive and the members that were taken out of it."""

    filename: str
    path: Path
    kept: Kept


@dataclass(frozen=True)
class VendorFiles:
    """Gets the vendor's files of a release.

    Attributes:
        release: whose files.
        fetcher: brings the archives.
        store: keeps the members.
        log: told how each stage ended.
        allow_unpinned: accept archives without a pinned digest.
        files: what was had so far.
    """

    release: Release
    fetcher: Fetcher
    store: StageStore
    log: StageLog
    allow_unpinned: bool
    files: SignedFiles = field(default_factory=SignedFiles)

    def get(self, given: Optional[Path], repacked: Mapping[str, Path]) -> SignedFiles:
        """Get every file.

        Args:
            given: a directory that has them already.
            repacked: repacked archives, by the id of the vendor's archive.
        """
        if given is not None:
            self.log.record("signed", _read_directory(self, given))
            self.files.refuse_rest(self.release.enclaves, self.log, "signed")
            return self.files
        for archive in self.release.vendor:
            enclaves = [e for e in self.release.enclaves if e.vendor == archive.id]
            if not enclaves:
                continue
            original = self.log.record("signed", _read_archive(self, archive, enclaves))
            repack = repacked.get(archive.id)
            if repack is not None:
                done = _read_repack(self, archive, repack, original, enclaves)
                self.log.record("repack", done)
                self.files.refuse_rest(enclaves, self.log, "repack")
            elif original is not None:
                self._take(original, enclaves)
            self.files.refuse_rest(enclaves, self.log, "signed")
        return self.files

    def missing(self, stage_name: str, enclave: Enclave, where: str, hint: str) -> None:
        """There is no such file where it should be."""
        finding = Finding(
            "signed-file-missing",
            Severity.UNVERIFIABLE,
            f"{where} has no signed {enclave.name}",
            expected=enclave.member,
            hint=hint,
        )
        self.files.refuse(enclave.name, stage_name, finding)

    def _take(self, original: _Original, enclaves: Sequence[Enclave]) -> None:
        for enclave in enclaves:
            file = enclave.signed_file
            if file not in original.kept.digests:
                hint = "list the archive and correct the release's member"
                self.missing("signed", enclave, original.filename, hint)
                continue
            try:
                data = original.kept.read(file, DEFAULT_LIMITS.file_size)
            except SgxEnclavesError as error:
                self.files.refuse(enclave.name, "signed", finding_of(error, "signed-failed"))
                continue
            self.files.files[enclave.name] = NamedData(file, data)


@stage("signed")
def _read_directory(job: VendorFiles, folder: Path) -> Done[None]:
    if not folder.is_dir():
        raise InputError("there is no such directory", file=str(folder), hint="correct --signed")
    for enclave in job.release.enclaves:
        try:
            path = signed_in(folder, enclave)
            if path is None:
                job.missing("signed", enclave, str(folder), "put it there, or drop --signed")
                continue
            data = read_file(str(path), DEFAULT_LIMITS.file_size)
        except SgxEnclavesError as error:
            job.files.refuse(enclave.name, "signed", finding_of(error, "signed-failed"))
            continue
        job.files.files[enclave.name] = NamedData(path.name, data)
    count = len(job.files.files)
    return Done(None, f"{count} files of {folder}, as given", StageState.GIVEN)


@stage("signed")
def _read_archive(
    job: VendorFiles, archive: VendorArchive, enclaves: Sequence[Enclave]
) -> Done[_Original]:
    alone = replace(job.release, vendor=(archive,))
    here = fetch_signed(alone, job.fetcher, allow_unpinned=job.allow_unpinned)[archive.id]
    fetched = here.fetched
    notes = [note("not-cross-checked", here.note)] if here.note else []
    members = {e.signed_file: e.member for e in enclaves}

    def make(into: Path) -> None:
        there = {member.name for member in list_members(fetched.path)}
        contents = read_members(fetched.path, there & set(members.values()))
        for file, member in members.items():
            if member in contents:
                write_file(str(into / file), contents[member])

    kept = job.store.run("signed", {"archive": fetched.sha256, "members": members}, make)
    if kept.notice:
        notes.append(note("kept-result-dropped", kept.notice))
    pinned = "as pinned" if fetched.pinned else "NOT PINNED"
    listed = ", as the vendor's checksums file says" if here.cross_checked else ""
    detail = f"{archive.artifact.filename}, sha256 {fetched.sha256[:16]}, {pinned}{listed}"
    state = StageState.KEPT if kept.reused else StageState.DONE
    original = _Original(archive.artifact.filename, fetched.path, kept)
    return Done(original, detail, state, tuple(notes))


@stage("repack")
def _read_repack(
    job: VendorFiles,
    archive: VendorArchive,
    path: Path,
    original: Optional[_Original],
    enclaves: Sequence[Enclave],
) -> Done[None]:
    repacked = read_repacked(
        job.release, archive.id, path, original.path if original is not None else None
    )
    for enclave in enclaves:
        if enclave.name in repacked.enclaves:
            named = NamedData(enclave.signed_file, repacked.enclaves[enclave.name])
            job.files.files[enclave.name] = named
            if enclave.name not in repacked.proved:
                job.files.to_prove.add(enclave.name)
        else:
            hint = "the repack leaves it out; give the vendor's archive to check it"
            job.missing("repack", enclave, str(path), hint)
    theirs = _contents(original.path) if original is not None else frozenset()
    ours = _contents(path)
    enclave_files = {enclave.signed_file for enclave in enclaves}
    foreign = sorted(name for name, _ in ours - theirs if name not in enclave_files)
    against = "the vendor's archive" if original is not None else "no original: it is not here"
    detail = (
        f"{path.name}, sha256 {digest_file(path)[:16]}, compared with {against}: "
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
