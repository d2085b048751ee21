# SPDX-License-Identifier: GPL-2.0-or-later
"""The toolchain that was there, held against the designated one.

Decides and touches nothing; `toolchain_probe` does the looking. A tool counts as
right when its own version output agrees; what cannot be seen is said to be
unseen, never taken for right.

How each tool of a toolchain tells its version.

Pure data and parsing. Most tools print it; headers carry theirs in a macro. The
names are those of the designated toolchain in the catalogue.

What RPM says is installed, on this machine or in a buildroot.

A pinned buildroot in the format of mock's `buildroot_lock` plugin.

Source: `buildroot-lock-schema-1.1.0.json` of rpm-software-management/mock. Mock
reads every 1.Y.Z and so does this; 1.1.0 is written. Data only, no RPM needed.

Look at the toolchain of this machine or of a buildroot: tools, packages, baked-in path.

Runs the tools and reads files; decides nothing (see `toolchain`). A buildroot's
own tools are run inside of it, and its links are followed as it sees them.

Look at the toolchain of a buildroot that only its own keeper can enter.

`toolchain_probe` looks at a root from outside. Here everything is asked of programs
that run inside: findutils, coreutils and the tools themselves. Few runs, since
entering may cost seconds. Decides nothing (see `toolchain`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import platform
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

from sgx_enclaves.errors import FormatError, InputError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.files import digest_file
from sgx_enclaves.release.catalogue import Toolchain
from sgx_enclaves.release.sandbox import Output, Runner, in_root, run_tool

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
_INSTALLED_TIMEOUT = 120.0
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
    output = run(command, _INSTALLED_TIMEOUT)
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


WRITTEN_VERSION = "1.1.0"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_MAX_BYTES = 64 << 20
_MAX_PACKAGES = 100_000
_OPTIONAL = ("epoch", "signature")
_BOOTSTRAP = ("architecture", "id", "image_digest", "pull_digest")


@dataclass(frozen=True, order=True)
class LockedPackage:
    """One package of a buildroot; the names are those of the format.

    Attributes:
        name: package name.
        arch: architecture, `noarch` included.
        version: upstream's version.
        release: the distribution's release.
        epoch: as text, or None.
        sigmd5: MD5 of header and payload, from the header; it tells builds apart,
            it does not authenticate them.
        signature: last eight digits of the signing key's id, or None.
        license: the distribution's licence tag.
        url: where the package was got; may be empty when nobody knows any more.
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
    """A lock file.

    Attributes:
        packages: sorted.
        config: mock's own options, kept as they are.
        bootstrap: the container image that the buildroot was made with; empty if none.
    """

    packages: tuple[LockedPackage, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    bootstrap: Mapping[str, str] = field(default_factory=dict)


def parse_lock(data: bytes, file: str) -> BuildrootLock:
    """Read a lock file.

    Args:
        data: its content.
        file: its name, for messages.

    Raises:
        FormatError: not JSON, or not of this form; the message names the place.
        UnsupportedError: another major version.
    """
    if len(data) > _MAX_BYTES:
        raise FormatError("too large for a buildroot lock", file=file)
    try:
        top = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", file=file) from None
    _mapping(top, "the file", file)
    version = top.get("version")
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise FormatError("version is no version", file=file, found=repr(version))
    if match[1] != "1":
        raise UnsupportedError(
            "a buildroot lock of another major version",
            file=file,
            expected="1.Y.Z",
            found=str(version),
        )
    # a newer minor version may have keys that we do not know
    strict = int(match[2]) <= 1
    buildroot = _mapping(top.get("buildroot"), "buildroot", file)
    rpms = buildroot.get("rpms")
    if not isinstance(rpms, list) or len(rpms) > _MAX_PACKAGES:
        raise FormatError("buildroot.rpms must be a list of packages", file=file)
    bootstrap = _mapping(top.get("bootstrap", {}), "bootstrap", file)
    for key, value in bootstrap.items():
        if not isinstance(value, str) or (strict and key not in _BOOTSTRAP):
            raise FormatError(f"bootstrap.{key} is not of the format", file=file)
    if strict:
        _known(top, ("version", "buildroot", "bootstrap", "config"), "the file", file)
        _known(buildroot, ("rpms",), "buildroot", file)
    packages = [_package(item, number, file, strict) for number, item in enumerate(rpms)]
    seen: set[str] = set()
    for package in packages:
        if package.nevra in seen:
            raise FormatError(f"buildroot.rpms has {package.nevra} twice", file=file)
        seen.add(package.nevra)
    config = _mapping(top.get("config"), "config", file)
    return BuildrootLock(tuple(sorted(packages, key=_order)), dict(config), dict(bootstrap))


def _order(package: LockedPackage) -> tuple[str, ...]:
    return (package.name, package.arch, package.version, package.release, package.epoch or "")


def _mapping(value: Any, what: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be an object", file=file, found=repr(value)[:100])
    return value


def _known(value: Mapping[str, Any], keys: Iterable[str], what: str, file: str) -> None:
    for key in value.keys() - set(keys):
        raise FormatError(f"{what} has the unknown key {key!r}", file=file)


def _package(item: Any, number: int, file: str, strict: bool) -> LockedPackage:
    what = f"buildroot.rpms[{number}]"
    values = _mapping(item, what, file)
    fields = LockedPackage.__dataclass_fields__
    taken: dict[str, Any] = {}
    for key in fields:
        if key not in values:
            raise FormatError(f"{what}.{key} is missing", file=file)
        value = values[key]
        if not isinstance(value, str) and not (value is None and key in _OPTIONAL):
            raise FormatError(f"{what}.{key} must be text", file=file, found=repr(value)[:100])
        taken[key] = value
    if strict:
        _known(values, fields, what, file)
    return LockedPackage(**taken)


def dump_lock(lock: BuildrootLock) -> str:
    """The lock as mock writes it: sorted keys, four blanks, a newline at the end."""
    data: dict[str, Any] = {
        "version": WRITTEN_VERSION,
        "buildroot": {"rpms": [asdict(package) for package in sorted(lock.packages, key=_order)]},
        "config": dict(lock.config),
    }
    if lock.bootstrap:
        data["bootstrap"] = dict(lock.bootstrap)
    return json.dumps(data, indent=4, sort_keys=True) + "\n"


@dataclass(frozen=True)
class LockDifference:
    """How a buildroot differs from its lock.

    Attributes:
        missing: pinned, not there; NEVRAs.
        extra: there, not pinned; NEVRAs.
        rebuilt: the same NEVRA with another SIGMD5, which is another build.
        resigned: the same build with another signing key.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    rebuilt: tuple[str, ...]
    resigned: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every package is the pinned build; a new signature changes no byte of it."""
        return not (self.missing or self.extra or self.rebuilt)


def compare_packages(
    pinned: Iterable[LockedPackage], installed: Iterable[LockedPackage]
) -> LockDifference:
    """Hold what is installed against what is pinned."""
    want = {package.nevra: package for package in pinned}
    have = {package.nevra: package for package in installed}
    both = sorted(want.keys() & have.keys())
    return LockDifference(
        missing=tuple(sorted(want.keys() - have.keys())),
        extra=tuple(sorted(have.keys() - want.keys())),
        rebuilt=tuple(name for name in both if want[name].sigmd5 != have[name].sigmd5),
        resigned=tuple(
            name
            for name in both
            if want[name].sigmd5 == have[name].sigmd5
            and want[name].signature != have[name].signature
        ),
    )


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


_TOOLCHAIN_PROBE_TIMEOUT = 30.0
_TOOLCHAIN_PROBE_MAX_HEADER = 1 << 20
_TOOLCHAIN_PROBE_MAX_PROGRAM = 64 << 20
_LINKS = 40
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_SCRATCH = "/tmp"  # noqa: S108 - inside the buildroot, where a folder of our own is made


def record_toolchain(
    names: Sequence[str],
    root: Optional[str] = None,
    run: Runner = run_tool,
    path: Optional[str] = None,
) -> ToolchainRecord:
    """Look at the toolchain of this machine or of a buildroot.

    Args:
        names: tools, as in the catalogue.
        root: a buildroot; None for this machine.
        run: for tests.
        path: folders to look in, as in PATH; by default the environment's on this
            machine and the usual ones in a buildroot.

    Raises:
        InputError: the root is no folder, or RPM is there and fails.
    """
    if root is not None and not Path(root).is_dir():
        raise InputError("there is no such buildroot", file=root)
    if path is None:
        path = os.environ.get("PATH", "") if root is None else ":".join(_FOLDERS)
    tools = tuple(_toolchain_probe_find(name, root, run, path) for name in names)
    packages: tuple[FoundPackage, ...] = ()
    # a machine with rpm but without its database is no RPM machine
    if rpm_is_there() and _has_rpm_database(root):
        packages = tuple(
            FoundPackage(item.locked.nevra, item.locked.sigmd5, item.payload_sha256)
            for item in installed_packages(root, run)
        )
    return ToolchainRecord(
        tools, _linked_interpreter(root, run, path), packages, platform.machine()
    )


def _has_rpm_database(root: Optional[str]) -> bool:
    return any(
        any(Path(f"{root or ''}{folder}").glob("*.sqlite"))
        or Path(f"{root or ''}{folder}/Packages").exists()
        for folder in ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
    )


def resolve_in_root(root: Optional[str], path: str) -> Optional[str]:
    """Follow symbolic links as a process inside the root would; None if it leads nowhere."""
    pending = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            del done[len(done) - (part == "..") :]
            continue
        here = f"{root or ''}/{'/'.join([*done, part])}"
        try:
            target = os.readlink(here)
        except OSError:
            if not os.path.lexists(here):
                return None
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        if target.startswith("/"):
            done = []
        pending = [piece for piece in target.split("/") if piece] + pending
    return "/" + "/".join(done)


def _toolchain_probe_find(name: str, root: Optional[str], run: Runner, path: str) -> FoundTool:
    probe = PROBES.get(name)
    if probe is None:
        return FoundTool(name, None, None, None)
    places = [probe.header]
    if probe.command:
        places = [f"{folder}/{probe.command[0]}" for folder in path.split(":") if folder]
    inside = next((found for found in (_file(root, place) for place in places) if found), None)
    if inside is None:
        return FoundTool(name, None, None, None)
    outside = Path(f"{root or ''}{inside}")
    try:
        digest = digest_file(outside)
        if probe.command:
            program = next(place for place in places if _file(root, place))
            text = run(in_root(root, [program, *probe.command[1:]]), _TOOLCHAIN_PROBE_TIMEOUT).text
        else:
            with outside.open("rb") as file:
                text = file.read(_TOOLCHAIN_PROBE_MAX_HEADER).decode("utf-8", "replace")
    except (OSError, SgxEnclavesError):
        # a tool that cannot be read or run is there, but unseen
        return FoundTool(name, None, inside, None)
    return FoundTool(name, probe.parse(text), inside, digest)


def _file(root: Optional[str], place: str) -> Optional[str]:
    inside = resolve_in_root(root, place)
    return inside if inside is not None and os.path.isfile(f"{root or ''}{inside}") else None


def _linked_interpreter(root: Optional[str], run: Runner, path: str) -> Optional[str]:
    """Link a program of one line and read what was baked in.

    A linker's wrapper may add the path on its own, so asking the compiler is not enough.
    """
    folder: Optional[str] = None
    if root is not None:
        inner = resolve_in_root(root, _SCRATCH)
        if inner is None:
            return None
        folder = root + inner
    try:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            inside = work[len(root) :] if root is not None else work
            Path(work, "a.c").write_text("int main(void) { return 0; }\n", "ascii")
            command = ["env", f"PATH={path}", "gcc", "-o", f"{inside}/a.out", f"{inside}/a.c"]
            if run(in_root(root, command), _TOOLCHAIN_PROBE_TIMEOUT).status != 0:
                return None
            with open(f"{work}/a.out", "rb") as file:
                return read_interpreter(file.read(_TOOLCHAIN_PROBE_MAX_PROGRAM), f"{work}/a.out")
    except (OSError, SgxEnclavesError):
        return None


def read_interpreter(data: bytes, file: str) -> Optional[str]:
    """PT_INTERP of an ELF64 little-endian file; None if it has none.

    Raises:
        FormatError: not such a file, or its headers lie outside of it.
    """
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01":
        raise FormatError("not a 64-bit ELF file", file=file)
    (offset,) = struct.unpack_from("<Q", data, 32)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if count and (entry_size != 56 or offset + 56 * count > len(data)):
        raise FormatError("the program headers lie outside the file", file=file, offset=32)
    for number in range(count):
        at = offset + 56 * number
        kind, _flags, start, _virtual, _physical, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 3:
            if start + size > len(data):
                raise FormatError("PT_INTERP lies outside the file", file=file, offset=at)
            return data[start : start + size].rstrip(b"\0").decode("utf-8", "replace")
    return None


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
