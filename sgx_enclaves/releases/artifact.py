# SPDX-License-Identifier: GPL-2.0-or-later
"""One file that a release needs: what it is called, where it stands, its digests.

Data only. Knows the layout of a look-aside cache; never opens a connection.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Optional
from urllib.parse import quote, urlsplit

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.limits import MIB

_HEX = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "sha512": re.compile(r"[0-9a-f]{128}"),
    "contents_sha256": re.compile(r"[0-9a-f]{64}"),
}
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")


@dataclass(frozen=True)
class Artifact:
    """A file to fetch.

    Attributes:
        filename: its name, without a folder.
        urls: where it may stand, best first; HTTPS only.
        sha256: the pinned digest in lower-case hexadecimal; None if nobody knows it.
        sha512: a second pin, which look-aside caches are keyed by; usually None.
        size: bytes, where known.
        max_size: bytes that are fetched at most.
        contents_sha256: pin of what the archive holds, however it is packed (see
            `contents`); None if nobody knows it. Every pin that is given must hold.
    """

    filename: str
    urls: tuple[str, ...]
    sha256: Optional[str] = None
    sha512: Optional[str] = None
    size: Optional[int] = None
    max_size: int = 1024 * MIB
    contents_sha256: Optional[str] = None

    def __post_init__(self) -> None:
        if not _FILENAME.fullmatch(self.filename):
            raise CatalogueError("a file name must be plain", found=repr(self.filename))
        for kind, pattern in _HEX.items():
            value: Optional[str] = getattr(self, kind)
            if value is not None and not pattern.fullmatch(value):
                raise CatalogueError(
                    f"{self.filename}: {kind} must be lower-case hexadecimal", found=repr(value)
                )
        for url in self.urls:
            check_url(url)

    @property
    def pinned(self) -> bool:
        """Whether it is known beforehand what the file must hold."""
        return self.sha256 is not None or self.contents_sha256 is not None

    @property
    def pin(self) -> Optional[str]:
        """The pin that the file is looked for by, in words; None without one."""
        if self.sha256 is not None:
            return f"sha256 {self.sha256}"
        return f"contents_sha256 {self.contents_sha256}" if self.pinned else None

    @property
    def key(self) -> str:
        """A name for locks and part files: the pin, or the digest of the URLs."""
        if self.sha256:
            return self.sha256
        if self.contents_sha256:
            return f"contents-{self.contents_sha256}"
        return "url-" + hashlib.sha256("\n".join(self.urls).encode()).hexdigest()


def check_url(url: str) -> str:
    """Give the URL back if it is one that may be fetched.

    Raises:
        CatalogueError: not HTTPS, without a host, with a password, or malformed.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise CatalogueError("this is not a URL", found=repr(url)) from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise CatalogueError("a URL must be plain ASCII", found=repr(url))
    if parts.scheme != "https":
        raise CatalogueError("only https URLs are fetched", found=repr(url))
    if not host or parts.username is not None or parts.password is not None:
        raise CatalogueError("a URL needs a host and must hold no password", found=repr(url))
    return url


@dataclass(frozen=True)
class Lookaside:
    """A look-aside cache as dist-git servers keep beside their package repositories.

    A file stands at `BASE/PACKAGE/FILENAME/HASHTYPE/HASH/FILENAME`. Fedora's base
    is `https://src.fedoraproject.org/repo/pkgs/rpms`, CentOS Stream's
    `https://sources.stream.centos.org/sources/rpms`; both key by sha512.

    Attributes:
        base: URL without a trailing slash.
        package: name of the source package that the file belongs to.
    """

    base: str
    package: str

    def __post_init__(self) -> None:
        check_url(self.base)
        if not _FILENAME.fullmatch(self.package):
            raise CatalogueError("a package name must be plain", found=repr(self.package))

    def urls(self, artifact: Artifact) -> tuple[str, ...]:
        """Where the file would stand, for each digest that is known; maybe none."""
        name = quote(artifact.filename)
        return tuple(
            f"{self.base.rstrip('/')}/{self.package}/{name}/{kind}/{value}/{name}"
            for kind, value in (("sha512", artifact.sha512), ("sha256", artifact.sha256))
            if value is not None
        )
