# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolchain that was there, held against the designated one.

Decides and touches nothing; `toolchain_probe` does the looking. A tool counts as
right when its own version output agrees; what cannot be seen is said to be
unseen, never taken for right.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Optional

from sgx_enclaves.releases.buildroot_lock import BuildrootLock, LockedPackage, compare_packages
from sgx_enclaves.releases.release import Toolchain
from sgx_enclaves.releases.tool_versions import same_version

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class FoundTool:
    """One tool that was looked for.

    Attributes:
        name: as in the catalogue.
        version: what it says of itself; None if it is not there or says nothing.
        path: where it lies, links followed, as seen from inside the root; None if not there.
        sha256: digest of that file; None if not there.
    """

    name: str
    version: Optional[str]
    path: Optional[str]
    sha256: Optional[str]


@dataclass(frozen=True)
class FoundPackage:
    """One RPM: its NEVRA, its SIGMD5 and the digest of its payload."""

    nevra: str
    sigmd5: str
    payload_sha256: Optional[str]


@dataclass(frozen=True)
class ToolchainRecord:
    """What was there: kept beside a build, so that it can be told later.

    Attributes:
        tools: those that were asked for.
        interpreter: PT_INTERP of a program that this toolchain links; None if it cannot.
        packages: RPMs of the root; empty where there is no RPM.
        machine: the processor's architecture.
    """

    tools: tuple[FoundTool, ...]
    interpreter: Optional[str]
    packages: tuple[FoundPackage, ...]
    machine: str

    def as_dict(self) -> dict[str, Any]:
        """The record as a plain mapping for JSON."""
        return {"schema": RECORD_SCHEMA, **asdict(self)}

    def digest(self) -> str:
        """SHA-256 over the record: two builds with the same one had the same toolchain."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class State(enum.Enum):
    """How one part of a toolchain stands."""

    MATCH = "match"
    DIFFERS = "differs"
    MISSING = "missing"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Part:
    """One part of the comparison.

    Attributes:
        name: the tool, `interpreter`, or a NEVRA.
        state: see `State`.
        expected: what is designated.
        found: what is there; empty if nothing.
    """

    name: str
    state: State
    expected: str
    found: str


@dataclass(frozen=True)
class ToolchainCheck:
    """The comparison of a record with a designated toolchain; one part each."""

    toolchain: str
    parts: tuple[Part, ...]

    @property
    def matches(self) -> bool:
        """Whether every part was seen and agrees."""
        return bool(self.parts) and all(part.state is State.MATCH for part in self.parts)


def check_toolchain(pinned: Toolchain, record: ToolchainRecord) -> ToolchainCheck:
    """Hold a record against the designated toolchain."""
    found = {tool.name: tool for tool in record.tools}
    parts = []
    for pin in pinned.tools:
        tool = found.get(pin.name)
        if tool is None or (tool.path is not None and tool.version is None):
            parts.append(Part(pin.name, State.UNSEEN, pin.version, ""))
        elif tool.version is None:
            parts.append(Part(pin.name, State.MISSING, pin.version, ""))
        else:
            same = same_version(pin.version, tool.version)
            state = State.MATCH if same else State.DIFFERS
            parts.append(Part(pin.name, state, pin.version, tool.version))
    if pinned.interpreter is None:
        parts.append(Part("interpreter", State.UNSEEN, "unknown", record.interpreter or ""))
    elif record.interpreter is None:
        parts.append(Part("interpreter", State.UNSEEN, pinned.interpreter, ""))
    else:
        same = record.interpreter == pinned.interpreter
        state = State.MATCH if same else State.DIFFERS
        parts.append(Part("interpreter", state, pinned.interpreter, record.interpreter))
    return ToolchainCheck(pinned.name, tuple(parts))


def check_lock(lock: BuildrootLock, installed: Iterable[LockedPackage]) -> ToolchainCheck:
    """Hold what RPM says is installed against a pinned buildroot."""
    have = {package.nevra: package for package in installed}
    want = {package.nevra: package for package in lock.packages}
    difference = compare_packages(want.values(), have.values())
    bad = {*difference.missing, *difference.rebuilt}
    parts = [Part(name, State.MATCH, want[name].sigmd5, want[name].sigmd5) for name in want]
    parts = [part for part in parts if part.name not in bad]
    parts += [Part(name, State.MISSING, want[name].sigmd5, "") for name in difference.missing]
    parts += [
        Part(name, State.DIFFERS, want[name].sigmd5, have[name].sigmd5)
        for name in difference.rebuilt
    ]
    parts += [Part(name, State.DIFFERS, "", have[name].sigmd5) for name in difference.extra]
    return ToolchainCheck("buildroot lock", tuple(sorted(parts, key=lambda part: part.name)))
