# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a verification: which bytes were verified, and what came out.

A record names every binary package of a build with its digests, so that it
speaks of those bytes and of no others. Strict: what has an unknown, missing or
malformed part is refused whole. Reads no files and knows no Koji.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Optional, TypeVar

from sgx_enclaves.errors import RecordError

SCHEMA = 1
IDENTICAL = "identical"
VERDICTS = (IDENTICAL, "differs", "unverifiable")
# The origin of a release that stands in the catalogue; others have the URL they came from.
CATALOGUE = "catalogue"
# Fedora's largest builds have some thousands of packages, none of them enclaves'.
MAX_PACKAGES = 2000
MAX_ENCLAVES = 256
MAX_TEXT = 1024
MAX_SIZE = 2 << 20

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_VERSION = re.compile(r"[0-9A-Za-z.]{1,64}\Z")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MAX_ID = (1 << 31) - 1
T = TypeVar("T")


@dataclass(frozen=True)
class RecordedPackage:
    """One binary package that was verified with its build.

    Attributes:
        name: of the file, for example `x-1-1.x86_64.rpm`.
        file_sha256: of the whole file.
        content_sha256: of all that follows lead and signature header, which is
            what a signed copy has in common with the original.
    """

    name: str
    file_sha256: str
    content_sha256: str


@dataclass(frozen=True)
class RecordedEnclave:
    """One signed enclave, as it stands in a package.

    Attributes:
        name: in packages, for example `ide`.
        rpm: name of the package file.
        path: in the package.
        version: from the file's name; None when it has none.
        mrenclave, mrsigner: hexadecimal; None when they could not be read.
        isvprodid, isvsvn: None when they could not be read.
        built_sha256: of our unsigned enclave; None when there is none.
        signed_sha256: of the file in the package.
        verdict: one of `VERDICTS`.
        cause: why it is not identical; None when it is.
    """

    name: str
    rpm: str
    path: str
    version: Optional[str]
    mrenclave: Optional[str]
    mrsigner: Optional[str]
    isvprodid: Optional[int]
    isvsvn: Optional[int]
    built_sha256: Optional[str]
    signed_sha256: str
    verdict: str
    cause: Optional[str] = None


@dataclass(frozen=True)
class Record:
    """The outcome of one verification of one build.

    Attributes:
        schema: version of this structure.
        release: name of the release that was verified against.
        origin: `CATALOGUE`, or the URL of the release's file.
        release_sha256: digest of that file.
        nvr, build_id: the build.
        task_id: the task that verified.
        verdict: one of `VERDICTS`.
        reproducible: every enclave was built with the designated toolchain, with
            nothing left unpinned.
        rpms: every binary package of the build.
        enclaves: every signed enclave in them.
        report_sha256: digest of the full report.
        toolchain_sha256: digest of the toolchain's description; None when
            verification did not come that far.
        plugin_version: version of what verified.
        verified_at: when the record was accepted, as `2026-11-25T00:00:00Z`;
            None until then.
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

    def package(self, name: str) -> Optional[RecordedPackage]:
        """What it says about a package; None when it does not name it."""
        return next((p for p in self.rpms if p.name == name), None)

    def enclaves_of(self, rpm: str) -> dict[str, RecordedEnclave]:
        """Path to enclave, of one package."""
        return {e.path: e for e in self.enclaves if e.rpm == rpm}

    def as_mapping(self) -> dict[str, Any]:
        """Plain data, as `read_record` takes it."""
        mapping = asdict(self)
        mapping["rpms"] = list(mapping["rpms"])
        mapping["enclaves"] = list(mapping["enclaves"])
        return mapping

    def as_json(self) -> str:
        """The canonical text that is kept."""
        return json.dumps(self.as_mapping(), sort_keys=True, separators=(",", ":"))

    def verified_time(self) -> Optional[datetime.datetime]:
        """When it was accepted, in UTC."""
        return None if self.verified_at is None else parse_time(self.verified_at)


def time_text(moment: datetime.datetime) -> str:
    """A moment as records have it.

    Args:
        moment: with a time zone.
    """
    return moment.astimezone(datetime.timezone.utc).strftime(_TIME)


def parse_time(text: str) -> datetime.datetime:
    """The moment that a text of `time_text` means.

    Raises:
        ValueError: it is none.
    """
    return datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.timezone.utc)


def read_record(mapping: object) -> Record:
    """A record from plain data, checked through and through.

    Raises:
        RecordError: a part is missing, unknown, malformed, too large, or contradicts another.
    """
    record = _Reader("record", mapping).record()
    _check_agreement(record)
    if len(record.as_json()) > MAX_SIZE:
        raise RecordError("the record is too large", expected=f"at most {MAX_SIZE} bytes as JSON")
    return record


def record_from_json(text: str) -> Record:
    """A record from the text that was kept of it.

    Raises:
        RecordError: see `read_record`.
    """
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise RecordError(f"the kept record is not JSON: {error}") from None
    return read_record(mapping)


def _check_agreement(record: Record) -> None:
    names = [p.name for p in record.rpms]
    if len(set(names)) != len(names):
        raise RecordError("the record names a package twice")
    places = [(e.rpm, e.path) for e in record.enclaves]
    if len(set(places)) != len(places):
        raise RecordError("the record names an enclave twice")
    for enclave in record.enclaves:
        where = f"enclave {enclave.path!r} of {enclave.rpm!r}"
        if enclave.rpm not in names:
            raise RecordError(f"{where}: the record does not name its package")
        known = (enclave.mrenclave, enclave.mrsigner, enclave.isvprodid, enclave.isvsvn)
        if enclave.verdict == IDENTICAL and None in (*known, enclave.built_sha256):
            raise RecordError(
                f"{where} is called identical, but lacks what is known of such an enclave",
                expected="mrenclave, mrsigner, isvprodid, isvsvn and built_sha256",
            )
        if enclave.verdict == IDENTICAL and enclave.cause is not None:
            raise RecordError(f"{where} is called identical, with a cause why it is not")
    if record.verdict != IDENTICAL:
        return
    if not record.enclaves or any(e.verdict != IDENTICAL for e in record.enclaves):
        raise RecordError(
            "the verdict is not that of the enclaves",
            expected="at least one enclave, each identical",
            found=f"{len(record.enclaves)} enclave(s)",
        )
    if record.toolchain_sha256 is None or record.release_sha256 is None:
        raise RecordError(
            "the verdict is identical, but the record does not say by what",
            expected="toolchain_sha256 and release_sha256",
        )


class _Reader:
    """One mapping, field by field; each error names the field."""

    def __init__(self, name: str, mapping: object) -> None:
        if not isinstance(mapping, Mapping):
            raise RecordError(f"{name} is not a mapping", found=type(mapping).__name__)
        self._name = name
        self._mapping = mapping

    def record(self) -> Record:
        self._keys(Record, optional=("verified_at",))
        if self._mapping["schema"] != SCHEMA or isinstance(self._mapping["schema"], bool):
            raise self._wrong("schema", str(SCHEMA))
        return Record(
            schema=SCHEMA,
            release=self._text("release"),
            origin=self._text("origin"),
            release_sha256=self._maybe("release_sha256", self._digest),
            nvr=self._word("nvr"),
            build_id=self._number("build_id"),
            task_id=self._number("task_id"),
            verdict=self._verdict("verdict"),
            reproducible=self._truth("reproducible"),
            rpms=self._list("rpms", MAX_PACKAGES, _Reader._package),
            enclaves=self._list("enclaves", MAX_ENCLAVES, _Reader._enclave),
            report_sha256=self._digest("report_sha256"),
            toolchain_sha256=self._maybe("toolchain_sha256", self._digest),
            plugin_version=self._word("plugin_version"),
            verified_at=self._maybe("verified_at", self._time),
        )

    def _package(self) -> RecordedPackage:
        self._keys(RecordedPackage)
        return RecordedPackage(
            self._rpm("name"), self._digest("file_sha256"), self._digest("content_sha256")
        )

    def _enclave(self) -> RecordedEnclave:
        self._keys(RecordedEnclave, optional=("cause",))
        return RecordedEnclave(
            name=self._word("name"),
            rpm=self._rpm("rpm"),
            path=self._path("path"),
            version=self._maybe("version", self._version),
            mrenclave=self._maybe("mrenclave", self._digest),
            mrsigner=self._maybe("mrsigner", self._digest),
            isvprodid=self._maybe("isvprodid", self._short),
            isvsvn=self._maybe("isvsvn", self._short),
            built_sha256=self._maybe("built_sha256", self._digest),
            signed_sha256=self._digest("signed_sha256"),
            verdict=self._verdict("verdict"),
            cause=self._maybe("cause", self._text),
        )

    def _keys(self, cls: type, optional: tuple[str, ...] = ()) -> None:
        wanted = {f.name for f in fields(cls)}
        found = set(self._mapping)
        missing = sorted(wanted - found - set(optional))
        unknown = sorted(repr(k)[:80] for k in found - wanted)
        if missing or unknown:
            raise RecordError(
                f"{self._name} does not have the fields of schema {SCHEMA}",
                expected=", ".join(sorted(wanted)),
                found="; ".join(
                    f"{word} {', '.join(names[:8])}"
                    for word, names in (("missing", missing), ("unknown", unknown))
                    if names
                ),
                hint="hub and builder must have the same version of the plugin",
            )

    def _list(self, key: str, most: int, read: Callable[[_Reader], T]) -> tuple[T, ...]:
        value = self._mapping[key]
        if not isinstance(value, (list, tuple)):
            raise self._wrong(key, "a list")
        if len(value) > most:
            raise RecordError(
                f"{self._name}: {key} is too long",
                expected=f"at most {most}",
                found=str(len(value)),
            )
        return tuple(read(_Reader(f"{key}[{i}]", item)) for i, item in enumerate(value))

    def _maybe(self, key: str, read: Callable[[str], T]) -> Optional[T]:
        return None if self._mapping.get(key) is None else read(key)

    def _text(self, key: str) -> str:
        value = self._mapping[key]
        if (
            not isinstance(value, str)
            or not value
            or len(value) > MAX_TEXT
            or not value.isprintable()
        ):
            raise self._wrong(key, f"a line of at most {MAX_TEXT} printable characters")
        return value

    def _word(self, key: str) -> str:
        value = self._text(key)
        if len(value) > 255 or " " in value or not value.isascii():
            raise self._wrong(key, "at most 255 characters of ASCII without spaces")
        return value

    def _rpm(self, key: str) -> str:
        value = self._word(key)
        if "/" in value or not value.endswith(".rpm"):
            raise self._wrong(key, "the name of an RPM file without its folder")
        return value

    def _path(self, key: str) -> str:
        value = self._text(key)
        if not value.startswith("/") or {"", ".", ".."} & set(value[1:].split("/")):
            raise self._wrong(key, "an absolute, plain path")
        return value

    def _version(self, key: str) -> str:
        value = self._mapping[key]
        if not isinstance(value, str) or not _VERSION.match(value):
            raise self._wrong(key, "digits, letters and dots")
        return value

    def _digest(self, key: str) -> str:
        value = self._mapping[key]
        if not isinstance(value, str) or not _HEX.match(value):
            raise self._wrong(key, "64 lower-case hexadecimal digits")
        return value

    def _verdict(self, key: str) -> str:
        value = self._mapping[key]
        if value not in VERDICTS:
            raise self._wrong(key, " or ".join(VERDICTS))
        return str(value)

    def _number(self, key: str) -> int:
        return self._integer(key, 1, _MAX_ID)

    def _short(self, key: str) -> int:
        return self._integer(key, 0, 0xFFFF)

    def _integer(self, key: str, least: int, most: int) -> int:
        value = self._mapping[key]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, f"a whole number from {least} to {most}")
        return value

    def _truth(self, key: str) -> bool:
        value = self._mapping[key]
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def _time(self, key: str) -> str:
        value = self._mapping[key]
        try:
            parse_time(value)
        except (TypeError, ValueError):
            raise self._wrong(key, "a time as 2026-11-25T00:00:00Z") from None
        return str(value)

    def _wrong(self, key: str, expected: str) -> RecordError:
        found = self._mapping[key]
        return RecordError(
            f"{self._name}: {key} is malformed", expected=expected, found=repr(found)[:120]
        )
