# SPDX-License-Identifier: GPL-2.0-or-later
"""A package repository, as Koji writes them: what it has, which packages a group names."""

from __future__ import annotations

import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import createrepo_c

_TIMEOUT = 60
_TRIES, _PAUSE = 20, 1.0


@dataclass(frozen=True)
class Offer:
    """A package that a repository has.

    Attributes:
        name: its name.
        url: where it is.
        provides: names of what it provides, files included.
        requires: names of what it requires.
    """

    name: str
    url: str
    provides: frozenset[str]
    requires: frozenset[str]


def download(url: str, target: Path) -> Path:
    """Fetch a file, and wait for a server that is away, as dnf does.

    The URL comes from the builder's own configuration.
    """
    for _ in range(_TRIES - 1):
        try:
            return _fetch(url, target)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(_PAUSE)
    return _fetch(url, target)


def _fetch(url: str, target: Path) -> Path:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as file:  # noqa: S310
        shutil.copyfileobj(answer, file)
    return target


class Repository:
    """The packages and groups below one base URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.offers: list[Offer] = []
        self._groups: dict[str, tuple[str, ...]] = {}
        with tempfile.TemporaryDirectory() as folder:
            self._load(Path(folder))

    def group(self, name: str) -> tuple[str, ...]:
        """The names of a group's packages."""
        return self._groups.get(name, ())

    def satisfying(self, wanted: Iterable[str]) -> list[Offer]:
        """The packages that provide these names, with what they require in turn."""
        chosen: dict[str, Offer] = {}
        left = list(wanted)
        while left:
            name = left.pop()
            for offer in self.offers:
                if offer.url not in chosen and (name == offer.name or name in offer.provides):
                    chosen[offer.url] = offer
                    left += offer.requires
                    break
        return list(chosen.values())

    def _load(self, folder: Path) -> None:
        index = createrepo_c.Repomd(
            str(download(f"{self._url}/repodata/repomd.xml", folder / "repomd.xml"))
        )
        for record in index.records:
            if record.type not in ("primary", "group"):
                continue
            name = Path(record.location_href).name
            path = download(f"{self._url}/{record.location_href}", folder / name)
            if record.type == "group":
                self._read_groups(path)
            else:
                createrepo_c.xml_parse_primary(str(path), pkgcb=self._take, do_files=True)

    def _take(self, package: Any) -> None:
        base = package.location_base or self._url
        provides = {entry[0] for entry in package.provides}
        provides |= {entry[1] + entry[2] for entry in package.files}
        requires = {entry[0] for entry in package.requires if not entry[0].startswith("rpmlib(")}
        offer = Offer(
            package.name,
            f"{base.rstrip('/')}/{package.location_href}",
            frozenset(provides),
            frozenset(requires),
        )
        self.offers.append(offer)

    def _read_groups(self, path: Path) -> None:
        for group in ElementTree.parse(path).getroot().iter("group"):  # noqa: S314 - the hub's own
            names = [node.text or "" for node in group.iter("packagereq")]
            self._groups[group.findtext("id", "")] = tuple(names)
