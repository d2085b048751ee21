# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON Schemas of reports."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def schema(report: str) -> dict[str, Any]:
    """The schema of a report: `verdict` or `release`."""
    file = resources.files("sgx_enclaves.report").joinpath(f"{report}.schema.json")
    loaded: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return loaded
