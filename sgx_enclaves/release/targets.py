# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the makefiles of a source tree know the targets that its release names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sgx_enclaves.catalogue.records import Build, Release, Toolchain
from sgx_enclaves.release.build_tree import step_environment
from sgx_enclaves.release.place import Command, Tree, describe
from sgx_enclaves.release.toolchain import ToolchainKind, search_path

_TIMEOUT = 60
_WITH_VALUE = ("-f", "-o", "-C")
_NOTHING = ".sgx-enclaves-nothing"


def find_targets(
    release: Release, build: Build, toolchain: Toolchain, tree: Tree, log: Path
) -> Iterator[tuple[str, str]]:
    """Have `make` read the makefiles of steps and enclaves, and make nothing.

    A directory that only a step makes is left out.

    Yields:
        The step or enclave with its targets, and what is wrong with them; empty if nothing is.
    """
    path = search_path(toolchain, ToolchainKind.HOST)
    environment = step_environment(toolchain, path, tree.home, {})
    made = [(f"step {s.id}", s.place, s.command) for s in build.steps if s.command[0] == "make"]
    for enclave in release.enclaves:
        if enclave.build is not None:
            own = enclave.build
            made.append((f"enclave {enclave.name}", own.make_directory, ("make", own.make_target)))
    for what, place, command in made:
        options, targets = _split(command[1:])
        if not targets or not (tree.path / place).is_dir():
            continue
        argv = ["make", "-pq", f"--eval={_NOTHING}: ;", _NOTHING, *options]
        folder = f"{tree.root}/{place}"
        ended = tree.run(Command(argv, folder, environment, toolchain.umask, _TIMEOUT), log)
        known = log.read_text("utf-8", "replace")
        lost = [t for t in targets if not re.search(rf"(?m)^{re.escape(t)} *:", known)]
        stopped = re.search(r"\*\*\* .*", known)
        problem = f"make knows no {', '.join(lost)}" if lost else ""
        if lost and (stopped is not None or ended.status is None):
            problem += f": {stopped[0] if stopped is not None else describe(ended)}"
        yield f"{what}: {', '.join(targets)}", problem


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options and variables, and targets."""
    options: list[str] = []
    targets: list[str] = []
    for before, word in zip(("", *words), words):
        option = word.startswith("-") or "=" in word or before in _WITH_VALUE
        (options if option else targets).append(word)
    return [word.replace("{jobs}", "1") for word in options], targets
