# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m benchmarks`: measure each promise and say whether it is kept."""

from __future__ import annotations

import sys

from benchmarks.cases import CASES, Result
from benchmarks.rpmlint import rpmlint_added


def main() -> int:
    """Run all cases; 0 if every promise is kept."""
    results = [result for case in (*CASES, rpmlint_added) for result in _run(case.__name__, case())]
    return 0 if all(result.kept for result in results) else 1


def _run(name: str, results: list[Result]) -> list[Result]:
    for result in results:
        kept = "kept  " if result.kept else "BROKEN"
        print(
            f"{kept}  {name:<20} {result.what}: {result.value:.2f} {result.unit} "
            f"(at most {result.limit:g})",
            flush=True,
        )
    return results


if __name__ == "__main__":
    sys.exit(main())
