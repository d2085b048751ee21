# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of findings, `findings.toml`: what each code means and what to do about it.

Reports carry a finding's code; rpmlint's ids and descriptions and docs/findings.md are made from
the rows. Nothing is read before somebody asks, so that a comparison does not pay for it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from sgx_enclaves.plain import record

TABLE = Path(__file__).with_suffix(".toml")


@record
class FindingKind:
    """A kind of finding.

    Attributes:
        severity: differs, unverifiable, note, cause; error, warning, info of rpmlint.
        says: of a cause: the sentence of a report, with {names} for what was seen.
        rpmlint: the rpmlint id that it is reported under; empty if under none.
    """

    code: str
    severity: str
    meaning: str
    do: str
    rpmlint: str = ""
    says: str = ""


@functools.cache
def kinds() -> Mapping[str, FindingKind]:
    """All kinds of findings by code, in the order of the table."""
    rows: dict[str, dict[str, str]] = {}
    # The table has texts without escapes only, and rpmlint reads it at every start: a reader of
    # all of TOML takes a quarter of what the whole check may.
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition(" = ")
        if line.startswith("["):
            row = rows[line[1:-1]] = {}
        elif equals and not line.startswith("#"):
            row[key] = value[1:-1]
    return {code: FindingKind(code, **row) for code, row in rows.items()}
