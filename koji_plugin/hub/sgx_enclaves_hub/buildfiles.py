# SPDX-License-Identifier: GPL-2.0-or-later
"""A build's binary packages as they lie on disk now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sgx_enclaves.errors import InputError
from sgx_enclaves.gate.inspect import BuildFile

from . import hubside

_SOURCES = ("src", "nosrc")


def build_files(build: Mapping[str, Any]) -> list[BuildFile]:
    """Every binary package of a build with its signed copies, sorted by name.

    Builds of other kinds (maven, images, …) have none, or only wrapped ones.

    Raises:
        InputError: the folder of signed copies cannot be read.
    """
    folder = hubside.build_folder(build)
    files = []
    for rpm in hubside.list_packages(build["id"]):
        if rpm["arch"] not in _SOURCES:
            path = hubside.package_path(rpm)
            files.append(
                BuildFile(
                    os.path.basename(path),
                    os.path.join(folder, path),
                    _copies(folder, rpm),
                )
            )
    return sorted(files, key=lambda f: f.name)


def _copies(folder: str, rpm: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(hubside.signed_copies(folder, rpm))
    except OSError as error:
        raise InputError(
            f"signed copies cannot be listed: {error.strerror or error}", file=folder
        ) from None
