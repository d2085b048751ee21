# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left to librpm: headers, the archive in a payload, OpenPGP signatures.

librpm is imported here only, and what its releases do differently is known here. What it passes
over in an archive is compared with the header: kind, size and link target of every entry, that it
comes once, and that nothing follows the last.
"""

from __future__ import annotations

import binascii
import functools
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Optional, TypeVar

from sgx_enclaves.child import PIECE_SIZE, Send, in_child
from sgx_enclaves.errors import (
    LimitError,
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import PackageLimits, at_most
from sgx_enclaves.plain import record

if TYPE_CHECKING:
    from sgx_enclaves.rpm.reader import Package

HEADER_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
_COUNTS = struct.Struct(">II")
_ENTRY = struct.Struct(">IIII")
# Tags that not every librpm in use knows by name.
_NUMBERS = {
    **{"PAYLOADSIZE": 5112, "PAYLOADSIZEALT": 5113},
    **{"PAYLOADSHA512": 5121, "PAYLOADSHA512ALT": 5122},
    **{"PAYLOADSHA3_256": 5123, "PAYLOADSHA3_256ALT": 5124},
    **{"SHA3_256HEADER": 279, "OPENPGP": 278},
    # Of the signature header, where numbers have other meanings.
    **{"SIGNATURE_SIZE": 1000, "SIGNATURE_LONGSIZE": 270},
}
# What librpm gives for each type of a tag; of texts that are translated it takes no file names.
_TYPES = {int: ("numbers", range(1, 6)), str: ("text", (6, 8))}
Value = TypeVar("Value", int, str)


@functools.cache
def librpm() -> Any:
    """librpm's Python module, which has no types; imported when the first package is read."""
    try:
        import rpm  # noqa: PLC0415  (only who reads packages needs it)

        rpm.hdr, rpm.files, rpm.fd  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            "packages cannot be read without librpm's Python module",
            found=str(error),
            hint="install python3-rpm; a virtual environment needs PyPI's rpm besides: "
            "pip install 'sgx-enclaves[rpm]'",
        ) from None
    return rpm


class Header:
    """One header, parsed by librpm; a PackageError if that refuses it.

    Args:
        start: its offset in the package.
        blob: it without its magic, as the RPM database has it too.
    """

    def __init__(self, file: str, start: int, blob: bytes, limits: PackageLimits) -> None:
        self.file = file
        self.start = start
        self.end = start + len(HEADER_MAGIC) + len(blob)
        self.blob = blob
        self.limits = limits
        try:
            self.parsed = librpm().hdr(blob)
        except librpm().error as error:
            raise self.wrong("a header is malformed", found=f"librpm: {error}") from None
        entries = int.from_bytes(blob[:4], "big")
        # Tag, type, offset and count of each.
        index = struct.unpack_from(f">{4 * entries}I", blob, _COUNTS.size)
        self._kinds = dict(zip(index[::4], zip(index[1::4], index[3::4])))
        # Then a tag is outside of what was signed.
        self.has_tags_twice = len(self._kinds) != entries
        # The first tag, HEADERIMMUTABLE, is where the region ends, which says how many tags are in
        # it; librpm checks the rest of it.
        end = _COUNTS.size + _ENTRY.size * entries + (index[2] if index[:2] == (63, 7) else 0)
        # Or there are tags outside of what the digests cover.
        self.is_one_region = (
            end + _ENTRY.size == len(blob)
            and _ENTRY.unpack_from(blob, end)[2] == (-_ENTRY.size * entries) & 0xFFFF_FFFF
        )

    def __contains__(self, tag: str) -> bool:
        return _number(tag) in self._kinds

    def digest(self, algorithm: str) -> str:
        """Digest of the header as RPM computes it, hexadecimal."""
        whole = HEADER_MAGIC + self.blob
        return hashlib.new(algorithm, whole, usedforsecurity=False).hexdigest()

    @property
    def signatures(self) -> Mapping[int, Any]:
        """The OpenPGP signatures in it, good or not, by tag."""
        numbers = map(_number, ("RSAHEADER", "DSAHEADER", "OPENPGP"))
        return {number: self.parsed[number] for number in numbers if number in self.parsed}

    def all(self, tag: str, kind: type[Value]) -> tuple[Value, ...]:
        """All numbers or texts of a tag; none when it is not there."""
        if tag not in self:
            return ()
        number, (words, types) = _number(tag), _TYPES[kind]
        found_type, count = self._kinds[number]
        at_most(self.limits.items, count, f"tag {tag} has too many items", file=self.file)
        if found_type not in types:
            raise self.wrong(f"tag {tag} does not hold what it should", words)
        found = self.parsed[number]
        return tuple(found) if isinstance(found, list) else (found,)

    def one(self, tag: str, kind: type[Value]) -> Optional[Value]:
        """The first number or text of a tag; None when it is not there; see `all`."""
        return next(iter(self.all(tag, kind)), None)

    def wrong(
        self, message: str, expected: Optional[str] = None, found: Optional[str] = None
    ) -> PackageError:
        """The error for what is wrong in this header."""
        return PackageError(
            message, file=self.file, offset=self.start, expected=expected, found=found
        )

    def damaged(self, message: str, expected: str, found: str, **more: Any) -> PackageDamagedError:
        """The error for other bytes than the header pins."""
        return PackageDamagedError(message, file=self.file, expected=expected, found=found, **more)


@functools.cache
def _number(tag: str) -> int:
    number: int = _NUMBERS.get(tag) or getattr(librpm(), f"RPMTAG_{tag}")
    return number


def read_header(stream: BinaryIO, file: str, limits: PackageLimits) -> Header:
    """The header that comes next; bounded before it is read."""
    start = stream.tell()
    magic, counts = take(stream, len(HEADER_MAGIC), file), take(stream, _COUNTS.size, file)
    if magic != HEADER_MAGIC:
        raise PackageError(
            "no RPM header where one should be",
            file=file,
            offset=start,
            expected=HEADER_MAGIC.hex(),
            found=magic.hex(),
        )
    entries, size = _COUNTS.unpack(counts)
    message = "a header is too large"
    at_most(limits.header_entries, entries, message, "tags", file=file, offset=start)
    at_most(limits.header_size, size, message, "bytes", file=file, offset=start)
    return Header(file, start, counts + take(stream, entries * _ENTRY.size + size, file), limits)


def take(stream: BinaryIO, size: int, file: str) -> bytes:
    """The next bytes of a package file; memory is taken for what is there."""
    left = os.fstat(stream.fileno()).st_size - stream.tell()
    data = stream.read(max(0, min(size, left)))
    if len(data) < size:
        raise truncated(file, stream.tell() + size - len(data), stream.tell())
    return data


def truncated(file: str, expected: int, found: int) -> PackageDamagedError:
    """The error for a package that has fewer bytes than it should."""
    least, size = f"{expected} bytes at least", f"{found} bytes"
    message = "the package is truncated"
    return PackageDamagedError(message, file=file, offset=found, expected=least, found=size)


def is_signed_by_known_key(header: Header, signatures: Mapping[int, Any]) -> bool:
    """Whether a key of rpm's keyring has signed a header, which pins the payload; librpm judges."""

    def verify() -> bytes:
        rpm = librpm()
        whole = rpm.hdr(header.blob)
        for number, value in signatures.items():
            # The database has them in the header itself.
            if number not in whole:
                whole[number] = value
        transaction = rpm.TransactionSet()
        # Every check: without the key, or with a bad signature, there is an error.
        transaction.setVSFlags(0)
        # First with rpm's keyring, then with none.
        for keyring, answer in ((None, b""), (rpm.keyring(), b"signed")):
            transaction.setKeyring(keyring)
            try:
                transaction.hdrCheck(whole.unload())
            except rpm.error:
                return answer
        # What passes with no key at all has nothing in it that librpm takes for a signature.
        return b""

    # Without a signature, a child process is spared.
    if not signatures:
        return False
    what = f"{header.file}: the signature cannot be verified"
    try:
        return in_child(verify, what=what) == b"signed"
    except SgxEnclavesError:
        return False


# What a file is, by its mode; no file has others.
KINDS = {
    **{stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link"},
    **{stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFIFO: "pipe"},
    stat.S_IFSOCK: "socket",
}


@record
class PackageFile:
    """One file as the header describes it.

    Attributes:
        path: absolute; relative in a source package.
        mode: of a kind that is one of `KINDS`.
        digest: hexadecimal; empty for what has no content, as `target` for what is no link.
        ghost: owned by the package, but not in its payload.
        inode: device and inode, or what no other file has; files that share it are hard links.
    """

    index: int
    path: str
    mode: int
    size: int
    digest: str
    target: str
    ghost: bool
    inode: tuple[int, int]

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return KINDS[stat.S_IFMT(self.mode)]

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file that comes with the package."""
        return stat.S_ISREG(self.mode) and not self.ghost


# What librpm may read for an entry before its content: padding, fields, name, link target.
_ENTRY_MOST = 3 + 110 + 4096 + 3 + 4096 + 3
_STRIPPED = b"07070X"
_NEWC = (b"070701", b"070702")
_TRAILER = b"TRAILER!!!\0"
# RPM ends at the trailer; others fill up a block of 512 bytes.
_PADDING = 512
FILE_HEAD = struct.Struct(">I?")


class _Window:
    """As many unpacked bytes as librpm may read, in a file in memory: it ends with an entry."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.handle = os.memfd_create("payload")
        self._pieces = pieces
        # What was unpacked from there in the archive on.
        self._start, self._data = 0, memoryview(b"")

    def show(self, position: int, size: int) -> memoryview:
        """Have so many bytes ready from a position in the archive on, or all there are."""
        data = self._data[position - self._start :]
        while len(data) < size and (piece := next(self._pieces, b"")):
            data = memoryview(bytes(data) + piece)
        self._start, self._data = position, data
        os.ftruncate(self.handle, os.pwrite(self.handle, data[:size], 0))
        os.lseek(self.handle, 0, os.SEEK_SET)
        return data[:size]

    def is_at_end(self, position: int) -> bool:
        """Whether there is nothing behind this position in the archive."""
        return position >= self._start + len(self._data) and not next(self._pieces, b"")


class Unpacker:
    """Reads the archive in a payload; runs in the child."""

    def __init__(self, package: Package, pieces: Iterator[bytes]) -> None:
        self._package = package
        self._window = _Window(pieces)
        self._missing = {f.index: f for f in package.files if not f.ghost}
        for file in self._missing.values():
            if stat.S_ISLNK(file.mode) and file.size != len(_target(file)):
                raise self._wrong(
                    f"the link {file.path!r} has another size than its target", file.target
                )
        try:
            files = librpm().files(package.header.parsed)
            self._archive = files.archive(librpm().fd(self._window.handle, "r", "ufdio"))
        except (ValueError, OSError, librpm().error) as error:
            raise self._wrong("librpm refuses the file list", str(error)) from None

    def run(self, send: Send) -> None:
        """Send the head of each file, then its content; see `FILE_HEAD`."""
        position = 0
        while True:
            padding = -position % 4
            shown = bytes(self._window.show(position, _ENTRY_MOST)[padding:])
            try:
                found = next(self._archive, None)
            except (OSError, librpm().error) as error:
                raise self._failed(error, shown) from None
            raw = shown[: self._archive.tell() - position - padding]
            position = self._archive.tell()
            if found is None:
                self._check_trailer(raw)
                rest = bytes(self._window.show(position, _PADDING + 1))
                if len(rest) > _PADDING or rest.strip(b"\0"):
                    raise self._wrong("there are bytes behind the end of the payload")
                send(b"")
                return
            file = self._package.files[found.fx]
            if self._missing.pop(file.index, None) is None:
                raise self._wrong(f"{file.path!r} is in the payload twice")
            has_content = bool(self._archive.hascontent())
            left = file.size if has_content else 0
            self._compare(file, raw, left)
            send(FILE_HEAD.pack(file.index, has_content))
            while left > 0:
                self._window.show(position, min(left, PIECE_SIZE))
                chunk = self._archive.read(min(left, PIECE_SIZE))
                if not chunk:
                    raise self._too_early()
                left -= len(chunk)
                send(chunk)
                position = self._archive.tell()

    def _compare(self, file: PackageFile, raw: bytes, size: int) -> None:
        """What the archive says of a file, beside its number or name, with the header."""
        if stat.S_ISLNK(file.mode):
            size = file.size
            content = raw[len(raw) - size :]
            if content != _target(file):
                what = f"the link {file.path!r} has another target"
                raise self._differs(what, repr(content), repr(file.target))
        if raw.startswith(_STRIPPED):
            return
        mode, stated = self._field(raw, 1), self._field(raw, 6)
        if stat.S_IFMT(mode) != stat.S_IFMT(file.mode):
            what = f"{file.path!r} is another kind of file"
            raise self._differs(what, f"mode 0o{mode:o}", file.kind)
        if stated != size:
            what = f"{file.path!r} has another size"
            raise self._differs(what, f"{stated} bytes", f"{size} bytes")

    def _check_trailer(self, raw: bytes) -> None:
        if raw.startswith(_STRIPPED) or self._field(raw, 6):
            raise self._wrong("the trailer has content")
        if self._missing:
            first = self._missing[min(self._missing)].path
            message = f"{len(self._missing)} files are not in the payload, among them {first!r}"
            raise PackageDamagedError(message, file=self._package.file)

    def _field(self, raw: bytes, number: int) -> int:
        """A field of an entry, where librpm would take signs and blanks for digits."""
        digits = raw[6 : 14 if raw.startswith(_STRIPPED) else 110]
        try:
            fields = binascii.unhexlify(digits)
        except ValueError:
            message = "a field of a cpio entry is not a number"
            raise self._wrong(message, digits.hex()) from None
        return int.from_bytes(fields[4 * number : 4 * number + 4], "big")

    def _failed(self, error: Exception, raw: bytes) -> SgxEnclavesError:
        """What is wrong with an entry where librpm does not read on."""
        if raw.startswith(_STRIPPED):
            self._field(raw, 0)
            return self._wrong("the payload has a file that the header does not list")
        if raw[:6] not in (b"", *_NEWC):
            return self._wrong("not a cpio entry where one should be in the payload", raw[:6].hex())
        if len(raw) < 110:
            return self._too_early()
        size = self._field(raw, 11)
        most = self._package.limits.path_size
        if not 0 < size <= most:
            return LimitError(
                "a name in the payload is empty or too long",
                file=self._package.file,
                expected=f"1 to {most} bytes",
                found=f"{size} bytes",
            )
        name = raw[110 : 110 + size]
        if name == _TRAILER:
            self._check_trailer(raw)
        if self._window.is_at_end(self._archive.tell()):
            return self._too_early()
        path = name.rstrip(b"\0").decode("utf-8", "surrogateescape")
        what = "is not in the header, or only as a %ghost"
        if path.lstrip(".") in {file.path for file in self._missing.values()}:
            what = "is another file in the payload than in the header"
        return self._wrong(f"{path!r} {what}", str(error))

    def _differs(self, what: str, found: str, expected: str) -> PackageError:
        return self._wrong(f"{what} in the payload than in the header", found, expected)

    def _too_early(self) -> PackageError:
        return PackageDamagedError("the payload ends too early", file=self._package.file)

    def _wrong(
        self, message: str, found: Optional[str] = None, expected: Optional[str] = None
    ) -> PackageError:
        return PackageError(message, file=self._package.file, expected=expected, found=found)


def _target(file: PackageFile) -> bytes:
    return file.target.encode("utf-8", "surrogateescape")
