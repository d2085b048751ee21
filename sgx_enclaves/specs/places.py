# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the templates are: in an installed package, or in a checkout."""

from __future__ import annotations

import enum
from pathlib import Path

from sgx_enclaves.errors import InputError

# setup.py puts the folder spec-templates/ there.
_INSTALLED = Path(__file__).with_name("templates")
_CHECKOUT = Path(__file__).resolve().parents[2] / "spec-templates"


class Kind(enum.Enum):
    """What a source package of enclaves is for."""

    REPRODUCIBLE = "reproducible"
    PREBUILT = "prebuilt"
    GRAFTED = "grafted"


def templates_folder() -> Path:
    """The folder with the templates, the macros and the file attributes.

    Raises:
        InputError: there is none, so the installation is not whole.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if folder.is_dir():
            return folder
    raise InputError(
        "the spec templates are not there", file=str(_INSTALLED), hint="install sgx-enclaves anew"
    )


def read_template(kind: Kind) -> tuple[str, str]:
    """The template's text and its path.

    Raises:
        InputError: it cannot be read.
    """
    path = templates_folder() / f"{kind.value}.spec.in"
    try:
        return path.read_text("utf-8"), str(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from None
