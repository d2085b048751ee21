# SPDX-License-Identifier: GPL-2.0-or-later
"""The actions of mock, in the order that a builder asks for them."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.koji.machine.standin.chroot import Chroot
from tests.koji.machine.standin.request import Config, parse, read_config

# mock's exit status for a build that failed.
BUILD_FAILED = 10
_TREE = "builddir/build"
_INSIDE = f"/{_TREE}"


class Action:
    """One call of mock."""

    def __init__(self, args: argparse.Namespace, config: Config) -> None:
        self._args = args
        self._result = Path(args.resultdir) if args.resultdir else config.result
        self._config = config
        self._chroot = Chroot(config)

    def run(self) -> int:
        """Do it; the exit status."""
        self._result.mkdir(parents=True, exist_ok=True)
        mode = self._args.mode
        if mode in ("clean", "scrub"):
            shutil.rmtree(self._config.base)
            return 0
        if mode == "init" or not self._config.root.is_dir():
            self._state("make the chroot")
            self._chroot.make(lambda text: self._say("root.log", text))
        self._state(f"begin {mode} {' '.join(self._args.words)}")
        actions = {
            "init": lambda: 0,
            "install": self._install,
            "chroot": self._command,
            "shell": self._command,
            "buildsrpm": self._build_srpm,
            "rebuild": self._rebuild,
        }
        status = actions[mode]()
        self._state(f"end {mode}: exit status {status}")
        return status

    def _say(self, log: str, text: str) -> None:
        with (self._result / log).open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def _state(self, text: str) -> None:
        self._say("state.log", f"{datetime.datetime.now().isoformat()} {text}")

    def _install(self) -> int:
        self._chroot.install(self._args.words, lambda text: self._say("root.log", text))
        return 0

    def _command(self) -> int:
        words = self._args.words
        argv = ["/bin/sh", "-c", words[0]] if len(words) == 1 else words
        return self._chroot.run(argv, self._args.cwd or "/")

    def _rpmbuild(self, *words: str) -> int:
        target = ["--target", self._args.target] if self._args.target else []
        defines = [part for text in self._args.define for part in ("--define", text)]
        # The host's packages are in no RPM database: nothing could satisfy a BuildRequires.
        argv = ["rpmbuild", "--nodeps", *target, *defines, *words]
        return BUILD_FAILED if self._chroot.run(argv, "/builddir", self._log) else 0

    @property
    def _log(self) -> Path:
        return self._result / "build.log"

    def _build_srpm(self) -> int:
        tree = self._config.root / _TREE
        spec = Path(self._args.spec)
        shutil.copy(spec, tree / "SPECS")
        for path in Path(self._args.sources).iterdir():
            if path.is_file():
                shutil.copy(path, tree / "SOURCES")
        status = self._rpmbuild("-bs", f"{_INSIDE}/SPECS/{spec.name}")
        self._collect("SRPMS/*.rpm")
        return status

    def _rebuild(self) -> int:
        tree = self._config.root / _TREE
        for word in self._args.words:
            source = Path(word)
            shutil.copy(source, tree / "originals")
            self._chroot.install(_build_requires(source), lambda text: self._say("root.log", text))
            unpack = ["rpm", "-i", "--nodeps", f"{_INSIDE}/originals/{source.name}"]
            if self._chroot.run(unpack, "/builddir", self._log):
                return BUILD_FAILED
            (spec,) = (tree / "SPECS").glob("*.spec")
            status = self._rpmbuild("-ba", f"{_INSIDE}/SPECS/{spec.name}")
            self._collect("RPMS/*.rpm", "RPMS/*/*.rpm", "SRPMS/*.rpm")
            if status:
                return status
        return 0

    def _collect(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in (self._config.root / _TREE).glob(pattern):
                shutil.copy2(path, self._result)


def _build_requires(source: Path) -> list[str]:
    """The names that a source package requires."""
    argv = ["rpm", "-qp", "--nosignature", "--requires", str(source)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def _note(argv: Sequence[str], config: Config) -> None:
    """Keep a record of each call, beside the folder of all buildroots."""
    entry = {"argv": list(argv), "cwd": os.getcwd(), "network": config.network}
    with (config.base.parent.parent / "mock-calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def main(argv: Sequence[str]) -> int:
    """mock's exit status."""
    args = parse(argv)
    config = read_config(args.root, args.configdir)
    _note(argv, config)
    return Action(args, config).run()
