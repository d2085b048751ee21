# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a package contain enclaves, as far as its Provides and its file names say?

Takes lists of texts from a header, repodata or a database, and is light to import. Names may lie:
an enclave under another one is found only by reading the payload, see `enclaves.py`. Evidence is:

- a Provides `sgx-enclave(NAME:signed…)` or `sgx-enclave(NAME:unsigned…)`;
- a shared object in the enclave folder, Fedora's %{sgx_libdir};
- a file `*.signed.so*` anywhere;
- a file with the name of one of Intel's enclaves anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from posixpath import basename
from typing import NamedTuple, Optional

# Fedora's %{sgx_prefix} and %{sgx_libdir}.
ENCLAVE_FOLDER = "/usr/x86_64-intel-sgx/lib64/"
# The enclave folder and the one above it.
ENCLAVE_FOLDERS = (ENCLAVE_FOLDER[:-1], ENCLAVE_FOLDER[:-1].rpartition("/")[0])
PROVIDE_PREFIX = "sgx-enclave("
SIGNED_SUFFIX = ".signed.so"
# Every evidence holds one of these, and so does a header that holds the evidence.
HINTS = ("sgx", SIGNED_SUFFIX)

_OWN = re.compile(r"libsgx_(?P<name>\w+)\Z")
_SHARED_OBJECT = re.compile(r"(?P<stem>.+?)(?:\.signed)?\.so(?:\.[0-9.]+)?\Z")
_VERSION = re.compile(r"\.so\.(?P<version>[0-9.]+)\Z")
_PROVIDE = re.compile(r"sgx-enclave\((?P<name>[^:()]+)(?::(?P<state>signed|unsigned)(?=[:)]))?")


class Evidence(NamedTuple):
    """One reason to believe that a package has an enclave, and its name there (`ide`) if known.

    It claims to be signed, unless it says otherwise: Provides that say nothing ask for trust, too.
    """

    text: str
    name: Optional[str]
    signed: bool


def evidence(provides: Iterable[str], files: Iterable[str]) -> Iterator[Evidence]:
    """Every reason to believe that a package contains enclaves; none for most packages."""
    for provide in provides:
        if provide.startswith(PROVIDE_PREFIX):
            match = _PROVIDE.match(provide)
            name, state = (match["name"], match["state"]) if match else (None, None)
            yield Evidence(provide, name, state != "unsigned")
    for path in files:
        # Most paths are done with here.
        if ".so" in path:
            name, signed = pinned_name(path), SIGNED_SUFFIX in basename(path)
            if signed or name is not None or is_in_enclave_folder(path):
                yield Evidence(path, name, signed)


def is_suspect(provides: Iterable[str], files: Iterable[str]) -> bool:
    """Whether the payload must be read: it claims an enclave, or has a file where they stand."""
    paths = tuple(files)
    # A link in the place of the enclave folder leads who knows where.
    return any(evidence(provides, paths)) or any(
        path.startswith(ENCLAVE_FOLDER) or path in ENCLAVE_FOLDERS for path in paths
    )


def is_hinted(data: bytes) -> bool:
    """Whether a header or a list may hold evidence at all; much cheaper than to read it."""
    # Four times as fast as `in`.
    return any(re.search(re.escape(hint.encode()), data) for hint in HINTS)


def contains_signed_enclaves(provides: Iterable[str], files: Iterable[str]) -> bool:
    """Whether a package claims to contain a signed enclave; see `evidence`."""
    return any(found.signed for found in evidence(provides, files))


def is_in_enclave_folder(path: str) -> bool:
    """Whether it is a shared object in the enclave folder, by its name."""
    return path.startswith(ENCLAVE_FOLDER) and _SHARED_OBJECT.match(path) is not None


def stem_of(path: str) -> str:
    """`libsgx_pce` for `libsgx_pce.so` and `libsgx_pce.signed.so.1.25.100.1`."""
    match = _SHARED_OBJECT.match(basename(path))
    return match["stem"] if match else basename(path)


def version_of(path: str) -> Optional[str]:
    """The version in an enclave's file name, for example `1.25.100.1`."""
    match = _VERSION.search(path)
    return match["version"] if match else None


def enclave_name(path: str) -> Optional[str]:
    """What packages call an enclave, by the name of its file; None if it is not called so.

    `ide` for `libsgx_id_enclave.so`, as the catalogue has it; `own` for `libsgx_own.so`.
    """
    own = _OWN.match(stem_of(path))
    return pinned_name(path) or (own["name"] if own else None)


def pinned_name(path: str) -> Optional[str]:
    """The name of an enclave of the catalogue; None for every other file."""
    # Of most packages no file gets here, and a policy takes as long to import as all the rest.
    from sgx_enclaves.enclave.policy import pin_for_file  # noqa: PLC0415

    pin = pin_for_file(path)
    return pin.enclave if pin else None
