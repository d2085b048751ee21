# SPDX-License-Identifier: GPL-2.0-or-later
"""What a build system keeps of verifications, in words for a terminal.

Takes plain mappings as they come over the wire and decides nothing: a field that
is missing is shown as unknown. All text is made printable.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sgx_enclaves.report.columns import printable, shorten, table, wrapped

# Exit status of each verdict; what has none of them was not verified.
STATUS = {"identical": 0, "differs": 1, "unverifiable": 2}
UNKNOWN_STATUS = 2
_HEADER = ("ENCLAVE", "VERDICT", "MRENCLAVE")
_LABEL = 12
# Between columns, and how short a MRENCLAVE may be cut at most.
_GAPS, _LEAST = 4, 16


def exit_status(verdict: object) -> int:
    """0 identical, 1 differs, 2 unverifiable or none."""
    return STATUS.get(str(verdict), UNKNOWN_STATUS)


def enclave_table(enclaves: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One row an enclave: name, verdict, MRENCLAVE; why not, below it.

    Args:
        enclaves: mappings with name, verdict, mrenclave and cause.
        width: columns; a MRENCLAVE is cut short rather than the line broken.
    """
    names = max([len(_HEADER[0]), *(len(_text(e, "name")) for e in enclaves)])
    verdicts = max([len(_HEADER[1]), *(len(_text(e, "verdict")) for e in enclaves)])
    room = max(width - names - verdicts - _GAPS, _LEAST)
    rows = [
        (_text(e, "name"), _text(e, "verdict"), shorten(_text(e, "mrenclave"), room))
        for e in enclaves
    ]
    header, *lines = table(_HEADER, rows)
    shown = [header]
    for line, enclave in zip(lines, enclaves):
        shown.append(line)
        if enclave.get("cause"):
            shown += wrapped(" " * (names + 2) + "cause: ", str(enclave["cause"]), width)
    return shown


def result_text(result: Mapping[str, Any], width: int = 100) -> str:
    """What a verification task gave."""
    lines = [_headline(result)]
    lines += wrapped("", _text(result, "claim"), width)
    lines += _weaker(result, width)
    lines += ["", *enclave_table(list(result.get("enclaves") or ()), width)]
    if result.get("record") is not None:
        lines += ["", f"record {_text(result, 'record')} is kept on the hub"]
    return "\n".join(lines) + "\n"


def record_text(record: Mapping[str, Any], width: int = 100) -> str:
    """One record, in full but for its list of packages, which is counted."""
    rpms = list(record.get("rpms") or ())
    rows = (
        ("record", f"{_text(record, 'id')}, made by task {_text(record, 'task_id')}"),
        (
            "verified",
            f"{_text(record, 'verified_at')} by version {_text(record, 'plugin_version')}",
        ),
        ("release", f"{_text(record, 'release')} ({_text(record, 'origin')})"),
        ("toolchain", _text(record, "toolchain_sha256")),
        ("report", _text(record, "report_sha256")),
        ("packages", f"{len(rpms)}, each with its digest"),
    )
    lines = [_headline({**record, "build": record.get("nvr")})]
    lines += _weaker(record, width)
    lines += [f"{label:<{_LABEL}}{text}" for label, text in rows]
    lines += ["", *enclave_table(list(record.get("enclaves") or ()), width)]
    return "\n".join(lines) + "\n"


def records_table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a record; the newest first, as the hub gives them."""
    rows = [
        (
            _text(record, "id"),
            _text(record, "nvr"),
            _text(record, "verdict"),
            _text(record, "release"),
            _day(record.get("create_ts")),
            ", ".join(sorted({_text(e, "name") for e in record.get("enclaves") or ()})),
        )
        for record in records
    ]
    header = ("RECORD", "BUILD", "VERDICT", "RELEASE", "WHEN", "ENCLAVES")
    return "\n".join(table(header, rows)) + "\n"


def gate_text(build: str, tag: str, status: Mapping[str, Any], width: int = 100) -> str:
    """Whether a tag takes a build, and why not."""
    word = "ALLOWED" if status.get("allowed") else "DENIED"
    record = status.get("record")
    if not status.get("present"):
        enclaves = "the build holds no signed enclave"
    elif status.get("verified"):
        enclaves = f"the build's signed enclaves are verified (record {printable(str(record))})"
    else:
        enclaves = "the build holds signed enclaves that are not verified, as below"
    gated = (
        "is gated" if status.get("enforced") else "is not gated (sgx_enclaves.enforce is not set)"
    )
    lines = [printable(f"{word}: {build} into {tag}"), f"  {enclaves}", f"  the tag {gated}"]
    for reason in status.get("reasons") or ():
        lines += wrapped("  - ", str(reason), width)
    if not status.get("enforced"):
        lines += wrapped("  ", "the hub's tag policy may still refuse, with these reasons", width)
    return "\n".join(lines) + "\n"


def _headline(found: Mapping[str, Any]) -> str:
    verdict = _text(found, "verdict").upper()
    what = f"{_text(found, 'build')} against " if found.get("build") else ""
    return f"{verdict}: {what}release {_text(found, 'release')}"


def _weaker(found: Mapping[str, Any], width: int) -> list[str]:
    """What is to be said of an identical that is not the reproducible verdict."""
    if found.get("verdict") != "identical" or found.get("reproducible"):
        return []
    words = "not the reproducible verdict: a gate takes it only with reproducible=no"
    return wrapped("NOTE: ", words, width)


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    return "-" if value is None else printable(str(value))


def _day(timestamp: object) -> str:
    if not isinstance(timestamp, (int, float)):
        return "-"
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")
