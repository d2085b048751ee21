# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin uses of kojid that is not in Koji's library, and how its errors leave.

kojid is a program, not a module: its classes are in `__main__` once it has started.
Tests put stand-ins there.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import koji

from sgx_enclaves.errors import ArgumentError, SgxEnclavesError


def new_buildroot(*args: Any, **keywords: Any) -> Any:
    """A new `BuildRoot` of kojid's, with the arguments that it takes."""
    return importlib.import_module("__main__").BuildRoot(*args, **keywords)


@contextmanager
def koji_errors() -> Iterator[None]:
    """Let errors of the core and of the system out as Koji's, with the same words."""
    try:
        yield
    except ArgumentError as error:
        raise koji.ParameterError(str(error)) from error
    except SgxEnclavesError as error:
        raise koji.GenericError(str(error)) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise koji.GenericError(
            f"the builder cannot go on: {error.strerror or error}{where}; "
            "check its disk, then start the verification again"
        ) from error
