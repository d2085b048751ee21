# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files of a package are enclaves, which links lead to them, and what they provide.

An enclave is an ELF file with a section `.note.sgxmeta` or with such a note in no section,
and any shared object in the enclave folder, since what stands there is loaded as one.
"""

from __future__ import annotations

import io
import itertools
import mmap
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional, Union

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.elf_headers import (
    ELF_MAGIC,
    METADATA_NOTE_NAME,
    METADATA_SECTION,
    SHF_EXECINSTR,
    SHT_NOBITS,
)
from sgx_enclaves.enclave.measure import mrenclave
from sgx_enclaves.enclave.metadata import Descriptor
from sgx_enclaves.enclave.sigstruct import check_sigstruct
from sgx_enclaves.errors import FormatError, LimitError, PackageError, SgxEnclavesError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.limits import Limits, at_most, measuring_limits
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.librpm import PackageFile
from sgx_enclaves.rpm.payload import PayloadFile
from sgx_enclaves.rpm.presence import (
    ENCLAVE_FOLDERS,
    PROVIDE_PREFIX,
    enclave_name,
    is_hinted,
    is_in_enclave_folder,
    is_suspect,
    stem_of,
)
from sgx_enclaves.rpm.reader import Package


def provides_of(
    path: str, data: bytes, versions: Mapping[str, str], limits: Optional[Limits] = None
) -> list[str]:
    """The Provides of one enclave file, so that a repository can be asked what it ships.

    `sgx-enclave(pce:signed) = 2.25` or `:unsigned`, and of each signed metadata block
    `sgx-enclave-mrenclave(HEX)`, recomputed, and `sgx-enclave-mrsigner(HEX)`.

    Args:
        path: its name says which enclave it claims to be.
        versions: enclave to version; one that is not named gets none.
        limits: of the measurement; None for those that fit the file's size.

    Raises:
        SgxEnclavesError: no enclave, or its signature is not valid or not for its measurement.
    """
    image = EnclaveImage.parse(data, path)
    descriptor = Descriptor.parse(image.descriptor)
    name = enclave_name(path) or stem_of(path)
    kind = "signed" if descriptor.is_signed else "unsigned"
    version = versions.get(name)
    provides = [f"{PROVIDE_PREFIX}{name}:{kind})" + (f" = {version}" if version else "")]
    limits = limits or measuring_limits(len(data), len(descriptor.blocks))
    for block in descriptor.blocks if descriptor.is_signed else ():
        measured = mrenclave(image, block, limits)
        if measured != block.sigstruct.enclavehash:
            raise FormatError(
                "the signature is for another enclave than this one",
                file=path,
                expected=f"MRENCLAVE {measured.hex()}",
                found=block.sigstruct.enclavehash.hex(),
                hint="ship the file as it was signed",
            )
        for wrong in check_sigstruct(block.sigstruct):
            raise FormatError(wrong.message, file=path, expected=wrong.expected, found=wrong.found)
        provides += [
            f"sgx-enclave-mrenclave({measured.hex()})",
            f"sgx-enclave-mrsigner({block.sigstruct.mrsigner.hex()})",
        ]
    return list(dict.fromkeys(provides))


CONFIG_SUFFIX = "config.xml"
# As many as Linux follows.
_LINKS_IN_A_ROW = 40
# Components of paths that are looked at for all links together; takes a second or two.
_LINK_STEPS = 20_000_000
_NAME = METADATA_SECTION.encode()
# An enclave's note is named sgx_metadata, or its section .note.sgxmeta.
_MARK, _LONGEST_MARK = b"sgx_?meta", len(b"sgx_meta")
# No section that matters here has a longer name.
_LONGEST_NAME = 32
# ELF files in a file, and their sections, that are looked at; takes a second or two.
_MOST_WITHIN = 256
_MOST_SECTIONS = 4096
Content = Union[bytes, mmap.mmap]
_NOTE_HEADER = struct.Struct("<III")
_NOTE_NAME = re.compile(re.escape(METADATA_NOTE_NAME))
_MAGIC = re.compile(re.escape(ELF_MAGIC))


@record
class PackedEnclave:
    """An enclave file of a package, whole.

    Attributes:
        data: its bytes; their digest is the header's.
        problem: why it is no enclave that can be read; None when it is one.
        signed: whether its metadata area holds anything.
    """

    path: str
    links: tuple[str, ...]
    data: bytes
    problem: Optional[SgxEnclavesError]
    signed: bool
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every path that leads to it, its own first."""
        return (self.path, *self.links)


@record
class EmbeddedEnclaves:
    """A program of a package that holds whole enclaves as data; no loader takes it for one."""

    path: str
    offsets: tuple[int, ...]


def is_enclave(data: Content) -> bool:
    """Whether a file is an enclave or holds one, or is one with its section renamed or dropped."""
    return has_metadata_section(data) or any(metadata_notes(data))


def metadata_notes(data: Content) -> Iterator[tuple[int, memoryview]]:
    """Offset and content of each note in an ELF file with the name that loaders look for."""
    for name in _NOTE_NAME.finditer(data) if data[:4] == ELF_MAGIC else ():
        start, end = name.start() - _NOTE_HEADER.size, name.end()
        size, content, _type = _NOTE_HEADER.unpack_from(data, max(0, start))
        # Loaders and signing tools have the name too, but no note of it.
        if start >= 0 and size == len(METADATA_NOTE_NAME):
            # No copy: each of a million notes may claim the whole file.
            yield start, memoryview(data)[end : end + content]


def has_metadata_section(data: Content) -> bool:
    """Whether a file has a section `.note.sgxmeta`, whatever else of it lies."""
    return data.find(_NAME) >= 0 and any(name == _NAME for name, *_rest in _sections(data))


def _sections(data: Content, start: int = 0) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset, type and flags of the sections of an ELF file; none where a table lies."""
    if data[start : start + 4] != ELF_MAGIC or len(data) < start + 64:
        return
    wide = data[start + 4] == 2
    address, entry, least = ("<Q", "<IIQQQ", 64) if wide else ("<I", "<IIIII", 40)
    table = start + struct.unpack_from(address, data, start + (40 if wide else 32))[0]
    size, count, names = struct.unpack_from("<HHH", data, start + (58 if wide else 46))
    if size < least or table + (names + 1) * size > len(data):
        return
    strings = start + struct.unpack_from(entry, data, table + names * size)[4]
    for at in range(table, min(table + count * size, len(data) - least + 1), size):
        name, kind, flags, _address, offset = struct.unpack_from(entry, data, at)
        end = data.find(b"\0", strings + name, strings + name + _LONGEST_NAME)
        yield data[strings + name : max(end, 0)], start + offset, kind, flags


def enclaves_within(data: bytes) -> tuple[int, ...]:
    """Where whole enclaves start in a program that is none itself; empty for all other files."""
    if has_metadata_section(data):
        return ()
    found: dict[int, int] = {}
    for magic in itertools.islice(_MAGIC.finditer(data, 1), _MOST_WITHIN):
        at = magic.start()
        sections = itertools.islice(_sections(data, at), _MOST_SECTIONS)
        found.update({offset: at for name, offset, _type, _flags in sections if name == _NAME})
    # Another note is the file's own.
    if not all(note in found for note, _content in metadata_notes(data)):
        return ()
    return tuple(found[note] for note, _content in metadata_notes(data))


def is_debug_file(data: bytes) -> bool:
    """Whether it is what find-debuginfo splits off from an unsigned enclave: without its code."""
    says_something = {any(content) for _offset, content in metadata_notes(data)}
    return says_something == {False} and any(
        kind == SHT_NOBITS and flags & SHF_EXECINSTR
        for _name, _offset, kind, flags in _sections(data)
    )


def may_carry_enclaves(package: Package) -> bool:
    """Whether the header alone gives a reason to read the payload; see `is_suspect`."""
    if not is_hinted(package.header.blob):
        return False
    provides = package.header.all("PROVIDENAME", str)
    # Few of those whose paths have such letters are suspect, and all of a file list takes time.
    return is_suspect(provides, package.paths) and is_suspect(
        provides, (file.path for file in package.files if not stat.S_ISDIR(file.mode))
    )


class Links:
    """The symbolic links of a package, resolved within it."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._by_path = {f.path: f for f in package.files}
        self._budget = _LINK_STEPS

    def to_files(self) -> dict[str, list[str]]:
        """Path of a file to the links that end there."""
        found: dict[str, list[str]] = {}
        for file in self._package.files:
            end = self.end_of(file) if stat.S_ISLNK(file.mode) else None
            if end is not None:
                found.setdefault(end.path, []).append(file.path)
        return found

    def leaving(self) -> tuple[PackageFile, ...]:
        """Links of the enclave folder, or in its place, that end at no file of the package."""
        return tuple(
            file
            for file in self._package.files
            if stat.S_ISLNK(file.mode)
            and (is_in_enclave_folder(file.path) or file.path in ENCLAVE_FOLDERS)
            and self.end_of(file) is None
        )

    def end_of(self, link: PackageFile) -> Optional[PackageFile]:
        """The file that a link ends at; None when that is not in the package."""
        pending = [p for p in reversed(link.path.split("/")) if p]
        path: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                del path[-1:]
                continue
            path.append(part)
            self._budget -= len(path)
            if self._budget < 0:
                message = f"too many symbolic links to follow, among them {link.path!r}"
                steps = f"at most {_LINK_STEPS} steps"
                raise LimitError(message, file=self._package.file, expected=steps)
            file = self._by_path.get("/" + "/".join(path))
            if file is None or not stat.S_ISLNK(file.mode):
                continue
            links += 1
            if links > _LINKS_IN_A_ROW:
                why = f"the symbolic link {link.path!r} leads nowhere: links go round in a circle"
                found = f"more than {_LINKS_IN_A_ROW} links in a row"
                raise PackageError(why, file=self._package.file, found=found)
            path = [] if file.target.startswith("/") else path[:-1]
            pending += [p for p in reversed(file.target.split("/")) if p]
        end = self._by_path.get("/" + "/".join(path))
        return end if end is not None and stat.S_ISREG(end.mode) else None


@record
class ConfigFile:
    """A config.xml of a package: its path and its bytes."""

    path: str
    data: bytes


Item = Union[PackedEnclave, EmbeddedEnclaves, ConfigFile]


def enclaves_among(
    package: Package, members: Iterable[PayloadFile], *, configs: bool = False
) -> Iterator[Item]:
    """Yield the enclaves of a package one by one, and its config.xml files when asked for.

    Holds one file at a time, as long as the caller does too.
    """
    symbolic: Optional[dict[str, list[str]]] = {} if package.is_source else None
    limits, enclaves = package.limits, 0
    for member in members:
        file = member.file
        if configs and file.path.endswith(CONFIG_SUFFIX):
            limit, message = limits.enclave.config_size, f"{file.path!r} is too large"
            at_most(limit, file.size, message, "bytes", file=package.file)
            yield ConfigFile(file.path, b"".join(member.chunks))
            continue
        paths = (file.path, *member.links)
        named = any(map(is_in_enclave_folder, paths))
        held = _read_candidate(package, member, named)
        if held is None:
            continue
        within = () if named else enclaves_within(held)
        if within:
            del held
            yield EmbeddedEnclaves(file.path, within)
            continue
        enclaves += 1
        message = "the package has too many enclaves"
        at_most(limits.enclaves, enclaves, message, file=package.file)
        if symbolic is None:
            symbolic = Links(package).to_files()
        links = {*member.links, *(link for path in paths for link in symbolic.get(path, ()))}
        # All of it was read, so it has the digest that the header pins, if it does.
        pinned = file.digest if package.file_algorithm == "sha256" else ""
        problem, signed = None, False
        try:
            signed = any(EnclaveImage.parse(held, file.path, limits.enclave).descriptor)
        except SgxEnclavesError as error:
            problem = None if is_debug_file(held) else error
        sha256 = pinned or sha256_of(held)
        yield PackedEnclave(file.path, tuple(sorted(links)), held, problem, signed, sha256)
        del held, problem


def _read_candidate(package: Package, member: PayloadFile, named: bool) -> Optional[bytes]:
    """The whole file if it is an enclave or stands where only enclaves do."""
    first = next(member.chunks, b"")
    if first[:4] != ELF_MAGIC and not named:
        return None
    chunks = itertools.chain((first,), member.chunks)
    most = package.limits.enclave.file_size
    if member.file.size > most:
        if mention_metadata(chunks) or named:
            message = f"{member.file.path!r} is too large for an enclave, and may be one"
            raise LimitError(message, file=package.file, expected=f"at most {most} bytes")
        return None
    # Unlike joining a list, this does not hold the file twice; and it need not grow, which takes
    # two of the milliseconds that rpmlint's check has.
    buffer = io.BytesIO(bytes(member.file.size if first else 0))
    buffer.writelines(chunks)
    data = buffer.getvalue()
    return data if named or is_enclave(data) else None


def mention_metadata(chunks: Iterable[bytes]) -> bool:
    """Whether a file, or a payload of files, holds what every enclave has in it."""
    end = b""
    for chunk in chunks:
        # a mark may begin in the chunk before
        if re.search(_MARK, chunk) or re.search(_MARK, end + chunk[:_LONGEST_MARK]):
            return True
        end = (end + chunk[-_LONGEST_MARK:])[-_LONGEST_MARK:]
    return False
