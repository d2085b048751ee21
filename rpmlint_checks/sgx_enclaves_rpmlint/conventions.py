# SPDX-License-Identifier: GPL-2.0-or-later
"""Fedora's conventions for packages with enclaves: names, versions, links, Provides.

Breaking one is a warning: it makes an enclave hard to find, not wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sgx_enclaves.packages.check import EnclaveResult
from sgx_enclaves.packages.presence import ENCLAVE_FOLDER
from sgx_enclaves_rpmlint.boundary import Subject
from sgx_enclaves_rpmlint.findings import Report, report

_SIGNED = re.compile(r"(?P<base>libsgx_\w+\.signed\.so)(?:\.(?P<version>\d+(?:\.\d+)+))?\Z")
_UNSIGNED = re.compile(r"libsgx_\w+\.so\Z")


def check_conventions(subject: Subject, enclaves: Sequence[EnclaveResult]) -> Iterator[Report]:
    """The warnings about a binary package.

    Args:
        subject: the package.
        enclaves: those in it that could be read.
    """
    for enclave in enclaves:
        if enclave.signed:
            yield from _signed_name(enclave)
        else:
            yield from _unsigned_name(enclave)
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
    found = set(enclave.links)
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


def _provides(subject: Subject, enclave: EnclaveResult) -> Iterator[Report]:
    if enclave.name is None:
        return
    wanted = f"sgx-enclave({enclave.name}:{'signed' if enclave.signed else 'unsigned'})"
    versions = [version for name, version in subject.provides if name == wanted]
    if not versions:
        yield report("sgx-enclave-provides-unconventional", enclave.path, f"no Provides: {wanted}")
    elif not all(versions):
        yield report(
            "sgx-enclave-version-unconventional",
            enclave.path,
            f"Provides: {wanted} has no version",
        )
