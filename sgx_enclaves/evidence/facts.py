# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of each way to a verdict: a comparison, a release, packages, a build in Koji."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

from sgx_enclaves.catalogue.reader import OWN_FOLDER
from sgx_enclaves.enclave.verdict import Outcome, Verdict
from sgx_enclaves.errors import SgxEnclavesError
from sgx_enclaves.evidence.report import (
    ROLES,
    SCHEMA_VERSION,
    Plain,
    manifest_bytes,
    proved_by,
    sha256_of,
)
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.manifest import unsigned_name
from sgx_enclaves.report.as_json import verdict_dict
from sgx_enclaves.rpm.presence import version_of

if TYPE_CHECKING:
    from sgx_enclaves.catalogue.records import Catalogue, Release
    from sgx_enclaves.gate.collect import Combined
    from sgx_enclaves.gate.record import Record, RecordedEnclave
    from sgx_enclaves.gate.subjects import FileVerdict, Subject
    from sgx_enclaves.release.manifest import TreeRecord
    from sgx_enclaves.release.verify import Verified

# What is known of an enclave only where it was compared, and of a report only sometimes.
_NO_FACTS = ("policy", "sdk", "sdk_from", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
_LISTS = ("checks", "not_proved", "blocks", "byte_map", "findings")
_ALONE = ("reproducible", "release", "buildroot", "manifest_sha256")
_PARTS = ("not_proved", "unpinned", "sources", "toolchain", "steps", "packages", "findings")
_HEX_SHA256 = 64


def of_comparison(verdict: Verdict) -> Plain:
    """The report of one comparison of files."""
    name = verdict.policy.enclave or _base(verdict.signed.name).partition(".")[0]
    enclaves = [_compared(name, verdict_dict(verdict))]
    return _report("comparison", verdict.outcome.value, verdict.headline, enclaves, build="given")


def of_release(
    verified: Verified, release: Release, catalogue: Catalogue, /, **around: Any
) -> Plain:
    """The report of a release's verification.

    Args:
        verified: the verdict and what it is about.
        release: the release, cut down to what was asked for.
        catalogue: where the trees are described that it was built in.
        around: what the caller knows better or besides, such as the buildroot.
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
            "manifest_sha256": sha256_of(manifest_bytes(manifest)),
        }
    enclaves += around.pop("files", ())
    path = Path(release.file)
    digest = sha256_of(path.read_bytes()) if path.is_file() else None
    origin = "catalogue" if path.parent == OWN_FOLDER else f"file {path.name}"
    return _report(
        around.pop("kind", "release"),
        around.pop("verdict", verdict.outcome.value),
        verdict.claim,
        enclaves,
        **{
            "reproducible": verdict.reproducible,
            "not_proved": verdict.not_proved,
            "release": {"name": release.name, "sha256": digest, "origin": origin},
            "unpinned": verdict.unpinned,
            "build": "given" if "given" in kinds else "none" if kinds <= {"none"} else "here",
            "findings": [as_plain(f) for stage in verdict.stages for f in stage.findings],
            **parts,
            **around,
        },
    )


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


def of_build(combined: Combined, release: Plain, buildroot: Plain) -> Plain:
    """The report of a build system's verification of a build.

    Args:
        combined: what its tasks say.
        release: name, digest and origin of the release's description.
        buildroot: build tag, id of the repository, digests of packages and lock.
    """
    enclaves = []
    for answer in combined.answers:
        about, claim, config = answer.enclave, answer.claim, answer.config_sha256
        for subject in answer.subjects:
            enclaves.append(_judged(about, subject, claim, subject.sha256, config))
        if not answer.subjects:
            enclaves.append(_enclave(about, answer.verdict, claim))
    return _report(
        "koji",
        combined.verdict,
        combined.claim,
        enclaves,
        reproducible=combined.reproducible,
        release=release,
        build="here" if combined.toolchain_sha256 is not None else "none",
        buildroot=buildroot,
        packages=[
            named_package(package.name, package.digests.file if package.digests else None)
            for package in combined.packages
        ],
    )


def of_file(name: str, item: FileVerdict) -> Plain:
    """An enclave of a package that a build system compared."""
    subject = item.subject
    if item.comparison is None:
        return _judged(name, subject, subject.verdict, subject.sha256)
    known = {"package": subject.rpm, "path": subject.path, "version": subject.version}
    made = _compared(name, verdict_dict(item.comparison), **known)
    return {**made, "verdict": subject.verdict}


def of_record(record: Record) -> Plain:
    """The report that the record of a build stands for; less than what its task uploaded."""
    return _report(
        "koji",
        record.verdict,
        f"{record.nvr} against release {record.release}: {record.verdict}",
        [_judged(e.name, e, e.verdict, e.signed_sha256) for e in record.enclaves],
        reproducible=record.reproducible,
        release={
            "name": record.release,
            "sha256": record.release_sha256,
            "origin": record.origin,
        },
        build="here" if record.toolchain_sha256 is not None else "none",
        buildroot={
            "build_tag": record.build_tag,
            "repo_id": record.repo_id,
            "packages_sha256": record.buildroot_sha256,
            "lock_sha256": record.lock_sha256,
        },
        packages=[named_package(package.name, package.file_sha256) for package in record.rpms],
    )


def _judged(
    name: str,
    item: Union[Subject, RecordedEnclave],
    words: str,
    signed: Optional[str],
    config: Optional[str] = None,
) -> Plain:
    """One enclave as tasks and records of a build system have it."""
    made = _enclave(name, item.verdict, item.cause or words, package=item.rpm, path=item.path)
    for key in ("version", "mrenclave", "mrsigner", "isvprodid", "isvsvn"):
        made[key] = getattr(item, key)
    file = _base(str(item.path or getattr(item, "file", name)))
    names = (f"{name}.so", file, f"{name}.config.xml")
    for role, called, digest in zip(ROLES, names, (item.built_sha256, signed, config)):
        if digest is not None:
            made[role] = {"name": called, "size": None, "sha256": digest}
    return made


def named_package(name: str, digest: Optional[str]) -> Plain:
    """A package of which a build system knows the file's digest."""
    nothing = dict.fromkeys(("nevra", "verdict", "header_sha256", "payload_sha256"))
    return {**nothing, "file": name, "sha256": digest, "findings": []}


def _report(kind: str, verdict: str, claim: str, enclaves: Sequence[Plain], **known: Any) -> Plain:
    made: Plain = {**dict.fromkeys(_ALONE), "build": "none"}
    made |= {name: list(known.pop(name, ())) for name in _PARTS}
    made["not_proved"] += dict.fromkeys(
        line for e in enclaves for line in e["not_proved"] if line not in made["not_proved"]
    )
    made |= {"schema_version": SCHEMA_VERSION, "kind": kind, "verdict": verdict, "claim": claim}
    return {**made, "proved": proved_by(enclaves), "enclaves": list(enclaves), **known}


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
    return {"name": name, "size": len(data), "sha256": sha256_of(data)}


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]
