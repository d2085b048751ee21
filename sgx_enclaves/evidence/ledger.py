# SPDX-License-Identifier: GPL-2.0-or-later
"""A ledger of verified enclaves: one line of JSON for each, in the order in which they came.

It is made to be kept in git: lines are only ever added. `lint` finds what a vendor should
not do, or should say: a security version that goes down, a measurement that was signed
twice, a change without a new version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from sgx_enclaves.errors import AttestationError
from sgx_enclaves.evidence.statements import Vouched
from sgx_enclaves.plain import as_plain, from_plain, parse_json, record

MAX_LEDGER = 64 << 20


@record
class Entry:
    """One enclave of one statement.

    Attributes:
        enclave: its name.
        version: as its file's name has it; None if unknown.
        mrenclave, mrsigner, isvprodid, isvsvn: what was signed, and as what.
        unsigned, signed: SHA-256 of the two files.
        statement: SHA-256 of the statement that says so.
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


def entries_of(found: Iterable[Vouched]) -> list[Entry]:
    """The identical enclaves of equivalence statements, in their order."""
    facts = ("version", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
    return [
        from_plain(
            Entry,
            {
                "enclave": enclave["name"],
                "unsigned": enclave["unsigned"]["sha256"],
                "signed": enclave["signed"]["sha256"],
                "statement": item.sha256,
                **{name: enclave.get(name) for name in facts},
            },
            file=item.file,
            error=AttestationError,
        )
        for item in found
        if item.kind == "equivalence"
        for enclave in item.statement["predicate"]["enclaves"]
        if enclave["verdict"] == "identical"
    ]


def read_ledger(data: bytes, file: str) -> list[Entry]:
    """The entries of a ledger.

    Raises:
        AttestationError: a line is malformed.
    """
    entries = []
    for number, line in enumerate(data.splitlines(), 1):
        place = f"{file}, line {number}"
        plain = parse_json(line, file=place, error=AttestationError)
        entries.append(from_plain(Entry, plain, file=place, error=AttestationError))
    return entries


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


def lint(entries: Sequence[Entry]) -> Iterator[Problem]:
    """What should not be; each line is compared with earlier ones of its enclave and signer."""
    seen: dict[tuple[Optional[str], ...], tuple[int, Entry]] = {}
    for number, new in enumerate(entries, 1):
        whose = (new.enclave, new.mrsigner)
        for key, rule in (
            ((*whose, "ISVSVN"), _lower),
            ((*whose, "MRENCLAVE", new.mrenclave), _signed_twice),
            ((*whose, "version", new.version), _same_version),
        ):
            earlier, old = seen.get(key, (number, new))
            for code, message in rule(old, new):
                yield Problem(number, earlier, new.enclave, code, message)
            if rule is not _lower or new.isvsvn >= old.isvsvn:
                seen[key] = (number, new)


def _lower(old: Entry, new: Entry) -> Iterator[tuple[str, str]]:
    if new.isvsvn < old.isvsvn:
        yield "isvsvn-down", f"ISVSVN goes down from {old.isvsvn} to {new.isvsvn}"


def _signed_twice(old: Entry, new: Entry) -> Iterator[tuple[str, str]]:
    if new.signed != old.signed:
        yield "signed-twice", f"MRENCLAVE {new.mrenclave} was signed twice"


def _same_version(old: Entry, new: Entry) -> Iterator[tuple[str, str]]:
    if new.version is None:
        return
    if new.mrenclave != old.mrenclave:
        words = f"version {new.version} has two MRENCLAVEs"
        yield "version-twice", f"{words}: {old.mrenclave} and {new.mrenclave}"
    elif new.unsigned != old.unsigned:
        yield "changed", f"it changed, and its version is {new.version} as before"
