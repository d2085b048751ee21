# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolchain that is in a place, compared with the designated one.

A tool counts as right when its own version output agrees; what cannot be seen is reported
as unseen, never taken for right. Everything is asked of programs that run in the place:
findutils, coreutils and the tools themselves (see `place.Place`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from sgx_enclaves.catalogue.records import Toolchain
from sgx_enclaves.errors import InputError
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.installed import BuildrootLock, LockedPackage, compare_packages
from sgx_enclaves.release.place import STANDARD_PATH, Place

_NUMBER = r"(\d+(?:\.\d+)+[a-z]?)"


def _first_match(pattern: str) -> Callable[[str], Optional[str]]:
    compiled = re.compile(pattern, re.MULTILINE)

    def parse(text: str) -> Optional[str]:
        match = compiled.search(text[:65536])
        return match[1] if match else None

    return parse


# NAME (PACKAGE) VERSION, the GNU standards' form; a distribution may put its own
# version between the brackets
def _gnu(name: str) -> Callable[[str], Optional[str]]:
    return _first_match(rf"^{name} \([^)\n]*\) {_NUMBER}")


def _kernel_version(text: str) -> Optional[str]:
    """From LINUX_VERSION_CODE of `linux/version.h`: one byte each, the last one dropped if 0."""
    match = re.search(r"^#define LINUX_VERSION_CODE (\d{1,9})$", text, re.MULTILINE)
    if match is None:
        return None
    code = int(match[1])
    parts = [code >> 16, code >> 8 & 0xFF, code & 0xFF]
    return ".".join(str(part) for part in (parts if parts[2] else parts[:2]))


def _gmp_version(text: str) -> Optional[str]:
    """From the three macros of `gmp.h`."""
    parts = []
    for suffix in ("", "_MINOR", "_PATCHLEVEL"):
        pattern = rf"^#define __GNU_MP_VERSION{suffix}[ \t]+(\d{{1,9}})\s*$"
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            return None
        parts.append(match[1])
    return ".".join(parts)


@dataclass(frozen=True)
class VersionProbe:
    """How to learn one tool's version.

    Attributes:
        command: what to run, or nothing if `header` is given.
        header: a file to read, absolute within the root.
        parse: text to version, or None if it is not in there.
    """

    command: tuple[str, ...]
    header: str
    parse: Callable[[str], Optional[str]]


def _program(*command: str, parse: Callable[[str], Optional[str]]) -> VersionProbe:
    return VersionProbe(command, "", parse)


PROBES: Mapping[str, VersionProbe] = {
    "autoconf": _program("autoconf", "--version", parse=_gnu("autoconf")),
    "automake": _program("automake", "--version", parse=_gnu("automake")),
    "binutils": _program(
        # Fedora leaves the brackets out
        "ld",
        "--version",
        parse=_first_match(rf"^GNU ld (?:\([^)\n]*\)|version) {_NUMBER}"),
    ),
    "bison": _program("bison", "--version", parse=_gnu("bison")),
    "cmake": _program("cmake", "--version", parse=_first_match(rf"^cmake version {_NUMBER}")),
    "file": _program("file", "--version", parse=_first_match(rf"^file-{_NUMBER}")),
    "flex": _program("flex", "--version", parse=_first_match(rf"^flex {_NUMBER}")),
    "gcc": _program("gcc", "--version", parse=_gnu(r"\S*gcc\S*")),
    "glibc": _program("ldd", "--version", parse=_gnu("ldd")),
    "gmp-dev": VersionProbe((), "/usr/include/gmp.h", _gmp_version),
    "gnum4": _program("m4", "--version", parse=_gnu("m4")),
    "gnumake": _program("make", "--version", parse=_first_match(rf"^GNU Make {_NUMBER}")),
    "libtool": _program("libtool", "--version", parse=_gnu("libtool")),
    "linux-headers": VersionProbe((), "/usr/include/linux/version.h", _kernel_version),
    "nasm": _program("nasm", "-v", parse=_first_match(rf"^NASM version {_NUMBER}")),
    "ocaml": _program("ocaml", "-version", parse=_first_match(rf"version {_NUMBER}")),
    "ocamlbuild": _program("ocamlbuild", "-version", parse=_first_match(rf"^ocamlbuild {_NUMBER}")),
    "openssl": _program("openssl", "version", parse=_first_match(rf"^OpenSSL {_NUMBER}")),
    "openssl-dev": VersionProbe(
        (),
        "/usr/include/openssl/opensslv.h",
        # one line before OpenSSL 3, a macro of its own since
        _first_match(rf'OPENSSL_VERSION_(?:TEXT\s+"OpenSSL |STR\s+"){_NUMBER}'),
    ),
    "texinfo": _program("makeinfo", "--version", parse=_gnu(r"\S*(?:makeinfo|texi2any)")),
}


def same_version(pinned: str, found: str) -> bool:
    """Whether a tool's own word agrees with the pin.

    A packager's suffix (`2.38-44` for glibc 2.38) is nothing that the tool knows.
    """
    return found == pinned or found == pinned.partition("-")[0]


class ToolchainKind(enum.Enum):
    """Which toolchain a tree is built with."""

    DESIGNATED = "designated"
    HOST = "host"


def search_path(toolchain: Toolchain, kind: ToolchainKind, tools: Sequence[str] = ()) -> str:
    """The PATH of every step, on which the toolchain is looked for as well.

    The caller's own PATH never matters: it is part of no release.

    Args:
        toolchain: the designated one.
        kind: what the build is asked for.
        tools: prefixes whose `bin` comes first in a build with `HOST`.
    """
    first = [f"{prefix}/bin" for prefix in tools] if kind is ToolchainKind.HOST else []
    given = toolchain.environment.get("PATH")
    if given is not None:
        return ":".join([*first, given])
    if kind is ToolchainKind.DESIGNATED:
        first = [f"{tool.path}/bin" for tool in toolchain.tools if tool.path is not None]
    return ":".join([*first, STANDARD_PATH])


RECORD_SCHEMA = 1
# the program interpreter itself among the tools: there, and its digest
_LOADER = "interpreter"
# They leave their traces in an enclave; other tools may be others and the bytes the same.
_WRITERS = frozenset(("gcc", "binutils", "nasm", "interpreter"))


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
    """What was there: kept beside a build, so that it can be compared later.

    Attributes:
        tools: those that were asked for, the programs that gcc runs, and the interpreter.
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
        return {"schema": RECORD_SCHEMA, **as_plain(self)}

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


def all_match(parts: Sequence[Part]) -> bool:
    """Whether there are parts, and each was seen and agrees."""
    return bool(parts) and all(part.state is State.MATCH for part in parts)


@dataclass(frozen=True)
class ToolchainUse:
    """The toolchain of a tree.

    Attributes:
        kind: what the build was asked for.
        name: the designated toolchain, in words.
        record: what was there.
        parts: how it stands to the designated one.
    """

    kind: ToolchainKind
    name: str
    record: ToolchainRecord
    parts: tuple[Part, ...]

    @property
    def matches(self) -> bool:
        """Whether every part was seen and agrees with the designated one."""
        return all_match(self.parts)

    @property
    def wrong(self) -> tuple[Part, ...]:
        """The parts that are not as designated, or were not seen; first what writes an enclave."""
        wrong = (part for part in self.parts if part.state is not State.MATCH)
        return tuple(sorted(wrong, key=lambda part: part.name not in _WRITERS))


def check_toolchain(pinned: Toolchain, record: ToolchainRecord) -> tuple[Part, ...]:
    """Compare a record with the designated toolchain."""
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
    elif record.interpreter != pinned.interpreter:
        part = Part("interpreter", State.DIFFERS, pinned.interpreter, record.interpreter)
        parts.append(part)
    elif _LOADER not in found:
        # what is linked cannot run; some configure scripts run what they link
        parts.append(Part("interpreter", State.MISSING, pinned.interpreter, ""))
    else:
        parts.append(Part("interpreter", State.MATCH, pinned.interpreter, record.interpreter))
    return tuple(parts)


def check_lock(lock: BuildrootLock, installed: Iterable[LockedPackage]) -> tuple[Part, ...]:
    """Compare what RPM says is installed with a pinned buildroot."""
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
    return tuple(sorted(parts, key=lambda part: part.name))


_TIMEOUT = 30.0
_MAX_HEADER = 1 << 20
_DIGEST_DIGITS = 64
_NO_PROGRAM = 127
# what gcc runs: a changed compiler behind an unchanged driver is another toolchain
_BEHIND_GCC = ("cc1", "cc1plus", "as", "ld", "collect2")
# A linker's wrapper may add an interpreter on its own, so asking the compiler is not enough.
_LINK = """\
work=$(mktemp -d) && cd "$work" || exit 1
echo 'int main(void) { return 0; }' >a.c
env PATH="$1" gcc -o a.out a.c >/dev/null 2>&1 && env PATH="$1" readelf -lW a.out
status=$?
rm -rf "$work"
exit $status
"""
_INTERPRETER = _first_match(r"^\s+\[Requesting program interpreter: (/[^\]\n]*)\]$")


@dataclass(frozen=True)
class _Seen:
    """A file in the place: where it really lies, and its SHA-256."""

    path: str
    sha256: str


def look_at_toolchain(
    pinned: Toolchain, kind: ToolchainKind, place: Place, tools: Sequence[str] = ()
) -> ToolchainUse:
    """Look at a place's toolchain as a build will use it, and compare it; see `search_path`.

    Raises:
        SgxEnclavesError: no program can be run there, or RPM is there and fails.
    """
    path = search_path(pinned, kind, tools)
    record = look_at([tool.name for tool in pinned.tools], path, place)
    return ToolchainUse(kind, pinned.name, record, check_toolchain(pinned, record))


def look_at(names: Sequence[str], path: str, place: Place) -> ToolchainRecord:
    """Look at the toolchain of a place.

    Args:
        names: tools, as in the catalogue.
        path: directories to look in, as in PATH.
        place: where.

    Raises:
        SgxEnclavesError: no program can be run there, or RPM is there and fails.
    """
    probes = {name: PROBES[name] for name in names if name in PROBES}
    places = {name: _places(probe, path) for name, probe in probes.items()}
    seen = _find([item for group in places.values() for item in group], place)
    first = {
        name: next((item for item in group if item in seen), "") for name, group in places.items()
    }
    plain = ["env", "LC_ALL=C", "LANGUAGE=C", "TZ=UTC"]
    there = [name for name in probes if first[name]]
    commands = [[*plain, f"PATH={path}", *_question(probes[n], first[n])] for n in there]
    commands.append([*plain, "sh", "-c", _LINK, "sh", path])
    behind = [*plain, f"PATH={path}", first.get("gcc", "")]
    if "gcc" in there:
        commands += [[*behind, f"-print-prog-name={name}"] for name in _BEHIND_GCC]
    answers = [output.text for output in place.ask(commands, _TIMEOUT)]
    texts = dict(zip(there, answers))
    tools = [
        FoundTool(name, probes[name].parse(texts[name]), *_of(seen[first[name]]))
        if name in there
        else FoundTool(name, None, None, None)
        for name in names
    ]
    interpreter = _INTERPRETER(answers[len(there)])
    behind_gcc = dict(zip(_BEHIND_GCC, answers[len(there) + 1 :]))
    tools += _behind({**behind_gcc, _LOADER: interpreter or ""}, path, place)
    packages = (
        FoundPackage(item.locked.nevra, item.locked.sigmd5, item.payload_sha256)
        for item in place.packages()
    )
    return ToolchainRecord(tuple(tools), interpreter, tuple(packages), platform.machine())


def _of(seen: _Seen) -> tuple[str, str]:
    return seen.path, seen.sha256


def _behind(answers: Mapping[str, str], path: str, place: Place) -> list[FoundTool]:
    """What gcc says it runs, and what its programs begin with; a bare name is on the path."""
    named = {name: text.strip() for name, text in answers.items()}
    places = {
        name: [said] if said.startswith("/") else [f"{folder}/{name}" for folder in path.split(":")]
        for name, said in named.items()
    }
    seen = _find([item for group in places.values() for item in group], place)
    found = {
        name: next((seen[item] for item in group if item in seen), None)
        for name, group in places.items()
    }
    return [FoundTool(name, None, *_of(file)) for name, file in found.items() if file is not None]


def _places(probe: VersionProbe, path: str) -> list[str]:
    if not probe.command:
        return [probe.header]
    return [f"{folder}/{probe.command[0]}" for folder in path.split(":") if folder]


def _question(probe: VersionProbe, place: str) -> list[str]:
    if probe.command:
        return [place, *probe.command[1:]]
    return ["head", "-c", str(_MAX_HEADER), "--", place]


def _find(places: Sequence[str], place: Place) -> dict[str, _Seen]:
    """Which of the paths are files, where those really lie, and their digests."""
    if not places:
        return {}
    look = ["find", "-L", *sorted(set(places)), "-maxdepth", "0", "-type", "f", "-printf", "%p\\0"]
    look += ["-exec", "realpath", "-z", "--", "{}", ";"]
    look += ["-exec", "sha256sum", "-z", "--", "{}", ";"]
    (output,) = place.ask([look], _TIMEOUT * 4)
    # a line about a path that is not there may stand before a field
    fields = [item.rpartition("\n")[2] for item in output.text.split("\0")]
    seen = {}
    for item, real, line in zip(fields[0::3], fields[1::3], fields[2::3]):
        digest = line.partition(" ")[0]
        if item in places and real.startswith("/") and len(digest) == _DIGEST_DIGITS:
            seen[item] = _Seen(real, digest)
    if not seen and output.status == _NO_PROGRAM:
        raise InputError(
            "no program can be run there", found=output.text.strip()[:200], hint="needed is find"
        )
    return seen
