# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for programs and for those who check again: `report.json`, schema version 2.

One kind for every way to a verdict; `report.schema.json` describes it. Equal runs give
equal bytes: a report has no date, no time and no directory's name. Those stand beside it in
`head.json`, with the version of this program and the report's digest. Reports are plain
data, and a report that is read is input like any other.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.enclave.verdict import CheckState, Outcome, Verdict
from sgx_enclaves.errors import ReportError, SgxEnclavesError
from sgx_enclaves.files import make_folder, read_file, write_file
from sgx_enclaves.plain import as_plain, parse_json, validate
from sgx_enclaves.release.manifest import unsigned_name
from sgx_enclaves.report.as_json import verdict_dict
from sgx_enclaves.rpm.presence import version_of

if TYPE_CHECKING:
    from sgx_enclaves.catalogue.records import Catalogue, Release
    from sgx_enclaves.gate.collect import Combined
    from sgx_enclaves.release.manifest import Manifest, TreeRecord
    from sgx_enclaves.release.verify import Verified

Plain = dict[str, Any]

SCHEMA_VERSION = 2
REPORT, HEAD, MANIFEST = "report.json", "head.json", "manifest.json"
MAX_REPORT = 16 << 20
ROLES = ("built", "signed", "config")
# What is known of an enclave only where it was compared, and of a report only sometimes.
_NO_FACTS = ("policy", "sdk", "sdk_from", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
_LISTS = ("checks", "not_proved", "blocks", "byte_map", "findings")
_ALONE = ("reproducible", "release", "buildroot", "manifest_sha256")
_PARTS = ("not_proved", "unpinned", "sources", "toolchain", "steps", "packages", "findings")


# --- making ---


def of_comparison(verdict: Verdict) -> Plain:
    """The report of one comparison of files."""
    name = verdict.policy.enclave or _base(verdict.signed.name).partition(".")[0]
    enclaves = [_compared(name, verdict_dict(verdict))]
    return _report("comparison", verdict.outcome.value, verdict.headline, enclaves, build="given")


def of_release(verified: Verified, release: Release, catalogue: Catalogue, **around: Any) -> Plain:
    """The report of a release's verification.

    Args:
        verified: the verdict and what it is about.
        release: the release, cut down to what was asked for.
        catalogue: where the trees are described that it was built in.
        around: what the caller knows better, such as the buildroot.
    """
    verdict, manifest = verified.verdict, verified.manifest
    kinds = {build.kind.value for build in verdict.builds}
    enclaves = []
    for item in verdict.enclaves:
        own = release.enclave(item.name)
        version = own.so_version.value if own is not None and own.so_version else None
        if item.verdict is not None:
            plain = verdict_dict(item.verdict)
            enclaves.append(_compared(item.name, plain, required=item.required, version=version))
            continue
        ours = verified.built.files.get(item.name)
        theirs = verified.signed.files.get(item.name)
        made = _enclave(item.name, item.bytes_outcome.value, f"stopped at {item.refused_by}")
        made["built"] = _file_of(unsigned_name(ours.file), ours.unsigned) if ours else None
        made["signed"] = _file_of(item.signed_file, theirs.data) if theirs else None
        made |= {"required": item.required, "version": version}
        made["findings"] = as_plain(item.findings)
        enclaves.append(made)
    parts: Plain = {}
    if manifest is not None:
        parts = {
            "sources": [s for tree in manifest.trees for s in _sources(tree, catalogue)],
            "toolchain": [
                {
                    "tree": tree.release,
                    "name": part.name,
                    "designated": part.expected,
                    "found": part.found,
                    "state": part.state.value,
                }
                for tree in manifest.trees
                for part in tree.toolchain.parts
            ],
            "steps": [
                {
                    "tree": tree.release,
                    "id": step.id,
                    "enclave": step.enclave,
                    "exit": step.outcome.value,
                    "message": step.message,
                }
                for tree in manifest.trees
                for step in tree.steps
            ],
            "manifest_sha256": _sha256(manifest_bytes(manifest)),
        }
    return _report(
        "release",
        verdict.outcome.value,
        verdict.claim,
        enclaves,
        **{
            "reproducible": verdict.reproducible,
            "not_proved": verdict.not_proved,
            "release": release_facts(release),
            "unpinned": verdict.unpinned,
            "build": "given" if "given" in kinds else "none" if kinds <= {"none"} else "here",
            "findings": [as_plain(f) for stage in verdict.stages for f in stage.findings],
            **parts,
            **around,
        },
    )


def release_facts(release: Release) -> Plain:
    """Name, digest and origin of a release's description."""
    path = Path(release.file)
    known = path.parent == OWN_FOLDER
    return {
        "name": release.name,
        "sha256": _sha256(path.read_bytes()) if path.is_file() else None,
        "origin": "catalogue" if known else f"file {path.name}",
    }


def _sources(tree: TreeRecord, catalogue: Catalogue) -> Iterator[Plain]:
    known = catalogue.releases.get(tree.release)
    pinned = () if known is None or known.build is None else known.build.sources
    urls = {source.id: source.artifact.urls for source in pinned}
    for source in tree.sources:
        how = "contents" if source.contents_sha256 is not None else "sha256"
        yield {
            "tree": tree.release,
            "name": source.filename,
            "url": next(iter(urls.get(source.id, ())), None),
            "sha256": source.sha256,
            "pinned_by": how if source.pinned else "nothing",
        }


def of_packages(kind: str, results: Sequence[Plain]) -> Plain:
    """The report of packages that were checked.

    Args:
        kind: `packages`, or `scan`.
        results: of each, what `report.as_json.result_dict` gives.
    """
    enclaves, packages = [], []
    for result in results:
        name = _base(result["file"])
        own = {"nevra": result["package"], "verdict": result["outcome"]}
        around = {"file": name, **own, "findings": result["findings"]}
        packages.append({**around, **package_facts(result["file"])})
        for item in result["enclaves"]:
            if item["outcome"] is None:
                continue
            known = {"package": name, "path": item["path"], "version": version_of(item["path"])}
            called = item["name"] or _base(item["path"]).partition(".")[0]
            if item["verdict"] is not None:
                made = _compared(called, item["verdict"], **known)
                made["verdict"] = item["outcome"]
            else:
                signed = {"name": _base(item["path"]), **{k: item[k] for k in ("size", "sha256")}}
                words = item["findings"][0]["message"]
                made = _enclave(called, item["outcome"], words, signed=signed, **known)
            made["findings"] = item["findings"] + made["findings"]
            enclaves.append(made)
    same = sum(enclave["verdict"] == "identical" for enclave in enclaves)
    # Where there is no enclave, there is nothing that could be identical with anything.
    status = max((r["exit_status"] for r in results), default=0) if enclaves else 2
    return _report(
        kind,
        next(outcome.value for outcome in Outcome if outcome.exit_status == status),
        f"{same} of {len(enclaves)} signed enclaves in {len(packages)} packages are the "
        "reference's plus a signature",
        enclaves,
        build="given",
        packages=packages,
    )


def package_facts(path: str) -> Plain:
    """The digests of a package file: whole, header, and payload as the header pins it."""
    from sgx_enclaves.gate.inspect import digests_of  # noqa: PLC0415  (only packages need librpm)
    from sgx_enclaves.rpm.reader import open_package  # noqa: PLC0415

    names = ("sha256", "header_sha256", "payload_sha256")
    try:
        with open_package(path) as (package, stream):
            pins = package.header.all("PAYLOADDIGEST", str)
            pinned = next((pin for pin in pins if len(pin) == _HEX_SHA256), None)
            header = package.header.digest("sha256")
            return dict(zip(names, (digests_of(package, stream).file, header, pinned)))
    except SgxEnclavesError:
        # What is wrong with it is a finding of its result.
        return dict.fromkeys(names)


_HEX_SHA256 = 64


def of_build(combined: Combined, release: Plain, buildroot: Plain) -> Plain:
    """The report of a build system's verification of a build.

    Args:
        combined: what its tasks say.
        release: name, digest and origin of the release's description.
        buildroot: build tag, id of the repository, digests of packages and lock.
    """
    enclaves = []
    for answer in combined.answers:
        for subject in answer.subjects:
            words = subject.cause or answer.claim
            made = _enclave(answer.enclave, subject.verdict, words)
            made |= {"package": subject.rpm, "path": subject.path}
            facts = ("version", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
            made |= {name: getattr(subject, name) for name in facts}
            digests = (subject.built_sha256, subject.sha256, answer.config_sha256)
            names = (f"{answer.enclave}.so", subject.file, f"{answer.enclave}.config.xml")
            for role, name, digest in zip(ROLES, names, digests):
                if digest is not None:
                    made[role] = {"name": name, "size": None, "sha256": digest}
            enclaves.append(made)
    nothing = ("nevra", "verdict", "header_sha256", "payload_sha256")
    packages: list[Plain] = [
        {
            **dict.fromkeys(nothing),
            "file": package.name,
            "sha256": package.digests.file if package.digests else None,
            "findings": [],
        }
        for package in combined.packages
    ]
    return _report(
        "koji",
        combined.verdict,
        combined.claim,
        enclaves,
        reproducible=combined.reproducible,
        release=release,
        build="here" if combined.toolchain_sha256 is not None else "none",
        buildroot=buildroot,
        packages=packages,
    )


def _report(kind: str, verdict: str, claim: str, enclaves: Sequence[Plain], **known: Any) -> Plain:
    made: Plain = {**dict.fromkeys(_ALONE), "build": "none"}
    made |= {name: list(known.pop(name, ())) for name in _PARTS}
    made["not_proved"] += dict.fromkeys(
        line for e in enclaves for line in e["not_proved"] if line not in made["not_proved"]
    )
    made |= {"schema_version": SCHEMA_VERSION, "kind": kind, "verdict": verdict, "claim": claim}
    return {**made, "proved": _proved(enclaves), "enclaves": list(enclaves), **known}


def _proved(enclaves: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{enclave['name']}: {check['claim']}"
        for enclave in enclaves
        for check in enclave["checks"]
        if check["state"] == CheckState.PROVED.value
    ]


def _compared(name: str, verdict: Plain, **known: Any) -> Plain:
    """One enclave of which there is a comparison, as `verdict_dict` gives it."""
    kept = ("policy", "sdk", "sdk_from", "mrenclave", *_LISTS)
    made = _enclave(name, verdict["outcome"], verdict["headline"], **known)
    made |= {key: verdict[key] for key in kept}
    for role in ROLES:
        made[role] = {**verdict[role], "name": _base(verdict[role]["name"])}
    for block in verdict["blocks"][:1]:
        made |= {key: block[key] for key in ("mrsigner", "isvprodid", "isvsvn")}
    return made


def _enclave(name: str, verdict: str, headline: str, **known: Any) -> Plain:
    """One enclave, of which only that is known."""
    made: Plain = dict.fromkeys(("package", "path", "version", *ROLES, *_NO_FACTS))
    made |= {key: [] for key in _LISTS}
    made |= {"name": name, "verdict": verdict, "headline": headline, "required": True}
    return {**made, **known}


def _file_of(name: str, data: bytes) -> Plain:
    return {"name": name, "size": len(data), "sha256": _sha256(data)}


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest that goes beside a report: without what never recurs."""
    plain = manifest.as_dict()
    plain.update(started=0, milliseconds=0)
    for tree in plain["trees"]:
        tree["environment"] = [x for x in tree["environment"] if not x.startswith("HOME=")]
        for step in tree["steps"]:
            step.update(milliseconds=0, log=None)
    return canonical(plain)


def canonical(plain: Mapping[str, Any]) -> bytes:
    """The bytes of a report; equal ones for equal reports."""
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode("ascii")


def head_of(
    report: bytes, *, when: datetime.datetime, manifest: Optional[Manifest] = None
) -> Plain:
    """What stands beside a report: its digest, when and by what it was made, timings.

    Args:
        report: its bytes.
        when: with a time zone.
        manifest: of the build, if there was one.
    """
    trees = manifest.trees if manifest is not None else ()
    steps = [
        {"tree": tree.release, "id": step.id, "milliseconds": step.milliseconds}
        for tree in trees
        for step in tree.steps
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "report_sha256": _sha256(report),
        "made_at": when.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool": f"sgx-enclaves {__version__}",
        "milliseconds": manifest.milliseconds if manifest is not None else None,
        "steps": steps,
    }


# --- reading ---


def read_report(data: bytes, file: str) -> Plain:
    """A report, checked through and through.

    Raises:
        ReportError: it is too large, malformed, of another schema, or contradicts itself.
    """
    report = parse_json(data, file=file, error=ReportError, most=MAX_REPORT)
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise ReportError(
            "a report of another schema",
            file=file,
            expected=f"schema_version {SCHEMA_VERSION}",
            found=f"schema_version {version}" if version is not None else "none",
            hint="name the report.json that --report wrote",
        )
    validate(report, schema(), file=file, error=ReportError)
    for problem in _contradictions(report):
        raise ReportError(f"the report contradicts itself: {problem}", file=file)
    made: Plain = report
    return made


def read_beside(folder: Path, report: Plain, data: bytes) -> Plain:
    """The head of a report, whose directory must be whole.

    Raises:
        ReportError: a file is missing, or belongs to another report.
    """
    files: dict[str, Optional[str]] = {HEAD: None}
    if report["manifest_sha256"] is not None:
        files[MANIFEST] = report["manifest_sha256"]
    found = {}
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise ReportError(
                f"{name} is missing beside the report",
                file=str(folder),
                expected=", ".join((REPORT, *files)),
                hint="get the whole directory that --report wrote",
            )
        found[name] = read_file(str(path), MAX_REPORT)
        if digest is not None and _sha256(found[name]) != digest:
            raise ReportError(
                "not the file that the report names", file=str(path), expected=f"SHA-256 {digest}"
            )
    head: Plain = parse_json(found[HEAD], file=str(folder / HEAD), error=ReportError)
    own = _sha256(data)
    if not isinstance(head, dict) or head.get("report_sha256") != own:
        raise ReportError(
            "the head of another report", file=str(folder / HEAD), expected=f"report_sha256 {own}"
        )
    return head


@functools.cache
def schema() -> Plain:
    """The JSON Schema (draft 7) of reports."""
    text = Path(__file__).with_name("report.schema.json").read_text("utf-8")
    loaded: Plain = json.loads(text)
    return loaded


def _contradictions(report: Mapping[str, Any]) -> Iterator[str]:
    if report["proved"] != _proved(report["enclaves"]):
        yield "what is proved is not what the enclaves' checks prove"
    needed = [e for e in report["enclaves"] if e["required"]]
    if report["verdict"] == "identical":
        others = [e["name"] for e in needed if e["verdict"] != "identical"]
        if others or not needed:
            yield f"identical, though not each enclave is: {', '.join(others) or 'there is none'}"
    elif report["reproducible"]:
        yield f"reproducible, with the verdict {report['verdict']}"
    for enclave in report["enclaves"]:
        yield from (f"{enclave['name']}: {words}" for words in _wrong_enclave(enclave))


def _wrong_enclave(enclave: Mapping[str, Any]) -> Iterator[str]:
    ranges, signed = enclave["byte_map"], enclave["signed"]
    edges = [0, *(r["end"] for r in ranges)]
    if ranges and (
        [r["start"] for r in ranges] != edges[:-1]
        or any(r["end"] <= r["start"] for r in ranges)
        or signed is None
        or edges[-1] != signed["size"]
    ):
        yield "its byte map does not cover its signed file from end to end"
    if enclave["verdict"] != "identical":
        return
    if None in (enclave["built"], signed, enclave["config"]):
        yield "identical, though a file is missing"
    if any(check["state"] != "proved" for check in enclave["checks"]):
        yield "identical, though a check is not proved"
    if any(r["origin"] == "unexplained" for r in ranges):
        yield "identical, though bytes are unexplained"
    if any(f["severity"] != "note" for f in enclave["findings"]):
        yield "identical, though a finding speaks against it"


def write_report(
    folder: Path,
    report: Plain,
    *,
    manifest: Optional[Manifest] = None,
    now: Optional[datetime.datetime] = None,
) -> None:
    """Write a report, its head, and the manifest of the build into a directory, which may be new.

    Raises:
        InputError: it cannot be made, or a file not be written.
    """
    data = canonical(report)
    head = head_of(
        data, when=now or datetime.datetime.now(datetime.timezone.utc), manifest=manifest
    )
    files = {REPORT: data, HEAD: canonical(head)}
    if manifest is not None:
        files[MANIFEST] = manifest_bytes(manifest)
    make_folder(folder)
    for name, content in files.items():
        write_file(str(folder / name), content)
