# SPDX-License-Identifier: GPL-2.0-or-later
"""What mock is asked: its command line, and the configuration that it names. Runs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

MODES = ("init", "clean", "scrub", "install", "chroot", "shell", "buildsrpm", "rebuild")
_VALUES = ("target", "arch", "cwd", "spec", "sources", "resultdir", "configdir", "uniqueext")
# They change nothing here.
_FLAGS = ("no-clean", "unpriv", "old-chroot", "new-chroot", "quiet", "verbose", "enable-network")


@dataclass(frozen=True)
class Config:
    """The part of a mock configuration that the stand-in heeds.

    Attributes:
        base: folder of this buildroot; holds root/ and result/.
        group: group of packages to begin with.
        repositories: base URLs of package repositories.
        network: whether commands in the chroot may reach the network.
        macros: lines for .rpmmacros.
        environment: for commands in the chroot.
    """

    base: Path
    group: str
    repositories: tuple[str, ...]
    network: bool
    macros: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The chroot."""
        return self.base / "root"

    @property
    def result(self) -> Path:
        """Where packages and logs go."""
        return self.base / "result"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """mock's command line; `mode` is the action and `words` what follows it."""
    parser = argparse.ArgumentParser(prog="mock", allow_abbrev=False)
    parser.add_argument("-r", "--root", required=True)
    parser.add_argument("-D", "--define", action="append", default=[])
    for name in _VALUES:
        parser.add_argument(f"--{name}")
    for name in _FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    modes = parser.add_mutually_exclusive_group(required=True)
    for name in MODES:
        modes.add_argument(f"--{name}", dest="mode", action="store_const", const=name)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    if args.words[:1] == ["--"]:
        del args.words[0]
    return args


def _repositories(text: str) -> tuple[str, ...]:
    """The base URLs of a dnf configuration."""
    found = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "baseurl":
            found.append(value.strip().rstrip("/"))
    return tuple(found)


def _group(command: str) -> str:
    """The group that dnf is asked to install: `install @NAME`; `groupinstall NAME` before 1.35."""
    words = command.split()
    if words[:1] == ["groupinstall"]:
        return words[1]
    return next((word[1:] for word in words if word.startswith("@")), "")


def read_config(name: str, folder: Optional[str]) -> Config:
    """Run a configuration file, which is Python, as mock does.

    Args:
        name: as after -r: a file, or a name below the folder.
        folder: where configurations are; /etc/mock by default.
    """
    path = Path(name) if name.endswith(".cfg") else Path(folder or "/etc/mock", f"{name}.cfg")
    opts: dict[str, Any] = {
        "basedir": "/var/lib/mock",
        "chroot_setup_cmd": "",
        "macros": {},
        "environment": {},
        "files": {},
        "plugin_conf": {"bind_mount_opts": {"dirs": [], "files": []}},
    }
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"config_opts": opts})  # noqa: S102
    return Config(
        base=Path(opts["basedir"], opts["root"]),
        group=_group(str(opts["chroot_setup_cmd"])),
        repositories=_repositories(str(opts.get("dnf.conf") or opts.get("yum.conf") or "")),
        network=bool(opts.get("rpmbuild_networking")),
        macros=dict(opts["macros"]),
        environment=dict(opts["environment"]),
    )
