# SPDX-License-Identifier: GPL-2.0-or-later
"""Fuzz the readers, guided by their coverage (needs atheris, which is not for every machine).

python -m tests.fuzz SECONDS [TARGET...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOST_BYTES = 1 << 16
# What one case may take of the processor, in seconds, and of anybody's time; MiB of the process.
CASE_SECONDS = 1.0
DEADLINE = 60
MEMORY_MIB = 1024


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which the fuzzer ends."""
    import atheris  # noqa: PLC0415

    with atheris.instrument_imports(include=["sgx_enclaves"]):
        from sgx_enclaves.errors import SgxEnclavesError  # noqa: PLC0415
        from tests.fuzz.targets import TARGETS, seeds  # noqa: PLC0415

    def one(data: bytes) -> None:
        start = time.process_time()
        try:
            TARGETS[name].read(data)
        except SgxEnclavesError as error:
            str(error)
        if time.process_time() - start > CASE_SECONDS:
            raise TimeoutError(f"more than {CASE_SECONDS} s of the processor's time")

    with tempfile.TemporaryDirectory() as folder:
        for index, seed in enumerate(seeds(name)):
            (Path(folder) / str(index)).write_bytes(seed)
        options = (
            f"-max_total_time={seconds}",
            f"-timeout={DEADLINE}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={MOST_BYTES}",
            f"-artifact_prefix={name}-",
            "-print_final_stats=1",
        )
        atheris.Setup([sys.argv[0], *options, folder], one)
        atheris.Fuzz()


def main() -> int:
    seconds, names = int(sys.argv[1]), sys.argv[2:]
    if len(names) == 1:
        fuzz(names[0], seconds)
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    failed = []
    for name in names or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", str(seconds), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        count = runs[0].split()[-1] if runs else "no"
        print(f"{name}: {count} executions, {'ok' if done.returncode == 0 else 'FAILED'}")
        if done.returncode:
            failed.append(name)
            print(done.stderr[-3000:])
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
