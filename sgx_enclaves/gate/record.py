# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a verification: which bytes were verified, and what came out.

A record names every binary package of a build with its digests, so that it speaks of those bytes
and of no others. Strict: what has an unknown, missing or malformed part (see `record.schema.json`)
is refused whole. Knows no Koji.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from sgx_enclaves.enclave.verdict import Outcome
from sgx_enclaves.errors import RecordError
from sgx_enclaves.plain import as_plain, from_plain, parse_json, read_schema, validate

# 1 lacks what is said of the buildroot, and whether the verification was in part.
SCHEMA = 2
IDENTICAL, DIFFERS, UNVERIFIABLE = "identical", "differs", "unverifiable"
# The origin of a release that stands in the catalogue; others have the URL they came from.
CATALOGUE = "catalogue"
MAX_SIZE = 2 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class RecordedPackage:
    """One binary package of the build, by its file's name, for example `x-1-1.x86_64.rpm`.

    `content_sha256` is of all behind lead and signature header, which a signed copy has, too.
    """

    name: str
    file_sha256: str
    content_sha256: str


@dataclass(frozen=True)
class RecordedEnclave:
    """One signed file, and what came of it; None is what is not known. Digests are hexadecimal.

    Attributes:
        name: of the enclave in packages, for example `ide`.
        rpm: name of the package file; None for the vendor's own file.
        path: in the package, empty if that cannot be read; the vendor's file's name.
        version: from the file's name.
        signed_sha256, built_sha256: of the file, and of our unsigned enclave.
        cause: why it is not identical; None when it is.
        policy: what was asked of it, and by whom; None as well if it was not compared.
    """

    name: str
    rpm: Optional[str]
    path: str
    signed_sha256: Optional[str]
    verdict: str
    version: Optional[str] = None
    mrenclave: Optional[str] = None
    mrsigner: Optional[str] = None
    isvprodid: Optional[int] = None
    isvsvn: Optional[int] = None
    built_sha256: Optional[str] = None
    cause: Optional[str] = None
    policy: Optional[str] = None


@dataclass(frozen=True)
class Record:
    """The outcome of one verification of one build.

    Attributes:
        origin: `CATALOGUE`, or the URL of the release's file; `release_sha256` is that file's.
        reproducible: every enclave was built with the designated toolchain, nothing left unpinned.
        toolchain_sha256: of its description; None when the verification did not come that far.
        verified_at: when it was accepted, as `2026-11-25T00:00:00Z`; None until then.
        build_tag, repo_id: of the buildroots; None in records of schema 1.
        buildroot_sha256: of the buildroots' packages; None when there was none.
        lock_sha256: of the lock that pins those, if one does.
        partial: only some of the build's enclaves were to be verified.
    """

    schema: int
    release: str
    origin: str
    release_sha256: Optional[str]
    nvr: str
    build_id: int
    task_id: int
    verdict: str
    reproducible: bool
    rpms: tuple[RecordedPackage, ...]
    enclaves: tuple[RecordedEnclave, ...]
    report_sha256: str
    toolchain_sha256: Optional[str]
    plugin_version: str
    verified_at: Optional[str] = None
    build_tag: Optional[str] = None
    repo_id: Optional[int] = None
    buildroot_sha256: Optional[str] = None
    lock_sha256: Optional[str] = None
    partial: bool = False

    def as_json(self) -> str:
        """The canonical text that is kept."""
        return json.dumps(as_plain(self), sort_keys=True, separators=(",", ":"))

    def verified_time(self) -> Optional[datetime.datetime]:
        """When it was accepted, in UTC."""
        if self.verified_at is None:
            return None
        return datetime.datetime.strptime(self.verified_at, "%Y-%m-%dT%H:%M:%S%z")


def time_text(moment: Optional[datetime.datetime] = None) -> str:
    """A moment, or now, as records have it."""
    moment = moment or datetime.datetime.now(datetime.timezone.utc)
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_record(mapping: object) -> Record:
    """A record from plain data, checked through and through; else a RecordError."""
    record = read_part(Record, mapping, "record")
    try:
        record.verified_time()
    except ValueError:
        wanted, found = "a time as 2026-11-25T00:00:00Z", record.verified_at
        raise RecordError("verified_at is malformed", expected=wanted, found=found) from None
    for wrong, message, expected in _contradictions(record):
        if wrong:
            raise RecordError(message, expected=expected)
    if len(record.as_json()) > MAX_SIZE:
        raise RecordError("the record is too large", expected=f"at most {MAX_SIZE} bytes as JSON")
    return record


def record_from_json(text: str) -> Record:
    """A record from the text that was kept of it."""
    return read_record(parse_json(text, file="kept record", error=RecordError, most=MAX_SIZE))


def overall(parts: Iterable[Any]) -> Outcome:
    """The verdict on all, of which each has one."""
    return Outcome.of(Outcome(part.verdict) for part in parts)


def read_part(cls: type[T], data: object, part: str) -> T:
    """A dataclass of plain data that `part` of record.schema.json describes."""
    schema = read_schema(__file__, "record.schema.json", part)
    validate(data, schema, file=part, error=RecordError)
    return from_plain(cls, data)


def _contradictions(record: Record) -> Iterator[tuple[bool, str, Optional[str]]]:
    """Whether a part contradicts another, in what words, and what is expected instead."""
    names, places = [p.name for p in record.rpms], [(e.rpm, e.path) for e in record.enclaves]
    yield len(set(names)) != len(names), "the record names a package twice", None
    yield len(set(places)) != len(places), "the record names an enclave twice", None
    facts = ("mrenclave", "mrsigner", "isvprodid", "isvsvn", "built_sha256")
    for enclave in record.enclaves:
        where, same = f"enclave {enclave.path!r} of {enclave.rpm!r}", enclave.verdict == IDENTICAL
        lacking = [fact for fact in facts if getattr(enclave, fact) is None]
        yield enclave.rpm not in names, f"{where}: the record does not name its package", None
        why = f"{where} is called identical, but lacks what is known of such an enclave"
        yield same and bool(lacking), why, ", ".join(lacking)
        why = f"{where} is called identical, with a cause why it is not"
        yield same and enclave.cause is not None, why, None
    if record.verdict == IDENTICAL:
        other = overall(record.enclaves) is not Outcome.IDENTICAL
        why = f"the verdict is not that of the enclaves ({len(record.enclaves)})"
        yield other, why, "at least one enclave, each identical"
        nothing = None in (record.toolchain_sha256, record.release_sha256)
        why = "the verdict is identical, but the record does not say by what"
        yield nothing, why, "toolchain_sha256 and release_sha256"
