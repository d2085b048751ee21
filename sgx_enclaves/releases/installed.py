# SPDX-License-Identifier: GPL-2.0-or-later
"""What RPM says is installed, on this machine or in a buildroot."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from sgx_enclaves.errors import FormatError, InputError
from sgx_enclaves.releases.buildroot_lock import LockedPackage
from sgx_enclaves.releases.process import Runner, run_tool

# a tab cannot be part of these tags
_FIELDS = (
    "NAME",
    "ARCH",
    "VERSION",
    "RELEASE",
    "EPOCH",
    "SIGMD5",
    "SIGPGP:pgpsig",
    "LICENSE",
    "PAYLOADDIGEST",
)
_FORMAT = "\\t".join(f"%{{{field}}}" for field in _FIELDS) + "\\n"
_TIMEOUT = 120.0
_KEY_ID = re.compile(r"Key ID ([0-9a-f]{8,64})")


@dataclass(frozen=True)
class InstalledPackage:
    """One installed package.

    Attributes:
        locked: its identity, in the words of a buildroot lock.
        payload_sha256: digest of the packed files, from the header; None before RPM 4.14.
    """

    locked: LockedPackage
    payload_sha256: Optional[str]


def rpm_is_there() -> bool:
    """Whether this machine has the `rpm` program."""
    return shutil.which("rpm") is not None


def installed_packages(
    root: Optional[str] = None,
    run: Runner = run_tool,
    urls: Optional[Mapping[str, str]] = None,
    dbpath: Optional[str] = None,
) -> tuple[InstalledPackage, ...]:
    """Ask RPM for every installed package.

    Args:
        root: a buildroot; None for this machine.
        run: for tests.
        dbpath: folder of the database to ask; by default RPM's own choice within the root.
        urls: NEVRA to the URL that a package was got from; the database does not know.

    Raises:
        InputError: RPM is not there or fails.
        FormatError: its answer makes no sense.
    """
    command = ["rpm", "-qa", *(["--root", root] if root is not None else [])]
    command += [*(["--dbpath", dbpath] if dbpath is not None else []), "--qf", _FORMAT]
    output = run(command, _TIMEOUT)
    if output.status != 0:
        raise InputError(
            f"rpm failed with status {output.status}",
            file=dbpath or root,
            found=output.text[:200].strip(),
        )
    return parse_installed(output.text, urls or {})


def parse_installed(text: str, urls: Mapping[str, str]) -> tuple[InstalledPackage, ...]:
    """Read the lines that `installed_packages` asks for; keys are no packages.

    Raises:
        FormatError: a line of another form.
    """
    packages = []
    for number, line in enumerate(text.splitlines(), 1):
        values = [None if value == "(none)" else value for value in line.split("\t")]
        if len(values) != len(_FIELDS) or values[0] is None:
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
        packages.append(InstalledPackage(_with_url(locked, urls), payload))
    return tuple(sorted(packages, key=lambda package: package.locked.nevra))


def _with_url(package: LockedPackage, urls: Mapping[str, str]) -> LockedPackage:
    url = urls.get(package.nevra, "")
    return LockedPackage(**{**package.__dict__, "url": url})
