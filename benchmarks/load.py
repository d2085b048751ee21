# SPDX-License-Identifier: GPL-2.0-or-later
"""How a scan carries a load: many enclaves, many packages, and being killed on the way.

python -m benchmarks.load [--enclaves 1000] [--packages 60000]

Each scan is a process of its own. What it must do: judge every enclave, need no more memory
for many packages than for few, and after a kill look only at what it had not finished.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scan import createrepo, make_tree, run
from tests.support.keys import mrsigner, vendor_key
from tests.support.signed import signed_enclave
from tests.support_rpm import RpmFile, write_rpm

FOLDER = "/usr/x86_64-intel-sgx/lib64"
# Memory of a scan of the whole tree against one of a twelfth of it.
MOST_GROWTH = 1.5


@dataclass(frozen=True)
class Scan:
    """What a scan said, and what it took."""

    status: int
    report: dict[str, Any]
    seconds: float
    mib: float


def scan(tree: Path, *options: str) -> Scan:
    """Scan a folder in a process of its own."""
    words = [sys.executable, "-m", "sgx_enclaves", "scan", str(tree), "--json", *options]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        report = json.loads(out.read())
    seconds = time.perf_counter() - start
    return Scan(process.returncode, report, seconds, usage.ru_maxrss / 1024)


def many_enclaves(tree: Path, count: int) -> list[str]:
    """Packages of one signed enclave each, every tenth with a foreign byte; scan's options."""
    case = signed_enclave("2.25")
    reference = tree / "reference"
    reference.mkdir()
    (reference / "libsgx_pce.so").write_bytes(case.built)
    (reference / "libsgx_pce.config.xml").write_bytes(case.config)
    packages = tree / "packages"
    packages.mkdir()
    code = case.image.data.index(bytes.fromhex("89f8c3"))
    spoiled = case.signed[:code] + b"?" + case.signed[code + 1 :]
    for index in range(count):
        data = spoiled if index % 10 == 0 else case.signed
        files = [RpmFile(f"{FOLDER}/libsgx_pce.signed.so.1.25.{index}", data, 0o100755)]
        package = write_rpm(files, name=f"p{index}", provides=["sgx-enclave(pce:signed)"])
        (packages / f"p{index}-1-1.x86_64.rpm").write_bytes(package)
    policy = ("--signer", mrsigner(vendor_key()), "--any-product", "--min-isvsvn", "0")
    return ["--reference", str(reference), *policy]


def killed_and_resumed(tree: Path, options: list[str]) -> tuple[Scan, float]:
    """A scan that is killed when half of its results are kept, then run again."""
    state = tree / "state.json"
    words = [sys.executable, "-m", "sgx_enclaves", "scan", str(tree / "packages"), "--json"]
    words += [*options, "--state", str(state)]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not state.exists():
        time.sleep(0.05)
    time.sleep((time.perf_counter() - start) / 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return scan(tree / "packages", *options, "--state", str(state)), time.perf_counter() - start


def load_of_enclaves(folder: Path, count: int) -> bool:
    """Scan many enclaves; scan them again after a kill."""
    options = many_enclaves(folder, count)
    whole = scan(folder / "packages", *options)
    again, _ = killed_and_resumed(folder, options)
    spoiled = (count + 9) // 10
    outcomes = [package["outcome"] for package in whole.report["packages"]]
    found = outcomes.count("differs"), outcomes.count("identical")
    same = again.report == whole.report
    print(
        f"{count} enclaves: {whole.seconds:.1f} s, {whole.mib:.0f} MiB, "
        f"{found[1]} identical and {found[0]} differ; "
        f"killed and resumed: {'the same report' if same else 'ANOTHER REPORT'}"
    )
    return same and whole.status == 1 and found == (spoiled, count - spoiled)


def load_of_packages(folder: Path, count: int) -> bool:
    """Scan a repository by its repodata, and a twelfth of it."""
    tool = createrepo()
    if tool is None:
        sys.exit("createrepo_c is not installed")
    taken = []
    for part in (count // 12, count):
        tree = folder / str(part)
        tree.mkdir()
        make_tree(tree, part)
        run(tool, "--no-database", str(tree))
        taken.append(scan(tree))
    small, large = taken
    print(
        f"{count} packages by repodata: {large.seconds:.1f} s, {large.mib:.0f} MiB "
        f"({count // 12} packages: {small.seconds:.1f} s, {small.mib:.0f} MiB)"
    )
    return large.status == small.status and large.mib < MOST_GROWTH * small.mib


def main() -> int:
    """Run both; 0 if each did what it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enclaves", type=int, default=1_000)
    parser.add_argument("--packages", type=int, default=60_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        kept = [
            load_of_enclaves(Path(one), arguments.enclaves),
            load_of_packages(Path(other), arguments.packages),
        ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
