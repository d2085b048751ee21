# SPDX-License-Identifier: GPL-2.0-or-later
"""Withdraws other checks' findings that mean nothing on a verified enclave.

A filter in TOML cannot know the verdict, so this looks through what rpmlint has
collected: lines such as `NAME.ARCH: E: statically-linked-binary (Badness: 2) PATH`,
with colours. Only a line about exactly this package, this finding and this path
goes, and rpmlint's counts with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from sgx_enclaves.packages.presence import ENCLAVE_FOLDER
from sgx_enclaves_rpmlint.boundary import Output, Subject

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINE = re.compile(
    r"(?P<package>\S+): (?P<level>[EWI]): (?P<id>\S+)(?: \(Badness: (?P<badness>\d+)\))? "
    r"(?P<path>/\S+)(?: .*)?\Z"
)


def withdraw(
    output: Output, subject: Subject, paths: Collection[str], quiet: Collection[str]
) -> None:
    """Take findings about verified enclaves back.

    Args:
        output: what rpmlint has collected.
        subject: the package.
        paths: the verified enclaves in it and the links to them.
        quiet: ids of the findings to take back.
    """
    there = {path for path in paths if path.startswith(ENCLAVE_FOLDER)}
    name = f"{subject.name}.{subject.arch}" if subject.arch else subject.name
    kept = []
    for line in output.results:
        match = _LINE.match(_COLOUR.sub("", line))
        if (
            match is None
            or match["package"] != name
            or match["id"] not in quiet
            or match["path"] not in there
        ):
            kept.append(line)
            continue
        level = match["level"]
        output.printed_messages[level] -= 1
        output.score -= int(match["badness"] or _own_badness(output, match["id"], level))
        _count_as_filtered(output)
    output.results[:] = kept


def _own_badness(output: Output, issue: str, level: str) -> int:
    """What a line without a badness has cost; it is printed only from 2 up."""
    if issue in output.badness:
        return int(output.badness[issue])
    return 1 if level == "E" else 0


def _count_as_filtered(output: Any) -> None:
    # From rpmlint 2.5 or so.
    if hasattr(output, "filtered_out"):
        output.filtered_out += 1
