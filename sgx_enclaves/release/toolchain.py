# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolchain that is in a place, compared with the designated one.

A tool counts as right when its own version output agrees; what cannot be seen is reported
as unseen, never taken for right. Everything is asked of programs that run in the place:
findutils, coreutils and the tools themselves (see `place.Place`).
"""

from __future__ import annotations

import enum
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from sgx_enclaves.catalogue.records import Toolchain
from sgx_enclaves.enclave.verdict import Finding, Severity
from sgx_enclaves.errors import BuildError, InputError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.plain import as_plain, record
from sgx_enclaves.release.place import STANDARD_PATH, LockedPackage, Place

_NUMBER = r"(\d+(?:\.\d+)+[a-z]?)"
_GMP = r"\s+".join(
    rf"#define __GNU_MP_VERSION{part}[ \t]+(\d{{1,9}})" for part in ("", "_MINOR", "_PATCHLEVEL")
)


def _gnu(command: str, name: str) -> tuple[str, str]:
    """NAME (PACKAGE) VERSION, the GNU standards' form; the brackets may hold a version too."""
    return f"{command} --version", rf"^{name} \([^)\n]*\) {_NUMBER}"


# How to learn a tool's version: a command whose output has it, or the path of a header below a
# prefix; and where it stands there, if in several parts, in their order.
PROBES: Mapping[str, tuple[str, str]] = {
    "autoconf": _gnu("autoconf", "autoconf"),
    "automake": _gnu("automake", "automake"),
    # Fedora leaves the brackets out
    "binutils": ("ld --version", rf"^GNU ld (?:\([^)\n]*\)|version) {_NUMBER}"),
    "bison": _gnu("bison", "bison"),
    "cmake": ("cmake --version", rf"^cmake version {_NUMBER}"),
    "file": ("file --version", rf"^file-{_NUMBER}"),
    "flex": ("flex --version", rf"^flex {_NUMBER}"),
    "gcc": _gnu("gcc", r"\S*gcc\S*"),
    "glibc": _gnu("ldd", "ldd"),
    "gmp-dev": ("include/gmp.h", rf"^{_GMP}\s*$"),
    "gnum4": _gnu("m4", "m4"),
    "gnumake": ("make --version", rf"^GNU Make {_NUMBER}"),
    "libtool": _gnu("libtool", "libtool"),
    "linux-headers": ("include/linux/version.h", r"^#define LINUX_VERSION_CODE (\d{1,9})$"),
    "nasm": ("nasm -v", rf"^NASM version {_NUMBER}"),
    "ocaml": ("ocaml -version", rf"version {_NUMBER}"),
    "ocamlbuild": ("ocamlbuild -version", rf"^ocamlbuild {_NUMBER}"),
    "openssl": ("openssl version", rf"^OpenSSL {_NUMBER}"),
    # one line before OpenSSL 3, a macro of its own since
    "openssl-dev": (
        "include/openssl/opensslv.h",
        rf'OPENSSL_VERSION_(?:TEXT\s+"OpenSSL |STR\s+"){_NUMBER}',
    ),
    "texinfo": _gnu("makeinfo", r"\S*(?:makeinfo|texi2any)"),
}
_MAX_HEADER, _MAX_OUTPUT = 1 << 20, 1 << 16


def version_in(tool: str, text: str) -> Optional[str]:
    """The tool's version, as its output or its header says it."""
    asked, pattern = PROBES[tool]
    match = re.search(pattern, text[: _MAX_HEADER if "/" in asked else _MAX_OUTPUT], re.MULTILINE)
    if match is None or tool != "linux-headers":
        return ".".join(match.groups()) if match is not None else None
    # one byte each, the last one dropped if 0
    code = int(match[1])
    return f"{code >> 16}.{code >> 8 & 0xFF}.{code & 0xFF}".removesuffix(".0")


def same_version(pinned: str, found: str) -> bool:
    """Whether a tool's own word agrees with the pin, but for a packager's suffix, as in 2.38-44."""
    return found == pinned or found == pinned.partition("-")[0]


class ToolchainKind(enum.Enum):
    """Which toolchain a tree is built with."""

    DESIGNATED = "designated"
    HOST = "host"


def search_path(toolchain: Toolchain, kind: ToolchainKind, tools: Sequence[str] = ()) -> str:
    """The PATH of every step, on which the toolchain is looked for as well; the caller's own never
    matters. With `HOST` the `bin` of the prefixes `tools` comes first.
    """
    first = [f"{prefix}/bin" for prefix in tools] if kind is ToolchainKind.HOST else []
    given = toolchain.environment.get("PATH")
    if given is not None:
        return ":".join([*first, given])
    if kind is ToolchainKind.DESIGNATED:
        places = [*(tool.path for tool in toolchain.tools), toolchain.prefix]
        first = [f"{place}/bin" for place in places if place is not None]
    return ":".join([*first, STANDARD_PATH])


# the program interpreter itself among the tools: there, and its digest
_LOADER = "interpreter"
# They leave their traces in an enclave; other tools may be others and the bytes the same.
_WRITERS = frozenset(("gcc", "binutils", "nasm", "interpreter"))


def digest_of(plain: Mapping[str, Any]) -> str:
    """SHA-256 over what JSON can write, in hexadecimal; the order of keys does not count."""
    return sha256_of(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


@record
class FoundTool:
    """One tool that was looked for: what it says of itself, and its file, links followed, as seen
    from inside the root; None where it does not, or is not there.
    """

    name: str
    version: Optional[str]
    path: Optional[str]
    sha256: Optional[str]


@record
class FoundPackage:
    """One RPM: its NEVRA, its SIGMD5 and the digest of its payload."""

    nevra: str
    sigmd5: str
    payload_sha256: Optional[str]


@record
class ToolchainRecord:
    """What was there: the tools that were asked for, the programs that gcc runs, and the
    interpreter; PT_INTERP of a program that this toolchain links, if it can; and the processor's
    architecture.
    """

    tools: tuple[FoundTool, ...]
    interpreter: Optional[str]
    packages: tuple[FoundPackage, ...]
    machine: str

    def as_dict(self) -> dict[str, Any]:
        """The record as a plain mapping for JSON."""
        return {"schema": 1, **as_plain(self)}

    def digest(self) -> str:
        """Of the record: two builds with the same one had the same toolchain."""
        return digest_of(self.as_dict())


class PartState(enum.Enum):
    """How one part of a toolchain stands."""

    MATCH = "match"
    # another version than designated, which is known to make no difference
    OTHER = "other"
    DIFFERS = "differs"
    MISSING = "missing"
    UNSEEN = "unseen"


@record
class Part:
    """One part of the comparison, named by the tool, `interpreter`, or a NEVRA."""

    name: str
    state: PartState
    expected: str
    found: str

    @property
    def words(self) -> str:
        """How it stands, if it is not as designated."""
        found = {PartState.MISSING: "is not here", PartState.UNSEEN: "could not be seen"}
        return f"{self.name} {self.expected}: {found.get(self.state, 'here ' + self.found)}"


GOOD_PARTS = frozenset((PartState.MATCH, PartState.OTHER))


def all_match(parts: Sequence[Part]) -> bool:
    """Whether there are parts, and each was seen and agrees, or makes no difference."""
    return bool(parts) and all(part.state in GOOD_PARTS for part in parts)


@record
class ToolchainUse:
    """A tree's toolchain: which kind was asked for, the designated one's name, what was there, and
    how each part of that stands to it.
    """

    kind: ToolchainKind
    name: str
    record: ToolchainRecord
    parts: tuple[Part, ...]

    @property
    def designated(self) -> bool:
        """Whether the designated one was asked for, and is here."""
        return self.kind is ToolchainKind.DESIGNATED and all_match(self.parts)

    @property
    def wrong(self) -> tuple[Part, ...]:
        """The parts that are not as good, or were not seen; first what writes an enclave."""
        wrong = (part for part in self.parts if part.state not in GOOD_PARTS)
        return tuple(sorted(wrong, key=lambda part: part.name not in _WRITERS))

    @property
    def findings(self) -> list[Finding]:
        """One for each part that is wrong; notes if any toolchain may be used."""
        designated = self.kind is ToolchainKind.DESIGNATED
        return [
            Finding(
                "toolchain-not-designated",
                Severity.UNVERIFIABLE if designated else Severity.NOTE,
                f"{part.name} is not as the designated toolchain ({self.name}) has it",
                expected=f"{part.name} {part.expected}",
                found={
                    PartState.MISSING: "nothing",
                    PartState.UNSEEN: f"nothing that could be compared {part.found}".strip(),
                }.get(part.state, f"{part.name} {part.found}"),
                hint="build in the designated buildroot; "
                "--toolchain=host builds here, for experiments",
            )
            for part in self.wrong
        ]


def check_toolchain(pinned: Toolchain, record: ToolchainRecord) -> tuple[Part, ...]:
    """Compare a record with the designated toolchain."""
    found = {tool.name: tool for tool in record.tools}
    parts = []
    for pin in pinned.tools:
        tool = found.get(pin.name)
        version = tool.version if tool is not None else None
        if version is None:
            gone = tool is not None and tool.path is None
            state = PartState.MISSING if gone else PartState.UNSEEN
        elif same_version(pin.version, version):
            state = PartState.MATCH
        else:
            state = PartState.DIFFERS if pin.exact else PartState.OTHER
        parts.append(Part(pin.name, state, pin.version, version or ""))
    state, here = PartState.MATCH, record.interpreter or ""
    if pinned.interpreter is None or record.interpreter is None:
        state = PartState.UNSEEN
    elif record.interpreter != pinned.interpreter:
        state = PartState.DIFFERS
    elif _LOADER not in found:
        # what is linked cannot run; some configure scripts run what they link
        state, here = PartState.MISSING, ""
    parts.append(Part("interpreter", state, pinned.interpreter or "unknown", here))
    return tuple(parts)


def check_lock(
    lock: Iterable[LockedPackage], installed: Iterable[LockedPackage]
) -> tuple[Part, ...]:
    """Compare what RPM says is installed with a pinned buildroot, by NEVRA and SIGMD5."""
    have = {package.nevra: package.sigmd5 for package in installed}
    want = {package.nevra: package.sigmd5 for package in lock}
    parts = []
    for name in sorted({*want, *have}):
        state = PartState.MATCH if want.get(name) == have.get(name) else PartState.DIFFERS
        if name not in have:
            state = PartState.MISSING
        parts.append(Part(name, state, want.get(name, ""), have.get(name, "")))
    return tuple(parts)


def require_lock(lock: Sequence[LockedPackage], place: Place) -> None:
    """Raise `BuildError` for a place whose packages are not those of the lock."""
    parts = check_lock(lock, place.packages())
    if not all_match(parts):
        wrong = [part.name for part in parts if part.state is not PartState.MATCH]
        raise BuildError(
            "the buildroot is not the pinned one",
            expected=f"the {len(lock)} packages of the release's lock",
            found=f"{len(wrong)} others or missing: {', '.join(wrong[:6])}",
            hint="build in a place whose packages are those of the lock",
        )


_TIMEOUT = 30.0
_DIGEST_DIGITS = 64
_NO_PROGRAM = 127
# what gcc runs: a changed compiler behind an unchanged driver is another toolchain
_BEHIND_GCC = ("cc1", "cc1plus", "as", "ld", "collect2")
# A linker's wrapper may add an interpreter on its own, so asking the compiler is not enough.
_LINK = """\
work=$(mktemp -d) && cd "$work" || exit 1
echo 'int main(void) { return 0; }' >a.c
env PATH="$1" gcc -o a.out a.c >/dev/null 2>&1 && env PATH="$1" readelf -lW a.out
./a.out && echo it runs
rm -rf "$work"
"""
_INTERPRETER = re.compile(r"^\s+\[Requesting program interpreter: (/[^\]\n]*)\]$", re.MULTILINE)


def look_at_toolchain(
    pinned: Toolchain, kind: ToolchainKind, place: Place, tools: Sequence[str] = ()
) -> ToolchainUse:
    """Look at a place's toolchain as a build will use it, and compare it; see `search_path`."""
    path = search_path(pinned, kind, tools)
    prefixes = [tool.path for tool in pinned.tools if tool.path is not None]
    record = look_at([tool.name for tool in pinned.tools], path, place, prefixes)
    return ToolchainUse(kind, pinned.name, record, check_toolchain(pinned, record))


def look_at(
    names: Sequence[str], path: str, place: Place, prefixes: Sequence[str] = ()
) -> ToolchainRecord:
    """Look at tools of a place, named as in the catalogue, in the directories of a PATH; at headers
    below the prefixes, then below /usr.

    An error where no program can be run there, or where RPM is there and fails.
    """
    folders = [folder for folder in path.split(":") if folder]
    probes = {name: PROBES[name][0].split() for name in names if name in PROBES}
    wanted = {
        name: [f"{place}/{what}" for place in ((*prefixes, "/usr") if "/" in what else folders)]
        for name, (what, *_arguments) in probes.items()
    }
    seen = _find(wanted, place)
    commands = {"": ["sh", "-c", _LINK, "sh", path]}
    for name, (there, _real, _sha256) in seen.items():
        what, *arguments = probes[name]
        read = ["head", "-c", str(_MAX_HEADER), "--", there]
        commands[name] = read if "/" in what else [f"PATH={path}", there, *arguments]
    behind = _BEHIND_GCC if "gcc" in seen else ()
    for name in behind:
        commands[f"-{name}"] = [f"PATH={path}", seen["gcc"][0], f"-print-prog-name={name}"]
    plain = ["env", "LC_ALL=C", "LANGUAGE=C", "TZ=UTC"]
    outputs = place.ask([[*plain, *command] for command in commands.values()], _TIMEOUT)
    texts = {name: output.text for name, output in zip(commands, outputs)}
    found = {n: FoundTool(n, version_in(n, texts[n]), *file[1:]) for n, file in seen.items()}
    tools = [found.get(name, FoundTool(name, None, None, None)) for name in names]
    # what gcc says it runs, a bare name being on the path, and what its programs begin with
    inner = {}
    for name in behind:
        said = texts[f"-{name}"].strip()
        inner[name] = [said] if said[:1] == "/" else [f"{folder}/{name}" for folder in folders]
    linked = _INTERPRETER.search(texts[""])
    interpreter = linked[1] if linked is not None else None
    inner[_LOADER] = [interpreter] if interpreter and texts[""].endswith("it runs\n") else []
    tools += [FoundTool(name, None, *file[1:]) for name, file in _find(inner, place).items()]
    packages = tuple(FoundPackage(p.nevra, p.sigmd5, p.payload_sha256) for p in place.packages())
    return ToolchainRecord(tuple(tools), interpreter, packages, platform.machine())


def _find(wanted: Mapping[str, Sequence[str]], place: Place) -> dict[str, tuple[str, str, str]]:
    """By name the first of its paths that is a file, where that really lies, and its SHA-256."""
    places = sorted({path for paths in wanted.values() for path in paths})
    if not places:
        return {}
    look = ["find", "-L", *places, "-maxdepth", "0", "-type", "f", "-printf", "%p\\0"]
    look += ["-exec", "realpath", "-z", "--", "{}", ";"]
    look += ["-exec", "sha256sum", "-z", "--", "{}", ";"]
    (output,) = place.ask([look], _TIMEOUT * 4)
    # a line about a path that is not there may stand before a field
    fields = [item.rpartition("\n")[2] for item in output.text.split("\0")]
    seen = {}
    for path, real, line in zip(fields[0::3], fields[1::3], fields[2::3]):
        digest = line.partition(" ")[0]
        if path in places and real.startswith("/") and len(digest) == _DIGEST_DIGITS:
            seen[path] = (path, real, digest)
    if not seen and output.status == _NO_PROGRAM:
        raise InputError(
            "no program can be run there", found=output.text.strip()[:200], hint="needed is find"
        )
    first = {name: next((p for p in paths if p in seen), "") for name, paths in wanted.items()}
    return {name: seen[path] for name, path in first.items() if path}
