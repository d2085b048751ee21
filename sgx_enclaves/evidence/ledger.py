# SPDX-License-Identifier: GPL-2.0-or-later
"""A ledger of verified enclaves: one line of JSON for each, in the order in which they came.

It is made to be kept in git: lines are only ever added. `lint` finds what a vendor should
not do, or should say: a security version that goes down, a measurement that was signed
twice, a change without a new version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Optional

from sgx_enclaves.errors import AttestationError
from sgx_enclaves.evidence.statements import SignedStatement
from sgx_enclaves.plain import as_plain, from_plain, parse_json, read_schema, record, validate

MAX_LEDGER = 64 << 20


@record
class Entry:
    """One enclave of one statement; the last three are the SHA-256 of two files and of that.

    The version is as the file's name has it; None if unknown.
    """

    enclave: str
    version: Optional[str]
    mrenclave: str
    mrsigner: str
    isvprodid: int
    isvsvn: int
    unsigned: str
    signed: str
    statement: str


def entries_of(found: Iterable[SignedStatement]) -> list[Entry]:
    """The identical enclaves of equivalence statements, in their order."""
    facts = ("version", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
    made = []
    for item in found:
        for enclave in item.identical():
            plain = {"enclave": enclave["name"], "statement": item.sha256}
            plain |= {role: enclave[role]["sha256"] for role in ("unsigned", "signed")}
            plain |= {name: enclave.get(name) for name in facts}
            made.append(_entry(plain, item.file))
    return made


def read_ledger(data: bytes, file: str) -> list[Entry]:
    """The entries of a ledger; a malformed line is an AttestationError."""
    entries = []
    for number, line in enumerate(data.splitlines(), 1):
        place = f"{file}, line {number}"
        plain = parse_json(line, file=place, error=AttestationError)
        entries.append(_entry(plain, place))
    return entries


def _entry(plain: object, file: str) -> Entry:
    schema = read_schema(__file__, "attestation.schema.json", "entry")
    validate(plain, schema, file=file, error=AttestationError)
    return from_plain(Entry, plain)


def line_of(entry: Entry) -> str:
    """One line, without its end."""
    return json.dumps(as_plain(entry), sort_keys=True)


@record
class Problem:
    """What is wrong with a line, next to an earlier one; lines count from 1."""

    line: int
    earlier: int
    enclave: str
    code: str
    message: str


def lint(entries: Iterable[Entry]) -> Iterator[Problem]:
    """What should not be; each line is compared with earlier ones of its enclave and signer."""
    seen: dict[tuple[Optional[str], ...], tuple[int, Entry]] = {}
    for number, new in enumerate(entries, 1):
        whose = (new.enclave, new.mrsigner)
        for name, value in (
            ("ISVSVN", None),
            ("MRENCLAVE", new.mrenclave),
            ("version", new.version),
        ):
            key = (*whose, name, value)
            earlier, old = seen.get(key, (number, new))
            found = _problem(name, old, new)
            if found is not None:
                yield Problem(number, earlier, new.enclave, *found)
            if name != "ISVSVN" or new.isvsvn >= old.isvsvn:
                seen[key] = (number, new)


def _problem(name: str, old: Entry, new: Entry) -> Optional[tuple[str, str]]:
    if name == "ISVSVN" and new.isvsvn < old.isvsvn:
        return "isvsvn-down", f"ISVSVN goes down from {old.isvsvn} to {new.isvsvn}"
    if name == "MRENCLAVE" and new.signed != old.signed:
        return "signed-twice", f"MRENCLAVE {new.mrenclave} was signed twice"
    if name != "version" or new.version is None:
        return None
    if new.mrenclave != old.mrenclave:
        both = f"{old.mrenclave} and {new.mrenclave}"
        return "version-twice", f"version {new.version} has two MRENCLAVEs: {both}"
    if new.unsigned != old.unsigned:
        return "changed", f"it changed, and its version is {new.version} as before"
    return None
