# SPDX-License-Identifier: GPL-2.0-or-later
"""The vectors of tests/data/vectors: real SIGSTRUCTs and metadata areas."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

_DATA = Path(__file__).resolve().parents[2] / "data" / "vectors"


def _read(name: str, key: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (_DATA / name).read_text("utf-8").splitlines()]
    for record in records:
        record[key] = base64.b64decode(record[key])
    return records


def sigstructs() -> list[dict[str, Any]]:
    """One record a SIGSTRUCT; `sigstruct` holds its 1808 bytes."""
    return _read("sigstructs.jsonl", "sigstruct")


def metadata_areas() -> list[dict[str, Any]]:
    """One record a file; `descriptor` holds the bytes of its metadata area."""
    return _read("metadata.jsonl", "descriptor")
