# SPDX-License-Identifier: GPL-2.0-or-later
"""A ledger of verified enclaves: one line of JSON for each, in the order in which they came.

It is made to be kept in git: lines are only ever added. `lint` finds what a vendor should
not do, or should say: a security version that goes down, a measurement that was signed
twice, a change without a new version. Entries are plain data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Optional

from sgx_enclaves.errors import AttestationError
from sgx_enclaves.evidence.envelope import fitting
from sgx_enclaves.evidence.report import SIGNED, Plain
from sgx_enclaves.evidence.statements import SignedStatement
from sgx_enclaves.plain import parse_json

MAX_LEDGER = 64 << 20
_FACTS = ("version", "mrenclave", *SIGNED)


def entries_of(found: Iterable[SignedStatement]) -> Iterator[Plain]:
    """The identical enclaves of equivalence statements, in their order."""
    for item in found:
        for enclave in item.identical():
            entry = {"enclave": enclave["name"], **{name: enclave.get(name) for name in _FACTS}}
            entry |= {role: enclave[role]["sha256"] for role in ("unsigned", "signed")}
            yield fitting({**entry, "statement": item.sha256}, "entry", item.file)


def read_ledger(data: bytes, file: str) -> list[Plain]:
    """The entries of a ledger; a malformed line is an AttestationError."""
    entries = []
    for number, line in enumerate(data.splitlines(), 1):
        place = f"{file}, line {number}"
        entry = parse_json(line, file=place, error=AttestationError)
        entries.append(fitting(entry, "entry", place))
    return entries


def line_of(entry: Plain) -> str:
    """One line, without its end; equal ones for equal entries."""
    return json.dumps(entry, sort_keys=True)


def lint(entries: Iterable[Plain]) -> Iterator[Plain]:
    """What is wrong with a line next to an earlier one of its enclave and signer.

    The `line` and the `earlier` one count from 1; besides: `enclave`, `code` and `message`.
    """
    seen: dict[tuple[Optional[str], ...], tuple[int, Plain]] = {}
    for number, new in enumerate(entries, 1):
        for name in ("isvsvn", "mrenclave", "version"):
            value = None if name == "isvsvn" else new[name]
            key = (new["enclave"], new["mrsigner"], name, value)
            earlier, old = seen.get(key, (number, new))
            for code, message in _problem(name, old, new):
                place = {"line": number, "earlier": earlier, "enclave": new["enclave"]}
                yield {**place, "code": code, "message": message}
            if name != "isvsvn" or new["isvsvn"] >= old["isvsvn"]:
                seen[key] = (number, new)


def _problem(name: str, old: Plain, new: Plain) -> Iterator[tuple[str, str]]:
    changed = {key for key in new if new[key] != old[key]}
    value = new[name]
    if name == "isvsvn" and value < old[name]:
        yield "isvsvn-down", f"ISVSVN goes down from {old[name]} to {value}"
    if name == "mrenclave" and "signed" in changed:
        yield "signed-twice", f"MRENCLAVE {value} was signed twice"
    if name != "version" or value is None:
        return
    if "mrenclave" in changed:
        both = f"{old['mrenclave']} and {new['mrenclave']}"
        yield "version-twice", f"version {value} has two MRENCLAVEs: {both}"
    elif "unsigned" in changed:
        yield "changed", f"it changed, and its version is {value} as before"
