# SPDX-License-Identifier: GPL-2.0-or-later
"""The vendor's checksum files, as `sha256sum` writes them.

A line is `DIGEST  NAME` or `DIGEST *NAME`. Such a file stands beside the archive
on the same server, so that it proves nothing against that server; it does catch
a pin that was copied wrongly and an archive that was exchanged silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sgx_enclaves.errors import DigestError, FormatError

_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *]([^\x00-\x1f\x7f]{1,1024})")
_MAX_BYTES = 1 << 20


def parse_checksums(data: bytes, file: str) -> dict[str, str]:
    """Read a checksums file.

    Args:
        data: its content.
        file: its name, for messages.

    Returns:
        Name to lower-case SHA-256.

    Raises:
        FormatError: a line of another form, the same name with two digests, or no line.
    """
    if len(data) > _MAX_BYTES:
        raise FormatError("too large for a checksums file", file=file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("not text", file=file, offset=error.start) from None
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise FormatError(
                f"line {number} is not a checksum",
                file=file,
                expected="SHA-256, two blanks, name",
                found=repr(line[:100]),
            )
        name, digest = match[2].removeprefix("./"), match[1].lower()
        if digests.setdefault(name, digest) != digest:
            raise FormatError(f"line {number} gives {name} a second digest", file=file)
    if not digests:
        raise FormatError("holds no checksum", file=file)
    return digests


def cross_check(checksums: Mapping[str, str], filename: str, sha256: str, file: str) -> bool:
    """Hold a digest against the vendor's list.

    Args:
        checksums: from `parse_checksums`.
        filename: the archive, without a folder.
        sha256: the digest that is pinned or was found.
        file: the checksums file, for messages.

    Returns:
        Whether the list names the archive at all.

    Raises:
        DigestError: the list gives it another digest.
    """
    listed = {digest for name, digest in checksums.items() if name.rpartition("/")[2] == filename}
    if listed and listed != {sha256}:
        raise DigestError(
            f"the vendor's checksums file gives {filename} another digest",
            file=file,
            expected=f"sha256 {sha256}",
            found=f"sha256 {', '.join(sorted(listed))}",
            hint="either the vendor exchanged the archive or the pin is wrong; find out which",
        )
    return bool(listed)
