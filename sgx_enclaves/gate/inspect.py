# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages of a build really hold, read from their files.

A package whose header names an enclave has a reason. The payload of every other one is searched
for what every enclave has in it: a header's modes, colors and classes of files are as the spec
file wants them. If one package of a build has a reason, or holds an enclave, every package is
hashed and looked into. What cannot be read is a fact, too: the gate does not open for it.

What was found in a file is remembered as long as it is the same file on disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional, TypeVar

from sgx_enclaves.decompress import unpack
from sgx_enclaves.errors import PackageError, SgxEnclavesError
from sgx_enclaves.files import DigestedStream, system_errors
from sgx_enclaves.limits import ArchiveLimits
from sgx_enclaves.rpm.enclaves import (
    EmbeddedEnclaves,
    Links,
    PackedEnclave,
    enclaves_among,
    is_enclave,
    may_carry_enclaves,
    mention_metadata,
)
from sgx_enclaves.rpm.payload import packed
from sgx_enclaves.rpm.presence import contains_signed_enclaves
from sgx_enclaves.rpm.reader import open_package

T = TypeVar("T")
# Signed copies of a package, each by a name, and its path.
Copies = Iterable[tuple[str, str]]
# nothing of it is held, and debug information of browsers is large
_SEARCHED = ArchiveLimits(archive_size=16 << 30, total_size=64 << 30, ratio=1 << 20)
# seconds after which a file's ctime shows whether it was changed again
_SETTLED = 2.0


@dataclass(frozen=True)
class PackageFacts:
    """What one package holds.

    Attributes:
        digests: None when it could not be read.
        signed: its signed enclaves, path to SHA-256; None where only the name is there.
        provides: names of signed enclaves that it provides.
        copies: its signed copies, by name; nothing is known of them but their digests.
        problem: why it could not be read, or not looked into.
        embedded: programs that hold enclaves as data, which no loader takes from there.
    """

    name: str
    digests: Optional[RpmDigests]
    signed: Mapping[str, Optional[str]] = field(default_factory=dict)
    provides: tuple[str, ...] = ()
    copies: tuple[PackageFacts, ...] = ()
    problem: Optional[str] = None
    embedded: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether it holds a signed enclave, or nobody can say that it does not."""
        return bool(self.signed or self.provides or self.problem)


def inspect_build(files: Mapping[str, Copies]) -> tuple[PackageFacts, ...]:
    """What all packages of a build hold; nothing when there is no enclave in any of them."""
    if any(any(_reasons(path)) for path in files):
        return tuple(inspect_package(*file) for file in files.items())
    return ()


def may_hold_enclaves(path: str) -> bool:
    """Whether a package names an enclave or holds one, or cannot be read."""
    return _reasons(path)[0]


def _reasons(path: str) -> tuple[bool, bool]:
    """`may_hold_enclaves`, and whether a program in it holds enclaves as data."""
    try:
        return _remembered(_read_reasons, path)
    except SgxEnclavesError:
        return True, False


def _read_reasons(path: str) -> tuple[bool, bool]:
    with open_package(path) as (package, stream):
        if may_carry_enclaves(package):
            return True, False
        compressor = package.header.one("PAYLOADCOMPRESSOR", str)
        # takes a tenth of what it takes to read the payload as an archive, in a process of its own
        with contextlib.suppress(SgxEnclavesError):
            if not mention_metadata(unpack(stream, path, _SEARCHED, compressor)):
                return False, False
    signed, embedded = _remembered(_held, path)
    return bool(signed), bool(embedded)


def _remembered(look: Callable[[str], T], path: str) -> T:
    """What was found in this very file before; inode and ctime are not for anybody to set.

    A file that was changed a moment ago is not remembered: it may be changed again within
    the same tick of the disk's clock.
    """
    try:
        status = os.stat(path)
    except OSError:
        return look(path)
    if abs(time.time() - status.st_ctime) < _SETTLED:
        return look(path)
    place = (status.st_dev, status.st_ino, status.st_size)
    found: T = _seen(look, path, *place, status.st_mtime_ns, status.st_ctime_ns)
    return found


@functools.lru_cache(maxsize=20_000)
def _seen(look: Callable[[str], Any], path: str, *_identity: int) -> Any:
    return look(path)


def claims_signed_enclaves(path: str) -> bool:
    """Whether a package says that it holds a signed enclave."""
    with open_package(path) as (package, _stream):
        paths = (file.path for file in package.files)
        return contains_signed_enclaves(package.header.all("PROVIDENAME", str), paths)


def inspect_package(path: str, copies: Copies = ()) -> PackageFacts:
    """What one package holds; never raises for what is wrong with it."""
    name = os.path.basename(path)
    facts = PackageFacts(name, None, copies=tuple(_digested(*copy) for copy in copies))
    try:
        facts = replace(facts, digests=rpm_digests(path))
        with open_package(path) as (package, _stream):
            own = f"{package.name}-{package.version}-{package.release}.{package.arch}.rpm"
            if own != name:
                message = "the package in the file is another one than the build system says"
                raise PackageError(message, file=path, expected=name, found=own)
            named = set(package.header.all("PROVIDENAME", str))
        provides = sorted(p for p in named if contains_signed_enclaves((p,), ()))
        facts = replace(facts, provides=tuple(provides))
        signed, embedded = _remembered(_held, path)
        return replace(facts, signed=signed, embedded=embedded)
    except SgxEnclavesError as error:
        return replace(facts, problem=str(error))


def _digested(name: str, path: str) -> PackageFacts:
    try:
        return PackageFacts(name, rpm_digests(path))
    except SgxEnclavesError as error:
        return PackageFacts(name, None, problem=str(error))


def _held(path: str) -> tuple[dict[str, Optional[str]], tuple[str, ...]]:
    """Signed enclaves, links to one in another package, and programs that hold enclaves as data."""
    found: dict[str, Optional[str]] = {}
    embedded = []
    with packed(path) as (package, members):
        for item in enclaves_among(package, members):
            if isinstance(item, EmbeddedEnclaves):
                embedded.append(item.path)
            elif isinstance(item, PackedEnclave) and _counts_as_signed(item):
                found[item.path] = item.sha256
        leaving = [f.path for f in Links(package).leaving()]
    found |= {path: None for path in leaving if contains_signed_enclaves((), (path,))}
    return found, tuple(embedded)


def _counts_as_signed(enclave: PackedEnclave) -> bool:
    """Whether it is signed, or says so, or cannot be distinguished from one that is."""
    if enclave.problem is not None and is_enclave(enclave.data):
        return True
    return enclave.signed or contains_signed_enclaves((), enclave.names)


@dataclass(frozen=True)
class RpmDigests:
    """SHA-256 of a package file, hexadecimal, and what it calls itself.

    Attributes:
        content: of all behind lead and signature header. Signing changes `file` only.
        header: of the main header, as RPM computes it.
        payload: as the header pins it; None if it does not.
    """

    file: str
    content: str
    header: Optional[str] = None
    payload: Optional[str] = None
    nevra: Optional[str] = None


def rpm_digests(path: str) -> RpmDigests:
    """The digests of a package file."""
    return _remembered(_read_digests, path)


def _read_digests(path: str) -> RpmDigests:
    with open_package(path) as (package, stream), system_errors(path, "cannot be read"):
        stream.seek(0)
        whole = DigestedStream(stream)
        whole.read(package.header.start)
        # the rest, which both read
        content = DigestedStream(whole).digest()
        pins = package.header.all("PAYLOADDIGEST", str)
        payload = next((pin for pin in pins if len(pin) == len(content)), None)
        header = package.header.digest("sha256")
        return RpmDigests(whole.digest(), content, header, payload, package.nevra)
