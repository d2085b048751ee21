# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers as librpm parses them, and librpm itself: it is imported here only.

What its releases do differently is known here: tags that older ones have no name for.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterable
from typing import Any, Optional, TypeVar

from sgx_enclaves.errors import LimitError, PackageError, UnsupportedError
from sgx_enclaves.limits import PackageLimits

HEADER_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"
COUNTS = struct.Struct(">II")
ENTRY = struct.Struct(">IIII")
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
    """librpm's Python module, which has no types; imported when the first package is read.

    Raises:
        UnsupportedError: it is not installed for this Python.
    """
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
    """One header, parsed by librpm.

    Args:
        file: the package, for messages.
        start: offset of the header in the package.
        blob: it without its magic, as the RPM database has it too.
        limits: see `PackageLimits`.

    Attributes:
        parsed: librpm's object.
        size: bytes of the header in the file.

    Raises:
        PackageError: librpm refuses it.
    """

    def __init__(self, file: str, start: int, blob: bytes, limits: PackageLimits) -> None:
        self.file = file
        self.start = start
        self.size = len(HEADER_MAGIC) + len(blob)
        self._blob = blob
        self._limits = limits
        try:
            self.parsed = librpm().hdr(blob)
        except librpm().error as error:
            raise PackageError(
                "a header is malformed", file=file, offset=start, found=f"librpm: {error}"
            ) from None
        end = COUNTS.size + ENTRY.size * int.from_bytes(blob[:4], "big")
        self._entries = [(e[0], e[3]) for e in ENTRY.iter_unpack(blob[COUNTS.size : end])]
        self._counts = dict(self._entries)

    def __contains__(self, tag: str) -> bool:
        return _number(tag) in self._counts

    def mentions(self, words: Iterable[str]) -> bool:
        """Whether any of the words is anywhere in it; much cheaper than to ask for tags."""
        return any(word.encode() in self._blob for word in words)

    def digest(self, algorithm: str) -> str:
        """Digest of the header as RPM computes it, hexadecimal."""
        digest = hashlib.new(algorithm, HEADER_MAGIC, usedforsecurity=False)
        digest.update(self._blob)
        return digest.hexdigest()

    def require_one_region(self) -> None:
        """Refuse tags outside of what the digests cover, and tags that are there twice.

        Raises:
            PackageError: no immutable region, or one that leaves something out.
        """
        if len(self._counts) != len(self._entries):
            raise self.wrong("a header is malformed", "each tag once")
        region = self.parsed["HEADERIMMUTABLE"] if "HEADERIMMUTABLE" in self else b""
        if not isinstance(region, bytes) or len(region) != len(self._blob):
            raise self.wrong("the header is not one immutable region", "a package of RPM 4 or 6")

    def all(self, tag: str, kind: type[Value]) -> tuple[Value, ...]:
        """All numbers or texts of a tag; none when it is not there.

        Raises:
            PackageError: the tag holds something else.
            LimitError: there are too many.
        """
        number = _number(tag)
        count = self._counts.get(number, 0)
        if count > self._limits.items:
            raise LimitError(
                f"tag {tag} has too many items",
                file=self.file,
                expected=f"at most {self._limits.items}",
                found=str(count),
            )
        found = self.parsed[number] if count else []
        values = tuple(found) if isinstance(found, list) else (found,)
        if not all(isinstance(value, kind) for value in values):
            words = {int: "numbers", str: "text"}[kind]
            raise self.wrong(f"tag {tag} does not hold what it should", words)
        return values

    def one(self, tag: str, kind: type[Value]) -> Optional[Value]:
        """The first number or text of a tag; None when it is not there; see `all`."""
        values = self.all(tag, kind)
        return values[0] if values else None

    def wrong(self, message: str, expected: str, found: Optional[str] = None) -> PackageError:
        """The error for what is wrong in this header."""
        return PackageError(
            message, file=self.file, offset=self.start, expected=expected, found=found
        )


def _number(tag: str) -> int:
    number: int = _NUMBERS.get(tag) or getattr(librpm(), f"RPMTAG_{tag}")
    return number
