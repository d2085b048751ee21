# SPDX-License-Identifier: GPL-2.0-or-later
"""Says at the end how many tests were skipped, and why: one line a reason."""

from __future__ import annotations

import gc
import signal
from collections import Counter

import pytest

from tests.support.pages import in_huge_pages


def pytest_configure() -> None:
    """Be interruptible, and let what tests start be so: a shell's background job is not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what thousands of tests consist of out of garbage collections, in forks as well.

    And out of what a fork costs: a child has no page table of it before somebody writes to it.
    """
    gc.collect()
    gc.freeze()
    in_huge_pages()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by their reasons."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(reason_of(report) for report in skipped)
    if reasons:
        terminalreporter.section(f"{len(skipped)} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5}  {reason}")


def reason_of(report: pytest.TestReport) -> str:
    """The reason of a skipped test, on one line."""
    longrepr = report.longrepr
    text = str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())
