# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for programs: plain mappings and lists, as the schemas beside this module describe.

Field names are those of the records that are reported. Offsets and sizes are integers in
bytes, digests and excerpts lower-case hexadecimal. A report of a release or of a scan
has of each enclave what its verdict comes to.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING

from sgx_enclaves.enclave.elf import EnclaveImage
from sgx_enclaves.enclave.known import signer_named
from sgx_enclaves.enclave.metadata import DIRECTORY_NAMES, Block, Descriptor
from sgx_enclaves.enclave.sigstruct import Sigstruct
from sgx_enclaves.enclave.verdict import Finding, Origin, Verdict
from sgx_enclaves.plain import as_plain
from sgx_enclaves.release.outcome import EnclaveOutcome, ReleaseVerdict

if TYPE_CHECKING:
    from sgx_enclaves.explain.description import Description
    from sgx_enclaves.rpm.check import EnclaveResult, PackageResult
    from sgx_enclaves.rpm.scan import Survey

# Each changes whenever a reader of the old form could misread the new one.
SCHEMA_VERSION = 1
RELEASE_SCHEMA_VERSION = 1
PACKAGE_SCHEMA_VERSION = 1


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of what `verdict_dict` gives."""
    return _schema("verdict.schema.json")


def release_schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of what `release_dict` gives."""
    return _schema("release.schema.json")


def _schema(file: str) -> dict[str, object]:
    text = resources.files(__package__).joinpath(file).read_text("utf-8")
    loaded: dict[str, object] = json.loads(text)
    return loaded


def verdict_dict(verdict: Verdict) -> dict[str, object]:
    """The verdict in full."""
    return {
        "schema_version": SCHEMA_VERSION,
        "outcome": verdict.outcome.value,
        "exit_status": verdict.exit_status,
        "headline": verdict.headline,
        "bytes": {origin.value: verdict.bytes_of(origin) for origin in Origin},
        **as_plain(verdict),
    }


def finding_dict(finding: Finding) -> dict[str, object]:
    """One finding."""
    plain: dict[str, object] = as_plain(finding)
    return plain


def release_dict(verdict: ReleaseVerdict) -> dict[str, object]:
    """The verdict on a release."""
    return {
        "schema_version": RELEASE_SCHEMA_VERSION,
        "release": verdict.release,
        "title": verdict.title,
        "outcome": verdict.outcome.value,
        "exit_status": verdict.exit_status,
        "reproducible": verdict.reproducible,
        "claim": verdict.claim,
        "not_proved": list(verdict.not_proved),
        "unpinned": list(verdict.unpinned),
        "unpinned_allowed": verdict.unpinned_allowed,
        "builds": as_plain(verdict.builds),
        "stages": as_plain(verdict.stages),
        "enclaves": [_enclave(enclave) for enclave in verdict.enclaves],
        "notices": list(verdict.notices),
    }


def _enclave(enclave: EnclaveOutcome) -> dict[str, object]:
    verdict = enclave.verdict
    return {
        "name": enclave.name,
        "signed_file": enclave.signed_file,
        "required": enclave.required,
        "may_ship": enclave.may_ship,
        "reason": enclave.reason,
        "unpinned": list(enclave.unpinned),
        "outcome": enclave.bytes_outcome.value,
        "refused_by": enclave.refused_by or None,
        "refused_checks": list(enclave.refused_checks),
        "findings": as_plain(verdict.findings if verdict else enclave.findings),
        "built_sha256": verdict.built.sha256 if verdict else None,
        "signed_sha256": verdict.signed.sha256 if verdict else None,
        "config_sha256": verdict.config.sha256 if verdict else None,
        "mrenclave": verdict.mrenclave if verdict else None,
        "report": f"{enclave.name}/verdict.json" if verdict else None,
    }


def result_dict(result: PackageResult) -> dict[str, object]:
    """What was found out about a package; see `PackageResult`."""
    return {
        "schema_version": PACKAGE_SCHEMA_VERSION,
        "file": result.file,
        "package": result.nevra,
        "outcome": as_plain(result.outcome),
        "exit_status": result.exit_status,
        "findings": as_plain(result.findings),
        "enclaves": [_packaged_enclave(enclave) for enclave in result.enclaves],
    }


def _packaged_enclave(enclave: EnclaveResult) -> dict[str, object]:
    return {
        "path": enclave.path,
        "links": list(enclave.links),
        "name": enclave.name,
        "signed": enclave.signed,
        "size": enclave.size,
        "sha256": enclave.sha256,
        "reference": enclave.reference,
        "outcome": as_plain(enclave.outcome),
        "exit_status": enclave.exit_status,
        "findings": as_plain(enclave.findings),
        "verdict": None if enclave.verdict is None else verdict_dict(enclave.verdict),
    }


def survey_dict(survey: Survey) -> dict[str, object]:
    """What a scan rests on."""
    return {
        "scanned": len(survey.targets) + survey.passed,
        "by_repodata_alone": survey.passed,
        "listed_but_absent": survey.absent,
        "repodata_problems": [problem.as_dict() for problem in survey.problems],
    }


def show_dict(
    image: EnclaveImage, descriptor: Descriptor, description: Description
) -> dict[str, object]:
    """All that was read of an enclave; numbers are integers, bytes hexadecimal."""
    return {
        "file": image.name,
        "size": len(image.data),
        "interpreter": description.interpreter,
        "build_id": description.build_id,
        "comments": as_plain(description.comments),
        "producers": as_plain(description.producers),
        "features": as_plain(description.features),
        "sections": as_plain(description.sections),
        "symbols": len(description.symbols),
        "not_described": as_plain(description.problems),
        "segments": [s.as_dict() for s in image.load_segments],
        "tls_size": image.tls_size,
        "descriptor": {
            "offset": image.descriptor_offset,
            "size": image.descriptor_size,
            "note_type": image.note_type,
            "tail_is_zero": not any(descriptor.tail),
        },
        "blocks": [_block(block) for block in descriptor.blocks],
    }


def sigstruct_dict(sigstruct: Sigstruct) -> dict[str, object]:
    """All fields of a SIGSTRUCT, and what follows from them."""
    mrsigner = sigstruct.mrsigner.hex()
    return {
        **sigstruct.as_dict(),
        "mrsigner": mrsigner,
        "signer": signer_named(mrsigner),
        "debug": sigstruct.is_debug,
    }


def _block(block: Block) -> dict[str, object]:
    return {
        "offset": block.offset,
        "version": str(block.version),
        "header": block.header.as_dict(),
        "sigstruct": sigstruct_dict(block.sigstruct),
        "directories": {
            name: directory.as_dict() for name, directory in zip(DIRECTORY_NAMES, block.directories)
        },
        "patches": [p.as_dict() for p in block.patches],
        "layout": [{"name": block.layout_name(i), **i.as_dict()} for i in block.layout],
        "elrange": None if block.elrange is None else block.elrange.as_dict(),
        "extensions": [e.as_dict() for e in block.extensions],
    }
