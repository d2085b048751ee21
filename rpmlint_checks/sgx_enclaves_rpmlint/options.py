# SPDX-License-Identifier: GPL-2.0-or-later
"""The table [SgxEnclave] of rpmlint's configuration, checked once."""

from __future__ import annotations

import re
from typing import Any, Optional

from sgx_enclaves.enclave.policy import Policy, not_shipped, pin_for_file, policy_for
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.rpm.presence import enclave_name, stem_of, version_of

_MRSIGNER = re.compile(r"[0-9a-fA-F]{64}\Z")
_KEYS = frozenset(
    {"reference", "signers", "any_product", "least_isvsvn", "permit", "quiet", "neighbours"}
    | {"attestations", "attestation_keys", "attestation_threshold"}
)
_NEIGHBOURS = ("warn", "trust", "signed")
_MAX_SVN = 0xFFFF


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
        self.references = self._references()
        self.signers = {
            name: tuple(text.lower() for text in texts)
            for name, value in self._mapping("signers")
            if (texts := self._mrsigners(f"signers.{name}", value))
        }
        self.least_isvsvn = {
            name: int(str(number))
            for name, number in self._mapping("least_isvsvn")
            if self._is_svn(f"least_isvsvn.{name}", number)
        }
        self.permit = self._permit()
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
        version = version_of(path) or ""
        found: list[str] = []
        for name in (key_of(path), ""):
            versions = self.references.get(name, {})
            for key in dict.fromkeys((version, "")):
                found += versions.get(key, ())
        return tuple(dict.fromkeys(found))

    def policy_for(self, path: str) -> Policy:
        """The policy for a signed enclave, by its file name."""
        key = key_of(path)
        pin = pin_for_file(path)
        return policy_for(
            pin,
            mrsigners=self.signers.get(key, ()),
            any_product=key in self.any_product,
            min_isvsvn=self.least_isvsvn.get(key),
        )

    def _texts(self, where: str, *given: object) -> tuple[str, ...]:
        """A text or a list of them: what is given, or else the value of a key."""
        value = given[0] if given else self._table.get(where, [])
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) and item for item in items):
            return tuple(items)
        self._wrong(where, "a text or a list of texts", value)
        return ()

    def _references(self) -> dict[str, dict[str, tuple[str, ...]]]:
        given = self._table.get("reference", [])
        if not isinstance(given, dict):
            return {"": {"": self._texts("reference")}}
        found = {}
        for name, value in given.items():
            where = f"reference.{name}"
            by_version = value if isinstance(value, dict) else {"": value}
            found[name] = {
                version: self._texts(f"{where}.{version}" if version else where, paths)
                for version, paths in by_version.items()
            }
        return found

    def _mrsigners(self, where: str, value: object) -> list[str]:
        texts = self._texts(where, value)
        good = [text for text in texts if _MRSIGNER.match(text)]
        if len(good) < len(texts):
            self._wrong(where, "64 hexadecimal digits (MRSIGNER)", value)
        return good

    def _is_svn(self, where: str, value: object) -> bool:
        number = _integer(value)
        if number is None or not 0 <= number <= _MAX_SVN:
            self._wrong(where, f"a number from 0 to {_MAX_SVN}", value)
            return False
        return True

    def _permit(self) -> frozenset[str]:
        names = frozenset(self._texts("permit"))
        # Asks the whole catalogue, which takes its time.
        known = not_shipped() if names else names
        for name in sorted(names - known):
            self._wrong("permit", f"one of {', '.join(sorted(known))}", name)
        return names & known

    def _attested(self) -> Optional[frozenset[str]]:
        """What the attestations agree on; nothing at all if they cannot be trusted."""
        if "attestations" not in self._table:
            return None
        # Most sites have none, and this costs time to import.
        from sgx_enclaves.evidence.statements import attested  # noqa: PLC0415

        files, keys = (self._texts(key) for key in ("attestations", "attestation_keys"))
        threshold = _integer(self._table.get("attestation_threshold", 1))
        try:
            return attested(files, keys, None, threshold or 0)
        except SgxEnclavesError as error:
            self.problems.append(f"attestations: {error}")
            return frozenset()

    def _mapping(self, key: str) -> list[tuple[str, object]]:
        value = self._table.get(key, {})
        if isinstance(value, dict):
            return list(value.items())
        self._wrong(key, "a table", value)
        return []

    def _wrong(self, where: str, expected: str, found: object) -> None:
        self.problems.append(f"{where}: expected {expected}, found {found!r}")


def _integer(value: object) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def key_of(path: str) -> str:
    """What an enclave is called in the configuration: as in Provides, or else by its file name."""
    return enclave_name(path) or stem_of(path)
