# SPDX-License-Identifier: GPL-2.0-or-later
"""A verdict for programs: plain mappings and lists, as `verdict.schema.json` describes.

Field names are those of `sgx_enclaves.verdict.model`. Offsets and sizes are
integers in bytes, digests and excerpts lower-case hexadecimal.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from importlib import resources

from sgx_enclaves.verdict.model import Origin, Verdict

# Changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
SCHEMA_FILE = "verdict.schema.json"


def verdict_dict(verdict: Verdict) -> dict[str, object]:
    """The verdict as a mapping that `json.dump` takes."""
    plain = _plain(verdict)
    if not isinstance(plain, dict):
        raise TypeError("a verdict is a mapping")
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": verdict.outcome.value,
        "exit_status": verdict.exit_status,
        "bytes": {origin.value: verdict.bytes_of(origin) for origin in Origin},
        **plain,
    }


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of what `verdict_dict` gives."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text("utf-8")
    loaded: dict[str, object] = json.loads(text)
    return loaded


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
