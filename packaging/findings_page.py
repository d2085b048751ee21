# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of findings as docs/findings.md; run by `make docs`."""

from __future__ import annotations

from collections.abc import Mapping

from sgx_enclaves.findings import kinds

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


def as_markdown() -> str:
    """The table as docs/findings.md."""
    lines = ["# Findings", "", "Every finding that a report can have. `make docs` writes this page"]
    lines[2] += " from [`sgx_enclaves/findings.toml`](../sgx_enclaves/findings.toml)."
    for severity, says in SEVERITIES.items():
        lines += ["", f"## {severity}", "", says, "", "| code | meaning | what to do |"]
        lines.append("| --- | --- | --- |")
        lines += [
            f"| `{kind.code}` | {kind.meaning} | {kind.do} |"
            for kind in kinds().values()
            if kind.severity == severity
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
