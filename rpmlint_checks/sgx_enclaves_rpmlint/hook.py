# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets rpmlint find the check where it looks for its own.

rpmlint loads a check `Foo` as `rpmlint.checks.Foo` only, and reads configuration from the XDG
folders only. A `.pth` file registers this finder at every start of Python, which answers for our
module and adds our folder to the XDG folders. It imports what Python has imported already.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

# As in `typing`, which takes longer to import than all the rest of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Optional

_HERE = os.path.dirname(os.path.abspath(__file__))
CHECK = "SgxEnclaveCheck"
CONFIG_FOLDER = os.path.join(_HERE, "xdg")
_CHECK_MODULE = f"rpmlint.checks.{CHECK}"


class Finder:
    """A finder for `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        """See `importlib.abc.MetaPathFinder`."""
        if name == "rpmlint.config":
            # The list that it is about to import. Another rpmlint may have its folders elsewhere:
            # then `rpmlint --config` must name the file.
            try:
                folders = importlib.import_module("xdg.BaseDirectory").xdg_config_dirs
            except (ImportError, AttributeError):
                folders = [CONFIG_FOLDER]
            if CONFIG_FOLDER not in folders:
                folders.append(CONFIG_FOLDER)
        if name != _CHECK_MODULE or PathFinder.find_spec(name, path, target) is not None:
            # A distribution's package puts the check beside rpmlint's own.
            return None
        file = os.path.join(_HERE, f"{CHECK}.py")
        spec = ModuleSpec(name, SourceFileLoader(name, file), origin=file)
        spec.has_location = True
        return spec


def register() -> None:
    """Put the finder first, once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
