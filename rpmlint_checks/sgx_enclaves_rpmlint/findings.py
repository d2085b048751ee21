# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings that the check reports, from the product's one table of findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sgx_enclaves import findings
from sgx_enclaves.plain import printable, record

ERROR = "E"
WARNING = "W"
INFO = "I"
_LEVELS = {"error": ERROR, "warning": WARNING, "info": INFO}


@record
class Kind:
    """A kind of finding.

    Attributes:
        id: rpmlint's name for it.
        level: `E`, `W` or `I`.
        description: what it means and what to do.
        codes: codes of the core's findings that it words.
    """

    id: str
    level: str
    description: str
    codes: tuple[str, ...] = ()


def _kinds() -> Iterator[Kind]:
    rows = findings.kinds().values()
    for row in rows:
        if row.severity in _LEVELS:
            codes = tuple(other.code for other in rows if other.rpmlint == row.code)
            yield Kind(row.code, _LEVELS[row.severity], f"{row.meaning} {row.do}", codes)


KINDS = tuple(_kinds())
BY_ID: Mapping[str, Kind] = {kind.id: kind for kind in KINDS}
_BY_CODE: Mapping[str, Kind] = {code: kind for kind in KINDS for code in kind.codes}


def kind_of_code(code: str) -> Kind:
    """The kind that words a finding of the core; one nobody knows is a failure of the check."""
    return _BY_CODE.get(code, BY_ID["sgx-enclave-check-failed"])


@record
class Report:
    """One line for rpmlint: the kind and its details, printable."""

    kind: Kind
    details: tuple[str, ...]


def report(kind_id: str, *details: str) -> Report:
    """A report of that kind; names come out of packages and must not steer a terminal."""
    return Report(BY_ID[kind_id], tuple(printable(detail) for detail in details))


def failed(message: str) -> Report:
    """The check could not be done."""
    return report("sgx-enclave-check-failed", message)
