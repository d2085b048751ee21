# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes repodata line by line, as wrong as a test asks for; shares nothing with the reader.

write_repodata(folder, [Listed("a.rpm", data)])
write_repodata(folder, [Listed("a.rpm", data, size=7)], primary_digest="00")
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True)
class Listed:
    """A package as repodata list it; by default the truth about `data`."""

    href: str
    data: bytes = b""
    provides: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    size: Optional[int] = None
    digest: Optional[str] = None
    algorithm: str = "sha256"
    base: str = ""

    @property
    def pkgid(self) -> str:
        """Digest of the file, which is also the package's id."""
        return self.digest or hashlib.new(self.algorithm, self.data).hexdigest()


def primary_of(packages: Sequence[Listed]) -> str:
    """The text of primary.xml."""
    return _list("metadata", "common", len(packages), map(_primary, packages))


def filelists_of(packages: Sequence[Listed]) -> str:
    """The text of filelists.xml."""
    return _list("filelists", "filelists", len(packages), map(_filelist, packages))


def _list(root: str, kind: str, count: int, elements: object) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<{root} xmlns="http://linux.duke.edu/metadata/{kind}" packages="{count}">\n'
        + "".join(elements)  # type: ignore[arg-type]
        + f"</{root}>\n"
    )


def _primary(package: Listed) -> str:
    size = len(package.data) if package.size is None else package.size
    base = f" xml:base={quoteattr(package.base)}" if package.base else ""
    entries = "".join(f"<rpm:entry name={quoteattr(p)}/>" for p in package.provides)
    return (
        '<package type="rpm"><name>x</name><arch>noarch</arch>'
        '<version epoch="0" ver="1" rel="1"/>'
        f'<checksum type="{package.algorithm}" pkgid="YES">{package.pkgid}</checksum>'
        f'<size package="{size}" installed="0" archive="0"/>'
        f"<location{base} href={quoteattr(package.href)}/>"
        f"<format><rpm:provides>{entries}</rpm:provides></format></package>\n"
    )


def _filelist(package: Listed) -> str:
    files = "".join(f"<file>{escape(path)}</file>" for path in package.files)
    return (
        f'<package pkgid="{package.pkgid}" name="x" arch="noarch">'
        f'<version epoch="0" ver="1" rel="1"/>{files}</package>\n'
    )


def write_repodata(
    folder: Path,
    packages: Sequence[Listed],
    *,
    lists: Optional[dict[str, Optional[bytes]]] = None,
    records: Optional[dict[str, str]] = None,
    repomd: Optional[bytes] = None,
) -> None:
    """Write the repodata of a folder.

    Args:
        folder: the repository.
        packages: what to list.
        lists: compressed lists instead of the right ones; None leaves one out.
        records: replacements in repomd.xml, from what would be right.
        repomd: repomd.xml instead.
    """
    into = folder / "repodata"
    into.mkdir(exist_ok=True)
    made: dict[str, Optional[bytes]] = {
        "primary": gzip.compress(primary_of(packages).encode(), mtime=0),
        "filelists": gzip.compress(filelists_of(packages).encode(), mtime=0),
        **(lists or {}),
    }
    text = '<?xml version="1.0"?>\n<repomd xmlns="http://linux.duke.edu/metadata/repo">\n'
    for kind, data in made.items():
        if data is not None:
            (into / f"{kind}.xml.gz").write_bytes(data)
            text += (
                f'<data type="{kind}">'
                f'<checksum type="sha256">{hashlib.sha256(data).hexdigest()}</checksum>'
                f'<location href="repodata/{kind}.xml.gz"/></data>\n'
            )
    text += "</repomd>\n"
    for old, new in (records or {}).items():
        assert old in text
        text = text.replace(old, new)
    (into / "repomd.xml").write_bytes(text.encode() if repomd is None else repomd)
