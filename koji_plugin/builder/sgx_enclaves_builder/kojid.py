# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam to kojid: what it defines in its own program, and nothing else.

kojid is no module. Its classes are in `__main__` once it has started; tests put
stand-ins there.
"""

from __future__ import annotations

import importlib
from typing import Any


def new_buildroot(*args: Any, **keywords: Any) -> Any:
    """A new `BuildRoot` of kojid's, with the arguments that it takes."""
    return importlib.import_module("__main__").BuildRoot(*args, **keywords)
