# SPDX-License-Identifier: GPL-2.0-or-later
"""A good verification record as plain data, and how to spoil it at one place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Union

from sgx_enclaves.rpm.presence import ENCLAVE_FOLDER

RPM = "x-1-1.x86_64.rpm"
PATH = ENCLAVE_FOLDER + "libsgx_pce.signed.so.1.2.3.4"
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)

Place = Sequence[Union[str, int]]


def enclave(**changes: Any) -> dict[str, Any]:
    """One that is identical."""
    return {
        "name": "pce",
        "rpm": RPM,
        "path": PATH,
        "version": "1.2.3.4",
        "mrenclave": A,
        "mrsigner": B,
        "isvprodid": 1,
        "isvsvn": 2,
        "built_sha256": C,
        "signed_sha256": D,
        "verdict": "identical",
        **changes,
    }


def package(**changes: Any) -> dict[str, Any]:
    """A package that holds it."""
    return {"name": RPM, "file_sha256": A, "content_sha256": B, **changes}


def record(**changes: Any) -> dict[str, Any]:
    """A record that says identical."""
    return {
        "schema": 1,
        "release": "sgx-1",
        "origin": "catalogue",
        "release_sha256": A,
        "nvr": "x-1-1",
        "build_id": 7,
        "task_id": 8,
        "verdict": "identical",
        "reproducible": True,
        "rpms": [package()],
        "enclaves": [enclave()],
        "report_sha256": B,
        "toolchain_sha256": C,
        "plugin_version": "0.1",
        "verified_at": "2026-11-25T00:00:00Z",
        **changes,
    }


def changed(data: Any, place: Place, value: Any) -> Any:
    """A copy with another value at one place."""
    if not place:
        return value
    copy: Any = dict(data) if isinstance(data, Mapping) else list(data)
    copy[place[0]] = changed(copy[place[0]], place[1:], value) if place[1:] else value
    return copy


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()
