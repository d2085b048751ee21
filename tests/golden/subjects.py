# SPDX-License-Identifier: GPL-2.0-or-later
"""The product as the golden tests use it; its inside is imported here and nowhere else."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgx_enclaves_builder.config import read_config
from sgx_enclaves_rpmlint.options import Options

from sgx_enclaves.catalogue.reader import OWN_FOLDER, release_from
from sgx_enclaves.cli.main import main
from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.config import Config
from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.policy import policy_for
from sgx_enclaves.enclave.regenerate import regenerate
from sgx_enclaves.enclave.sdk import generation_named
from sgx_enclaves.enclave.sign import sign
from sgx_enclaves.errors import CatalogueError, SgxEnclavesError
from sgx_enclaves.gate.record import read_record
from sgx_enclaves.plain import parse_toml
from sgx_enclaves.release.archive import read_contents, unpack_tree
from sgx_enclaves.release.manifest import read_manifest, write_manifest
from sgx_enclaves.release.place import parse_lock
from sgx_enclaves.rpm.check import check_package
from sgx_enclaves.rpm.references import open_reference
from sgx_enclaves.tar import KIND_WORDS
from tests.golden import judge
from tests.support.archives import list_members
from tests.support.keys import fips_key, vendor_key

Outcome = tuple[str, Any]

CATALOGUE = OWN_FOLDER


@dataclass(frozen=True)
class Output:
    """What a run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it, for people."""
        return f"exit status {self.status}\n{self.out}" + (f"stderr: {self.err}" * bool(self.err))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, so that outputs name files as they are given."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def command(folder: Path, *arguments: str) -> Output:
    """Run `sgx-enclaves` with these arguments in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with inside(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Output(status, out.getvalue(), err.getvalue())


def sign_for_vendor(built: bytes, config: bytes, sdk: str) -> bytes:
    """The enclave as the test vendor signs it with a release of the SDK, on a fixed day."""
    image = EnclaveImage.parse(built)
    metadata = regenerate(image, Config.parse(config), generation_named(sdk))
    return sign(image, metadata, vendor_key(), datetime.date(2024, 2, 29), fips_key())


def _refusal(error: SgxEnclavesError) -> Outcome:
    return type(error).__name__, error.offset


def compared(built: bytes, signed: bytes, config: bytes, mrsigner: str) -> Outcome:
    """Outcome and first finding of a comparison; all its findings with their places."""
    policy = policy_for(None, mrsigners=[mrsigner])
    try:
        verdict = compare(built, signed, config, policy)
    except SgxEnclavesError as error:
        return _refusal(error)
    codes = [finding.code for finding in verdict.findings]
    return " ".join([verdict.outcome.value, *codes[:1]]), [
        (f.code, f.block, f.offset, f.severity.value) for f in verdict.findings
    ]


def checked_package(path: Path, references: Sequence[str], mrsigner: str) -> Outcome:
    """Outcome of a package's check, its first finding; all findings of it and its enclaves."""
    policy = policy_for(None, mrsigners=[mrsigner])
    try:
        result = check_package(str(path), [open_reference(r) for r in references], lambda _: policy)
    except SgxEnclavesError as error:
        return _refusal(error)
    outcome = "none" if result.outcome is None else result.outcome.value
    codes = [finding.code for finding in result.findings]
    enclaves = [
        (e.path, e.links, e.signed, e.sha256, [f.code for f in e.findings]) for e in result.enclaves
    ]
    first = codes or [code for enclave in enclaves for code in enclave[4]]
    return " ".join([outcome, *first[:1]]), [codes, enclaves]


def read_archive(archive: Path, into: Path) -> Outcome:
    """What listing, digesting and unpacking give: done, or the error."""
    words: list[str] = []
    details: list[Any] = []
    for name, call in (
        ("list", lambda: _listed(archive)),
        ("digest", lambda: [(e.kind, e.path, e.value) for e in read_contents(archive).entries]),
        ("unpack", lambda: _unpacked(archive, into)),
    ):
        try:
            details.append(call())
            words.append(f"{name}: done")
        except SgxEnclavesError as error:
            word, offset = _refusal(error)
            details.append(offset)
            words.append(f"{name}: {word}")
    return ", ".join(words), details


def _listed(archive: Path) -> list[Any]:
    members = list_members(archive, links=True)
    return [(member.name, KIND_WORDS[member.kind], member.size) for member in members]


def _unpacked(archive: Path, into: Path) -> list[Any]:
    unpack_tree(archive, into)
    found: list[Any] = []
    for path in sorted(into.rglob("*")):
        name, status = str(path.relative_to(into)), path.lstat()
        if path.is_symlink():
            found.append((name, os.readlink(path)))
        elif path.is_dir():
            # Folders that the archive does not name get the mode that the umask leaves.
            found.append((name, "folder"))
        else:
            found.append((name, status.st_mode, status.st_size))
    return found


def release_data(path: Path) -> dict[str, Any]:
    """A file of the catalogue as plain data."""
    return parse_toml(path.read_bytes(), file=path.name, error=CatalogueError)


def manifest_data(manifest: Any, folder: Path) -> dict[str, Any]:
    """A manifest as plain data."""
    write_manifest(folder, manifest)
    (path,) = folder.glob("*.json")
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _rpmlint_options(data: Any) -> None:
    problems = Options(data).problems
    if problems:
        raise _Problems(len(problems))


def _hub_settings(path: Path) -> None:
    # Only where the tests' stand-in for Koji's hub is in place.
    from sgx_enclaves_hub.config import read_settings  # noqa: PLC0415

    read_settings(str(path))


class _Problems(Exception):
    """What is wrong in a table of rpmlint's configuration, which is reported and passed over."""


# What reads plain data, or the text of a configuration file in a folder.
READERS: dict[str, Callable[[Any], object]] = {
    "release": lambda data: release_from(data, "release.toml"),
    "record": read_record,
    "manifest": lambda data: read_manifest(json.dumps(data).encode(), "manifest.json"),
    "lock": lambda data: parse_lock(json.dumps(data).encode(), "lock.json"),
    "rpmlint": _rpmlint_options,
    "builder": lambda path: read_config(str(path)),
    "hub": _hub_settings,
}


def read_plain(reader: str, data: Any) -> str:
    """Whether a reader takes the data: "taken", or the kind of its refusal."""
    try:
        READERS[reader](data)
    except _Problems as problems:
        return f"{problems} problem(s)"
    except SgxEnclavesError as error:
        return type(error).__name__
    return "taken"


def elf_facts(data: bytes) -> dict[str, Any]:
    """What our strict reader reads in an enclave file, in the form of `judge.elf_facts`.

    Raises:
        ValueError: the reader refuses the file.
    """
    try:
        image = EnclaveImage.parse(data)
        symbols = image.dynamic_symbols
    except SgxEnclavesError as error:
        raise ValueError(str(error)) from error
    return {
        "header": {name: getattr(image.header, name) for name in judge.HEADER},
        "segments": [_fields(segment, judge.SEGMENT) for segment in image.segments],
        "sections": [(s.name, _fields(s.header, judge.SECTION)) for s in image.sections],
        "dynamic": image.dynamic,
        "dynamic symbols": {name: _symbol(symbol) for name, symbol in symbols.items()},
        "note": (image.note_type, image.descriptor_size, image.descriptor),
    }


def _fields(structure: Any, names: Sequence[str]) -> dict[str, int]:
    return {name: getattr(structure, name) for name in names}


def _symbol(symbol: Any) -> tuple[int, int, int, int]:
    return symbol.st_value, symbol.st_size, symbol.st_shndx, symbol.st_info
