# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring what a release needs: its sources, and the vendor's signed enclaves, out of the
vendor's archives, a repacked one, or a directory that the user gives.

Never looks into an enclave: whose it is and what is in it, the comparison says. The vendor's
checksums file stands beside the archive on the same server, so that it proves nothing against that
server; it does catch a pin that was copied wrongly and an archive that was exchanged silently.

A repacked archive, as a distribution makes it, is taken for the vendor's where each kept member is
the original's, byte for byte; what is not must be proved by comparing the enclaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import basename
from pathlib import Path
from typing import Optional, Union

from sgx_enclaves.catalogue.artifact import Artifact
from sgx_enclaves.catalogue.records import Enclave, Release, VendorArchive
from sgx_enclaves.enclave.verdict import finding_of
from sgx_enclaves.errors import DigestError, FetchError, FormatError, InputError, SgxEnclavesError
from sgx_enclaves.files import read_file, sha256_of
from sgx_enclaves.limits import DEFAULT_LIMITS
from sgx_enclaves.plain import record
from sgx_enclaves.release.archive import read_files, read_members
from sgx_enclaves.release.fetch import Fetched, Fetcher
from sgx_enclaves.release.outcome import Files, Stage, StageLog, StageState, note, unverifiable

_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *]([^\x00-\x1f\x7f]{1,1024})")
_MAX_BYTES = 1 << 20


def parse_checksums(data: bytes, file: str) -> dict[str, str]:
    """The digests of a checksums file, lower-case SHA-256 by name; a FormatError if it is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("not text", file=file, offset=error.start) from None
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise FormatError(
                f"line {number} is not a checksum",
                file=file,
                expected="SHA-256, two blanks, name",
                found=repr(line[:100]),
            )
        name, digest = match[2].removeprefix("./"), match[1].lower()
        if digests.setdefault(name, digest) != digest:
            raise FormatError(f"line {number} gives {name} a second digest", file=file)
    if not digests:
        raise FormatError("holds no checksum", file=file)
    return digests


@record
class SignedArchive:
    """A vendor's archive that is here, with the vendor's own checksums file if that is here too,
    and a note why the latter says nothing of it, unless it says the same.
    """

    fetched: Fetched
    note: str = ""
    checksums: Optional[Path] = None


def fetch_sources(release: Release, fetcher: Fetcher) -> dict[str, Fetched]:
    """Bring every source archive of the release's own tree, by source id, each once."""
    build, _ = release.own_tree()
    here = {file: fetcher.fetch(file) for file in dict.fromkeys(release.sources())}
    return {source.id: here[source.artifact] for source in build.sources}


def fetch_signed(release: Release, fetcher: Fetcher) -> dict[str, SignedArchive]:
    """Bring the vendor's archives, by id, and compare each with the vendor's checksums file: a
    DigestError if that says otherwise, a note if it cannot be had.
    """
    return {archive.id: fetch_archive(archive, fetcher) for archive in release.vendor}


def fetch_archive(archive: VendorArchive, fetcher: Fetcher) -> SignedArchive:
    """Bring one of the vendor's archives; see `fetch_signed`."""
    fetched = fetcher.fetch(archive.artifact)
    if archive.checksums is None:
        return SignedArchive(fetched, "the vendor publishes no checksums file")
    listed = replace(archive.checksums, max_size=_MAX_BYTES)
    try:
        # the list cannot be pinned: the vendor may add lines to it
        path = fetcher.fetch(listed, allow_unpinned=True).path
    except FetchError as error:
        return SignedArchive(fetched, f"the vendor's checksums file is not here: {error.message}")
    name, file = listed.filename, archive.artifact.filename
    checksums = parse_checksums(read_file(str(path), _MAX_BYTES), name)
    digests = {digest for other, digest in checksums.items() if basename(other) == file}
    if not digests:
        return SignedArchive(fetched, f"the vendor's checksums file does not name {file}", path)
    if digests != {fetched.sha256}:
        raise DigestError(
            f"the vendor's checksums file gives {file} another digest",
            file=name,
            expected=f"sha256 {fetched.sha256}",
            found=f"sha256 {', '.join(sorted(digests))}",
            hint="either the vendor exchanged the archive or the pin is wrong; find out which",
        )
    return SignedArchive(fetched, "", path)


def read_signed_enclaves(
    release: Release, archives: Mapping[str, SignedArchive]
) -> dict[str, bytes]:
    """Read the release's signed enclaves, by name, out of the vendor's archives, by id."""
    found: dict[str, bytes] = {}
    for vendor, archive in archives.items():
        file, enclaves = archive.fetched, [e for e in release.enclaves if e.vendor == vendor]
        content = read_members(file.path, {e.member for e in enclaves}, sha256=file.sha256)
        for item in enclaves:
            found[item.name] = _as_pinned(item, content[item.member], str(file.path))
    return found


def _as_pinned(enclave: Enclave, data: bytes, file: str) -> bytes:
    """The vendor's signed enclave, compared with its own pin, if it has one."""
    digest = sha256_of(data)
    if enclave.signed_sha256 not in (None, digest):
        raise DigestError(
            f"the signed {enclave.name} is not the file that the release pins",
            file=file,
            expected=f"sha256 {enclave.signed_sha256}",
            found=f"sha256 {digest}",
            hint="take the vendor's own file",
        )
    return data


@record
class NamedData:
    """A file's content, read once, and what to call it."""

    name: str
    data: bytes


@dataclass
class SignedFiles(Files[NamedData]):
    """The vendor's files that could be had; only a comparison can vouch for those `to_prove`."""

    to_prove: set[str] = field(default_factory=set)

    def missing(self, stage: str, enclave: Enclave, where: str, hint: str) -> None:
        """There is no such file where it should be."""
        finding = unverifiable(
            "signed-file-missing",
            f"{where} has no signed {enclave.name}",
            expected=enclave.member,
            hint=hint,
        )
        self.refuse(enclave.name, stage, finding)


def signed_of_directory(release: Release, folder: Path, log: StageLog) -> SignedFiles:
    """The signed enclaves that lie in a directory."""
    found = SignedFiles()
    with log.stage("signed") as stage:
        if not folder.is_dir():
            raise InputError(
                "there is no such directory", file=str(folder), hint="correct --signed"
            )
        for enclave in release.enclaves:
            try:
                # under its plain name, or the one with a version
                plain = folder / enclave.signed_file
                versions = (path.resolve() for path in folder.glob(f"{plain.name}.*"))
                paths = [plain] if plain.exists() else list(dict.fromkeys(versions))
                if len(paths) > 1:
                    raise InputError(
                        f"more than one version of {plain.name}",
                        file=str(folder),
                        found=", ".join(sorted(path.name for path in paths)),
                        hint="leave one",
                    )
                if not paths:
                    found.missing("signed", enclave, str(folder), "put it there, or drop --signed")
                    continue
                data = read_file(str(paths[0]), DEFAULT_LIMITS.file_size)
                own = _as_pinned(enclave, data, str(paths[0]))
                found.files[enclave.name] = NamedData(paths[0].name, own)
            except SgxEnclavesError as error:
                found.refuse(enclave.name, "signed", finding_of(error, "signed-failed"))
        stage.state = StageState.GIVEN
        stage.detail = f"{len(found.files)} files of {folder}, as given"
    found.refuse_rest(release.enclaves, stage)
    return found


def signed_of_archives(
    release: Release, fetcher: Fetcher, log: StageLog, repacked: Mapping[str, Path]
) -> SignedFiles:
    """The signed enclaves of the vendor's archives, or of repacks by the archive's id."""
    found = SignedFiles()
    for archive in release.vendor:
        enclaves = [e for e in release.enclaves if e.vendor == archive.id]
        if not enclaves:
            continue
        original: Optional[Fetched] = None
        repack: Union[Path, Artifact, None] = repacked.get(archive.id)
        with log.stage("signed") as stage:
            try:
                here = fetch_archive(archive, fetcher)
            except FetchError:
                repack = repack or archive.repack
                raise
            original = here.fetched
            pinned = "as pinned" if original.pinned else "NOT PINNED"
            listed = ", as the vendor's checksums file says" if not here.note else ""
            name = f"{archive.artifact.filename}, sha256 {original.sha256}"
            stage.detail = f"{name}, {pinned}{listed}"
            if here.note:
                stage.findings += (note("not-cross-checked", here.note),)
            if repack is None:
                _take_members(found, enclaves, archive, original)
        if repack is not None:
            with log.stage("repack") as stage:
                name = repack.name if isinstance(repack, Path) else repack.filename
                file = repack if isinstance(repack, Path) else fetcher.fetch(repack)
                take_repack(found, stage, release, archive, file, name, original)
        found.refuse_rest(enclaves, stage)
    return found


def _take_members(
    found: SignedFiles, enclaves: Sequence[Enclave], archive: VendorArchive, original: Fetched
) -> None:
    name = archive.artifact.filename
    wanted = {enclave.member for enclave in enclaves}
    _, contents, _ = read_files(original.path, wanted.__contains__, sha256=original.sha256)
    for enclave in enclaves:
        if enclave.member not in contents:
            hint = "list the archive and correct the release's member"
            found.missing("signed", enclave, name, hint)
            continue
        try:
            own = _as_pinned(enclave, contents[enclave.member], name)
            found.files[enclave.name] = NamedData(enclave.signed_file, own)
        except DigestError as error:
            found.refuse(enclave.name, "signed", finding_of(error, "signed-failed"))


def take_repack(
    found: SignedFiles,
    stage: Stage,
    release: Release,
    archive: VendorArchive,
    repack: Union[Path, Fetched],
    name: str,
    original: Optional[Fetched],
) -> None:
    """Take a repack of the vendor's archive in its place, or beside it.

    Its members may stand below another top directory. An InputError if it holds none of the
    release's enclaves, or one of them twice. Without the original, only the release's pins vouch
    for enclaves, and nothing does for files that are none.
    """
    path, pin = (repack, None) if isinstance(repack, Path) else (repack.path, repack.sha256)
    of_vendor = {e.signed_file: e for e in release.enclaves if e.vendor == archive.id}
    digests, contents, sha256 = read_files(path, lambda m: basename(m) in of_vendor, sha256=pin)
    taken: dict[str, NamedData] = {}
    for file, enclave in of_vendor.items():
        here = [member for member in contents if basename(member) == file]
        if len(here) > 1:
            raise InputError(
                f"the repacked archive holds {file} {len(here)} times",
                file=str(path),
                found=", ".join(here[:4]),
                hint="repack the vendor's archive again, with one of them",
            )
        for member in here:
            own = _as_pinned(enclave, contents[member], str(path))
            taken[enclave.name] = NamedData(file, own)
    if not contents:
        raise InputError(
            f"the repacked archive holds no enclave of {release.name}",
            file=str(path),
            hint="is it of this release's archive?",
        )
    # without the directories, which a repack may rename
    ours = {(basename(name), digest) for name, digest in digests.items()}
    theirs = {(e.signed_file, e.signed_sha256) for e in release.enclaves if e.signed_sha256}
    if original is not None:
        whole, *_ = read_files(original.path, lambda _member: False, sha256=original.sha256)
        theirs |= {(basename(name), digest) for name, digest in whole.items()}
    same = ours & theirs
    found.files.update(taken)
    for file, enclave in of_vendor.items():
        if enclave.name not in taken:
            hint = "the repack leaves it out; give the vendor's archive to check it"
            found.missing("repack", enclave, str(path), hint)
        elif original is None and file not in dict(same):
            found.to_prove.add(enclave.name)
    against = "the vendor's archive" if original is not None else "no original: it is not here"
    stage.detail = (
        f"{name}, sha256 {sha256}, compared with {against}: "
        f"{len(same)} of {len(ours)} members are the vendor's"
    )
    foreign = sorted(file for file, _ in ours - theirs if original or file not in of_vendor)
    if foreign:
        finding = unverifiable(
            "repack-unlike-original",
            "the repack has members that are not shown to be the vendor's, byte for byte",
            found=", ".join(map(repr, foreign[:4])),
            hint="repack the vendor's archive again, and only leave things out",
        )
        stage.refuse(finding)
