# SPDX-License-Identifier: GPL-2.0-or-later
"""Fedora's conventions for packages with enclaves: names, versions, links, Provides.

Breaking one is a warning: it makes an enclave hard to find, not wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Optional

from sgx_enclaves.rpm.check import EnclaveResult
from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER, pinned_name, version_of
from sgx_enclaves_rpmlint.findings import Report, report
from sgx_enclaves_rpmlint.packages import Subject

_SIGNED = re.compile(r"(?P<base>libsgx_\w+\.signed\.so)(?:\.(?P<version>\d+(?:\.\d+)+))?\Z")
_PACKAGE = re.compile(r"sgx-enclave-[a-z]+-(?P<name>\w+)-(?P<state>signed|unsigned)\Z")
_DEBUG_FILES = "/usr/lib/debug/"
_BUILD_IDS = "/usr/lib/.build-id/"
_UNSIGNED = re.compile(r"libsgx_\w+\.so\Z")


def check_conventions(subject: Subject, enclaves: Sequence[EnclaveResult]) -> Iterator[Report]:
    """The warnings about a binary package.

    Args:
        subject: the package.
        enclaves: those in it that could be read.
    """
    # What debuggers read has the section of the unsigned enclave that it was split from.
    enclaves = [e for e in enclaves if e.signed or not e.path.startswith(_DEBUG_FILES)]
    for enclave in enclaves:
        if enclave.signed:
            yield from _signed_name(enclave)
        else:
            yield from _unsigned_name(enclave)
        yield from _package_name(subject, enclave)
        yield from _provides(subject, enclave)
    if any(e.signed for e in enclaves):
        for enclave in enclaves:
            if not enclave.signed:
                yield report("sgx-enclave-unsigned-in-signed-package", enclave.path)


def _signed_name(enclave: EnclaveResult) -> Iterator[Report]:
    folder, _, base = enclave.path.rpartition("/")
    match = _SIGNED.match(base)
    if match is None or f"{folder}/" != ENCLAVE_FOLDER:
        yield report(
            "sgx-enclave-name-unconventional",
            enclave.path,
            f"expected {ENCLAVE_FOLDER}libsgx_FILE.signed.so.VERSION",
        )
        return
    version = match["version"]
    if version is None:
        yield report(
            "sgx-enclave-version-unconventional", enclave.path, "the file name has no version"
        )
        return
    start = f"{folder}/{match['base']}"
    expected = {start, f"{start}.{version.split('.')[0]}"}
    # rpmbuild makes links by build id for every ELF file that has one.
    found = {link for link in enclave.links if not link.startswith(_BUILD_IDS)}
    for link in sorted(expected - found):
        yield report("sgx-enclave-links-unconventional", enclave.path, f"no link {link}")
    for link in sorted(found - expected):
        yield report("sgx-enclave-links-unconventional", enclave.path, f"unexpected link {link}")


def _unsigned_name(enclave: EnclaveResult) -> Iterator[Report]:
    folder, _, base = enclave.path.rpartition("/")
    if _UNSIGNED.match(base) is None or f"{folder}/" != ENCLAVE_FOLDER:
        yield report(
            "sgx-enclave-name-unconventional",
            enclave.path,
            f"expected {ENCLAVE_FOLDER}libsgx_FILE.so",
        )


def _package_name(subject: Subject, enclave: EnclaveResult) -> Iterator[Report]:
    name = enclave.name
    if name is None:
        return
    expected = f"sgx-enclave-KIND-{name}-{_state(enclave)}"
    match = _PACKAGE.match(subject.name)
    if match is None or (match["name"], match["state"]) != (name, _state(enclave)):
        yield report(
            "sgx-enclave-name-unconventional",
            enclave.path,
            f"is in the package {subject.name}",
            f"expected {expected}",
        )


def _provides(subject: Subject, enclave: EnclaveResult) -> Iterator[Report]:
    name = enclave.name
    if name is None:
        return
    wanted = f"sgx-enclave({name}:{_state(enclave)})"
    start = f"{wanted[:-1]}:"
    plain = [version for provided, version in subject.provides if provided == wanted]
    if not plain:
        yield report("sgx-enclave-provides-unconventional", enclave.path, f"no Provides: {wanted}")
        return
    # One may well provide the release and the file's own version.
    kinds = [
        version
        for provided, version in subject.provides
        if provided.startswith(start) and version not in plain
    ]
    if kinds:
        yield report(
            "sgx-enclave-version-unconventional",
            enclave.path,
            f"Provides: {start}...) has another version than {wanted}",
            f"expected {', '.join(plain)}",
            f"found {', '.join(kinds)}",
        )
    yield from _provided_versions(enclave, wanted, plain)


def _provided_versions(
    enclave: EnclaveResult, wanted: str, versions: list[str]
) -> Iterator[Report]:
    """A release is 2.25 or 1.22, the file of it 1.25.100.1 or 1.22.100.1."""
    found = version_of(enclave.path)
    for version in versions:
        if not version:
            problem = "has no version"
        elif version == found:
            problem = f"has the version of the file, {version}, instead of the release's"
        elif _is_of_older_release(version, found if pinned_name(enclave.path) else None):
            problem = f"is of release {version}, older than the file, {found}"
        else:
            continue
        yield report(
            "sgx-enclave-version-unconventional", enclave.path, f"Provides: {wanted} {problem}"
        )


def _is_of_older_release(release: str, file: Optional[str]) -> bool:
    """Intel counts the second number of both up together; a release may carry older files."""
    numbers = [re.match(r"\d+\.(\d+)", text) for text in (release, file or "")]
    if numbers[0] is None or numbers[1] is None:
        return False
    return int(numbers[0][1]) < int(numbers[1][1])


def _state(enclave: EnclaveResult) -> str:
    return "signed" if enclave.signed else "unsigned"
