# SPDX-License-Identifier: GPL-2.0-or-later
"""A pinned buildroot in the format of mock's `buildroot_lock` plugin.

Source: `buildroot-lock-schema-1.1.0.json` of rpm-software-management/mock. Mock
reads every 1.Y.Z and so does this; 1.1.0 is written. Data only, no RPM needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from sgx_enclaves.errors import FormatError, UnsupportedError

WRITTEN_VERSION = "1.1.0"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_MAX_BYTES = 64 << 20
_MAX_PACKAGES = 100_000
_OPTIONAL = ("epoch", "signature")
_BOOTSTRAP = ("architecture", "id", "image_digest", "pull_digest")


@dataclass(frozen=True, order=True)
class LockedPackage:
    """One package of a buildroot; the names are those of the format.

    Attributes:
        name: package name.
        arch: architecture, `noarch` included.
        version: upstream's version.
        release: the distribution's release.
        epoch: as text, or None.
        sigmd5: MD5 of header and payload, from the header; it tells builds apart,
            it does not authenticate them.
        signature: last eight digits of the signing key's id, or None.
        license: the distribution's licence tag.
        url: where the package was got; may be empty when nobody knows any more.
    """

    name: str
    arch: str
    version: str
    release: str
    epoch: Optional[str]
    sigmd5: str
    signature: Optional[str]
    license: str
    url: str

    @property
    def nevra(self) -> str:
        """Name, epoch, version, release and architecture in RPM's notation."""
        epoch = f"{self.epoch}:" if self.epoch not in (None, "0") else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"


@dataclass(frozen=True)
class BuildrootLock:
    """A lock file.

    Attributes:
        packages: sorted.
        config: mock's own options, kept as they are.
        bootstrap: the container image that the buildroot was made with; empty if none.
    """

    packages: tuple[LockedPackage, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    bootstrap: Mapping[str, str] = field(default_factory=dict)


def parse_lock(data: bytes, file: str) -> BuildrootLock:
    """Read a lock file.

    Args:
        data: its content.
        file: its name, for messages.

    Raises:
        FormatError: not JSON, or not of this form; the message names the place.
        UnsupportedError: another major version.
    """
    if len(data) > _MAX_BYTES:
        raise FormatError("too large for a buildroot lock", file=file)
    try:
        top = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=file) from None
    _mapping(top, "the file", file)
    version = top.get("version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise FormatError("version is no version", file=file, found=repr(version))
    if match[1] != "1":
        raise UnsupportedError(
            "a buildroot lock of another major version",
            file=file,
            expected="1.Y.Z",
            found=str(version),
        )
    # a newer minor version may have keys that we do not know
    strict = int(match[2]) <= 1
    buildroot = _mapping(top.get("buildroot"), "buildroot", file)
    rpms = buildroot.get("rpms")
    if not isinstance(rpms, list) or len(rpms) > _MAX_PACKAGES:
        raise FormatError("buildroot.rpms must be a list of packages", file=file)
    bootstrap = _mapping(top.get("bootstrap", {}), "bootstrap", file)
    for key, value in bootstrap.items():
        if not isinstance(value, str) or (strict and key not in _BOOTSTRAP):
            raise FormatError(f"bootstrap.{key} is not of the format", file=file)
    if strict:
        _known(top, ("version", "buildroot", "bootstrap", "config"), "the file", file)
        _known(buildroot, ("rpms",), "buildroot", file)
    packages = [_package(item, number, file, strict) for number, item in enumerate(rpms)]
    seen: set[str] = set()
    for package in packages:
        if package.nevra in seen:
            raise FormatError(f"buildroot.rpms has {package.nevra} twice", file=file)
        seen.add(package.nevra)
    config = _mapping(top.get("config"), "config", file)
    return BuildrootLock(tuple(sorted(packages, key=_order)), dict(config), dict(bootstrap))


def _order(package: LockedPackage) -> tuple[str, ...]:
    return (package.name, package.arch, package.version, package.release, package.epoch or "")


def _mapping(value: Any, what: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be an object", file=file, found=repr(value)[:100])
    return value


def _known(value: Mapping[str, Any], keys: Iterable[str], what: str, file: str) -> None:
    for key in value.keys() - set(keys):
        raise FormatError(f"{what} has the unknown key {key!r}", file=file)


def _package(item: Any, number: int, file: str, strict: bool) -> LockedPackage:
    what = f"buildroot.rpms[{number}]"
    values = _mapping(item, what, file)
    fields = LockedPackage.__dataclass_fields__
    taken: dict[str, Any] = {}
    for key in fields:
        if key not in values:
            raise FormatError(f"{what}.{key} is missing", file=file)
        value = values[key]
        if not isinstance(value, str) and not (value is None and key in _OPTIONAL):
            raise FormatError(f"{what}.{key} must be text", file=file, found=repr(value)[:100])
        taken[key] = value
    if strict:
        _known(values, fields, what, file)
    return LockedPackage(**taken)


def dump_lock(lock: BuildrootLock) -> str:
    """The lock as mock writes it: sorted keys, four blanks, a newline at the end."""
    data: dict[str, Any] = {
        "version": WRITTEN_VERSION,
        "buildroot": {"rpms": [asdict(package) for package in sorted(lock.packages, key=_order)]},
        "config": dict(lock.config),
    }
    if lock.bootstrap:
        data["bootstrap"] = dict(lock.bootstrap)
    return json.dumps(data, indent=4, sort_keys=True) + "\n"


@dataclass(frozen=True)
class LockDifference:
    """How a buildroot differs from its lock.

    Attributes:
        missing: pinned, not there; NEVRAs.
        extra: there, not pinned; NEVRAs.
        rebuilt: the same NEVRA with another SIGMD5, which is another build.
        resigned: the same build with another signing key.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    rebuilt: tuple[str, ...]
    resigned: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every package is the pinned build; a new signature changes no byte of it."""
        return not (self.missing or self.extra or self.rebuilt)


def compare_packages(
    pinned: Iterable[LockedPackage], installed: Iterable[LockedPackage]
) -> LockDifference:
    """Hold what is installed against what is pinned."""
    want = {package.nevra: package for package in pinned}
    have = {package.nevra: package for package in installed}
    both = sorted(want.keys() & have.keys())
    return LockDifference(
        missing=tuple(sorted(want.keys() - have.keys())),
        extra=tuple(sorted(have.keys() - want.keys())),
        rebuilt=tuple(name for name in both if want[name].sigmd5 != have[name].sigmd5),
        resigned=tuple(
            name
            for name in both
            if want[name].sigmd5 == have[name].sigmd5
            and want[name].signature != have[name].signature
        ),
    )
