# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for programs and for those who check again: `report.json`, schema version 2.

One kind for every way to a verdict: a comparison, a release, packages, a build in Koji.
`report.schema.json` describes it. Equal runs give equal bytes: a report has no date, no time
and no directory's name. Those stand beside it in `head.json`, with the version of this program
and the report's digest. Reports are plain data, and a report that is read is input like any other.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os.path import basename
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.enclave.verdict import CheckState, Outcome, Verdict
from sgx_enclaves.errors import ReportError, SgxEnclavesError
from sgx_enclaves.files import read_file, sha256_of, write_files
from sgx_enclaves.gate.record import Record, RecordedEnclave, time_text
from sgx_enclaves.plain import as_plain, parse_json, read_schema, validate
from sgx_enclaves.release.manifest import Manifest, unsigned_name
from sgx_enclaves.release.outcome import FROM_SOURCES, HARMLESS, HONEST_TOOLS
from sgx_enclaves.release.toolchain import PartState
from sgx_enclaves.report.forms import ROLES, verdict_dict
from sgx_enclaves.report.templated import report_summary
from sgx_enclaves.rpm.presence import version_of

if TYPE_CHECKING:
    from sgx_enclaves.catalogue.records import Catalogue, Release
    from sgx_enclaves.gate.collect import Combined
    from sgx_enclaves.gate.inspect import RpmDigests
    from sgx_enclaves.release.verify import Verified

Plain = dict[str, Any]

SCHEMA_VERSION = 2
REPORT, HEAD, MANIFEST = "report.json", "head.json", "manifest.json"
_SCHEMA = "report.schema.json"
MAX_REPORT = 16 << 20
SIGNED = ("mrsigner", "isvprodid", "isvsvn")
_PACKAGE = {
    "nevra": "nevra",
    "sha256": "file",
    "header_sha256": "header",
    "payload_sha256": "payload",
}


def of_comparison(verdict: Verdict) -> Plain:
    """The report of one comparison of files."""
    name = verdict.policy.enclave or basename(verdict.signed.name).partition(".")[0]
    enclaves = [compared_enclave(name, verdict_dict(verdict))]
    folders = {getattr(verdict, role).name.rpartition("/")[0] for role in ROLES}
    words = (verdict.outcome.value, verdict.headline)
    return _report("comparison", *words, enclaves, folders, build="given")


def of_release(verified: Verified, release: Release, catalogue: Catalogue, /, **more: Any) -> Plain:
    """The report of a verification of what was asked of a release.

    `catalogue` describes the trees that it was built in; `more` is what the caller knows better or
    besides, such as the buildroot, and the `folders` that the run used.
    """
    verdict, manifest = verified.verdict, verified.manifest
    enclaves = []
    for item in verdict.enclaves:
        version = item.enclave.so_version.value if item.enclave.so_version else None
        known: Plain = {"required": item.enclave.required, "version": version}
        if item.verdict is not None:
            enclaves.append(compared_enclave(item.name, verdict_dict(item.verdict), **known))
            continue
        words = f"stopped at {item.refused_by}"
        known["findings"] = as_plain(item.findings)
        if ours := verified.built.files.get(item.name):
            known["built"] = _file_of(unsigned_name(ours.file), ours.unsigned)
        if theirs := verified.signed.files.get(item.name):
            known["signed"] = _file_of(item.enclave.signed_file, theirs.data)
        enclaves.append(_enclave(item.name, item.bytes_outcome.value, words, **known))
    path, kinds = Path(release.file), {build.kind.value for build in verdict.builds}
    facts = {
        "reproducible": verdict.reproducible,
        "not_proved": verdict.not_proved,
        "release": {
            "name": release.name,
            "sha256": sha256_of(path.read_bytes()) if path.is_file() else None,
            "origin": "catalogue" if path.parent == OWN_FOLDER else f"file {path.name}",
        },
        "unpinned": verdict.unpinned,
        "build": "given" if "given" in kinds else "none" if kinds <= {"none"} else "here",
        "findings": [as_plain(f) for stage in verdict.stages for f in stage.findings],
        **(_built(manifest, catalogue) if manifest is not None else {}),
        **more,
    }
    kind, outcome = facts.pop("kind", "release"), facts.pop("verdict", verdict.outcome.value)
    enclaves += facts.pop("files", ())
    return _report(kind, outcome, verdict.claim, enclaves, **facts)


def _built(manifest: Manifest, catalogue: Catalogue) -> Plain:
    """What a build's manifest says of sources, toolchain and steps."""
    made: Plain = {name: [] for name in ("sources", "toolchain", "steps")}
    for tree in manifest.trees:
        known = catalogue.releases.get(tree.release)
        pinned = known.build.sources if known is not None and known.build is not None else ()
        urls = {source.id: source.artifact.urls[:1] for source in pinned}
        for source in tree.sources:
            how = "contents" if source.contents_sha256 is not None else "sha256"
            file: Plain = {"name": source.filename, "sha256": source.sha256}
            file |= {"url": next(iter(urls.get(source.id, ())), None), "tree": tree.release}
            made["sources"].append({**file, "pinned_by": how if source.pinned else "nothing"})
        for part in tree.toolchain.parts:
            tool = {"name": part.name, "designated": part.expected, "found": part.found}
            made["toolchain"].append({"tree": tree.release, **tool, "state": part.state.value})
        for step in tree.steps:
            ended = {"exit": step.outcome.value, "message": step.message}
            about = {"tree": tree.release, "id": step.id, "enclave": step.enclave}
            made["steps"].append({**about, **ended})
    return {**made, "manifest_sha256": sha256_of(manifest_bytes(manifest))}


def of_packages(kind: str, results: Sequence[Plain]) -> Plain:
    """The report of `packages`, or of a `scan`, each as `forms.result_dict` gives it."""
    packages = [
        package_at(result["file"])
        | {"nevra": result["package"], "verdict": result["outcome"], "findings": result["findings"]}
        for result in results
    ]
    enclaves = [made for result in results for made in _packaged(result)]
    same = sum(enclave["verdict"] == "identical" for enclave in enclaves)
    # Where there is no enclave, there is nothing that could be identical with anything.
    status = max((r["exit_status"] for r in results), default=0) if enclaves else 2
    verdict = next(outcome.value for outcome in Outcome if outcome.exit_status == status)
    claim = f"{same} of {len(enclaves)} signed enclaves in {len(packages)} packages are the "
    claim += "reference's plus a signature"
    folders = {result["file"].rpartition("/")[0] for result in results}
    return _report(kind, verdict, claim, enclaves, folders, build="given", packages=packages)


def _packaged(result: Plain) -> Iterator[Plain]:
    for item in (enclave for enclave in result["enclaves"] if enclave["outcome"] is not None):
        path = item["path"]
        known = {"package": basename(result["file"]), "path": path, "version": version_of(path)}
        name = item["name"] or basename(path).partition(".")[0]
        if item["verdict"] is not None:
            made = compared_enclave(name, item["verdict"], **known, verdict=item["outcome"])
        else:
            made = _enclave(name, item["outcome"], item["findings"][0]["message"], **known)
            made["signed"] = {"name": basename(path), **{k: item[k] for k in ("size", "sha256")}}
        yield {**made, "findings": item["findings"] + made["findings"]}


def of_build(
    combined: Combined, release: Plain, buildroot: Plain, reports: Mapping[int, Plain]
) -> Plain:
    """The report of a build system's verification of a build, out of what its tasks say.

    Release and buildroot are as the schema has them, `reports` those of tasks that did not fail.
    """
    enclaves: list[Plain] = []
    for answer in combined.answers:
        reported = reports.get(answer.task_id, {}).get("enclaves", ())
        own = [enclave for enclave in reported if enclave["name"] == answer.enclave]
        enclaves += own or [_enclave(answer.enclave, answer.verdict, answer.claim)]
    parts = {
        part: [item for report in reports.values() for item in report[part]]
        for part in ("not_proved", "unpinned", "sources", "toolchain", "steps", "findings")
    }
    parts["packages"] = [_package(p.name, p.digests) for p in combined.packages]
    known: Plain = {
        part: [item for number, item in enumerate(items) if item not in items[:number]]
        for part, items in parts.items()
    }
    # what one task was given, not all was built here
    made = {report["build"] for report in reports.values()}
    known["build"] = next((word for word in ("given", "here") if word in made), "none")
    known |= {"release": release, "buildroot": buildroot, "reproducible": combined.reproducible}
    return _report("koji", combined.verdict, combined.claim, enclaves, **known)


def of_record(record: Record) -> Plain:
    """The report that the record of a build stands for; less than what its task uploaded."""
    words = f"{record.nvr} against release {record.release}: {record.verdict}"
    digest, origin = record.release_sha256, record.origin
    buildroot = {key: getattr(record, key) for key in ("build_tag", "repo_id", "lock_sha256")}
    # only of the reproducible verdict it is sure that the verification built the enclaves
    here = record.reproducible
    known: Plain = {
        "reproducible": here,
        "release": {"name": record.release, "sha256": digest, "origin": origin},
        "buildroot": {**buildroot, "packages_sha256": record.buildroot_sha256},
        "build": "here" if here else "given",
        "not_proved": (HARMLESS, HONEST_TOOLS) if here else (FROM_SOURCES,),
        "packages": [{**_package(p.name, None), "sha256": p.file_sha256} for p in record.rpms],
    }
    return _report("koji", record.verdict, words, [*map(of_file, record.enclaves)], **known)


def of_file(item: RecordedEnclave, comparison: Optional[Verdict] = None) -> Plain:
    """One enclave as tasks and records of a build system have it, and its comparison, if any."""
    known: Plain = {key: getattr(item, key) for key in ("version", "verdict")}
    known |= {"package": item.rpm, "path": item.path or None if item.rpm else None}
    if comparison is not None:
        return compared_enclave(item.name, verdict_dict(comparison), **known)
    known |= {key: getattr(item, key) for key in ("mrenclave", *SIGNED)}
    named = {"built": f"{item.name}.so", "signed": basename(item.path or item.rpm or item.name)}
    for role, file in named.items():
        if (digest := getattr(item, f"{role}_sha256")) is not None:
            known[role] = {"name": file, "size": None, "sha256": digest}
    return _enclave(item.name, headline=item.cause or item.verdict, **known)


def package_at(path: str) -> Plain:
    """What is known of a package file; only its name if it cannot be read, a finding elsewhere."""
    # Only packages need librpm.
    from sgx_enclaves.gate.inspect import rpm_digests  # noqa: PLC0415

    digests = None
    with contextlib.suppress(SgxEnclavesError):
        digests = rpm_digests(path)
    return _package(basename(path), digests)


def _package(name: str, digests: Optional[RpmDigests]) -> Plain:
    made: Plain = {"file": name, "verdict": None, "findings": []}
    return made | {key: getattr(digests, part, None) for key, part in _PACKAGE.items()}


def _report(
    kind: str,
    verdict: str,
    claim: str,
    enclaves: Sequence[Plain],
    folders: Iterable[object] = (),
    **known: Any,
) -> Plain:
    """A report; the names of these directories, which differ from run to run, are left out."""
    trusted = (line for enclave in enclaves for line in enclave["not_proved"])
    known["not_proved"] = dict.fromkeys([*known.get("not_proved", ()), *trusted])
    report = {**_unknown(read_schema(__file__, _SCHEMA)), "build": "none"}
    report |= {key: list(value) if report[key] == [] else value for key, value in known.items()}
    report |= {"schema_version": SCHEMA_VERSION, "kind": kind, "verdict": verdict, "claim": claim}
    report |= {"proved": proved_by(enclaves), "enclaves": list(enclaves)}
    names = sorted({f"{folder}/" for folder in folders if folder}, key=len, reverse=True)
    inside = re.compile(rf"(?<![^\s'\"(=,:])(?:{'|'.join(map(re.escape, names))})")
    for part in (report, *report["steps"], *report["enclaves"], *report["packages"]):
        for text in filter(part.get, ("message", "headline")):
            part[text] = inside.sub("", part[text])
        for finding in part.get("findings", ()):
            finding |= {p: inside.sub("", x) for p, x in finding.items() if isinstance(x, str)}
    return report


def compared_enclave(name: str, compared: Plain, /, **known: Any) -> Plain:
    """One enclave of which there is a comparison, as `verdict_dict` gives it."""
    made = _enclave(name, compared["outcome"], compared["headline"])
    made |= {key: compared[key] for key in made if key in compared}
    made |= {role: {**compared[role], "name": basename(compared[role]["name"])} for role in ROLES}
    for block in compared["blocks"][:1]:
        made |= {key: block[key] for key in SIGNED}
    return made | known


def _enclave(name: str, verdict: str, headline: str, **known: Any) -> Plain:
    """One enclave, of which only that is known."""
    made = _unknown(read_schema(__file__, _SCHEMA)["properties"]["enclaves"]["items"])
    made |= {"name": name, "verdict": verdict, "headline": headline, "required": True}
    return made | known


def _unknown(schema: Plain) -> Plain:
    """What a schema describes, while nothing is known of it: lists without items, and None."""
    parts = schema["properties"].items()
    return {name: [] if part.get("type") == "array" else None for name, part in parts}


def _file_of(name: str, data: bytes) -> Plain:
    return {"name": name, "size": len(data), "sha256": sha256_of(data)}


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest that goes beside a report."""
    return canonical(manifest.lasting().as_dict())


def canonical(plain: Mapping[str, Any]) -> bytes:
    """The bytes of a report; equal ones for equal reports."""
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode("ascii")


def files_of(
    report: Plain, time: str, manifest: Optional[Manifest], name: str = REPORT
) -> dict[str, bytes]:
    """A report, by that name; its build's manifest; a head: digest, when, by what, timings.

    `time` is as `gate.record.time_text` has it.
    """
    files = {name: canonical(report)}
    if manifest is not None:
        files[MANIFEST] = manifest_bytes(manifest)
    head: Plain = {"schema_version": SCHEMA_VERSION, "report_sha256": sha256_of(files[name])}
    head |= {"made_at": time, "tool": f"sgx-enclaves {__version__}"}
    head["milliseconds"] = manifest.milliseconds if manifest is not None else None
    head["steps"] = [
        {"tree": tree.release, "id": step.id, "milliseconds": step.milliseconds}
        for tree in (manifest.trees if manifest is not None else ())
        for step in tree.steps
    ]
    return {**files, HEAD: canonical(head)}


def write_report(folder: Path, report: Plain, manifest: Optional[Manifest] = None) -> None:
    """Write a report, what stands beside it, and its short forms into a directory."""
    files = {f"report.{form}": report_summary(report, form).encode() for form in ("md", "xml")}
    write_files(folder, files | files_of(report, time_text(), manifest))


def read_report(data: bytes, file: str) -> Plain:
    """A report, checked through and through; else a ReportError."""
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
    validate(report, read_schema(__file__, _SCHEMA), file=file, error=ReportError)
    for problem in _contradictions(report):
        raise ReportError(f"the report contradicts itself: {problem}", file=file)
    made: Plain = report
    return made


def read_beside(folder: Path, report: Plain, data: bytes) -> Plain:
    """The head of a report; a ReportError if a file beside it is missing, or of another report."""
    digest, own = report["manifest_sha256"], sha256_of(data)
    names = (HEAD,) if digest is None else (HEAD, MANIFEST)
    for name in names:
        if not (folder / name).is_file():
            message = f"{name} is missing beside the report"
            raise ReportError(message, file=str(folder), expected=", ".join((REPORT, *names)))
    manifest, place = str(folder / MANIFEST), str(folder / HEAD)
    if digest is not None and sha256_of(read_file(manifest, MAX_REPORT)) != digest:
        message = "not the file that the report names"
        raise ReportError(message, file=manifest, expected=f"SHA-256 {digest}")
    head: Plain = parse_json(read_file(place, MAX_REPORT), file=place, error=ReportError)
    validate(head, read_schema(__file__, _SCHEMA, "head"), file=place, error=ReportError)
    if head["report_sha256"] != own:
        expected = f"report_sha256 {own}"
        raise ReportError("the head of another report", file=place, expected=expected)
    return head


def _contradictions(report: Mapping[str, Any]) -> Iterator[str]:
    """What no schema can say."""
    if report["proved"] != proved_by(report["enclaves"]):
        yield "what is proved is not what the enclaves' checks prove"
    trusted = {line for enclave in report["enclaves"] for line in enclave["not_proved"]}
    if trusted - set(report["not_proved"]):
        yield "it leaves out what is not proved"
    for part in report["toolchain"]:
        # A packager's suffix is nothing that the tool knows.
        same = part["found"] in (part["designated"], part["designated"].partition("-")[0])
        if part["state"] == PartState.MATCH.value and not same:
            yield f"{part['name']} is said to match {part['designated']}, as {part['found']}"
    for item in report["enclaves"]:
        name, ranges, blocks = item["name"], item["byte_map"], item["blocks"]
        edges = [0, *(r["end"] for r in ranges)]
        gapless = [r["start"] for r in ranges] == edges[:-1] and edges == sorted(set(edges))
        size = (item["signed"] or {}).get("size")
        if ranges and not (gapless and edges[-1] == size):
            yield f"{name}: its byte map does not cover its signed file from end to end"
        for key in SIGNED if blocks else ():
            if item[key] != blocks[0][key]:
                yield f"{name}: its {key} is {item[key]}, and {blocks[0][key]} in its first block"
        others = {block["mrenclave"] for block in blocks} - {item["mrenclave"]}
        if item["verdict"] == "identical" and others:
            yield f"{name}: identical, though a block was signed for another MRENCLAVE"


def proved_by(enclaves: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the checks of a report's enclaves prove."""
    return [
        f"{enclave['name']}: {check['claim']}"
        for enclave in enclaves
        for check in enclave["checks"]
        if check["state"] == CheckState.PROVED.value
    ]
