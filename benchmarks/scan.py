# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast `sgx-enclaves scan` passes by packages without enclaves.

Makes a tree of 10,000 packages with 150 files each, its repodata with
createrepo_c, and measures packages per second of a scan by repodata and of one
by headers, against `rpm -qp --provides`: one process for each package, as a
shell loop runs it, and one process for all. The tree is removed afterwards.

Every package is read from the page cache. From a disk, rpm and headers cost one
seek or more a package, and repodata two files in all.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support_rpm import RpmFile, folder, write_rpm

PACKAGES = 10_000
FILES = 150
PROVIDES = 30
# So many are different; their copies are too far apart for gzip to notice.
_DIFFERENT = 250
# One process for each package is slow; so many are enough to see how slow.
_SINGLE = 100
_ROUNDS = 3


def make_tree(into: Path, packages: int = PACKAGES) -> list[str]:
    """A tree of packages without enclaves; returns their paths."""
    chance = random.Random(1)  # noqa: S311
    made = [_package(chance, index) for index in range(min(_DIFFERENT, packages))]
    paths = []
    for index in range(packages):
        path = into / f"package-{index}-1.0-1.x86_64.rpm"
        path.write_bytes(made[index % len(made)])
        paths.append(str(path))
    return paths


def _package(chance: random.Random, index: int) -> bytes:
    def word() -> str:
        return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10)))

    base = f"/usr/share/{word()}{index}"
    files = [folder(base)]
    inner = base
    for number in range(FILES):
        if number % 15 == 0:
            inner = f"{base}/{word()}{number}"
            files.append(folder(inner))
        files.append(RpmFile(f"{inner}/{word()}-{word()}{number}.html", word().encode()))
    provides = [f"{word()}({word()}::{word()})" for _ in range(PROVIDES)]
    return write_rpm(files, name=f"package{index}", provides=provides)


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(*argv: str) -> None:
    """Run a program that must succeed, and nobody reads, with its modules compiled once."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    out = subprocess.DEVNULL
    subprocess.run(argv, check=True, stdout=out, stderr=out, env=environment)


def run_each(argv: list[str], paths: list[str]) -> None:
    """A process for each path, one after the other."""
    for path in paths:
        run(*argv, path)


def rates(packages: int = PACKAGES) -> dict[str, float]:
    """Packages per second of each way, the best of several rounds; see the module.

    By `repodata` only with createrepo_c, by `headers`, `rpm for each` and `rpm for all` only with
    rpm.
    """
    if shutil.which("rpm") is None:
        return {}
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        paths = make_tree(tree, packages)
        query = ["rpm", "-qp", "--nosignature", "--provides"]
        scan = [sys.executable, "-m", "sgx_enclaves", "scan", str(tree)]
        single = paths[:_SINGLE]
        ways: dict[str, tuple[int, Callable[[], None]]] = {
            "headers": (packages, lambda: run(*scan, "--headers")),
            "rpm for each": (len(single), lambda: run_each(query, single)),
            "rpm for all": (packages, lambda: run(*query, *paths)),
        }
        tool = createrepo()
        if tool is not None:
            run(tool, "--no-database", str(tree))
            ways["repodata"] = (packages, lambda: run(*scan))
        best = dict.fromkeys(ways, float("inf"))
        # Alternate, so that all see the same machine.
        for _ in range(_ROUNDS):
            for way, (_count, action) in ways.items():
                best[way] = min(best[way], seconds(action))
        return {way: count / best[way] for way, (count, _action) in ways.items()}


def createrepo() -> str | None:
    """The path of createrepo_c, if it is installed."""
    beside = Path(sys.executable).with_name("createrepo_c")
    return str(beside) if beside.exists() else shutil.which("createrepo_c")


if __name__ == "__main__":
    for way, rate in rates().items():
        print(f"{way:14} {rate:9.0f} packages/s")
