# SPDX-License-Identifier: GPL-2.0-or-later
"""One finding as a mapping and as lines of text."""

from __future__ import annotations

from sgx_enclaves.verdict.model import Finding


def finding_dict(finding: Finding) -> dict[str, object]:
    """The finding as a plain mapping."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "message": finding.message,
        "block": finding.block,
        "offset": finding.offset,
        "expected": finding.expected,
        "found": finding.found,
        "hint": finding.hint,
    }


def finding_lines(finding: Finding) -> list[str]:
    """The finding for people: what, where, expected and found, what to do."""
    where = []
    if finding.block is not None:
        where.append(f"block {finding.block}")
    if finding.offset is not None:
        where.append(f"at 0x{finding.offset:x}")
    lines = [finding.message + (f" ({', '.join(where)})" if where else "")]
    if finding.expected is not None:
        lines.append(f"  expected  {finding.expected}")
    if finding.found is not None:
        lines.append(f"  found     {finding.found}")
    if finding.hint is not None:
        lines.append(f"  hint      {finding.hint}")
    return lines
