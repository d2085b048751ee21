# SPDX-License-Identifier: GPL-2.0-or-later
"""The table [SgxEnclave] of rpmlint's configuration, and what signed enclaves are compared with.

What the table names and the installed packages that somebody has signed are trusted; installed
packages without a signature are worth what a neighbour on the command line is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Optional

from sgx_enclaves.enclave.policy import Policy, not_shipped, pin_for_file, policy_for
from sgx_enclaves.errors import InputError, SgxEnclavesError
from sgx_enclaves.plain import record
from sgx_enclaves.rpm.librpm import librpm
from sgx_enclaves.rpm.payload import installed
from sgx_enclaves.rpm.presence import enclave_name, stem_of, version_of
from sgx_enclaves.rpm.references import (
    REPRODUCIBLE,
    Counterpart,
    Neighbours,
    PackageReference,
    Reference,
    never_a_reference,
    open_reference,
)

_MRSIGNER = re.compile(r"[0-9a-fA-F]{64}\Z")
_KEYS = frozenset(
    {"reference", "signers", "any_product", "least_isvsvn", "permit", "quiet", "neighbours"}
    | {"attestations", "attestation_keys", "attestation_threshold"}
)
_NEIGHBOURS = ("warn", "trust", "signed")
_MAX_SVN = 0xFFFF
# Gives what is good of a value, by where it stands.
_Check = Callable[[str, Any], Any]


class Options:
    """What the configuration asks for; what is wrong is left out and listed in `problems`.

    Attributes:
        references: enclave to version to paths; an empty key stands for all.
        signers: enclave to MRSIGNERs, lower-case hexadecimal; another signer lifts nothing else.
        least_isvsvn: enclave to its least ISVSVN.
        permit: enclaves that may be shipped although Fedora does not.
        quiet: findings of other checks to withdraw on verified enclaves.
        neighbours: what a counterpart on the command line is worth that no key of rpm's
            keyring has signed: "warn", "trust" or "signed", which refuses it.
        any_product: enclaves of which any product id is accepted.
        attested: SHA-256 of the unsigned enclaves that may be compared with; None for all.
        problems: what is wrong with the table, a sentence each.
    """

    def __init__(self, table: object) -> None:
        self.problems: list[str] = []
        if not isinstance(table, dict):
            self.problems.append("[SgxEnclave] is not a table")
        self._table: dict[str, Any] = table if isinstance(table, dict) else {}
        by_version = partial(self._by_key, check=self._texts)
        self.references = self._by_key("reference", self._table.get("reference", []), by_version)
        self.signers = self._by_enclave("signers", self._mrsigners)
        self.least_isvsvn = self._by_enclave("least_isvsvn", self._svn)
        # Asks the whole catalogue, which takes its time.
        named = self._texts("permit")
        known = not_shipped() if named else frozenset()
        self.permit = known.intersection(named)
        for name in sorted(set(named) - known):
            self._wrong("permit", f"one of {', '.join(sorted(known))}", name)
        self.quiet = frozenset(self._texts("quiet"))
        self.any_product = frozenset(self._texts("any_product"))
        self.neighbours = self._table.get("neighbours", "warn")
        if self.neighbours not in _NEIGHBOURS:
            self._wrong("neighbours", f"one of {', '.join(_NEIGHBOURS)}", self.neighbours)
            # The strictest, since nobody knows what was meant.
            self.neighbours = "signed"
        self.attested = self._attested()
        for key in sorted(map(str, set(self._table) - _KEYS)):
            self.problems.append(f"{key}: unknown; known are {', '.join(sorted(_KEYS))}")

    def paths_for(self, path: str) -> tuple[str, ...]:
        """The references for a signed enclave: those for its version first."""
        keys = dict.fromkeys((version_of(path) or "", ""))
        tables = [self.references.get(name, {}) for name in (_key_of(path), "")]
        found = [place for table in tables for key in keys for place in table.get(key, ())]
        return tuple(dict.fromkeys(found))

    def policy_for(self, path: str) -> Policy:
        """The policy for a signed enclave, by its file name."""
        key = _key_of(path)
        return policy_for(
            pin_for_file(path),
            mrsigners=self.signers.get(key, ()),
            any_product=key in self.any_product,
            min_isvsvn=self.least_isvsvn.get(key),
        )

    def _wrong(self, where: str, expected: str, found: object) -> None:
        self.problems.append(f"{where}: expected {expected}, found {found!r}")

    def _texts(self, where: str, *given: object) -> tuple[str, ...]:
        """A text or a list of them: what is given, or else the value of a key."""
        value = given[0] if given else self._table.get(where, [])
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) and item for item in items):
            return tuple(items)
        self._wrong(where, "a text or a list of texts", value)
        return ()

    def _by_key(self, where: str, value: object, check: _Check) -> dict[str, Any]:
        """The values of a table; the empty key has what is no table."""
        by_key = value if isinstance(value, dict) else {"": value}
        return {key: check(f"{where}.{key}".rstrip("."), item) for key, item in by_key.items()}

    def _by_enclave(self, key: str, check: _Check) -> dict[str, Any]:
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            self._wrong(key, "a table", value)
            value = {}
        return self._by_key(key, value, check)

    def _mrsigners(self, where: str, value: object) -> tuple[str, ...]:
        texts = self._texts(where, value)
        good = tuple(text.lower() for text in texts if _MRSIGNER.match(text))
        if len(good) < len(texts):
            self._wrong(where, "64 hexadecimal digits (MRSIGNER)", value)
        return good

    def _svn(self, where: str, value: object) -> Optional[int]:
        # Python's true is an int.
        if type(value) is int and 0 <= value <= _MAX_SVN:
            return value
        self._wrong(where, f"a number from 0 to {_MAX_SVN}", value)
        return None

    def _attested(self) -> Optional[frozenset[str]]:
        """What the attestations agree on; nothing at all if they cannot be trusted."""
        if "attestations" not in self._table:
            return None
        # Most sites have none, and this costs time to import.
        from sgx_enclaves.evidence.statements import attested  # noqa: PLC0415

        files, keys = (self._texts(key) for key in ("attestations", "attestation_keys"))
        threshold = self._table.get("attestation_threshold", 1)
        try:
            return attested(files, keys, None, threshold if type(threshold) is int else 0)
        except SgxEnclavesError as error:
            self.problems.append(f"attestations: {error}")
            return frozenset()


def _key_of(path: str) -> str:
    """What an enclave is called in the configuration: as in Provides, or else by its file name."""
    return enclave_name(path) or stem_of(path)


def installed_packages(path: str) -> list[tuple[str, bytes]]:
    """Name, for messages, and header of installed packages that provide our build of an enclave."""
    rpm, provide = librpm(), f"sgx-enclave({_key_of(path)}{REPRODUCIBLE}"
    try:
        headers = list(rpm.TransactionSet().dbMatch("providename", provide))
    except rpm.error as error:
        raise InputError(f"the RPM database cannot be read: {error}", found=provide) from None
    return [
        (f"installed {header['nevra']}", header.unload())
        for header in headers
        if not any(map(never_a_reference, header["providename"]))
    ]


@record
class _Found:
    """References that are looked for when an enclave asks; one that cannot be read hides none."""

    find: Callable[[str], Iterable[Any]]
    opened: Callable[[Any], Optional[Reference]]

    def counterparts(self, path: str) -> Iterator[Counterpart]:
        """See `Reference`."""
        first: Optional[SgxEnclavesError] = None
        for found in self.find(path):
            try:
                reference = self.opened(found)
                yield from reference.counterparts(path) if reference is not None else ()
            except SgxEnclavesError as error:
                first = first or error
        if first is not None:
            raise first


def references_for(
    beside: tuple[PackageReference, ...], options: Options
) -> tuple[tuple[Reference, ...], Neighbours]:
    """What is trusted, and what is asked besides."""
    in_database = functools.lru_cache(installed_packages)
    configured = _Found(options.paths_for, functools.lru_cache(open_reference))
    signed, unsigned = (_Found(in_database, partial(_installed, s)) for s in (True, False))
    worth = (options.neighbours == "trust", options.neighbours == "signed", options.attested)
    return (configured, signed), Neighbours((*beside, unsigned), *worth)


def _installed(signed: bool, package: tuple[str, bytes]) -> Optional[Reference]:
    """An installed package if a key of rpm's keyring has signed it, or none, as is asked for."""
    called, header = package
    try:
        reference = PackageReference(called, partial(installed, header))
    except SgxEnclavesError:
        # What cannot be read is signed by nobody.
        if signed:
            return None
        raise
    return reference if reference.is_authenticated is signed else None
