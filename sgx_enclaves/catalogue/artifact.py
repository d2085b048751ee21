# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that a release needs, and where it may be fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional
from urllib.parse import quote, urlsplit

from sgx_enclaves.errors import CatalogueError
from sgx_enclaves.files import sha256_of
from sgx_enclaves.limits import MIB
from sgx_enclaves.plain import record

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")


@record
class Artifact:
    """A file to fetch, under its name, from the first of its HTTPS URLs that has it.

    Each digest is a pin that must hold, but for `lookaside_sha512`, by which look-aside caches may
    have it, one for each name that the repository has had. That of the contents is of what the
    archive holds, however it is packed (see `archive`). At most `max_size` bytes are fetched.
    `lookaside_package` is the source package that it belongs to there; None for the usual one.
    """

    filename: str
    urls: tuple[str, ...]
    sha256: Optional[str] = None
    sha512: Optional[str] = None
    size: Optional[int] = None
    max_size: int = 1024 * MIB
    contents_sha256: Optional[str] = None
    lookaside_sha512: tuple[str, ...] = ()
    lookaside_package: Optional[str] = None

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
        urls = "\n".join(self.urls).encode()
        return self.sha256 or self.contents_sha256 or f"url-{sha256_of(urls)}"


def check_url(url: str) -> str:
    """Give the URL back if it is one that may be fetched, else raise a CatalogueError."""
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
    """A look-aside cache as dist-git servers keep; docs/releases.md says where a file is in it."""

    base: str
    package: str

    def __post_init__(self) -> None:
        check_url(self.base)
        if not PLAIN_NAME.fullmatch(self.package):
            raise CatalogueError("a package name must be plain", found=repr(self.package))

    def urls(self, artifact: Artifact) -> tuple[str, ...]:
        """Where the file would stand, for each digest that is known; maybe none."""
        name = quote(artifact.filename)
        package = artifact.lookaside_package or self.package
        digests = [("sha512", value) for value in (artifact.sha512, *artifact.lookaside_sha512)]
        return tuple(
            f"{self.base.rstrip('/')}/{package}/{name}/{kind}/{value}/{name}"
            for kind, value in (*digests, ("sha256", artifact.sha256))
            if value is not None
        )
