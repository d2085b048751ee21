# SPDX-License-Identifier: GPL-2.0-or-later
"""Fit kojid to a test: the mock that it runs, and no waiting for a machine that is busy.

kojid reads an option `mockpath` that its file may not set. It takes no task while the load
average is high, so that tests would hang on a small machine that does other work, too.
"""

from __future__ import annotations

import os
import sys

setattr(sys.modules["__main__"].options, "mockpath", os.environ["HARNESS_MOCK"])  # noqa: B010
os.getloadavg = lambda: (0.0, 0.0, 0.0)
