# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at the toolchain of a buildroot that only its own keeper can enter.

`toolchain_probe` looks at a root from outside. Here everything is asked of programs
that run inside: findutils, coreutils and the tools themselves. Few runs, since
entering may cost seconds. Decides nothing (see `toolchain`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.releases.installed import InstalledPackage
from sgx_enclaves.releases.process import Output
from sgx_enclaves.releases.tool_versions import PROBES, VersionProbe
from sgx_enclaves.releases.toolchain import FoundPackage, FoundTool, ToolchainRecord
from sgx_enclaves.releases.toolchain_probe import read_interpreter

_TIMEOUT = 30.0
_MAX_HEADER = 1 << 20
_MAX_PROGRAM = 64 << 20
_DIGEST_DIGITS = 64
_SOURCE = b"int main(void) { return 0; }\n"


class Inside(Protocol):
    """A buildroot that commands can be run in."""

    def run_all(self, commands: Sequence[Sequence[str]], timeout: float) -> Sequence[Output]:
        """Run commands one after the other; one output each.

        Args:
            commands: programs and their arguments.
            timeout: seconds for each.
        """

    def put(self, name: str, data: bytes) -> str:
        """Write a file into a folder of our own; returns its path as seen from inside."""

    def get(self, name: str, limit: int) -> bytes:
        """Read a file of that folder.

        Raises:
            SgxEnclavesError: it is not there, or is larger than `limit` bytes.
        """

    def packages(self) -> Iterable[InstalledPackage]:
        """The packages that are installed; none where there is no RPM."""


@dataclass(frozen=True)
class _Seen:
    """A file inside: where it really lies, and its SHA-256."""

    path: str
    sha256: str


def record_inside(names: Sequence[str], path: str, inside: Inside) -> ToolchainRecord:
    """Look at a buildroot's toolchain.

    Args:
        names: tools, as in the catalogue.
        path: folders to look in, as in PATH.
        inside: runs commands in there.

    Raises:
        InputError: RPM is there and fails.
    """
    places = {name: _places(PROBES[name], path) for name in names if name in PROBES}
    seen = _find(sorted({place for group in places.values() for place in group}), inside)
    first = {
        name: place
        for name, group in places.items()
        for place in [next((place for place in group if place in seen), None)]
        if place is not None
    }
    plain = ["env", "LC_ALL=C", "LANGUAGE=C", "TZ=UTC", f"PATH={path}"]
    asked = list(first)
    commands = [[*plain, *_question(PROBES[name], first[name])] for name in asked]
    source = inside.put("a.c", _SOURCE)
    program = f"{source.rpartition('/')[0]}/a.out"
    commands.append([*plain, "gcc", "-o", program, source])
    *answers, linked = inside.run_all(commands, _TIMEOUT)
    texts = {name: answer.text for name, answer in zip(asked, answers)}
    return ToolchainRecord(
        tuple(_tool(name, first, seen, texts) for name in names),
        _interpreter(inside) if linked.status == 0 else None,
        tuple(
            FoundPackage(item.locked.nevra, item.locked.sigmd5, item.payload_sha256)
            for item in inside.packages()
        ),
        platform.machine(),
    )


def _places(probe: VersionProbe, path: str) -> list[str]:
    if not probe.command:
        return [probe.header]
    return [f"{folder}/{probe.command[0]}" for folder in path.split(":") if folder]


def _question(probe: VersionProbe, place: str) -> list[str]:
    if probe.command:
        return [place, *probe.command[1:]]
    return ["head", "-c", str(_MAX_HEADER), "--", place]


def _find(places: Sequence[str], inside: Inside) -> dict[str, _Seen]:
    """Which of the places are files, where those really lie, and their digests."""
    if not places:
        return {}
    look = ["find", "-L", *places, "-maxdepth", "0", "-type", "f", "-printf", "%p\\0"]
    look += ["-exec", "realpath", "-z", "--", "{}", ";"]
    look += ["-exec", "sha256sum", "-z", "--", "{}", ";"]
    (output,) = inside.run_all([look], _TIMEOUT * 4)
    # a line about a place that is not there may stand before a field
    fields = [field.rpartition("\n")[2] for field in output.text.split("\0")]
    seen = {}
    for place, real, line in zip(fields[0::3], fields[1::3], fields[2::3]):
        digest = line.partition(" ")[0]
        if place in places and real.startswith("/") and len(digest) == _DIGEST_DIGITS:
            seen[place] = _Seen(real, digest)
    return seen


def _tool(
    name: str, first: Mapping[str, str], seen: Mapping[str, _Seen], texts: Mapping[str, str]
) -> FoundTool:
    if name not in first:
        return FoundTool(name, None, None, None)
    found = seen[first[name]]
    return FoundTool(name, PROBES[name].parse(texts[name]), found.path, found.sha256)


def _interpreter(inside: Inside) -> Optional[str]:
    """What was baked into the program of one line."""
    try:
        return read_interpreter(inside.get("a.out", _MAX_PROGRAM), "a.out")
    except SgxEnclavesError:
        return None
