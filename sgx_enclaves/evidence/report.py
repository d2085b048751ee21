# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for programs and for those who check again: `report.json`, schema version 2.

One kind for every way to a verdict; `report.schema.json` describes it. Equal runs give
equal bytes: a report has no date, no time and no directory's name. Those stand beside it in
`head.json`, with the version of this program and the report's digest. Reports are plain
data, and a report that is read is input like any other.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sgx_enclaves import __version__
from sgx_enclaves.enclave.verdict import CheckState
from sgx_enclaves.errors import ReportError
from sgx_enclaves.files import make_folder, read_file, sha256_of, write_file
from sgx_enclaves.plain import parse_json, read_schema, validate
from sgx_enclaves.release.toolchain import GOOD_PARTS, PartState
from sgx_enclaves.report.templated import report_summary

if TYPE_CHECKING:
    from sgx_enclaves.release.manifest import Manifest

Plain = dict[str, Any]

SCHEMA_VERSION = 2
REPORT, HEAD, MANIFEST = "report.json", "head.json", "manifest.json"
MAX_REPORT = 16 << 20
ROLES = ("built", "signed", "config")


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest that goes beside a report."""
    return canonical(manifest.lasting().as_dict())


def canonical(plain: Mapping[str, Any]) -> bytes:
    """The bytes of a report; equal ones for equal reports."""
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode("ascii")


def head_of(report: bytes, when: datetime.datetime, manifest: Optional[Manifest]) -> Plain:
    """What stands beside a report: its digest, when and by what it was made, timings."""
    steps = [
        {"tree": tree.release, "id": step.id, "milliseconds": step.milliseconds}
        for tree in (manifest.trees if manifest is not None else ())
        for step in tree.steps
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "report_sha256": sha256_of(report),
        "made_at": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool": f"sgx-enclaves {__version__}",
        "milliseconds": manifest.milliseconds if manifest is not None else None,
        "steps": steps,
    }


def write_report(folder: Path, report: Plain, manifest: Optional[Manifest] = None) -> None:
    """Write a report, its head, the manifest of the build, and the short forms into a directory."""
    data = canonical(report)
    head = head_of(data, datetime.datetime.now(datetime.timezone.utc), manifest)
    files = {REPORT: data, HEAD: canonical(head)}
    files |= {f"report.{form}": report_summary(report, form).encode() for form in ("md", "xml")}
    if manifest is not None:
        files[MANIFEST] = manifest_bytes(manifest)
    make_folder(folder)
    for name, content in files.items():
        write_file(str(folder / name), content)


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
    schema = read_schema(__file__, "report.schema.json")
    validate(report, schema, file=file, error=ReportError)
    for problem in _contradictions(report):
        raise ReportError(f"the report contradicts itself: {problem}", file=file)
    made: Plain = report
    return made


def read_beside(folder: Path, report: Plain, data: bytes) -> Plain:
    """The head of a report; a ReportError if a file beside it is missing, or of another report."""
    names = (HEAD,) if report["manifest_sha256"] is None else (HEAD, MANIFEST)
    found = {}
    for path in (folder / name for name in names):
        if not path.is_file():
            raise ReportError(
                f"{path.name} is missing beside the report",
                file=str(folder),
                expected=", ".join((REPORT, *names)),
            )
        found[path.name] = read_file(str(path), MAX_REPORT)
    expected = report["manifest_sha256"]
    if MANIFEST in found and sha256_of(found[MANIFEST]) != expected:
        path = folder / MANIFEST
        raise ReportError(
            "not the file that the report names", file=str(path), expected=f"SHA-256 {expected}"
        )
    place, own = str(folder / HEAD), sha256_of(data)
    head: Plain = parse_json(found[HEAD], file=place, error=ReportError)
    schema = read_schema(__file__, "report.schema.json", "head")
    validate(head, schema, file=place, error=ReportError)
    if head["report_sha256"] != own:
        expected = f"report_sha256 {own}"
        raise ReportError("the head of another report", file=place, expected=expected)
    return head


def _contradictions(report: Mapping[str, Any]) -> Iterator[str]:
    if report["proved"] != proved_by(report["enclaves"]):
        yield "what is proved is not what the enclaves' checks prove"
    needed = [e for e in report["enclaves"] if e["required"]]
    if report["verdict"] == "identical":
        others = [e["name"] for e in needed if e["verdict"] != "identical"]
        if others or not needed:
            yield f"identical, though not each enclave is: {', '.join(others) or 'there is none'}"
    yield from (f"reproducible, {words}" for words in _not_reproducible(report))
    trusted = {line for enclave in report["enclaves"] for line in enclave["not_proved"]}
    if trusted - set(report["not_proved"]) or (
        report["verdict"] == "identical" and not report["not_proved"]
    ):
        yield "it leaves out what is not proved"
    for part in report["toolchain"]:
        # A packager's suffix is nothing that the tool knows.
        same = part["found"] in (part["designated"], part["designated"].partition("-")[0])
        if part["state"] == PartState.MATCH.value and not same:
            yield f"{part['name']} is said to match {part['designated']}, as {part['found']}"
    for enclave in report["enclaves"]:
        yield from (f"{enclave['name']}: {words}" for words in _wrong_enclave(enclave))


def _not_reproducible(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["reproducible"]:
        return
    if report["verdict"] != "identical":
        yield f"with the verdict {report['verdict']}"
    if report["build"] == "given":
        yield "though the enclaves were given"
    if report["unpinned"]:
        yield f"though not pinned is {', '.join(report['unpinned'])}"
    others = [p["name"] for p in report["toolchain"] if PartState(p["state"]) not in GOOD_PARTS]
    if others:
        yield f"with another toolchain than the designated one: {', '.join(others)}"


def _wrong_enclave(enclave: Mapping[str, Any]) -> Iterator[str]:
    ranges, signed = enclave["byte_map"], enclave["signed"]
    edges = [0, *(r["end"] for r in ranges)]
    size = signed["size"] if signed is not None else None
    gapless = [r["start"] for r in ranges] == edges[:-1] and edges == sorted(set(edges))
    if ranges and not (gapless and edges[-1] == size):
        yield "its byte map does not cover its signed file from end to end"
    blocks = enclave["blocks"]
    for key in ("mrsigner", "isvprodid", "isvsvn") if blocks else ():
        if enclave[key] != blocks[0][key]:
            yield f"its {key} is {enclave[key]}, and {blocks[0][key]} in its first block"
    if enclave["verdict"] != "identical":
        return
    if {block["mrenclave"] for block in blocks} - {enclave["mrenclave"]}:
        yield "identical, though a block was signed for another MRENCLAVE"
    if None in (enclave["built"], signed, enclave["config"]):
        yield "identical, though a file is missing"
    if any(check["state"] != "proved" for check in enclave["checks"]):
        yield "identical, though a check is not proved"
    if any(r["origin"] == "unexplained" for r in ranges):
        yield "identical, though bytes are unexplained"
    if any(f["severity"] != "note" for f in enclave["findings"]):
        yield "identical, though a finding speaks against it"


def proved_by(enclaves: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the checks of a report's enclaves prove."""
    return [
        f"{enclave['name']}: {check['claim']}"
        for enclave in enclaves
        for check in enclave["checks"]
        if check["state"] == CheckState.PROVED.value
    ]
