# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast `sgx-enclaves scan` passes by packages without enclaves.

    python3 -m benchmarks.scan [--packages N] [--jobs N]

Makes one package of 150 files with the real rpmbuild, copies it N times, and
prints packages per second of: the scan; `rpm -qp --provides`, one process for
each package, as a shell loop runs it; and the same, one process for all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = """
Name: plain
Version: 1
Release: 1
Summary: A package without enclaves
License: MIT
BuildArch: noarch
AutoReqProv: no
{provides}

%description
A package without enclaves.

%install
mkdir -p %{{buildroot}}/usr/share/doc/plain
for i in $(seq 150); do
  echo $i > %{{buildroot}}/usr/share/doc/plain/a-file-of-the-documentation-$i.html
done

%files
/usr/share/doc/plain
"""
# One process for each package is slow; so many are enough to see how slow.
_SINGLE = 200


def build(folder: Path) -> Path:
    """One package, built in `folder`."""
    provides = "\n".join(f"Provides: perl(Thing::Part{i}) = 1.{i}" for i in range(30))
    spec = folder / "plain.spec"
    spec.write_text(SPEC.format(provides=provides))
    argv = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}", str(spec)]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    return next(folder.glob("RPMS/*/*.rpm"))


def seconds(*argvs: list[str]) -> float:
    """How long the commands take, one after the other."""
    start = time.perf_counter()
    for argv in argvs:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    query = ["rpm", "-qp", "--provides"]
    with tempfile.TemporaryDirectory() as name:
        package = build(Path(name))
        tree = Path(name, "tree")
        tree.mkdir()
        paths = [str(tree / f"{index}.rpm") for index in range(args.packages)]
        for path in paths:
            shutil.copyfile(package, path)
        scan = [sys.executable, "-m", "sgx_enclaves", "scan", str(tree), "--jobs", str(args.jobs)]
        single = paths[:_SINGLE]
        rates = {
            f"scan, {args.jobs} process(es)": len(paths) / seconds(scan),
            "rpm -qp --provides, each": len(single) / seconds(*([*query, p] for p in single)),
            "rpm -qp --provides, all at once": len(paths) / seconds([*query, *paths]),
        }
    ours, *_ = rates.values()
    for what, rate in rates.items():
        print(f"{what:32} {rate:9.0f} packages/s   scan is {ours / rate:6.1f} times as fast")


if __name__ == "__main__":
    main()
