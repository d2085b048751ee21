# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict on a package: one for each signed enclave in it.

Whatever is wrong with a package is a finding in its result, never an exception.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Optional

from sgx_enclaves.enclave.compare import compare
from sgx_enclaves.enclave.policy import Policy
from sgx_enclaves.enclave.sdk import Generation
from sgx_enclaves.enclave.verdict import Finding, Outcome, Severity, Verdict, finding_of
from sgx_enclaves.errors import LimitError, PackageDamagedError, SgxEnclavesError, UnsupportedError
from sgx_enclaves.plain import record
from sgx_enclaves.rpm import rules
from sgx_enclaves.rpm.enclaves import EmbeddedEnclaves, Item, PackedEnclave, enclaves_among
from sgx_enclaves.rpm.payload import Opener, PayloadFile, packed
from sgx_enclaves.rpm.presence import enclave_name
from sgx_enclaves.rpm.reader import Package
from sgx_enclaves.rpm.references import Counterpart, Neighbours, PackageReference, Reference

NO_NEIGHBOURS = Neighbours()


def _worst(findings: Iterable[Finding], parts: Iterable[Optional[Outcome]]) -> Optional[Outcome]:
    """The outcome with the highest status; None where nothing is wrong and nothing was judged."""
    against = [Outcome(f.severity.value) for f in findings if f.severity is not Severity.NOTE]
    return max((*against, *filter(None, parts)), key=lambda o: o.exit_status, default=None)


@record
class EnclaveResult:
    """What was found out about one enclave of a package, by `verdict` in a comparison."""

    path: str
    links: tuple[str, ...]
    name: Optional[str]
    signed: bool
    size: int
    sha256: str
    reference: Optional[str] = None
    verdict: Optional[Verdict] = None
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Optional[Outcome]:
        """The verdict; None for an unsigned enclave, about which there is nothing to say."""
        return _worst(self.findings, [self.verdict.outcome if self.verdict else None])

    @property
    def exit_status(self) -> int:
        """0, 1 or 2."""
        return self.outcome.exit_status if self.outcome else 0

    def having(self, *findings: Finding) -> EnclaveResult:
        """The same with findings before its own."""
        return replace(self, findings=(*findings, *self.findings)) if findings else self


@record
class PackageResult:
    """What was found out about one package and the enclaves in it; `nevra` is its own word."""

    file: str
    nevra: Optional[str]
    enclaves: tuple[EnclaveResult, ...]
    findings: tuple[Finding, ...]

    @property
    def is_source(self) -> bool:
        """Whether it is a source package, in whose archives nothing is looked for."""
        return (self.nevra or "").endswith(".src")

    @property
    def outcome(self) -> Optional[Outcome]:
        """The verdict; None when there is no signed enclave and nothing wrong."""
        return _worst(self.findings, (enclave.outcome for enclave in self.enclaves))

    @property
    def exit_status(self) -> int:
        """0, 1 or 2: the highest of all."""
        return self.outcome.exit_status if self.outcome else 0


def check_package(
    path: str,
    references: Sequence[Reference],
    policy_of: Callable[[str], Policy],
    *,
    neighbours: Neighbours = NO_NEIGHBOURS,
    permitted: Iterable[str] = (),
    generation: Optional[Generation] = None,
    opener: Opener = packed,
) -> PackageResult:
    """Judge every enclave of a package file; one that cannot be read is a finding.

    Args:
        references: what is trusted: where counterparts are looked for, in this order.
        policy_of: the policy for an enclave, by its path.
        permitted: enclaves that may be shipped although Fedora does not.
        generation: the SDK to follow; None chooses it from the counterpart.
    """
    nevra: Optional[str] = None
    results: list[EnclaveResult] = []
    findings: list[Finding] = []
    embedded: list[Finding] = []
    accepted = frozenset(permitted)
    try:
        with opener(path) as (package, members):
            nevra = package.nevra
            findings += rules.of_file_list(package)
            for item in _items(package, members, neighbours):
                if isinstance(item, EmbeddedEnclaves):
                    embedded.append(_embedded(item))
                elif isinstance(item, PackedEnclave):
                    found = _Judge(item, package, policy_of, generation).of(references, neighbours)
                    if found.signed:
                        refused = rules.not_permitted(item, accepted)
                        found = found.having(*refused, *rules.named_as_another(item))
                    results.append(found)
                # The next one is read before this name is bound again.
                del item
            findings += rules.missing(package, results)
            if results or findings:
                findings += rules.scripts(package)
            results = [
                replace(r, findings=(*r.findings, *rules.unconventional(package, results, r)))
                for r in results
            ]
    except SgxEnclavesError as error:
        findings.append(_package_finding(error, path))
    return PackageResult(path, nevra, tuple(results), (*findings, *embedded))


def _embedded(item: EmbeddedEnclaves) -> Finding:
    return rules.finding(
        "enclave-embedded",
        f"{item.path} holds enclaves as data, which were not judged",
        found=f"{len(item.offsets)} at " + ", ".join(f"0x{at:x}" for at in item.offsets[:4]),
        offset=item.offsets[0],
    )


def _items(
    package: Package, members: Iterable[PayloadFile], neighbours: Neighbours
) -> Iterable[Item]:
    """What the package holds; one that others are compared with is read once for both."""
    for reference in neighbours.references:
        if isinstance(reference, PackageReference) and reference.is_of(package):
            with contextlib.suppress(SgxEnclavesError):
                return reference.items()
    return enclaves_among(package, members)


def _package_finding(error: SgxEnclavesError, path: str) -> Finding:
    """An error about a package as a finding; its code says what kind of trouble it is."""
    code = "package-malformed"
    if isinstance(error, PackageDamagedError):
        code = "package-damaged"
    elif isinstance(error, LimitError):
        code = "package-too-large"
    elif isinstance(error, UnsupportedError):
        code = "package-unsupported"
    found = finding_of(error, code)
    return replace(found, message=error.message) if error.file == path else found


# An enclave's result, and what it was compared with.
_Compared = tuple[Counterpart, EnclaveResult]


@record
class _Judge:
    """Judges one enclave of a package."""

    packed: PackedEnclave
    package: Package
    policy_of: Callable[[str], Policy]
    generation: Optional[Generation]

    def of(self, references: Sequence[Reference], neighbours: Neighbours) -> EnclaveResult:
        """What is trusted decides alone, then what is beside the package."""
        packed, package = self.packed, self.package
        if packed.problem is not None:
            return self._described.having(finding_of(packed.problem, "enclave-malformed"))
        if not packed.signed:
            return self._described
        decided, problems = self._best(references, None)
        source = package.header.one("SOURCERPM", str)
        if decided is not None:
            counterpart, result = decided
            said = list(_disagreement(counterpart, neighbours, packed.path, source))
        else:
            beside, others = self._best(neighbours.references, source)
            if beside is None or problems:
                why = [*problems, *others]
                return self._described.having(*why, _not_reproduced(packed, why))
            counterpart, result = beside
            said = list(_unauthenticated(counterpart, result, neighbours))
        if result.verdict is not None:
            digest = result.verdict.built.sha256
            said += rules.unattested(counterpart.name, digest, neighbours.attested)
        return self._finished(counterpart, result).having(*said)

    def _finished(self, counterpart: Counterpart, result: EnclaveResult) -> EnclaveResult:
        """The result that counts, explained, with what is wrong with the enclave's versions."""
        verdict, config = result.verdict, counterpart.config
        if verdict is not None and verdict.exit_status and config is not None:
            # Costs start-up time, and is needed only when something is wrong.
            from sgx_enclaves.explain.explain import explained  # noqa: PLC0415

            verdict = explained(verdict, counterpart.data, self.packed.data, config)
            result = replace(result, verdict=verdict)
        known = (counterpart.label, counterpart.version)
        lower = _lower_isvsvn(verdict, counterpart.config_name)
        wrong: list[Finding] = [*rules.another_file(result, *known), *lower]
        if not self.package.is_source:
            found, unchecked = rules.mislabelled(self.package, result, *known)
            wrong += found
            if unchecked and result.verdict is not None:
                clauses = (*result.verdict.not_proved, *unchecked)
                result = replace(result, verdict=replace(result.verdict, not_proved=clauses))
        return result.having(*wrong)

    def _best(
        self, references: Iterable[Reference], source: Optional[str]
    ) -> tuple[Optional[_Compared], list[Finding]]:
        """The best result of several references, and which of them cannot be used."""
        best: Optional[_Compared] = None
        problems: list[Finding] = []
        for reference in references:
            try:
                for counterpart in _counterparts(reference, self.packed.path, source):
                    result = self._compared(counterpart)
                    if best is None or result.exit_status < best[1].exit_status:
                        best = counterpart, result
                    if not result.exit_status:
                        return best, problems
            except SgxEnclavesError as error:
                problems.append(finding_of(error, "reference-unusable"))
        return best, problems

    def _compared(self, counterpart: Counterpart) -> EnclaveResult:
        packed = self.packed
        if counterpart.config is None:
            finding = rules.finding(
                "config-missing",
                f"the reference has no config.xml for {packed.path}",
                found=counterpart.name,
                hint="put the config.xml of the enclave's sources beside the unsigned enclave",
            )
            return replace(self._described, reference=counterpart.name, findings=(finding,))
        verdict = compare(
            counterpart.data,
            packed.data,
            counterpart.config,
            self.policy_of(packed.path),
            names=(counterpart.name, packed.path, counterpart.config_name),
            generation=self.generation,
            limits=self.package.limits.enclave,
            digests=(counterpart.sha256, packed.sha256),
        )
        return replace(self._described, reference=counterpart.name, verdict=verdict)

    @property
    def _described(self) -> EnclaveResult:
        """What the enclave is, unjudged."""
        packed = self.packed
        name = next((n for n in map(enclave_name, packed.names) if n), None)
        what = (packed.path, packed.links, name, packed.signed, len(packed.data), packed.sha256)
        return EnclaveResult(*what)


def _lower_isvsvn(verdict: Optional[Verdict], config: str) -> Iterator[Finding]:
    explanation = verdict.explanation if verdict else None
    for difference in explanation.differences if explanation else ():
        texts = (difference.expected, difference.found)
        expected, found = (int.from_bytes(bytes.fromhex(text), "little") for text in texts)
        if (difference.field or "").endswith("isvsvn") and found < expected:
            message = f"ISVSVN is lower than {os.path.basename(config)} says"
            yield rules.finding("isvsvn-below-reference", message, offset=difference.start)


def _counterparts(reference: Reference, path: str, source: Optional[str]) -> Iterator[Counterpart]:
    """Those of a reference that were not built from the source package `source`."""
    for counterpart in reference.counterparts(path):
        package = counterpart.package
        if source is None or package is None or package.source != source:
            yield counterpart


def _disagreement(
    decided: Counterpart, neighbours: Neighbours, path: str, source: Optional[str]
) -> Iterator[Finding]:
    """Say so when the packages beside have the enclave, and none has the one that decided."""
    others = []
    for reference in neighbours.references:
        # One that cannot be read decides nothing, and says so itself.
        with contextlib.suppress(SgxEnclavesError):
            for beside in _counterparts(reference, path, source):
                if beside.data == decided.data:
                    return
                others.append(beside.name)
    if others:
        yield rules.finding(
            "reference-disagrees",
            "the unsigned enclave beside the package is not the one of the reference",
            decided.name,
            others[0],
            "find out which of the two was not built from these sources; the reference counts",
        )


def _unauthenticated(
    beside: Counterpart, result: EnclaveResult, neighbours: Neighbours
) -> Iterator[Finding]:
    # Attested says more than signed, and who differs from a neighbour has other worries.
    known = neighbours.attested is not None or neighbours.trusted or result.exit_status
    if known or (beside.package is not None and beside.package.is_authenticated):
        return
    yield rules.finding(
        "reference-refused" if neighbours.signed else "reference-unauthenticated",
        "it was compared with a package that no key of rpm's keyring has signed",
        "a reference that is configured, or signed",
        beside.name,
        "name a reference that you trust, or import the key of who built the package",
    )


def _not_reproduced(packed: PackedEnclave, problems: Sequence[Finding]) -> Finding:
    words = ("no reference has an", "name the package or folder with our own build of it")
    if problems:
        words = ("there is no usable", "mend what the other findings name, or name another build")
    return rules.finding(
        "not-reproduced",
        f"{words[0]} unsigned counterpart of {packed.path}",
        hint=f"{words[1]} with --reference",
    )
