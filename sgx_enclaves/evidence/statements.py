# SPDX-License-Identifier: GPL-2.0-or-later
"""in-toto statements of a report: what was built, what a signed file equals, and the result.

    provenance   SLSA provenance v1; its subjects are the unsigned enclaves, so that
                 rebuilders who have nothing else in common name the same digests
    equivalence  our own predicate; its subjects are the signed files and their packages
    result       in-toto's simple verification result, for consumers who know nothing of us

Statements are plain data. One that is read has been signed by somebody whom the caller trusts.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.enclave.sign import Signer
from sgx_enclaves.errors import AttestationError, InputError
from sgx_enclaves.evidence import envelope as dsse
from sgx_enclaves.evidence.envelope import Envelope, Key
from sgx_enclaves.evidence.report import SIGNED, Plain, of_record
from sgx_enclaves.files import read_file, sha256_of, system_errors
from sgx_enclaves.gate.record import Record, read_record
from sgx_enclaves.limits import DEFAULT_LIMITS, MIB
from sgx_enclaves.plain import parse_json, record

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PROVENANCE = "https://slsa.dev/provenance/v1"
EQUIVALENCE = "urn:sgx-enclaves:equivalence:v1"
RESULT = "https://in-toto.io/attestation/svr/v0.1"
KINDS = {PROVENANCE: "provenance", EQUIVALENCE: "equivalence", RESULT: "result"}
TOOL = f"urn:sgx-enclaves:{__version__}"
# What an equivalence says of an enclave in the words of the report.
_FACTS = ("name", "version", "verdict", "package", "policy", "sdk", "mrenclave", *SIGNED)
# What an OpenPGP signature has behind the name of what it is of.
_OPENPGP = (".asc", ".sig")
_UNSIGNED = re.compile(r"sgx-enclave\(([^:)]+):unsigned\)\Z")


def statements_of(
    report: Mapping[str, Any], digest: str, *, builder: str, time: str
) -> list[Plain]:
    """Every statement that a checked report supports; an AttestationError if there is none.

    `digest` is the SHA-256 of the report's file, `builder` a URI of who built and verified at this
    `time`, such as 2026-11-29T18:00:00Z.
    """
    built = [e for e in report["enclaves"] if e["built"]]
    compared = [e for e in built if e["signed"]]
    identical = [e for e in compared if e["verdict"] == "identical"]
    unsigned = [(f"sgx-enclave({e['name']}:unsigned)", e["built"]["sha256"]) for e in built]
    made: list[Plain] = [
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": n, "digest": _sha(d)} for n, d in dict.fromkeys(subjects)],
            "predicateType": kind,
            "predicate": predicate,
        }
        for kind, subjects, predicate in (
            (PROVENANCE, unsigned, _provenance(report, digest, builder)),
            (EQUIVALENCE, _signed_files(report, compared), _equivalence(report, digest, compared)),
            (RESULT, _signed_files(report, identical), _result(report, digest, builder, time)),
        )
        if predicate is not None and subjects
    ]
    if not made:
        raise AttestationError(
            "the report supports no statement",
            expected="an enclave that was built from source, or one that was compared",
            found=f"a report with the verdict {report['verdict']}",
            hint="attest a report of compare, or of verify-release",
        )
    return made


def _provenance(report: Mapping[str, Any], digest: str, builder: str) -> Optional[Plain]:
    """How the unsigned enclaves came to be; None if this verification did not build them."""
    release, root = report["release"], report["buildroot"] or {}
    if release is None or report["build"] != "here":
        return None
    files = {"report.json": digest, "manifest.json": report["manifest_sha256"]}
    about = {"name": release["name"], "url": TOOL, "sha256": release["sha256"]}
    outside = {"release": release, **{k: root.get(k) for k in ("build_tag", "lock_sha256")}}
    inside = {key: root.get(key) for key in ("repo_id", "packages_sha256")}
    dependencies = [
        {"name": s["name"], "uri": s["url"] or f"file:{s['name']}", "digest": _sha(s["sha256"])}
        for s in (about, *report["sources"])
        if s["sha256"] is not None
    ]
    return {
        "buildDefinition": {
            "buildType": "urn:sgx-enclaves:release-build:v1",
            "externalParameters": outside,
            "internalParameters": {**inside, "toolchain": report["toolchain"]},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": builder, "version": {"sgx-enclaves": __version__}},
            "byproducts": [{"name": n, "digest": _sha(d)} for n, d in files.items() if d],
        },
    }


def _equivalence(report: Mapping[str, Any], digest: str, compared: Sequence[Plain]) -> Plain:
    """What each signed file is, next to our build."""
    roles = {"unsigned": "built", "signed": "signed", "config": "config"}
    return {
        **{key: report[key] for key in ("verdict", "reproducible", "claim", "release")},
        "notProved": report["not_proved"],
        "report": _sha(digest),
        "tool": TOOL,
        "enclaves": [
            {key: enclave[key] for key in _FACTS}
            | {name: _sha(enclave[r]["sha256"]) for name, r in roles.items() if enclave[r]}
            for enclave in compared
        ],
    }


def _result(report: Mapping[str, Any], digest: str, verifier: str, time: str) -> Optional[Plain]:
    """The same in a form that needs no knowledge of enclaves; None unless it is *identical*."""
    if report["verdict"] != "identical":
        return None
    reproducible = ["SGX_ENCLAVES_REPRODUCIBLE"] if report["reproducible"] else []
    policy = {"uri": "urn:sgx-enclaves:equivalence:v1", "digest": _sha(digest)}
    return {
        "verifier": {"id": verifier, "policy": policy},
        "timeCreated": time,
        "properties": ["SGX_ENCLAVES_IDENTICAL", *reproducible],
    }


def _signed_files(report: Mapping[str, Any], chosen: list[Plain]) -> list[tuple[str, str]]:
    """The signed files of these enclaves, and the packages that hold none but them."""
    files = [(e["signed"]["name"], e["signed"]["sha256"]) for e in chosen]
    others = {e["package"] for e in report["enclaves"] if e not in chosen}
    holding = {e["package"] for e in chosen} - others
    return files + [(p["file"], p["sha256"]) for p in report["packages"] if p["file"] in holding]


def _sha(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def statements_of_record(plain: Mapping[str, Any], *, builder: str) -> list[Plain]:
    """The same of a build's record, as the hub gives it, with more around it; a RecordError if it
    is malformed, an AttestationError if the build has other packages now.
    """
    if (found := plain.get("outdated")) is not None:
        message = "the record is not of the build as it is now"
        raise AttestationError(message, found=str(found), hint="verify the build again")
    kept = read_record({name: plain[name] for name in plain.keys() & Record.__annotations__})
    time = kept.verified_at or ""
    return statements_of(of_record(kept), kept.report_sha256, builder=builder, time=time)


def enveloped(statement: Mapping[str, Any]) -> Envelope:
    """A statement as a payload that nobody has signed yet; equal ones give equal bytes."""
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"))
    return Envelope(text.encode("ascii"), PAYLOAD_TYPE)


def attestation(envelopes: Iterable[Envelope], key: Optional[Key], signer: Signer) -> bytes:
    """A bundle of these, with a signature more; of bare statements where there is no key."""
    signed = (
        dsse.signed(e, key, signer).as_json() if key else e.payload.decode() for e in envelopes
    )
    return "".join(f"{line}\n" for line in signed).encode()


def read_bundle(data: bytes, file: str, *, bare: bool = False) -> list[Envelope]:
    """The envelopes of a bundle, one a line, or one in any layout; else an AttestationError. If it
    is `bare`, a line may also be a statement without an envelope.
    """
    lines = [line for line in data.splitlines() if line.strip()]
    if not lines:
        raise AttestationError("there is no attestation in it", file=file)
    if not lines[0].rstrip().endswith(b"}"):
        lines = [data]
    return [
        Envelope(line, PAYLOAD_TYPE)
        if bare and b'"payloadType"' not in line
        else dsse.read_envelope(line, f"{file}, line {number}" if len(lines) > 1 else file)
        for number, line in enumerate(lines, 1)
    ]


def read_statement(envelope: Envelope, file: str) -> Plain:
    """The statement in an envelope whose signatures were found good; else an AttestationError."""
    if (found := envelope.payload_type) != PAYLOAD_TYPE:
        message = "no in-toto statement"
        raise AttestationError(message, file=file, expected=PAYLOAD_TYPE, found=found)
    most = dsse.MAX_ENVELOPE
    plain = parse_json(envelope.payload, file=file, error=AttestationError, most=most)
    statement: Plain = dsse.fitting(plain, "statement", file)
    return statement


@record
class SignedStatement:
    """A statement, its digest, and who signed it: ids of keys, or OpenPGP fingerprints."""

    file: str
    statement: Plain
    sha256: str
    signers: frozenset[str]

    @property
    def kind(self) -> str:
        """Which of the three it is."""
        return KINDS[self.statement["predicateType"]]

    @property
    def verdict(self) -> Optional[str]:
        """What an equivalence comes to."""
        verdict: Optional[str] = self.statement["predicate"].get("verdict")
        return verdict if self.kind == "equivalence" else None

    @property
    def release(self) -> str:
        """Name of the release that it speaks of; empty when it names none."""
        inside = ("buildDefinition", "externalParameters") if self.kind == "provenance" else ()
        found: Any = self.statement["predicate"]
        for key in (*inside, "release", "name"):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, str) else ""

    def identical(self) -> Iterator[Plain]:
        """The enclaves of an equivalence that are what they should be."""
        if self.kind == "equivalence":
            enclaves = self.statement["predicate"]["enclaves"]
            yield from (e for e in enclaves if e["verdict"] == "identical")

    def unsigned(self) -> Iterator[tuple[str, str]]:
        """Names and SHA-256 of the unsigned enclaves that it speaks of."""
        yield from ((e["name"], e["unsigned"]["sha256"]) for e in self.identical())
        for subject in self.statement["subject"] if self.kind == "provenance" else ():
            name = _UNSIGNED.match(subject["name"])
            yield name[1] if name else subject["name"], subject["digest"]["sha256"]


def signers_for(found: Iterable[SignedStatement], digest: str) -> frozenset[str]:
    """Who built a file, or found that it is a build plus a signature, in `agreed` statements."""
    by: frozenset[str] = frozenset()
    for item in found:
        files = {enclave["signed"]["sha256"] for enclave in item.identical()}
        if item.kind == "provenance" or (files and item.verdict == "identical"):
            files |= {subject["digest"]["sha256"] for subject in item.statement["subject"]}
        by |= item.signers if digest in files else frozenset()
    return by


def signed_statements(
    data: bytes,
    file: str,
    keys: Sequence[Key],
    keyring: Optional[bytes] = None,
    signature: Optional[bytes] = None,
) -> list[SignedStatement]:
    """A bundle's statements, each signed by a key, or all by OpenPGP; else an AttestationError."""
    openpgp: frozenset[str] = frozenset()
    if keyring is not None and signature is not None:
        openpgp = frozenset({dsse.openpgp_signer(data, signature, keyring, file)})
    found = []
    for envelope in read_bundle(data, file, bare=bool(openpgp)):
        # Whoever has signed in both ways is still one.
        by = dsse.signers(envelope, keys, file) or openpgp
        if not by:
            raise AttestationError(
                "no signature is by one of the keys",
                file=file,
                expected=" or ".join(key.keyid for key in keys) or "an OpenPGP signature beside it",
                found=", ".join(k or "no key id" for k, _ in envelope.signatures) or "none",
                hint="name the signer's public key with --key, or his keyring with --keyring",
            )
        statement = read_statement(envelope, file)
        found.append(SignedStatement(file, statement, sha256_of(envelope.payload), by))
    return found


def trusted(
    paths: Iterable[str], keys: Iterable[str], keyring: Optional[str]
) -> list[SignedStatement]:
    """The statements in these files, or all in a directory, each signed by one of the keys.

    OpenPGP signatures are looked for beside a file, with the suffix .asc or .sig. What is not good
    is a SgxEnclavesError; see `signed_statements`.
    """
    loaded = [dsse.load_key(read_file(key, DEFAULT_LIMITS.config_size), key) for key in keys]
    if not loaded and keyring is None:
        raise InputError("nobody is trusted", hint="name a key with --key or --keyring")
    ring = read_file(keyring, MIB) if keyring is not None else None
    found = []
    for file in (file for path in paths for file in _files_at(path)):
        beside = [f"{file}{end}" for end in _OPENPGP if Path(f"{file}{end}").exists()]
        signature = read_file(beside[0], MIB) if beside else None
        data = read_file(file, dsse.MAX_ENVELOPE)
        found += signed_statements(data, file, loaded, ring, signature)
    return found


def _files_at(path: str) -> list[str]:
    if not Path(path).is_dir():
        return [path]
    with system_errors(path, "cannot be read"):
        names = sorted(entry.name for entry in Path(path).iterdir())
    return [f"{path}/{n}" for n in names if not n.startswith(".") and not n.endswith(_OPENPGP)]


def agreed(found: Iterable[SignedStatement], threshold: int) -> dict[str, str]:
    """SHA-256 of the unsigned enclaves, by name, that so many different signers have built.

    Who signs a statement of provenance says that; who signs an equivalence only compared. Reports
    may differ, but every enclave that is named must have enough rebuilders, and all who speak of
    one release must name the same digest: else an AttestationError, and nothing is agreed.
    """
    if threshold < 1:
        raise InputError("a threshold is at least 1", found=str(threshold))
    named: dict[str, dict[str, tuple[set[str], set[str]]]] = {}
    built = defaultdict[str, set[str]](set)
    for item in found:
        for name, digest in item.unsigned():
            by, releases = named.setdefault(name, {}).setdefault(digest, (set(), set()))
            by |= item.signers
            releases.add(item.release)
            built[digest] |= item.signers if item.kind == "provenance" else set()
    if not named:
        message = "no statement names an unsigned enclave that was verified"
        raise AttestationError(message, hint="name attestations whose verdict is identical")
    result = {}
    for name, digests in sorted(named.items()):
        spoken_of = [release for _, several in digests.values() for release in several]
        if len(digests) > 1 and ("" in spoken_of or len(set(spoken_of)) < len(spoken_of)):
            said = "; ".join(f"{d} by {', '.join(sorted(by))}" for d, (by, _) in digests.items())
            raise AttestationError(
                f"the signers disagree about {name}",
                expected="the same SHA-256 of the unsigned enclave",
                found=said,
                hint="compare the two builds: sgx-enclaves compare says where they differ",
            )
        for digest, (by, several) in digests.items():
            if len(built[digest]) < threshold:
                raise _too_few(name, built[digest], by - built[digest], threshold)
            of = f" of {', '.join(sorted(several))}" if len(digests) > 1 else ""
            result[f"{name}{of}"] = digest
    return result


def _too_few(name: str, built: set[str], compared: set[str], threshold: int) -> AttestationError:
    if not built:
        signers = f"{len(compared)} signer{'s'[len(compared) == 1 :]}"
        built_it = "none says that he built it (no statement of provenance)"
        message = f"{signers} compared {name}, {built_it}"
        return AttestationError(message, hint="sign a report of verify-release")
    only = f"; only compared by {', '.join(sorted(compared))}" if compared else ""
    return AttestationError(
        f"too few signers vouch for {name}",
        expected=f"{threshold} different keys",
        found=f"{len(built)}: {', '.join(sorted(built))}{only}",
        hint="get attestations of more rebuilders, or lower --threshold",
    )


def attested(
    paths: Iterable[str], keys: Iterable[str], keyring: Optional[str], threshold: int
) -> frozenset[str]:
    """SHA-256 of the unsigned enclaves that may be compared with; see `trusted` and `agreed`."""
    return frozenset(agreed(trusted(paths, keys, keyring), threshold).values())
