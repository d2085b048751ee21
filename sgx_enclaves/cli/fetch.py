# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb fetch."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from sgx_enclaves.catalogue.records import Release
from sgx_enclaves.cli.arguments import chosen_catalogue, chosen_fetcher
from sgx_enclaves.cli.output import answer
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sign import extract
from sgx_enclaves.errors import InputError
from sgx_enclaves.files import make_folder, system_errors, write_file
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.fetch import Fetched
from sgx_enclaves.release.vendor import fetch_signed, fetch_sources, read_signed_enclaves


def fetch(args: argparse.Namespace) -> int:
    catalogue = chosen_catalogue(args)
    release = catalogue.release(args.release)
    fetcher = chosen_fetcher(args)
    chosen = release.only(args.enclaves or [e.name for e in release.enclaves if e.required])
    wanted = args.signed_into is not None or args.signatures_into is not None
    if wanted and args.what == "sources":
        raise InputError("the sources have no signed enclaves", hint="drop --what=sources")
    files: list[dict[str, object]] = []
    named: dict[str, Path] = {}
    if args.what != "signed":
        for tree in catalogue.trees_of(release):
            fetched = fetch_sources(tree, fetcher)
            files += [_entry("source", tree, name, file) for name, file in fetched.items()]
            for source in tree.build.sources if tree.build is not None else ():
                named[source.artifact.filename] = fetched[source.id].path
    if args.what != "sources":
        signed = fetch_signed(release, fetcher)
        for archive in release.vendor:
            here = signed[archive.id]
            entry = _entry("signed", release, archive.id, here.fetched)
            files.append({**entry, "cross_checked": here.cross_checked, "note": here.note})
            named[archive.artifact.filename] = here.fetched.path
            if archive.checksums is not None and here.checksums is not None:
                named[archive.checksums.filename] = here.checksums
        if wanted:
            paths = {name: archive.fetched.path for name, archive in signed.items()}
            _write_signed(chosen, paths, args.signed_into, args.signatures_into)
    if args.into is not None:
        _copy(named, args.into)
    lines = []
    for entry in files:
        pinned = "as pinned" if entry["pinned"] else "NOT PINNED"
        pinned = "contents as pinned" if entry["contents_sha256"] else pinned
        file = f"{entry['path']}, sha256 {entry['sha256']}, {pinned}"
        lines.append(f"{entry['kind']} {entry['id']}: {file}")
        if entry.get("note"):
            lines.append(f"  {entry['note']}")
    answer(args, {"release": release.name, "files": files}, lines)
    return 0


def _copy(files: Mapping[str, Path], into: Path) -> None:
    make_folder(into)
    for name, path in files.items():
        with system_errors(str(into / name), "cannot be written"):
            # a file of --local may lie there already
            if not (into / name).exists() or not path.samefile(into / name):
                shutil.copyfile(path, into / name)


def _write_signed(
    release: Release,
    archives: Mapping[str, Path],
    signed_into: Optional[Path],
    signatures_into: Optional[Path],
) -> None:
    """Write each enclave of the release, or its signatures, into the folders."""
    enclaves = read_signed_enclaves(release, archives)
    for enclave in release.enclaves:
        data = enclaves[enclave.name]
        if signed_into is not None:
            make_folder(signed_into)
            write_file(str(signed_into / enclave.signed_file), data)
        if signatures_into is not None:
            make_folder(signatures_into)
            image = EnclaveImage.parse(data, enclave.signed_file)
            signatures = extract(Descriptor.parse(image.descriptor))
            content = b"".join(s.serialise() for s in signatures)
            write_file(str(signatures_into / enclave.signature_file), content)


def _entry(kind: str, release: Release, name: str, file: Fetched) -> dict[str, object]:
    fields = ("path", "sha256", "contents_sha256", "size", "url", "pinned", "rejected")
    return {
        "kind": kind,
        "release": release.name,
        "id": name,
        **{field: as_plain(getattr(file, field)) for field in fields},
    }
