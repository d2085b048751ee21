# SPDX-License-Identifier: GPL-2.0-or-later
"""What RPM says is installed, and locks of it: a buildroot pinned to its packages.

A lock is in the format of mock's `buildroot_lock` plugin. Source:
`buildroot-lock-schema-1.1.0.json` of rpm-software-management/mock. Mock reads every 1.Y.Z
and so does this; 1.1.0 is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from sgx_enclaves.errors import FormatError, InputError, UnsupportedError
from sgx_enclaves.plain import as_plain, from_plain, parse_json, validate
from sgx_enclaves.release.place import run_tool

# nine tags; a tab cannot be part of any
_FORMAT = (
    "%{NAME}\\t%{ARCH}\\t%{VERSION}\\t%{RELEASE}\\t%{EPOCH}\\t"
    "%{SIGMD5}\\t%{SIGPGP:pgpsig}\\t%{LICENSE}\\t%{PAYLOADDIGEST}\\n"
)
_INSTALLED_TIMEOUT = 120.0
_KEY_ID = re.compile(r"Key ID ([0-9a-f]{8,64})")


@dataclass(frozen=True)
class InstalledPackage:
    """One installed package, and the digest of its packed files; None before RPM 4.14."""

    locked: LockedPackage
    payload_sha256: Optional[str]


def installed_packages(
    root: Optional[str] = None,
    urls: Optional[Mapping[str, str]] = None,
    dbpath: Optional[str] = None,
) -> tuple[InstalledPackage, ...]:
    """Ask RPM for every installed package of this machine, or of a buildroot.

    Args:
        root: a buildroot.
        urls: NEVRA to the URL that a package was got from; the database does not know.
        dbpath: directory of the database to ask; by default RPM's own choice within the root.

    Raises:
        InputError: RPM is not there or fails.
        FormatError: its answer makes no sense.
    """
    command = ["rpm", "-qa", *(["--root", root] if root is not None else [])]
    command += [*(["--dbpath", dbpath] if dbpath is not None else []), "--qf", _FORMAT]
    output = run_tool(command, _INSTALLED_TIMEOUT)
    if output.status != 0:
        raise InputError(
            f"rpm failed with status {output.status}",
            file=dbpath or root,
            found=output.text[:200].strip(),
        )
    return parse_installed(output.text, urls or {})


def parse_installed(text: str, urls: Mapping[str, str]) -> tuple[InstalledPackage, ...]:
    """Read the lines that `installed_packages` asks for; keys are no packages."""
    packages = []
    for number, line in enumerate(text.splitlines(), 1):
        values = [None if value == "(none)" else value for value in line.split("\t")]
        if len(values) != _FORMAT.count("%") or values[0] is None:
            raise FormatError(f"line {number} of rpm's answer is odd", found=repr(line[:100]))
        if values[0] == "gpg-pubkey":
            continue
        name, arch, version, release, epoch, sigmd5, signature, licence, payload = values
        key = _KEY_ID.search(signature) if signature is not None else None
        locked = LockedPackage(
            name=name or "",
            arch=arch or "",
            version=version or "",
            release=release or "",
            epoch=epoch,
            sigmd5=sigmd5 or "",
            signature=key[1][-8:] if key is not None else None,
            license=licence or "",
            url="",
        )
        locked = replace(locked, url=urls.get(locked.nevra, ""))
        packages.append(InstalledPackage(locked, payload))
    return tuple(sorted(packages, key=lambda package: package.locked.nevra))


@dataclass(frozen=True, order=True)
class LockedPackage:
    """One package of a buildroot; the names are those of the format.

    Attributes:
        sigmd5: MD5 of header and payload, from the header; it distinguishes builds,
            it does not authenticate them.
        signature: last eight digits of the signing key's id, or None.
        url: where the package was got; empty if nobody knows any more.
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
    """A lock file: packages, mock's own options as they are, and the container image that the
    buildroot was made with, if there was one.
    """

    packages: tuple[LockedPackage, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    bootstrap: Mapping[str, str] = field(default_factory=dict)


WRITTEN_VERSION = "1.1.0"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_MAX_LOCK = 64 << 20
_TEXT, _MAYBE_TEXT = {"type": "string"}, {"type": ["string", "null"]}
_PACKAGE_KEYS = tuple(LockedPackage.__dataclass_fields__)
_BOOTSTRAP_KEYS = ("architecture", "id", "image_digest", "pull_digest")


def _lock_schema(*, exact: bool) -> dict[str, Any]:
    """The format's schema; a newer minor version may have keys that we do not know."""

    def mapping(properties: Mapping[str, Any], required: Iterable[str]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(properties),
            "required": list(required),
            "additionalProperties": not exact,
        }

    kinds = {key: _MAYBE_TEXT if key in ("epoch", "signature") else _TEXT for key in _PACKAGE_KEYS}
    rpms = {"type": "array", "maxItems": 100_000, "items": mapping(kinds, _PACKAGE_KEYS)}
    bootstrap = mapping(dict.fromkeys(_BOOTSTRAP_KEYS, _TEXT), ())
    keys = {
        "version": _TEXT,
        "buildroot": mapping({"rpms": rpms}, ["rpms"]),
        "bootstrap": {**bootstrap, "additionalProperties": False if exact else _TEXT},
        "config": {"type": "object"},
    }
    return mapping(keys, ["version", "buildroot", "config"])


def parse_lock(data: bytes, file: str) -> BuildrootLock:
    """Read a lock file.

    Raises:
        FormatError, UnsupportedError: not of this form, or of another major version.
    """
    top = parse_json(data, file=file, error=FormatError, most=_MAX_LOCK)
    version = top.get("version") if isinstance(top, dict) else None
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise FormatError("its version is no version", file=file, found=repr(version))
    if match[1] != "1":
        raise UnsupportedError(
            "a buildroot lock of another major version",
            file=file,
            expected="1.Y.Z",
            found=str(version),
        )
    validate(top, _lock_schema(exact=int(match[2]) <= 1), file=file, error=FormatError)
    packages = [
        from_plain(
            LockedPackage,
            {key: item[key] for key in _PACKAGE_KEYS},
            file=file,
            error=FormatError,
        )
        for item in top["buildroot"]["rpms"]
    ]
    names = [package.nevra for package in packages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        raise FormatError(f"buildroot.rpms has {name} twice", file=file)
    return BuildrootLock(
        tuple(sorted(packages, key=_order)), top["config"], top.get("bootstrap", {})
    )


def _order(package: LockedPackage) -> tuple[str, ...]:
    return (package.name, package.arch, package.version, package.release, package.epoch or "")


def dump_lock(lock: BuildrootLock) -> str:
    """The lock as mock writes it: sorted keys, four blanks, a newline at the end."""
    data: dict[str, Any] = {
        "version": WRITTEN_VERSION,
        "buildroot": {"rpms": as_plain(sorted(lock.packages, key=_order))},
        "config": dict(lock.config),
    }
    if lock.bootstrap:
        data["bootstrap"] = dict(lock.bootstrap)
    return json.dumps(data, indent=4, sort_keys=True) + "\n"
