# SPDX-License-Identifier: GPL-2.0-or-later
"""Write `data/` again from what the product says now: `python -m tests.golden.update [-k WHAT]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.golden.stored import UPDATE

if __name__ == "__main__":
    os.environ[UPDATE] = "1"
    here = str(Path(__file__).parent)
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", here, *sys.argv[1:]]))
