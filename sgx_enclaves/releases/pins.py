# SPDX-License-Identifier: GPL-2.0-or-later
"""Is a file what the release pins? Every pin that is given must hold.

Reads the file; never moves it, never fetches one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from sgx_enclaves.errors import ArchiveError, InputError, LimitError, UnsupportedError
from sgx_enclaves.releases.archive import Digest
from sgx_enclaves.releases.artifact import Artifact
from sgx_enclaves.releases.contents import read_contents

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pins:
    """What a file is, held against its pins.

    Attributes:
        sha256: the file's digest.
        size: its bytes.
        expected: the pin that does not hold, such as `sha256 ab…`; empty if all hold.
        found: what there is instead; empty if all hold.
    """

    sha256: str
    size: int
    expected: str = ""
    found: str = ""

    @property
    def hold(self) -> bool:
        """Whether the file is what it should be, as far as that is known beforehand."""
        return not self.expected


def check_pins(path: Path, artifact: Artifact) -> Pins:
    """Hold a file against everything that is pinned of it.

    An archive that is too broken, hostile or large for its contents to be digested is
    not the pinned one either; what is wrong with it is in `found`.

    Raises:
        OSError: it cannot be read.
    """
    hashes: dict[str, Digest] = {"sha256": hashlib.sha256()}
    if artifact.sha512 is not None:
        hashes["sha512"] = hashlib.sha512()
    size = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            size += len(chunk)
            for digest in hashes.values():
                digest.update(chunk)
    sha256 = hashes["sha256"].hexdigest()
    for kind, digest in hashes.items():
        pinned: Optional[str] = getattr(artifact, kind)
        if pinned is not None and digest.hexdigest() != pinned:
            return Pins(sha256, size, f"{kind} {pinned}", f"{kind} {digest.hexdigest()}")
    if artifact.contents_sha256 is not None:
        found = _contents(path, sha256)
        if found != artifact.contents_sha256:
            expected = f"contents_sha256 {artifact.contents_sha256}"
            return Pins(sha256, size, expected, f"contents_sha256 {found}")
    return Pins(sha256, size)


def _contents(path: Path, sha256: str) -> str:
    """The digest of the contents, or in words why there is none."""
    try:
        contents = read_contents(path)
    except (ArchiveError, InputError, LimitError, UnsupportedError) as error:
        return f"of nothing: {error}"
    if contents.archive_sha256 != sha256:
        return "of nothing: the file was changed while it was read"
    return contents.sha256
