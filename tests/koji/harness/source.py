# SPDX-License-Identifier: GPL-2.0-or-later
"""Where Koji's own code is: in a checkout, or installed on this machine. Starts nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

INSTALLED = "installed"
_SYSTEM = Path("/usr")


class NoKojiError(Exception):
    """A folder that is not Koji's source, or a machine without its packages."""


@dataclass(frozen=True)
class KojiSource:
    """Koji's programs.

    Attributes:
        version: such as "1.35.3".
        python_path: folders that its modules are imported from; empty when installed.
        kojid, kojira, cli: the three programs, Python scripts.
        schema: the SQL of an empty hub.
    """

    version: str
    python_path: tuple[Path, ...]
    kojid: Path
    kojira: Path
    cli: Path
    schema: Path


def _first(what: str, *candidates: Path) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise NoKojiError(f"Koji's {what} is at none of {', '.join(map(str, candidates))}")


def _version(folder: Path) -> str:
    text = (folder / "koji/_version.py").read_text(encoding="utf-8")
    match = re.search(r"__version_info__ = \(([0-9, ]+)\)", text)
    if not match:
        raise NoKojiError(f"{folder}/koji/_version.py names no version")
    return ".".join(part.strip() for part in match[1].split(",") if part.strip())


def find(where: str) -> KojiSource:
    """Koji's programs in a checkout.

    Args:
        where: the checkout's folder, or the word "installed".

    Raises:
        NoKojiError: they are not there.
    """
    if where == INSTALLED:
        return _installed()
    folder = Path(where).resolve()
    if not (folder / "koji/_version.py").is_file():
        raise NoKojiError(f"KOJI_SRC={where} is not a checkout of Koji: it has no koji/_version.py")
    return KojiSource(
        version=_version(folder),
        python_path=(folder,),
        kojid=_first("builder", folder / "builder/kojid"),
        kojira=_first("kojira", folder / "util/kojira"),
        cli=_first("command", folder / "cli/koji"),
        # It moved with 1.34.
        schema=_first("schema", folder / "schemas/schema.sql", folder / "docs/schema.sql"),
    )


def _installed() -> KojiSource:
    modules = sorted(_SYSTEM.glob("lib*/python3*/*-packages/koji/_version.py"))
    if not modules:
        raise NoKojiError("KOJI_SRC=installed, but the system's Python has no module koji")
    schemas = sorted(_SYSTEM.glob("share/**/schema.sql"))
    return KojiSource(
        version=_version(modules[0].parents[1]),
        python_path=(),
        kojid=_first("builder", _SYSTEM / "sbin/kojid"),
        kojira=_first("kojira", _SYSTEM / "sbin/kojira"),
        cli=_first("command", _SYSTEM / "bin/koji"),
        schema=_first("schema", *(path for path in schemas if "koji" in str(path))),
    )
