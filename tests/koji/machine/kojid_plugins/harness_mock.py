# SPDX-License-Identifier: GPL-2.0-or-later
"""Name the mock that kojid runs: it reads an option `mockpath` that its file may not set."""

from __future__ import annotations

import os
import sys

setattr(sys.modules["__main__"].options, "mockpath", os.environ["HARNESS_MOCK"])  # noqa: B010
