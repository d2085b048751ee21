# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of findings: what each code means and what to do about it.

The rows stand in `findings.toml` beside this module. Reports carry a finding's code;
rpmlint's ids and descriptions and docs/findings.md are made from the rows. Nothing
is read before somebody asks, so that a comparison does not pay for it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from sgx_enclaves.plain import record

TABLE = Path(__file__).with_suffix(".toml")

# What each severity means, in the order in which docs/findings.md has them.
SEVERITIES: Mapping[str, str] = {
    "differs": "The verdict is *differs*: the signed file is not our build plus a signature.",
    "unverifiable": "The verdict is *unverifiable*, unless another finding makes it *differs*.",
    "note": "It is worth knowing and does not change the verdict.",
    "cause": "It explains a difference that was found, and decides nothing.",
    "error": "A line of rpmlint with level E.",
    "warning": "A line of rpmlint with level W.",
    "info": "A line of rpmlint with level I.",
}


@record
class Kind:
    """A kind of finding.

    Attributes:
        code: its stable name.
        severity: a key of `SEVERITIES`.
        meaning: one plain sentence.
        do: the next step.
        rpmlint: the rpmlint id that it is reported under; empty if under none.
    """

    code: str
    severity: str
    meaning: str
    do: str
    rpmlint: str = ""


@functools.cache
def kinds() -> Mapping[str, Kind]:
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
    return {code: Kind(code, **row) for code, row in rows.items()}


def as_markdown() -> str:
    """The table as docs/findings.md."""
    lines = [
        "# Findings",
        "",
        "Every finding that a report can have. `make docs` writes this page from "
        "[`sgx_enclaves/findings.toml`](../sgx_enclaves/findings.toml).",
    ]
    for severity, says in SEVERITIES.items():
        lines += ["", f"## {severity}", "", says, "", "| code | meaning | what to do |"]
        lines.append("| --- | --- | --- |")
        lines += [
            f"| `{kind.code}` | {kind.meaning} | {kind.do} |"
            for kind in kinds().values()
            if kind.severity == severity
        ]
    return "\n".join(lines) + "\n"
