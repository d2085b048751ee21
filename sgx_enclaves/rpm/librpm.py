# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left to librpm: headers and OpenPGP signatures.

librpm is imported here only, and what its releases do differently is known here.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Optional, TypeVar

from sgx_enclaves.child import in_child
from sgx_enclaves.errors import (
    PackageDamagedError,
    PackageError,
    SgxEnclavesError,
    UnsupportedError,
)
from sgx_enclaves.limits import PackageLimits, at_most

HEADER_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
_COUNTS = struct.Struct(">II")
_ENTRY = struct.Struct(">IIII")
# Tag and type of HEADERIMMUTABLE, by which librpm checks the rest of the region.
_REGION = (63, 7)
# The type of texts in several languages, of which librpm hands out one.
_TRANSLATED = 9
# Tags that not every librpm in use knows by name.
_NUMBERS = {
    **{"PAYLOADSIZE": 5112, "PAYLOADSIZEALT": 5113},
    **{"PAYLOADSHA512": 5121, "PAYLOADSHA512ALT": 5122},
    **{"PAYLOADSHA3_256": 5123, "PAYLOADSHA3_256ALT": 5124},
    # Of the signature header, where numbers have other meanings.
    **{"SIGNATURE_SIZE": 1000, "SIGNATURE_LONGSIZE": 270},
    **{"SHA3_256HEADER": 279, "SHA256HEADER": 273, "SHA1HEADER": 269},
    **{"OPENPGP": 278, "RSAHEADER": 268, "DSAHEADER": 267},
}
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
        self.size = len(HEADER_MAGIC) + len(blob)
        self.blob = blob
        self.limits = limits
        try:
            self.parsed = librpm().hdr(blob)
        except librpm().error as error:
            raise self.wrong("a header is malformed", found=f"librpm: {error}") from None
        entries = int.from_bytes(blob[:4], "big")
        # Tag, type, offset and count of each.
        index = struct.unpack_from(f">{4 * entries}I", blob, _COUNTS.size)
        self._counts: dict[int, int] = dict(zip(index[::4], index[3::4]))
        self._types = dict(zip(index[::4], index[1::4]))
        # Then a tag is outside of what was signed.
        self.has_tags_twice = len(self._counts) != entries
        # The first tag is where the region ends, which says how many tags are in it.
        end = _COUNTS.size + _ENTRY.size * entries + (index[2] if index[:2] == _REGION else 0)
        self._is_one_region = (
            end + _ENTRY.size == len(blob)
            and _ENTRY.unpack_from(blob, end)[2] == (-_ENTRY.size * entries) & 0xFFFF_FFFF
        )

    def __contains__(self, tag: str) -> bool:
        return _number(tag) in self._counts

    def mentions(self, words: Iterable[str]) -> bool:
        """Whether any of the words is anywhere in it; much cheaper than to ask for tags."""
        # Four times as fast as `in`.
        return any(re.search(re.escape(word.encode()), self.blob) for word in words)

    def digest(self, algorithm: str) -> str:
        """Digest of the header as RPM computes it, hexadecimal."""
        digest = hashlib.new(algorithm, HEADER_MAGIC, usedforsecurity=False)
        digest.update(self.blob)
        return digest.hexdigest()

    def require_one_region(self) -> None:
        """Refuse tags outside of what the digests cover, and tags that are there twice."""
        if self.has_tags_twice:
            raise self.wrong("a header is malformed", "each tag once")
        if not self._is_one_region:
            raise self.wrong("the header is not one immutable region", "a package of RPM 4 or 6")

    @property
    def signatures(self) -> Mapping[int, Any]:
        """The OpenPGP signatures in it, good or not, by tag."""
        numbers = (_NUMBERS[tag] for tag in ("RSAHEADER", "DSAHEADER", "OPENPGP"))
        return {number: self.parsed[number] for number in numbers if number in self.parsed}

    def count(self, tag: str) -> int:
        """How many items a tag has; 0 when it is not there."""
        number = _number(tag)
        if self._types.get(number) == _TRANSLATED:
            raise self.wrong(f"tag {tag} does not hold what it should", "text of one language")
        return self._counts.get(number, 0)

    def all(self, tag: str, kind: type[Value]) -> tuple[Value, ...]:
        """All numbers or texts of a tag; none when it is not there."""
        count = self.count(tag)
        at_most(self.limits.items, count, f"tag {tag} has too many items", file=self.file)
        found = self.parsed[_number(tag)] if count else []
        values = tuple(found) if isinstance(found, list) else (found,)
        if set(map(type, values)) - {kind}:
            words = {int: "numbers", str: "text"}[kind]
            raise self.wrong(f"tag {tag} does not hold what it should", words)
        return values

    def one(self, tag: str, kind: type[Value]) -> Optional[Value]:
        """The first number or text of a tag; None when it is not there; see `all`."""
        values = self.all(tag, kind)
        return values[0] if values else None

    def wrong(
        self,
        message: str,
        expected: Optional[str] = None,
        found: Optional[str] = None,
        kind: type[PackageError] = PackageError,
    ) -> PackageError:
        """The error for what is wrong in this header."""
        return kind(message, file=self.file, offset=self.start, expected=expected, found=found)


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
        # librpm logs what it finds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        rpm = librpm()
        whole = rpm.hdr(header.blob)
        for number, value in signatures.items():
            # The database has them in the header itself.
            if number not in whole:
                whole[number] = value
        answers = []
        for keyring in (None, rpm.keyring()):
            transaction = rpm.TransactionSet()
            # Every check: without the key, or with a bad signature, there is an error.
            transaction.setVSFlags(0)
            if keyring is not None:
                transaction.setKeyring(keyring)
            try:
                transaction.hdrCheck(whole.unload())
                answers.append(True)
            except rpm.error:
                answers.append(False)
        # What passes with no key at all has nothing in it that librpm takes for a signature.
        return b"signed" if answers == [True, False] else b""

    # Without a signature, a child process is spared.
    if not signatures:
        return False
    what = f"{header.file}: the signature cannot be verified"
    try:
        return in_child(verify, what=what) == b"signed"
    except SgxEnclavesError:
        return False
