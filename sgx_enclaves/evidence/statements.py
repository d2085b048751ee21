# SPDX-License-Identifier: GPL-2.0-or-later
"""in-toto statements of a report: what was built, what a signed file equals, and the result.

    provenance   SLSA provenance v1; its subjects are the unsigned enclaves, so that
                 rebuilders who have nothing else in common name the same digests
    equivalence  our own predicate; its subjects are the signed files and their packages
    result       in-toto's simple verification result, for consumers who know nothing of us

Statements are plain data. A statement that is read has been signed by somebody whom the
caller trusts; what it does not know of a foreign one is passed by, as in-toto demands.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.errors import AttestationError
from sgx_enclaves.evidence.envelope import (
    MAX_ENVELOPE,
    Envelope,
    Key,
    Signer,
    openpgp_signer,
    read_envelope,
    signed,
    signers,
)
from sgx_enclaves.evidence.facts import of_record
from sgx_enclaves.gate.record import Record, read_record
from sgx_enclaves.plain import parse_json, record, validate

Plain = dict[str, Any]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
EQUIVALENCE = "urn:sgx-enclaves:equivalence:v1"
RESULT = "https://in-toto.io/attestation/svr/v0.1"
BUILD_TYPE = "urn:sgx-enclaves:release-build:v1"
TOOL = f"urn:sgx-enclaves:{__version__}"

_DIGEST = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "required": ["sha256"],
    "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
}
_SCHEMA = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "properties": {
        "_type": {"const": STATEMENT},
        "predicateType": {"enum": [PROVENANCE, EQUIVALENCE, RESULT]},
        "predicate": {"type": "object"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "maxItems": 4096,
            "items": {
                "type": "object",
                "required": ["name", "digest"],
                "properties": {"name": {"type": "string", "maxLength": 4096}, "digest": _DIGEST},
            },
        },
    },
}
_ENCLAVES = {
    "type": "object",
    "required": ["verdict", "enclaves"],
    "properties": {
        "verdict": {"enum": ["identical", "differs", "unverifiable"]},
        "enclaves": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "verdict", "unsigned", "signed"],
                "properties": {
                    "name": {"type": "string"},
                    "verdict": {"enum": ["identical", "differs", "unverifiable"]},
                    "unsigned": _DIGEST,
                    "signed": _DIGEST,
                },
            },
        },
    },
}
_UNSIGNED = re.compile(r"sgx-enclave\(([^:)]+):unsigned\)\Z")


# --- making ---


def statements_of(
    report: Mapping[str, Any], digest: str, *, builder: str, time: str
) -> list[Plain]:
    """Every statement that a report supports.

    Args:
        report: checked (see `report`).
        digest: SHA-256 of its file.
        builder: URI of who built and verified.
        time: of the verification, as 2026-11-29T18:00:00Z.

    Raises:
        AttestationError: it supports none.
    """
    made = [
        statement
        for statement in (
            provenance(report, digest, builder),
            equivalence(report, digest),
            simple_result(report, digest, builder, time),
        )
        if statement is not None
    ]
    if not made:
        raise AttestationError(
            "the report supports no statement",
            expected="an enclave that was built from source, or one that was compared",
            found=f"a report with the verdict {report['verdict']}",
        )
    return made


def statements_of_record(plain: Mapping[str, Any], *, builder: str) -> list[Plain]:
    """Every statement that the record of a build supports.

    Args:
        plain: the record, as the hub gives it: with more around it.
        builder: URI of the build system.

    Raises:
        RecordError: it is malformed.
        AttestationError: it supports none, or is of other packages than the build has now.
    """
    if plain.get("outdated") is not None:
        raise AttestationError(
            "the record is not of the build as it is now", found=plain["outdated"]
        )
    own = {field.name for field in dataclasses.fields(Record)}
    kept = read_record({name: value for name, value in plain.items() if name in own})
    report = of_record(kept)
    time = kept.verified_at or ""
    return statements_of(report, kept.report_sha256, builder=builder, time=time)


def provenance(report: Mapping[str, Any], digest: str, builder: str) -> Optional[Plain]:
    """How the unsigned enclaves came to be; None if this verification did not build them."""
    built = [e for e in report["enclaves"] if e["built"] is not None]
    release, root = report["release"], report["buildroot"] or {}
    if release is None or report["build"] != "here" or not built:
        return None
    dependencies = []
    if release["sha256"] is not None:
        about = {"name": f"{release['name']}.toml", "uri": f"urn:sgx-enclaves:{release['name']}"}
        dependencies.append({**about, "digest": _sha256(release["sha256"])})
    dependencies += [
        {"name": s["name"], "uri": s["url"] or f"file:{s['name']}", "digest": _sha256(s["sha256"])}
        for s in report["sources"]
    ]
    by_products = [{"name": "report.json", "digest": _sha256(digest)}]
    if report["manifest_sha256"] is not None:
        by_products.append({"name": "manifest.json", "digest": _sha256(report["manifest_sha256"])})
    return _statement(
        PROVENANCE,
        [(f"sgx-enclave({e['name']}:unsigned)", e["built"]["sha256"]) for e in built],
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "release": release,
                    "enclaves": [e["name"] for e in built],
                    "build_tag": root.get("build_tag"),
                    "lock_sha256": root.get("lock_sha256"),
                },
                "internalParameters": {
                    "toolchain": report["toolchain"],
                    "repo_id": root.get("repo_id"),
                    "buildroot_sha256": root.get("packages_sha256"),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": {"id": builder, "version": {"sgx-enclaves": __version__}},
                "byproducts": by_products,
            },
        },
    )


def equivalence(report: Mapping[str, Any], digest: str) -> Optional[Plain]:
    """What each signed file is, next to our build; None if none was compared."""
    compared = _compared(report)
    if not compared:
        return None
    return _statement(
        EQUIVALENCE,
        _signed_subjects(report),
        {
            "verdict": report["verdict"],
            "reproducible": report["reproducible"],
            "claim": report["claim"],
            "notProved": report["not_proved"],
            "release": report["release"],
            "enclaves": [
                {
                    "name": e["name"],
                    "version": e["version"],
                    "verdict": e["verdict"],
                    "unsigned": _sha256(e["built"]["sha256"]),
                    "signed": _sha256(e["signed"]["sha256"]),
                    "config": _sha256(e["config"]["sha256"]) if e["config"] else None,
                    "sdk": e["sdk"],
                    "mrenclave": e["mrenclave"],
                    "mrsigner": e["mrsigner"],
                    "isvprodid": e["isvprodid"],
                    "isvsvn": e["isvsvn"],
                    "package": e["package"],
                    "policy": e["policy"],
                }
                for e in compared
            ],
            "report": _sha256(digest),
            "tool": TOOL,
        },
    )


def simple_result(
    report: Mapping[str, Any], digest: str, verifier: str, time: str
) -> Optional[Plain]:
    """The same in a form that needs no knowledge of enclaves; None unless it is *identical*."""
    if report["verdict"] != "identical" or not _compared(report):
        return None
    properties = ["SGX_ENCLAVES_IDENTICAL"]
    properties += ["SGX_ENCLAVES_REPRODUCIBLE"] if report["reproducible"] else []
    policy = {"uri": EQUIVALENCE, "digest": _sha256(digest)}
    verifier_of = {"id": verifier, "policy": policy}
    predicate = {"verifier": verifier_of, "timeCreated": time, "properties": properties}
    identical = [e for e in report["enclaves"] if e["verdict"] == "identical"]
    subjects = _signed_subjects({**report, "enclaves": identical})
    return _statement(RESULT, subjects, predicate)


def _compared(report: Mapping[str, Any]) -> list[Plain]:
    return [e for e in report["enclaves"] if None not in (e["built"], e["signed"])]


def _signed_subjects(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The signed files, and the packages that hold them."""
    enclaves = _compared(report)
    holding = {e["package"] for e in enclaves}
    subjects = [(e["signed"]["name"], e["signed"]["sha256"]) for e in enclaves]
    return subjects + [(p["file"], p["sha256"]) for p in report["packages"] if p["file"] in holding]


def _statement(kind: str, subjects: Iterable[tuple[str, str]], predicate: Plain) -> Plain:
    return {
        "_type": STATEMENT,
        "subject": [{"name": n, "digest": _sha256(d)} for n, d in dict.fromkeys(subjects)],
        "predicateType": kind,
        "predicate": predicate,
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def enveloped(statement: Mapping[str, Any]) -> Envelope:
    """A statement as a payload that nobody has signed yet; equal ones give equal bytes."""
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"))
    return Envelope(text.encode("ascii"), PAYLOAD_TYPE)


# --- reading ---


def read_bundle(data: bytes, file: str, *, bare: bool = False) -> list[Envelope]:
    """The envelopes of a bundle: one a line, or a single one in any layout.

    Args:
        data: the bundle.
        file: its name.
        bare: whether a line may also be a statement without an envelope.

    Raises:
        AttestationError: it is malformed, or empty.
    """
    if len(data) > MAX_ENVELOPE:
        raise AttestationError(
            "the bundle is too large", file=file, expected=f"at most {MAX_ENVELOPE} bytes"
        )
    lines = [line for line in data.splitlines() if line.strip()]
    if not lines:
        raise AttestationError("there is no attestation in it", file=file)
    if not lines[0].rstrip().endswith(b"}"):
        lines = [data]
    return [
        Envelope(line, PAYLOAD_TYPE)
        if bare and b'"payloadType"' not in line
        else read_envelope(line, f"{file}, line {number}" if len(lines) > 1 else file)
        for number, line in enumerate(lines, 1)
    ]


def read_statement(envelope: Envelope, file: str) -> Plain:
    """The statement in an envelope whose signatures were found good.

    Raises:
        AttestationError: it is none of those that this module makes, or malformed.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise AttestationError(
            "no in-toto statement", file=file, expected=PAYLOAD_TYPE, found=envelope.payload_type
        )
    statement = parse_json(envelope.payload, file=file, error=AttestationError, most=MAX_ENVELOPE)
    validate(statement, _SCHEMA, file=file, error=AttestationError)
    if statement["predicateType"] == EQUIVALENCE:
        validate(statement["predicate"], _ENCLAVES, file=file, error=AttestationError)
    made: Plain = statement
    return made


@record
class Vouched:
    """A statement, its digest, and who signed it: ids of keys, or OpenPGP fingerprints."""

    file: str
    statement: Plain
    sha256: str
    signers: frozenset[str]

    @property
    def kind(self) -> str:
        """Which of the three it is."""
        names = {PROVENANCE: "provenance", EQUIVALENCE: "equivalence", RESULT: "result"}
        return names[self.statement["predicateType"]]

    def unsigned(self) -> dict[str, str]:
        """SHA-256 of the unsigned enclave that it names, by enclave; of identical ones only."""
        if self.statement["predicateType"] == EQUIVALENCE:
            enclaves = self.statement["predicate"]["enclaves"]
            same = [e for e in enclaves if e["verdict"] == "identical"]
            return {e["name"]: e["unsigned"]["sha256"] for e in same}
        found = {}
        if self.statement["predicateType"] == PROVENANCE:
            for subject in self.statement["subject"]:
                name = _UNSIGNED.match(subject["name"])
                found[name[1] if name else subject["name"]] = subject["digest"]["sha256"]
        return found


def attestation(envelopes: Iterable[Envelope], key: Optional[Key], signer: Signer) -> bytes:
    """A bundle of these, with a signature more; of bare statements where there is no key."""
    lines = [signed(e, key, signer).as_json() if key else e.payload.decode() for e in envelopes]
    return "".join(f"{line}\n" for line in lines).encode()


def vouchers(found: Iterable[Vouched], digest: str) -> frozenset[str]:
    """Whose statements say of a file with that SHA-256 that it is as it should be."""
    by: set[str] = set()
    for item in found:
        subjects = {subject["digest"]["sha256"] for subject in item.statement["subject"]}
        if item.kind == "equivalence" and item.statement["predicate"]["verdict"] != "identical":
            enclaves = item.statement["predicate"]["enclaves"]
            subjects = {e["signed"]["sha256"] for e in enclaves if e["verdict"] == "identical"}
        if digest in subjects | set(item.unsigned().values()):
            by |= item.signers
    return frozenset(by)


def vouched(
    data: bytes,
    file: str,
    keys: Sequence[Key],
    *,
    keyring: Optional[bytes] = None,
    signature: Optional[bytes] = None,
) -> list[Vouched]:
    """The statements of a bundle, each signed by one of the keys.

    Args:
        data: the bundle; or one bare statement, which an OpenPGP signature alone vouches for.
        file: its name.
        keys: whom the caller trusts.
        keyring: OpenPGP keys that the caller trusts.
        signature: the detached OpenPGP signature over `data`.

    Raises:
        AttestationError: a part is malformed, or not signed by any of them.
    """
    openpgp: frozenset[str] = frozenset()
    if keyring is not None and signature is not None:
        openpgp = frozenset({openpgp_signer(data, signature, keyring, file)})
    found = []
    for envelope in read_bundle(data, file, bare=bool(openpgp)):
        # Whoever has signed in both ways is still one.
        by = signers(envelope, keys, file) or openpgp
        if not by:
            raise AttestationError(
                "no signature is by one of the keys",
                file=file,
                expected=" or ".join(key.keyid for key in keys) or "an OpenPGP signature beside it",
                found=", ".join(s.keyid or "no key id" for s in envelope.signatures) or "none",
                hint="name the signer's public key with --key, or his keyring with --keyring",
            )
        digest = hashlib.sha256(envelope.payload).hexdigest()
        found.append(Vouched(file, read_statement(envelope, file), digest, by))
    return found


def agreed(found: Sequence[Vouched], threshold: int) -> dict[str, str]:
    """The unsigned enclaves, by name, for which enough signers name the same SHA-256.

    Every enclave that one of them names must have enough, or nothing is agreed.

    Args:
        found: statements of any number of rebuilders, whose reports may differ.
        threshold: how many different signers are needed.

    Raises:
        AttestationError: two name different digests, or there are too few signers.
    """
    named: dict[str, dict[str, set[str]]] = {}
    for item in found:
        for name, digest in item.unsigned().items():
            named.setdefault(name, {}).setdefault(digest, set()).update(item.signers)
    if not named:
        raise AttestationError("no statement names an unsigned enclave that was verified")
    for name, digests in sorted(named.items()):
        if len(digests) > 1:
            raise AttestationError(
                f"the signers disagree about {name}",
                expected="the same SHA-256 of the unsigned enclave",
                found="; ".join(f"{d} by {', '.join(sorted(s))}" for d, s in digests.items()),
                hint="compare the two builds: sgx-enclaves compare says where they differ",
            )
        signed_by = next(iter(digests.values()))
        if len(signed_by) < threshold:
            raise AttestationError(
                f"too few signers vouch for {name}",
                expected=f"{threshold} different keys",
                found=f"{len(signed_by)}: {', '.join(sorted(signed_by))}",
            )
    return {name: next(iter(digests)) for name, digests in sorted(named.items())}
